"""The whole model: what its forward and backward promise, whatever they compute with."""

import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import distance, python

from pysft import IGNORE
from pysft.batch import Batch, Example
from pysft.errors import GateError, UsageError
from pysft.nn import calls, kernels, reference
from pysft.nn import model as model_module
from pysft.nn.grow import expand_vocab
from pysft.nn.model import GPT
from pysft.nn.optim import AdamW
from pysft.nn.shapes import GPTConfig, activation_shapes, parameter_shapes, sizes
from pysft.rng import rng
from pysft.text.corpora import read_corpus, shipped, split_corpus
from pysft.text.examples import encode_conversation
from pysft.text.formats import read_conversations
from pysft.text.templates import CHAT
from pysft.text.tokenizer import CharTokenizer
from pysft.training.presets import PRESETS
from pysft.training.runner import steps_of
from pysft.training.stages import finetune, pretrain

BOTH = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])
SMALL = GPTConfig(vocab=11, context=24, layers=2, heads=2, channels=12)
KERNELS = kernels.on_threads(2)


def examples(lengths, vocab=11, graded=0.6, seed=0):
    g = np.random.default_rng(seed)
    found = []
    for n in lengths:
        labels = np.where(g.random(n) < graded, g.integers(0, vocab, n), IGNORE).astype(np.int32)
        labels[-1] = 1
        found.append(Example(g.integers(0, vocab, n).astype(np.int32), labels))
    return found


def batch(lengths, vocab=11, graded=0.6, seed=0):
    return Batch.of(examples(lengths, vocab, graded, seed), vocab, 10**6)


def lively(config=SMALL, functions=KERNELS, dtype=np.float32, seed=0):
    """A model far from its initialisation, where gradients nearly vanish and biases are zero."""
    model = GPT(config, functions, np.random.default_rng(seed), dtype)
    g = np.random.default_rng([seed, 1])
    for _, w in model.params.items():
        w += 0.3 * g.standard_normal(w.shape)
    return model


def forward(model, b):
    return model.forward(b)[0].copy()


def gradients(model, b, dnll=None):
    """The gradients of sum(dnll * nll), with random dnll unless given: a new dict."""
    nll = model.forward(b)[0]
    if dnll is None:
        dnll = np.random.default_rng(9).standard_normal(len(nll)).astype(model.dtype)
    model.grads.clear()
    model.backward(dnll)
    return {name: g.copy() for name, g in model.grads.items()}


# -------------------------------------------------------------------------- what it computes


@BOTH
@pytest.mark.parametrize("tied", [False, True])
def test_kernels_and_reference_give_the_same_model(dtype, tied):
    config = dataclasses.replace(SMALL, tied=tied, context=40)
    b = batch([7, 1, 24, 13])
    models = [lively(config, functions, dtype) for functions in (KERNELS, reference)]
    tolerance = 256 * np.finfo(dtype).eps  # two blocks deep, each some dozens of roundings
    assert distance(*(forward(m, b) for m in models)) <= tolerance
    ours, theirs = (gradients(m, b) for m in models)
    for name in ours:
        assert distance(ours[name], theirs[name]) <= tolerance, name


def test_the_number_of_weights_is_gpt2s():
    def count(config):
        return sum(int(np.prod(shape)) for shape in parameter_shapes(config).values())

    gpt2_small = GPTConfig(50257, 1024, 12, 12, 768, tied=True)
    assert count(gpt2_small) == 124_439_808  # as published
    V, T, L, C = 65, 64, 4, 64  # the source text's model, with a head of its own
    formula = 2 * V * C + T * C + L * (12 * C * C + 13 * C) + 2 * C
    assert count(GPTConfig(V, T, L, 4, C)) == formula == 212_480


