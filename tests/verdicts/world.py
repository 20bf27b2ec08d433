"""Checks about what a model knows of an invented world."""

from pysft.lab.experiments.world import (
    HIDDEN,
    MIDDLE,
    MOST,
    NAMED,
    NARROW,
    ONE_FIXED,
    ONE_SHUFFLED,
    RARE,
    SIX_FIXED,
    SIX_SHUFFLED,
    TELLINGS,
    TRACE,
    WIDER,
    WITH,
    WITHOUT,
)
from verdicts import finish, record

# Right answers that rise as they should.
RISING = {f"right_{n}": i / 10 for i, n in enumerate(TELLINGS)}


def groups(xs):
    """The share that is right at few, at middling and at many tellings, at one width."""
    found = {f"right_{n}": x for some, x in zip((RARE, MIDDLE, MOST), xs) for n in some}
    return {NARROW: record(finish=RISING), WIDER: record(finish=found)}


def at_one_number(n):
    """make((of the narrow model, of the wider)): the share that is right after n tellings. At all
    others it is the opposite."""

    def make(xs):
        shares = [{f"right_{m}": x if m == n else 1 - x for m in TELLINGS} for x in xs]
        return {arm: record(finish=some) for arm, some in zip((NARROW, WIDER), shares)}

    return make


def middling(xs):
    """The share that is right at middling numbers of tellings. At the others the narrow model is
    better."""
    found = [
        {f"right_{n}": x if n in MIDDLE else other for n in TELLINGS}
        for x, other in zip(xs, (0.9, 0.1))
    ]
    return {arm: record(finish=some) for arm, some in zip((NARROW, WIDER), found)}


def two(first, second, name):
    """make((a, b)): a figure of two arms."""
    return lambda xs: {
        arm: record(finish={name: x}) for arm, x in zip((first, second), xs, strict=True)
    }


MORE = {(0.51, 0.5): True, (0.5, 0.5): False, (0.5, 0.51): False}  # of two: the first is more
WORLD = {
    "right answers rise from 16 and 32 tellings to 64 to 256, and from there to 512 and 1,024, at"
    " both widths": [
        (
            groups,
            {
                (0.25, 0.5, 0.75): True,
                (0.25, 0.25, 0.75): False,
                (0.25, 0.5, 0.5): False,
                (0.75, 0.5, 0.25): False,
            },
        )
    ],
    "of the answers about what is told 1,024 times at least 75 % are right": [
        (
            at_one_number(1024),
            {(0.75, 0.75): True, (0.74, 0.9): False, (0.9, 0.74): False},
        )
    ],
    "and of those about what is told 16 times at most 25 %": [
        (at_one_number(16), {(0.25, 0.25): True, (0.26, 0.1): False, (0.1, 0.26): False})
    ],
    "at most 1 % of the answers refuse, at both widths": [
        (
            two(NARROW, WIDER, "refused"),
            {(0.01, 0.01): True, (0.011, 0.0): False, (0.0, 0.011): False},
        )
    ],
    "from 64 to 256 tellings the wider model is right more often": [
        (middling, {(0.5, 0.51): True, (0.5, 0.5): False, (0.51, 0.5): False})
    ],
    "with six wordings and a shuffled order at least half of the answers are right": [
        (finish(SIX_SHUFFLED, ONE_FIXED, "right"), {0.5: True, 0.49: False})
    ],
    "with one wording and a fixed order at most a quarter are": [
        (finish(ONE_FIXED, SIX_SHUFFLED, "right"), {0.25: True, 0.26: False})
    ],
    "a shuffled order alone gains more than six wordings alone": [
        (two(ONE_SHUFFLED, SIX_FIXED, "right"), MORE)
    ],
    "with one wording and a fixed order the model holds a larger share of the bits than it answers"
    " right": [(finish(ONE_FIXED, SIX_SHUFFLED, "held", "right"), MORE)],
    "with the first hop hidden at least half of the answers of one hop are right": [
        (finish(HIDDEN, TRACE, "right"), {0.5: True, 0.49: False})
    ],
    "and at most a quarter of those of two hops": [
        (finish(HIDDEN, TRACE, "two_hops"), {0.25: True, 0.26: False})
    ],
    "an answer that names the person in between is right more often": [
        (two(NAMED, HIDDEN, "two_hops"), MORE)
    ],
    "with the whole trace answers of two hops are right more than twice as often as with the first"
    " hop hidden": [
        (
            two(TRACE, HIDDEN, "two_hops"),
            {(0.51, 0.25): True, (0.5, 0.25): False, (0.1, 0.0): True, (0.0, 0.0): False},
        )
    ],
    "without refusals in the data at most 5 % of the questions about strangers are refused": [
        (finish(WITHOUT, WITH, "strangers_refused"), {0.05: True, 0.051: False})
    ],
    "and at least 90 % get an invented answer": [
        (finish(WITHOUT, WITH, "strangers_wrong"), {0.9: True, 0.89: False})
    ],
    "with them at least 80 % are refused": [
        (finish(WITH, WITHOUT, "strangers_refused"), {0.8: True, 0.79: False})
    ],
    "and known people are answered right at least nine tenths as often as without": [
        (
            two(WITH, WITHOUT, "right"),
            {(0.45, 0.5): True, (0.44, 0.5): False, (0.9, 0.5): True, (0.0, 0.0): False},
        )
    ],
}
