"""DPO: what a reply has gained since the reference, and the loss on pairs of replies."""

import numpy as np

from pysft.lessons.problem import Problem

IGNORE = -100


def sigmoid(x):
    return np.exp(-np.logaddexp(0, -x))


def graded_rows(labels, wrong: frozenset):
    if "every-row-counted" in wrong:
        return np.ones(len(labels), bool)
    return labels > 0 if "token-0-not-graded" in wrong else labels != IGNORE


# ---------------------------------------------------------------------------- the right functions


def dpo_gain(nll, reference, labels, cu_seqlens):
    """gain[s] = sum over the graded rows n of sequence s of (reference[n] - nll[n])

    The probability of a reply is the product of those of its tokens, and nll is the negative
    logarithm of one of them. So this is ln(probability / probability under the reference model)."""
    gained = np.where(labels != IGNORE, reference - nll, 0.0)
    return np.add.reduceat(gained, cu_seqlens[:-1])


def dpo_backward(nll, reference, labels, cu_seqlens, chosen, rejected, beta):
    """With h[p] = beta (gain[chosen[p]] - gain[rejected[p]]), the loss is the mean of
    -ln sigmoid(h) = ln(1 + exp(-h)) over P pairs. The chain rule has three links:

        d loss / d h[p]    = -sigmoid(-h[p]) / P
        d h / d gain       = beta for the chosen reply, -beta for the rejected one
        d gain / d nll[n]  = -1 in each graded row of the reply, 0 elsewhere

    So dnll is beta sigmoid(-h) / P in the graded rows of a chosen reply, and its negative in those
    of a rejected one."""
    gain = dpo_gain(nll, reference, labels, cu_seqlens)
    h = beta * (gain[chosen] - gain[rejected])
    dh = -sigmoid(-h) / len(h)
    dgain = np.zeros(len(gain))
    dgain[chosen], dgain[rejected] = beta * dh, -beta * dh
    dnll = np.where(labels != IGNORE, -np.repeat(dgain, np.diff(cu_seqlens)), 0.0)
    return np.logaddexp(0, -h).mean(), dnll


# ---------------------------------------------------------------------------- of each reply


def gain_arguments(rng, sizes) -> dict:
    """Sequences of different lengths, whose first rows are a prompt. The nll is 0 in rows without a
    label, as the model gives it. The reference holds numbers there too. A label is token 0, not at
    the end of a reply."""
    S = 2 * sizes["P"] + 1
    lengths = 4 + rng.permutation(S)
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    N = int(cu_seqlens[-1])
    labels = rng.integers(1, 9, N).astype(np.int32)
    for start, n in zip(cu_seqlens, 1 + rng.integers(0, 2, S)):
        labels[start : start + n] = IGNORE
    labels[cu_seqlens[1:] - 2] = 0
    reference = rng.uniform(0.5, 3, N)
    nll = np.where(labels == IGNORE, 0.0, reference + 0.5 * rng.standard_normal(N))
    return {"nll": nll, "reference": reference, "labels": labels, "cu_seqlens": cu_seqlens}


def gain(arguments: dict, wrong: frozenset) -> dict:
    """dpo_gain, with these mistakes."""
    nll, reference, labels, cu_seqlens = arguments.values()
    first, rows = cu_seqlens[:-1], graded_rows(labels, wrong)
    gained = reference - nll
    if "reference-left-out" in wrong:
        gained = -nll
    elif "probabilities-for-logarithms" in wrong:
        gained = np.exp(-nll) - np.exp(-reference)
    elif "quotient-for-difference" in wrong:
        gained = nll / reference
    if "nll-minus-reference" in wrong:
        gained = -gained
    gained = np.where(rows, gained, 0.0)
    if "first-token-left-out" in wrong:
        begins = rows & ~np.concatenate([[False], rows[:-1]])
        gained = np.where(begins, 0.0, gained)
    if "last-row-left-out" in wrong:
        gained[cu_seqlens[1:] - 1] = 0
    elif "last-row-alone" in wrong:
        gained = np.where(np.isin(np.arange(len(nll)), cu_seqlens[1:] - 1), gained, 0.0)
    found = np.add.reduceat(gained, first)
    if "mean-for-sum" in wrong:
        found = found / np.add.reduceat(rows, first, dtype=np.int64)
    elif "divided-by-all-rows" in wrong:
        found = found / np.diff(cu_seqlens)
    return {"gain": found}


GAIN = Problem(
    function="dpo_gain",
    skeleton='''def dpo_gain(nll, reference, labels, cu_seqlens):
    """Return gain (S,): by how many nats each of S sequences has become likelier than under the
    reference. nll, reference, labels (N,) of the rows; cu_seqlens (S+1,)."""
''',
    arguments=gain_arguments,
    answer=gain,
    sizes=({"P": 3}, {"P": 4}),
    returns=("gain",),
    mistakes=(
        "nll-minus-reference",
        "reference-left-out",
        "mean-for-sum",
        "divided-by-all-rows",
        "every-row-counted",
        "token-0-not-graded",
        "first-token-left-out",
        "last-row-left-out",
        "last-row-alone",
        "probabilities-for-logarithms",
        "quotient-for-difference",
    ),
)

# ---------------------------------------------------------------------------- loss and dnll


