"""Layer norm: its forward and its backward."""

import numpy as np

from pysft.lessons.problem import ADDED, WRITTEN, Fact, Problem
from pysft.nn import reference

SIZES = ({"N": 5, "C": 7}, {"N": 3, "C": 11})


def forward_arguments(rng, sizes) -> dict:
    """Rows of different means and variances. eps is large, so that it shows where it stands, and
    another one in each case, so that a constant in its place shows too. far: the numbers of the
    first row are so large that the squares of them overflow, and those of its deviations do not."""
    N, C = sizes["N"], sizes["C"]
    x = rng.uniform(0.5, 2, (N, 1)) * rng.standard_normal((N, C)) + rng.standard_normal((N, 1))
    if sizes.get("far"):
        x[0] = 1e155 + 1e151 * x[0]
    return {
        "x": x,
        "w": rng.standard_normal(C),
        "b": rng.standard_normal(C),
        "eps": rng.uniform(0.01, 0.05),
    }


@np.errstate(all="ignore")
def forward(arguments: dict, wrong: frozenset) -> dict:
    """layernorm_forward, with these mistakes."""
    x, w, b, eps = arguments.values()
    C = x.shape[1]
    mean, variance = x.mean(axis=1), x.var(axis=1)
    if "statistics-over-all-rows" in wrong:
        mean, variance = np.full(len(x), x.mean()), np.full(len(x), x.var())
    if "mean-square-minus-squared-mean" in wrong:
        variance = (x**2).mean(axis=1) - mean**2
    if "mean-square-for-variance" in wrong:
        variance = variance + mean**2
    if "unbiased-variance" in wrong:
        variance = variance * C / (C - 1)
    elif "sum-for-mean-in-variance" in wrong:
        variance = variance * C
    if "eps-left-out" in wrong:
        eps = 0.0
    elif "eps-not-the-argument" in wrong:
        eps = 1e-5
    elif "other-eps" in wrong:
        eps = 0.1
    if "root-left-out" in wrong:
        rstd = 1 / (variance + eps)
    elif "eps-outside-the-root" in wrong:
        rstd = 1 / (np.sqrt(variance) + eps)
    else:
        rstd = 1 / np.sqrt(variance + eps)
    centred = x if "mean-not-subtracted" in wrong else x - mean[:, None]
    norm = centred / rstd[:, None] if "divided-by-rstd" in wrong else centred * rstd[:, None]
    scale = np.ones_like(w) if "weight-left-out" in wrong else w
    shift = np.zeros_like(b) if "bias-left-out" in wrong else b
    y = (norm + shift) * scale if "bias-before-weight" in wrong else norm * scale + shift
    return {"y": y, "mean": mean, "rstd": 1 / rstd if "deviation-for-rstd" in wrong else rstd}


FORWARD = Problem(
    function="layernorm_forward",
    skeleton='''def layernorm_forward(y, mean, rstd, x, w, b, eps=1e-5):
    """Write y (N,C), mean (N,) and rstd (N,) from x (N,C), w (C,) and b (C,)."""
''',
    arguments=forward_arguments,
    answer=forward,
    sizes=(*SIZES, {"N": 2, "C": 6, "far": True}),
    outputs={"y": WRITTEN, "mean": WRITTEN, "rstd": WRITTEN},
    mistakes=(
        "statistics-over-all-rows",
        "mean-not-subtracted",
        "mean-square-for-variance",
        "mean-square-minus-squared-mean",
        "unbiased-variance",
        "sum-for-mean-in-variance",
        "root-left-out",
        "divided-by-rstd",
        "deviation-for-rstd",
        "eps-left-out",
        "eps-outside-the-root",
        "eps-not-the-argument",
        "other-eps",
        "weight-left-out",
        "bias-left-out",
        "bias-before-weight",
    ),
)


def backward_arguments(rng, sizes) -> dict:
    given = forward_arguments(rng, sizes)
    right = forward(given, frozenset())
    dy = rng.standard_normal(given["x"].shape)
    saved = {"mean": right["mean"], "rstd": right["rstd"]}
    others = {"_b": given["b"], "_eps": given["eps"]}
    return {"dy": dy, "x": given["x"], "w": given["w"]} | saved | others


# Mistakes with this power of rstd too much in the term through the variance: norm and the deviation
# were taken for each other, or d rstd for a power of norm.
POWERS_OF_RSTD = {
    "rstd-missing-from-variance-term": -1,
    "rstd-missing-twice-from-variance-term": -2,
    "rstd-once-too-often-in-variance-term": 1,
    "rstd-twice-too-often-in-variance-term": 2,
}


