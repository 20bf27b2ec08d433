"""How a wrong result differs from the right one, where no mistake of the catalogue gives it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import prod

import numpy as np

from pysft.lessons.cases import Case, agree
from pysft.lessons.factors import CLOSE, POWERS, factor, in_sizes
from pysft.lessons.problem import ADDED, Problem


@dataclass(frozen=True)
class Difference:
    """kind: of the difference, as in faults.py. what: one sentence. more: further sentences, each
    on something that the difference has in common in all cases, or a hint."""

    kind: str
    what: str
    more: tuple[str, ...] = ()


def difference(
    problem: Problem, cases: list[Case], results: list[dict], name: str, detailed: bool = True
) -> Difference:
    """Return how the result `name` differs from the right one in all cases. detailed: for a
    difference of the kind "other", with what is known of it.

    Cases that are there for an overflow (sizes with "far") do not count where the others differ:
    their numbers are so large that nothing can be seen in them."""
    near = [i for i, case in enumerate(cases) if not case.sizes.get("far")]
    if not all(agree(results[i][name], cases[i].answer()[name]) for i in near):
        cases, results = [cases[i] for i in near], [results[i] for i in near]
    found = [result[name] for result in results]
    right = [case.answer()[name] for case in cases]
    if name in problem.outputs and (missed := _not_written(problem, cases, results, name)):
        return missed
    if problem.outputs.get(name) == ADDED:
        found = [x - case.before[name] for x, case in zip(found, cases)]
    if right[0].dtype.kind not in "fiub":
        return Difference("other", f"{name} is not the right one.")
    if not all(np.isfinite(x).all() for x in found):
        return _not_finite(found, right, name)
    if missed := _constant(found, right, name):
        return missed
    found, right = ([x.astype(float) for x in many] for many in (found, right))
    for made in (_multiple, _transposed):
        if seen := made(cases, found, right, name):
            return seen
    for other in problem.results:
        if other != name and all(agree(x, c.answer()[other]) for x, c in zip(found, cases)):
            return Difference("swapped", f"{name} holds what belongs to {other}.")
    if not detailed:
        return Difference("other", f"{name} is not the right one.")
    what = " ".join([f"{name} is not the right one.", *_facts(problem, cases, found, right, name)])
    if name in problem.parts:
        which, *more = _in_parts(problem.parts[name], cases, found, right)
        what = f"{what} {which}"
    else:
        more = [*_where(found, right, name), *_structure(cases, found, right, name)]
    return Difference("other", what, tuple(more))


def _facts(problem, cases, found, right, name) -> Iterator[str]:
    """Which of the facts that are known of this result hold, and which do not."""
    for fact in problem.facts:
        if fact.result == name:
            gaps = [fact.of(c.arguments, x - y) for c, x, y in zip(cases, found, right)]
            scales = [np.abs(x).max() + np.abs(y).max() for x, y in zip(found, right)]
            holds = all(np.abs(g).max() <= CLOSE * s for g, s in zip(gaps, scales))
            yield fact.holds if holds else fact.fails


def _in_parts(parts, cases, found, right) -> Iterator[str]:
    """Which parts of a result are wrong, and what is known of each."""
    found, right = ([parts(x) for x in arrays] for arrays in (found, right))
    wrong = [p for p in right[0] if not all(agree(x[p], y[p]) for x, y in zip(found, right))]
    others = [p for p in right[0] if p not in wrong]
    texts = [(wrong, "wrong"), (others, "right")]
    yield " ".join(
        f"{joined(names)} {'is' if len(names) == 1 else 'are'} {what}."
        for names, what in texts
        if names
    )
    for part in wrong:
        of_part = [x[part] for x in found], [y[part] for y in right]
        factors = [factor(x, y) for x, y in zip(*of_part)]
        if text := _times(cases, factors):
            yield f"{part} is {text}the right one."
        else:
            yield from _where(*of_part, part)


def joined(names: list[str]) -> str:
    """Return the names as they stand in a sentence: "dx, dw and db"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


# ------------------------------------------------------------------------------- what was written


def _not_written(problem, cases, results, name) -> Difference | None:
    missing, is_untouched = _missing(problem, cases, results, name)
    if not any(m.any() for m in missing):
        return None
    if is_untouched:
        names = [n for n in problem.outputs if _missing(problem, cases, results, n)[1]]
        what = f"{joined(names)} {'is' if len(names) == 1 else 'are'}"
        return Difference("nothing-written", f"{what} the same after the call as before.")
    kept = _part(next(m for m in missing if m.any()))
    what = f"A part of {name} is the same after the call as before: {kept}."
    return Difference("partly-written", what)


