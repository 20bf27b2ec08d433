"""Checks about what a model knows, and refusing the rest."""

from pysft.lab.experiments.probing import (
    BEFORE_ALL,
    GUESS,
    NO_PAIRS,
    NOTHING,
    OTHERS,
    OWN_MAP,
    RECALL,
    REFUSALS,
)
from verdicts import record
from verdicts.preferences import each, two_figures

CONTROLS = (BEFORE_ALL, REFUSALS, NO_PAIRS)
OF_A_MAP = {
    "the balanced accuracy of its own map is at least 85 %": [
        (each("balanced_accuracy", OWN_MAP, other_balanced_accuracy=0.5), {0.85: True, 0.84: False})
    ],
    "of what its own map calls known, the other one calls at least a tenth unknown": [
        (each("known_to_own_alone", OWN_MAP), {0.1: True, 0.09: False})
    ],
    "by its own map at least 80 % of the map's unknown questions are refused, and at most 5 % of"
    " the known ones": [
        (
            two_figures("map_unknown_refused", "map_known_refused", OWN_MAP),
            {(0.8, 0.05): True, (0.79, 0.05): False, (0.8, 0.06): False},
        )
    ],
    "by a guess at least 10 points more of the known ones are refused": [
        (
            each("map_known_refused", GUESS, OWN_MAP),
            {(0.125, 0.0): True, (0.09, 0.0): False, (0.0, 0.125): False},
        )
    ],
    "by another model's map at least 5 points more": [
        (
            each("map_known_refused", OTHERS, OWN_MAP),
            {(0.0625, 0.0): True, (0.04, 0.0): False, (0.0, 0.0625): False},
        )
    ],
    "by both of these at least twice as many of the map's questions are answered wrong": [
        (
            each("map_wrong", GUESS, OTHERS, OWN_MAP),
            {(0.5, 0.5, 0.25): True, (0.49, 0.5, 0.25): False, (0.5, 0.49, 0.25): False},
        )
    ],
    "on sealed questions its own map, too, leaves the fewest wrong answers": [
        (
            each("wrong", OWN_MAP, NOTHING, GUESS, OTHERS),
            {
                (0.4, 0.5, 0.5, 0.5): True,
                (0.4, 0.4, 0.5, 0.5): False,
                (0.4, 0.5, 0.4, 0.5): False,
                (0.4, 0.5, 0.5, 0.4): False,
            },
        )
    ],
}


def higher(name):
    """make(numbers): a figure of the arm with rows that compare, and of the three others."""
    return lambda xs: {
        arm: record(finish={name: x}) for arm, x in zip((RECALL, *CONTROLS), xs, strict=True)
    }


BY_15_POINTS = {
    (0.75, 0.5, 0.5, 0.5): True,
    (0.75, 0.625, 0.5, 0.5): False,
    (0.75, 0.5, 0.625, 0.5): False,
    (0.75, 0.5, 0.5, 0.625): False,
    (0.5, 0.75, 0.75, 0.75): False,
}
OF_NAMES = {
    "with answers and refusals at least 60 % of the known is answered right, and at least 60 % of"
    " the unknown refused": [
        (
            two_figures("known_right", "unknown_refused", REFUSALS),
            {(0.6, 0.6): True, (0.59, 0.9): False, (0.9, 0.59): False},
        )
    ],
    "with rows that compare at least 60 % of the known is answered right": [
        (each("known_right", RECALL), {0.6: True, 0.59: False})
    ],
    "and at least 60 % of the unknown is refused": [
        (each("unknown_refused", RECALL), {0.6: True, 0.59: False})
    ],
    "the mean of the two is at least 70 % then": [
        (each("mean", RECALL, new_mean=0.0), {0.7: True, 0.69: False})
    ],
    "and at least 15 points higher than in every other arm": [(higher("mean"), BY_15_POINTS)],
    "in new wordings too": [(higher("new_mean"), BY_15_POINTS)],
}
PROBING = OF_A_MAP | OF_NAMES
