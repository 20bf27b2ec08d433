"""LoRA: what is frozen, what is trained, and that neither files nor threads change a bit of it."""

import dataclasses

import numpy as np
import pytest
from conftest import distance

from pysft import IGNORE
from pysft.batch import Batch, Example
from pysft.errors import DataError, Diverged, MissingInput, UsageError
from pysft.nn import gradcheck, kernels, reference, safetensors
from pysft.nn.grow import expand_vocab
from pysft.nn.lora import MATRICES, METADATA, LoRA, apply_adapter, save_adapter
from pysft.nn.model import GPT
from pysft.nn.optim import AdamW
from pysft.nn.shapes import GPTConfig
from pysft.run.checkpoints import load_checkpoint, save_checkpoint
from pysft.run.stage import weights_sha256
from pysft.training.loop import train_step
from pysft.training.objectives import Sft

OLD, NEW = 8, 3  # symbols of the base, and new symbols
CONFIG = GPTConfig(OLD, context=12, layers=2, heads=2, channels=16)
KERNELS = kernels.on_threads(2)
TIED = pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])


def base_of(config=CONFIG, functions=KERNELS, dtype=np.float32, seed=0):
    """A base far from its initialisation, where biases are zero."""
    base = GPT(config, functions, np.random.default_rng(seed), dtype)
    for _, w in base.params.items():
        w += 0.1 * np.random.default_rng([seed, 1]).standard_normal(w.shape)
    return base


def grown(base):
    return expand_vocab(base, base.config.vocab + NEW, rng=np.random.default_rng(5))


def lora_of(base=None, rank=2, matrices=MATRICES, seed=3, **more):
    base, generator = base_of() if base is None else base, np.random.default_rng(seed)
    old_vocab = base.config.vocab
    return LoRA(grown(base), rank, matrices, old_vocab=old_vocab, rng=generator, **more)


def batch_of(lengths=(5, 3, 8, 2), seed=0, vocab=OLD + NEW):
    g, made = np.random.default_rng(seed), []
    for n in lengths:
        labels = np.where(g.random(n) < 0.3, IGNORE, g.integers(0, vocab, n)).astype(np.int32)
        labels[-1] = vocab - 1
        made.append(Example(g.integers(0, vocab, n).astype(np.int32), labels))
    return Batch.of(made, vocab, 10**6)


def steps(lora, count=3, adam=None, lr=1e-2):
    """Train for `count` steps of one batch each. Returns the optimiser."""
    adam = adam or AdamW(lora, decay=0.1)
    for _ in range(count):
        train_step(lora, adam, [batch_of(seed=adam.steps)], Sft(), lr)
    return adam


def stirred(lora, seed=7):
    """Adapters and new rows as a training might leave them: B is no longer zero."""
    for _, w in lora.params.items():
        w += 0.3 * np.random.default_rng(seed).standard_normal(w.shape)
    return lora


def bits(model):
    return {name: w.tobytes() for name, w in model.params.items()}


def one_line(error) -> str:
    text = str(error.value)
    assert text and "\n" not in text
    return text


# ------------------------------------------------------------------------- the merged weights


@TIED
@pytest.mark.parametrize("functions", [KERNELS, reference], ids=["kernels", "numpy"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])
def test_at_the_start_it_is_the_model_that_it_was_given_bit_for_bit(functions, dtype, tied):
    base = base_of(dataclasses.replace(CONFIG, tied=tied), functions, dtype)
    before, nll = bits(grown(base)), grown(base).forward(batch_of())[0]
    lora = lora_of(base)
    assert lora.forward(batch_of())[0].tobytes() == nll.tobytes()
    assert bits(lora.model) == before and bits(lora.merge()) == before
    # If A were zero too, no gradient would ever be anything else.
    assert all(a.any() for name, a in lora.params.items() if name.endswith(".At"))


