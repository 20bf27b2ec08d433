"""The gradient checker passes right derivatives and catches planted mistakes."""

import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from pysft import IGNORE
from pysft.errors import DataError, MissingInput
from pysft.nn import gradcases, gradcheck, kernels, model, reference
from pysft.nn.gradcheck import CASES, TOLERANCE, numeric_gradient, relative_error, run
from pysft.nn.lora import LoRA
from pysft.nn.shapes import GPTConfig, parameter_shapes

# One in EVERY of the whole models is checked in NumPy, which takes ten times as long as the kernels
# take. `make torture` checks all.
EVERY = int(os.environ.get("PYSFT_EVERY", 5))
FUNCTIONS = {k.__name__: getattr(reference, k.__name__) for k in kernels.KERNELS}


def cases(prefix):
    return {name: case for name, case in CASES.items() if name.split(",")[0] == prefix}


# -------------------------------------------------------------------------- right derivatives


def hold(functions, cases):
    """Each tensor of the cases passes."""
    rows = run(functions, cases=cases)
    assert TOLERANCE == 1e-7
    for row in rows:
        assert row.passed and row.worst <= 1e-7, row
    assert {row.name for row in rows} == set(cases)


SHARED = "matmul, on threads"  # the one case that is large enough for two threads


def test_every_derivative_of_a_kernel_is_the_derivative_of_its_forward():
    others = {*cases("GPT"), SHARED}
    hold(kernels.on_threads(2), {n: case for n, case in CASES.items() if n not in others})


def test_every_derivative_is_right_where_two_threads_share_the_work():
    hold(kernels.on_threads(2), {SHARED: CASES[SHARED]})


def test_every_derivative_of_a_whole_model_is_too():
    hold(kernels.on_threads(2), cases("GPT"))


def test_every_derivative_is_right_in_numpy_too():
    """The model's own code is the same on kernels and in NumPy."""
    models = list(cases("GPT"))
    left_out = set(models) - set(models[EVERY - 1 :: EVERY])
    hold(reference, {name: case for name, case in CASES.items() if name not in left_out})


def test_the_table_has_every_kernel_and_every_element_of_the_whole_model():
    kernels = {name.removesuffix("_forward") for name in FUNCTIONS if name.endswith("_forward")}
    assert {name.split(",")[0] for name in CASES} == kernels | {"GPT"}
    rows = run(reference, cases={"embedding": CASES["embedding"]})
    assert {(r.tensor, r.elements) for r in rows} == {("wte", 5 * 7), ("wpe", 5 * 7)}
    check, sizes = CASES["GPT"]
    found = check(reference, np.random.default_rng(0), **sizes)
    checked = {tensor: analytic.size for tensor, analytic, _, _ in found}
    shapes = parameter_shapes(GPTConfig(vocab=7, context=5, layers=2, heads=2, channels=8))
    assert checked == {name: int(np.prod(shape)) for name, shape in shapes.items()}


def calls_of(name, seed=0):
    """[(kernel, its arguments)] that a case of the table makes, and the tensors that it checks."""
    calls = []

    def recorded(kernel):
        def call(*arguments):
            calls.append((kernel, arguments))
            return FUNCTIONS[kernel](*arguments)

        return call

    check, sizes = CASES[name]
    ops = SimpleNamespace(**{kernel: recorded(kernel) for kernel in FUNCTIONS})
    tensors = [tensor for tensor, *_ in check(ops, np.random.default_rng(seed), **sizes)]
    return calls, tensors


