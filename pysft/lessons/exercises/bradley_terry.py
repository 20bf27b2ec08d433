"""Bradley-Terry: a reward model's loss on pairs of replies, and on rankings of several."""

import numpy as np

from pysft.lessons.problem import Problem


def sigmoid(x):
    return np.exp(-np.logaddexp(0, -x))


# -------------------------------------------------------------------------------------- pairs


def pairs_arguments(rng, sizes) -> dict:
    """Three replies are in three pairs among themselves, so they are in several pairs each, one of
    them twice as the better reply and one twice as the worse. far: the value of the best reply is
    about 900 too small."""
    R, P = sizes["R"], sizes["P"]
    order = rng.permutation(R)  # the best reply first
    pairs = [(0, 1), (0, 2), (1, 2)]
    others = [(i, j) for j in range(R) for i in range(j) if (i, j) not in pairs]
    pairs += [others[i] for i in rng.choice(len(others), P - 3, replace=False)]
    better, worse = order[rng.permutation(pairs)].T
    value = 1.5 * rng.standard_normal(R)
    value[order[0]] -= 900 if sizes.get("far") else 0
    return {"value": value, "better": better.copy(), "worse": worse.copy()}


@np.errstate(all="ignore")
def pairs_loss(arguments: dict, wrong: frozenset) -> dict:
    """pairs_loss, with these mistakes."""
    value, better, worse = arguments.values()
    if "better-and-worse-swapped" in wrong:
        better, worse = worse, better
    d = value[better] - value[worse]
    if "worse-minus-better" in wrong:  # and the slopes as if it were right
        d = -d
    if "sigmoid-of-the-mean" in wrong:
        d = np.full_like(d, d.mean())
    p = sigmoid(d)
    losses = np.logaddexp(0, d if "loss-of-minus-d" in wrong else -d)
    if "exponential-overflows" in wrong:
        losses = np.log(1 + np.exp(-d))
    slopes = p - 1
    if "logarithm-left-out" in wrong:
        losses, slopes = -p, -p * (1 - p)
    if "derivative-of-the-sigmoid" in wrong:
        slopes = -p * (1 - p)
    elif "probability-of-the-better" in wrong:
        slopes = -p
    elif "sigmoid-left-out" in wrong:
        slopes = -np.ones_like(p)
    of_worse = -slopes
    if "own-probability-for-the-worse" in wrong:
        of_worse = p
    elif "worse-left-out" in wrong:
        of_worse = 0 * p
    elif "same-sign-for-both" in wrong:
        of_worse = slopes
    elif "better-like-worse" in wrong:
        slopes = of_worse
    dvalue, share = np.zeros_like(value), 1 if "sum-for-mean" in wrong else 1 / len(d)
    if "repeated-replies-lost" in wrong:
        dvalue[better] += share * slopes
        dvalue[worse] += share * of_worse
    else:
        np.add.at(dvalue, better, share * slopes)
        np.add.at(dvalue, worse, share * of_worse)
    return {"loss": np.array(share * losses.sum()), "dvalue": dvalue}


PAIRS = Problem(
    function="pairs_loss",
    skeleton='''def pairs_loss(value, better, worse):
    """Return (loss, dvalue): the mean of -ln p over P pairs, a number, and its derivative (R,) by
    the values (R,) of R replies. better, worse (P,): the numbers of the two replies of a pair."""
''',
    arguments=pairs_arguments,
    answer=pairs_loss,
    sizes=({"R": 6, "P": 7}, {"R": 8, "P": 5}, {"R": 31, "P": 4, "far": True}),
    returns=("loss", "dvalue"),
    loss=lambda arguments: float(pairs_loss(arguments, frozenset())["loss"]),
    of={"dvalue": "value"},
    mistakes=(
        "worse-minus-better",
        "better-and-worse-swapped",
        "loss-of-minus-d",
        "logarithm-left-out",
        "derivative-of-the-sigmoid",
        "probability-of-the-better",
        "sigmoid-left-out",
        "sigmoid-of-the-mean",
        "worse-left-out",
        "same-sign-for-both",
        "better-like-worse",
        "own-probability-for-the-worse",
        "repeated-replies-lost",
        "sum-for-mean",
        "exponential-overflows",
    ),
)

# ----------------------------------------------------------------------------------- rankings


