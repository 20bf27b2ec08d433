"""Sums and dates: questions whose answers a reply computes by the code tool.

    How much is 47 plus 38?     calls code with "47 + 38", reads 85, and answers "47 + 38 is 85."

The model should learn to write down what has to be computed, and to repeat what comes out. So no
question of the test has a pair of numbers that a question of training has, in either order."""

from dataclasses import dataclass
from operator import add, mul, sub

import numpy as np

from pysft.rng import rng
from pysft.world.facts import MONTHS
from pysft.world.lexicon import FIRST_NAMES, ORDINALS
from pysft.world.transcripts import Transcript

SUMS = "sums"
ROWS = 20_000  # transcripts of a training
CHARACTERS = "0123456789+-*"  # that sums are written in, beside letters
UNSEEN = 0.2  # share of the pairs of numbers that only the test has
LEAST, LARGEST = 2, 99  # numbers; not 1, which would need other words ("1 days")
TWO_DIGITS = 10  # the least number of the test, except in dates
TESTED = 100  # questions of each group of the test
COMPUTED = {"+": add, "-": sub, "*": mul}


@dataclass(frozen=True)
class Problem:
    """A kind of question. In its texts {a} and {b} stand for the numbers, {result} for what the
    tool gives, {name} for a person.

    group: "sums", "stories" or "dates". sign: what is computed, a sign b. answer: how a reply ends.
    asked: wordings of training. held_out: those of the test alone. counts: True if the result
    counts things, so it must be at least LEAST."""

    group: str
    sign: str
    answer: str
    asked: tuple[str, ...]
    held_out: tuple[str, ...]
    counts: bool = False


PROBLEMS = (
    Problem(
        "sums",
        "+",
        "{a} + {b} is {result}.",
        ("What is {a} + {b}?", "How much is {a} plus {b}?", "Add {a} and {b}.", "{a} + {b}"),
        ("Pray, what are {a} and {b} together?",),
    ),
    Problem(
        "sums",
        "-",
        "{a} - {b} is {result}.",
        ("What is {a} - {b}?", "How much is {a} minus {b}?", "Take {b} from {a}.", "{a} - {b}"),
        ("Pray, what is {a} less {b}?",),
    ),
    Problem(
        "sums",
        "*",
        "{a} * {b} is {result}.",
        ("What is {a} * {b}?", "How much is {a} times {b}?", "Multiply {a} by {b}.", "{a} * {b}"),
        ("Pray, what are {a} times {b}?",),
    ),
    Problem(
        "stories",
        "+",
        "{name} has {result} figs.",
        (
            "{name} has {a} figs and buys {b} more. How many figs has {name}?",
            "{name} finds {b} figs and had {a}. How many are they?",
        ),
        ("{name} has {a} figs. A friend brings {b}. How many has {name} now?",),
    ),
    Problem(
        "stories",
        "-",
        "{name} has {result} eggs.",
        (
            "{name} has {a} eggs and sells {b}. How many eggs are left?",
            "Of {a} eggs {name} breaks {b}. How many are whole?",
        ),
        ("{name} had {a} eggs and ate {b}. How many eggs has {name} now?",),
        counts=True,
    ),
    Problem(
        "stories",
        "*",
        "{name} has {result} nails.",
        (
            "{name} has {a} boxes of {b} nails. How many nails are that?",
            "{name} buys {a} bags, each of {b} nails. How many nails has {name}?",
        ),
        ("In each of {a} pots {name} keeps {b} nails. How many nails are there?",),
    ),
)
# Days between two days of a month, and a day so many days after another. The answer to the second
# names a day of the calendar, so it holds no number.
BETWEEN = (
    ("How many days are there from the {b} to the {a} of {month}?",),
    ("The {b} of {month} is past. How many days are left to the {a}?",),
)
AFTER = (
    (
        "What day is {b} days after the {a} of {month}?",
        "The {a} of {month} and {b} days, what day?",
    ),
    ("Pray, what day of {month} comes {b} days after the {a}?",),
)


