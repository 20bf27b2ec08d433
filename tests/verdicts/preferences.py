"""Checks about reward models, DPO, and what people prefer."""

from pysft.lab.experiments.preferences import (
    COMPARED,
    GENTLE,
    GENTLE_NLL,
    LONG_ON_FEW,
    NLL_ALONE,
    NOTHING,
    ROUGH,
    ROUGH_NLL,
    SHIPPED,
    written,
)
from pysft.lab.experiments.rewards import (
    CHANCE,
    DAVIDSON,
    DROPPED,
    FEW,
    HALF,
    ITSELF,
    JUDGE,
    MANY,
    MORE,
    MOST,
    SINGLY,
    SINGLY_LONG,
    SOME,
    TOGETHER,
    TOGETHER_LONG,
)
from pysft.lab.reward_tasks import NS
from verdicts import record


def each(name, *arms, **others):
    """make(numbers): what a task found, by its name, for each arm; make(number) for one arm.
    others: {name of a figure: of all arms}."""

    def make(xs):
        xs = xs if isinstance(xs, tuple) else (xs,)
        return {
            arm: record(finish=dict(others) | {name: x}) for arm, x in zip(arms, xs, strict=True)
        }

    return make


def two_figures(first, second, *arms):
    """make(numbers): the first figure of the first arm and the second of the last one; of one arm
    both. Where an arm has the other figure too, it is the opposite."""

    def make(xs):
        found = {arm: {} for arm in arms}
        found[arms[0]][first], found[arms[-1]][second] = xs
        return {arm: record(finish=figures) for arm, figures in found.items()}

    return make


def overfit(xs):
    """By how much training is above the held-out comparisons: singly, and together."""
    found = zip((SINGLY_LONG, TOGETHER_LONG), xs, (0.9, 0.5), strict=True)
    return {
        arm: record(finish={"trained_accuracy": held + x, "accuracy": held})
        for arm, x, held in found
    }


def of_n(first, last, between=0.5):
    """Points of the best of each n."""
    return {f"gold_{n}": first if n == 1 else last if n == NS[-1] else between for n in NS}


def gains(*arms):
    """make(numbers): the points that the best of 64 gains, for each arm. Those who gain more have
    fewer points."""
    return lambda xs: {
        arm: record(finish=of_n(3 - 2 * x, 3 - x)) for arm, x in zip(arms, xs, strict=True)
    }


def rising(arm):
    """make(number): the score of the best of 64 of one reward model; that of 32 is 6. The others
    rise."""

    def make(x):
        whole = {f"proxy_{n}": float(i + 1) for i, n in enumerate(NS)}
        found = {name: record(finish=whole) for name in (SOME, MORE, MOST)}
        return found | {arm: record(finish=whole | {"proxy_64": x})}

    return make


def wins(*arms):
    return each("win_rate", *arms, gold=0.0)


