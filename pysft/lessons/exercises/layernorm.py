"""Layer norm: its forward and its backward."""

import numpy as np

from pysft.lessons.problem import ADDED, WRITTEN, Problem
from pysft.nn import reference

EPS = 1e-5
SIZES = ({"N": 5, "C": 7}, {"N": 3, "C": 11})


def forward_arguments(rng, sizes) -> dict:
    N, C = sizes["N"], sizes["C"]
    return {
        "x": 2 * rng.standard_normal((N, C)) + rng.standard_normal((N, 1)),
        "w": rng.standard_normal(C),
        "b": rng.standard_normal(C),
        "eps": EPS,
    }


def forward(arguments: dict, wrong: frozenset) -> dict:
    """layernorm_forward, with these mistakes."""
    x, w, b, eps = arguments.values()
    mean = x.mean(axis=1)
    variance = x.var(axis=1, ddof=int("unbiased-variance" in wrong))
    if "eps-outside-the-root" in wrong:
        rstd = 1 / (np.sqrt(variance) + eps)
    elif "eps-left-out" in wrong:
        rstd = 1 / np.sqrt(variance)
    elif "other-eps" in wrong:
        rstd = 1 / np.sqrt(variance + 0.1)
    else:
        rstd = 1 / np.sqrt(variance + eps)
    if "variance-for-deviation" in wrong:
        rstd = rstd**2
    norm = (x - mean[:, None]) * rstd[:, None]
    scale = np.ones_like(w) if "weight-left-out" in wrong else w
    shift = np.zeros_like(b) if "bias-left-out" in wrong else b
    return {"y": norm * scale + shift, "mean": mean, "rstd": rstd}


FORWARD = Problem(
    function="layernorm_forward",
    skeleton='''def layernorm_forward(y, mean, rstd, x, w, b, eps=1e-5):
    """Write y (N,C), mean (N,) and rstd (N,) from x (N,C), w (C,) and b (C,)."""
''',
    arguments=forward_arguments,
    answer=forward,
    sizes=SIZES,
    outputs={"y": WRITTEN, "mean": WRITTEN, "rstd": WRITTEN},
    mistakes=(
        "unbiased-variance",
        "eps-outside-the-root",
        "eps-left-out",
        "other-eps",
        "variance-for-deviation",
        "weight-left-out",
        "bias-left-out",
    ),
)


def backward_arguments(rng, sizes) -> dict:
    given = forward_arguments(rng, sizes)
    right = forward(given, frozenset())
    dy = rng.standard_normal(given["x"].shape)
    saved = {"mean": right["mean"], "rstd": right["rstd"]}
    return {"dy": dy, "x": given["x"], "w": given["w"]} | saved | {"_b": given["b"]}


def backward(arguments: dict, wrong: frozenset) -> dict:
    """layernorm_backward, with these mistakes."""
    dy, x, w, mean, rstd, _ = arguments.values()
    C = x.shape[1]
    norm = (x - mean[:, None]) * rstd[:, None]
    g = dy if "weight-forgotten" in wrong else dy * w
    mean_g = g.mean(axis=1, keepdims=True)
    mean_g_norm = (g * norm).mean(axis=1, keepdims=True)
    if "sum-for-mean" in wrong:
        mean_g, mean_g_norm = C * mean_g, C * mean_g_norm
    if "divided-by-c-twice" in wrong:
        mean_g, mean_g_norm = mean_g / C, mean_g_norm / C
    if "unbiased-variance" in wrong:
        mean_g_norm = mean_g_norm * C / (C - 1)
    if "mean-term-left-out" in wrong:
        mean_g = 0 * mean_g
    if "variance-term-left-out" in wrong:
        mean_g_norm = 0 * mean_g_norm
    if "norm-left-out-of-variance-term" in wrong:
        dx = g - mean_g - mean_g_norm
    else:
        dx = g - mean_g - norm * mean_g_norm
    if "rstd-left-out" not in wrong:
        dx = rstd[:, None] * dx
    dw = dy * (x if "x-for-norm-in-dw" in wrong else norm)
    dw = dw.mean(axis=0) if "mean-over-rows" in wrong else dw.sum(axis=0)
    db = dy.mean(axis=0) if "mean-over-rows" in wrong else dy.sum(axis=0)
    if "weight-in-db" in wrong:
        db = db * w
    return {"dx": dx, "dw": dw, "db": db}


def loss(arguments: dict) -> float:
    """sum(dy * y), with mean and rstd computed anew from x."""
    x, dy = arguments["x"], arguments["dy"]
    y, mean, rstd = np.empty_like(x), np.empty(len(x)), np.empty(len(x))
    reference.layernorm_forward(y, mean, rstd, x, arguments["w"], arguments["_b"], EPS)
    return float((dy * y).sum())


BACKWARD = Problem(
    function="layernorm_backward",
    skeleton='''def layernorm_backward(dx, dw, db, dy, x, w, mean, rstd):
    """Add to dx (N,C), dw (C,) and db (C,), given dy (N,C), x (N,C), w (C,), mean and rstd (N,)."""
''',
    arguments=backward_arguments,
    answer=backward,
    sizes=SIZES,
    outputs={"dx": ADDED, "dw": ADDED, "db": ADDED},
    loss=loss,
    of={"dx": "x", "dw": "w", "db": "_b"},
    mistakes=(
        "mean-term-left-out",
        "variance-term-left-out",
        "sum-for-mean",
        "divided-by-c-twice",
        "unbiased-variance",
        "norm-left-out-of-variance-term",
        "rstd-left-out",
        "weight-forgotten",
        "x-for-norm-in-dw",
        "weight-in-db",
        "mean-over-rows",
    ),
)

PROBLEMS = (FORWARD, BACKWARD)