@pytest.mark.parametrize("name", cases("GPT"))
def test_each_case_of_a_whole_model_has_the_rows_and_outputs_that_its_name_says(name, monkeypatch):
    """A gradient is tested only where rows of each kind are: graded ones, ones that are not, and,
    with a value head, ones of which the value alone is read."""
    forward, seen = model.GPT.forward, []

    def recorded(gpt, batch):
        seen.append((gpt, batch))
        return forward(gpt, batch)

    monkeypatch.setattr(model.GPT, "forward", recorded)
    _, tensors = calls_of(name)
    [(gpt, batch)] = seen
    said = name.split(", ")
    has_value = "value head" in said or "value alone" in said
    graded = batch.labels != IGNORE
    assert graded.sum() >= 2 and graded.all() == ("every row graded" in said)
    assert (batch.wanted & ~graded).any() == has_value
    assert batch.wanted.all() == ("every row graded" in said)
    assert gpt.config.has_nll == ("value alone" not in said)
    assert gpt.config.has_value == has_value == ("value.b" in tensors)
    assert gpt.config.tied == ("tied" in name)
    assert ("head" in gpt.params) == (gpt.config.has_nll and not gpt.config.tied)
    assert any(tensor.endswith(".At") for tensor in tensors) == ("LoRA" in said)
    assert "tied" in name or len(batch.lengths) > 1


def test_each_case_of_a_kernel_has_the_inputs_that_its_name_says():
    def last(name, seed=0):
        calls, tensors = calls_of(name, seed)
        return calls[-1][1], tensors

    for name in ("matmul, one row", "attention, one token", "layernorm, one row"):
        assert len(last(name)[0][0]) == 1
    for name in ("gelu, one element", "cross_entropy, one row"):
        assert len(last(name)[0][0]) == 1
    assert len(last("embedding, one token")[0][2]) == 1
    assert last("attention, lengths 1 5 2")[0][5].tolist() == [0, 1, 6, 8]
    (_, _, db, *_), tensors = last("matmul, no bias")
    assert db is None and "b" not in tensors and "b" in last("matmul")[1]
    assert "residual" in last("matmul, residual")[1]
    (_, _, x, slope), _ = last("gelu, saved slope")
    assert x is None and slope.shape == (4, 9)
    # Inputs that are large enough for a form that overflows, or that loses digits, to show it.
    large = {
        "attention, large scores": (2, 8),
        "layernorm, large rows": (4, 100),
        "gelu, large inputs": (2, 8),
        "cross_entropy, large logits": (2, 60),
    }
    for name, (place, least) in large.items():
        plain = name.split(",")[0]
        assert np.abs(last(name)[0][place]).max() > least > np.abs(last(plain)[0][place]).max()
    for name in cases("cross_entropy"):
        is_one_kind = name.endswith(("one row", "all -100"))
        for seed in range(5):
            masked = last(name, seed)[0][4] == IGNORE
            assert len({*masked}) == (1 if is_one_kind else 2), (name, seed)
            assert masked.all() == name.endswith("all -100")


# {case: the shapes of the tensors that it checks}, from one element to more than a tile, and seldom
# a multiple of a vector, so that a remainder that was forgotten shows.
SHAPES = {
    "matmul": {"x": (7, 9), "w": (5, 9), "b": (5,)},
    "matmul, one row": {"x": (1, 5), "w": (3, 5), "b": (3,)},
    "matmul, beyond a tile": {"x": (15, 37), "w": (35, 37), "b": (35,)},
    "matmul, on threads": {"x": (14, 70), "w": (67, 70), "b": (67,)},
    "matmul, residual": {"x": (5, 4), "w": (6, 4), "b": (6,), "residual": (5, 6)},
    "matmul, no bias": {"x": (6, 7), "w": (9, 7)},
    "attention": {"qkv": (7, 30)},
    "attention, one token": {"qkv": (1, 9)},
    "attention, lengths 1 5 2": {"qkv": (8, 18)},
    "attention, beyond a block": {"qkv": (35, 27)},
    "attention, large scores": {"qkv": (6, 12)},
    "layernorm": {"x": (5, 11), "w": (11,), "b": (11,)},
    "layernorm, one row": {"x": (1, 3), "w": (3,), "b": (3,)},
    "layernorm, wide": {"x": (3, 40), "w": (40,), "b": (40,)},
    "layernorm, large rows": {"x": (4, 6), "w": (6,), "b": (6,)},
    "gelu": {"x": (5, 7)},
    "gelu, one element": {"x": (1,)},
    "gelu, large inputs": {"x": (3, 19)},
    "gelu, saved slope": {"x": (4, 9)},
    "embedding": {"wte": (5, 7), "wpe": (5, 7)},
    "embedding, one token": {"wte": (3, 3), "wpe": (2, 3)},
    "cross_entropy": {"logits": (6, 9)},
    "cross_entropy, one row": {"logits": (1, 3)},
    "cross_entropy, wide": {"logits": (3, 68)},
    "cross_entropy, all -100": {"logits": (4, 5)},
    "cross_entropy, large logits": {"logits": (4, 6)},
}
HEADS = {"attention": 2, "attention, lengths 1 5 2": 3}  # of the others: 1
# {case: (lengths, channels, blocks)}, with 7 symbols and 2 heads
MODELS = {
    "GPT": ([5, 1, 3], 8, 2),
    "GPT, every row graded": ([4, 3], 8, 2),
    "GPT, tied head": ([4], 8, 1),
    "GPT, LoRA": ([4, 1, 2], 6, 2),
    "GPT, LoRA, tied head": ([4], 8, 1),
    "GPT, value head": ([5, 1, 3], 6, 2),
    "GPT, value head, tied head": ([4, 2], 6, 1),
    "GPT, value alone": ([4, 1, 2], 6, 1),
    "GPT, value alone, tied": ([3, 2], 6, 1),
    "GPT, LoRA, value head": ([4, 2], 8, 1),
    "GPT, LoRA, value alone": ([3, 2], 8, 1),
}