def _missing(problem, cases, results, name) -> tuple[list[np.ndarray], bool]:
    """Return for each case which elements had to change and did not, and whether this is so of all
    that had to."""
    missing, due = [], []
    for case, result in zip(cases, results):
        before, right = case.before[name], case.answer()[name]
        due.append(right != (0 if problem.outputs[name] == ADDED else before))
        missing.append(due[-1] & (result[name] == before))
    is_untouched = all((m == d).all() for m, d in zip(missing, due))
    return missing, is_untouched and any(d.any() for d in due)


def _constant(found, right, name) -> Difference | None:
    """For a result that is one number everywhere, in all cases; a single one for 0."""
    value = found[0].flat[0] if found[0].size else None
    if not all((x == value).all() for x in found):
        return None
    if right[0].ndim and any(np.ptp(y.astype(float)) for y in right):
        shown = f"{value:.4g}" if found[0].dtype.kind == "f" else str(value)
        return Difference("constant", f"{name} is {shown} everywhere.")
    if not right[0].ndim and value == 0 and all(right):
        return Difference("constant", f"{name} is 0.")
    return None


def _not_finite(found, right, name) -> Difference:
    bad = next(~np.isfinite(x) for x in found if not np.isfinite(x).all())
    kind = "nan" if any(np.isnan(x).any() for x in found) else "infinite"
    return Difference("not-finite", f"{name} has numbers that are {kind}: {_part(bad)}.")


# ------------------------------------------------------------------- multiples and other layouts


def _multiple(cases, found, right, name) -> Difference | None:
    factors = [factor(x, y) for x, y in zip(found, right)]
    if None in factors:
        return None
    text = _times(cases, factors)
    if text == "-1 times ":
        return Difference("negated", f"{name} has the wrong sign everywhere.")
    if text:
        meaning, hints = _meaning(cases, text)
        if not meaning and re.search(r"\bG\b", text):
            meaning = ". G is the number of graded rows"
        what = f"{name} is {text}the right one{meaning}."
        return Difference("multiplied", what, hints)
    if all(x.size == 1 for x in found):  # any two numbers are multiples of each other
        return None
    some = " and ".join(f"{c:.4g}" for c in (factors[0], factors[-1]))
    what = f"{name} is a multiple of the right one, with another factor in each case: {some}."
    return Difference("multiplied", what)


def _meaning(cases, text: str) -> tuple[str, tuple[str, ...]]:
    """What a factor means that is "N times " or "1/N times ", with any number that a sum can run
    over in place of N, and hints. Nothing for other factors."""
    sign, over, letter = re.fullmatch(r"(-?)(1/)?(.*) times ", text).groups()
    if not _is_count(cases, letter):
        return "", ()
    if over:
        meaning = ". There is a mean where a sum belongs"
        hint = f"Look for a division by {letter}, or for `mean` in place of `sum`."
    else:
        meaning = ". There is a sum where a mean belongs"
        hint = f"Look for a division by {letter} that is missing, or for `sum` in place of `mean`."
    meaning += ", and the sign is wrong" if sign else ""
    meaning += ". G is the number of graded rows" if letter == "G" else ""
    return meaning, (hint,)


def _is_count(cases, letter: str) -> bool:
    """True for the name of what a sum can run over: a size that is a whole number. One that the
    function gets as a number, such as alpha, must be the length of an axis too."""
    if letter in ("N", "S", "G"):
        return True
    for case in cases:
        arrays = [*case.arguments.values(), *case.answer().values()]
        arrays = [x for x in arrays if isinstance(x, np.ndarray)]
        is_axis = any(case.sizes.get(letter) in x.shape for x in arrays)
        if not isinstance(case.sizes.get(letter), int) or letter in case.arguments and not is_axis:
            return False
    return True


def _transposed(cases, found, right, name) -> Difference | None:
    if right[0].ndim != 2:
        return None
    if all(x.shape == y.shape[::-1] and agree(x.T, y) for x, y in zip(found, right)):
        return Difference("transposed", f"{name} is the transpose of the right one.")
    if all(x.size == y.size and agree(x.reshape(y.T.shape).T, y) for x, y in zip(found, right)):
        what = f"{name} holds the numbers of its transpose, row after row."
        return Difference("transposed", what)
    return None


# ------------------------------------------------------------------------ where, and what of it


