"""Finds out what is wrong with the results of a function: mistakes of the catalogue, or others that
any function can make.

Each array that the function fills is looked at in two ways, because it may have been written where
it had to be added to, or the other way round. Each way is compared with the right result and with
those of every mistake and every pair of mistakes, in all cases. A way that agrees in all of them is
no coincidence: the inputs are random, and the sizes differ."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from pysft.lessons.cases import Case, agree, catalogue, error
from pysft.lessons.problem import ADDED, NONE, WRITTEN, Problem
from pysft.nn.gradcheck import TOLERANCE

INTENDED = "intended"
FEW = 20  # sets of mistakes that are compared one by one
LIKELY = 30  # mistakes of which three are tried together: the first of the catalogue


@dataclass(frozen=True)
class Verdict:
    """What the results of one function are.

    mistakes      of the catalogue, in its order; () if none explains them
    also          other sets of mistakes that give the same results
    ways          {output: ADDED or WRITTEN} of those that were not filled as they had to be
    unexplained   the results that neither the right function nor the mistakes give
    worst         {result: the largest error in any case}; the gradients' from differences too"""

    mistakes: tuple[str, ...]
    also: tuple[tuple[str, ...], ...]
    ways: dict[str, str]
    unexplained: tuple[str, ...]
    worst: dict[str, float]

    @property
    def passed(self) -> bool:
        return (
            not (self.mistakes or self.ways or self.unexplained)
            and max(self.worst.values()) <= TOLERANCE
        )


def judge(problem: Problem, cases: list[Case], results: list[dict]) -> Verdict:
    """Compare the results of each case with the right ones and with those of the mistakes."""
    seen = {name: _ways(problem, cases, results, name) for name in problem.results}
    worst = {name: _worst(cases, seen[name][INTENDED], name) for name in problem.results}
    fits = {name: _fits_of(cases, seen[name], name, NONE) for name in problem.results}
    if not all(fits.values()):  # the results of all mistakes are worked out for wrong files alone
        fits = {name: _fits(problem, cases, seen[name], name) for name in problem.results}

    def verdict(wrong, unexplained=()):
        explained = [name for name in problem.results if name not in unexplained]
        others = {
            name: next(way for way in seen[name] if (way, wrong) in fits[name])
            for name in explained
        }
        others = {name: way for name, way in others.items() if way != INTENDED}
        known = [{s for _, s in fits[name]} for name in explained]
        tried = catalogue(problem)[1:] if wrong else []
        same = [s for s in tried if all(s in sets for sets in known)]
        also = [_named(problem, s) for s in same if s != wrong and not any(t < s for t in same)]
        return Verdict(_named(problem, wrong), tuple(also), others, tuple(unexplained), worst)

    touching = _touching(problem, cases, seen, fits)
    fits = {name: {(way, s) for way, s in fits[name] if not s & touching} for name in fits}
    known = [{s for _, s in fits[name]} for name in problem.results]
    for wrong in catalogue(problem):
        if all(wrong in sets for sets in known):
            return verdict(wrong)
    piecewise = _piecewise(problem, cases, seen, fits, verdict)
    if piecewise.unexplained and (wrong := _several(problem, cases, seen, touching)):
        for name in problem.results:
            fits[name] |= _fits_of(cases, seen[name], name, [wrong])
        return verdict(wrong)
    return piecewise


def _touching(problem, cases, seen, fits) -> set[str]:
    """The mistakes that alone change a result which is right, or a part of one. A file that has two
    of them, which cancel there, is not told of them: a reader would look at what is right."""
    right = [(name, _whole) for name in problem.results if _has(fits[name], NONE)]
    for name, parts in problem.parts.items():
        pairs = [(x, case.answer()[name]) for x, case in zip(seen[name][INTENDED], cases)]
        for part in parts(pairs[0][1]):
            if all(x.shape == y.shape and agree(parts(x)[part], parts(y)[part]) for x, y in pairs):
                right.append((name, lambda x, parts=parts, part=part: parts(x)[part]))
    return {
        m
        for m in problem.mistakes
        if any(_differs(cases, name, frozenset([m]), of) for name, of in right)
    }


