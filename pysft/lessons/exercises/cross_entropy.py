"""Softmax and cross-entropy: forward and backward, and the mean that is the loss of a step."""

import numpy as np

from pysft import IGNORE
from pysft.lessons.problem import WRITTEN, Fact, Problem
from pysft.nn import reference

SIZES = ({"N": 8, "V": 5}, {"N": 11, "V": 7})


def _labels(rng, N: int, V: int) -> tuple[np.ndarray, np.ndarray]:
    """(labels (N,) int32, the graded rows in a random order). Two rows are not graded, and one has
    the label 0, which is a label like others."""
    rows = rng.permutation(N)
    labels = rng.integers(1, V, N).astype(np.int32)
    labels[rows[:2]], labels[rows[2]] = IGNORE, 0
    return labels, rows[2:]


def _graded(labels, wrong: frozenset) -> np.ndarray:
    return np.flatnonzero(labels > 0 if "label-0-not-graded" in wrong else labels != IGNORE)


# ---------------------------------------------------------------------------------------- forward


def forward_arguments(rng, sizes) -> dict:
    """Logits of which those of one graded row are so large that exp of them overflows."""
    N, V = sizes["N"], sizes["V"]
    labels, graded = _labels(rng, N, V)
    logits = 2 * rng.standard_normal((N, V)) + rng.standard_normal((N, 1))
    logits[graded[-1]] += 900
    return {"logits": logits, "labels": labels}


def forward(arguments: dict, wrong: frozenset) -> dict:
    """cross_entropy_forward, with these mistakes."""
    logits, labels = arguments.values()
    N = len(logits)
    graded = _graded(labels, wrong)
    top = logits.max(axis=1)
    if "max-of-all-rows" in wrong:
        top = np.full(N, logits.max())
    if "max-not-subtracted" in wrong:
        top = np.zeros(N)
    with np.errstate(all="ignore"):
        e = np.exp(logits - top[:, None])
        log_sum = np.log(e.mean(axis=1) if "mean-for-sum" in wrong else e.sum(axis=1))
        lse = log_sum if "max-not-added-back" in wrong else top + log_sum
        of_label = logits[np.arange(N), np.where(labels == IGNORE, 0, labels)]
        nll = lse if "label-left-out" in wrong else lse - of_label
        if "log-left-out" in wrong:
            nll = -np.exp(-nll)
        if "max-in-one-term" in wrong:
            nll = nll - top
        if "divided-by-graded-rows" in wrong:
            nll = nll / len(graded)
        if "lse-without-max" in wrong:
            lse = log_sum
    is_graded = np.isin(np.arange(N), graded)
    if "ungraded-rows-kept" not in wrong:
        nll = np.where(is_graded, nll, 0)
        if "lse-of-ungraded-rows-kept" not in wrong:
            lse = np.where(is_graded, lse, 0)
    return {"nll": nll, "lse": lse}


FORWARD = Problem(
    function="cross_entropy_forward",
    skeleton='''def cross_entropy_forward(nll, lse, logits, labels):
    """Write nll (N,) and lse (N,), given logits (N,V) and labels (N,), -100 where not graded."""
''',
    arguments=forward_arguments,
    answer=forward,
    sizes=SIZES,
    outputs={"nll": WRITTEN, "lse": WRITTEN},
    mistakes=(
        "label-left-out",
        "log-left-out",
        "mean-for-sum",
        "max-not-subtracted",
        "max-of-all-rows",
        "max-not-added-back",
        "max-in-one-term",
        "lse-without-max",
        "ungraded-rows-kept",
        "lse-of-ungraded-rows-kept",
        "label-0-not-graded",
        "divided-by-graded-rows",
    ),
)

# --------------------------------------------------------------------------------------- backward


