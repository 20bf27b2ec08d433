"""Checks about PPO."""

from pysft.lab.experiments.policies import (
    BEST_OF,
    GOOD_FREE,
    GOOD_USUAL,
    OF_DPOS,
    POOR_CHEAP,
    POOR_DEAR,
    POOR_FREE,
)
from pysft.lab.experiments.policy_updates import (
    CISPO,
    GROUP,
    MUCH_TEXT,
    NO_TEXT,
    NO_TEXT_NEAR,
    OFTEN,
    OFTEN_UNCLIPPED,
    OTHERS,
    PLAIN_PPO,
    UNCLIPPED,
)
from pysft.lab.reward_tasks import NS
from verdicts import LESS, record
from verdicts.preferences import MORE_OF, each

SHIPPED, *SMALLER = OF_DPOS


def rises(name, before, *arms):
    """make(numbers): by how much a figure of each arm is above that of the model before. Where it
    rises more, the figure itself is lower."""

    def make(xs):
        xs = xs if isinstance(xs, tuple) else (xs,)
        return {
            arm: record(finish={name: 2 - x, before: 2 - 2 * x})
            for arm, x in zip(arms, xs, strict=True)
        }

    return make


def gains(*arms):
    return rises("gold", "gold_before", *arms)


def alarm(at):
    """The alarm of reward hacking of one arm, which ends at iteration 120. At its row 60 there was
    none yet."""
    rows = {60: {"hacked_at": None}, 120: {"hacked_at": at}}
    return {POOR_FREE: record(rows), POOR_DEAR: record()}


def path(*points, **finish):
    """A record whose track has these (KL, points by the exact judge)."""
    rows = {10 * i: {"sealed_kl": k, "sealed_gold": g} for i, (k, g) in enumerate(points)}
    return record(rows, finish=finish)


def losing(*arms):
    """make(numbers): the points that each arm loses from its best row to its last one."""

    def make(xs):
        xs = xs if isinstance(xs, tuple) else (xs,)
        return {arm: path((0, 1.0), (1, 2.0), (4, 2 - x)) for arm, x in zip(arms, xs, strict=True)}

    return make


def gaining_on_the_way(x):
    return {GOOD_FREE: path((0, 1.0), (1, 1 + x), (4, 0.5)), POOR_FREE: path((0, 1), (1, 2 - x))}


def spending(xs):
    """The KL at which each policy has the points that are the most of the best of n, which gains
    them at n = 4 with a KL of 0.64. At half of that KL and at twice it they have less."""
    found = {BEST_OF: record(finish={f"gold_{n}": 2.0 if n == 4 else 1.0 for n in NS})}
    for arm, x in zip((GOOD_FREE, GOOD_USUAL), xs, strict=True):
        found[arm] = path((0, 1.0), (x, 2.0), (2 * x, 1.0))
    return found


def never_spending(points):
    """The best of 64 gains so many points; no policy ever gains any."""
    best = {BEST_OF: record(finish={f"gold_{n}": 1 + points * (n == 64) for n in NS})}
    return best | {arm: path((0, 1.0), (9, 1.0)) for arm in (GOOD_FREE, GOOD_USUAL)}


def at_the_kl(x):
    """The best DPO gains 0.5 points at a KL of 1. There PPO has gained this much, halfway between
    rows; later it gains more."""
    ppo = path((0, 1.0), (0.5, 1.0), (1.5, 1 + 2 * x), (9, 8.0))
    few = {"gold": 1.25, "gold_before": 1.0, "kl": 9.0}
    found = {name: record(finish=few) for name in SMALLER}
    best = record(finish={"gold": 1.5, "gold_before": 1.0, "kl": 1.0})
    return found | {SHIPPED: best, GOOD_USUAL: ppo}


def before_that_kl(x):
    """PPO never drifts so far; at its end it has gained this much."""
    return at_the_kl(0.0) | {GOOD_USUAL: path((0, 1.0), (0.5, 9.0), (0.75, 1 + x))}