def test_every_case_has_its_sizes_in_a_table_here():
    assert {**SHAPES, **MODELS}.keys() == CASES.keys()


@pytest.mark.parametrize("name", SHAPES)
def test_a_case_of_a_kernel_has_these_sizes_and_inputs_of_this_scale(name):
    check, sizes = CASES[name]
    found = list(check(reference, np.random.default_rng(3), **sizes))
    shapes = {tensor: x.shape for tensor, _, x, _ in found if x is not None}
    assert shapes == SHAPES[name] == {t: g.shape for t, g, x, _ in found if x is not None}
    # The first tensor is drawn first.
    scale = {"large scores": 4, "large inputs": 4, "large rows": 50, "large logits": 30}
    first = scale.get(name.partition(", ")[2], 1) * np.random.default_rng(3).standard_normal(
        found[0][2].shape
    )
    is_layernorm = name.startswith("layernorm")  # the mean of its rows is not 0
    if not name.startswith("embedding"):
        assert np.array_equal(found[0][2], first + 3 * is_layernorm)
    if name.startswith("attention"):
        assert calls_of(name)[0][-1][1][4].shape[1] == HEADS.get(name, 1)


def test_the_last_symbol_is_a_label_and_its_row_stands_after_one_that_is_not_graded():
    for name in cases("cross_entropy"):
        _, (_, _, logits, _, labels) = calls_of(name)[0][-1]
        if len(labels) > 1 and not (labels == IGNORE).all():
            assert labels[:2].tolist() == [IGNORE, logits.shape[1] - 1]


@pytest.mark.parametrize("name", MODELS)
def test_a_case_of_a_whole_model_has_these_sizes_and_weights_far_from_the_first(name, monkeypatch):
    seen, adapters = [], []
    forward, lora_forward = model.GPT.forward, LoRA.forward
    monkeypatch.setattr(
        model.GPT, "forward", lambda gpt, batch: seen.append((gpt, batch)) or forward(gpt, batch)
    )
    monkeypatch.setattr(
        LoRA, "forward", lambda lora, batch: adapters.append(lora) or lora_forward(lora, batch)
    )
    calls_of(name)
    [(gpt, batch)], (lengths, channels, blocks) = seen, MODELS[name]
    outputs = "nll+value" if "value head" in name else "value" if "value alone" in name else "nll"
    config = GPTConfig(7, max(lengths), blocks, 2, channels, "tied" in name, outputs)
    assert gpt.config == config and batch.lengths.tolist() == lengths
    # Of biases, which are 0 at first: a third of the size of what a layer norm makes.
    biases = np.concatenate([w for n, w in gpt.params.items() if n.endswith(".b")])
    assert 0.2 < np.sqrt(np.mean(biases**2)) < 0.4
    assert len(adapters) == ("LoRA" in name)
    for lora in adapters:
        assert (lora.rank, lora.scale, lora.old_vocab) == (2, 1.5, 5)
        zero_at_first = np.concatenate([w.ravel() for n, w in lora.params.items() if ".B" in n])
        assert 0.2 < np.sqrt(np.mean(zero_at_first**2)) < 0.4


