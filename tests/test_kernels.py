"""The kernels: against the reference, against each other, against values known by other means, and
the promises about bits. A float32 case is rounded to float32 first and then handed, the same
numbers, to float32 and to float64."""

import ctypes
import math
import os
import shlex
import subprocess
import sysconfig
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, distance, offsets, python

from pysft.nn import _build, ops, reference
from pysft.nn.arena import Arena

F32, F64 = np.float32, np.float64
BOTH = pytest.mark.parametrize("dtype", [F32, F64], ids=["f32", "f64"])

# Rounding errors of a sum of n terms grow like sqrt(n) eps, n is at most some hundreds here, and a
# chain of two or three such sums (attention backward) leaves a small factor more. All inputs are of
# the order of one: a result that cancels to less (p - 1) keeps the rounding of what it came from.
# Measured: at most 15 eps (gelu_backward, whose 1 + tanh cancels).
TOLERANCE = {F32: 32 * np.finfo(F32).eps, F64: 32 * np.finfo(F64).eps}


def error(a, b):
    return distance(a, b) * min(1.0, float(np.abs(b).max(initial=0)))


# ------------------------------------------------------------------- one table of calls for all
# Each function gives a kernel's arguments in their order, in float64. Those that are written start
# from NaN, so that what is left out shows; those that are added to start from random numbers.


def nan(*shape):
    return np.full(shape, np.nan)


def matmul_forward(r, N, C, K):
    return dict(y=nan(N, K), x=r(N, C), w=r(K, C), b=r(K), residual=r(N, K))


def matmul_backward(r, N, C, K):
    return dict(dx=nan(N, C), dw=r(K, C), db=r(K), dy=r(N, K), x=r(N, C), w=r(K, C))


def attention_forward(r, lengths, H, D):
    N, C = sum(lengths), H * D
    return dict(y=nan(N, C), lse=nan(N, H), qkv=r(N, 3 * C), cu_seqlens=offsets(lengths))


def attention_backward(r, lengths, H, D):
    a = attention_forward(r, lengths, H, D)
    reference.attention_forward(**a)
    return dict(
        dqkv=nan(*a["qkv"].shape),
        dy=r(*a["y"].shape),
        qkv=a["qkv"],
        y=a["y"],
        lse=a["lse"],
        cu_seqlens=a["cu_seqlens"],
    )


def layernorm_forward(r, N, C):
    return dict(y=nan(N, C), mean=nan(N), rstd=nan(N), x=r(N, C) + 1, w=r(C), b=r(C))


def layernorm_backward(r, N, C):
    x = r(N, C) + 1
    return dict(
        dx=r(N, C),
        dw=r(C),
        db=r(C),
        dy=r(N, C),
        x=x,
        w=r(C),
        mean=x.mean(axis=1),
        rstd=1 / np.sqrt(x.var(axis=1) + 1e-5),
    )


def gelu_forward(r, n):
    return dict(y=nan(n), x=2 * r(n))


def gelu_backward(r, n):
    return dict(dx=nan(n), dy=r(n), x=2 * r(n))


def gelu_forward_and_slope(r, n):
    return dict(y=nan(n), x=2 * r(n), dydx=nan(n))


def gelu_backward_by_slope(r, n):
    return dict(dx=nan(n), dy=r(n), x=None, dydx=r(n))


def _some(N):
    """Rising row numbers, a third of them left out (and of some lengths whole sequences)."""
    return np.flatnonzero(np.arange(N) % 7 % 3 != 1).astype(np.int32)


def attention_forward_of_some_rows(r, lengths, H, D):
    N, C, rows = sum(lengths), H * D, _some(sum(lengths))
    return dict(
        y=nan(len(rows), C),
        lse=nan(len(rows), H),
        qkv=r(N, 2 * C),
        cu_seqlens=offsets(lengths),
        q=r(len(rows), C),
        rows=rows,
    )


def attention_backward_of_some_rows(r, lengths, H, D):
    a = attention_forward_of_some_rows(r, lengths, H, D)
    reference.attention_forward(**a)
    return dict(
        dqkv=nan(*a["qkv"].shape),
        dy=r(*a["y"].shape),
        qkv=a["qkv"],
        y=a["y"],
        lse=a["lse"],
        cu_seqlens=a["cu_seqlens"],
        dq=nan(*a["q"].shape),
        q=a["q"],
        rows=a["rows"],
    )


def take_rows_forward(r, N, C):
    return dict(y=nan(len(_some(N)), C), x=r(N, C), rows=_some(N))


def take_rows_backward(r, N, C):
    return dict(dx=r(N, C), dy=r(len(_some(N)), C), rows=_some(N))


for variant in (
    gelu_forward_and_slope,
    gelu_backward_by_slope,
    attention_forward_of_some_rows,
    attention_backward_of_some_rows,
):  # the kernel's other form
    variant.__name__ = "_".join(variant.__name__.split("_")[:2])


def _tokens(r, N, V):
    return (np.abs(r(N)) * 1e6).astype(np.int64).astype(np.int32) % np.int32(V)


