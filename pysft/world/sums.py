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
    tool gives, {name} for a person. In dates {a_th}, {b_th} and {result_th} are days of {month}.

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
    Problem(
        "dates",
        "-",
        "There are {result} days.",
        ("How many days are there from the {b_th} to the {a_th} of {month}?",),
        ("The {b_th} of {month} is past. How many days are left to the {a_th}?",),
        counts=True,
    ),
    Problem(
        "dates",
        "+",
        "It is the {result_th} of {month}.",
        (
            "What day is {b} days after the {a_th} of {month}?",
            "The {a_th} of {month} and {b} days, what day?",
        ),
        ("Pray, what day of {month} comes {b} days after the {a_th}?",),
    ),
)


def sums(count: int = ROWS, seed: int = 1) -> list[Transcript]:
    """Return `count` transcripts to train on. A seed decides them."""
    g = rng(seed, SUMS, "transcripts")
    pairs = _pairs(unseen=False)
    return [_fitting(g, _one(g, PROBLEMS), pairs, new=False) for _ in range(count)]


def sums_test(seed: int = 1) -> dict[str, list[Transcript]]:
    """Return the questions of the test by group: "sums", "stories" and "dates" in wordings of
    training, and "new wordings" of all three. Their pairs of numbers are in no training."""
    g = rng(seed, SUMS, "test")
    every = _pairs(unseen=True)
    large = [pair for pair in every if min(pair) >= TWO_DIGITS]
    groups = {
        name: ([p for p in PROBLEMS if p.group == name], False)
        for name in ("sums", "stories", "dates")
    }
    groups["new wordings"] = PROBLEMS, True

    def shown(problem, new):
        return _fitting(g, problem, every if problem.group == "dates" else large, new)

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


def _fitting(g: np.random.Generator, problem: Problem, pairs: list, new: bool) -> Transcript:
    """Return a question of this kind about one of the pairs that suit it. new: in a wording of the
    test."""
    while True:
        if shown := _shown(g, problem, pairs, new):
            return shown


def _shown(g: np.random.Generator, problem: Problem, pairs, new: bool) -> Transcript | None:
    """Return a question of this kind about one of the pairs; None if the pair does not suit it."""
    a, b = _one(g, pairs)
    result, words = COMPUTED[problem.sign](a, b), {}
    is_date = problem.group == "dates"
    if is_date:
        words["month"] = _one(g, list(MONTHS))
    if problem.counts and result < LEAST or is_date and max(a, result) > MONTHS[words["month"]]:
        return None
    wording = _one(g, problem.held_out if new else problem.asked)
    if is_date:
        days = {"a_th": a, "b_th": b, "result_th": result}
        words |= {name: ORDINALS[day - 1] for name, day in days.items() if day <= len(ORDINALS)}
    else:
        words["name"] = _one(g, FIRST_NAMES)
    question, answer = (
        text.format(a=a, b=b, result=result, **words) for text in (wording, problem.answer)
    )
    call = "code", f"{a} {problem.sign} {b}", str(result)
    return Transcript(question, (call,), answer)


def _one(g: np.random.Generator, items):
    return items[int(g.integers(len(items)))]