def backward_arguments(rng, sizes) -> dict:
    """The sequences of the pairs are in no order, and one is in no pair. far: the h of the first
    pair is about -900, because one token of its chosen reply has become so unlikely."""
    given, order = gain_arguments(rng, sizes), rng.permutation(2 * sizes["P"] + 1)
    chosen, rejected = order[: sizes["P"]].copy(), order[sizes["P"] : -1].copy()
    if sizes.get("far"):
        given["nll"][given["cu_seqlens"][chosen[0] + 1] - 1] += 900 / sizes["beta"]
    return given | {"chosen": chosen, "rejected": rejected, "beta": sizes["beta"]}


@np.errstate(all="ignore")
def backward(arguments: dict, wrong: frozenset) -> dict:
    """dpo_backward, with these mistakes."""
    nll, reference, labels, cu_seqlens, chosen, rejected, beta = arguments.values()
    first, lengths = cu_seqlens[:-1], np.diff(cu_seqlens)
    rows = labels != IGNORE
    graded = np.add.reduceat(rows, first, dtype=np.int64)
    s = np.add.reduceat(np.where(rows, reference - nll, 0.0), first)
    if "chosen-and-rejected-swapped" in wrong:
        chosen, rejected = rejected, chosen
    if "pairs-in-order" in wrong:
        chosen, rejected = np.arange(2 * len(chosen)).reshape(-1, 2).T
    if "beta-left-out" in wrong:
        beta = 1.0
    gained = s[chosen] + s[rejected] if "gains-added" in wrong else s[chosen] - s[rejected]
    h = (1.0 if "beta-left-out-of-h" in wrong else beta) * gained
    if "rejected-minus-chosen" in wrong:  # and the slopes as if it were right
        h = -h
    if "sigmoid-of-the-mean" in wrong:
        h = np.full_like(h, h.mean())
    losses, slopes = np.logaddexp(0, -h), -sigmoid(-h)
    if "exponential-overflows" in wrong:
        losses = np.log(1 + np.exp(-h))
    elif "loss-of-minus-h" in wrong:
        losses = np.logaddexp(0, h)
    elif "logarithm-left-out-of-loss" in wrong:
        losses = -sigmoid(h)
    elif "logarithm-of-the-mean" in wrong:
        losses = np.full_like(h, -np.log(sigmoid(h).mean()))
    of_rejected = -slopes
    if "sigmoid-of-h" in wrong:
        slopes, of_rejected = -sigmoid(h), sigmoid(h)
    elif "sigmoid-left-out" in wrong:
        slopes, of_rejected = -np.ones_like(h), np.ones_like(h)
    elif "derivative-of-the-sigmoid" in wrong:
        slopes, of_rejected = -sigmoid(h) * sigmoid(-h), sigmoid(h) * sigmoid(-h)
    elif "sigmoid-of-h-for-the-rejected" in wrong:
        of_rejected = sigmoid(h)
    if "rejected-left-out" in wrong:
        of_rejected = 0 * of_rejected
    elif "same-sign-for-both" in wrong:
        of_rejected = slopes
    elif "chosen-like-rejected" in wrong:
        slopes = of_rejected
    share = 1 if "pairs-summed" in wrong else 1 / len(h)
    ds = np.zeros(len(s))
    of_pair = 1 if "pairs-not-averaged" in wrong else share
    ds[chosen], ds[rejected] = of_pair * slopes, of_pair * of_rejected
    if "beta-left-out-of-dnll" not in wrong:
        ds = beta * ds
    if "derivative-by-logp" not in wrong:  # s falls as nll rises
        ds = -ds
    if "divided-by-length-in-dnll" in wrong:
        ds = ds / graded
    elif "divided-by-all-rows-in-dnll" in wrong:
        ds = ds / lengths
    dnll = np.repeat(ds, lengths)
    if "gradient-in-rows-without-label" not in wrong:
        dnll = np.where(rows, dnll, 0.0)
    return {"loss": np.array(share * losses.sum()), "dnll": dnll}


BACKWARD = Problem(
    function="dpo_backward",
    skeleton='''def dpo_backward(nll, reference, labels, cu_seqlens, chosen, rejected, beta):
    """Return (loss, dnll): the mean over P pairs, a number, and its derivative (N,) by nll (N,).
    reference, labels (N,); cu_seqlens (S+1,); chosen, rejected (P,): numbers of sequences."""
''',
    arguments=backward_arguments,
    answer=backward,
    sizes=({"P": 3, "beta": 0.3}, {"P": 4, "beta": 0.7}, {"P": 2, "beta": 3.0, "far": True}),
    returns=("loss", "dnll"),
    loss=lambda arguments: float(backward(arguments, frozenset())["loss"]),
    of={"dnll": "nll"},
    mistakes=(
        "rejected-minus-chosen",
        "chosen-and-rejected-swapped",
        "derivative-by-logp",
        "pairs-summed",
        "pairs-not-averaged",
        "beta-left-out",
        "beta-left-out-of-h",
        "beta-left-out-of-dnll",
        "loss-of-minus-h",
        "logarithm-left-out-of-loss",
        "logarithm-of-the-mean",
        "sigmoid-of-h",
        "sigmoid-of-h-for-the-rejected",
        "derivative-of-the-sigmoid",
        "sigmoid-left-out",
        "sigmoid-of-the-mean",
        "rejected-left-out",
        "same-sign-for-both",
        "chosen-like-rejected",
        "divided-by-length-in-dnll",
        "divided-by-all-rows-in-dnll",
        "gradient-in-rows-without-label",
        "gains-added",
        "pairs-in-order",
        "exponential-overflows",
    ),
)

PROBLEMS = (GAIN, BACKWARD)