def sums(count: int = ROWS, seed: int = 1) -> list[Transcript]:
    """Return `count` transcripts to train on. A seed decides them."""
    g = rng(seed, SUMS, "transcripts")
    pairs = _pairs(unseen=False)
    kinds = [*PROBLEMS, BETWEEN, AFTER]
    return [_fitting(g, kinds[int(g.integers(len(kinds)))], pairs, new=False) for _ in range(count)]


def sums_test(seed: int = 1) -> dict[str, list[Transcript]]:
    """Return the questions of the test by group: "sums", "stories" and "dates" in wordings of
    training, and "new wordings" of all three. Their pairs of numbers are in no training."""
    g = rng(seed, SUMS, "test")
    every = _pairs(unseen=True)
    large = [pair for pair in every if min(pair) >= TWO_DIGITS]
    groups = {
        name: ([p for p in PROBLEMS if p.group == name], False) for name in ("sums", "stories")
    }
    groups["dates"] = [BETWEEN, AFTER], False
    groups["new wordings"] = [*PROBLEMS, BETWEEN, AFTER], True

    def shown(kind, new):
        return _fitting(g, kind, large if isinstance(kind, Problem) else every, new)

    return {
        name: [shown(kinds[i % len(kinds)], new) for i in range(TESTED)]
        for name, (kinds, new) in groups.items()
    }


def _pairs(unseen: bool) -> list[tuple[int, int]]:
    """Return the pairs (a, b) of the training or of the test. (a, b) and (b, a) are together."""
    every = [(a, b) for a in range(LEAST, LARGEST + 1) for b in range(LEAST, a + 1)]
    order = rng(1, SUMS, "pairs").permutation(len(every)).tolist()
    cut = int(UNSEEN * len(every))
    some = [every[i] for i in (order[:cut] if unseen else order[cut:])]
    return sorted({pair for a, b in some for pair in ((a, b), (b, a))})


def _fitting(g: np.random.Generator, kind, pairs: list, new: bool) -> Transcript:
    """Return a question of this kind about one of the pairs that suit it. new: in a wording of the
    test."""
    while True:
        if shown := _shown(g, kind, pairs, new):
            return shown


def _shown(g: np.random.Generator, kind, pairs: list, new: bool) -> Transcript | None:
    """Return a question of this kind about one of the pairs; None if the pair does not suit it."""
    a, b = pairs[int(g.integers(len(pairs)))]
    if isinstance(kind, Problem):
        if kind.counts and COMPUTED[kind.sign](a, b) < LEAST:
            return None
        wordings = kind.held_out if new else kind.asked
        sign, texts = kind.sign, (_one(g, wordings), kind.answer)
        words = {"name": _one(g, FIRST_NAMES)}
    else:
        month = _one(g, list(MONTHS))
        sign = "-" if kind is BETWEEN else "+"
        last, days = (a + b, b) if sign == "+" else (a, a - b)
        if last > MONTHS[month] or days < LEAST:
            return None
        wording = _one(g, kind[1] if new else kind[0])
        answer = "There are {result} days."
        words = {"month": month}
        if sign == "+":
            answer = "It is the {day} of {month}."
            words["day"] = ORDINALS[a + b - 1]
        texts = _days(wording, a, b, sign), answer
    result = COMPUTED[sign](a, b)
    question, answer = (text.format(a=a, b=b, result=result, **words) for text in texts)
    return Transcript(question, (("code", f"{a} {sign} {b}", str(result)),), answer)


def _days(wording: str, a: int, b: int, sign: str) -> str:
    """Return a wording with its days of the month in words. The number of days stays a number."""
    wording = wording.replace("{a}", ORDINALS[a - 1])
    return wording.replace("{b}", ORDINALS[b - 1]) if sign == "-" else wording


def _one(g: np.random.Generator, items):
    return items[int(g.integers(len(items)))]