def _part(mask: np.ndarray) -> str:
    """Say in words which elements of an array a mask has: "rows 0 and 2", "column 3"."""
    count = f"{int(mask.sum())} of {mask.size} elements"
    if mask.all():
        return "every element"
    if mask.ndim == 1:
        return f"{'element' if mask.sum() == 1 else 'elements'} {_list(np.flatnonzero(mask))}"
    if mask.ndim == 2:
        rows, columns = mask.all(axis=1), mask.all(axis=0)
        if (mask == rows[:, None]).all():
            return f"{'row' if rows.sum() == 1 else 'rows'} {_list(np.flatnonzero(rows))}"
        if (mask == columns).all():
            return f"{'column' if columns.sum() == 1 else 'columns'} " + _list(
                np.flatnonzero(columns)
            )
        if mask.shape[0] == mask.shape[1]:
            for part, text in (
                (np.eye(len(mask), dtype=bool), "the diagonal"),
                (np.tri(len(mask), k=-1, dtype=bool), "the elements below the diagonal"),
                (np.tri(len(mask), k=-1, dtype=bool).T, "the elements above the diagonal"),
            ):
                if (mask == part).all():
                    return text
        rows, columns = mask.any(axis=1), mask.any(axis=0)
        places = [
            f"{of} {_list(np.flatnonzero(some))}"
            for of, some in (("rows", rows), ("columns", columns))
            if not some.all()
        ]
        if places:
            return f"{count}, in {' and '.join(places)}"
    return count


def _list(numbers) -> str:
    numbers = list(map(int, numbers))
    if len(numbers) > 3 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    if len(numbers) > 6:
        return ", ".join(map(str, numbers[:5])) + f" and {len(numbers) - 5} more"
    *first, last = map(str, numbers)
    return f"{', '.join(first)} and {last}" if first else last


def _wrong(found, right) -> np.ndarray:
    scale = max(np.abs(found).max(initial=0), np.abs(right).max(initial=0), 1e-30)
    return np.abs(found - right) > 1e-7 * scale


def _where(found, right, name) -> list[str]:
    masks = [_wrong(x, y) for x, y in zip(found, right)]
    if all(m.all() for m in masks):
        return [f"Every element of {name} is wrong."] if right[0].ndim else []
    mask = next((m for m in masks if not m.all() and m.any()), None)
    if mask is None:
        return [f"{name} is wrong in some calls, and right in others."]
    shape = ",".join(map(str, mask.shape))
    return [f"Wrong in {name} ({shape}): {_part(mask)}. The others are right."]


def _structure(cases, found, right, name) -> Iterator[str]:
    """What the difference, or the result itself, has in common in all cases."""
    gaps = [x - y for x, y in zip(found, right)]
    if right[0].ndim == 0 and np.allclose(gaps, gaps[0], rtol=CLOSE, atol=0):
        yield f"{name} is off by {float(gaps[0]):.4g} in every case."
    elif right[0].ndim == 0 and abs(sum(map(np.sign, gaps))) == len(gaps):
        yield f"{name} is too {'large' if gaps[0] > 0 else 'small'} in every case."
    elif right[0].ndim == 1:
        for axis, along in ((1, "column"), (0, "row")):
            if text := _sum(cases, found, axis, along):
                yield f"{name} is {text}."
            elif text := _sum(cases, gaps, axis, along):
                yield f"{name} is off by {text}."
    elif right[0].ndim == 2:
        for axis, of, along in ((1, "row", "column"), (0, "column", "row")):
            if all(g.shape[axis] > 1 and _is_constant(g, axis) for g in gaps):
                yield (
                    f"In each {of}, {name} is off by one number, the same in every {along}. A term"
                    f" that does not depend on the {along} is missing or wrong."
                )
                if text := _sum(cases, [g.mean(axis=axis) for g in gaps], axis, along):
                    yield f"In each {of}, {name} is off by {text}."
        if text := _product(cases, found):
            yield f"{name} is {text}."
        elif text := _product(cases, gaps):
            yield f"{name} is off by {text}."
        for axis, of in ((1, "row"), (0, "column")):
            if all(x.shape[axis] > 1 for x in found):
                yield from _rowwise(cases, found, right, gaps, axis, of, name)


def _is_constant(gap, axis) -> bool:
    return bool(np.ptp(gap, axis=axis).max() <= CLOSE * np.abs(gap).max())


def _product(cases, values) -> str | None:
    """Say of which arguments each of these arrays is the product, and with which factor."""
    for names, products in _products(cases, [x.shape for x in values]):
        if factor(values[0], products[0]) is None:  # most are no such product
            continue
        text = _times(cases, [factor(x, p) for x, p in zip(values, products)])
        if text is not None:
            return text + " ".join(names)
    return None