def embedding_forward(r, lengths, V, C):
    N, T = sum(lengths), max(lengths)
    return dict(
        y=nan(N, C), tokens=_tokens(r, N, V), cu_seqlens=offsets(lengths), wte=r(V, C), wpe=r(T, C)
    )


def embedding_backward(r, lengths, V, C):
    N, T = sum(lengths), max(lengths)
    return dict(
        dwte=r(V, C), dwpe=r(T, C), dy=r(N, C), tokens=_tokens(r, N, V), cu_seqlens=offsets(lengths)
    )


def cross_entropy_forward(r, N, V):
    labels = _tokens(r, N, V)
    labels[1::3] = -100
    return dict(nll=nan(N), lse=nan(N), logits=3 * r(N, V), labels=labels)


def cross_entropy_backward(r, N, V):
    a = cross_entropy_forward(r, N, V)
    reference.cross_entropy_forward(**a)
    return dict(dlogits=nan(N, V), dnll=r(N), logits=a["logits"], lse=a["lse"], labels=a["labels"])


def adamw(r, n):
    return dict(
        w=r(n),
        m=0.1 * r(n),
        v=0.1 * r(n) ** 2,
        g=r(n),
        step=3,
        lr=0.01,
        beta1=0.9,
        beta2=0.99,
        eps=1e-8,
        decay=0.1,
    )


def sum_squares(r, n):
    return dict(x=r(n))


WRITTEN = {
    matmul_forward: "y",
    matmul_backward: "dx dw db",
    attention_forward: "y lse",
    attention_backward: "dqkv",
    layernorm_forward: "y mean rstd",
    layernorm_backward: "dx dw db",
    gelu_forward: "y",
    gelu_backward: "dx",
    gelu_forward_and_slope: "y dydx",
    gelu_backward_by_slope: "dx",
    attention_forward_of_some_rows: "y lse",
    attention_backward_of_some_rows: "dqkv dq",
    take_rows_forward: "y",
    take_rows_backward: "dx",
    embedding_forward: "y",
    embedding_backward: "dwte dwpe",
    cross_entropy_forward: "nll lse",
    cross_entropy_backward: "dlogits",
    adamw: "w m v",
    sum_squares: "",
}
ADDED = {
    matmul_backward: "dw db",
    layernorm_backward: "dx dw db",
    embedding_backward: "dwte dwpe",
    take_rows_backward: "dx",
}

# Tiles have 4 or 6 rows, 4 to 64 columns and a depth of 96 (in dw 256 rows, and 32 tiles in a
# group), vectors 2 to 16 lanes, blocks of keys as many as columns: whatever the instruction set,
# these stand before, on and behind an edge.
MATMUL = [
    (1, 1, 1),
    (1, 128, 3),
    (2, 3, 4),
    (3, 9, 5),
    (4, 127, 7),
    (5, 129, 8),
    (6, 130, 9),
    (7, 257, 11),
    (8, 7, 12),
    (11, 5, 13),
    (12, 8, 23),
    (13, 16, 24),
    (17, 24, 25),
    (5, 65, 31),
    (3, 64, 32),
    (9, 63, 33),
    (7, 12, 63),
    (6, 25, 64),
    (13, 31, 65),
    (127, 33, 6),
    (128, 3, 70),
    (129, 13, 130),
    (130, 4, 1),
    (257, 2, 3),
    (5, 95, 7),
    (6, 96, 9),
    (7, 97, 65),
    (4, 193, 5),
    (255, 130, 391),
    (256, 66, 193),
]
ATTENTION = [
    ([1], 1, 1),
    ([2], 2, 3),
    ([3, 1, 4], 1, 4),
    ([5], 3, 7),
    ([6], 1, 8),
    ([7, 2], 2, 9),
    ([8], 1, 12),
    ([11], 1, 13),
    ([12, 13], 2, 16),
    ([23], 1, 17),
    ([24], 1, 24),
    ([25], 2, 25),
    ([31, 33], 1, 5),
    ([32], 1, 33),
    ([63], 2, 3),
    ([64], 1, 16),
    ([65], 1, 64),
    ([1, 66], 1, 65),
    ([127], 1, 4),
    ([129], 2, 8),
    ([130], 1, 100),
    ([4, 0, 3], 1, 2),
]
WIDTHS = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 23, 24, 25, 31, 32, 33, 63, 64, 65, 127, 128, 130]
ROWS_WIDTHS = [(1 + i % 7, width) for i, width in enumerate(WIDTHS)] + [
    (63, 5),
    (64, 17),
    (65, 3),
    (130, 9),
]
EMBEDDING = [([1], 1, 1), ([2, 1], 3, 5), ([4, 7], 5, 16), ([3, 0, 9], 2, 17), ([33], 65, 130)]
SIZES = {
    matmul_forward: MATMUL,
    matmul_backward: MATMUL,
    attention_forward: ATTENTION,
    attention_backward: ATTENTION,
    layernorm_forward: ROWS_WIDTHS,
    layernorm_backward: ROWS_WIDTHS[1:],
    gelu_forward: [(n,) for n in WIDTHS],
    gelu_backward: [(n,) for n in WIDTHS],
    gelu_forward_and_slope: [(n,) for n in WIDTHS],
    gelu_backward_by_slope: [(n,) for n in WIDTHS],
    attention_forward_of_some_rows: ATTENTION,
    attention_backward_of_some_rows: ATTENTION,
    take_rows_forward: ROWS_WIDTHS,
    take_rows_backward: ROWS_WIDTHS,
    embedding_forward: EMBEDDING,
    embedding_backward: EMBEDDING,
    cross_entropy_forward: ROWS_WIDTHS,
    cross_entropy_backward: ROWS_WIDTHS,
    adamw: [(n,) for n in WIDTHS],
    sum_squares: [(n,) for n in [*WIDTHS, 4095, 4096, 4097, 8200]],
}
# Beyond every threshold under which a kernel stays on one thread, and odd.
LARGE = {
    matmul_forward: (131, 37, 67),
    matmul_backward: (301, 130, 391),
    attention_forward: ([37, 1, 90, 61], 3, 9),
    attention_backward: ([37, 1, 90, 61], 3, 9),
    layernorm_forward: (131, 133),
    layernorm_backward: (131, 133),
    gelu_forward: (20011,),
    gelu_backward: (20011,),
    gelu_forward_and_slope: (20011,),
    gelu_backward_by_slope: (20011,),
    attention_forward_of_some_rows: ([37, 1, 90, 61], 3, 9),
    attention_backward_of_some_rows: ([37, 1, 90, 61], 3, 9),
    take_rows_forward: (900, 133),
    take_rows_backward: (900, 133),
    embedding_forward: ([100, 1, 399, 31], 67, 131),
    embedding_backward: ([100, 1, 399, 31], 67, 131),
    cross_entropy_forward: (301, 69),
    cross_entropy_backward: (301, 69),
    adamw: (20011,),
    sum_squares: (50001,),
}
KERNELS = pytest.mark.parametrize("kernel", WRITTEN, ids=lambda k: k.__name__)


