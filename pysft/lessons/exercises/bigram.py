"""What a base model does: the nll of a text under a table of pairs, and the draw of a token."""

import numpy as np

from pysft.lessons.problem import Problem

# ------------------------------------------------------------------------------ the nll of a text


def bigram_nll(corpus, text, V):
    """Return nll (L-1,) in nats: of each token of text (L,) but the first, given the one before it.

    The model is a table of counts. counts[a,b] is 1 plus the number of times that token b follows
    token a in corpus (M,). Row a of the table holds everything that may follow a, so

        p(b after a) = counts[a,b] / sum over v < V of counts[a,v]
        nll[i]       = -ln p(text[i+1] after text[i])

    The 1 makes no pair impossible, so no nll is infinite. It is in all V counts of a row, so the
    sum of a row grows by V. np.add.at counts every occurrence of a pair; counts[a,b] += 1 with
    arrays a and b counts each pair once."""
    counts = np.ones((V, V))
    np.add.at(counts, (corpus[:-1], corpus[1:]), 1)
    p = counts / counts.sum(axis=1, keepdims=True)
    return -np.log(p[text[:-1], text[1:]])


def nll_arguments(rng, sizes) -> dict:
    """A text whose pairs all occur in the corpus, so that no mistake gives an infinite nll. Its
    first pair occurs twice or more, and its first token is the corpus's last one too."""
    M, L, V = sizes["M"], sizes["L"], sizes["V"]
    corpus = rng.integers(V, size=M)
    text = corpus[:L].copy()
    corpus[L + 1 : L + 3], corpus[-1] = text[:2], text[0]
    return {"corpus": corpus, "text": text, "V": V}


def nll_answer(arguments: dict, wrong: frozenset) -> dict:
    """bigram_nll, with these mistakes."""
    corpus, text, V = arguments.values()
    counts = np.zeros((V, V))
    if "pairs-counted-once" in wrong:
        counts[corpus[:-1], corpus[1:]] += 1
    else:
        np.add.at(counts, (corpus[:-1], corpus[1:]), 1)
    if "previous-token-ignored" in wrong:
        counts[:] = np.bincount(corpus, minlength=V)
    if "table-transposed" in wrong:
        counts = counts.T
    ones = 0 if "ones-left-out" in wrong else 1
    in_total = V * ones
    if "ones-not-in-the-total" in wrong:
        in_total = 0
    elif "one-in-the-total" in wrong:
        in_total = 1
    if "divided-by-the-table" in wrong:
        total = np.full((V, 1), counts.sum() + V * in_total)
    elif "divided-by-the-column" in wrong:
        total = counts.sum(axis=0) + in_total
    else:
        total = counts.sum(axis=1, keepdims=True) + in_total
        if "last-token-counted" in wrong:
            total[corpus[-1]] += 1
    with np.errstate(divide="ignore", invalid="ignore"):
        p = (counts + ones) / total
        logarithm = np.log2 if "logarithm-to-base-2" in wrong else np.log
        return {"nll": -logarithm(p[text[:-1], text[1:]])}


NLL = Problem(
    function="bigram_nll",
    skeleton='''def bigram_nll(corpus, text, V):
    """Return nll (L-1,) in nats, given token ids corpus (M,) and text (L,), all below V."""
''',
    arguments=nll_arguments,
    answer=nll_answer,
    sizes=({"M": 40, "L": 9, "V": 5}, {"M": 60, "L": 12, "V": 7}),
    returns=("nll",),
    mistakes=(
        "pairs-counted-once",
        "previous-token-ignored",
        "table-transposed",
        "ones-left-out",
        "ones-not-in-the-total",
        "one-in-the-total",
        "divided-by-the-table",
        "divided-by-the-column",
        "last-token-counted",
        "logarithm-to-base-2",
    ),
)

# -------------------------------------------------------------------------------- the next tokens


def draw(p, u):
    """Return tokens (N,): in each row of p (N,V) the first whose running sum exceeds u (N,).

    The tokens of a row share the interval from 0 to 1, each as long as its probability, in the
    order of their ids. A u that is uniform between 0 and 1 falls into the share of token v with
    probability p[v]. A share begins where the one before it ends, and does not hold its own end. So
    a token of probability 0 is never drawn, not even with u = 0. Rounding may leave the last sum
    below 1, so the sums are divided by it."""
    sums = p.cumsum(axis=1)
    return (sums / sums[:, -1:] > u[:, None]).argmax(axis=1)


def draw_arguments(rng, sizes) -> dict:
    """Rows of probabilities. In one of them u is 0, and token 0 has the probability 0."""
    N, V = sizes["N"], sizes["V"]
    p = rng.exponential(size=(N, V))
    u = rng.uniform(0.05, 0.95, N)
    row = rng.integers(N)
    p[row, 0] = u[row] = 0
    return {"p": p / p.sum(axis=1, keepdims=True), "u": u}


def draw_answer(arguments: dict, wrong: frozenset) -> dict:
    """draw, with these mistakes."""
    p, u = arguments["p"], arguments["u"][:, None]
    N, V = p.shape
    order = np.tile(np.arange(V), (N, 1))
    if "sorted-by-probability" in wrong or "place-in-the-order" in wrong:
        order = np.argsort(-p, axis=1, kind="stable")
    sums = np.take_along_axis(p, order, axis=1).cumsum(axis=1)
    sums /= sums[:, -1:]
    if "nearest-sum" in wrong:
        place = np.abs(sums - u).argmin(axis=1)
    elif "at-least-for-above" in wrong:
        place = (sums >= u).argmax(axis=1)
    else:
        place = (sums > u).argmax(axis=1)
    tokens = place if "place-in-the-order" in wrong else order[np.arange(N), place]
    # These do not add probabilities up at all.
    if "most-likely" in wrong:
        tokens = p.argmax(axis=1)
    if "uniform" in wrong:
        tokens = (u[:, 0] * V).astype(int)
    if "nearest-probability" in wrong:
        tokens = np.abs(p - u).argmin(axis=1)
    if "probability-above-u" in wrong:
        tokens = (p > u).argmax(axis=1)
    if "one-too-early" in wrong:
        tokens = np.maximum(tokens - 1, 0)
    if "one-too-late" in wrong:
        tokens = np.minimum(tokens + 1, V - 1)
    return {"tokens": tokens}


DRAW = Problem(
    function="draw",
    skeleton='''def draw(p, u):
    """Return tokens (N,), drawn from the rows of p (N,V) with u (N,); u is at least 0, below 1."""
''',
    arguments=draw_arguments,
    answer=draw_answer,
    sizes=({"N": 31, "V": 7}, {"N": 43, "V": 11}),
    returns=("tokens",),
    mistakes=(
        "most-likely",
        "one-too-early",
        "one-too-late",
        "at-least-for-above",
        "nearest-sum",
        "nearest-probability",
        "probability-above-u",
        "sorted-by-probability",
        "place-in-the-order",
        "uniform",
    ),
)

PROBLEMS = (NLL, DRAW)
