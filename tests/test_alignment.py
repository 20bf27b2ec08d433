"""The figures of preference training by hand: intervals, calibration, win rates."""

import math

import numpy as np
import pytest

from pysft.measure.alignment import (
    gain_figures,
    interval,
    interval_of_share,
    is_good_enough,
    order_figures,
    win_figures,
)
from pysft.text.ranking import Ranking


def ranking(prompt, replies=("a", "bb"), ranks=(1, 2), labeler=""):
    messages = [{"role": "user", "content": prompt}]
    return Ranking(messages, replies, ranks, "file", 1, labeler)


def wilson(mean, n, t):
    middle = (mean + t * t / (2 * n)) / (1 + t * t / n)
    half = t * math.sqrt(mean * (1 - mean) / n + t * t / (4 * n * n)) / (1 + t * t / n)
    return pytest.approx((middle - half, min(1.0, middle + half)), rel=2e-2)


def test_independent_pairs_have_the_interval_of_wilson():
    right = np.array([1.0] * 150 + [0.0] * 50)
    t = 1.9720  # Student's, for 199 degrees of freedom
    assert interval_of_share(right, range(200)) == wilson(0.75, 199, t)


def test_pairs_of_one_prompt_count_once_if_they_are_all_alike():
    each = [1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0]
    right, prompts = np.repeat(each, 15), np.repeat(range(8), 15)
    low, high = interval_of_share(right, prompts)
    assert (low, high) == pytest.approx(interval_of_share(np.array(each), range(8)))
    assert low < 0.4 and high > 0.9


def test_all_right_is_not_certain():
    assert interval_of_share(np.ones(12), np.repeat(range(4), 3)) == wilson(1.0, 4, 3.182)
    assert interval_of_share(np.ones(5), [0] * 5) == (None, None)


def test_two_labelers_of_the_same_replies_are_no_second_observation():
    some = [ranking(str(n), ranks=(1, 2) if n % 3 else (2, 1)) for n in range(12)]
    again = [r for r in some for _ in range(2)]
    scores = [np.array([1.0, 0.0])] * 24
    once, twice = order_figures([], some, scores[:12]), order_figures([], again, scores)
    for name in ("accuracy", "accuracy_low", "accuracy_high"):
        assert twice[name] == pytest.approx(once[name])
    assert twice["pairs"] == 2 * once["pairs"]


def test_two_prompts_are_too_few_to_pass_the_gate():
    heldout = [ranking("one"), ranking("two")]
    figures = order_figures([ranking("other", ("aa", "b"))], heldout, [np.array([9.0, 0.0])] * 2)
    assert figures["accuracy"] == 1 and not is_good_enough(figures)[0]


def test_a_reward_model_predicts_by_the_scores_that_it_was_trained_with():
    heldout = [ranking(str(n)) for n in range(10)]
    scores = [np.array([2.0, 1.0])] * 10
    found = order_figures([], heldout, scores, scale=3.0)
    predicted = [row["predicted"] for row in found["by_margin"]]
    assert predicted == pytest.approx([1 / (1 + math.exp(-3))] * 5)
    assert {row["margin"] for row in found["by_margin"]} == {1.0} and found["scale"] == 3.0
    unknown = order_figures([], heldout, scores, scale=None)
    assert {row["predicted"] for row in unknown["by_margin"]} == {None}


def test_an_interval_of_a_win_rate_is_one_of_shares():
    after, before = np.ones((20, 1)), np.zeros((20, 1))
    after[0] = 0
    found = win_figures(after, before, range(20))
    assert found["win_rate"] == 0.975 and found["win_rate_high"] <= 1.0
    assert 0.75 < found["win_rate_low"] < 0.975
    none = win_figures(after, before, [0] * 20)
    assert (none["win_rate_low"], none["win_rate_high"]) == (None, None)
    assert win_figures(after[1:3], before[1:3], list("ab"))["win_rate_low"] < 0.5  # two are few


def test_questions_about_one_person_are_one_observation():
    """Each person is asked about in four wordings, and wins with all or with none."""
    won = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    after, before = np.repeat(won, 4)[:, None] * 3, np.ones((40, 1))
    people = np.repeat(range(10), 4)
    as_one, as_many = (win_figures(after, before, s) for s in (people, range(40)))
    assert as_one["win_rate"] == as_many["win_rate"] == 0.7
    alone = win_figures(won[:, None] * 3, before[:10], range(10))
    for end in ("win_rate_low", "win_rate_high"):
        assert as_one[end] == pytest.approx(alone[end])
    assert as_one["win_rate_low"] < as_many["win_rate_low"]
    few, many = interval(np.repeat(won, 4), people), interval(won, range(10))
    assert few == pytest.approx(many) and interval([1.0, 2.0], "aa") == (None, None)
    half = 2.262 * np.std(won, ddof=1) / math.sqrt(10)
    assert many == pytest.approx((0.7 - half, 0.7 + half), rel=1e-2)


def test_gains_of_the_better_and_of_the_worse_reply_are_told_apart():
    some = ranking("Hi", ("a", "b", "c"), (2, 1, 2))
    found = gain_figures([some], [np.array([0.5, 1.0, 3.0])])
    assert found | {"accuracy": 0.5, "chosen_logp": 1.0, "rejected_logp": 1.75} == found
    assert found["accuracy_low"] is found["accuracy_high"] is None  # one prompt
    two = gain_figures([some, ranking("Ho")], [np.array([0.5, 1.0, 3.0]), np.array([1.0, 0.0])])
    assert two["accuracy"] == pytest.approx(2 / 3) and two["accuracy_low"] < 2 / 3


def test_nobody_gains_where_nothing_is_compared():
    assert set(gain_figures([], []).values()) == {None}
