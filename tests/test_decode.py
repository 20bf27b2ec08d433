"""Decoding with a cache: the bits of the full forward, at the price of one row."""

import numpy as np
import pytest

from conftest import distance
from pysft.errors import GateError, UsageError
from pysft.nn import ops, reference
from pysft.nn.decode import Decoder
from pysft.nn.model import GPT, GPTConfig
from pysft.rng import rng

BOTH = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])
SHAPES = [GPTConfig(11, 24, 2, 2, 12), GPTConfig(68, 70, 2, 4, 64), GPTConfig(5, 3, 1, 1, 1), GPTConfig(130, 9, 3, 1, 80),
          GPTConfig(7, 140, 1, 3, 21, tied=True)]


def lively(config, functions, dtype):
    model = GPT(config, functions, rng(3, "test", "init"), dtype)
    for w in model.params:
        model.params[w][...] += 0.3 * np.random.default_rng(0).standard_normal(model.params[w].shape)
    return model


def full(model, tokens):
    return model.logits(np.array(tokens, np.int32), np.array([0, len(tokens)], np.int32))


@BOTH
@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_each_tokens_logits_have_the_bits_of_the_full_forward(config, dtype):
    model = lively(config, ops.on_threads(2), dtype)
    tokens = np.random.default_rng(1).integers(0, config.vocab, config.context)
    decoder, expected = Decoder(model), full(model, tokens)
    for _ in range(2):  # what an earlier sequence left in the cache does not show
        for t, token in enumerate(tokens):
            assert np.array_equal(decoder.step(token), expected[t]), t
        decoder.reset()
        tokens, expected = tokens[::-1], full(model, tokens[::-1])


@BOTH
def test_the_bits_are_the_same_where_large_matrices_go_over_threads(dtype):
    config = GPTConfig(300, 8, 1, 8, 520)  # 520 x 2080 weights: beyond the threshold
    tokens = [3, 299, 0, 7]
    rows = []
    for threads in (1, 2, 3):
        decoder = Decoder(lively(config, ops.on_threads(threads), dtype))
        rows.append([decoder.step(t).copy() for t in tokens])
    assert np.array_equal(rows[0], rows[1]) and np.array_equal(rows[0], rows[2])
    assert np.array_equal(rows[0], full(lively(config, ops.on_threads(2), dtype), tokens))


@BOTH
@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_the_reference_decodes_the_same(config, dtype):
    tokens = np.random.default_rng(2).integers(0, config.vocab, config.context)
    theirs, ours = Decoder(lively(config, reference, dtype)), Decoder(lively(config, ops.on_threads(1), dtype))
    for token in tokens:
        assert distance(theirs.step(token), ours.step(token)) < {np.float32: 1e-4, np.float64: 1e-12}[dtype]


def test_a_full_context_and_a_foreign_token_are_refused():
    model = lively(SHAPES[2], ops.on_threads(1), np.float32)
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
    f = np.zeros
    packed, weights, cache = ops.decode_sizes(12, 11, 11, 24, 2, np.float32)
    good = dict(logits=f(11, "f"), cache=f(cache, "f"), weights=f(weights, "f"), token=1, position=0, T=24, C=12, H=2, L=2)
    ops.decode_forward(**good)
    for change in (dict(cache=f(cache + 1, "f")), dict(weights=f(weights - 1, "f")), dict(T=25), dict(L=3), dict(C=13, H=1),
                   dict(H=5), dict(position=24), dict(position=-1), dict(L=0), dict(T=2.0), dict(cache=f(cache)),
                   dict(logits=f(10, "f"))):
        with pytest.raises(GateError, match="decode"):
            ops.decode_forward(**{**good, **change})
    ops.decode_pack(f(packed, "f"), f((11, 12), "f"))
    with pytest.raises(GateError, match="packed has shape"):
        ops.decode_pack(f(packed + 1, "f"), f((11, 12), "f"))
