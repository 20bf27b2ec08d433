"""What the best of n gains: closed forms, planted scores, and the command."""

import math

import numpy as np
import pytest
from command_line import refusal, succeeds

from pysft.inference.best import kl_bound
from pysft.jobs import bestof as job
from pysft.measure.bestof import best_of_figures, best_of_lines, gao_fit

SOUND = [[True] * 4]


def figures(scores, golds, sound=None):
    scores = np.asarray(scores, float).tolist() if sound is None else scores
    return best_of_figures(
        scores, sound or [[True] * len(row) for row in golds], golds, range(len(golds))
    )


def test_where_the_score_is_the_truth_the_best_of_n_is_the_mean_of_the_largest():
    numbers = [[3.0, 1.0, 4.0, 2.0], [14.0, 11.0, 12.0, 13.0]]
    found = figures(numbers, numbers)
    assert (found["prompts"], found["samples"], found["unsound"]) == (2, 4, 0)
    for row in found["rows"]:
        expected = row["n"] * 5 / (row["n"] + 1) + 5  # of 1..4 and of 11..14, whose mean is +5
        assert row["gold"] == row["proxy"] == pytest.approx(expected)
        assert row["kl_bound"] == kl_bound(row["n"])
        assert row["gold_low"] < row["gold"] < row["gold_high"]
    assert [row["n"] for row in found["rows"]] == [1, 2, 4]


def test_where_the_score_is_against_the_truth_more_replies_are_worse():
    gold = np.random.default_rng(0).standard_normal((3, 16))
    rows = figures(-gold, gold.tolist())["rows"]
    falling = [row["gold"] for row in rows]
    assert falling == sorted(falling, reverse=True) and len(rows) == 5
    assert rows[-1]["gold"] == pytest.approx(gold.min(axis=1).mean())


def test_a_number_that_is_no_power_of_two_is_rounded_down():
    rows = figures(np.arange(10.0)[None], [[0.0] * 10])["rows"]
    assert [row["n"] for row in rows] == [1, 2, 4, 8]
    assert rows[0]["gold_low"] is None  # of one prompt nobody knows the spread


def test_a_reply_that_is_not_sound_is_chosen_only_if_no_other_is_there():
    scores = [[9.0, None, 1.0, 2.0]]
    sound, gold = [[False, False, True, True]], [[100.0, 50.0, 1.0, 2.0]]
    found = best_of_figures(scores, sound, gold, [0])
    assert found["unsound"] == 0.5 and found["rows"][-1]["gold"] == 2
    assert found["rows"][-1]["proxy"] == 2
    # The second has no score and counts as the lowest.
    assert found["rows"][0]["proxy"] == pytest.approx((9 + 1 + 1 + 2) / 4)
    none_sound = best_of_figures([[9.0, None]], [[False, False]], [[5.0, 7.0]], [0])
    assert none_sound["rows"][-1]["gold"] == 5
    nothing = best_of_figures([[None, None]], [[False, False]], [[5.0, 7.0]], [0])
    assert [row["gold"] for row in nothing["rows"]] == [6, 6]


# ---------------------------------------------------------------------------------------- the curve


KL = [kl_bound(2**i) for i in range(7)]


def test_a_curve_of_gao_is_found_again_and_its_peak_is_where_it_turns():
    d = np.sqrt(KL)
    fit = gao_fit(KL, 0.7 + d * (0.5 - 0.2 * d))
    assert fit["alpha"] == pytest.approx(0.5, rel=1e-9)
    assert fit["beta"] == pytest.approx(0.2, rel=1e-9)
    assert fit["r2"] == pytest.approx(1) and fit["peak"] == pytest.approx(0.5 / 0.4, rel=1e-9)
    assert gao_fit(KL, d * (0.5 + 0.2 * d))["peak"] is None


def test_the_share_that_a_curve_explains_is_of_the_spread_around_the_mean():
    gold = np.array([0.5, 1.0, 1.0, 2.0, 1.5, 2.5, 2.0])
    fit, d = gao_fit(KL, gold), np.sqrt(KL)
    left = gold - gold[0] - d * (fit["alpha"] - fit["beta"] * d)
    assert fit["r2"] == pytest.approx(1 - (left**2).sum() / (gold.var() * 7), rel=1e-12)


def test_few_rows_have_no_curve_and_equal_ones_no_share_that_it_explains():
    assert gao_fit(KL[:3], [1, 2, 3]) is None
    fit = gao_fit(KL, [2.0] * 7)
    assert fit["r2"] is None and fit["alpha"] == fit["beta"] == 0


@pytest.mark.parametrize(
    "gold, says",
    [
        ([0, 1, 0, 1, 0, 1, 0], "the curve does not fit"),
        ([1] * 7, "the gold is the same for all n"),
        (np.sqrt(KL), "R^2 1.000; it never falls"),
        (np.sqrt(KL) * (0.5 - 0.2 * np.sqrt(KL)), "highest at a KL of 1.56 nats"),
        ([0, 1, 2], "no curve is fitted to fewer than 4 rows"),
    ],
)
def test_people_are_told_whether_the_curve_fits(gold, says):
    found = figures([[1.0, 2.0]] * 3, [[1.0, 2.0]] * 3)
    found["fit"] = gao_fit(KL[: len(gold)], [float(x) for x in gold])
    if found["fit"] and says.endswith("falls"):
        found["fit"]["peak"] = None  # a straight line: beta is 0 but for rounding
    lines = best_of_lines(found)
    assert says in lines[-1]
    assert len(lines) == 5 and lines[2].split()[:2] == ["1", "0.000"]


# -------------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def scored(world_run):
    """The folder of a run whose reward model was trained on replies to the world's questions."""
    out = world_run[0].parent / "scored"
    flags = ["--by", "lena", "--replies", 2, "--rounds", 1, "--steps", 2]
    succeeds("reward", world_run[0], *flags, "--out", out)
    return out


def test_eval_measures_the_best_of_n_by_score_and_truth(world_run, scored, monkeypatch):
    monkeypatch.setattr(job, "PROMPTS", 3)
    command = ("eval", world_run[0], "--best-of", 8, "--reward", scored)
    found = succeeds(*command, "--json").document["best_of"]
    assert (found["prompts"], found["samples"]) == (3, 8)
    rows = found["rows"]
    assert {"n", "kl_bound", "proxy", "gold"} <= rows[0].keys()
    assert [row["n"] for row in rows] == [1, 2, 4, 8] and rows[0]["kl_bound"] == 0
    assert all(math.isfinite(row["proxy"]) and 0 <= row["gold"] <= 3 for row in rows)
    assert succeeds(*command, "--json").document["best_of"] == found  # the same draws again
    assert "best of n: 8 replies to each of 3 sealed questions" in succeeds(*command).out


@pytest.mark.parametrize("stage", ["base", "sft"])
def test_eval_needs_a_world_and_a_reward_model(trained, world_run, scored, workdir, stage):
    best = ("--best-of", 4)
    line = refusal(2, "eval", trained.run / stage, *best, "--reward", scored)
    assert "no truth to measure --best-of by" in line
    assert "name the run that has one by --reward" in refusal(66, "eval", world_run[0], *best)
    assert "give that too" in refusal(2, "eval", world_run[0], "--reward", scored)
    assert workdir.is_unchanged()