def backward_arguments(rng, sizes) -> dict:
    """Logits of which one is so large that exp of it overflows. A whole row of such logits would
    make the steps of finite differences too long."""
    N, V = sizes["N"], sizes["V"]
    labels, graded = _labels(rng, N, V)
    logits = 2 * rng.standard_normal((N, V)) + rng.standard_normal((N, 1))
    logits[graded[-1], (labels[graded[-1]] + 1) % V] += 900
    dnll = rng.standard_normal(N)
    lse = forward({"logits": logits, "labels": labels}, frozenset())["lse"]
    return {"dnll": dnll, "logits": logits, "lse": lse, "labels": labels}


@np.errstate(all="ignore")
def backward(arguments: dict, wrong: frozenset) -> dict:
    """cross_entropy_backward, with these mistakes."""
    dnll, logits, lse, labels = arguments.values()
    graded = _graded(labels, wrong)
    log_softmax = logits if "lse-not-subtracted" in wrong else logits - lse[:, None]
    softmax = log_softmax if "exp-left-out" in wrong else np.exp(log_softmax)
    if "softmax-over-rows" in wrong:
        softmax = np.exp(logits) / np.exp(logits).sum(axis=0)
    elif "lse-not-used" in wrong:
        softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    onehot = np.zeros_like(logits)
    if "columns-of-all-labels" in wrong:
        onehot[:, labels[graded]] = 1
    else:
        onehot[graded, labels[graded]] = 1
    p_label = softmax[np.arange(len(labels)), np.where(labels == IGNORE, 0, labels)]
    if "label-column-only" in wrong:
        softmax = softmax * onehot
    if "label-not-subtracted" in wrong:
        onehot = 0 * onehot
    if "softmax-left-out" in wrong:
        softmax = 0 * softmax
    if "graded-rows-for-dnll" in wrong:
        dnll = np.full(len(dnll), 1 / len(graded))
    if "label-added" in wrong:
        onehot = -onehot
    if "dnll-forgotten" in wrong:
        dlogits = softmax - onehot
    elif "dnll-on-softmax-only" in wrong:
        dlogits = dnll[:, None] * softmax - onehot
    elif "dnll-on-label-only" in wrong:
        dlogits = softmax - dnll[:, None] * onehot
    else:
        dlogits = dnll[:, None] * (softmax - onehot)
    if "logarithm-forgotten" in wrong:
        dlogits = dlogits * p_label[:, None]
    if "label-minus-softmax" in wrong:
        dlogits = -dlogits
    if "divided-by-graded-rows" in wrong:
        dlogits = dlogits / len(graded)
    if "ungraded-rows-kept" not in wrong:
        dlogits[~np.isin(np.arange(len(dlogits)), graded)] = 0
    return {"dlogits": dlogits}


def backward_loss(arguments: dict) -> float:
    """sum(dnll * nll), with lse computed anew from the logits."""
    logits, labels, dnll = arguments["logits"], arguments["labels"], arguments["dnll"]
    nll, lse = np.empty(len(logits)), np.empty(len(logits))
    reference.cross_entropy_forward(nll, lse, logits, labels)
    return float((dnll * nll).sum())


BACKWARD = Problem(
    function="cross_entropy_backward",
    skeleton='''def cross_entropy_backward(dlogits, dnll, logits, lse, labels):
    """Write dlogits (N,V), given dnll (N,), logits (N,V), lse (N,) and labels (N,)."""
''',
    arguments=backward_arguments,
    answer=backward,
    sizes=SIZES,
    outputs={"dlogits": WRITTEN},
    shared={"dlogits": "logits"},
    facts=(
        Fact(
            "dlogits",
            "In each row dlogits adds up to 0, as it must.",
            "dlogits does not add up to 0 in each row, as it must.",
            lambda given, dlogits: dlogits.sum(axis=1),
        ),
    ),
    loss=backward_loss,
    of={"dlogits": "logits"},
    mistakes=(
        "label-not-subtracted",
        "label-added",
        "softmax-left-out",
        "label-column-only",
        "label-minus-softmax",
        "columns-of-all-labels",
        "logarithm-forgotten",
        "exp-left-out",
        "lse-not-subtracted",
        "softmax-over-rows",
        "lse-not-used",
        "dnll-forgotten",
        "dnll-on-softmax-only",
        "dnll-on-label-only",
        "graded-rows-for-dnll",
        "ungraded-rows-kept",
        "label-0-not-graded",
        "divided-by-graded-rows",
    ),
)

