"""Checks about a constitution, and about several turns."""

from pysft.lab.experiments.constitution import (
    AFTER_ROUNDS,
    BEFORE,
    OWN_ANSWERS,
    OWN_REVISIONS,
    PREFERRED,
)
from pysft.lab.experiments.turns import CHANGING, HALF, LAST, SEVERAL, SINGLE
from pysft.lab.turns_tasks import PLACES
from pysft.world.violations import PRINCIPLES
from verdicts import LESS, record
from verdicts.preferences import each


def criticising(xs):
    """The balanced accuracy of the critiques by each principle; those of another arm are right."""
    found = {f"critiques_{name}": x for name, x in zip(PRINCIPLES, xs, strict=True)}
    return {OWN_REVISIONS: record(finish=found), BEFORE: record(finish=dict.fromkeys(found, 1.0))}


def beside_single(turn, arm, single=SINGLE):
    """make(numbers): the share that is right in a turn, of two arms. In the other turns all is the
    opposite."""

    def make(xs):
        a, b = xs
        others = [place for place in PLACES if place != turn]
        return {
            single: record(finish={turn: a} | dict.fromkeys(others, b)),
            arm: record(finish={turn: b} | dict.fromkeys(others, a)),
        }

    return make


def halves(xs):
    """The first turn of single turns and of half and half, the second of three turns and of half
    and half."""
    single, half, several, half_2 = xs
    return {
        SINGLE: record(finish={"first": single, "second": 0.0}),
        HALF: record(finish={"first": half, "second": half_2}),
        SEVERAL: record(finish={"first": 1.0, "second": several}),
    }


def in_format(xs):
    found = {f"format_{place}": x for place, x in zip(PLACES, xs, strict=True)}
    return {SEVERAL: record(finish=found), SINGLE: record(finish=dict.fromkeys(found, 0.5))}


def graded_last(xs):
    """The third turn of three turns and of those of which the last is graded, and the first."""
    third, third_last, first, first_last = xs
    return {
        SEVERAL: record(finish={"third": third, "first": first}),
        LAST: record(finish={"third": third_last, "first": first_last}),
    }


OF_RULES = {
    "on its own revisions violations fall to a third or less": [
        (
            each("violations", OWN_REVISIONS, BEFORE),
            {(0.2, 0.625): True, (0.21, 0.6): False, (0.6, 0.2): False},
        )
    ],
    "on its own unrevised answers at least nine tenths of them stay": [
        (
            each("violations", OWN_ANSWERS, BEFORE),
            {(0.5, 0.5): True, (0.46, 0.5): True, (0.44, 0.5): False},
        )
    ],
    "on its own revisions at least 10 points more of the answers are right": [
        (
            each("right", OWN_REVISIONS, BEFORE),
            {(0.625, 0.5): True, (0.59, 0.5): False, (0.5, 0.625): False},
        )
    ],
    "critiques are right three times of four (balanced), by each principle": [
        (
            criticising,
            {(0.75, 0.75, 0.75): True}
            | {tuple(0.74 if i == j else 1.0 for j in range(3)): False for i in range(3)},
        )
    ],
    "three rounds leave fewer violations than one": [
        (each("violations", AFTER_ROUNDS, OWN_REVISIONS), LESS)
    ],
    "by DPO on its own preferences violations fall to half or less": [
        (
            each("violations", PREFERRED, BEFORE),
            {(0.25, 0.5): True, (0.26, 0.5): False, (0.5, 0.25): False},
        )
    ],
}
AT_MOST_3_LESS = {(0.5, 0.5): True, (0.5, 0.48): True, (0.25, 0.5): True, (0.5, 0.46): False}
OF_TURNS = {
    "three turns answer at least 20 points more second questions right than single turns": [
        (
            beside_single("second", SEVERAL),
            {(0.25, 0.5): True, (0.25, 0.44): False, (0.5, 0.25): False},
        )
    ],
    "they lose at most 3 points in the first turn": [
        (beside_single("first", SEVERAL), AT_MOST_3_LESS)
    ],
    "half and half loses at most 3 points, in the first turn of single turns and in the second of"
    " three turns": [
        (
            halves,
            {
                (0.5, 0.48, 0.5, 0.48): True,
                (0.5, 0.46, 0.5, 0.5): False,
                (0.5, 0.5, 0.5, 0.46): False,
                (0.25, 0.5, 0.25, 0.5): True,
            },
        )
    ],
    "three turns are in format in every turn, at least 95 % of the time": [
        (
            in_format,
            {(0.95, 0.95, 0.95): True}
            | {tuple(0.94 if i == j else 1.0 for j in range(3)): False for i in range(3)},
        )
    ],
    "if half of them change the subject, a second turn that does is right at least 20 points more"
    " often": [
        (
            each("named", CHANGING, SEVERAL, second=0.5),
            {(0.75, 0.5): True, (0.69, 0.5): False, (0.5, 0.75): False},
        )
    ],
    "if the last turn alone is graded, the third loses at most 3 points and the first at least"
    " 20": [
        (
            graded_last,
            {
                (0.5, 0.48, 0.5, 0.25): True,
                (0.5, 0.46, 0.5, 0.25): False,
                (0.5, 0.48, 0.5, 0.31): False,
                (0.5, 0.48, 0.25, 0.5): False,
            },
        )
    ],
}
CONSTITUTION = OF_RULES | OF_TURNS