@pytest.mark.parametrize("alpha, scale", [(None, 2.0), (3.0, 1.0), (0.5, 1 / 6)])
def test_a_merged_matrix_is_the_frozen_one_and_alpha_over_rank_times_b_a(alpha, scale):
    lora = lora_of(base_of(dtype=np.float64), rank=3, alpha=alpha)
    frozen = {name: w.copy() for name, w in lora.model.params.items()}
    stirred(lora).merge()
    for i in range(CONFIG.layers):
        for m in MATRICES:
            B, A = lora.params[f"h{i}.{m}.B"], lora.params[f"h{i}.{m}.At"].T
            gained = lora.model.params[f"h{i}.{m}.w"] - frozen[f"h{i}.{m}.w"]
            assert distance(gained, scale * B @ A) <= 1e-13  # a few roundings of numbers below 10
            assert np.linalg.matrix_rank(gained, tol=1e-10) == 3


def test_a_starts_with_a_deviation_of_one_over_the_root_of_its_inputs():
    base = base_of(dataclasses.replace(CONFIG, channels=64, layers=1))
    lora = lora_of(base, rank=64)
    for m, inputs in (("qkv", 64), ("fcproj", 256)):
        At = lora.params[f"h0.{m}.At"]
        assert At.shape == (inputs, 64)
        assert At.std() == pytest.approx(inputs**-0.5, rel=0.05)  # of 4,096 draws or more
        assert not lora.params[f"h0.{m}.B"].any()


def test_weights_that_were_loaded_since_the_last_forward_are_merged_by_the_next():
    one, two = lora_of(), stirred(lora_of(seed=4))
    before = one.forward(batch_of())[0]
    one.params.flat[:] = two.params.flat
    after = one.forward(batch_of())[0]
    assert after.tobytes() == two.forward(batch_of())[0].tobytes() != before.tobytes()


def test_the_share_that_is_trained_is_counted_with_the_new_rows():
    """In the source text's model, which has "~1 %". qkv (192,64) is one matrix, with one A for
    queries, keys and values."""

    def lora(rank, matrices, old_vocab=65):
        model = GPT(GPTConfig(68, context=64, layers=4, heads=4, channels=64))
        assert model.params.size == 212_864
        return LoRA(model, rank, matrices, old_vocab=old_vocab, rng=None)

    attention, rows = 4 * ((192 + 64) + (64 + 64)), 2 * 3 * 64
    assert lora(1, ("qkv", "attproj")).trained == attention + rows == 1920
    assert lora(1, ("qkv", "attproj")).share == pytest.approx(0.0090, abs=5e-5)
    assert lora(4, ("qkv", "attproj")).trained == 4 * attention + rows == 6528
    assert lora(4, ("qkv", "attproj")).share == pytest.approx(0.0307, abs=5e-5)
    assert lora(1, MATRICES).trained == attention + 4 * 2 * (256 + 64) + rows
    assert lora(1, ("qkv", "attproj"), old_vocab=68).trained == attention


# ------------------------------------------------------------------------------ what is trained


@TIED
def test_chosen_matrices_and_new_rows_learn_and_every_other_weight_keeps_its_bits(tied):
    base = base_of(dataclasses.replace(CONFIG, tied=tied))
    lora = lora_of(base, matrices=("fcproj", "qkv"))
    before = {name: w.copy() for name, w in lora.model.params.items()}
    steps(lora)
    for name, w in lora.merge().params.items():
        if name.endswith(("qkv.w", "fcproj.w")):
            assert (w != before[name]).mean() > 0.9, name
        elif name in ("wte", "head"):
            assert w[:OLD].tobytes() == before[name][:OLD].tobytes() == base.params[name].tobytes()
            assert (w[OLD:] != before[name][OLD:]).all(), name
        else:
            assert w.tobytes() == before[name].tobytes(), name
    new = {name for name in lora.params if name.endswith(".new")}
    assert new == ({"wte.new"} if tied else {"wte.new", "head.new"})