def test_a_random_batch_has_the_shares_that_it_is_asked_for():
    rng, lengths = np.random.default_rng(0), [700] * 6
    batch = gradcases.random_batch(rng, lengths, graded=0.3, wanted=0.2)
    assert batch.graded.mean() == pytest.approx(0.3, abs=0.03) and batch.graded[-1]
    assert batch.wanted[~batch.graded].mean() == pytest.approx(0.2, abs=0.03)
    assert set(batch.tokens) == set(batch.labels[batch.graded]) == set(range(7))
    assert set(batch.weight) == {1.0} and batch.group.tolist() == list(range(6))
    usual = gradcases.random_batch(rng, lengths, 4)
    assert usual.graded.mean() == pytest.approx(0.7, abs=0.03) and set(usual.tokens) == {0, 1, 2, 3}
    assert np.array_equal(usual.wanted, usual.graded)
    # With no label drawn, the last row still has one, that of a symbol that every vocabulary has.
    assert gradcases.random_batch(rng, [3], 2, graded=0).labels.tolist() == [IGNORE, IGNORE, 1]


def test_five_point_differences_are_exact_for_a_polynomial_of_degree_four_and_put_x_back():
    x = np.array([0.3, -2.0, 1e-3])
    before = x.copy()
    gradient = numeric_gradient(lambda: float((x**4).sum()), x)
    # 1e-11: the loss is 16, and its rounding is divided by h = 1e-3.
    np.testing.assert_allclose(gradient, 4 * x**3, rtol=0, atol=1e-11)
    assert np.array_equal(x, before)


def test_the_error_is_relative_to_the_larger_of_the_two_and_infinite_for_nan():
    assert relative_error(np.array([2.0, 1.0]), np.array([4.0, 1.0])) == 0.5
    assert relative_error(np.array([1e-9]), np.array([0.0])) == 1e-3  # below 1e-6 the scale is 1e-6
    assert relative_error(np.array([np.nan, 1]), np.array([0.0, 1])) == float("inf")
    assert relative_error(np.array([1.0]), np.array([np.inf])) == float("inf")


# -------------------------------------------------------------------------- planted mistakes


def negated(dx, dy, x):
    reference.gelu_backward(dx, dy, x)
    dx *= -1


def without_the_factor_three(dx, dy, x):
    u = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    t = np.tanh(u)
    dx[:] = dy * (0.5 * (1 + t) + 0.5 * x * (1 - t**2) * np.sqrt(2 / np.pi) * (1 + 0.044715 * x**2))


def forgetting_db(dx, dw, db, dy, x, w):
    reference.matmul_backward(dx, dw, None, dy, x, w)


def writing_dw(dx, dw, db, dy, x, w):
    reference.matmul_backward(dx, None, db, dy, x, w)
    if dw is not None:
        dw[:] = dy.T @ x


def adding_dx(dx, dw, db, dy, x, w):
    reference.matmul_backward(None, dw, db, dy, x, w)
    if dx is not None:
        dx += dy @ w


def transposing_dw(dx, dw, db, dy, x, w):
    reference.matmul_backward(dx, None, db, dy, x, w)
    if dw is not None:
        dw += (x.T @ dy).reshape(dw.shape)


def off_in_one_element(dx, dw, db, dy, x, w):
    reference.matmul_backward(dx, dw, db, dy, x, w)
    if dx is not None:
        dx.flat[np.abs(dx).argmax()] *= 1 + 1e-5


