"""Checks about pipelines that write much and throw most away."""

from pysft.lab.experiments.curating import (
    ALL_FEWER,
    ALL_MORE,
    ALONE,
    DRAWN,
    EVERY,
    HARDEST,
    KEPT_FEWER,
    KEPT_MORE,
    MINIMAL,
    MINIMAL_ALONE,
    NOISY_DRAWN,
    NOISY_LOSS,
)
from verdicts import record
from verdicts.preferences import MORE_OF, each, two_figures


def above(name, arm, other):
    """make(number): by how much a figure of one arm is above that of another."""
    return lambda x: {
        arm: record(finish={name: 0.25 + x}),
        other: record(finish={name: 0.25}),
    }


AS_MUCH = {(0.5, 0.5): True, (0.6, 0.5): True, (0.4, 0.5): False}
CURATING = {
    "filtered rows gain at least 15 points over the seeds alone": [
        (above("right", KEPT_MORE, ALONE), {0.1501: True, 0.149: False, -0.2: False})
    ],
    "and at least 5 over the same rows without filters": [
        (above("right", KEPT_MORE, ALL_MORE), {0.0501: True, 0.049: False, -0.1: False})
    ],
    "four times as many rows gain at least 2 points if they are filtered": [
        (above("right", KEPT_MORE, KEPT_FEWER), {0.0201: True, 0.019: False, -0.1: False})
    ],
    "and less than 2 if they are not": [
        (above("right", ALL_MORE, ALL_FEWER), {0.019: True, -0.1: True, 0.0201: False})
    ],
    "the minimal recipe is right more often on filtered rows than on the seeds alone": [
        (each("right", MINIMAL, MINIMAL_ALONE), MORE_OF)
    ],
    "and more often than the seeds alone after 600 steps": [
        (each("right", MINIMAL, ALONE), MORE_OF)
    ],
    "and its checkpoint by marks at least as often as the one with the lowest loss": [
        (two_figures("right", "right_by_loss", MINIMAL), AS_MUCH)
    ],
    "at least half of the rows are easy: six of eight replies or more are right": [
        (each("easy", HARDEST), {0.5: True, 0.49: False})
    ],
    "the hardest tenth teaches at least as much as all rows": [
        (each("right", HARDEST, EVERY), AS_MUCH)
    ],
    "and at least 2 points more than a random tenth": [
        (above("right", HARDEST, DRAWN), {0.0201: True, 0.019: False, -0.1: False})
    ],
    "and forgets at most 1 point more of the base text": [
        (above("forgetting", HARDEST, DRAWN), {0.009: True, -0.1: True, 0.011: False})
    ],
    "without a judge before, the highest loss picks false answers: at least twice as many as a"
    " random tenth": [
        (
            each("false", NOISY_LOSS, NOISY_DRAWN),
            {(0.5, 0.25): True, (0.49, 0.25): False, (0.25, 0.5): False},
        )
    ],
    "and is right at least 5 points less often than a random tenth": [
        (above("right", NOISY_DRAWN, NOISY_LOSS), {0.0501: True, 0.049: False, -0.1: False})
    ],
}