def test_without_new_symbols_only_the_adapters_are_trained():
    lora = LoRA(base_of(), 1, ("fc",), old_vocab=OLD, rng=np.random.default_rng(0))
    assert list(lora.params) == ["h0.fc.At", "h0.fc.B", "h1.fc.At", "h1.fc.B"]
    report = train_step(lora, AdamW(lora), [batch_of(vocab=OLD)], Sft(), 1e-2)
    assert np.isfinite(report.loss) and lora.params["h1.fc.B"].all()


def test_training_lowers_the_loss():
    lora, losses = lora_of(rank=4), []
    adam = AdamW(lora)
    for _ in range(40):
        losses.append(train_step(lora, adam, [batch_of()], Sft(), 2e-2, limit=1.0).loss)
    assert losses[-1] < 0.4 * losses[0]


def test_every_gradient_is_the_finite_difference():
    """On the kernels; test_gradcheck.py has the reference, which is slower."""
    rows = gradcheck.run(KERNELS, cases={n: c for n, c in gradcheck.CASES.items() if "LoRA" in n})
    assert len(rows) == (2 + 2 * 8) + (1 + 8) + (2 + 8 + 2) + (1 + 8 + 2)  # the last two: a value
    assert not [row for row in rows if not row.passed]


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 1e-6)])
def test_micro_batches_give_the_same_update_however_they_are_split(dtype, tolerance):
    base, batch = base_of(dtype=dtype), batch_of()
    whole, split = stirred(lora_of(base)), stirred(lora_of(base))
    # An eps as large as the gradients. Without it, Adam would turn the last bit of a gradient into
    # a whole step.
    train_step(whole, AdamW(whole, eps=1e-2), [batch], Sft(), 1e-2)
    train_step(split, AdamW(split, eps=1e-2), batch.split(4), Sft(), 1e-2)
    assert distance(split.grads.flat, whole.grads.flat) <= tolerance
    assert distance(split.params.flat, whole.params.flat) <= tolerance


def test_all_that_is_trained_decays():
    lora, still = stirred(lora_of()), stirred(lora_of())
    AdamW(lora, decay=0.5).step(0.1)  # of a zero gradient
    assert lora.decaying() == len(lora.params.flat) and still.params.flat.all()
    assert distance(lora.params.flat, 0.95 * still.params.flat) <= 1e-6


def test_fifty_steps_on_1_to_8_threads_give_the_same_bits():
    found = set()
    for threads in (1, 2, 3, 4, 7, 8):
        config = GPTConfig(65, context=32, layers=1, heads=4, channels=64)
        base = base_of(config, kernels.on_threads(threads))
        lora = lora_of(base, rank=8)  # merging qkv is 98,304 products: enough for several threads
        adam = AdamW(lora)
        for i in range(50):
            train_step(lora, adam, [batch_of([32, 17, 30, 5], i, 68)], Sft(), 1e-2, limit=1.0)
        found.add((lora.params.flat.tobytes(), weights_sha256(lora.merge())))
    assert len(found) == 1


def test_a_released_model_goes_on_learning_as_if_it_had_not_been_released():
    kept, released = lora_of(), lora_of()
    for lora in (kept, released):
        lora.reserve(40)
        adam = steps(lora)
        if lora is released:
            lora.release()
        steps(lora, adam=adam)
    assert kept.params.flat.tobytes() == released.params.flat.tobytes()


# ----------------------------------------------------------------------------------- on disk


def test_a_checkpoint_goes_on_with_the_same_bits(tmp_path):
    whole = lora_of()
    steps(whole, 5)
    first = lora_of()
    save_checkpoint(tmp_path, first, steps(first, 2))
    resumed = lora_of(seed=99)  # everything that it starts with is replaced
    adam = AdamW(resumed, decay=0.1)
    assert load_checkpoint(tmp_path, resumed, adam) and adam.steps == 2
    steps(resumed, 3, adam)
    assert resumed.params.flat.tobytes() == whole.params.flat.tobytes()
    assert bits(resumed.merge()) == bits(whole.merge())


