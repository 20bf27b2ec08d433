"""The choice of tokens, in C and in NumPy: the same rules, random numbers and tokens."""

import re

import numpy as np
import pytest

from pysft.errors import GateError
from pysft.inference.sampling import Sampling
from pysft.nn import kernels, reference

F32, F64 = np.float32, np.float64
NEAR = 1e-6  # how near to a threshold rounding may decide


def call(module, logits, rules, top_k=0, keys=None, counters=None, repeats=None, **threads):
    """The chosen tokens. rules, top_k: those of all rows. repeats: a list of ids for each row."""
    S, V = logits.shape
    keys = np.zeros(4 * S, np.int32) if keys is None else keys
    counters = np.arange(S, dtype=np.int32) if counters is None else counters
    again = offsets = None
    if any(map(len, repeats or [])):
        again = np.array([i for ids in repeats for i in ids], np.int32)
        offsets = np.cumsum([0, *map(len, repeats)]).astype(np.int32)
    chosen, heap = np.full(S, -7, np.int32), np.zeros((S, V), np.int32)
    every_rule = np.tile(np.array(rules, logits.dtype), S)
    arrays = chosen, np.full_like(logits, np.nan), heap, logits, every_rule
    rest = np.full(S, top_k, np.int32), keys, counters, again, offsets
    module.sample(*arrays, *rest, **threads)
    return chosen


def margins(logits, rules, top_k, key, counter, again):
    """How near, relative to all probability, the draw of one row is to another outcome: to the edge
    of a token's share, or a top-p sum to top_p. In float64."""
    temperature, top_p, repetition = rules
    x = logits.astype(F64)
    x = x - x.max() - np.log(np.exp(x - x.max()).sum())
    x[again] *= repetition
    p = np.exp((x - x.max()) / temperature)
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    sums = np.cumsum(p[order])
    found = [np.abs(sums - top_p * (1 - 1e-6)).min()] if top_p < 1 else []
    keep = (np.arange(len(p)) < (top_k or len(p))) & (
        (sums - p[order] < top_p * (1 - 1e-6)) | (top_p >= 1)
    )
    kept = np.sort(order[keep])
    edges = np.cumsum(p[kept]) / p[kept].sum()
    words = np.random.Philox(key=key.view(np.uint64), counter=[int(counter), 0, 0, 0]).random_raw()
    return min([*found, np.abs(edges - (words >> 11) * 2.0**-53).min()])


@pytest.mark.parametrize("V", [2, 68, 301])
def test_the_reference_draws_the_same_tokens(V):
    """25,000 draws over the three sizes. A draw that differs must be near a threshold."""
    g = np.random.default_rng(V)
    drawn = differ = 0
    for rules, top_k in (
        ((1, 1, 1), 0),
        ((0.7, 1, 1), 0),
        ((3, 0.9, 1), 0),
        ((1, 0.5, 2), 0),
        ((1, 1, 1), 5),
        ((0.8, 0.8, 1.5), 10),
    ):
        S = 1400
        logits = (3 * g.standard_normal((S, V))).astype(F32)
        keys, counters = (g.integers(0, 2**31, n).astype(np.int32) for n in (4 * S, S))
        keys[::3] -= 2**30
        repeats = [g.choice(V, g.integers(0, min(V, 9)), replace=False) for _ in range(S)]
        given = logits, rules, top_k, keys, counters, repeats
        ours, theirs = call(kernels, *given), call(reference, *given)
        drawn += S
        for i in np.flatnonzero(ours != theirs):
            differ += 1
            some = np.array(repeats[i], int)
            near = margins(logits[i], rules, top_k, keys[4 * i : 4 * i + 4], counters[i], some)
            assert near < NEAR, (rules, top_k, i)
    assert drawn == 8400 and differ <= 5


@pytest.mark.parametrize("module", [kernels, reference], ids=["kernels", "numpy"])
def test_draws_follow_the_probabilities(module):
    p = np.array([0.4, 0.05, 0.3, 0.15, 0.1])
    logits = np.tile(np.log(p), (8000, 1)).astype(F32)
    for rules, top_k, expected in (
        ((1, 1, 1), 0, p),
        ((2, 1, 1), 0, p**0.5 / (p**0.5).sum()),
        ((1, 1, 1), 3, [0.4 / 0.85, 0, 0.3 / 0.85, 0.15 / 0.85, 0]),
        ((1, 0.7, 1), 0, [4 / 7, 0, 3 / 7, 0, 0]),
    ):
        shares = np.bincount(call(module, logits, rules, top_k), minlength=5) / 8000
        expected = np.array(expected)
        assert (shares[expected == 0] == 0).all()
        assert np.abs(shares - expected).max() < 0.02  # 3.6 standard deviations