def test_the_initialisation_is_gpt2s():
    config = GPTConfig(vocab=65, context=64, layers=8, heads=4, channels=64)
    params = GPT(config, KERNELS, np.random.default_rng(3)).params
    for name, w in params.items():
        if name.endswith(".b"):
            assert (w == 0).all(), name
        elif w.ndim == 1:
            assert (w == 1).all(), name
        else:
            std = 0.02 / 4 if "proj" in name else 0.02  # sqrt(2 * 8 layers) = 4
            assert abs(w.std() / std - 1) < 5 / np.sqrt(2 * w.size), name  # five standard errors
            assert abs(w.mean()) < 5 * std / np.sqrt(w.size), name
            within = (np.abs(w) < std).mean()  # of one deviation: 0.683 if normal
            assert 3 < np.abs(w).max() / std < 6 and np.abs(within - 0.683) < 0.05, name


def test_the_same_generator_gives_the_same_weights_and_none_gives_zeros():
    one, two, other = (
        GPT(SMALL, KERNELS, np.random.default_rng(seed)).params.flat for seed in (1, 1, 2)
    )
    assert np.array_equal(one, two) and not np.array_equal(one, other)
    assert (GPT(SMALL, KERNELS).params.flat == 0).all()


def test_a_model_at_its_initialisation_is_about_as_good_as_guessing():
    config = GPTConfig(vocab=65, context=64)
    model = GPT(config, KERNELS, np.random.default_rng(0))
    nll = forward(model, batch([64, 64], vocab=65, graded=1))
    assert abs(nll.mean() - np.log(65)) < 0.05


@BOTH
def test_a_tied_head_is_the_embedding_and_its_gradient_is_the_sum_of_both_uses(dtype):
    b, untied = batch([9, 5]), lively(dtype=dtype)
    untied.params["head"][...] = untied.params["wte"]
    tied = GPT(dataclasses.replace(SMALL, tied=True), KERNELS, dtype=dtype)
    assert "head" not in tied.params
    for name in tied.params:
        tied.params[name][...] = untied.params[name]
    assert np.array_equal(forward(tied, b), forward(untied, b))
    one, two = gradients(tied, b), gradients(untied, b)
    tolerance = 32 * np.finfo(dtype).eps  # the order of the sum differs
    assert distance(one["wte"], two["wte"] + two["head"]) <= tolerance


@BOTH
def test_gradients_of_two_batches_add_up(dtype):
    model, first, second = lively(dtype=dtype), batch([9, 5], seed=1), batch([3, 12], seed=2)
    apart = [gradients(model, b) for b in (first, second)]
    together = gradients(model, first)
    nll = model.forward(second)[0]  # a forward leaves the gradients alone
    assert all(np.array_equal(model.grads[name], g) for name, g in together.items())
    model.backward(np.random.default_rng(9).standard_normal(len(nll)).astype(dtype))
    for name, g in model.grads.items():
        # A sum in another order. The key's bias in qkv.b is rounding, small beside the rest.
        assert distance(g, apart[0][name] + apart[1][name]) <= 64 * np.finfo(dtype).eps, name


@BOTH
def test_logits_of_chosen_rows_are_those_of_all_rows_and_give_the_forwards_nll(dtype):
    model, b = lively(dtype=dtype), batch([9, 5], graded=1)
    everything = model.logits(b.tokens, b.cu_seqlens)
    rows = np.array([13, 0, 8])
    assert np.array_equal(model.logits(b.tokens, b.cu_seqlens, rows), everything[rows])
    z = everything.astype(np.float64)
    nll = np.log(np.exp(z).sum(axis=1)) - z[np.arange(14), b.labels]
    assert distance(forward(model, b), nll) <= 16 * np.finfo(dtype).eps


# ------------------------------------------------------------------ sequences and their bits


@BOTH
def test_a_later_token_never_changes_an_earlier_tokens_loss(dtype):
    model, b = lively(dtype=dtype), batch([24], graded=1)
    nll = forward(model, b)
    for t in range(1, 24):
        tokens = np.where(np.arange(24) >= t, 10 - b.tokens, b.tokens).astype(np.int32)
        other = forward(model, dataclasses.replace(b, tokens=tokens))
        assert np.array_equal(other[:t], nll[:t]) and not np.array_equal(other[t:], nll[t:])