def rankings_arguments(rng, sizes) -> dict:
    """Replies of two rows or more, no two of one length. Every row has a value."""
    rank = np.concatenate(sizes["ranks"])
    group = np.repeat(np.arange(len(sizes["ranks"])), [len(r) for r in sizes["ranks"]])
    lengths = 2 + rng.permutation(len(rank))
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    value = 1.5 * rng.standard_normal(cu_seqlens[-1])
    return {"value": value, "cu_seqlens": cu_seqlens, "group": group, "rank": rank}


def ranked_pairs(group, rank, wrong: frozenset) -> tuple[np.ndarray, np.ndarray]:
    """The pairs that count: the numbers of the better and of the worse replies."""
    if "higher-rank-is-better" in wrong:
        rank = -rank
    same, lower = group[:, None] == group, rank[:, None] < rank  # of replies i and j
    tied = same & (rank[:, None] == rank)
    counts = lower if "pairs-across-rankings" in wrong else same & lower
    if "ties-counted" in wrong:
        counts = counts | np.triu(tied, 1)
    if "ties-counted-in-both-orders" in wrong:
        counts = counts | tied & ~np.eye(len(rank), dtype=bool)
    if "neighbours-alone" in wrong:  # no rank of the ranking of i is between the two
        counts = counts & ~((same & lower) @ lower)
    if "best-against-the-others" in wrong:
        counts = counts & ~(same & lower.T).any(axis=1, keepdims=True)
    return np.nonzero(counts)


def rankings_loss(arguments: dict, wrong: frozenset) -> dict:
    """rankings_loss, with these mistakes."""
    value, cu_seqlens, group, rank = arguments.values()
    first, last, lengths = cu_seqlens[:-1], cu_seqlens[1:] - 1, np.diff(cu_seqlens)
    score = value[first if "first-row" in wrong else last]
    if "mean-of-the-rows" in wrong:
        score = np.add.reduceat(value, first) / lengths
    better, worse = ranked_pairs(group, rank, wrong)
    pairs = np.bincount(group[better])[group[better]]  # of the ranking that a pair is in
    rankings = len(np.unique(group[better]))
    share = 1 / pairs / rankings
    if "mean-of-all-pairs" in wrong or "pairs-across-rankings" in wrong:
        share = np.full(len(better), 1 / len(better))
    elif "pairs-summed" in wrong:
        share = np.full(len(better), 1 / rankings)
    elif "divided-by-replies" in wrong:
        share = 1 / np.bincount(group)[group[better]] / rankings
    elif "rankings-summed" in wrong:
        share = 1 / pairs
    elif "tied-ranking-counted" in wrong:
        share = 1 / pairs / (group[-1] + 1)
    d = score[better] - score[worse]
    dscore = np.zeros_like(score)
    np.add.at(dscore, better, share * (sigmoid(d) - 1))
    np.add.at(dscore, worse, share * (1 - sigmoid(d)))
    dvalue = np.zeros_like(value)
    if "mean-of-the-rows" in wrong:
        dvalue = np.repeat(dscore / lengths, lengths)
    elif "gradient-in-every-row" in wrong:
        dvalue = np.repeat(dscore, lengths)
    else:
        dvalue[first if "first-row" in wrong else last] = dscore
    return {"loss": np.array(share @ np.logaddexp(0, -d)), "dvalue": dvalue}


RANKINGS = Problem(
    function="rankings_loss",
    skeleton='''def rankings_loss(value, cu_seqlens, group, rank):
    """Return (loss, dvalue): the mean over rankings of the mean over their pairs, a number, and its
    derivative (N,) by the values (N,) of all rows. cu_seqlens (S+1,); group, rank (S,)."""
''',
    arguments=rankings_arguments,
    answer=rankings_loss,
    sizes=(  # rankings: those that have a pair
        {"N": 54, "S": 9, "rankings": 2, "ranks": ((2, 1, 2), (1, 1), (3, 1, 3, 4))},
        {"N": 90, "S": 12, "rankings": 3, "ranks": ((1, 4, 2, 3), (2, 2, 1), (1, 1, 1), (1, 2))},
    ),
    returns=("loss", "dvalue"),
    loss=lambda arguments: float(rankings_loss(arguments, frozenset())["loss"]),
    of={"dvalue": "value"},
    mistakes=(
        "first-row",
        "mean-of-the-rows",
        "gradient-in-every-row",
        "higher-rank-is-better",
        "ties-counted",
        "ties-counted-in-both-orders",
        "pairs-across-rankings",
        "neighbours-alone",
        "best-against-the-others",
        "mean-of-all-pairs",
        "pairs-summed",
        "divided-by-replies",
        "rankings-summed",
        "tied-ranking-counted",
    ),
)

PROBLEMS = (PAIRS, RANKINGS)
