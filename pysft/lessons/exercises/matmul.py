"""The matrix product of a linear layer: its forward and its backward."""

import numpy as np

from pysft.lessons.problem import ADDED, WRITTEN, Problem
from pysft.nn import reference

SIZES = ({"N": 5, "C": 7, "K": 3}, {"N": 4, "C": 6, "K": 11})
BARE = {"N": 2, "C": 5, "K": 8}  # of the case without bias and residual


def forward_arguments(rng, sizes) -> dict:
    N, C, K = sizes.values()
    return {
        "x": rng.standard_normal((N, C)),
        "w": rng.standard_normal((K, C)),
        "b": None if sizes == BARE else rng.standard_normal(K),
        "residual": None if sizes == BARE else rng.standard_normal((N, K)),
    }


def forward(arguments: dict, wrong: frozenset) -> dict:
    """matmul_forward, with these mistakes."""
    x, w, b, residual = arguments.values()
    K, C = w.shape
    y = x @ (w.reshape(C, K) if "reshape-for-transpose" in wrong else w.T)
    if "scaled-by-root-of-c" in wrong:
        y = y / np.sqrt(C)
    if b is not None and "bias-left-out" not in wrong:
        if "bias-summed" in wrong:
            b = b.sum()
        if "bias-multiplied" in wrong:
            y = y * b
        else:
            y = y - b if "bias-subtracted" in wrong else y + b
    if residual is not None and "residual-left-out" not in wrong:
        if "residual-multiplied" in wrong:
            y = y * residual
        else:
            y = y - residual if "residual-subtracted" in wrong else y + residual
    return {"y": y}


FORWARD = Problem(
    function="matmul_forward",
    skeleton='''def matmul_forward(y, x, w, b=None, residual=None):
    """Write y (N,K), given x (N,C), w (K,C), and b (K,) and residual (N,K), if they are given."""
''',
    arguments=forward_arguments,
    answer=forward,
    sizes=(*SIZES, BARE),
    outputs={"y": WRITTEN},
    mistakes=(
        "reshape-for-transpose",
        "scaled-by-root-of-c",
        "bias-left-out",
        "bias-subtracted",
        "bias-summed",
        "bias-multiplied",
        "residual-left-out",
        "residual-subtracted",
        "residual-multiplied",
    ),
)


def backward_arguments(rng, sizes) -> dict:
    given = forward_arguments(rng, sizes)
    dy = rng.standard_normal(given["residual"].shape)
    return {"dy": dy, "x": given["x"], "w": given["w"], "_b": given["b"]}


def backward(arguments: dict, wrong: frozenset) -> dict:
    """matmul_backward, with these mistakes."""
    dy, x, w, _ = arguments.values()
    (N, C), K = x.shape, len(w)
    if "dy-forgotten" in wrong:
        dy = np.ones_like(dy)
    if "y-for-dy" in wrong:
        dy = x @ w.T
    if "x-for-w-in-dx" in wrong:
        dx = dy @ dy.T @ x
    elif "reshape-for-transpose-in-dx" in wrong:
        dx = dy @ w.T.reshape(K, C)
    else:
        dx = dy @ w
    if "w-for-x-in-dw" in wrong:
        dw = dy.T @ dy @ w
    elif "reshape-for-transpose-in-dw" in wrong:
        dw = (x.T @ dy).reshape(K, C)
    elif "product-of-sums-in-dw" in wrong:
        dw = np.outer(dy.sum(axis=0), x.sum(axis=0))
    else:
        dw = dy.T @ x
    db = dy.sum(axis=0)
    if "mean-in-db" in wrong:
        db = dy.mean(axis=0)
    if "all-elements-in-db" in wrong:
        db = np.full(K, dy.sum())
    if "x-in-db" in wrong:
        db = (dy.T @ x).sum(axis=1)
    if "mean-over-rows" in wrong:
        dw, db = dw / N, db / N
    return {"dx": dx, "dw": dw, "db": db}


def loss(arguments: dict) -> float:
    """sum(dy * y), without a residual, whose gradient is dy."""
    y = np.empty_like(arguments["dy"])
    reference.matmul_forward(y, arguments["x"], arguments["w"], arguments["_b"])
    return float((arguments["dy"] * y).sum())


BACKWARD = Problem(
    function="matmul_backward",
    skeleton='''def matmul_backward(dx, dw, db, dy, x, w):
    """Write dx (N,C), and add to dw (K,C) and db (K,), given dy (N,K), x (N,C) and w (K,C)."""
''',
    arguments=backward_arguments,
    answer=backward,
    sizes=SIZES,
    outputs={"dx": WRITTEN, "dw": ADDED, "db": ADDED},
    loss=loss,
    of={"dx": "x", "dw": "w", "db": "_b"},
    mistakes=(
        "x-for-w-in-dx",
        "reshape-for-transpose-in-dx",
        "w-for-x-in-dw",
        "reshape-for-transpose-in-dw",
        "product-of-sums-in-dw",
        "dy-forgotten",
        "y-for-dy",
        "mean-over-rows",
        "mean-in-db",
        "all-elements-in-db",
        "x-in-db",
    ),
)

PROBLEMS = (FORWARD, BACKWARD)