@BOTH
def test_packed_and_separate_give_the_same_bits_of_every_loss(dtype):
    model, all_of_them = lively(dtype=dtype), examples([7, 1, 24, 13, 2, 19])
    packed = forward(model, Batch.of(all_of_them, 11, 24))
    separate = np.concatenate([forward(model, Batch.of([e], 11, 24)) for e in all_of_them])
    assert np.array_equal(packed, separate)
    reversed_order = forward(model, Batch.of(all_of_them[::-1], 11, 24))
    pieces = np.split(reversed_order, np.cumsum([19, 2, 13, 24, 1]))
    assert np.array_equal(np.concatenate(pieces[::-1]), separate)


@BOTH
@pytest.mark.parametrize("pad", [0, 10])
def test_right_padding_labelled_minus_100_changes_no_loss_and_no_gradient(dtype, pad):
    def to_24(values, filler):
        return np.concatenate([values, np.full(24 - len(values), filler, np.int32)])

    model, plain = lively(dtype=dtype), examples([7, 1, 24, 13])
    padded = [Example(to_24(e.input_ids, pad), to_24(e.labels, IGNORE)) for e in plain]
    kept = np.concatenate([np.arange(24) < len(e.labels) for e in plain])
    short, long = Batch.of(plain, 11, 24), Batch.of(padded, 11, 24)
    nll = forward(model, short)
    assert np.array_equal(forward(model, long)[kept], nll)
    assert (forward(model, long)[~kept] == 0).all()
    dnll = np.random.default_rng(1).standard_normal(len(nll)).astype(dtype)
    wide = np.full(96, 5, dtype)  # the dnll of a padded row must not matter
    wide[kept] = dnll
    one, two = gradients(model, short, dnll), gradients(model, long, wide)
    for name in one:  # the same terms in sums of another order
        assert distance(two[name], one[name]) <= (1e-6 if dtype == np.float32 else 1e-12), name


@BOTH
def test_room_for_more_rows_than_a_batch_has_changes_no_bit(dtype):
    b, tight, roomy = batch([9, 5]), lively(dtype=dtype), lively(dtype=dtype)
    roomy.reserve(100)
    roomy.forward(batch([24, 24], seed=3))  # an earlier batch, whose numbers are still there
    assert np.array_equal(forward(tight, b), forward(roomy, b))
    one, two = gradients(tight, b), gradients(roomy, b)
    assert all(np.array_equal(one[name], two[name]) for name in one)


# ------------------------------------------------------- only what the loss can see is computed


def with_every_row_wanted(b):
    return dataclasses.replace(b, wanted=np.ones(len(b.tokens), bool))


@BOTH
@pytest.mark.parametrize("functions", [KERNELS, reference], ids=["kernels", "reference"])
@pytest.mark.parametrize("tied", [False, True], ids=["", "tied"])
def test_leaving_out_unwanted_rows_changes_no_bit_of_the_loss_and_no_gradient(
    functions, dtype, tied
):
    config = dataclasses.replace(SMALL, tied=tied, context=40)
    for lengths, graded in (([24, 13], 0.6), ([5, 1, 30, 7], 0.2), ([40], 0.1), ([3, 4], 0.5)):
        b = batch(lengths, graded=graded)
        assert 0 < b.wanted.sum() < len(b.tokens)
        some, every = lively(config, functions, dtype), lively(config, functions, dtype)
        whole = with_every_row_wanted(b)
        same = np.array_equal(forward(some, b), forward(every, whole))
        assert same or functions is reference
        one, other = gradients(some, b), gradients(every, whole)
        # The reference's sums are those of NumPy's BLAS, in another order on each processor.
        single = 3e-6 if functions is reference else 1e-6
        tolerance = {np.float32: single, np.float64: 1e-14}[dtype]
        for name in one:
            assert distance(one[name], other[name]) <= tolerance, name


