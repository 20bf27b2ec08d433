"""Calls for tests/test_kernels.py: the arguments of every kernel, and sizes to make them of.

Each function below returns the arguments of one call, by name and in the kernel's order, in
float64. `r(*shape)` gives random numbers. Arrays that the kernel writes start as NaN, so an element
that it leaves out shows. Arrays that it adds to start with random numbers."""

import numpy as np
from conftest import offsets

from pysft.nn import reference
from pysft.nn.arena import Arena

F32, F64 = np.float32, np.float64


def nan(*shape):
    return np.full(shape, np.nan)


# ------------------------------------------------------------------------------------ arguments


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
    dqkv, dy = nan(*a["qkv"].shape), r(*a["y"].shape)
    return dict(dqkv=dqkv, dy=dy) | {k: a[k] for k in ("qkv", "y", "lse", "cu_seqlens")}


def layernorm_forward(r, N, C):
    return dict(y=nan(N, C), mean=nan(N), rstd=nan(N), x=r(N, C) + 1, w=r(C), b=r(C))


def layernorm_backward(r, N, C):
    x = r(N, C) + 1
    mean, rstd = x.mean(axis=1), 1 / np.sqrt(x.var(axis=1) + 1e-5)
    return dict(dx=r(N, C), dw=r(C), db=r(C), dy=r(N, C), x=x, w=r(C), mean=mean, rstd=rstd)


def gelu_forward(r, n):
    return dict(y=nan(n), x=2 * r(n))


def gelu_backward(r, n):
    return dict(dx=nan(n), dy=r(n), x=2 * r(n))


def gelu_forward_and_slope(r, n):
    return dict(y=nan(n), x=2 * r(n), dydx=nan(n))


def gelu_backward_by_slope(r, n):
    return dict(dx=nan(n), dy=r(n), x=None, dydx=r(n))


def _tokens(r, N, V):
    return (np.abs(r(N)) * 1e6).astype(np.int64).astype(np.int32) % np.int32(V)


def embedding_forward(r, lengths, V, C):
    N, T, cu_seqlens = sum(lengths), max(lengths), offsets(lengths)
    tokens = _tokens(r, N, V)
    return dict(y=nan(N, C), tokens=tokens, cu_seqlens=cu_seqlens, wte=r(V, C), wpe=r(T, C))


def embedding_backward(r, lengths, V, C):
    N, T, cu_seqlens = sum(lengths), max(lengths), offsets(lengths)
    tokens = _tokens(r, N, V)
    return dict(dwte=r(V, C), dwpe=r(T, C), dy=r(N, C), tokens=tokens, cu_seqlens=cu_seqlens)


def cross_entropy_forward(r, N, V):
    labels = _tokens(r, N, V)
    labels[1::3] = -100
    return dict(nll=nan(N), lse=nan(N), logits=3 * r(N, V), labels=labels)


def cross_entropy_backward(r, N, V):
    a = cross_entropy_forward(r, N, V)
    reference.cross_entropy_forward(**a)
    return dict(dlogits=nan(N, V), dnll=r(N)) | {k: a[k] for k in ("logits", "lse", "labels")}


def adamw(r, n):
    settings = dict(step=3, lr=0.01, beta1=0.9, beta2=0.99, eps=1e-8, decay=0.1)
    return dict(w=r(n), m=0.1 * r(n), v=0.1 * r(n) ** 2, g=r(n)) | settings


def sum_squares(r, n):
    return dict(x=r(n))


# These call the kernel of the same first two words in its other form.
for variant in (gelu_forward_and_slope, gelu_backward_by_slope):
    variant.__name__ = "_".join(variant.__name__.split("_")[:2])

# ------------------------------------------------------------------------- what a kernel changes

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
    embedding_forward: "y",
    embedding_backward: "dwte dwpe",
    cross_entropy_forward: "nll lse",
    cross_entropy_backward: "dlogits",
    adamw: "w m v",
    sum_squares: "",  # returns its result
}
ADDED = {  # those of WRITTEN that are added to
    matmul_backward: "dw db",
    layernorm_backward: "dx dw db",
    embedding_backward: "dwte dwpe",
}

# ---------------------------------------------------------------------------------------- sizes
# Whatever the instruction set, these stand before, on and behind an edge. Tiles have 4 or 6 rows
# and 4 to 64 columns. Blocks of a sum have 96 terms, in dw 256, and groups of dw 32 tiles. Vectors
# have 2 to 16 lanes, and blocks of keys 64 to 66 keys.