LESS = {(1.0, 1.01): True, (1.0, 1.0): False, (1.01, 1.0): False}  # of two: the first is less
MORE_OF = {(1.01, 1.0): True, (1.0, 1.0): False, (1.0, 1.01): False}
AT_LEAST = {(1.0, 1.0): True, (1.01, 1.0): True, (0.99, 1.0): False}
OF_MANY = {
    "with 100 and with 300 comparisons less than 60 % of held-out replies are put in the right"
    " order": [
        (
            each("gold_accuracy", FEW, SOME),
            {(0.59, 0.59): True, (0.6, 0.5): False, (0.5, 0.6): False},
        )
    ],
    "with 6,000 at least 65 %": [(each("gold_accuracy", MOST), {0.65: True, 0.64: False})],
    "6,000 gain at least 5 points over 1,000": [
        (
            each("gold_accuracy", MOST, MANY),
            {(0.75, 0.5): True, (0.55, 0.5): True, (0.54, 0.5): False, (0.5, 0.75): False},
        )
    ],
    "3,000 by the exact judge are at least as good as 3,000 by labelers": [
        (each("gold_accuracy", JUDGE, MORE), AT_LEAST)
    ],
    "after 3,000 in a random order between 40 and 60 % are in the right order": [
        (each("gold_accuracy", CHANCE), {0.4: True, 0.6: True, 0.39: False, 0.61: False})
    ],
}
IN_BATCHES = {
    "in one epoch the loss on held-out comparisons is lower together than singly": [
        (each("heldout_loss", TOGETHER, SINGLY), LESS)
    ],
    "in four epochs too": [(each("heldout_loss", TOGETHER_LONG, SINGLY_LONG), LESS)],
    "in four epochs the gap between training and held-out comparisons is larger singly than"
    " together": [(overfit, {(0.5, 0.25): True, (0.25, 0.5): False, (-0.5, -0.25): False})],
    "singly, four epochs end with a higher held-out loss than one epoch": [
        (each("heldout_loss", SINGLY_LONG, SINGLY), MORE_OF)
    ],
    "in one epoch at least as many replies are in the right order together as singly": [
        (each("gold_accuracy", TOGETHER, SINGLY), AT_LEAST)
    ],
}
OF_TIES = {
    "with half for each, equal replies are closer to each other than if ties are dropped": [
        (each("tied_spread", HALF, DROPPED), LESS)
    ],
    "with Davidson's model they are too": [(each("tied_spread", DAVIDSON, DROPPED), LESS)],
    "both put at most 2 points fewer of the others in the right order": [
        (
            each("gold_accuracy", HALF, DAVIDSON, DROPPED),
            {
                (0.69, 0.69, 0.7): True,
                (0.8, 0.8, 0.7): True,
                (0.67, 0.8, 0.7): False,
                (0.8, 0.67, 0.7): False,
            },
        )
    ],
    "Davidson's model promises shares at least as well as dropped ties do": [
        (
            each("miscalibration", DAVIDSON, DROPPED),
            {(0.1, 0.1): True, (0.09, 0.1): True, (0.11, 0.1): False},
        )
    ],
    "half for each, which takes a tie for a draw between two orders, promises them worse than"
    " Davidson's model": [(each("miscalibration", HALF, DAVIDSON), MORE_OF)],
}
OF_THE_BEST = {
    "the score rises with every n, for every reward model": [
        (rising(arm), {6.5: True, 6.0: False, 5.5: False}) for arm in (SOME, MORE, MOST)
    ],
    "the best of 64 by 6,000 comparisons gains more points than by 300": [
        (gains(MOST, SOME), MORE_OF)
    ],
    "the best of 64 by 300 comparisons has fewer points than the best of some smaller n": [
        (each("lost", SOME), {0.01: True, 0.0: False})
    ],
    "the best of 64 by 6,000 comparisons gains at least 0.1 points": [
        (gains(MOST), {(0.125,): True, (0.09,): False, (-0.5,): False})
    ],
    "Gao's curve bends down (beta above 0) with 3,000 and with 6,000 comparisons": [
        (
            each("beta", MORE, MOST, alpha=-1.0),
            {(0.01, 0.01): True, (0.0, 0.5): False, (0.5, 0.0): False},
        )
    ],
    "and explains at least 90 % of the points' variance with 6,000": [
        (each("fit", MOST), {0.9: True, 0.89: False})
    ],
    "no reward model gains as many points as the exact judge itself": [
        (
            gains(ITSELF, SOME, MORE, MOST),
            {
                (0.5, 0.25, 0.25, 0.25): True,
                (0.5, 0.5, 0.25, 0.25): False,
                (0.5, 0.25, 0.5, 0.25): False,
                (0.5, 0.25, 0.25, 0.5): False,
            },
        )
    ],
}
OF_THE_CHOSEN = {
    "without the NLL, at a high rate and a small beta, the chosen replies lose at least 5 nats": [
        (each("chosen_logp", ROUGH), {-5.0: True, -4.9: False, 5.0: False})
    ],
    "with the NLL they lose less, in both corners": [
        (
            each("chosen_logp", ROUGH_NLL, ROUGH, GENTLE_NLL, GENTLE),
            {
                (-1.0, -9.0, 1.0, 0.0): True,
                (-9.0, -9.0, 1.0, 0.0): False,
                (-1.0, -9.0, 0.0, 0.0): False,
            },
        )
    ],
    "the rough corner is right about more training pairs than the gentle one with the NLL": [
        (each("trained_accuracy", ROUGH, GENTLE_NLL, heldout_accuracy=0.5), MORE_OF)
    ],
    "and about at least 10 points more of them than of held-out pairs": [
        (
            two_figures("trained_accuracy", "heldout_accuracy", ROUGH),
            {(0.875, 0.75): True, (0.84, 0.75): False, (0.75, 0.875): False},
        )
    ],
    "and forgets more of the base text": [(each("forgetting", ROUGH, GENTLE_NLL), MORE_OF)],
    "and gets fewer points at temperature 1": [(each("gold", ROUGH, GENTLE_NLL), LESS)],
    "gently and with the NLL, replies at temperature 1 get more points than before": [
        (two_figures("gold", "gold_before", GENTLE_NLL), MORE_OF)
    ],
    "the recipe of `dpo` in a world wins at least 58 % against the model before": [
        (wins(SHIPPED), {0.58: True, 0.57: False})
    ],
    "and at least 3 points more than the chosen replies' NLL of it alone": [
        (
            wins(SHIPPED, NLL_ALONE),
            {(0.625, 0.5): True, (0.52, 0.5): False, (0.5, 0.625): False},
        )
    ],
}
OF_WORK = {
    "1,200 comparisons win at least 52 % against the model before": [
        (wins(COMPARED), {0.52: True, 0.51: False})
    ],
    "they win more than the same demonstrations over again": [(wins(COMPARED, NOTHING), MORE_OF)],
    "if writing costs 16 comparisons, comparing wins more than writing": [
        (wins(COMPARED, written(75)), MORE_OF)
    ],
    "if it costs 4, as we assume, comparing still wins more": [
        (wins(COMPARED, written(300)), MORE_OF)
    ],
    "if it costs 2, writing wins more": [(wins(COMPARED, written(600)), LESS)],
}
PAST = {
    "the loss on held-out demonstrations ends at least 5 % above its lowest": [
        (each("risen", LONG_ON_FEW), {0.05: True, 0.04: False, 0.0: False})
    ],
    "the checkpoint with the highest score comes after the one with the lowest loss": [
        (
            two_figures("step_by_score", "step_by_loss", LONG_ON_FEW),
            {(40, 20): True, (20, 20): False, (20, 40): False},
        )
    ],
    "and gets more points on sealed questions": [
        (two_figures("gold_by_score", "gold_by_loss", LONG_ON_FEW), MORE_OF)
    ],
    "and at most 0.05 fewer than the best checkpoint": [
        (
            two_figures("gold_best", "gold_by_score", LONG_ON_FEW),
            {(2.0, 2.0): True, (2.04, 2.0): True, (2.06, 2.0): False},
        )
    ],
}
PREFERENCES = OF_MANY | IN_BATCHES | OF_TIES | OF_THE_BEST | OF_THE_CHOSEN | OF_WORK | PAST