def _several(problem, cases, seen, touching) -> frozenset | None:
    """Return two mistakes in another form of the right function, or three mistakes, that give all
    results together, or None. They are not in the catalogue's tables: there are hundreds, and few
    files have so many mistakes in one result."""
    mistakes = [m for m in problem.mistakes if m not in touching]
    pairs = [{form, *two} for form in problem.forms for two in combinations(mistakes, 2)]
    for wrong in map(frozenset, [*pairs, *combinations(mistakes[:LIKELY], 3)]):
        if all(_fits_of(cases[:1], seen[name], name, [wrong]) for name in problem.results) and all(
            _fits_of(cases, seen[name], name, [wrong]) for name in problem.results
        ):
            return wrong
    return None


def _fits_of(cases, ways, name, sets) -> set:
    """The (way, set of mistakes) of these that give this result in all of these cases."""
    return {
        (way, wrong)
        for way, found in ways.items()
        for wrong in sets
        if all(agree(x, case.answer(wrong)[name]) for x, case in zip(found, cases))
    }


def _piecewise(problem, cases, seen, fits, verdict) -> Verdict:
    """The verdict where no pair explains all results: each may have mistakes of its own.

    The mistakes of all results together must give those that they explain. If one of several can
    be the mistake of a result, it is one that leaves the unexplained results alone: of these
    nobody knows that they have it."""
    order = {s: i for i, s in enumerate(catalogue(problem))}
    unexplained = [name for name in problem.results if not fits[name]]

    def key(wrong):
        touched = sum(_differs(cases, name, wrong) for name in unexplained)
        return len(_named(problem, wrong)), touched, order[wrong]

    chosen = NONE
    for name in problem.results:
        if fits[name]:
            chosen |= min({wrong for _, wrong in fits[name]}, key=key)
    for name in problem.results:
        if name not in unexplained and not _has(fits[name], chosen):
            more = _fits_of(cases, seen[name], name, [chosen])
            if more:
                fits[name] |= more
            else:  # two mistakes that do not go together: only results that are right are sure
                chosen = None
                break
    if chosen is None:
        unexplained = [name for name in problem.results if not _has(fits[name], NONE)]
        chosen = NONE
    return verdict(chosen, unexplained)


def _ways(problem, cases, results, name) -> dict[str, list[np.ndarray]]:
    """{way: the result in each case}, first as it was intended."""
    found = [result[name] for result in results]
    kind = problem.outputs.get(name)
    if kind not in (ADDED, WRITTEN) or found[0].dtype.kind != "f":
        return {INTENDED: found}
    with np.errstate(all="ignore"):
        gained = [x - case.before[name] for x, case in zip(found, cases)]
    if kind == ADDED:
        return {INTENDED: gained, WRITTEN: found}
    # Elements that are right were written last, such as rows that are set to 0 at the end.
    right = [case.answer()[name] for case in cases]
    if all(x.shape == y.shape for x, y in zip(found, right)):
        gained = [np.where(x == y, x, d) for x, y, d in zip(found, right, gained)]
    return {INTENDED: found, ADDED: gained}


def _fits(problem, cases, ways, name) -> set:
    """Return the (way, set of mistakes) that give this result in all cases."""
    sets, fits = catalogue(problem), set()
    for way, found in ways.items():
        agrees, tried = cases[0].agreeing(name, found[0]), 1
        # A table of all sets is dear, and worth it where many are left.
        while np.count_nonzero(agrees) > FEW and tried < len(cases):
            agrees &= cases[tried].agreeing(name, found[tried])
            tried += 1
        left = [sets[i] for i in np.flatnonzero(agrees)]
        fits |= _fits_of(cases[tried:], {way: found[tried:]}, name, left)
    return fits


def _whole(result):
    return result


def _differs(cases, name, wrong, of=_whole) -> bool:
    """True if these mistakes change a result in some case. of: takes a part of it."""
    pairs = ((case.answer(wrong)[name], case.answer()[name]) for case in cases)
    return not all(x.shape == y.shape and agree(of(x), of(y)) for x, y in pairs)


def _has(fits: set, wrong: frozenset) -> bool:
    return any(s == wrong for _, s in fits)


def _named(problem, wrong) -> tuple[str, ...]:
    return tuple(name for name in problem.mistakes if name in wrong)


def _worst(cases, found, name) -> float:
    errors = [error(x, case.answer()[name]) for x, case in zip(found, cases)]
    errors += [
        error(x, case.numeric()[name]) for x, case in zip(found, cases) if name in case.numeric()
    ]
    return max(errors)
