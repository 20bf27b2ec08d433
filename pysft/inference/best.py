"""Best of n: write n replies to a prompt, and keep the one with the highest score.

The score is the proxy, usually a reward model's. What replies are worth in truth is their gold.
These functions need no model: they choose, and say what choosing does to a policy."""

import math

import numpy as np

from pysft.errors import UsageError


def choose(scores) -> int:
    """Return the index of the highest of n scores, the first one of equal scores.

    A UsageError if there is none, or if one is not a finite number."""
    scores = _finite("choose", "score", scores)
    return int(np.argmax(scores))


def kl_bound(n: int) -> float:
    """Return ln n - (n - 1) / n, in nats: the KL of the best of n from the policy is at most this.

    The KL comes near it where scores differ and each single reply is rare (Beirami et al. 2024)."""
    _refuse_few("kl_bound", n)
    return math.log(n) - (n - 1) / n


def best_distribution(p, proxy, n: int) -> np.ndarray:
    """Return the probability (K,) of each of K replies to be the best of n.

    p (K,): their probabilities in the policy. proxy (K,): their scores. The best of n has a score
    of at most x with probability F(x)^n, where F(x) is that probability for a single reply, and of
    less than x with F_-(x)^n. So the replies of score x are chosen with F(x)^n - F_-(x)^n together.
    Which of them is the first one to be drawn does not depend on n, so they share it in proportion
    to p."""
    _refuse_few("best_distribution", n)
    p, proxy = np.asarray(p, np.float64), _finite("best_distribution", "proxy", proxy)
    _, level = np.unique(proxy, return_inverse=True)
    mass = np.bincount(level, p)
    at_most = np.minimum(np.cumsum(mass) / mass.sum(), 1.0)
    gained = np.diff(at_most**n, prepend=0.0)
    share = np.divide(p, mass[level], out=np.zeros_like(p), where=p > 0)
    return gained[level] * share


def expected_best(proxy, gold, n: int) -> float:
    """Return the expected gold of the best of n by proxy, estimated from N >= n samples.

    proxy (N,), gold (N,): of independent replies to one prompt. The result is the mean of the gold
    of the chosen reply over all subsets of n of the N samples. So it is unbiased, and varies less
    than the gold of one choice. Samples of equal proxy are chosen equally often.

    Of the subsets, C(h, n) lie among the h lowest samples. So the best comes from the samples of a
    score, which have ranks l+1..h from below, in (C(h, n) - C(l, n)) / C(N, n) of them.

    A UsageError if n is not in 1..N, if the arrays differ in length, or if a proxy or a gold is not
    a finite number."""
    proxy = _finite("expected_best", "proxy", proxy)
    gold = _finite("expected_best", "gold", gold)
    N = len(proxy)
    if len(gold) != N:
        raise UsageError(f"expected_best: {N} proxies and {len(gold)} golds; expected a pair each")
    _refuse_few("expected_best", n)
    if n > N:
        raise UsageError(f"expected_best: the best of {n} cannot be known from {N} samples")
    # below[h] = C(h, n) / C(N, n): from below[N] = 1 down, by C(h-1, n) = C(h, n) (h - n) / h.
    h = np.arange(N, 0, -1)
    below = np.concatenate([[1.0], np.cumprod(np.maximum(h - n, 0) / h)])[::-1]
    _, level, sizes = np.unique(proxy, return_inverse=True, return_counts=True)
    highest = np.cumsum(sizes)
    chosen = below[highest] - below[highest - sizes]
    return float(gold @ (chosen / sizes)[level])


def _finite(function: str, name: str, values) -> np.ndarray:
    """Return the values as float64. A UsageError if there is none, or if one is not finite."""
    values = np.asarray(values, np.float64)
    if not values.size:
        raise UsageError(f"{function}: there is no {name}; give at least one")
    if not np.isfinite(values).all():
        bad = np.flatnonzero(~np.isfinite(values))[0]
        raise UsageError(f"{function}: {name} {bad} is {values[bad]}; give finite numbers")
    return values


def _refuse_few(function: str, n: int) -> None:
    if n < 1:
        raise UsageError(f"{function}: n is {n}; the best of n needs at least 1")
