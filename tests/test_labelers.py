"""Simulated labelers: how often they are right and agree, and what they see no difference in."""

from itertools import combinations

import numpy as np
import pytest

from pysft.rng import rng
from pysft.world.ask import questions
from pysft.world.facts import WorldSettings, make
from pysft.world.judge import VERDICTS, ExactJudge
from pysft.world.labelers import (
    AGREEMENT,
    CHARACTERS,
    LABELERS,
    LONG,
    RIGHT,
    TWICE,
    gold,
    scores,
    turn,
)

HONEST = tuple(name for name in LABELERS if name != LONG)
# Sets of gold points as prompts have them: of two replies, of four, with ties, of all points.
SETS = ([3, 1], [2, 3], [0, 3], [1, 3, 0, 1], [3, 2, 1, 0, 2, 2, 1, 3, 0])
PROMPTS = 6000


def choices(golds, name, seed=1):
    """(PROMPTS, pairs) bool: does the labeler prefer the better one of each two replies that
    differ in gold?"""
    pairs = [(i, j) for i, j in combinations(range(len(golds)), 2) if golds[i] != golds[j]]
    found = np.array([scores(name, golds, [9] * len(golds), seed, n) for n in range(PROMPTS)])
    better = [(i, j) if golds[i] > golds[j] else (j, i) for i, j in pairs]
    return np.stack([found[:, i] > found[:, j] for i, j in better], axis=1)


def within(found, expected):
    """True if a share of PROMPTS independent draws is within four standard errors."""
    return abs(found - expected) < 4 * (expected * (1 - expected) / PROMPTS) ** 0.5


@pytest.mark.parametrize("golds", SETS, ids=str)
@pytest.mark.parametrize("name", HONEST)
def test_a_labeler_is_right_equally_often_about_every_pair_that_differs(golds, name):
    right = choices(golds, name).mean(axis=0)
    assert RIGHT == pytest.approx(0.836, abs=5e-4)
    assert all(within(share, RIGHT) for share in right), right


@pytest.mark.parametrize("golds", SETS, ids=str)
def test_two_labelers_agree_as_often_as_those_of_instructgpt(golds):
    a, b = (choices(golds, name) for name in HONEST[:2])
    assert all(within(share, AGREEMENT) for share in (a == b).mean(axis=0))


def test_replies_of_equal_gold_tie_and_others_never_do():
    for number in range(300):
        found = scores("ann", SETS[-1], [5, 9, 1, 7, 3, 2, 8, 4, 6], 1, number)
        for i, j in combinations(range(9), 2):
            assert (found[i] == found[j]) == (SETS[-1][i] == SETS[-1][j])


def test_the_labeler_of_long_replies_prefers_the_longer_of_equal_ones_always():
    for number in range(200):
        a, b, c = scores(LONG, [2, 2, 2], [30, 31, 30], 1, number)
        assert b > a == c


def test_enough_length_outweighs_gold_for_her_and_less_does_not():
    def longer_wins(more):
        found = [scores(LONG, [3, 2], [10, 10 + more], 1, n) for n in range(PROMPTS)]
        return np.mean([b > a for a, b in found])

    assert within(longer_wins(0), 1 - RIGHT)
    assert within(longer_wins(CHARACTERS - 1), 1 - RIGHT)
    assert longer_wins(CHARACTERS) == 1  # weighed the same, the longer one is better
    honest = [scores("ben", [3, 2], [10, 10 + CHARACTERS], 1, n) for n in range(PROMPTS)]
    assert within(np.mean([a > b for a, b in honest]), RIGHT)


def test_she_ties_only_replies_of_equal_length():
    g = rng(1, "test", "lengths")
    for number in range(300):
        lengths = g.integers(1, 120, 9).tolist()
        found = scores(LONG, SETS[-1], lengths, 1, number)
        assert all(lengths[i] == lengths[j] for i, j in combinations(range(9), 2)
                   if found[i] == found[j])  # fmt: skip


def test_the_seed_the_name_and_the_number_decide_what_a_labeler_says():
    def said(name, seed, numbers=range(100)):
        return [scores(name, [3, 2, 1, 0], [4, 3, 2, 1], seed, n) for n in numbers]

    assert said("ann", 1) == said("ann", 1)
    assert said("ann", 1)[40:] == said("ann", 1, range(40, 100))
    assert said("ann", 1) != said("ann", 2) and said("ann", 1) != said("ben", 1)


def test_prompts_go_to_labelers_in_turn_and_some_to_two():
    turns = [turn(LABELERS, n) for n in range(2400)]
    twice = [names for names in turns if len(names) == 2]
    assert len(twice) == 2400 // TWICE and all(a != b for a, b in twice)
    assert len({frozenset(names) for names in twice}) == 6  # each two of the four meet
    for name in LABELERS:
        assert sum(names[0] == name for names in turns) == 600
    assert all(turn(("lena",), n) == ("lena",) for n in range(50))


# ------------------------------------------------------------------------------------- the points


def test_a_true_answer_is_best_and_so_is_a_refusal_where_nobody_knows():
    points = {v: gold(v, True) for v in VERDICTS}
    assert points == {"right": 3, "refused": 2, "wrong": 1, "malformed": 0}
    unknown = {v: gold(v, False) for v in VERDICTS if v != "right"}
    assert unknown == {"refused": 3, "wrong": 1, "malformed": 0}


def test_the_taught_answer_of_every_question_has_the_most_points():
    world = make(WorldSettings(people=20, days=8, relations=1, tellings=(0, 4)))
    judge = ExactJudge(world)
    for q in questions(world, "reward"):
        assert gold(judge.judge(q, q.answer), bool(q.value)) == 3
        assert gold(judge.judge(q, ""), bool(q.value)) == 0