def taking(xs):
    """Seconds of each arm of dpo-or-ppo."""
    return {name: record(seconds=x) for name, x in zip((*OF_DPOS, GOOD_USUAL), xs, strict=True)}


def beside(name, before, *arms):
    """make(number): by how much one figure of an arm is above another one, which is 0.25 there and
    0 in other arms."""
    arm, *others = arms

    def make(x):
        found = {arm: record(finish={name: 0.25 + x, before: 0.25})}
        return found | {other: record(finish={name: 0.25 - x, before: 0.0}) for other in others}

    return make


OF_HACKING = {
    "with beta 0 the score of the poor reward rises by at least half a standard deviation": [
        (rises("proxy", "proxy_before", POOR_FREE), {0.5: True, 0.49: False, -0.5: False})
    ],
    "while at least 0.1 points are lost": [
        (gains(POOR_FREE), {-0.125: True, -0.09: False, 0.125: False})
    ],
    "and an alarm of reward hacking comes before the end": [
        (alarm, {119: True, 120: False, None: False})
    ],
    "with beta 0.02 the policy gets more points than with 0": [
        (each("gold", POOR_CHEAP, POOR_FREE), MORE_OF)
    ],
    "with beta 0.2 it gets more than with 0.02": [(each("gold", POOR_DEAR, POOR_CHEAP), MORE_OF)],
    "and at most 0.1 points fewer than the model before": [
        (gains(POOR_DEAR), {-0.09: True, 0.5: True, -0.125: False})
    ],
    "and has moved less than half as far from it, in nats, as with 0": [
        (
            each("kl", POOR_DEAR, POOR_FREE),
            {(0.99, 2.0): True, (1.0, 2.0): False, (2.0, 1.0): False},
        )
    ],
    "with beta 0 the good reward brings more points than the poor one": [
        (each("gold", GOOD_FREE, POOR_FREE), MORE_OF)
    ],
}
OF_DRIFT = {
    "on the good reward at beta 0 at least 0.1 points are gained on the way": [
        (gaining_on_the_way, {0.125: True, 0.09: False})
    ],
    "and at least 0.05 of them are lost again by the end": [
        (losing(GOOD_FREE), {0.0625: True, 0.04: False, 0.0: False})
    ],
    "Gao's curve for RL bends down (beta above 0) there": [
        (each("beta", GOOD_FREE, alpha=-1.0), {0.01: True, 0.0: False})
    ],
    "and explains at least 80 % of the points' variance": [
        (each("fit", GOOD_FREE), {0.8: True, 0.79: False})
    ],
    "for the most points that the best of n gains, both policies on the same reward spend more"
    " KL": [
        (
            spending,
            {(0.7, 0.7): True, (0.6, 0.7): False, (0.7, 0.6): False},
        ),
        (never_spending, {1.0: True, 0.0: False}),
    ],
    "by the usual recipe fewer points are lost by the end than at beta 0": [
        (losing(GOOD_USUAL, GOOD_FREE), LESS)
    ],
}
OF_BOTH = {
    "the best DPO gains at least 0.05 points": [
        (
            gains(*OF_DPOS),
            {
                (0.0625, 0.0, 0.0): True,
                (0.0, 0.0, 0.0625): True,
                (0.04, 0.04, 0.04): False,
                (-0.5, -0.5, -0.5): False,
            },
        )
    ],
    "PPO gains at least 0.05 points": [(gains(GOOD_USUAL), {0.0625: True, 0.04: False})],
    "at the KL of the best DPO, PPO has gained at most 0.05 points more": [
        (at_the_kl, {0.5: True, 0.54: True, 0.5625: False}),
        (before_that_kl, {0.54: True, 0.5625: False}),
    ],
    "at its end PPO has gained at most 0.05 points more than the best DPO": [
        (
            gains(*OF_DPOS, GOOD_USUAL),
            {(0.0, 0.5, 0.0, 0.54): True, (0.0, 0.0, 0.5, 0.5625): False},
        )
    ],
    "every DPO takes less time than PPO": [
        (
            taking,
            {(1, 1, 1, 2): True, (1, 2, 1, 2): False, (1, 1, 3, 2): False, (3, 3, 3, 2): False},
        )
    ],
}
OF_UPDATES = {
    "with 8 updates the clip keeps the policy nearer to the one that wrote the replies": [
        (each("kl_old", OFTEN, OFTEN_UNCLIPPED), LESS)
    ],
    "without it the most that an iteration moves is at least twice as much": [
        (
            each("kl_old_most", OFTEN_UNCLIPPED, OFTEN),
            {(2.0, 1.0): True, (1.9, 1.0): False, (1.0, 2.0): False},
        )
    ],
    "without it the policy ends further from the model before": [
        (each("kl", OFTEN_UNCLIPPED, OFTEN), MORE_OF)
    ],
    "without it fewer points are gained": [(gains(OFTEN_UNCLIPPED, OFTEN), LESS)],
    "with 2 updates it matters little: at most 0.1 points either way": [
        (
            gains(UNCLIPPED, PLAIN_PPO),
            {
                (0.5, 0.5): True,
                (0.59, 0.5): True,
                (0.41, 0.5): True,
                (0.625, 0.5): False,
                (0.375, 0.5): False,
            },
        )
    ],
}
OF_TEXT = {
    "without text PPO forgets at least 3 points more than the model before": [
        (
            beside("forgetting", "forgetting_before", NO_TEXT, PLAIN_PPO),
            {0.03125: True, 0.029: False, -0.03125: False},
        )
    ],
    "with text at weight 1 it forgets less than without": [
        (each("forgetting", PLAIN_PPO, NO_TEXT), LESS)
    ],
    "at weight 20 at most 1 point more than the model before": [
        (
            beside("forgetting", "forgetting_before", MUCH_TEXT, NO_TEXT),
            {0.009: True, -0.5: True, 0.0125: False},
        )
    ],
    "and gains at least half of the points that it gains without text": [
        (
            gains(MUCH_TEXT, NO_TEXT),
            {(0.25, 0.5): True, (0.24, 0.5): False, (0.0, 0.0): False, (-0.5, -1.0): False},
        )
    ],
    "without text, beta 0.2 forgets more than text at weight 1": [
        (each("forgetting", NO_TEXT_NEAR, PLAIN_PPO), MORE_OF)
    ],
}
NOT_MUCH_LESS = {(0.5, 0.5): True, (0.5, 0.46): True, (0.25, 0.5): True, (0.5, 0.4375): False}
OF_BASELINES = {
    "each of the four gains at least 0.1 points": [
        (
            gains(PLAIN_PPO, OTHERS, GROUP, CISPO),
            {(0.125,) * 4: True}
            | {tuple(0.09 if i == j else 0.5 for j in range(4)): False for i in range(4)},
        )
    ],
    "leave-one-out gains at most 0.05 points less than a critic": [
        (gains(PLAIN_PPO, OTHERS), NOT_MUCH_LESS)
    ],
    "the group gains at most 0.05 points less than a critic": [
        (gains(PLAIN_PPO, GROUP), NOT_MUCH_LESS)
    ],
    "both take less time than a critic": [
        (
            each("train_seconds", OTHERS, GROUP, PLAIN_PPO),
            {(1, 1, 2): True, (2, 1, 2): False, (1, 2, 2): False, (3, 3, 2): False},
        )
    ],
    "CISPO's clip gains at most 0.05 points less than PPO's": [
        (gains(PLAIN_PPO, CISPO), NOT_MUCH_LESS)
    ],
}
POLICIES = OF_HACKING | OF_DRIFT | OF_BOTH | OF_UPDATES | OF_TEXT | OF_BASELINES