# ---------------------------------------------------------------------------- the loss of a batch


def mean_nll(nll, labels, cu_seqlens):
    """Return (loss, dnll (N,)): the mean of nll (N,) over the graded rows, and its derivative.

    With G graded rows in all sequences together,

        loss    = sum over graded n of nll[n] / G
        dnll[n] = 1 / G if row n is graded, else 0

    Every graded token weighs the same, so the mean does not depend on where sequences begin and
    end (cu_seqlens). A mean of the sequences' means would make a token of a short reply weigh more
    than one of a long reply. Rows that are not graded do not count: neither their nll, which is 0,
    nor their number."""
    graded = labels != IGNORE
    dnll = graded / graded.sum()
    return dnll @ nll, dnll


def mean_arguments(rng, sizes) -> dict:
    """Sequences that differ in their graded rows, of which each has two at least. The nll of one
    graded row is 0, as that of a token that is certain."""
    S = sizes["S"]
    graded = 2 + rng.permutation(S)
    lengths = graded + rng.integers(2, 5, S)
    labels = [rng.permutation([IGNORE] * (n - g) + [1] * g) for n, g in zip(lengths, graded)]
    labels = np.concatenate(labels).astype(np.int32)
    rows = np.flatnonzero(labels != IGNORE)
    labels[rows] = rng.integers(0, 68, len(rows))
    nll = np.zeros(len(labels))
    nll[rows] = rng.uniform(0.5, 4, len(rows))
    nll[rng.choice(rows)] = 0
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return {"nll": nll, "labels": labels, "cu_seqlens": cu_seqlens}


def mean(arguments: dict, wrong: frozenset) -> dict:
    """mean_nll, with these mistakes."""
    nll, labels, cu_seqlens = arguments.values()
    graded = labels != IGNORE
    if "graded-by-nll" in wrong:
        graded = nll != 0
    share = graded / graded.sum()  # how much each row counts
    if "ungraded-rows-counted" in wrong:
        share = graded / len(nll)
    if "sum-for-mean" in wrong:
        share = graded.astype(float)
    if "mean-of-means" in wrong:
        each = np.add.reduceat(graded, cu_seqlens[:-1], dtype=int)
        share = graded / np.repeat(each * len(each), np.diff(cu_seqlens))
    dnll = share
    if "dnll-not-divided" in wrong:
        dnll = graded.astype(float)
    if "dnll-in-ungraded-rows" in wrong:
        dnll = np.full(len(nll), share.max())
    if "nll-in-dnll" in wrong:
        dnll = dnll * nll
    return {"loss": share @ nll, "dnll": dnll}


def mean_loss(arguments: dict) -> float:
    return float(arguments["nll"][arguments["labels"] != IGNORE].mean())


MEAN = Problem(
    function="mean_nll",
    skeleton='''def mean_nll(nll, labels, cu_seqlens):
    """Return loss and dnll (N,), given nll (N,), labels (N,) and cu_seqlens (S+1,)."""
''',
    arguments=mean_arguments,
    answer=mean,
    sizes=({"S": 3}, {"S": 5}),
    returns=("loss", "dnll"),
    loss=mean_loss,
    of={"dnll": "nll"},
    mistakes=(
        "mean-of-means",
        "ungraded-rows-counted",
        "sum-for-mean",
        "dnll-not-divided",
        "dnll-in-ungraded-rows",
        "nll-in-dnll",
        "graded-by-nll",
    ),
)

PROBLEMS = (FORWARD, BACKWARD, MEAN)
