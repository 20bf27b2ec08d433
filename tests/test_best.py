"""Best of n: closed forms, every draw of small worlds, and sampling."""

import math
from itertools import combinations, product

import numpy as np
import pytest
from texts import one_line

from pysft.errors import UsageError
from pysft.inference.best import best_distribution, choose, expected_best, kl_bound

# Probabilities and proxies of replies: all different; two ties, one of them the best; one reply
# that is never written, alone at its score and the best.
WORLDS = {
    "no ties": ([0.1, 0.4, 0.3, 0.2], [2.0, -1.0, 0.5, 7.0]),
    "ties": ([0.1, 0.35, 0.25, 0.05, 0.25], [1.0, 0.0, 1.0, 0.0, -3.0]),
    "never written": ([0.6, 0.4, 0.0], [1.0, 2.0, 3.0]),
}
EVERY = pytest.mark.parametrize("world", WORLDS)


def kl(q, p):
    q, p = np.asarray(q), np.asarray(p)
    return float((q[q > 0] * np.log(q[q > 0] / p[q > 0])).sum())


# -------------------------------------------------------------------------------------- choosing


def test_the_first_one_of_the_highest_scores_is_chosen():
    assert choose([3]) == 0 and choose([1, 3, 2]) == 1
    assert choose([1, 5, 5, 2, 5]) == 1 and choose(np.zeros(3, np.float32)) == 0
    assert choose([-math.e, -2.0, -3]) == 1


@pytest.mark.parametrize(
    "function, arguments, words",
    [
        (choose, [[]], "choose: there is no score; give at least one"),
        (choose, [[1, math.nan]], "choose: score 1 is nan; give finite numbers"),
        (choose, [[math.inf]], "choose: score 0 is inf"),
        (kl_bound, [0], "kl_bound: n is 0"),
        (best_distribution, [[1], [1], 0], "best_distribution: n is 0"),
        (best_distribution, [[1], [math.nan], 1], "proxy 0 is nan"),
        (expected_best, [[1, 2], [1], 1], "expected_best: 2 proxies and 1 golds"),
        (expected_best, [[1, 2], [1, 2], 3], "the best of 3 cannot be known from 2 samples"),
        (expected_best, [[1, 2], [1, 2], 0], "expected_best: n is 0"),
        (expected_best, [[1, math.inf], [1, 2], 1], "expected_best: proxy 1 is inf"),
        (expected_best, [[1, 2], [math.nan, 2], 1], "expected_best: gold 0 is nan"),
    ],
)
def test_what_cannot_be_chosen_from_is_one_sentence(function, arguments, words):
    with pytest.raises(UsageError) as error:
        function(*arguments)
    assert words in one_line(error)


# ------------------------------------------------------------------------------- the distribution


@EVERY
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_distribution_is_that_of_every_n_draws(world, n):
    p, proxy = map(np.array, WORLDS[world])
    expected = np.zeros(len(p))
    for draw in product(range(len(p)), repeat=n):
        expected[draw[choose(proxy[list(draw)])]] += np.prod(p[list(draw)])
    found = best_distribution(p, proxy, n)
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert found.sum() == pytest.approx(1, rel=1e-14)


def test_the_distribution_is_that_of_samples():
    p, proxy = map(np.array, WORLDS["ties"])
    draws = np.random.default_rng(0).choice(len(p), (20_000, 4), p=p)
    best = [draw[choose(proxy[draw])] for draw in draws]
    found, q = np.bincount(best, minlength=5) / len(draws), best_distribution(p, proxy, 4)
    assert (np.abs(found - q) <= 4 * np.sqrt(q * (1 - q) / len(draws))).all()


def test_the_best_of_one_is_the_policy_and_the_best_of_many_is_the_best_reply():
    p, proxy = WORLDS["ties"]
    assert best_distribution(p, proxy, 1) == pytest.approx(p, rel=1e-15)
    many = best_distribution(p, proxy, 1000)  # the two best share it as they are written
    assert many == pytest.approx([0.1 / 0.35, 0, 0.25 / 0.35, 0, 0], abs=1e-12)


def test_of_two_equally_likely_replies_the_better_is_the_best_of_n_but_in_one_of_2_to_the_n():
    for n in (1, 2, 3, 10):
        assert best_distribution([0.5, 0.5], [1, 0], n).tolist() == [1 - 0.5**n, 0.5**n]


# ------------------------------------------------------------------------------------------ KL


def test_the_bound_is_0_for_one_and_0_193_for_two_nats():
    assert kl_bound(1) == 0
    assert kl_bound(2) == pytest.approx(0.19315, abs=1e-5)
    assert kl_bound(4) == pytest.approx(2 * math.log(2) - 0.75, rel=1e-15)


@EVERY
def test_the_kl_from_the_policy_is_within_the_bound(world):
    p, proxy = WORLDS[world]
    for n in (2, 3, 8, 100):
        assert 0 < kl(best_distribution(p, proxy, n), p) < kl_bound(n)


@pytest.mark.parametrize("n", [2, 4, 16])
def test_with_many_replies_of_different_scores_the_kl_is_the_bound(n):
    p = np.full(20_000, 1 / 20_000)
    found = kl(best_distribution(p, np.arange(20_000), n), p)
    assert found == pytest.approx(kl_bound(n), rel=1e-3)


# ----------------------------------------------------------------------------------- expected gold


def by_subsets(proxy, gold, n):
    """The mean over all subsets of n of the mean gold of those with the highest proxy."""
    found = []
    for subset in combinations(range(len(proxy)), n):
        best = max(proxy[i] for i in subset)
        found.append(np.mean([gold[i] for i in subset if proxy[i] == best]))
    return np.mean(found)


@pytest.mark.parametrize("levels", [1, 3, 100])
def test_the_expected_gold_is_the_mean_over_all_subsets_with_ties_shared(levels):
    g = np.random.default_rng(levels)
    proxy, gold = g.integers(0, levels, 8).astype(float), g.standard_normal(8)
    for n in range(1, 9):
        expected = by_subsets(proxy, gold, n)
        assert expected_best(proxy, gold, n) == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_the_best_of_one_is_the_mean_and_the_best_of_all_is_that_of_the_highest_proxy():
    proxy, gold = [3, 1, 2, 3], [10, 20, 40, 80]
    assert expected_best(proxy, gold, 1) == pytest.approx(37.5)
    assert expected_best(proxy, gold, 4) == pytest.approx(45)  # the mean of 10 and 80


def test_of_the_numbers_1_to_N_the_best_of_n_has_the_mean_of_the_largest():
    for N, n in ((10, 3), (1000, 7), (1000, 999), (5000, 64)):
        numbers = np.random.default_rng(0).permutation(N) + 1
        assert expected_best(numbers, numbers, n) == pytest.approx(n * (N + 1) / (n + 1), rel=1e-12)


def test_the_expected_gold_is_unbiased():
    """Its mean over every sample of N = 4 from a small world, ties included, is the gold of the
    distribution."""
    p, proxy = map(np.array, WORLDS["ties"])
    gold = np.array([5.0, -1.0, 2.0, 0.5, 3.0])
    for n in (1, 2, 3, 4):
        mean = sum(
            np.prod(p[list(draw)]) * expected_best(proxy[list(draw)], gold[list(draw)], n)
            for draw in product(range(5), repeat=4)
        )
        assert mean == pytest.approx(best_distribution(p, proxy, n) @ gold, rel=1e-12)