def test_unwanted_rows_cost_nothing_after_the_last_attention():
    b, seen = batch([24, 13], graded=0.3), []

    def counted(name):
        def call(*arrays):
            seen.append((name, len(arrays[3 if "backward" in name else 1])))
            getattr(KERNELS, name)(*arrays)

        return call

    functions = {k.__name__: getattr(KERNELS, k.__name__) for k in kernels.KERNELS}
    functions |= {name: counted(name) for name in ("matmul_forward", "matmul_backward")}
    model = lively(functions=SimpleNamespace(**functions))
    gradients(model, b)
    N, M, blocks = 37, int(b.wanted.sum()), SMALL.layers - 1
    # In the last block: query, key and value of N rows, and three products of M; then the head.
    forward_rows = [n for name, n in seen if name == "matmul_forward"]
    assert forward_rows == [N] * 4 * blocks + [N, M, M, M, M]
    backward_rows = [n for name, n in seen if name == "matmul_backward"]
    assert backward_rows == [M, M, M, M, N] + [N] * 4 * blocks


def test_a_row_has_a_loss_only_if_it_is_wanted_and_has_a_label():
    b = batch([24, 13])
    masked = np.flatnonzero(b.labels == IGNORE)
    more = b.wanted.copy()
    more[masked[:3]] = True
    model = lively()
    assert np.array_equal(forward(model, dataclasses.replace(b, wanted=more)), forward(model, b))
    less = b.wanted.copy()
    less[np.flatnonzero(less)[:4]] = False
    nll = forward(model, dataclasses.replace(b, wanted=less))
    assert (nll[~less] == 0).all() and np.array_equal(nll[less], forward(model, b)[less])


def test_a_clock_gets_the_seconds_of_every_call_of_a_kernel(monkeypatch):
    """On a clock that moves by a second each time that it is read."""
    seconds = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: float(next(seconds)))
    for module in (calls, model_module):
        monkeypatch.setattr(module, "time", clock)
    model, b = lively(), batch([5, 2])
    model.clock = {"matmul_forward": 100.0}
    for _ in range(2):
        model.forward(b)
        model.backward(np.ones(7, np.float32))
    blocks, head = SMALL.layers, 1
    once = {"attention": blocks, "gelu": blocks, "embedding": 1, "cross_entropy": head}
    once |= {"matmul": 4 * blocks + head, "layernorm": 2 * blocks + 1}
    both = {f"{k}_{way}": 2.0 * n for k, n in once.items() for way in ("forward", "backward")}
    assert model.clock == both | {"matmul_forward": 100.0 + both["matmul_forward"]}


def test_activations_are_made_once_for_batches_up_to_the_largest(monkeypatch):
    made, arena = [], model_module.Arena
    monkeypatch.setattr(model_module, "Arena", lambda *a, **k: made.append(a) or arena(*a, **k))
    model = lively()
    made.clear()
    for lengths, arenas in (([5, 2], 1), ([5, 2], 1), ([3], 1), ([8], 2), ([7, 1], 2)):
        model.forward(batch(lengths))
        assert len(made) == arenas
    model.reserve(8)
    assert len(made) == 2
    model.release()
    model.forward(batch([8]))
    assert len(made) == 3


def test_a_batch_in_which_nothing_is_wanted_is_refused():
    with pytest.raises(UsageError, match="wanted"):
        lively().forward(dataclasses.replace(batch([3]), wanted=np.zeros(3, bool)))


@pytest.mark.parametrize("functions", [KERNELS, reference], ids=["kernels", "reference"])
@pytest.mark.parametrize("rows", [[5, 6, 7, 8, 9], [-1, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5]])
def test_logits_of_rows_that_do_not_exist_are_refused_even_where_there_is_room_for_them(
    functions, rows
):
    model = lively(functions=functions)
    model.reserve(20)
    with pytest.raises(UsageError, match="of 5 rows"):
        model.logits(np.ones(5, np.int32), np.array([0, 5], np.int32), rows)