def backward(arguments: dict, wrong: frozenset) -> dict:
    """layernorm_backward, with these mistakes."""
    dy, x, w, mean, rstd, *_ = arguments.values()
    C = x.shape[1]
    norm = (x - mean[:, None]) * rstd[:, None]
    g = dy * w
    if {"weight-forgotten", "weight-after-the-means"} & wrong:
        g = dy
    axis = 0 if "terms-averaged-over-rows" in wrong else 1
    mean_g = g.mean(axis=axis, keepdims=True)
    mean_g_norm = (g * norm).mean(axis=axis, keepdims=True)
    if "sum-for-mean" in wrong:
        mean_g, mean_g_norm = C * mean_g, C * mean_g_norm
    if "unbiased-variance" in wrong:
        mean_g_norm = mean_g_norm * C / (C - 1)
    if "mean-term-left-out" in wrong:
        mean_g = 0 * mean_g
    if "gradient-alone-in-variance-term" in wrong:
        mean_g_norm = mean_g
    elif "sum-left-out-of-variance-term" in wrong:
        mean_g_norm = g * norm / C
    if "variance-term-left-out" in wrong:
        mean_g_norm = 0 * mean_g_norm
    if "variance-term-added" in wrong:
        mean_g_norm = -mean_g_norm
    if "half-left-out-of-variance-term" in wrong:
        mean_g_norm = 2 * mean_g_norm
    elif "half-too-many-in-variance-term" in wrong:
        mean_g_norm = mean_g_norm / 2
    if "sum-in-variance-term" in wrong:
        mean_g_norm = C * mean_g_norm
    if "sum-in-mean-term" in wrong:
        mean_g = C * mean_g
    moves = norm  # how far the variance moves with each channel, up to a factor
    if "norm-left-out-of-variance-term" in wrong:
        moves = np.ones_like(x)
    elif "x-for-deviation-in-variance-term" in wrong:
        moves = x * rstd[:, None]
    for name, power in POWERS_OF_RSTD.items():
        if name in wrong:
            moves = moves * rstd[:, None] ** power
    if "mean-term-added" in wrong:
        mean_g = -mean_g
    if "rstd-missing-from-mean-term" in wrong:
        mean_g = mean_g / rstd[:, None]
    direct = g / rstd[:, None] if "rstd-missing-from-direct-term" in wrong else g
    dx = direct - mean_g - moves * mean_g_norm
    if "own-output-alone" in wrong:
        dx = g * (1 - 1 / C - norm**2 / C)
    if "rstd-left-out" not in wrong:
        dx = rstd[:, None] ** (3 if "rstd-cubed" in wrong else 1) * dx
    if "weight-after-the-means" in wrong:
        dx = dx * w
    dw = dy * (x if "x-for-norm-in-dw" in wrong else norm)
    if "rstd-left-out-of-dw" in wrong:
        dw = dw / rstd[:, None]
    if "weight-in-dw" in wrong:
        dw = dw * w
    db = dy * w if "weight-in-db" in wrong else dy
    over = np.mean if "mean-over-rows" in wrong else np.sum
    return {"dx": dx, "dw": over(dw, axis=0), "db": over(db, axis=0)}


def loss(arguments: dict) -> float:
    """sum(dy * y), with mean and rstd computed anew from x."""
    x, dy = arguments["x"], arguments["dy"]
    y, mean, rstd = np.empty_like(x), np.empty(len(x)), np.empty(len(x))
    reference.layernorm_forward(
        y, mean, rstd, x, arguments["w"], arguments["_b"], arguments["_eps"]
    )
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
    facts=(
        Fact(
            "dx",
            "In each row dx adds up to 0, as it must.",
            "dx does not add up to 0 in each row, as it must.",
            lambda given, dx: dx.sum(axis=1),
        ),
        Fact(
            "dx",
            "dx times x adds up to nearly 0, as it must.",
            "dx times x does not add up to nearly 0, as it must.",
            lambda given, dx: (dx * (given["x"] - given["mean"][:, None])).sum(axis=1),
        ),
    ),
    mistakes=(
        "rstd-missing-from-direct-term",
        "mean-term-left-out",
        "mean-term-added",
        "rstd-missing-from-mean-term",
        "variance-term-left-out",
        "variance-term-added",
        "norm-left-out-of-variance-term",
        "half-left-out-of-variance-term",
        "half-too-many-in-variance-term",
        *POWERS_OF_RSTD,
        "sum-left-out-of-variance-term",
        "gradient-alone-in-variance-term",
        "sum-in-variance-term",
        "x-for-deviation-in-variance-term",
        "own-output-alone",
        "terms-averaged-over-rows",
        "sum-for-mean",
        "unbiased-variance",
        "rstd-left-out",
        "weight-forgotten",
        "weight-after-the-means",
        "x-for-norm-in-dw",
        "rstd-left-out-of-dw",
        "weight-in-dw",
        "weight-in-db",
        "mean-over-rows",
        "sum-in-mean-term",
        "rstd-cubed",
    ),
)

PROBLEMS = (FORWARD, BACKWARD)