def test_a_draw_depends_on_its_key_and_counter_alone():
    g = np.random.default_rng(0)
    logits = g.standard_normal((50, 300)).astype(F32)
    keys = g.integers(0, 2**31, 200).astype(np.int32)
    counters = np.arange(50, dtype=np.int32)
    rules = 1, 0.9, 1
    whole = call(kernels, logits, rules, 40, keys, counters, threads=1)
    for threads in (2, 3, 4):
        again = call(kernels, logits, rules, 40, keys, counters, threads=threads)
        assert np.array_equal(again, whole)
    for i in range(50):
        one = slice(i, i + 1)
        alone = call(kernels, logits[one].copy(), rules, 40, keys[4 * i : 4 * i + 4], counters[one])
        assert alone[0] == whole[i]
    other = call(kernels, logits, rules, 40, keys, counters + 1)
    changed = keys.copy()
    changed[::4] ^= 1
    for different in (other, call(kernels, logits, rules, 40, changed, counters)):
        assert (different != whole).sum() > 20


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("module", [kernels, reference], ids=["kernels", "numpy"])
def test_of_equal_logits_the_lowest_id_is_the_likeliest(module, dtype):
    for V in (1, 5, 16, 17, 70):
        logits = np.zeros((40, V), dtype)
        assert (call(module, logits, (0, 1, 1)) == 0).all()
        assert (call(module, logits, (1, 1, 1), top_k=2) <= 1).all()
        assert (call(module, logits, (1, 1e-3, 1)) == 0).all()
        logits[:, V - 1] = 1e-3
        assert (call(module, logits, (0, 1, 1)) == V - 1).all()
        assert set(call(module, logits, (1, 1, 1), top_k=2)) <= {0, V - 1}


@pytest.mark.parametrize("module", [kernels, reference], ids=["kernels", "numpy"])
def test_a_penalty_needs_no_draw(module):
    logits = np.log(np.array([[0.4, 0.6], [0.3, 0.7]], F32))
    # With two choices, p squared is below 1 - p until p is 0.618.
    assert call(module, logits, (0, 1, 2), repeats=[[1], [1]]).tolist() == [0, 1]
    assert call(module, logits, (0, 1, 2), repeats=[[], []]).tolist() == [1, 1]
    assert call(module, logits, (0, 1, 9), repeats=[[], [1]]).tolist() == [1, 0]


def test_an_id_that_is_no_token_and_wrong_offsets_are_refused():
    logits = np.zeros((2, 5), F32)
    for ids, message in (
        ([[0, 5], [1]], "sample: again[1] = 5 is not in 0..4"),
        ([[0], [-1]], "sample: again[1] = -1 is not in 0..4"),
    ):
        with pytest.raises(GateError, match=re.escape(message)):
            call(kernels, logits, (1, 1, 2), repeats=ids)
    arrays = dict(
        chosen=np.zeros(2, np.int32),
        work=np.zeros((2, 5), F32),
        heap=np.zeros((2, 5), np.int32),
        logits=logits,
        rules=np.ones(6, F32),
        top_k=np.zeros(2, np.int32),
        keys=np.zeros(8, np.int32),
        counters=np.zeros(2, np.int32),
    )
    again = np.zeros(3, np.int32)
    for offsets, message in (
        ([0, 4, 3], "offsets[1] = 4; offsets must rise from 0 to 3"),
        ([0, 2, 1], "offsets[2] = 1; offsets must rise"),
        ([1, 2, 3], "offsets[0] = 1; offsets must rise"),
        ([0, 1, 2], "offsets[2] = 2; offsets must rise"),
        ([0, 3], "offsets has shape (2,), expected (3,) for 2 sequences"),
    ):
        with pytest.raises(GateError, match=re.escape(message)):
            kernels.sample(**arrays, again=again, offsets=np.array(offsets, np.int32))
    lists = arrays["work"].reshape(-1).view(np.int32)  # C would write over what it has checked
    with pytest.raises(GateError, match="again and work overlap in memory"):
        kernels.sample(**arrays, again=lists[:3], offsets=np.array([0, 1, 3], np.int32))
    with pytest.raises(GateError, match="offsets and heap overlap in memory"):
        offsets = arrays["heap"].reshape(-1)[:3]
        kernels.sample(**arrays, again=again, offsets=offsets)
    with pytest.raises(GateError, match="one is None, expected both or neither"):
        kernels.sample(**arrays, again=again)
    with pytest.raises(GateError, match="keys has shape"):
        kernels.sample(**arrays | {"keys": np.zeros(2, np.int32)})
    with pytest.raises(GateError, match="sample: 3 sequences, expected 1 to 2"):
        kernels.sampler(**arrays)(3)


@pytest.mark.parametrize("module", [kernels, reference], ids=["kernels", "numpy"])
def test_logits_that_are_not_finite_give_no_token(module):
    for V in (1, 5, 16, 40):
        for bad in (np.nan, np.inf, -np.inf):
            logits = np.zeros((3, V), F32)
            logits[1, V - 1] = bad
            for rules in ((0, 1, 1), (1, 1, 1), (1, 0.5, 2)):
                chosen = call(module, logits, rules, repeats=[[0], [0], [0]])
                assert chosen[1] == -1 and min(chosen[0], chosen[2]) >= 0


@pytest.mark.parametrize("module", [kernels, reference], ids=["kernels", "numpy"])
def test_the_likeliest_token_stays_however_small_top_p_is(module):
    logits = np.tile(np.array([0, 3, 1], F32), (30, 1))
    for top_p in (0.0, 1e-45, 1e-30):
        assert (call(module, logits, (1, top_p, 1)) == 1).all()
    assert Sampling(1, top_p=1e-50).rules()[1] == 1e-30