def test_a_last_offset_that_is_not_the_number_of_rows_is_named():
    model, b = lively(), batch([5])
    model.reserve(20)
    forward(model, b)  # from now on, the noted calls are made without the gate
    with pytest.raises(GateError, match="cu_seqlens ends with 3, expected N = 5"):
        model.forward(dataclasses.replace(b, cu_seqlens=np.array([0, 3], np.int32)))


@BOTH
@pytest.mark.parametrize("functions", [KERNELS, reference], ids=["kernels", "reference"])
def test_logits_made_in_chunks_change_no_bit(functions, dtype):
    b = batch([130, 150, 70, 150], graded=0.9)
    whole = GPT(dataclasses.replace(SMALL, context=150), functions, rng(1, "test", "init"), dtype)
    chunked = GPT(
        whole.config,
        functions,
        rng(1, "test", "init"),
        dtype,
        logits_bytes=260 * SMALL.vocab * np.dtype(dtype).itemsize,
    )
    same = np.array_equal if functions is KERNELS else lambda x, y: distance(x, y) < 1e-5
    assert same(forward(whole, b), forward(chunked, b))
    assert len(chunked._activations["logits"]) == 256 and len(whole._activations["logits"]) == 500
    one, other = gradients(whole, b), gradients(chunked, b)
    for name in one:
        assert same(one[name], other[name]), name


def test_the_walks_are_checked_once_and_serve_batches_of_every_size_up_to_the_room():
    lengths, model = ([24, 13], [7], [1, 1], [10, 10, 10], [24, 13]), lively()
    model.reserve(37)
    for b in (batch(n, graded=1.0 if len(n) == 3 else 0.6) for n in lengths):
        alone = lively()
        assert np.array_equal(forward(model, b), forward(alone, b))
        one, other = gradients(model, b), gradients(alone, b)
        assert all(np.array_equal(one[n], other[n]) for n in one)
    hidden = {(f"_hidden_{way}", False) for way in ("forward", "backward")}
    top = {(f"_top_{way}", few) for way in ("forward", "backward") for few in (False, True)}
    assert set(model._calls) == hidden | top


@BOTH
@pytest.mark.parametrize("functions", [KERNELS, reference], ids=["kernels", "reference"])
def test_the_gradient_at_masked_targets_is_exactly_zero(functions, dtype):
    seen = {}

    def cross_entropy_backward(dlogits, *rest):
        functions.cross_entropy_backward(dlogits, *rest)
        seen["dlogits"] = dlogits.copy()

    watched = {k.__name__: getattr(functions, k.__name__) for k in kernels.KERNELS}
    watched["cross_entropy_backward"] = cross_entropy_backward
    model = lively(functions=SimpleNamespace(**watched), dtype=dtype)
    b = with_every_row_wanted(batch([24, 13]))  # so that masked rows have logits at all
    nll = forward(model, b)
    masked = b.labels == IGNORE
    assert 0 < masked.sum() < 37 and (nll[masked] == 0).all() and (nll[~masked] != 0).all()
    one = gradients(model, b, np.ones(37, dtype))
    assert (seen["dlogits"][masked] == 0).all() and (seen["dlogits"][~masked] != 0).all()
    two = gradients(model, b, np.where(masked, 1e6, 1).astype(dtype))  # a weight on a zero
    assert all(np.array_equal(one[name], two[name]) for name in one)


# ---------------------------------------------------------------------------- the key's bias


