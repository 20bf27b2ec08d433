"""A factor between a result and the right one, as a formula in the sizes of a case: "-2/C"."""

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from pysft import IGNORE
from pysft.lessons.cases import Case

CLOSE = 1e-6  # relative; below it numbers that were computed from results count as equal
POWERS = ((1, "{}"), (-1, "1/{}"), (0.5, "sqrt({})"), (-0.5, "1/sqrt({})"), (2, "{}^2"))


def factor(found: np.ndarray, right: np.ndarray) -> float | None:
    """Return c with found = c * right up to rounding, or None. c is not 0."""
    square = float((right * right).sum())
    c = float((found * right).sum()) / square if square else 0.0
    scale = float(np.abs(found).max(initial=0))
    if not c or np.abs(found - c * right).max(initial=0) > CLOSE * max(scale, 1e-30):
        return None
    return c


def in_sizes(factors: list[float], cases: list[Case]) -> str | None:
    """Return the formula in the sizes that gives these factors, one for each case, or None.

    It is the shortest of those tried: a number, a power of a size, products of two of them."""
    for formulas in _formulas(_numbers(cases)):
        if not formulas:
            continue
        table = np.array([values for _, values in formulas])
        for c in (1, -1, 2, 0.5, -2, -0.5):
            fits = (np.abs(factors - c * table) <= CLOSE * np.abs(c * table)).all(axis=1)
            if fits.any():
                text, _ = formulas[fits.argmax()]
                return ("-" if c < 0 else "") + _formula(abs(c), text)
    return None


def _formula(c: float, text: str) -> str:
    over, below = text.startswith("1/"), text.removeprefix("1/")
    match c:
        case 1:
            return text
        case 2:
            return f"2/{below}" if over else "2" if text == "1" else f"2 {text}"
        case _:
            return f"1/(2 {below})" if over else "1/2" if text == "1" else f"1/2 {text}"


def _numbers(cases) -> dict[str, np.ndarray]:
    """Return {letter: its number in each case}: the sizes, and of a batch its rows N, its sequences
    S and its graded rows G."""
    sizes = {
        name: [float(case.sizes[name]) for case in cases]
        for name, x in cases[0].sizes.items()
        if isinstance(x, (int, float)) and not isinstance(x, bool) and name != "graded"
    }
    given = [case.arguments for case in cases]
    if "cu_seqlens" in given[0]:
        sizes.setdefault("N", [float(x["cu_seqlens"][-1]) for x in given])
        sizes.setdefault("S", [len(x["cu_seqlens"]) - 1.0 for x in given])
    if "labels" in given[0]:
        sizes["G"] = [float((x["labels"] != IGNORE).sum()) for x in given]
    return {name: np.array(x) for name, x in sizes.items() if min(x) > 0}


def _formulas(numbers) -> Iterator[list[tuple[str, np.ndarray]]]:
    """Formulas in these numbers, those of a length together."""
    powers = [
        (name, form.format(name), x**power) for name, x in numbers.items() for power, form in POWERS
    ]
    count = len(next(iter(numbers.values()), [0]))
    yield [("1", np.ones(count))]
    yield [(text, values) for _, text, values in powers]
    larger = {name: x for name, x in numbers.items() if (x > 1).all()}
    yield [(f"{name}/({name} - 1)", x / (x - 1)) for name, x in larger.items()]
    yield [(f"({name} - 1)/{name}", (x - 1) / x) for name, x in larger.items()]
    yield [
        (_both(one, two), x * y) for (a, one, x), (b, two, y) in combinations(powers, 2) if a != b
    ]


def _both(one: str, two: str) -> str:
    """The product of two powers."""
    below = [text.removeprefix("1/") for text in (one, two) if text.startswith("1/")]
    above = [text for text in (one, two) if not text.startswith("1/")]
    over = f"({' '.join(below)})" if len(below) == 2 else "".join(below)
    return " ".join(above) + (f"/{over}" if above and below else f"1/{over}" if below else "")
