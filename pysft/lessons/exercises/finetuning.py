"""Fine-tuning: one loss over all graded tokens of a step, and how much it makes a model forget."""

import numpy as np

from pysft.lessons.problem import Problem

IGNORE = -100
OFF_BY_ONE = "first-row-in-the-sequence-before"


def batch_of(rng, sizes) -> dict:
    """Two conversations and, between them, a window of base text, which is graded in every row and
    has another weight. One label is token 0."""
    lengths = np.array([sizes[name] for name in ("first", "window", "second")])
    N, cu_seqlens = lengths.sum(), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    labels = rng.integers(1, 9, N).astype(np.int32)
    for start in (cu_seqlens[0], cu_seqlens[2]):  # the user's words
        labels[start : start + 2] = IGNORE
    labels[cu_seqlens[1] + 1] = 0
    weight = np.array([1.0, 0.3, 1.5]) * rng.uniform(0.9, 1.1, 3)
    return {"labels": labels, "cu_seqlens": cu_seqlens, "weight": weight}


def per_row(values, cu_seqlens, wrong: frozenset):
    """The value of each row's sequence. The mistake: the first row of a sequence gets that of the
    sequence before."""
    found = np.repeat(values, np.diff(cu_seqlens))
    if OFF_BY_ONE in wrong:
        found[cu_seqlens[1:-1]] = values[:-1]
    return found


def graded(labels, wrong: frozenset):
    return labels > 0 if "token-0-not-graded" in wrong else labels != IGNORE


SIZES = ({"first": 4, "window": 6, "second": 5}, {"first": 5, "window": 3, "second": 7})

# --------------------------------------------------------------------------------- the total


def total(arguments: dict, wrong: frozenset) -> dict:
    """graded_total, with these mistakes."""
    labels, cu_seqlens, weight = arguments.values()
    rows = graded(labels, wrong)
    if "every-row-counted" in wrong:
        rows = np.ones(len(labels), bool)
    if "weights-left-out" in wrong:
        weight = np.ones_like(weight)
    if "mean-weight" in wrong:
        found = rows.sum() * weight.mean()
    elif "sequences-counted" in wrong:
        found = weight.sum()
    else:
        found = per_row(weight, cu_seqlens, wrong)[rows].sum()
    return {"total": np.array(found)}


TOTAL = Problem(
    function="graded_total",
    skeleton='''def graded_total(labels, cu_seqlens, weight):
    """Return the sum of the weights of all graded rows, a number. labels (N,), cu_seqlens (S+1,),
    weight (S,) of each sequence."""
''',
    arguments=batch_of,
    answer=total,
    sizes=SIZES,
    returns=("total",),
    mistakes=(
        "every-row-counted",
        "token-0-not-graded",
        "weights-left-out",
        "mean-weight",
        "sequences-counted",
        OFF_BY_ONE,
    ),
)

# ---------------------------------------------------------------------------------- the loss


def loss_arguments(rng, sizes) -> dict:
    """nll is 0 in rows without a label, as the model gives it. The total is that of a step with
    other micro-batches beside this one."""
    given = batch_of(rng, sizes)
    nll = np.where(given["labels"] == IGNORE, 0.0, rng.uniform(0.5, 4, len(given["labels"])))
    return {"nll": nll} | given | {"total": float(rng.uniform(20, 40))}


def sft_loss(arguments: dict, wrong: frozenset) -> dict:
    """sft_loss, with these mistakes."""
    nll, labels, cu_seqlens, weight, total = arguments.values()
    rows, S = graded(labels, wrong), len(weight)
    if "weights-left-out" in wrong:
        weight = np.ones_like(weight)
    if "mean-of-each-sequence" in wrong:
        weight, total = weight / np.add.reduceat(rows, cu_seqlens[:-1], dtype=np.int64), S
    spread = per_row(weight, cu_seqlens, wrong)
    counts = np.where(rows, spread, 0.0)
    if "mean-of-means" in wrong:
        total = counts.sum()
    elif "divided-by-all-rows" in wrong:
        total = len(labels)
    elif "not-divided" in wrong:
        total = 1.0
    dnll = spread / total if "gradient-in-rows-without-label" in wrong else counts / total
    if "weights-left-out-of-dnll" in wrong:
        dnll = rows / total
    if "nll-in-dnll" in wrong:
        dnll = dnll * nll
    return {"loss": np.array(counts @ nll / total), "dnll": dnll}