@BOTH
def test_the_key_bias_has_a_zero_gradient_which_adam_magnifies(dtype):
    """A key bias b adds q.b to all scores of a query, and adding a constant to all scores changes
    no softmax. So the loss does not depend on it, and its computed gradient is rounding alone. Adam
    divides the gradient by its own size, so one step moves this weight as far as any other, without
    effect. A comparison of gradients or weights with another implementation must leave it out."""
    model, b, keys = lively(dtype=dtype), batch([24, 13]), slice(12, 24)
    nll, g = forward(model, b), gradients(model, b)
    for i in range(2):
        bias = g[f"h{i}.qkv.b"]
        assert np.abs(bias[keys]).max() <= 64 * np.finfo(dtype).eps * np.abs(bias).max()
    before = model.params["h0.qkv.b"].copy()
    adam = AdamW(model, eps=1e-30)  # the division by its own size, undamped
    adam.step(0.01)
    moved = np.abs(model.params["h0.qkv.b"] - before)
    rounded = g["h0.qkv.b"][keys] != 0  # some rounding errors are exactly zero
    assert rounded.any() and np.allclose(moved[keys][rounded], 0.01, rtol=1e-2)
    model = lively(dtype=dtype)
    for i in range(2):
        model.params[f"h{i}.qkv.b"][keys] += 1
    assert distance(forward(model, b), nll) <= 64 * np.finfo(dtype).eps  # the same loss


# ------------------------------------------------------------------------------------ growth


@BOTH
@pytest.mark.parametrize("rows", ["random", "mean"])
@pytest.mark.parametrize("tied", [False, True])
def test_growing_copies_the_old_rows_exactly_and_leaves_the_old_logits_bit_equal(dtype, rows, tied):
    config = GPTConfig(vocab=65, context=24, layers=2, heads=2, channels=12, tied=tied)
    base = lively(config, dtype=dtype)
    kept = base.params.flat.copy()
    grown = expand_vocab(base, 68, rows, np.random.default_rng(4))
    assert grown.config == dataclasses.replace(config, vocab=68) and grown.dtype == base.dtype
    assert np.array_equal(base.params.flat, kept)
    for name, w in base.params.items():
        new = grown.params[name]
        assert np.array_equal(new[: len(w)], w) and not np.shares_memory(new, w)
        assert new.shape[0] - len(w) == (3 if name in ("wte", "head") else 0)
    b = batch([24, 7, 13], vocab=65)
    new, old = (model.logits(b.tokens, b.cu_seqlens) for model in (grown, base))
    assert np.array_equal(new[:, :65], old)


def test_mean_rows_are_the_mean_of_the_old_and_random_rows_are_drawn_as_at_the_start():
    base = lively(GPTConfig(vocab=65, context=4, layers=1, heads=1, channels=256))
    mean = expand_vocab(base, 68, "mean")
    random = expand_vocab(base, 165, "random", np.random.default_rng(0))
    for name in ("wte", "head"):
        old = base.params[name].astype(np.float64)
        for row in mean.params[name][65:]:
            assert distance(row, old.mean(axis=0)) <= 1e-6  # float32
        new = random.params[name][65:]
        assert abs(new.std() / 0.02 - 1) < 5 / np.sqrt(2 * new.size)  # five standard errors
        assert abs(new.mean()) < 5 * 0.02 / np.sqrt(new.size)
    assert not np.array_equal(random.params["wte"][65:], random.params["head"][65:])


def test_growing_is_repeatable():
    base = lively()
    one, two, other = (
        expand_vocab(base, 14, "random", np.random.default_rng(seed)).params.flat
        for seed in (1, 1, 2)
    )
    assert np.array_equal(one, two) and not np.array_equal(one, other)


def test_growing_twice_keeps_all_that_the_first_growth_gave():
    base, b = lively(), batch([24])
    once = expand_vocab(base, 14, "random", np.random.default_rng(1))
    twice = expand_vocab(once, 16, "mean")
    for name, w in once.params.items():
        assert np.array_equal(twice.params[name][: len(w)], w)
    new, old = (model.logits(b.tokens, b.cu_seqlens) for model in (twice, base))
    assert np.array_equal(new[:, :11], old)
    # The mean of some rows and their mean is their mean: with "mean", two growths are like one.
    one = expand_vocab(base, 16, "mean")
    two = expand_vocab(expand_vocab(base, 14, "mean"), 16, "mean")
    for name, w in one.params.items():
        assert distance(two.params[name], w) <= 1e-6, name  # float32


