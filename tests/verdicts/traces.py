"""Checks about traces of reasoning."""

from pysft.lab.experiments import sums
from pysft.lab.experiments.traces import (
    AGAIN,
    ALONE_ASKED,
    ALONE_LONG,
    OF_EXPERTS,
    OF_TEACHER,
    ONLY_FEW,
    OWN_RIGHT,
    STEPS,
)
from verdicts import record

HOPS = (ALONE_ASKED, ALONE_LONG, AGAIN, STEPS)
SUMS = (sums.ASKED, sums.LONG, sums.AGAIN, sums.STEP_BY_STEP)
OWN = (ONLY_FEW, OWN_RIGHT, OF_TEACHER, OF_EXPERTS)


def above(name, better, worse, arms):
    """make(number): by how much a figure of one arm is above that of another. The other arms
    contradict it: they are as good as the better one where it is little, and as bad where it is
    much."""

    def make(x):
        others = dict.fromkeys(arms, 0.0 if x < 0.15 else 1.0)
        return {
            arm: record(finish={name: y})
            for arm, y in (others | {better: 0.25 + x, worse: 0.25}).items()
        }

    return make


def of(arm, arms, **figures):
    """make(numbers): some figures of one arm, by their names; the other arms have the opposite."""

    def make(xs):
        xs = xs if isinstance(xs, tuple) else (xs,)
        found = dict(zip(figures, xs, strict=True))
        others = {name: 1.0 - x for name, x in found.items()}
        return {a: record(finish=found if a == arm else others) for a in arms}

    return make


def knowing(kind):
    """make((arm's number, share)): the share of one kind of facts that this arm knows."""

    def make(xs):
        number, x = xs
        known = {"attributes": 0.9, "neighbours": 0.9}
        return {
            arm: record(finish=known | ({kind: x} if i == number else {}))
            for i, arm in enumerate(HOPS)
        }

    return make


KNOWN = {(i, x): x >= 0.8 for i in range(4) for x in (0.8, 0.79)}
BY_20, BY_10 = {0.21: True, 0.19: False}, {0.11: True, 0.09: False}
NINE_TENTHS = {(0.91, 1.0): True, (0.89, 1.0): False, (0.46, 0.5): True, (0.0, 0.0): False}
TRACES = {
    "every student knows the facts: of each kind at least 80 % are right if asked for directly": [
        (knowing("attributes"), KNOWN),
        (knowing("neighbours"), KNOWN),
    ],
    "with the teacher's steps at least 20 points more of two hops are right than with answers"
    " alone, for as many questions": [(above("two_hops", STEPS, ALONE_ASKED, HOPS), BY_20)],
    "and at least 20 points more for as many graded tokens": [
        (above("two_hops", STEPS, ALONE_LONG, HOPS), BY_20)
    ],
    "and at least 20 points more than with a thought that repeats the question": [
        (above("two_hops", STEPS, AGAIN, HOPS), BY_20)
    ],
    "at least 60 % of its thoughts have both steps true": [
        (of(STEPS, HOPS, traced=0), {0.6: True, 0.59: False})
    ],
    "at least nine tenths of its right answers follow such a thought": [
        (of(STEPS, HOPS, founded=0, two_hops=0), NINE_TENTHS)
    ],
    "with the steps at least 20 points more of the unseen sums are right than with answers alone,"
    " for as many questions": [(above("right", sums.STEP_BY_STEP, sums.ASKED, SUMS), BY_20)],
    "and at least 20 points more of them for as many graded tokens": [
        (above("right", sums.STEP_BY_STEP, sums.LONG, SUMS), BY_20)
    ],
    "and at least 20 points more than after a thought that repeats the sum": [
        (above("right", sums.STEP_BY_STEP, sums.AGAIN, SUMS), BY_20)
    ],
    "with the steps at least 80 % are right": [
        (of(sums.STEP_BY_STEP, SUMS, right=0), {0.8: True, 0.79: False})
    ],
    "at least nine tenths of these follow a thought whose steps are all right": [
        (of(sums.STEP_BY_STEP, SUMS, founded=0, right=0), NINE_TENTHS)
    ],
    "its own right traces bring at least 10 points more of two hops than the few written ones"
    " alone": [(above("two_hops", OWN_RIGHT, ONLY_FEW, OWN), BY_10)],
    "the teacher's bring at least 5 points more than its own": [
        (above("two_hops", OF_TEACHER, OWN_RIGHT, OWN), {0.06: True, 0.04: False})
    ],
    "those that the world writes bring at least 10 points more than the few alone": [
        (above("two_hops", OF_EXPERTS, ONLY_FEW, OWN), BY_10)
    ],
    "at least nine tenths of its own traces that led to a right answer are true themselves": [
        (of(OWN_RIGHT, OWN, true_traces=0), {0.9: True, 0.89: False})
    ],
}
