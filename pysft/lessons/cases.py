"""The inputs that a learner's function is tried with, and what the right function and the wrong
ones of the catalogue make of them."""

from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from pysft.lessons.problem import NONE, Problem
from pysft.nn.gradcheck import TOLERANCE, numeric_gradient, relative_error

SEEDS = (0, 1)
SMALLEST_SCALE = 1e-6  # as in relative_error()


@dataclass
class Case:
    """One call of a function. An array that is written or added to holds random numbers `before`.

    They are never the right ones, so an element that is equal afterwards was not written."""

    problem: Problem
    sizes: dict
    arguments: dict
    before: dict[str, np.ndarray]
    _answers: dict = field(default_factory=dict)
    _tables: dict = field(default_factory=dict)
    _numeric: dict | None = None

    def answer(self, wrong: frozenset = NONE) -> dict[str, np.ndarray]:
        """The right results, or those with the mistakes in `wrong`."""
        if wrong not in self._answers:
            with np.errstate(all="ignore"):  # some mistakes divide by zero
                found = self.problem.answer(dict(self.arguments), wrong)
            self._answers[wrong] = {name: np.asarray(x) for name, x in found.items()}
        return self._answers[wrong]

    def agreeing(self, name: str, found: np.ndarray) -> np.ndarray:
        """Return which sets of the catalogue give this result `name`, as agree() says."""
        if name not in self._tables:
            table = [self.answer(wrong)[name] for wrong in catalogue(self.problem)]
            self._tables[name] = _stacked(table)
        table, scale, is_finite = self._tables[name]
        if table is None or found.shape != table.shape[1:] or found.dtype.kind not in "biuf":
            sets = catalogue(self.problem)
            return np.array([agree(found, self.answer(wrong)[name]) for wrong in sets])
        x = found.reshape(1, -1).astype(np.float64)
        rows = table.reshape(len(table), -1)
        with np.errstate(all="ignore"):
            gaps = np.abs(rows - x).max(axis=1, initial=0)
            agrees = gaps <= TOLERANCE * np.maximum(scale, np.abs(x).max(initial=0))
        agrees &= np.isfinite(x).all()
        for i in np.flatnonzero(~is_finite):
            agrees[i] = agree(found, table[i])
        return agrees

    def numeric(self) -> dict[str, np.ndarray]:
        """The gradients by finite differences of the loss: {output: array}, {} without a loss."""
        if self._numeric is None:
            p, given = self.problem, self.arguments
            self._numeric = {
                result: numeric_gradient(lambda: p.loss(given), given[by])
                for result, by in (p.of.items() if p.loss else ())
            }
        return self._numeric

    def passed(self) -> dict:
        """The arguments of the call after the outputs."""
        return {
            name: x
            for name, x in self.arguments.items()
            if name not in self.problem.outputs and not name.startswith("_")
        }


def cases_of(problem: Problem, seeds=SEEDS) -> list[Case]:
    """Return the cases of a problem: each of its sizes with each seed."""
    cases = []
    for i, sizes in enumerate(problem.sizes):
        for seed in seeds:
            rng = np.random.default_rng([seed, i])
            case = Case(problem, sizes, problem.arguments(rng, sizes), {})
            for name in problem.outputs:
                # An output that is changed is among the arguments too, with its values before.
                given = case.arguments.get(name)
                like = case.answer()[name]
                case.before[name] = _random(rng, like) if given is None else given.copy()
            cases.append(case)
    return cases


def _stacked(table: list) -> tuple:
    """Return (results of all sets, the scale of each, is each finite), or Nones if they are not
    numbers of one shape."""
    if len({x.shape for x in table}) > 1 or any(x.dtype.kind not in "biuf" for x in table):
        return None, None, None
    stacked = np.array(table, dtype=np.float64)
    flat = stacked.reshape(len(table), -1)
    scale = np.maximum(np.abs(flat).max(axis=1, initial=0), SMALLEST_SCALE)
    return stacked, scale, np.isfinite(flat).all(axis=1)


def _random(rng, like: np.ndarray) -> np.ndarray:
    if like.dtype.kind == "b":
        return rng.random(like.shape) < 0.5
    if like.dtype.kind in "iu":
        return rng.integers(10**8, 10**9, like.shape).astype(like.dtype)
    return rng.standard_normal(like.shape).astype(like.dtype)


def catalogue(problem: Problem) -> list[frozenset]:
    """Return the sets of mistakes that are tried: none, each alone, also in each other form of the
    right function, and each pair."""
    alone = [frozenset([name]) for name in problem.mistakes]
    in_forms = [wrong | {form} for form in problem.forms for wrong in alone]
    pairs = map(frozenset, combinations(problem.mistakes, 2))
    return [NONE, *alone, *in_forms, *pairs]


def error(found: np.ndarray, expected: np.ndarray) -> float:
    """Return max|found - expected| relative to the larger maximum; infinite if they differ in a
    number that is not finite, or in their shape. For texts 0 or infinite."""
    if found.shape != expected.shape:
        return float("inf")
    if expected.dtype.kind not in "biuf" or found.dtype.kind not in "biuf":
        return 0.0 if np.array_equal(found, expected) else float("inf")
    if not expected.size:
        return 0.0
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    return relative_error(found, expected)


def agree(found: np.ndarray, expected: np.ndarray) -> bool:
    """True if two results are equal up to rounding, or infinite in the same places."""
    if found.shape != expected.shape:
        return False
    if expected.dtype.kind not in "biuf" or found.dtype.kind not in "biuf":
        return np.array_equal(found, expected)
    a, b = found.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(b)
    if not finite.all():
        if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
            return False
        a, b = a[finite], b[finite]
    return error(a, b) <= TOLERANCE