def _sum(cases, values, axis, along) -> str | None:
    """Say of which product of arguments each of these vectors is the sum over an axis, and with
    which factor. along: what the axis counts, "row" or "column"."""
    lengths = [len(v) for v in values]
    shapes = {
        name: [case.arguments[name].shape for case in cases]
        for name in cases[0].arguments
        if all(getattr(case.arguments[name], "ndim", 0) == 2 for case in cases)  # or None
    }
    for shape in {tuple(s) for s in shapes.values() if [x[1 - axis] for x in s] == lengths}:
        for names, products in _products(cases, list(shape)):
            sums = [p.sum(axis=axis) for p in products]
            text = _times(cases, [factor(v, s) for v, s in zip(values, sums)])
            if text is not None:
                return f"{text}the sum of {' '.join(names)} over the {along}s"
    return None


def _times(cases, factors) -> str | None:
    """Return "N times " for factors that are N, "3 times " for 3 in every case, "" for 1, and None
    if they have nothing in common."""
    if None in factors:
        return None
    text = in_sizes(factors, cases)
    if text is None and np.allclose(factors, factors[0], rtol=CLOSE, atol=0):
        text = f"{factors[0]:.4g}"
    return None if text is None else "" if text == "1" else f"{text} times "


def _products(cases, shapes) -> Iterator[tuple[tuple[str, ...], list[np.ndarray]]]:
    """Products of up to three arguments that have these shapes, or one of their two axes."""
    if any(len(set(shape)) < 2 for shape in shapes):  # a vector could stand along either axis
        return
    fitting = {}
    for name in cases[0].arguments:
        values = [case.arguments[name] for case in cases]
        if not all(isinstance(v, np.ndarray) and v.dtype.kind == "f" for v in values):
            continue
        if all(v.shape == s for v, s in zip(values, shapes)):
            fitting[name.lstrip("_")] = values
        for axis in (0, 1):
            if all(v.shape == (s[axis],) for v, s in zip(values, shapes)):
                fitting[name.lstrip("_")] = [v[:, None] if axis == 0 else v for v in values]
    for count in (1, 2, 3):
        for names in combinations_with_replacement(fitting, count):
            arrays = [[fitting[name][i] for name in names] for i in range(len(cases))]
            yield names, [np.broadcast_to(prod(a), s) for a, s in zip(arrays, shapes)]


def _rowwise(cases, found, right, gaps, axis, of, name) -> Iterator[str]:
    """Rows (or columns) that are each a multiple of the right one, or off by a multiple of that of
    an argument."""
    factors = [_factors(x, y, axis) for x, y in zip(found, right)]
    if None not in [None if f is None else 1 for f in factors]:
        text = f"Each {of} of {name} is the right one times a number of its own"
        for other in cases[0].arguments:
            values = [case.arguments[other] for case in cases]
            if not all(isinstance(v, np.ndarray) and v.ndim == 1 for v in values):
                continue
            known = [~np.isnan(f) for f in factors]
            if any(len(v) != len(k) or (v[k] == 0).any() for v, k in zip(values, known)):
                continue
            for power, form in (*POWERS, (-2, "1/{}^2")):
                with np.errstate(all="ignore"):
                    expected = [v**power for v in values]
                pairs = [(f[k], e[k]) for f, e, k in zip(factors, expected, known)]
                if all(np.allclose(f, e, rtol=CLOSE, atol=0) for f, e in pairs):
                    text += f", which is {form.format(other)}"
                    break
        yield text + "."
        return
    for term in cases[0].arguments:
        values = [case.arguments[term] for case in cases]
        if all(isinstance(v, np.ndarray) and v.shape == g.shape for v, g in zip(values, gaps)):
            if all(_factors(g, t, axis) is not None for g, t in zip(gaps, values)):
                yield f"In each {of}, the difference is a multiple of that {of} of {term}."


def _factors(found, right, axis) -> np.ndarray | None:
    """Return the factor of each row (axis 1) or column (axis 0) of found = factor * right, or None
    if they are no multiples. It is NaN where both are 0."""
    square = (right * right).sum(axis=axis)
    c = (found * right).sum(axis=axis) / np.where(square == 0, 1, square)
    rest = found - right * (c[:, None] if axis == 1 else c)
    is_multiple = np.abs(rest).max() <= CLOSE * np.abs(found).max() and square.any()
    return np.where(square == 0, np.nan, c) if is_multiple else None
