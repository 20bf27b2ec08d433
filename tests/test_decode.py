"""Decoding with a cache gives the bits of the full forward, at the price of one row."""

import numpy as np
import pytest
from conftest import distance

from pysft.errors import GateError, UsageError
from pysft.nn import gate, kernels, reference
from pysft.nn.decode import Decoder
from pysft.nn.model import GPT
from pysft.nn.shapes import GPTConfig, decoder_bytes
from pysft.rng import rng

BOTH = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])
SHAPES = [
    GPTConfig(11, 24, 2, 2, 12),
    GPTConfig(68, 70, 2, 4, 64),
    GPTConfig(5, 3, 1, 1, 1),
    GPTConfig(130, 9, 3, 1, 80),
    GPTConfig(7, 140, 1, 3, 21, tied=True),
    GPTConfig(9, 40, 1, 7, 7 * 36),
]


TOLERANCE = {np.float32: 1e-4, np.float64: 1e-12}  # between the reference and the kernels


def lively(config, functions, dtype):
    """A model far from its initialisation, where most activations nearly vanish."""
    model = GPT(config, functions, rng(3, "test", "init"), dtype)
    for _, w in model.params.items():
        w += 0.3 * np.random.default_rng(0).standard_normal(w.shape)
    return model


def full(model, tokens):
    return model.logits(np.array(tokens, np.int32), np.array([0, len(tokens)], np.int32))


@BOTH
@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_each_tokens_logits_have_the_bits_of_the_full_forward(config, dtype):
    model = lively(config, kernels.on_threads(2), dtype)
    tokens = np.random.default_rng(1).integers(0, config.vocab, config.context)
    decoder, expected = Decoder(model), full(model, tokens)
    for _ in range(2):  # the second time, an earlier sequence is still in the cache
        for t, token in enumerate(tokens):
            assert np.array_equal(decoder.step(token), expected[t]), t
        decoder.reset()
        tokens, expected = tokens[::-1], full(model, tokens[::-1])


@BOTH
def test_the_bits_are_the_same_where_threads_share_large_matrices(dtype):
    config = GPTConfig(300, 8, 1, 8, 520)  # 520 x 2080 weights: above the threshold
    tokens = [3, 299, 0, 7]
    rows = []
    for threads in (1, 2, 3):
        decoder = Decoder(lively(config, kernels.on_threads(threads), dtype))
        rows.append([decoder.step(t).copy() for t in tokens])
    assert np.array_equal(rows[0], rows[1]) and np.array_equal(rows[0], rows[2])
    assert np.array_equal(rows[0], full(lively(config, kernels.on_threads(2), dtype), tokens))


@BOTH
@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_the_reference_decodes_the_same(config, dtype):
    tokens = np.random.default_rng(2).integers(0, config.vocab, config.context)
    functions = reference, kernels.on_threads(1)
    theirs, ours = (Decoder(lively(config, f, dtype)) for f in functions)
    for token in tokens:
        assert distance(theirs.step(token), ours.step(token)) < TOLERANCE[dtype]


def test_a_full_context_and_an_unknown_token_are_refused():
    model = lively(SHAPES[2], kernels.on_threads(1), np.float32)
    decoder = Decoder(model)
    for token in (-1, 5, 2**40):
        with pytest.raises(GateError, match=r"token = .* is not in 0..4"):
            decoder.step(token)
    assert decoder.length == 0
    for _ in range(3):
        decoder.step(1)
    with pytest.raises(UsageError, match="context of 3 positions is full"):
        decoder.step(1)


def test_the_gate_refuses_arrays_of_a_wrong_size():
    f, i = np.zeros, lambda *values: np.array(values, np.int32)
    packed, weights, cache, work = kernels.decode_sizes(12, 11, 11, 24, 2, np.float32)
    good = dict(
        logits=f((2, 11), "f"),
        cache=f((3, cache), "f"),
        work=f((2, work), "f"),
        weights=f(weights, "f"),
        tokens=i(1, 10),
        positions=i(0, 23),
        slots=i(0, 2),
        T=24,
        H=2,
        L=2,
    )
    kernels.decode_forward(**good)
    for change in (
        dict(cache=f((3, cache + 1), "f")),
        dict(weights=f(weights - 1, "f")),
        dict(T=25),
        dict(L=3),
        dict(H=5),
        dict(work=f((2, work + 7), "f")),
        dict(work=f((2, 6), "f")),
        dict(work=f((1, work), "f")),
        dict(L=0),
        dict(T=2.0),
        dict(cache=f((3, cache))),
        dict(logits=f((2, 10), "f")),
        dict(tokens=i(1)),
        dict(slots=i(0, 2, 3)),
        dict(tokens=np.zeros(2)),
        dict(tokens=i(1, 11)),
        dict(tokens=i(-1, 0)),
        dict(positions=i(24, 0)),
        dict(positions=i(0, -1)),
        dict(slots=i(0, 0)),
        dict(slots=i(2, 1)),
        dict(slots=i(1, 3)),
        dict(slots=i(-1, 1)),
    ):
        with pytest.raises(GateError, match="decode"):
            kernels.decode_forward(**{**good, **change})
    kernels.decode_pack(f(packed, "f"), f((11, 12), "f"))
    with pytest.raises(GateError, match="packed has shape"):
        kernels.decode_pack(f(packed + 1, "f"), f((11, 12), "f"))
    step = kernels.decoder(**good)
    for n in (0, 3, -1):
        with pytest.raises(GateError, match="sequences, expected 1 to 2"):
            step(n)


