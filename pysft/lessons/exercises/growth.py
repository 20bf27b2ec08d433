"""Growing a vocabulary: the new rows, what they cost, and the gradient that reaches them."""

import numpy as np

from pysft.lessons.problem import ADDED, WRITTEN, Problem
from pysft.nn import reference

# ------------------------------------------------------------------------------- the new rows


def expand_arguments(rng, sizes) -> dict:
    V, C = sizes["V"], sizes["C"]
    return {"w": rng.standard_normal((V, C)) + rng.standard_normal(C), "count": sizes["count"]}


def expand(arguments: dict, wrong: frozenset) -> dict:
    """expand_rows, with these mistakes."""
    w, count = arguments.values()
    V, C = w.shape
    row = w.mean(axis=0)
    if "mean-of-all-numbers" in wrong:
        row = np.full(C, w.mean())
    if "sum-for-mean" in wrong:
        row = V * row
    if "divided-by-the-grown-size" in wrong:
        row = row * V / (V + count)
    if "rows-left-zero" in wrong:
        row = 0 * row
    new = np.tile(row, (count, 1))
    if "last-row-repeated" in wrong:
        new[:] = w[-1]
    elif "first-rows-repeated" in wrong:
        new[:] = w[:count]
    order = (new, w) if "new-rows-first" in wrong else (w, new)
    return {"grown": np.concatenate(order)}


EXPAND = Problem(
    function="expand_rows",
    skeleton='''def expand_rows(w, count):
    """Return a new array (V + count, C): w (V,C), and below it `count` rows, each their mean."""
''',
    arguments=expand_arguments,
    answer=expand,
    sizes=({"V": 5, "C": 4, "count": 3}, {"V": 7, "C": 6, "count": 2}),
    returns=("grown",),
    mistakes=(
        "rows-left-zero",
        "mean-of-all-numbers",
        "sum-for-mean",
        "divided-by-the-grown-size",
        "last-row-repeated",
        "first-rows-repeated",
        "new-rows-first",
    ),
)

# ------------------------------------------------------------------------------ what they cost


def cost_arguments(rng, sizes) -> dict:
    logits = 2 * rng.standard_normal((sizes["N"], sizes["V"])) + 1
    lse = np.log(np.exp(logits).sum(axis=1))
    return {"logits": logits, "lse": lse, "count": sizes["count"]}


def cost(arguments: dict, wrong: frozenset) -> dict:
    """growth_cost, with these mistakes."""
    logits, lse, count = arguments.values()
    V = logits.shape[1]
    new = logits.mean(axis=1)
    if "mean-of-the-probabilities" in wrong:
        new = lse - np.log(V)
    elif "zero-logits" in wrong:
        new = np.zeros_like(lse)
    total = np.exp(new) * (1 if "one-new-symbol" in wrong else count)
    old = np.ones_like(lse) if "old-logits-as-probabilities" in wrong else np.exp(lse)
    mass = total / (old if "old-sum-below" in wrong else old + total)
    extra = np.log1p(total / old)
    if "log-of-the-mass" in wrong:
        extra = -np.log(mass)
    elif "mass-for-loss" in wrong:
        extra = mass
    if "loss-falls" in wrong:
        extra = -extra
    if "mass-of-one-symbol" in wrong:
        mass = mass / count
    return {"mass": mass, "extra": extra}


COST = Problem(
    function="growth_cost",
    skeleton='''def growth_cost(mass, extra, logits, lse, count):
    """Write mass (N,) and extra (N,), given the old logits (N,V), their lse (N,) and `count`."""
''',
    arguments=cost_arguments,
    answer=cost,
    sizes=({"N": 4, "V": 6, "count": 3}, {"N": 5, "V": 7, "count": 2}),
    outputs={"mass": WRITTEN, "extra": WRITTEN},
    mistakes=(
        "zero-logits",
        "mean-of-the-probabilities",
        "one-new-symbol",
        "old-logits-as-probabilities",
        "old-sum-below",
        "mass-of-one-symbol",
        "log-of-the-mass",
        "mass-for-loss",
        "loss-falls",
    ),
)

# ------------------------------------------------------------------- the gradient at new rows


def backward_arguments(rng, sizes) -> dict:
    """The first labels are a new symbol, the last old one and the first old one, so that each
    wrong way to find a column shows."""
    N, C, V, count = (sizes[name] for name in ("N", "C", "V", "count"))
    x, w, new = (rng.standard_normal(shape) for shape in ((N, C), (V, C), (count, C)))
    labels = np.concatenate([[V, V - 1, 0], rng.integers(0, V + count, N - 3)]).astype(np.int32)
    lse = np.log(np.exp(x @ np.concatenate([w, new]).T).sum(axis=1))
    dnll = rng.standard_normal(N)
    return {"dnll": dnll, "x": x, "new": new, "lse": lse, "labels": labels, "old": V, "_w": w}


def backward(arguments: dict, wrong: frozenset) -> dict:
    """new_rows_backward, with these mistakes."""
    dnll, x, new, lse, labels, old, _ = arguments.values()
    logits, count = x @ new.T, len(new)
    if "softmax-of-the-new-rows-alone" in wrong:
        lse = np.log(np.exp(logits).sum(axis=1))
    d = np.exp(logits - lse[:, None])
    if "softmax-left-out" in wrong:
        d = 0 * d
    column = labels if "labels-not-shifted" in wrong else labels - old
    hit = (column >= 0) & (column < count)
    if "old-labels-wrapped" in wrong:  # as negative indices do
        hit = (column >= -count) & (column < count)
    if "label-left-out" not in wrong:
        rows = np.flatnonzero(hit)
        d[rows, column[rows]] -= 1
    if "old-labels-skipped" in wrong:
        d[labels < old] = 0
    if "new-labels-skipped" in wrong:
        d[labels >= old] = 0
    if "dnll-left-out" not in wrong:
        d = d * dnll[:, None]
    dnew = d.T @ x
    return {"dnew": dnew / len(x) if "mean-over-rows" in wrong else dnew}


def loss(arguments: dict) -> float:
    """sum(dnll * nll), with the logits of old and new rows computed anew."""
    x, dnll, labels = (arguments[name] for name in ("x", "dnll", "labels"))
    logits = x @ np.concatenate([arguments["_w"], arguments["new"]]).T
    nll, lse = np.empty(len(x)), np.empty(len(x))
    reference.cross_entropy_forward(nll, lse, logits, labels)
    return float((dnll * nll).sum())


BACKWARD = Problem(
    function="new_rows_backward",
    skeleton='''def new_rows_backward(dnew, dnll, x, new, lse, labels, old):
    """Add to dnew (M,C), given dnll (N,), x (N,C), new (M,C), lse (N,) over old and new symbols,
    labels (N,) below old + M, and `old`, the number of old symbols."""
''',
    arguments=backward_arguments,
    answer=backward,
    sizes=({"N": 6, "C": 4, "V": 5, "count": 3}, {"N": 5, "C": 3, "V": 7, "count": 2}),
    outputs={"dnew": ADDED},
    loss=loss,
    of={"dnew": "new"},
    mistakes=(
        "label-left-out",
        "labels-not-shifted",
        "old-labels-wrapped",
        "softmax-left-out",
        "softmax-of-the-new-rows-alone",
        "old-labels-skipped",
        "new-labels-skipped",
        "dnll-left-out",
        "mean-over-rows",
    ),
)

PROBLEMS = (EXPAND, COST, BACKWARD)