@pytest.mark.parametrize(
    "vocab, rows, words",
    [
        (11, "mean", "has 11 symbols already"),
        (3, "mean", "growing it to 3"),
        (14, "zero", "'random' or 'mean'"),
        (14, "random", "random generator"),
    ],
)
def test_an_impossible_growth_is_one_sentence(vocab, rows, words):
    with pytest.raises(UsageError, match=words):
        expand_vocab(lively(), vocab, rows)


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(heads=5), "channels = 12 cannot be split over heads = 5"),
        (dict(layers=0), "layers = 0"),
        (dict(vocab=-1), "vocab = -1"),
        (dict(context="64"), "context = '64'"),
        (dict(channels=1.5), "channels = 1.5"),
    ],
)
def test_an_impossible_size_is_one_sentence(changes, words):
    with pytest.raises(UsageError, match=words):
        dataclasses.replace(SMALL, **changes)


# ----------------------------------------------------------------------- memory and machines


@BOTH
@pytest.mark.parametrize("tied", [False, True])
def test_the_reported_sizes_are_those_of_the_arenas(dtype, tied):
    config = dataclasses.replace(SMALL, tied=tied, context=40)
    model = GPT(config, KERNELS, dtype=dtype)
    adam = AdamW(model)
    model.reserve(37)
    reported, item = sizes(config, 37, dtype), np.dtype(dtype).itemsize
    held = {
        "params": model.params.size,
        "weights": model.params.size * item,
        "gradients": model.grads.size * item,
        "moments": (adam.m.size + adam.v.size) * item,
        "activations": model._activations.size * item,
    }
    assert reported == held
    padding = 64 * len(activation_shapes(config, 37))  # less than a cache line for each array
    assert held["activations"] <= model._activations.flat.nbytes < held["activations"] + padding


def test_a_model_that_is_not_trained_holds_no_gradients():
    model = lively()
    model.logits(np.zeros(3, np.int32), np.array([0, 3], np.int32))
    assert model._grads is None


def test_the_model_trains_on_the_reference_where_there_is_no_compiled_part():
    done = python(
        "-c",
        """if True:
        import sys
        class Nothing:
            def find_spec(self, name, path=None, target=None):
                top = name.partition(".")[0]
                if name.startswith("pysft.nn._c_") or top in ("cffi", "_cffi_backend"):
                    raise ModuleNotFoundError(name)
        sys.meta_path.insert(0, Nothing())
        import numpy as np
        from pysft.batch import Batch
        from pysft.nn import reference
        from pysft.nn.grow import expand_vocab
        from pysft.nn.model import GPT
        from pysft.nn.optim import AdamW
        from pysft.nn.shapes import GPTConfig
        from pysft.text.windows import window
        from pysft.training.loop import Learner, train
        from pysft.training.objectives import Sft
        model = GPT(GPTConfig(5, 8, 1, 2, 8), reference, np.random.default_rng(0))
        model = expand_vocab(model, 6, "mean")
        text = np.arange(50, dtype=np.int32) % 5
        def draw(step):
            return [Batch.of([window(text, step, 8)], 6, 8)]
        learner = Learner(model, AdamW(model), draw, Sft(), lambda step: 0.03)
        reports = list(train(learner, 30))
        assert reports[-1].loss < 0.3 < 1.5 < reports[0].loss, (reports[0].loss, reports[-1].loss)
        print("pysft.nn.gate" in sys.modules, "pysft.nn.kernels" in sys.modules)
    """,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "False False\n", "")