@TIED
@pytest.mark.parametrize("already", [False, True], ids=["base", "grown"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])
def test_the_base_and_the_adapters_file_make_the_trained_model_bit_for_bit(
    tmp_path, dtype, already, tied
):
    base = base_of(dataclasses.replace(CONFIG, tied=tied), dtype=dtype)
    lora = lora_of(base, rank=3, matrices=("fc", "qkv"), alpha=0.7)
    steps(lora)
    file = tmp_path / "adapter.safetensors"
    save_adapter(file, lora, {"stage": "sft"})
    given = expand_vocab(base, OLD + NEW, "mean") if already else base  # new rows are replaced
    before = bits(given)
    made = apply_adapter(file, given)
    assert made is not given and bits(given) == before and made.config == lora.config
    assert bits(made) == bits(lora.merge())
    tensors, metadata = safetensors.load(file)
    assert {n: a.tobytes() for n, a in tensors.items()} == bits(lora)
    assert metadata == {
        "stage": "sft",
        "rank": "3",
        "alpha": "0.7",
        "matrices": "qkv,fc",
        "old_vocab": str(OLD),
        "vocab": str(OLD + NEW),
        "base_sha256": weights_sha256(base),
        "outputs": "nll",
    }


def test_adapters_without_new_rows_have_a_file_too(tmp_path):
    lora = stirred(LoRA(base_of(), 2, old_vocab=OLD, rng=np.random.default_rng(1)))
    save_adapter(tmp_path / "a", lora)
    assert bits(apply_adapter(tmp_path / "a", base_of())) == bits(lora.merge())


def test_adapters_that_are_not_finite_are_never_written(tmp_path):
    lora = lora_of()
    lora.params["h1.fc.B"][0, 0] = np.nan
    with pytest.raises(Diverged) as caught:
        save_adapter(tmp_path / "a", lora)
    assert "not finite" in one_line(caught) and not list(tmp_path.iterdir())


def one_weight_off():
    base = base_of()
    base.params["lnf.b"][0] += 1e-3
    return base


