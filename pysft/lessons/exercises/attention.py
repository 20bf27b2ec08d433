"""Causal attention of several heads: its forward and its backward."""

import numpy as np

from pysft.lessons.problem import WRITTEN, Problem
from pysft.nn import reference

SIZES = ({"lengths": (4, 1), "H": 3, "D": 2}, {"lengths": (2, 5), "H": 4, "D": 3})


def forward_arguments(rng, sizes) -> dict:
    cu_seqlens = np.cumsum([0, *sizes["lengths"]]).astype(np.int32)
    N, H, C = cu_seqlens[-1], sizes["H"], sizes["H"] * sizes["D"]
    qkv = rng.standard_normal((N, 3 * C))
    return {"_H": H, "qkv": qkv, "cu_seqlens": cu_seqlens}


def heads(N: int, C: int, H: int, cu_seqlens, wrong: frozenset):
    """Yield (rows, h, q, k, v) for each sequence and head: the rows, the head's number, and the
    columns of its queries, keys and values, with the mistakes in what belongs together."""
    offsets = (0, N) if "sequences-not-separated" in wrong else cu_seqlens
    H = 1 if "heads-not-separated" in wrong else H
    D = C // H
    for start, end in zip(offsets[:-1], offsets[1:]):
        for h in range(H):
            columns = np.arange(h, C, H) if "heads-interleaved" in wrong else h * D + np.arange(D)
            q, k, v = columns, C + columns, 2 * C + columns
            if "parts-inside-heads" in wrong:
                q, k, v = (3 * h * D + part * D + np.arange(D) for part in range(3))
            if "keys-and-values-swapped" in wrong:
                k, v = v, k
            yield slice(start, end), columns, h, q, k, v


def scale_of(D: int, C: int, wrong: frozenset) -> float:
    """What a score is multiplied by."""
    if "scale-left-out" in wrong or "scale-left-out-of-scores" in wrong:
        return 1.0
    if "scale-without-root" in wrong:
        return 1 / D
    return 1 / np.sqrt(C if "scale-of-all-channels" in wrong else D)


def visible(T: int, wrong: frozenset):
    """(T,T): whether query t sees key j."""
    if "no-mask" in wrong:
        return np.ones((T, T), bool)
    return np.tri(T, dtype=bool).T if "mask-transposed" in wrong else np.tri(T, dtype=bool)


def forward(arguments: dict, wrong: frozenset) -> dict:
    """attention_forward, with these mistakes."""
    H, qkv, cu_seqlens = arguments.values()
    N, C = len(qkv), qkv.shape[1] // 3
    y, lse = np.empty((N, C)), np.empty((N, H))
    for rows, columns, h, q, k, v in heads(N, C, H, cu_seqlens, wrong):
        score = qkv[rows, q] @ qkv[rows, k].T * scale_of(len(q), C, wrong)
        sees = visible(len(score), wrong)
        if "mask-after-softmax" not in wrong:
            score = np.where(sees, score, 0.0 if "zero-for-infinity" in wrong else -np.inf)
        axis = 0 if "softmax-over-queries" in wrong else 1
        top = score.max(axis=axis, keepdims=True)
        e = np.exp(score - top)
        total = e.sum(axis=axis, keepdims=True)
        P = e / total
        if "mask-after-softmax" in wrong:
            P = np.where(sees, P, 0)
        y[rows, columns] = P @ qkv[rows, v]
        log_total = np.log(total) if "maximum-left-out-of-lse" in wrong else top + np.log(total)
        column = slice(None) if "heads-not-separated" in wrong else slice(h, h + 1)
        lse[rows, column] = log_total.reshape(-1, 1)
    return {"y": y, "lse": lse}


FORWARD = Problem(
    function="attention_forward",
    skeleton='''def attention_forward(y, lse, qkv, cu_seqlens):
    """Write y (N,C) and lse (N,H) from qkv (N,3C) and cu_seqlens (S+1,). H is lse.shape[1]."""
''',
    arguments=forward_arguments,
    answer=forward,
    sizes=SIZES,
    outputs={"y": WRITTEN, "lse": WRITTEN},
    mistakes=(
        "scale-left-out",
        "scale-without-root",
        "scale-of-all-channels",
        "no-mask",
        "mask-after-softmax",
        "mask-transposed",
        "zero-for-infinity",
        "softmax-over-queries",
        "keys-and-values-swapped",
        "sequences-not-separated",
        "heads-not-separated",
        "heads-interleaved",
        "parts-inside-heads",
        "maximum-left-out-of-lse",
    ),
)