def arguments(kernel, sizes, seed=0):
    return kernel(
        lambda *shape: np.random.default_rng([seed, len(shape), *shape]).standard_normal(shape),
        *sizes,
    )


def run(module, kernel, arguments, dtype, **threads):
    """The written arrays of one call, made in a guarded arena: an access outside of an array either
    changes a guard word or reads a NaN. Everything else must be as it was."""
    reals = {
        k: a for k, a in arguments.items() if isinstance(a, np.ndarray) and a.dtype != np.int32
    }
    arena = Arena({k: a.shape for k, a in reals.items()}, dtype, guard=True)
    for name, a in reals.items():
        arena[name][...] = a
    before = arena.flat.copy()
    result = getattr(module, kernel.__name__)(**{**arguments, **dict(arena.items())}, **threads)
    assert arena.check_guards(), "written outside of an array"
    written = WRITTEN[kernel].split()
    for name in reals:
        first = arena.offsets[name]
        if name not in written:
            assert np.array_equal(arena[name].ravel(), before[first : first + arena[name].size]), (
                f"{name} was changed"
            )
    return [arena[name].copy() for name in written] if written else [np.array(result)]


def rounded(arguments):
    """The same, every real a float32 number."""
    return {
        k: a.astype(F32).astype(F64) if isinstance(a, np.ndarray) and a.dtype == F64 else a
        for k, a in arguments.items()
    }


# --------------------------------------------------------------------------------- same numbers


@KERNELS
def test_kernel_agrees_with_the_reference_and_float32_with_float64_around_every_tile_edge(kernel):
    for sizes in SIZES[kernel]:
        a = rounded(arguments(kernel, sizes))
        oracle = run(reference, kernel, a, F64)
        exact, single = (run(ops, kernel, a, dtype, threads=2) for dtype in (F64, F32))
        same = run(reference, kernel, a, F32)
        for name, o, d, s, t in zip(
            WRITTEN[kernel].split() or ["result"], oracle, exact, single, same
        ):
            where = f"{name} at {sizes}"
            assert error(d, o) <= TOLERANCE[F64], where
            assert error(s, d) <= TOLERANCE[F32], where
            assert error(s, t) <= 2 * TOLERANCE[F32], where  # both err


@BOTH
def test_bias_residual_and_unwanted_gradients_may_be_absent(dtype):
    a = arguments(matmul_forward, (7, 9, 5))
    with_zeros = run(
        ops, matmul_forward, {**a, "b": np.zeros(5), "residual": np.zeros((7, 5))}, dtype
    )
    without = run(ops, matmul_forward, {**a, "b": None, "residual": None}, dtype)
    assert np.array_equal(with_zeros[0], without[0])
    for kernel, sizes in ((matmul_backward, (7, 9, 5)), (layernorm_backward, (7, 9))):
        a = {k: v.astype(dtype) for k, v in arguments(kernel, sizes).items()}
        wanted = {k: a[k].copy() for k in ("dx", "dw", "db")}
        getattr(ops, kernel.__name__)(**{**a, **wanted})
        for name in wanted:
            alone = {k: a[k].copy() if k == name else None for k in wanted}
            getattr(ops, kernel.__name__)(**{**a, **alone})
            assert np.array_equal(alone[name], wanted[name]), name