LOSS = Problem(
    function="sft_loss",
    skeleton='''def sft_loss(nll, labels, cu_seqlens, weight, total):
    """Return (loss, dnll): the share that this micro-batch has in the loss of the step, a number,
    and its derivative (N,) by nll (N,). labels (N,), cu_seqlens (S+1,), weight (S,). total: the sum
    of graded_total over all micro-batches of the step."""
''',
    arguments=loss_arguments,
    answer=sft_loss,
    sizes=SIZES,
    returns=("loss", "dnll"),
    loss=lambda arguments: float(sft_loss(arguments, frozenset())["loss"]),
    of={"dnll": "nll"},
    mistakes=(
        "mean-of-means",
        "not-divided",
        "divided-by-all-rows",
        "mean-of-each-sequence",
        "gradient-in-rows-without-label",
        "token-0-not-graded",
        "weights-left-out",
        "weights-left-out-of-dnll",
        "nll-in-dnll",
        OFF_BY_ONE,
    ),
)

# -------------------------------------------------------------------------------- forgetting


def three_models(rng, sizes) -> dict:
    """nll of the same held-out text under the base, the tuned model, and the base that was trained
    on."""
    base = rng.uniform(1, 3, sizes["N"])
    tuned = base * rng.uniform(0.9, 1.5, sizes["N"])
    return {"base": base, "tuned": tuned, "continued": base * rng.uniform(0.7, 0.9, sizes["N"])}


def forgetting(arguments: dict, wrong: frozenset) -> dict:
    """forgetting, with these mistakes."""
    base, tuned, continued = arguments.values()
    if "mean-of-the-ratios" not in wrong:
        base, tuned, continued = (nll.mean() for nll in (base, tuned, continued))
    if "perplexity-for-loss" in wrong:
        base, tuned, continued = (np.exp(loss) for loss in (base, tuned, continued))

    def rise(now, before, below):
        if "logarithm-of-the-ratio" in wrong:
            return np.log(now / before)
        if "difference-alone" in wrong:
            return now - before
        if "ratio-alone" in wrong:
            return now / below
        return (now - before) / (now if "divided-by-the-tuned" in wrong else below)

    if "matched-rise-of-the-continued" in wrong:
        matched = rise(continued, base, base)
    elif "matched-rise-from-the-base" in wrong:
        matched = rise(tuned, base, continued)
    elif "matched-divided-by-the-base" in wrong:
        matched = rise(tuned, continued, base)
    else:
        matched = rise(tuned, continued, continued)
    found = {"forgetting": rise(tuned, base, base), "matched": matched}
    return {name: np.array(np.mean(x)) for name, x in found.items()}


FORGETTING = Problem(
    function="forgetting",
    skeleton='''def forgetting(base, tuned, continued):
    """Return (forgetting, matched), two numbers, given the nll (N,) of the same N held-out tokens
    under the base, under the tuned model, and under the base after training on the replay alone."""
''',
    arguments=three_models,
    answer=forgetting,
    sizes=({"N": 6}, {"N": 9}),
    returns=("forgetting", "matched"),
    mistakes=(
        "difference-alone",
        "ratio-alone",
        "logarithm-of-the-ratio",
        "divided-by-the-tuned",
        "mean-of-the-ratios",
        "perplexity-for-loss",
        "matched-rise-from-the-base",
        "matched-divided-by-the-base",
        "matched-rise-of-the-continued",
    ),
)

PROBLEMS = (TOTAL, LOSS, FORGETTING)