# fmt: off
MATMUL = [
    (1, 1, 1), (1, 128, 3), (2, 3, 4), (3, 9, 5), (4, 127, 7), (5, 129, 8), (6, 130, 9),
    (7, 257, 11), (8, 7, 12), (11, 5, 13), (12, 8, 23), (13, 16, 24), (17, 24, 25), (5, 65, 31),
    (3, 64, 32), (9, 63, 33), (7, 12, 63), (6, 25, 64), (13, 31, 65), (127, 33, 6), (128, 3, 70),
    (129, 13, 130), (130, 4, 1), (257, 2, 3), (5, 95, 7), (6, 96, 9), (7, 97, 65), (4, 193, 5),
    (255, 130, 391), (256, 66, 193),
]
ATTENTION = [
    ([1], 1, 1), ([2], 2, 3), ([3, 1, 4], 1, 4), ([5], 3, 7), ([6], 1, 8), ([7, 2], 2, 9),
    ([8], 1, 12), ([11], 1, 13), ([12, 13], 2, 16), ([23], 1, 17), ([24], 1, 24), ([25], 2, 25),
    ([31, 33], 1, 5), ([32], 1, 33), ([63], 2, 3), ([64], 1, 16), ([65], 1, 64), ([1, 66], 1, 65),
    ([127], 1, 4), ([129], 2, 8), ([130], 1, 100), ([4, 0, 3], 1, 2),
]
WIDTHS = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 23, 24, 25, 31, 32, 33, 63, 64, 65, 127, 128, 130]
# fmt: on
ROWS_WIDTHS = [(1 + i % 7, width) for i, width in enumerate(WIDTHS)]
ROWS_WIDTHS += [(63, 5), (64, 17), (65, 3), (130, 9)]
EMBEDDING = [([1], 1, 1), ([2, 1], 3, 5), ([4, 7], 5, 16), ([3, 0, 9], 2, 17), ([33], 65, 130)]
VECTORS = [(n,) for n in WIDTHS]
SIZES = {
    matmul_forward: MATMUL,
    matmul_backward: MATMUL,
    attention_forward: ATTENTION,
    attention_backward: ATTENTION,
    layernorm_forward: ROWS_WIDTHS,
    layernorm_backward: ROWS_WIDTHS[1:],
    gelu_forward: VECTORS,
    gelu_backward: VECTORS,
    gelu_forward_and_slope: VECTORS,
    gelu_backward_by_slope: VECTORS,
    embedding_forward: EMBEDDING,
    embedding_backward: EMBEDDING,
    cross_entropy_forward: ROWS_WIDTHS,
    cross_entropy_backward: ROWS_WIDTHS,
    adamw: VECTORS,
    sum_squares: [*VECTORS, (4095,), (4096,), (4097,), (8200,)],
}
# Odd sizes above every threshold below which a kernel stays on one thread.
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
    embedding_forward: ([100, 1, 399, 31], 67, 131),
    embedding_backward: ([100, 1, 399, 31], 67, 131),
    cross_entropy_forward: (301, 69),
    cross_entropy_backward: (301, 69),
    adamw: (20011,),
    sum_squares: (50001,),
}

# ------------------------------------------------------------------------------ making the call


def arguments(kernel, sizes, seed=0):
    """The arguments of one call; an array's numbers depend on its shape and the seed alone."""

    def r(*shape):
        return np.random.default_rng([seed, len(shape), *shape]).standard_normal(shape)

    return kernel(r, *sizes)


def run(module, kernel, arguments, dtype, **threads):
    """Call the kernel of this module; return the arrays that it writes. The arrays are in a guarded
    arena: an access outside of one either changes a guard word or reads a NaN. Arrays that are only
    read must keep their values."""
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
    for name in reals.keys() - set(written):
        first = arena.offsets[name]
        same = np.array_equal(arena[name].ravel(), before[first : first + arena[name].size])
        assert same, f"{name} was changed"
    return [arena[name].copy() for name in written] if written else [np.array(result)]


def rounded(arguments):
    """The same arguments, with every real number rounded to float32."""
    return {
        k: a.astype(F32).astype(F64) if isinstance(a, np.ndarray) and a.dtype == F64 else a
        for k, a in arguments.items()
    }
