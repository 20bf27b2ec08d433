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


def large_scores(rng, sizes) -> dict:
    """Arguments in which exp of two scores of the first sequence overflows: of the largest that its
    last row has in head 0, and of one in head 1 that is hidden from its first row."""
    given, D = forward_arguments(rng, sizes), sizes["D"]
    qkv, C, end = given["qkv"], sizes["H"] * D, given["cu_seqlens"][1]
    query, keys = qkv[end - 1, :D], qkv[:end, C : C + D]
    score = (keys @ query).max()
    if score < 0:
        score = (keys @ -query).max()
        query *= -1
    query *= 900 * np.sqrt(D) / score
    # The first row's query of head 1 moves at a right angle to its own key: its seen score stays.
    query, keys = qkv[0, D : 2 * D], qkv[:end, C + D : C + 2 * D]
    across = keys[-1] - keys[0] * (keys[-1] @ keys[0]) / (keys[0] @ keys[0])
    query += across * (900 * np.sqrt(D) - query @ keys[-1]) / (across @ keys[-1])
    return given


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
            if "queries-and-keys-swapped" in wrong:
                q, k = k, q
            if "keys-and-values-swapped" in wrong:
                k, v = v, k
            yield slice(start, end), columns, h, q, k, v


def sees(T: int, wrong: frozenset):
    """(T,T): whether query t sees key j."""
    if "no-mask" in wrong:
        return np.ones((T, T), bool)
    last = -1 if "row-does-not-see-itself" in wrong else 1 if "next-row-seen" in wrong else 0
    seen = np.tri(T, k=last, dtype=bool)
    return seen.T if "mask-transposed" in wrong else seen


def scale_of(D: int, C: int, wrong: frozenset) -> float:
    """What a score is multiplied by."""
    if "scale-left-out" in wrong or "scale-left-out-of-scores" in wrong:
        return 1.0
    if "scale-without-root" in wrong:
        return 1 / D
    if "scale-multiplied" in wrong:
        return np.sqrt(D)
    return 1 / np.sqrt(C if "scale-of-all-channels" in wrong else D)


