"""LoRA: a linear layer with a frozen matrix and a low-rank change, forward and backward."""

import numpy as np

from pysft.lessons.problem import ADDED, WRITTEN, Problem

SIZES = (
    {"N": 4, "K": 6, "C": 7, "rank": 3, "alpha": 5},
    {"N": 6, "K": 5, "C": 3, "rank": 2, "alpha": 7},
)


def scale_of(alpha, rank, C, wrong: frozenset) -> float:
    """s = alpha / rank, with these mistakes."""
    if "alpha-for-scale" in wrong:
        return alpha
    if "rank-over-alpha" in wrong:
        return rank / alpha
    if "root-of-the-rank" in wrong:
        return alpha / np.sqrt(rank)
    if "channels-for-rank" in wrong:
        return alpha / C
    return alpha / rank


# ----------------------------------------------------------------------------------- forward


def forward_arguments(rng, sizes) -> dict:
    """B is not zero, as after some steps of training."""
    N, K, C, rank = (sizes[name] for name in ("N", "K", "C", "rank"))
    shapes = {"x": (N, C), "w": (K, C), "A": (rank, C), "B": (K, rank)}
    arrays = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    return arrays | {"alpha": float(sizes["alpha"])}


def forward(arguments: dict, wrong: frozenset) -> dict:
    """lora_forward, with these mistakes."""
    x, w, A, B, alpha = arguments.values()
    s = scale_of(alpha, *A.shape, wrong)
    if "scale-left-out" in wrong:
        s = 1.0
    if "scale-twice" in wrong:
        s = s * s
    frozen, adapter = x @ w.T, s * ((x @ A.T) @ B.T)
    if "frozen-left-out" in wrong:
        frozen = 0 * frozen
    if "frozen-scaled-too" in wrong:
        frozen = s * frozen
    if "adapter-left-out" in wrong:
        adapter = 0 * adapter
    return {"y": frozen + adapter}


FORWARD = Problem(
    function="lora_forward",
    skeleton='''def lora_forward(y, x, w, A, B, alpha):
    """Write y (N,K) from x (N,C), the frozen w (K,C), A (r,C), B (K,r) and the number alpha."""
''',
    arguments=forward_arguments,
    answer=forward,
    sizes=SIZES,
    outputs={"y": WRITTEN},
    mistakes=(
        "adapter-left-out",
        "frozen-left-out",
        "frozen-scaled-too",
        "scale-left-out",
        "scale-twice",
        "alpha-for-scale",
        "rank-over-alpha",
        "root-of-the-rank",
        "channels-for-rank",
    ),
)

# ---------------------------------------------------------------------------------- backward


def backward_arguments(rng, sizes) -> dict:
    return {"dy": rng.standard_normal((sizes["N"], sizes["K"]))} | forward_arguments(rng, sizes)


def backward(arguments: dict, wrong: frozenset) -> dict:
    """lora_backward, with these mistakes."""
    dy, x, w, A, B, alpha = arguments.values()
    s = scale_of(alpha, *A.shape, wrong)
    if "scale-left-out" in wrong:
        s = 1.0
    if "scale-twice" in wrong:
        s = s * s
    of = {name: 1.0 if f"scale-left-out-of-{name}" in wrong else s for name in ("dx", "da", "db")}
    for name in ("da", "db"):
        if f"scale-twice-in-{name}" in wrong:
            of[name] = s * s
    dx = of["dx"] * (dy @ B @ A)
    if "adapter-left-out-of-dx" in wrong:
        dx = 0 * dx
    if "frozen-left-out-of-dx" not in wrong:
        dx = dx + dy @ w
    dA, dB = of["da"] * (dy @ B).T @ x, of["db"] * dy.T @ (x @ A.T)
    if "da-as-at-the-start" in wrong:  # where B is zero
        dA = 0 * dA
    if "mean-over-rows" in wrong:
        dA, dB = dA / len(x), dB / len(x)
    return {"dx": dx, "dA": dA, "dB": dB}


def loss(arguments: dict) -> float:
    """sum(dy * y), with the adapter merged into the weight."""
    dy, x, w, A, B, alpha = arguments.values()
    y = x @ (w + alpha / len(A) * B @ A).T
    return float((dy * y).sum())


BACKWARD = Problem(
    function="lora_backward",
    skeleton='''def lora_backward(dx, dA, dB, dy, x, w, A, B, alpha):
    """Write dx (N,C) and add to dA (r,C) and dB (K,r), given dy (N,K) and what the forward read:
    x (N,C), the frozen w (K,C), A (r,C), B (K,r) and the number alpha."""
''',
    arguments=backward_arguments,
    answer=backward,
    sizes=SIZES,
    outputs={"dx": WRITTEN, "dA": ADDED, "dB": ADDED},
    loss=loss,
    of={"dx": "x", "dA": "A", "dB": "B"},
    mistakes=(
        "adapter-left-out-of-dx",
        "frozen-left-out-of-dx",
        "scale-left-out",
        "scale-left-out-of-dx",
        "scale-left-out-of-da",
        "scale-left-out-of-db",
        "scale-twice",
        "scale-twice-in-da",
        "scale-twice-in-db",
        "alpha-for-scale",
        "root-of-the-rank",
        "da-as-at-the-start",
        "mean-over-rows",
    ),
)

PROBLEMS = (FORWARD, BACKWARD)
