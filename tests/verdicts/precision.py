"""Checks about products in bf16."""

from pysft.lab.experiments import precision
from pysft.lab.experiments.arms import PLAIN
from verdicts import ended, recalling, record

ON_PAIRS = PLAIN, precision.IN_BF16
TALKED = precision.TALK, precision.TALK_IN_BF16


def bases(arms, others):
    """make(numbers): the base loss of two arms; that of the others differs by a nat."""

    def make(xs):
        far = {arm: record(base_loss=float(i)) for i, arm in enumerate(others)}
        return far | {arm: record(base_loss=x) for arm, x in zip(arms, xs, strict=True)}

    return make


def figures(arms, others, name):
    """make(numbers): the last figure of two arms; that of the others differs by one."""

    def make(xs):
        far = {arm: ended(**{name: float(i)}) for i, arm in enumerate(others)}
        return far | {arm: ended(**{name: x}) for arm, x in zip(arms, xs, strict=True)}

    return make


IN_BF16 = {
    "the base loss of the source's recipe is within 0.005 nats of float32's": [
        (
            bases(ON_PAIRS, TALKED),
            {(1.5, 1.5049): True, (1.5, 1.4951): True, (1.5, 1.5051): False, (1.5, 1.4949): False},
        )
    ],
    "and that of the larger base within 0.01": [
        (
            bases(TALKED, ON_PAIRS),
            {(1.5, 1.5099): True, (1.5, 1.4901): True, (1.5, 1.5101): False, (1.5, 1.4899): False},
        )
    ],
    "it recalls all 40 pairs": [
        (
            lambda x: {PLAIN: recalling(79 - x), precision.IN_BF16: recalling(x)},
            {40: True, 39: False},
        )
    ],
    "forgetting differs by at most two points": [
        (
            figures(ON_PAIRS, TALKED, "forgetting"),
            {(0.5, 0.5199): True, (0.5, 0.4801): True, (0.5, 0.5201): False, (0.5, 0.4799): False},
        )
    ],
    "the on-topic rate after conversations by at most three": [
        (
            figures(TALKED, ON_PAIRS, "on_topic"),
            {(0.5, 0.5299): True, (0.5, 0.4701): True, (0.5, 0.5301): False, (0.5, 0.4699): False},
        )
    ],
}