@np.errstate(all="ignore")
def forward(arguments: dict, wrong: frozenset) -> dict:
    """attention_forward, with these mistakes.

    The forms hide a score by a number for minus infinity. The number of "weights-from-lse" is so
    large that it swallows the logarithm in lse, and the weights are exp(score - lse)."""
    H, qkv, cu_seqlens = arguments.values()
    N, C = len(qkv), qkv.shape[1] // 3
    y, lse = np.empty((N, C)), np.empty((N, H))
    for rows, columns, h, q, k, v in heads(N, C, H, cu_seqlens, wrong):
        score = qkv[rows, q] @ qkv[rows, k].T * scale_of(len(q), C, wrong)
        seen = sees(len(score), wrong)
        hidden = -1e9 if "large-number-for-infinity" in wrong else -np.inf
        hidden = -1e300 if "weights-from-lse" in wrong else hidden
        axis = 0 if "softmax-over-queries" in wrong else 1
        of_all = score.max(axis=axis, keepdims=True)
        if "mask-after-softmax" not in wrong:
            score = np.where(seen, score, 0.0 if "zero-for-infinity" in wrong else hidden)
        top = score.max(axis=axis, keepdims=True)
        if "maximum-of-all-rows" in wrong:
            top = np.full_like(top, score.max())
        if "maximum-not-subtracted" in wrong:
            top = np.zeros_like(top)
        if "maximum-of-hidden-scores" in wrong:
            top = of_all
        e = np.exp(score - top)
        total = e.sum(axis=axis, keepdims=True)
        P, log_total = e / total, np.log(total)
        if "weights-from-lse" in wrong:
            P = np.exp(score - (top + log_total))
        if "mask-after-softmax" in wrong:
            P = np.where(seen, P, 0)
        y[rows, columns] = (e if "weights-not-divided" in wrong else P) @ qkv[rows, v]
        if "maximum-left-out-of-lse" not in wrong:
            log_total = top + log_total
        column = slice(None) if "heads-not-separated" in wrong else slice(h, h + 1)
        lse[rows, column] = log_total.reshape(-1, 1)
    if "heads-not-put-back" in wrong:
        for start, end in zip(cu_seqlens[:-1], cu_seqlens[1:]):
            of_heads = y[start:end].reshape(end - start, H, C // H).transpose(1, 0, 2)
            y[start:end] = of_heads.reshape(end - start, C)
    return {"y": y, "lse": lse}


FORWARD = Problem(
    function="attention_forward",
    skeleton='''def attention_forward(y, lse, qkv, cu_seqlens):
    """Write y (N,C) and lse (N,H) from qkv (N,3C) and cu_seqlens (S+1,). H is lse.shape[1]."""
''',
    arguments=large_scores,
    answer=forward,
    forms=("large-number-for-infinity", "weights-from-lse"),
    sizes=SIZES,
    outputs={"y": WRITTEN, "lse": WRITTEN},
    mistakes=(
        "scale-left-out",
        "scale-multiplied",
        "scale-without-root",
        "scale-of-all-channels",
        "no-mask",
        "mask-after-softmax",
        "mask-transposed",
        "row-does-not-see-itself",
        "next-row-seen",
        "zero-for-infinity",
        "softmax-over-queries",
        "maximum-not-subtracted",
        "maximum-of-all-rows",
        "maximum-of-hidden-scores",
        "weights-not-divided",
        "queries-and-keys-swapped",
        "keys-and-values-swapped",
        "sequences-not-separated",
        "heads-not-separated",
        "heads-interleaved",
        "parts-inside-heads",
        "heads-not-put-back",
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
    """attention_backward, with these mistakes.

    The form "sum-of-weighted-dP" forms the sum in the gradient of the scores from P, not from y.
    What it takes for P then counts there too, and sums without weights run over all keys."""
    dy, qkv, y, lse, cu_seqlens = arguments.values()
    (N, C), H = y.shape, lse.shape[1]
    dqkv, from_P = np.empty_like(qkv), "sum-of-weighted-dP" in wrong
    for rows, columns, h, q, k, v in heads(N, C, H, cu_seqlens, wrong):
        dout, scale = dy[rows, columns], scale_of(len(q), C, wrong - {"scale-left-out-of-scores"})
        score = qkv[rows, q] @ qkv[rows, k].T * scale_of(len(q), C, wrong)
        seen, everywhere = sees(len(score), wrong), np.ones_like(score, bool)
        P = np.exp(score if "lse-not-subtracted" in wrong else score - lse[rows, h, None])
        if {"softmax-without-mask", "mask-after-softmax"} & wrong:
            P = np.exp(score - np.log(np.exp(score).sum(axis=1, keepdims=True)))
        masked = np.where(seen, P, 0)
        P = P if {"softmax-without-mask", "mask-in-dv-alone"} & wrong else masked
        P_of_dv = masked if "mask-in-dv-alone" in wrong else P
        if "mask-on-score-gradient-alone" in wrong:
            P = P_of_dv = np.exp(score - lse[rows, h, None])
        dP = dout @ qkv[rows, k if "keys-for-values-in-dp" in wrong else v].T
        counted = everywhere if from_P else seen
        if "delta-over-queries" in wrong:
            delta = (P * dP).sum(axis=0, keepdims=True)
        elif "delta-of-all-heads" in wrong:
            delta = (y[rows] * dy[rows]).sum(axis=1, keepdims=True)
        elif "plain-mean-for-delta" in wrong:
            count = np.maximum(counted.sum(axis=1, keepdims=True), 1)
            delta = dP.sum(axis=1, keepdims=True, where=counted) / count
        elif "plain-sum-for-delta" in wrong:
            delta = dP.sum(axis=1, keepdims=True, where=counted)
        elif "mean-in-delta" in wrong:
            delta = (P * dP).mean(axis=1, keepdims=True)
        elif "dy-left-out-of-delta" in wrong:
            delta = y[rows, columns].sum(axis=1, keepdims=True)
        elif from_P:
            delta = (P * dP).sum(axis=1, keepdims=True)
        else:
            delta = (y[rows, columns] * dout).sum(axis=1, keepdims=True)
        if "delta-left-out" in wrong:
            delta = 0 * delta
        elif "delta-added" in wrong:
            delta = -delta
        if "own-score-alone" in wrong:
            delta = P * dP
        dscore = dP - delta if "probability-left-out" in wrong else P * (dP - delta)
        if "mask-on-score-gradient-alone" in wrong:
            dscore = np.where(seen, dscore, 0)
        if "dscore-transposed" in wrong:
            dscore = dscore.T
        if "scale-left-out-of-dq-and-dk" in wrong:
            scale = 1.0
        elif "scale-twice-in-dq-and-dk" in wrong:
            scale = scale**2
        elif "scale-of-all-channels-in-dq-and-dk" in wrong:
            scale = 1 / np.sqrt(C)
        # Of the product q kT each factor's gradient takes the other factor.
        of_q, of_k = (q if "queries-in-dq" in wrong else k), (k if "keys-in-dk" in wrong else q)
        dqkv[rows, q] = dscore @ qkv[rows, of_q] * (1 if "scale-left-out-of-dq" in wrong else scale)
        if "dscore-not-transposed-in-dk" in wrong:
            dscore = dscore.T
        scale = 1 if "scale-left-out-of-dk" in wrong else scale
        dqkv[rows, k] = dscore.T @ qkv[rows, of_k] * scale
        P_of_dv = P_of_dv if "probability-not-transposed" in wrong else P_of_dv.T
        dqkv[rows, v] = P_of_dv @ (y[rows, columns] if "output-for-dy-in-dv" in wrong else dout)
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
    forms=("sum-of-weighted-dP",),
    parts={"dqkv": lambda x: dict(zip(("dq", "dk", "dv"), np.split(x, 3, axis=1)))},
    mistakes=(
        "scale-left-out-of-scores",
        "scale-left-out-of-dq-and-dk",
        "scale-twice-in-dq-and-dk",
        "scale-multiplied",
        "scale-left-out-of-dq",
        "scale-left-out-of-dk",
        "scale-without-root",
        "no-mask",
        "mask-on-score-gradient-alone",
        "mask-in-dv-alone",
        "softmax-without-mask",
        "mask-after-softmax",
        "row-does-not-see-itself",
        "lse-not-subtracted",
        "delta-left-out",
        "delta-added",
        "delta-over-queries",
        "delta-of-all-heads",
        "plain-mean-for-delta",
        "plain-sum-for-delta",
        "mean-in-delta",
        "own-score-alone",
        "probability-left-out",
        "probability-not-transposed",
        "dscore-transposed",
        "dscore-not-transposed-in-dk",
        "queries-and-keys-swapped",
        "keys-and-values-swapped",
        "sequences-not-separated",
        "heads-not-separated",
        "scale-of-all-channels",
        "scale-of-all-channels-in-dq-and-dk",
        "next-row-seen",
        "queries-in-dq",
        "keys-in-dk",
        "keys-for-values-in-dp",
        "output-for-dy-in-dv",
        "dy-left-out-of-delta",
    ),
)

PROBLEMS = (FORWARD, BACKWARD)