OTHERS = {
    "seed": lambda: base_of(seed=1),
    "one weight": one_weight_off,
    "precision": lambda: base_of(dtype=np.float64),
    "channels": lambda: base_of(dataclasses.replace(CONFIG, channels=2)),
    "vocab": lambda: base_of(dataclasses.replace(CONFIG, vocab=OLD - 1)),
    "grown by less": lambda: expand_vocab(base_of(), OLD + 1, "mean"),
    "grown by more": lambda: expand_vocab(base_of(), OLD + NEW + 1, "mean"),
    "tuned already": lambda: stirred(lora_of()).merge(),
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_base_is_refused_in_one_sentence_and_not_changed(tmp_path, other):
    file = tmp_path / "adapter.safetensors"
    save_adapter(file, stirred(lora_of(rank=4)))
    model = OTHERS[other]()
    before = bits(model)
    with pytest.raises(DataError) as caught:
        apply_adapter(file, model)
    text = one_line(caught)
    assert str(file) in text and "name the base that they were trained on" in text
    assert bits(model) == before


DAMAGE = {
    "a tensor is missing": (lambda t, m: t.pop("h0.qkv.B"), ["'h0.qkv.B'", "missing"]),
    "the new rows are missing": (lambda t, m: t.pop("head.new"), ["'head.new'", "missing"]),
    "a foreign tensor": (lambda t, m: t.update(wpe=t["wte.new"]), ["'wpe'", "not among"]),
    "a shape": (
        lambda t, m: t.update({"h1.fc.At": t["h1.fc.At"].T.copy()}),
        ["'h1.fc.At'", "(2, 16)", "(16, 2)"],
    ),
    "a precision": (
        lambda t, m: t.update({"h1.fc.B": t["h1.fc.B"].astype(np.float64)}),
        ["'h1.fc.B'", "float64"],
    ),
    "not finite": (
        lambda t, m: t.update({"wte.new": t["wte.new"] * np.inf}),
        ["'wte.new'", "finite"],
    ),
    "another rank": (lambda t, m: m.update(rank="3"), ["'h0.qkv.At'", "expected float32 (16, 3)"]),
    "fewer matrices": (lambda t, m: m.update(matrices="qkv"), ["'h0.attproj.At'", "not among"]),
    "a rank too large": (lambda t, m: m.update(rank="17"), ["rank = 17", "16"]),
    "a rank in words": (lambda t, m: m.update(rank="two"), ["'two'"]),
    "alpha no number": (lambda t, m: m.update(alpha="nan"), ["alpha = nan"]),
    "an unknown matrix": (lambda t, m: m.update(matrices="qkv,key"), ["'key'"]),
    "no new vocabulary": (lambda t, m: m.update(vocab="0"), ["vocab = 0"]),
    "a huge vocabulary": (
        lambda t, m: m.update(vocab=str(10**15)),
        ["'wte.new'", str(10**15 - OLD)],
    ),
    "more old symbols than all": (lambda t, m: m.update(old_vocab="12"), ["old_vocab = 12", "11"]),
    "another base": (lambda t, m: m.update(base_sha256="\n"), ["other weights"]),
    **{
        f"no {name}": (lambda t, m, name=name: m.pop(name), [repr(name), "holds no adapters"])
        for name in METADATA
    },
}


@pytest.mark.parametrize("change", DAMAGE)
def test_a_damaged_file_of_adapters_is_one_sentence_that_names_it(tmp_path, change):
    file = tmp_path / "adapter.safetensors"
    save_adapter(file, stirred(lora_of()))
    tensors, metadata = safetensors.load(file)
    spoil, words = DAMAGE[change]
    spoil(tensors, metadata)
    safetensors.save(file, tensors, metadata)
    with pytest.raises(DataError) as caught:
        apply_adapter(file, base_of())
    assert all(word in one_line(caught) for word in [str(file), *words])


def test_a_file_that_is_missing_or_not_of_an_adapter_is_one_sentence(tmp_path):
    with pytest.raises(MissingInput) as caught:
        apply_adapter(tmp_path / "none", base_of())
    assert "none" in one_line(caught)
    file = tmp_path / "model.safetensors"
    safetensors.save(file, dict(base_of().params.items()), {"weights_sha256": "0"})
    with pytest.raises(DataError) as caught:
        apply_adapter(file, base_of())
    assert "model.safetensors: holds no adapters" in one_line(caught)


# ------------------------------------------------------------------------ impossible arguments


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(rank=0), ["rank = 0", "1 to 16"]),
        (dict(rank=17), ["rank = 17", "1 to 16"]),
        (dict(rank=1.0), ["rank = 1.0"]),
        (dict(rank=True), ["rank = True"]),
        (dict(rank=None), ["rank = None"]),
        (dict(matrices=("qkv", "mlp")), ["'mlp'", ", ".join(MATRICES)]),
        (dict(matrices=()), ["none", ", ".join(MATRICES)]),
        (dict(old_vocab=0), ["old_vocab = 0", "1 to 11"]),
        (dict(old_vocab=12), ["old_vocab = 12", "1 to 11"]),
        (dict(old_vocab=None), ["old_vocab = None"]),
        (dict(alpha=0), ["alpha = 0", "above 0"]),
        (dict(alpha=-1.0), ["alpha = -1.0"]),
        (dict(alpha=float("nan")), ["alpha = nan"]),
        (dict(alpha="4"), ["alpha = '4'"]),
    ],
    ids=str,
)
def test_an_impossible_argument_is_one_sentence(changes, words):
    arguments = dict(rank=2, old_vocab=OLD, rng=None) | changes
    with pytest.raises(UsageError) as caught:
        LoRA(grown(base_of()), **arguments)
    assert all(word in one_line(caught) for word in words)