# ---------------------------------------------------------------------------- many sequences


@BOTH
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_sequences_side_by_side_have_the_bits_that_each_has_alone(config, threads, dtype):
    g = np.random.default_rng(4)
    texts = [g.integers(0, config.vocab, int(n)) for n in g.integers(1, config.context + 1, 9)]
    model = lively(config, kernels.on_threads(threads), dtype)
    expected = [full(model, text) for text in texts]
    decoder, live = Decoder(model, 9), list(range(9))
    while live:  # a slot leaves when its text has been read
        found = decoder.steps([texts[i][decoder.lengths[i]] for i in live], live)
        for row, i in zip(found, live):
            assert np.array_equal(row, expected[i][decoder.lengths[i] - 1]), i
        live = [i for i in live if decoder.lengths[i] < len(texts[i])]


@BOTH
def test_a_slot_starts_again_while_the_others_go_on(dtype):
    model = lively(SHAPES[0], kernels.on_threads(2), dtype)
    decoder = Decoder(model, 3)
    for token in (1, 2, 3):
        decoder.steps([token, token + 1, token + 2], [0, 1, 2])
    decoder.reset(1)
    found = decoder.steps([7, 8], [1, 2])
    assert np.array_equal(found[0], full(model, [7])[0])
    assert np.array_equal(found[1], full(model, [3, 4, 5, 8])[3])
    assert decoder.lengths == [3, 1, 4]


@BOTH
@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_tokens_that_are_rejected_leave_no_trace(config, dtype):
    model = lively(config, kernels.on_threads(2), dtype)
    g = np.random.default_rng(6)
    tokens = g.integers(0, config.vocab, config.context)
    decoder, expected = Decoder(model, 2), full(model, tokens)
    for t, token in enumerate(tokens):
        guesses = int(g.integers(0, min(4, config.context - t) + 1))  # up to a full context
        for _ in range(guesses):
            decoder.steps(g.integers(0, config.vocab, 1), [1])
        decoder.reset(1, t)
        assert np.array_equal(decoder.steps([token], [1])[0], expected[t]), t
    for length in (-1, config.context + 1):
        with pytest.raises(UsageError, match=f"not {length}"):
            decoder.reset(1, length)


@BOTH
def test_the_reference_decodes_many_the_same(dtype):
    texts = np.random.default_rng(5).integers(0, SHAPES[0].vocab, (3, 20))
    functions = reference, kernels.on_threads(2)
    theirs, ours = (Decoder(lively(SHAPES[0], f, dtype), 3) for f in functions)
    for column in texts.T:
        rows = theirs.steps(column, (0, 1, 2)), ours.steps(column, (0, 1, 2))
        assert distance(*rows) < TOLERANCE[dtype]


@pytest.mark.parametrize("sequences", [1, 40])
@pytest.mark.parametrize(
    "V, T, L, H, C",
    [(68, 256, 4, 4, 64), (20_000, 16, 1, 1, 8), (68, 4096, 1, 1, 8), (68, 65, 3, 2, 256)],
    ids=["tiny", "many symbols", "long", "wide"],
)
def test_a_decoder_holds_about_as_many_bytes_as_is_said_before(V, T, L, H, C, sequences):
    """So much memory is asked for before a training writes its replies."""
    made = GPT(GPTConfig(V, T, L, H, C), kernels.on_threads(1)).decoder(sequences)
    work = made._sampling[1:3]
    held = sum(a.nbytes for a in (made._weights, made._cache, made._work, made._logits, *work))
    said = decoder_bytes(made.model.config, sequences)
    # Panels of fewer positions than AVX-512 has need less room for the last.
    exact = 0.2 / (6 + sequences)
    assert (1 - exact if gate.ISA == "avx512" else 0.9) < said / held
    assert said / held < (1 + exact if gate.ISA == "avx512" else 1.5)
    in_float64 = decoder_bytes(made.model.config, sequences, np.float64)
    assert in_float64 == 2 * said