def test_four_steps_of_both_stages_give_the_same_weights_bit_for_bit_on_1_to_8_threads():
    """Exactly the seed preset, but with 4 steps of each stage. Its 2,048 rows are above every
    threshold below which a kernel stays on one thread. A bit that differs in one step stays
    different in all that follow."""
    steps = 4
    settings = PRESETS["seed"].changed({"base": {"steps": steps}, "sft": {"steps": steps}})
    text = split_corpus(read_corpus("plays"))[0]
    base = CharTokenizer.of(text)
    chat = base.grow(CHAT.tokens)
    corpus = base.encode(text)
    pairs = [
        encode_conversation(c, chat, settings.model.context)
        for c in read_conversations(shipped("pairs40.jsonl"))
    ]

    def losses_of(model, stage, plan):
        return [r.loss for r in steps_of(model, plan, stage)]

    def trained(threads):
        s, own = settings, settings.stages
        model = GPT(
            s.model.shape(len(base)), kernels.on_threads(threads), rng(s.seed, "base", "init")
        )
        losses = losses_of(model, own["base"], pretrain(s, "base", corpus, len(base)))
        middle = model.params.flat.copy()
        model = expand_vocab(model, len(chat), own["sft"].new_rows, rng(s.seed, "sft", "rows"))
        losses += losses_of(model, own["sft"], finetune(s, "sft", [], pairs, corpus, len(chat)))
        return middle, model.params.flat, losses

    one, *others = (trained(threads) for threads in (1, 2, 3, 4, 7, 8))
    assert one[2][steps - 1] < one[2][0] and one[2][-1] < one[2][steps]  # both stages did learn
    for other in others:
        assert np.array_equal(other[0], one[0]) and np.array_equal(other[1], one[1])
        assert other[2] == one[2]


def test_float32_gradients_are_within_a_millionth_of_float64s():
    """At the size of the seed preset; bench/bench_step.py --accuracy measures larger ones."""
    config = GPTConfig(68, 64, 4, 4, 64)
    some, grads = batch([64] * 32, 68), {}
    for dtype in (np.float32, np.float64):
        model = GPT(config, KERNELS, dtype=dtype)
        model.params.flat[:] = GPT(config, KERNELS, np.random.default_rng(0)).params.flat
        nll, _ = model.forward(some)
        model.backward((some.counts / some.counts.sum()).astype(dtype))
        grads[dtype] = model.grads.flat
    off = np.linalg.norm(grads[np.float32] - grads[np.float64]) / np.linalg.norm(grads[np.float64])
    assert 0 < off < 1e-6


def test_the_derivative_along_any_direction_is_right_through_many_blocks():
    """Four blocks, so that their order matters in the backward; some rows are not wanted."""
    config = GPTConfig(11, 12, 4, 2, 8)
    model = GPT(config, KERNELS, np.random.default_rng(0), np.float64)
    model.params.flat[:] += 0.2 * np.random.default_rng(1).standard_normal(len(model.params.flat))
    some = batch([7, 12, 3], 11)
    weights = np.random.default_rng(2).standard_normal(len(some.tokens))
    model.grads.clear()
    model.forward(some)
    model.backward(weights)
    start = model.params.flat.copy()

    def loss(step):
        model.params.flat[:] = start + step
        return float(model.forward(some)[0] @ weights)

    for seed in range(5):
        direction = np.zeros_like(start)
        for name, w in model.params.items():
            offset = model.params.offsets[name]
            g = np.random.default_rng([seed, offset])
            direction[offset : offset + w.size] = g.standard_normal(w.size)
        slope = (loss(1e-6 * direction) - loss(-1e-6 * direction)) / 2e-6
        assert float(model.grads.flat @ direction) == pytest.approx(slope, rel=1e-6)


def test_each_forward_serves_one_backward():
    """The backward overwrites the logits, so a second one would silently give other gradients."""
    model = GPT(GPTConfig(11, 12, 1, 2, 8), KERNELS, np.random.default_rng(0))
    some = batch([7, 3], 11)
    nll, _ = model.forward(some)
    model.backward(np.ones_like(nll))
    with pytest.raises(UsageError, match="no forward"):
        model.backward(np.ones_like(nll))
