"""The alarms of a training on a reward: each on both sides of its threshold, and none for noise."""

import math

import numpy as np
import pytest

from pysft.training.alarms import (
    BEST,
    FROM_BEST,
    GONE,
    LIMIT,
    SHRUNK,
    SURE,
    WINDOW,
    WORTH,
    alarms,
    change,
)

CALM = {"kl": 1.0, "reward": 1.0, "length": 40.0, "entropy": 2.0, "distinct_first": 1.0}
CALM |= dict.fromkeys(WORTH, 0.9)
# Numbers around 0 whose variance (ddof 1) over any WINDOW that follow is 1: what an iteration adds.
SWING = math.sqrt((WINDOW - 1) / WINDOW) * np.tile([-1.0, 1.0], WINDOW)
ERROR = math.sqrt(2 / WINDOW)  # the standard error of a difference then


def course(spread=0.01, between=0, **last):
    """The figures of WINDOW iterations, of some between, and of WINDOW more in which some figures
    have other means. Each varies by `spread`."""
    parts = [CALM] * (WINDOW + between) + [CALM | last] * WINDOW
    swing = np.resize(SWING, len(parts))
    return [{name: x + spread * s for name, x in row.items()} for row, s in zip(parts, swing)]


def names(rows, kl_limit=20.0):
    return set(alarms(rows, kl_limit))


def test_a_change_is_the_difference_of_two_means_in_standard_errors():
    first, last, errors = change(course(0.5, reward=3.0), "reward")
    assert (first, last) == pytest.approx((1, 3)) and errors == pytest.approx(2 / (0.5 * ERROR))
    assert change(course(0.5, between=7, reward=3.0), "reward")[2] == pytest.approx(errors)
    assert change(course(0.5, reward=-1.0), "reward")[2] == pytest.approx(-errors)


def test_between_figures_that_do_not_vary_any_difference_counts():
    assert change(course(0, reward=1.001), "reward")[2] > LIMIT
    assert change(course(0, reward=0.999), "reward")[2] < -LIMIT
    assert change(course(0), "reward") == (1, 1, 0)


def test_two_windows_that_overlap_are_not_compared():
    rows = course(reward=3.0)
    assert change(rows[1:], "reward") is None
    assert change([], "reward") is None
    assert names(course(reward=3.0, gold=0.1, length=1.0)[1:]) == set()


def test_a_figure_that_a_row_lacks_is_not_compared():
    rows = course(reward=3.0, gold=0.1)
    del rows[-1]["gold"]
    assert change(rows, "gold") is None and names(rows) == set()
    assert names(course(gold=0.1, reward=3.0)) == {"reward hacking"}


@pytest.mark.parametrize("seed", range(20))
def test_noise_raises_no_alarm(seed):
    """400 iterations of one mean, each judged after all before it, as in a training."""
    g = np.random.default_rng(seed)
    rows = [{name: g.normal(x, 0.1) for name, x in CALM.items()} for _ in range(400)]
    assert not [rows[:n] for n in range(1, 401, 7) if names(rows[:n])]


def test_a_reward_that_rises_alone_is_what_training_is_for():
    assert names(course(reward=3.0)) == set()
    assert names(course(reward=3.0, gold=2.0)) == set()


@pytest.mark.parametrize("worth", WORTH)
def test_reward_hacking_is_a_reward_that_rises_while_a_worth_falls(worth):
    found = alarms(course(reward=3.0, **{worth: 0.4}), 20.0)
    assert set(found) == {"reward hacking"}
    assert found["reward hacking"] == (
        f"the reward rose from 1.00 to 3.00, but {WORTH[worth]} fell from 0.90 to 0.40"
    )
    assert names(course(**{worth: 0.4})) == set()  # the reward stays
    assert names(course(reward=-1.0, **{worth: 0.4})) == set()  # both fall
    assert names(course(reward=3.0, **{worth: 1.4})) == set()  # both rise


@pytest.mark.parametrize("part", [0.99, 1.01])
def test_a_rise_and_a_fall_count_beyond_three_standard_errors(part):
    size, spread = 0.1, 0.1 / (LIMIT * ERROR)  # the difference `size` is LIMIT standard errors
    rises = course(spread, reward=1 + part * size, gold=-1.0)
    falls = course(spread, reward=3.0, gold=0.9 - part * size)
    assert names(rises) == names(falls) == ({"reward hacking"} if part > 1 else set())


def test_every_worth_that_falls_is_told():
    found = alarms(course(reward=3.0, gold=0.4, distinct_words=0.2), 20.0)["reward hacking"]
    assert "the gold points fell" in found and "the share of different words fell" in found


SHRINKS = {"short replies": ("length", SHRUNK), "entropy": ("entropy", SURE)}
SHRINKS["same replies"] = ("distinct_first", GONE)


@pytest.mark.parametrize("name", SHRINKS)
def test_what_has_shrunk_to_its_share_raises_an_alarm(name):
    figure, share = SHRINKS[name]
    at = share * CALM[figure]
    assert names(course(0.001, **{figure: at - 0.01})) == {name}
    assert names(course(0.001, **{figure: at + 0.01})) == set()
    assert names(course(0.001, **{figure: 3 * CALM[figure]})) == set()
    # So large a difference is no fall if the figure varies much more.
    assert names(course(100.0, **{figure: at - 0.01})) == set()


def test_an_alarm_of_what_has_shrunk_gives_both_means():
    found = alarms(course(length=12.0, entropy=0.09, distinct_first=0.12), 20.0)
    assert found == {
        "short replies": "replies have 12.0 tokens, 40.0 at first",
        "entropy": "the entropy is 0.09 nats a token, 2.00 at first",
        "same replies": "12% of the prompts get a reply of their own",
    }


def test_what_has_risen_before_it_falls_is_compared_with_its_best():
    """Gao's curve: at the end more is left than at the start, and much was lost."""

    def risen(gold, spread=0.001, **last):
        high = course(spread, between=WINDOW, reward=2.0, gold=2.0)[-WINDOW:]
        return course(spread) + high + course(spread, reward=3.0, gold=gold, **last)[-WINDOW:]

    assert names(risen(2.0 * FROM_BEST - 0.01)) == {"reward hacking"}
    assert names(risen(2.0 * FROM_BEST + 0.01)) == set()
    fall = 2.0 - 1.5
    assert names(risen(1.5, spread=1.1 * fall / BEST / ERROR)) == set()  # it may be noise
    rises = course(0.001) + [row | {"reward": 5.0, "gold": 2.0} for row in course(0.001)[:WINDOW]]
    falls = rises + course(0.001, reward=3.0, gold=1.5)[-WINDOW:]
    assert names(falls) == set()  # the reward fell too: nothing was hacked


def test_a_kl_above_its_limit_is_the_mean_of_the_last_window_in_nats_a_reply():
    high = course(kl=20.5)
    assert names(high) == {"kl"} and names(course(kl=19.5)) == set()
    assert "20.5 nats a reply, above 20" in alarms(high, 20.0)["kl"]
    assert names(high, kl_limit=0.0) == set()  # no limit
    assert names(high[WINDOW:]) == {"kl"}  # one window is enough: it is compared with a number
    assert names(high[WINDOW + 1 :]) == set()
    assert names(course(kl=300.0)[: WINDOW + 1]) == {"kl"}  # 30.9 on average


def test_no_iteration_raises_no_alarm():
    assert alarms([], 20.0) == {}