def without_scale(dqkv, dy, qkv, y, lse, cu_seqlens):
    reference.attention_backward(dqkv, dy, qkv, y, lse, cu_seqlens)
    C, H = y.shape[1], lse.shape[1]
    dqkv[:, :C] *= np.sqrt(C // H)


def without_delta(dqkv, dy, qkv, y, lse, cu_seqlens):
    reference.attention_backward(dqkv, dy, qkv, 0 * y, lse, cu_seqlens)


def across_sequences(dqkv, dy, qkv, y, lse, cu_seqlens):
    reference.attention_backward(dqkv, dy, qkv, y, lse, cu_seqlens[[0, -1]])


def without_mean_of_g(dx, dw, db, dy, x, w, mean, rstd):
    reference.layernorm_backward(None, dw, db, dy, x, w, mean, rstd)
    norm, g = (x - mean[:, None]) * rstd[:, None], dy * w
    if dx is not None:
        dx += rstd[:, None] * (g - norm * (g * norm).mean(axis=1, keepdims=True))


def without_mean_of_g_norm(dx, dw, db, dy, x, w, mean, rstd):
    reference.layernorm_backward(None, dw, db, dy, x, w, mean, rstd)
    g = dy * w
    if dx is not None:
        dx += rstd[:, None] * (g - g.mean(axis=1, keepdims=True))


def writing_dx(dx, dw, db, dy, x, w, mean, rstd):
    if dx is not None:
        dx[:] = 0
    reference.layernorm_backward(dx, dw, db, dy, x, w, mean, rstd)


def ignoring_positions(dwte, dwpe, dy, tokens, cu_seqlens):
    np.add.at(dwte, tokens, dy)
    np.add.at(dwpe, np.arange(len(dy)) % len(dwpe), dy)


def counting_a_token_once(dwte, dwpe, dy, tokens, cu_seqlens):
    reference.embedding_backward(np.zeros_like(dwte), dwpe, dy, tokens, cu_seqlens)
    dwte[tokens] += dy


def not_zeroed_where_masked(dlogits, dnll, logits, lse, labels):
    unmasked = np.where(labels == -100, 0, labels)
    nll, full = np.empty_like(dnll), np.empty_like(dnll)
    reference.cross_entropy_forward(nll, full, logits, unmasked)
    reference.cross_entropy_backward(dlogits, dnll, logits, full, unmasked)


def a_trace_where_masked(dlogits, dnll, logits, lse, labels):
    reference.cross_entropy_backward(dlogits, dnll, logits, lse, labels)
    dlogits[labels == -100] = 1e-12


def without_onehot(dlogits, dnll, logits, lse, labels):
    dlogits[:] = np.where(labels[:, None] != -100, dnll[:, None] * np.exp(logits - lse[:, None]), 0)


def unwritten(dlogits, dnll, logits, lse, labels):
    reference.cross_entropy_backward(dlogits, dnll, logits, lse, labels)
    dlogits[0, 0] = np.nan


PLANTED = {
    "gelu": [negated, without_the_factor_three],
    "matmul": [forgetting_db, writing_dw, adding_dx, transposing_dw, off_in_one_element],
    "attention": [without_scale, without_delta, across_sequences],
    "layernorm": [without_mean_of_g, without_mean_of_g_norm, writing_dx],
    "embedding": [ignoring_positions, counting_a_token_once],
    "cross_entropy": [not_zeroed_where_masked, a_trace_where_masked, without_onehot, unwritten],
}


@pytest.mark.parametrize(
    "kernel, wrong",
    [(k, f) for k, many in PLANTED.items() for f in many],
    ids=lambda x: getattr(x, "__name__", x),
)
def test_a_planted_wrong_derivative_is_caught(kernel, wrong):
    name = f"{kernel}_backward"
    functions = {**FUNCTIONS, name: gradcheck.plain_form(wrong, name)}
    rows = run(SimpleNamespace(**functions), cases=cases(kernel))
    failed = [row for row in rows if not row.passed]
    assert failed and all(row.worst > TOLERANCE for row in failed)


def test_the_right_tensor_is_named_and_the_others_pass():
    functions = {**FUNCTIONS, "matmul_backward": forgetting_db}
    rows = run(SimpleNamespace(**functions), cases=cases("matmul"))
    assert {row.tensor for row in rows if not row.passed} == {"b"}


def test_a_wrong_line_of_the_models_own_backward_is_caught(monkeypatch):
    right = model.attend_backward

    def slightly_wrong(functions, p, d, a, dx, *rest):
        right(functions, p, d, a, dx, *rest)
        dx *= 1 + 1e-5

    monkeypatch.setattr(model, "attend_backward", slightly_wrong)
    small = dict(lengths=[3], graded=1, L=1, V=3, C=2, H=1)
    rows = run(reference, cases={"GPT": (gradcases.check_model, small)})
    failed = {row.tensor for row in rows if not row.passed}
    assert failed == {"wte", "wpe"}  # the parameters before the block


# ----------------------------------------------------------------------------- a reader's own file

RIGHT = """
import numpy as np

def layernorm_backward(dx, dw, db, dy, x, w, mean, rstd):
    norm = (x - mean[:, None]) * rstd[:, None]
    C = x.shape[1]
    for n in range(len(x)):
        jacobian = rstd[n] * (np.eye(C) - 1 / C - np.outer(norm[n], norm[n]) / C)
        dx[n] += jacobian @ (dy[n] * w)
    dw += np.einsum("nc,nc->c", dy, norm)
    db += dy.sum(axis=0)
"""


def test_a_readers_layernorm_backward_is_checked_with_the_reference_for_the_rest(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(RIGHT)
    mine = gradcheck.load_ops(file)
    assert mine.own == ["layernorm_backward"]
    others = {name: f for name, f in FUNCTIONS.items() if name != "layernorm_backward"}
    assert all(getattr(mine, name) is f for name, f in others.items())
    assert all(row.passed for row in run(mine, cases=cases("layernorm") | cases("gelu")))


@pytest.mark.parametrize(
    "body, at", [("\n    return undefined", ", line 2"), (" return 1", "")], ids=["inside", "call"]
)
def test_an_exception_in_a_readers_function_names_its_file_function_and_line(tmp_path, body, at):
    """If the call itself fails, because of its arguments, no line of the file was reached."""
    file = tmp_path / "mine.py"
    arguments = "*a" if at else ""
    file.write_text(f"def layernorm_backward({arguments}):{body}\n")
    kind = "NameError" if at else "TypeError"
    with pytest.raises(DataError) as found:
        run(gradcheck.load_ops(file), cases=cases("layernorm"))
    assert str(found.value).startswith(f"{file}: layernorm_backward raised {kind}{at}: ")


WRONG_FORWARD = """import numpy as np

def layernorm_forward(y, mean, rstd, x, w, b, eps=1e-5):
    mean[:] = x.mean(axis=1)
    rstd[:] = 1 / np.sqrt(x.var(axis=1) + 0.1)
    y[:] = (x - mean[:, None]) * rstd[:, None] * w + b
"""


@pytest.mark.parametrize("more", ["", RIGHT], ids=["alone", "with a backward that fits it"])
def test_a_readers_forward_is_compared_with_the_reference_before_its_derivative(tmp_path, more):
    """The backward of a layer norm is right for any eps, so differences pass a wrong one."""
    file = tmp_path / "mine.py"
    file.write_text(WRONG_FORWARD + more)
    mine = gradcheck.load_ops(file)
    rows = run(mine, cases=cases("layernorm") | cases("gelu"))
    failed = [row for row in rows if not row.passed]
    assert {row.tensor for row in failed} == {"y (forward)", "rstd (forward)"}
    assert rows[0].tensor == "y (forward)" and rows[0].name == "layernorm"
    assert {row.name for row in failed} >= {"layernorm", "layernorm, one row", "layernorm, wide"}
    file.write_text((WRONG_FORWARD + more).replace("+ 0.1", "+ eps"))
    rows = run(gradcheck.load_ops(file), cases=cases("layernorm"))
    assert all(row.passed for row in rows) and len(rows) == 2 * 3 * len(cases("layernorm"))


def test_a_readers_file_runs_as_it_stands_and_leaves_no_bytecode(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "pycache_prefix", None)
    file, text = tmp_path / "mine.py", "def gelu_forward(y, x):\n    y[:] = {}\n"
    for number in (1, 2):
        file.write_text(text.format(number))
        os.utime(file, (1e9, 1e9))  # as long, and of the same second
        y = np.zeros(2)
        gradcheck.load_ops(file).gelu_forward(y, np.ones(2))
        assert (y == number).all()
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]


def test_every_kernels_forward_is_compared(tmp_path):
    names = ["matmul", "attention", "layernorm", "gelu", "embedding", "cross_entropy"]
    file = tmp_path / "mine.py"
    lines = [f"def {name}_forward(y, *more):\n    y[:] = 1.0\n" for name in names]
    file.write_text("".join(lines))
    few = {name: case for name, case in CASES.items() if name in names}
    rows = [r for r in run(gradcheck.load_ops(file), cases=few) if "(forward)" in r.tensor]
    assert {r.name for r in rows if not r.passed} == set(names)
    # An output that was not written is an infinite error.
    assert {r.tensor for r in rows if r.worst == np.inf} == {"lse (forward)", "mean (forward)",
                                                             "rstd (forward)"}  # fmt: skip


def test_a_function_that_is_not_written_yet_is_taken_from_the_reference(tmp_path):
    file = tmp_path / "mine.py"
    empty = "def gelu_backward(dx, dy, x):\n    'Write dx.'\n    raise NotImplementedError\n"
    file.write_text(RIGHT + empty)
    mine = gradcheck.load_ops(file)
    assert (mine.own, mine.not_written) == (["layernorm_backward"], ["gelu_backward"])
    assert all(row.passed for row in run(mine, cases=cases("gelu")))
    file.write_text(empty)
    with pytest.raises(DataError, match="gelu_backward is not written yet"):
        gradcheck.load_ops(file)


def test_a_function_that_no_case_uses_is_not_said_to_be_checked(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def adamw(*a):\n    pass\n")
    with pytest.raises(DataError, match="defines none of"):
        gradcheck.load_ops(file)
    file.write_text("def adamw(*a):\n    pass\n" + RIGHT)
    assert gradcheck.load_ops(file).own == ["layernorm_backward"]


def test_a_readers_mistake_fails_in_its_own_rows_alone(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(RIGHT.replace("- np.outer(norm[n], norm[n]) / C", ""))
    rows = run(gradcheck.load_ops(file), cases=cases("layernorm") | cases("gelu"))
    failed = {(row.name.split(",")[0], row.tensor) for row in rows if not row.passed}
    assert failed == {("layernorm", "x")}


@pytest.mark.parametrize(
    "name, text, error, words",
    [
        ("mine.py", None, MissingInput, ["no such file"]),
        (
            "mine.py",
            "def layer_norm_backward(): pass",
            DataError,
            ["defines none of", "layernorm_backward"],
        ),
        ("mine.py", "def layernorm_backward(:", DataError, ["SyntaxError"]),
        ("mine.py", "import numpyy", DataError, ["ModuleNotFoundError", "numpyy"]),
        ("mine.py", "raise SystemExit(0)", DataError, ["SystemExit"]),
        ("mine.txt", RIGHT, DataError, [".py"]),
        ("folder", "/", MissingInput, []),
    ],
    ids=["missing", "no known name", "syntax", "import", "exit", "suffix", "folder"],
)
def test_a_readers_file_that_cannot_be_used_is_one_sentence_with_its_path(
    tmp_path, name, text, error, words
):
    file = tmp_path / name
    file.mkdir() if text == "/" else text is not None and file.write_text(text)
    with pytest.raises(error) as caught:
        gradcheck.load_ops(file)
    assert all(word in str(caught.value) for word in [str(file), *words])