def backward_arguments(rng, sizes) -> dict:
    given = forward_arguments(rng, sizes)
    right = forward(given, frozenset())
    dy = rng.standard_normal(right["y"].shape)
    saved = {"y": right["y"], "lse": right["lse"]}
    return {"dy": dy, "qkv": given["qkv"]} | saved | {"cu_seqlens": given["cu_seqlens"]}


def backward(arguments: dict, wrong: frozenset) -> dict:
    """attention_backward, with these mistakes."""
    dy, qkv, y, lse, cu_seqlens = arguments.values()
    (N, C), H = y.shape, lse.shape[1]
    dqkv = np.empty_like(qkv)
    for rows, columns, h, q, k, v in heads(N, C, H, cu_seqlens, wrong):
        dout, scale = dy[rows, columns], scale_of(len(q), C, wrong - {"scale-left-out-of-scores"})
        score = qkv[rows, q] @ qkv[rows, k].T * scale_of(len(q), C, wrong)
        P = np.where(visible(len(score), wrong), np.exp(score - lse[rows, h, None]), 0)
        dP = dout @ qkv[rows, v].T
        if "delta-over-queries" in wrong:
            delta = (P * dP).sum(axis=0, keepdims=True)
        elif "delta-of-all-heads" in wrong:
            delta = (y[rows] * dy[rows]).sum(axis=1, keepdims=True)
        elif "plain-mean-for-delta" in wrong:
            delta = dP.mean(axis=1, keepdims=True, where=visible(len(dP), wrong))
        else:
            delta = (y[rows, columns] * dout).sum(axis=1, keepdims=True)
        if "delta-left-out" in wrong:
            delta = 0 * delta
        if "own-score-alone" in wrong:
            delta = P * dP
        dscore = dP - delta if "probability-left-out" in wrong else P * (dP - delta)
        if "dscore-transposed" in wrong:
            dscore = dscore.T
        dqkv[rows, q] = dscore @ qkv[rows, k] * (1 if "scale-left-out-of-dq" in wrong else scale)
        if "dscore-not-transposed-in-dk" in wrong:
            dscore = dscore.T
        dqkv[rows, k] = dscore.T @ qkv[rows, q] * (1 if "scale-left-out-of-dk" in wrong else scale)
        dqkv[rows, v] = (P if "probability-not-transposed" in wrong else P.T) @ dout
    return {"dqkv": dqkv}


def loss(arguments: dict) -> float:
    """sum(dy * y), with y and lse computed anew from qkv."""
    y, lse = np.empty_like(arguments["y"]), np.empty_like(arguments["lse"])
    reference.attention_forward(y, lse, arguments["qkv"], arguments["cu_seqlens"])
    return float((arguments["dy"] * y).sum())


BACKWARD = Problem(
    function="attention_backward",
    skeleton='''def attention_backward(dqkv, dy, qkv, y, lse, cu_seqlens):
    """Write dqkv (N,3C), given dy (N,C), qkv (N,3C), cu_seqlens (S+1,), and from the forward
    y (N,C) and lse (N,H)."""
''',
    arguments=backward_arguments,
    answer=backward,
    sizes=SIZES,
    outputs={"dqkv": WRITTEN},
    loss=loss,
    of={"dqkv": "qkv"},
    mistakes=(
        "scale-left-out-of-scores",
        "scale-left-out-of-dq",
        "scale-left-out-of-dk",
        "scale-without-root",
        "no-mask",
        "delta-left-out",
        "delta-over-queries",
        "delta-of-all-heads",
        "plain-mean-for-delta",
        "own-score-alone",
        "probability-left-out",
        "probability-not-transposed",
        "dscore-transposed",
        "dscore-not-transposed-in-dk",
        "keys-and-values-swapped",
        "sequences-not-separated",
        "heads-not-separated",
    ),
)

PROBLEMS = (FORWARD, BACKWARD)