@BOTH
def test_an_allowed_in_place_call_gives_the_bits_of_the_call_with_two_arrays(dtype):
    def pair(kernel, out, source, sizes):
        a = {
            k: v.astype(dtype) if v.dtype == F64 else v for k, v in arguments(kernel, sizes).items()
        }
        apart = {**a, out: a[out].copy()}
        getattr(ops, kernel.__name__)(**apart, threads=1)
        shared = {**a, out: a[source]}
        getattr(ops, kernel.__name__)(**shared, threads=1)
        assert np.array_equal(apart[out], shared[out]), (kernel.__name__, sizes)

    pair(gelu_forward, "y", "x", (37,))
    pair(gelu_backward, "dx", "dy", (37,))
    pair(cross_entropy_backward, "dlogits", "logits", (7, 69))


# ------------------------------------------------------------------------------- known by heart


@BOTH
@pytest.mark.parametrize("module", [ops, reference], ids=["ops", "numpy"])
def test_uniform_logits_cost_ln_V(module, dtype):
    for V in (1, 2, 65, 68, 130):
        nll, lse, labels = (
            np.empty(3, dtype),
            np.empty(3, dtype),
            np.array([0, V // 2, V - 1], np.int32),
        )
        module.cross_entropy_forward(nll, lse, np.full((3, V), 7.5, dtype), labels)
        # The 7.5 that is added and taken off again rounds ln V to the grid of 8 + ln V.
        np.testing.assert_allclose(nll, math.log(V), rtol=0, atol=16 * np.finfo(dtype).eps)


@BOTH
@pytest.mark.parametrize("module", [ops, reference], ids=["ops", "numpy"])
def test_attention_over_three_tokens_as_worked_by_hand(module, dtype):
    """Queries (2,0,0,0), keys (ln j,0,0,0), D = 4: the scores 2 ln j / sqrt(4) = ln 1, ln 2, ln 3
    give P = (1), (1,2)/3, (1,2,3)/6, and over the values 6, 12, 18: 6, 10, 14."""
    qkv = np.zeros((3, 12), dtype)
    qkv[:, 0], qkv[:, 4], qkv[:, 8] = 2, np.log([1, 2, 3]), [6, 12, 18]
    y, lse, cu = np.empty((3, 4), dtype), np.empty((3, 1), dtype), offsets([3])
    module.attention_forward(y, lse, qkv, cu)
    tolerance = dict(
        rtol=0, atol=64 * np.finfo(dtype).eps
    )  # values up to 18, a handful of roundings
    np.testing.assert_allclose(
        y, np.array([[6, 0, 0, 0], [10, 0, 0, 0], [14, 0, 0, 0]]), **tolerance
    )
    np.testing.assert_allclose(lse[:, 0], np.log([1, 3, 6]), **tolerance)
    # One unit of gradient at y[2]: dv = P; dP = v, so dscore = P (v - 14) = -8/6, -4/6, 2;
    # dk_j = dscore_j q / 2, dq = sum_j dscore_j k_j / 2.
    dy, dqkv = np.zeros((3, 4), dtype), np.full((3, 12), np.nan, dtype)
    dy[2, 0] = 1
    module.attention_backward(dqkv, dy, qkv, y, lse, cu)
    expected = np.zeros((3, 12))
    dscore = np.array([-8 / 6, -4 / 6, 2])
    expected[:, 8], expected[:, 4], expected[2, 0] = (
        [1 / 6, 1 / 3, 1 / 2],
        dscore,
        dscore @ np.log([1, 2, 3]) / 2,
    )
    np.testing.assert_allclose(dqkv, expected, **tolerance)


@BOTH
@pytest.mark.parametrize("module", [ops, reference], ids=["ops", "numpy"])
def test_layernorm_of_a_row_of_ones_and_threes(module, dtype):
    """Mean 2, variance 1: y = -+1 / sqrt(1 + eps), scaled by 10 and shifted by the bias."""
    x = np.tile(np.array([1, 3], dtype), (1, 9))
    y, mean, rstd, b = (
        np.empty_like(x),
        np.empty(1, dtype),
        np.empty(1, dtype),
        np.arange(18, dtype=dtype),
    )
    module.layernorm_forward(y, mean, rstd, x, np.full(18, 10, dtype), b, 0.21)
    assert mean[0] == 2
    np.testing.assert_allclose(rstd, 1 / 1.1, rtol=4 * np.finfo(dtype).eps)
    np.testing.assert_allclose(
        y[0], b + np.tile([-10, 10], 9) / 1.1, rtol=0, atol=32 * np.finfo(dtype).eps
    )


@BOTH
@pytest.mark.parametrize("module", [ops, reference], ids=["ops", "numpy"])
def test_a_row_of_one_channel_is_its_own_mean_and_feels_nothing(module, dtype):
    x, y, mean, rstd = (
        np.full((1, 1), 0.3, dtype),
        np.empty((1, 1), dtype),
        np.empty(1, dtype),
        np.empty(1, dtype),
    )
    w, b, dx = np.full(1, 1.7, dtype), np.full(1, 0.6, dtype), np.zeros((1, 1), dtype)
    module.layernorm_forward(y, mean, rstd, x, w, b)
    module.layernorm_backward(dx, None, None, np.full((1, 1), 0.9, dtype), x, w, mean, rstd)
    assert y[0, 0] == b[0]
    # The variance is 0 and rstd 1 / sqrt(1e-5) = 316, which magnifies the rounding of g - mean(g).
    assert abs(dx[0, 0]) <= 316 * 0.9 * 1.7 * np.finfo(dtype).eps


@BOTH
@pytest.mark.parametrize("module", [ops, reference], ids=["ops", "numpy"])
def test_a_gradient_of_softmax_sums_to_zero_over_the_row(module, dtype):
    a = arguments(cross_entropy_backward, (9, 69))
    (dlogits,) = run(module, cross_entropy_backward, a, dtype)
    # 69 roundings of numbers below |dnll| < 4
    assert np.abs(dlogits.sum(axis=1, dtype=F64)).max() <= 32 * np.finfo(dtype).eps


@BOTH
@pytest.mark.parametrize("module", [ops, reference], ids=["ops", "numpy"])
def test_a_shift_of_all_logits_changes_no_loss_and_1e4_overflows_nothing(module, dtype):
    labels = np.array([0, 1, 2], np.int32)
    nll, lse = np.empty(3, dtype), np.empty(3, dtype)
    for shift in (-1e4, 0, 1e4):
        module.cross_entropy_forward(
            nll, lse, np.tile(np.array([0, 1, 2], dtype) + dtype(shift), (3, 1)), labels
        )
        expected = math.log(1 + math.e + math.e**2) - np.arange(3)
        np.testing.assert_allclose(
            nll, expected, rtol=0, atol=2e4 * np.finfo(dtype).eps
        )  # as coarse as 1e4 is


@BOTH
@pytest.mark.parametrize("module", [ops, reference], ids=["ops", "numpy"])
def test_the_first_adamw_step_moves_each_weight_by_the_learning_rate_against_its_gradient(
    module, dtype
):
    g = np.array([1e-3, -1, 50, -2e4], dtype)
    w, m, v = np.ones(4, dtype), np.zeros(4, dtype), np.zeros(4, dtype)
    module.adamw(w, m, v, g, 1, 0.25, decay=0.5)
    # The decay first: 1 - 0.25 * 0.5; then 0.25 against the sign, but for eps / |g| = 1e-5 of it.
    np.testing.assert_allclose(w, 0.875 - 0.25 * np.sign(g), rtol=0, atol=1e-5)


@BOTH
@pytest.mark.parametrize("module", [ops, reference], ids=["ops", "numpy"])
def test_positions_start_at_zero_in_every_sequence(module, dtype):
    y = np.empty((5, 1), dtype)
    tokens = np.array([1, 0, 1, 1, 0], np.int32)
    wte, wpe = np.array([[10], [20]], dtype), np.arange(3, dtype=dtype)[:, None]
    module.embedding_forward(y, tokens, offsets([2, 3]), wte, wpe)
    assert y[:, 0].tolist() == [20, 11, 20, 21, 12]


# ---------------------------------------------------------------------------- -100, added, written


@BOTH
def test_a_row_labelled_minus_100_costs_exactly_nothing_and_feels_exactly_nothing(dtype):
    logits = np.full((4, 69), np.nan, dtype)  # not even looked at
    logits[2] = 1
    labels = np.array([-100, -100, 3, -100], np.int32)
    nll, lse, dlogits = np.full(4, 9, dtype), np.empty(4, dtype), np.full((4, 69), np.nan, dtype)
    ops.cross_entropy_forward(nll, lse, logits, labels)
    ops.cross_entropy_backward(dlogits, np.ones(4, dtype), logits, lse, labels)
    masked = labels == -100
    assert (nll[masked] == 0).all() and (dlogits[masked] == 0).all()
    assert nll[2] > 0 and np.isfinite(dlogits[2]).all() and (dlogits[2] != 0).all()


@BOTH
@pytest.mark.parametrize("module", [ops, reference], ids=["ops", "numpy"])
@pytest.mark.parametrize("kernel", ADDED, ids=lambda k: k.__name__)
def test_parameter_gradients_add_to_what_stands_there(kernel, module, dtype):
    a = arguments(kernel, SIZES[kernel][3])
    added = ADDED[kernel].split()
    alone = dict(
        zip(
            WRITTEN[kernel].split(),
            run(module, kernel, {**a, **{k: 0 * a[k] for k in added}}, dtype),
        )
    )
    onto = dict(zip(WRITTEN[kernel].split(), run(module, kernel, a, dtype)))
    for name in added:
        assert distance(onto[name], a[name] + alone[name]) <= TOLERANCE[dtype], name
        assert np.abs(a[name]).max() > 0.1


@BOTH
@pytest.mark.parametrize("module", [ops, reference], ids=["ops", "numpy"])
@KERNELS
def test_what_is_written_does_not_depend_on_what_stood_there(kernel, module, dtype):
    added = ADDED.get(kernel, "w m v" if kernel is adamw else "").split()
    names = [n for n in WRITTEN[kernel].split() if n not in added]
    for sizes in SIZES[kernel][3:6]:
        a = arguments(kernel, sizes)
        over_nan = run(module, kernel, a, dtype)
        over_five = run(module, kernel, {**a, **{n: np.full_like(a[n], 5) for n in names}}, dtype)
        for x, y in zip(over_nan, over_five):
            assert np.array_equal(x, y) and np.isfinite(x).all()


# -------------------------------------------------------------------------------- the same bits


@BOTH
@KERNELS
def test_bits_are_the_same_for_1_2_3_and_4_threads(kernel, dtype):
    a = arguments(kernel, LARGE[kernel])
    one = run(ops, kernel, a, dtype, threads=1)
    for threads in (2, 3, 4):
        for x, y in zip(run(ops, kernel, a, dtype, threads=threads), one):
            assert np.array_equal(x, y), threads


@BOTH
@KERNELS
def test_bits_do_not_depend_on_an_arrays_address(kernel, dtype):
    a = {
        k: v.astype(dtype) if isinstance(v, np.ndarray) and v.dtype == F64 else v
        for k, v in arguments(kernel, SIZES[kernel][-1]).items()
    }

    def moved(x):
        if not isinstance(x, np.ndarray):
            return x
        wider = np.zeros(x.size + shift, x.dtype)
        wider[shift:] = x.ravel()
        return wider[shift:].reshape(x.shape)

    results = []
    for shift in (0, 1, 3):
        b = {k: moved(v) for k, v in a.items()}
        result = getattr(ops, kernel.__name__)(**b, threads=1)
        results.append([b[n] for n in WRITTEN[kernel].split()] or [np.array(result)])
    for others in results[1:]:
        for x, y in zip(others, results[0]):
            assert np.array_equal(x, y)


def forward_rows(dtype):
    """For each forward kernel, a function from (how many rows a sequence has, how many strangers
    stand before it and behind it, at which row it starts, its cuts) to the results of the
    sequence's rows. Row i's input is the same always."""
    rng = np.random.default_rng(5)
    total, C, K, V, H = 400, 37, 67, 69, 2
    x, w, b = (rng.standard_normal(s).astype(dtype) for s in ((total, C), (K, C), K))
    skip, qkv = (rng.standard_normal(s).astype(dtype) for s in ((total, K), (total, 3 * 18)))
    logits, wte, wpe = (
        rng.standard_normal(s).astype(dtype) for s in ((total, V), (V, C), (total, C))
    )
    tokens = rng.integers(0, V, total).astype(np.int32)

    def pick(a, n, before, behind, start):  # strangers come from the end
        strangers = a[total - before - behind :]
        return np.ascontiguousarray(
            np.concatenate([strangers[:before], a[start : start + n], strangers[before:]])
        )

    def kernel(name):
        def results(n, before=0, behind=0, start=0, cuts=None):
            N, where = before + n + behind, (n, before, behind, start)
            cu = offsets(cuts or [k for k in (before, n, behind) if k])
            out = {
                "matmul": [(N, K)],
                "attention": [(N, 18), (N, H)],
                "layernorm": [(N, C), (N,), (N,)],
                "gelu": [(N, C)],
                "embedding": [(N, C)],
                "cross_entropy": [(N,), (N,)],
            }[name]
            out = [np.full(shape, np.nan, dtype) for shape in out]
            rest = {
                "matmul": lambda: (pick(x, *where), w, b, pick(skip, *where)),
                "attention": lambda: (pick(qkv, *where), cu),
                "layernorm": lambda: (pick(x, *where), w[0].copy(), w[1].copy()),
                "gelu": lambda: (pick(x, *where),),
                "embedding": lambda: (pick(tokens, *where), cu, wte, wpe),
                "cross_entropy": lambda: (pick(logits, *where), pick(tokens, *where)),
            }[name]()
            getattr(ops, name + "_forward")(*out, *rest, threads=2)
            return [o[before : before + n] for o in out]

        return results

    return {
        name: kernel(name)
        for name in ("matmul", "attention", "layernorm", "gelu", "embedding", "cross_entropy")
    }


@BOTH
def test_later_rows_never_change_a_bit_of_earlier_rows(dtype):
    for name, rows in forward_rows(dtype).items():
        whole = rows(140)
        for n in [*range(1, 70), 100, 127, 128, 129, 139]:
            for short, long in zip(rows(n), whole):
                assert np.array_equal(short, long[:n]), (name, n)


@BOTH
def test_a_sequence_has_the_same_bits_alone_and_among_others(dtype):
    for name, rows in forward_rows(dtype).items():
        for n in (1, 13, 66):
            alone = rows(n)
            for before in (*range(14), 23, 63, 64, 65, 200):
                for packed, single in zip(rows(n, before, 7 * before % 30), alone):
                    assert np.array_equal(packed, single), (name, n, before)


@BOTH
def test_a_row_has_the_same_bits_alone_and_among_rows_that_are_sequences_of_their_own(dtype):
    for name, rows in forward_rows(dtype).items():
        together = rows(140, cuts=[1] * 140)
        for i in range(140):
            for one, many in zip(rows(1, start=i), together):
                assert np.array_equal(one[0], many[i]), (name, i)


@BOTH
def test_a_neighbours_nan_does_not_cross_into_another_sequence(dtype):
    qkv = np.ones((9, 12), dtype)
    qkv[4:6] = np.nan
    y, lse = np.empty((9, 4), dtype), np.empty((9, 2), dtype)
    ops.attention_forward(y, lse, qkv, offsets([4, 2, 3]))
    assert np.isfinite(np.delete(y, [4, 5], axis=0)).all() and np.isnan(y[4:6]).all()


@BOTH
def test_two_python_threads_at_once_get_what_each_gets_alone(dtype):
    cases = [
        (k, arguments(k, LARGE[k]))
        for k in (attention_forward, attention_backward, matmul_backward, adamw)
    ]
    alone = [run(ops, kernel, a, dtype, threads=2) for kernel, a in cases]
    wrong = []

    def work():
        for _ in range(8):
            for (kernel, a), expected in zip(cases, alone):
                got = run(ops, kernel, a, dtype, threads=2)
                wrong.extend(
                    kernel.__name__ for x, y in zip(got, expected) if not np.array_equal(x, y)
                )

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_a_forked_child_computes_the_same_on_one_thread_and_says_so():
    done = python(
        "-c",
        """if True:
        import os, numpy as np
        from pysft.nn import ops
        kernels = ops.on_threads(2)
        x, w = np.random.default_rng(0).standard_normal((2, 200, 200))
        y, z = np.empty_like(x), np.empty_like(x)
        kernels.matmul_forward(y, x, w)
        child = os.fork()
        if not child:
            kernels.matmul_forward(z, x, w)
            kernels.matmul_forward(z, x, w)
            os._exit(0 if np.array_equal(y, z) else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """,
        timeout=30,
    )
    assert done.stdout.strip() == "0", done.stderr
    assert (
        done.stderr.count("forked") == 1
        and "one thread" in done.stderr
        and len(done.stderr.splitlines()) == 1
    )


@BOTH
@pytest.mark.parametrize("V", [1, 3, 16, 23, 68])
def test_one_huge_logit_wherever_it_stands_overflows_nothing(V, dtype):
    """The largest of a row is subtracted before exp, so it must be found in every lane of a vector,
    tail or not."""
    logits = np.zeros((V, V), dtype)
    np.fill_diagonal(logits, 1000)
    nll, lse, labels = np.empty(V, dtype), np.empty(V, dtype), np.arange(V, dtype=np.int32)
    ops.cross_entropy_forward(nll, lse, logits, labels)
    assert (nll == 0).all() and (lse == 1000).all()
    ops.cross_entropy_forward(nll, lse, logits, np.roll(labels, 1))
    assert (nll == (1000 if V > 1 else 0)).all()


# --------------------------------------------------------------------------- exp, gelu, the flags


@pytest.fixture(scope="module")
def vexp(tmp_path_factory):
    """csrc/simd.h's exp in float32, compiled as this instruction set's kernels are."""
    folder = tmp_path_factory.mktemp("vexp")
    (folder / "vexp.c").write_text("""
        #include "simd.h"
        __attribute__((visibility("default"))) void exps(float *y, const float *x, int64_t n) {
            for (int64_t i = 0; i < n; i += VL) store(y + i, vexp(load(x + i)));
        }""")
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    subprocess.run(
        [
            *compiler[:1],
            *_build.FLAGS,
            *_build.ISAS[ops.ISA],
            f"-I{ROOT / 'csrc'}",
            "-shared",
            str(folder / "vexp.c"),
            "-o",
            str(folder / "vexp.so"),
            "-lm",
        ],
        check=True,
    )
    exps = ctypes.CDLL(str(folder / "vexp.so")).exps

    def call(x):
        x = np.asarray(x, F32)
        padded = np.zeros(-(-x.size // 16) * 16, F32)
        padded[: x.size] = x
        y = np.empty_like(padded)
        exps(
            y.ctypes.data_as(ctypes.c_void_p),
            padded.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_int64(x.size),
        )
        return y[: x.size]

    return call


def test_exp_is_within_1_01_ulp_of_the_true_value_from_minus_87_to_88(vexp):
    """Over all 660 million inputs the worst is 1.0095 ulp, at -59.92188; with a base without fused
    multiply-add 0.982."""
    x = np.concatenate(
        [
            np.linspace(-87, 88, 1 << 20, dtype=F32),
            np.linspace(-1e-3, 1e-3, 1 << 16, dtype=F32),
            np.array([-59.92188, 26.726343, -81.39479], F32),
        ]
    )
    true = np.exp(x.astype(F64))
    error = np.abs(vexp(x).astype(F64) - true) / np.spacing(true.astype(F32)).astype(F64)
    assert error.max() <= 1.01, (error.max(), x[error.argmax()])


def test_a_sum_over_a_large_vocabulary_keeps_its_last_bits():
    """One number near 1 and fifty thousand near nothing, as the head's gradient has them: added one
    by one the error is 5e-6, since each addition rounds to the last bit of the large one."""
    g = np.random.default_rng(1)
    K, C = 50257, 150
    dy, w = (1e-4 * g.standard_normal((8, K))).astype(F32), g.standard_normal((K, C)).astype(F32)
    dy[:, 0] = 1
    dx = np.empty((8, C), F32)
    ops.matmul_backward(dx, None, None, dy, np.zeros((8, C), F32), w)
    true = dy.astype(F64) @ w.astype(F64)
    assert np.linalg.norm(dx - true) / np.linalg.norm(true) < 1e-6


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("sum_of", [3071, 3072, 3073, 6200])  # around LONG, and beyond it twice
def test_a_long_sum_has_its_bias_and_residual_once_in_every_panel(dtype, sum_of):
    g = np.random.default_rng(2)
    x, w, b, residual = (
        g.standard_normal(shape).astype(dtype)
        for shape in ((9, sum_of), (150, sum_of), (150,), (9, 150))
    )
    y = np.empty((9, 150), dtype)
    ops.matmul_forward(y, x, w, b, residual)
    true = x.astype(F64) @ w.astype(F64).T + b + residual
    assert np.abs(y - true).max() <= np.abs(true).max() * 40 * np.finfo(dtype).eps
    alone = np.empty((1, 150), dtype)
    ops.matmul_forward(alone, x[4:5], w, b, residual[4:5])
    assert np.array_equal(alone[0], y[4])


def test_exp_at_its_ends_and_at_zero(vexp):
    assert (vexp([0, -0.0]) == 1).all()
    assert (vexp([-87.69, -88, -1e3, -1e30, -np.inf]) == 0).all()
    assert vexp([-87.5]) == pytest.approx(np.exp(-87.5), rel=1e-6)  # denormal
    assert np.isposinf(vexp([88.377, 89, 1e3, 1e30, np.inf])).all()
    assert np.isnan(vexp([np.nan])).all()
    assert (vexp([-87.33, 88.37]) > 0).all() and np.isfinite(vexp([-87.33, 88.37])).all()


def test_gelu_in_float32_errs_by_at_most_a_millionth_from_minus_8_to_8():
    x = np.linspace(-8, 8, 1 << 18, dtype=F32)
    y = np.empty_like(x)
    ops.gelu_forward(y, x)
    z = x.astype(F64)
    true = 0.5 * z * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
    assert np.abs(y - true).max() <= 1e-6


def test_gelu_of_an_element_does_not_depend_on_where_it_stands():
    for dtype in (F32, F64):
        x = np.random.default_rng(0).standard_normal(131).astype(dtype)
        whole = np.empty_like(x)
        ops.gelu_forward(whole, x)
        alone = np.empty((131, 1), dtype)
        for i in range(131):
            ops.gelu_forward(alone[i], x[i : i + 1])
        assert np.array_equal(alone[:, 0], whole)


def test_loading_the_kernels_neither_flushes_denormals_nor_hides_nan():
    assert F32(1e-30) * F32(1e-12) != 0
    w, m, v = np.zeros(40, F32), np.full(40, 1e-38, F32), np.zeros(40, F32)
    ops.adamw(w, m, v, np.zeros(40, F32), 1, 0.0)
    assert (m == F32(0.9) * F32(1e-38)).all() and (0 < m).all() and (m < np.finfo(F32).tiny).all()
    assert np.isnan(np.array([np.nan, 1], F32)).tolist() == [True, False]


@BOTH
def test_a_nan_logit_makes_its_rows_loss_nan_and_no_other(dtype):
    for position in (0, 1, 7, 63, 64, 68):  # in the body and in the tail of a row
        logits = np.random.default_rng(0).standard_normal((3, 69)).astype(dtype)
        logits[1, position] = np.nan
        nll, lse = np.empty(3, dtype), np.empty(3, dtype)
        ops.cross_entropy_forward(nll, lse, logits, np.array([5, 5, 5], np.int32))
        assert np.isnan(nll).tolist() == [False, True, False]


def test_every_kernel_of_the_gate_is_in_these_tables_and_in_the_reference():
    names = {kernel.__name__ for kernel in ops.KERNELS}
    assert (
        names
        == {kernel.__name__ for kernel in WRITTEN}
        == set(vars(ops.on_threads(1)))
        - {"calls", "decoder", "decode_sizes", "decode_pack", "decode_forward"}
    )  # tests/test_decode.py
    assert isinstance(ops.on_threads(1), SimpleNamespace) and all(
        hasattr(reference, name) for name in names
    )
