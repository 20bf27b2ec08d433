"""The gradient checker passes right derivatives and catches planted mistakes."""

from types import SimpleNamespace

import numpy as np
import pytest

from pysft import IGNORE
from pysft.errors import DataError, MissingInput
from pysft.nn import gradcases, gradcheck, kernels, model, reference
from pysft.nn.gradcheck import CASES, TOLERANCE, numeric_gradient, relative_error, run
from pysft.nn.shapes import GPTConfig, parameter_shapes

FUNCTIONS = {k.__name__: getattr(reference, k.__name__) for k in kernels.KERNELS}


def cases(prefix):
    return {name: case for name, case in CASES.items() if name.split(",")[0] == prefix}


# -------------------------------------------------------------------------- right derivatives


@pytest.mark.parametrize("functions", [kernels.on_threads(2), reference], ids=["kernels", "numpy"])
def test_every_derivative_is_the_derivative_of_its_forward(functions):
    rows = run(functions)
    assert TOLERANCE == 1e-7
    for row in rows:
        assert row.passed and row.worst <= 1e-7, row
    assert {row.name for row in rows} == set(CASES)


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
