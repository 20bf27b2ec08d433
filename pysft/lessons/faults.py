"""What is said about mistakes that any function can make: a finding, and hints.

The messages of the catalogue's mistakes stand in mistakes/, a file for each."""

import ast
import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from itertools import permutations
from pathlib import Path

import numpy as np

from pysft import IGNORE
from pysft.lessons import source as text_of
from pysft.lessons.cases import Case
from pysft.lessons.differing import joined
from pysft.lessons.problem import ADDED, WRITTEN, Problem

MISTAKES = Path(__file__).resolve().parent / "mistakes"


@dataclass(frozen=True)
class Message:
    """finding: what is wrong, in one sentence or two. hints: the gentlest first. line: of the
    learner's file, where one is to blame."""

    finding: str
    hints: tuple[str, ...] = ()
    line: int | None = None


@cache
def of_catalogue(function: str, mistake: str) -> Message:
    """The message of one mistake of the catalogue."""
    path = MISTAKES / function / f"{mistake}.md"
    if not path.is_file():
        return Message(f"{function}: {mistake.replace('-', ' ')}.")
    paragraphs = re.split(r"\n\s*\n", path.read_text(encoding="utf-8").strip())
    finding, *hints = (" ".join(paragraph.split()) for paragraph in paragraphs)
    return Message(finding, tuple(hints))


def together(messages: list[Message]) -> Message:
    """One message of several mistakes. Each step of the hints has a hint on each mistake."""
    if len(messages) == 1:
        return messages[0]
    count = max(len(m.hints) for m in messages)
    hints = tuple(
        " ".join(dict.fromkeys(m.hints[min(i, len(m.hints) - 1)] for m in messages if m.hints))
        for i in range(count)
    )
    number = {2: "Two", 3: "Three"}.get(len(messages), str(len(messages)))
    return Message(f"{number} mistakes. " + " ".join(m.finding for m in messages), hints)


# -------------------------------------------------------------------------- before it has results


def of_fault(fault: dict, problem: Problem, cases: list[Case], file: str, source: bytes) -> Message:
    """The message of a fault for which a function has no results."""
    f, line = problem.function, fault.get("line")
    at = f"{file}, line {line}" if line else file
    code = text_of.line(source, line)
    quoted = (f"The line is: {code}",) if code else ()
    match fault["kind"]:
        case "syntax":
            return Message(f"{at}: {fault['message']}. Python cannot read the file.", quoted, line)
        case "file-exception":
            what = f"{at}: {_exception(fault)} Python cannot run the file, so {f} was not called."
            return Message(what, quoted, line)
        case "missing":
            near = get_close_matches(f, fault["functions"], 1)
            hint = f"There is a function {near[0]}. The name must be {f}." if near else ""
            hint = hint or f"`lesson N --start {file}` appends it, to be written."
            return Message(f"{file} has no function {f}.", (hint,))
        case "no-function":
            return Message(f"{f} in {file} is a {fault['type']}, and must be a function.")
        case "signature":
            hints = (f"Expected: def {f}{fault['expected']}", f"Found: def {f}{fault['found']}")
            return Message(f"{f} has another signature: {fault['why']}.", hints)
        case "not-written":
            return Message(f"{f} is not written yet.", (task_of(problem),), line)
        case "exception":
            what = f"{f} raised {_exception(fault)}" + (f" See {at}." if line else "")
            if fault["type"] == "IndexError" and str(IGNORE) in fault["message"]:
                what += f" Rows with the label {IGNORE} have no label to look up."
            asked = _question(fault)
            return Message(what, (*asked, *quoted, _shapes(problem, cases[0])), line)
        case "endless":
            where = f" It was at {at}." if line else ""
            what = f"{f} did not end within {fault['seconds']:g} seconds.{where}"
            more = "A loop may have no end. `--time-limit` gives more seconds."
            return Message(what, (*quoted, more), line)
        case "ended":
            where = f" It was at {at}." if line else ""
            what = f"Python ended while it ran {f} (exit status {fault['code']}).{where}"
            return Message(what, quoted, line)
        case "returned-nothing":
            due = ", ".join(problem.returns)
            return Message(f"{f} returns nothing. It must return {due}.")
        case "returned-number":
            due, count = ", ".join(problem.returns), len(problem.returns)
            found = fault["found"]
            return Message(f"{f} returns {_values(found)}. It must return {count}: {due}.")
        case "returned-type":
            what = f"{fault['name']}, returned by {f}, is {_article(fault['found'])}."
            return Message(what, ("It must be a number or an array of numbers.",))
    raise ValueError(fault["kind"])


def of_form(problem: Problem, cases: list[Case], results: list[dict]) -> Message | None:
    """The message for a result of another shape or dtype, or None."""
    f = problem.function
    if _is_in_another_order(problem, cases, results):
        due = ", ".join(problem.returns)
        what = f"{f} returns its results in another order. It must return {due}."
        return Message(what, (f"Look at the last line of {f}.",))
    for case, result in zip(cases, results):
        for name, right in case.answer().items():
            found = result[name]
            if found.shape != right.shape:
                due = "be a single number"
                if right.shape:
                    due = f"have the shape {_shape(right.shape, case.sizes, cases, name)}"
                what = f"{name} of {f} has the shape {_plain(found.shape)}. It must {due}."
                hints = [_shapes(problem, case)]
                if found.shape == right.shape[::-1]:
                    hints.insert(0, "The axes are in the other order.")
                elif found.size == right.size:
                    hints.insert(0, "The number of elements is right.")
                return Message(what, tuple(hints))
            kinds = {"f": "f", "i": "iu", "u": "iu", "b": "b", "U": "U", "S": "S"}
            is_alike = found.dtype.kind in kinds[right.dtype.kind]
            is_shorter = found.dtype.itemsize < right.dtype.itemsize
            if not is_alike or (right.dtype.kind == "f" and is_shorter):
                what = f"{name} of {f} is {found.dtype}. It must be {right.dtype}."
                hint = "Look for a step that makes an array of its own, or converts one."
                return Message(what, (hint,))
    return None


def _is_in_another_order(problem, cases, results) -> bool:
    """True if the results that a function returns have the shapes of the right ones, but not in
    this order, in every case."""
    due = [[case.answer()[name].shape for name in problem.returns] for case in cases]
    found = [[result[name].shape for name in problem.returns] for result in results]
    return found != due and any(
        all([shapes[i] for i in order] == right for shapes, right in zip(found, due))
        for order in permutations(range(len(problem.returns)))
    )


def of_input(problem: Problem, names: list[str], source: bytes, file: str) -> Message:
    """The message for inputs that a function changed."""
    name = names[0]
    line = text_of.changed_at(source, problem.function, name)
    where = f" See {file}, line {line}: {text_of.line(source, line)}" if line else ""
    hint = f"Other functions still need {name}. A new array leaves it as it is: {name} * 2, not"
    return Message(
        f"{problem.function} changed its input {joined(names)}.{where}",
        (f"{hint} {name} *= 2.",),
        line,
    )


# ------------------------------------------------------------------------- what its results are


def of_shared(problem: Problem) -> Message:
    """The message for an output that is right, unless it is the array of an argument."""
    [(name, of)] = problem.shared.items()
    what = f"{name} is right in an array of its own, but wrong when it is the array of {of}: an"
    hints = (
        f"Which line is the first that writes {name}? Which lines below it still read {of}?",
        f"Work in a new array, and write {name} once, at the end.",
    )
    return Message(f"{what} element of {of} is read after it was overwritten.", hints)


def of_ways(problem: Problem, ways: dict[str, str]) -> Message:
    """The message for outputs that were filled in the wrong way: {output: way}."""
    names, way = list(ways), next(iter(ways.values()))
    verb, arrays = ("is", "array holds") if len(names) == 1 else ("are", "arrays hold")
    if way == WRITTEN:
        what = f"{joined(names)} {verb} overwritten. The gradient must be added to what is there."
        hint = (
            f"What do such arrays hold before the call, and who put it there? See {joined(names)}."
        )
        return Message(what, (hint, f"`{names[0]} += ...` adds to the array."))
    what = f"{joined(names)} {verb} added to. The result must replace what the {arrays}."
    hint = "An array that is written may hold anything before the call."
    return Message(what, (hint, f"`{names[0]}[:] = ...` writes the array."))


def of_difference(difference, problem, name, source, file, returned) -> Message:
    """The message for a result that no mistake of the catalogue explains (differing.py)."""
    f = problem.function
    match difference.kind:
        case "nothing-written":
            line = text_of.bound_at(source, f, name)
            form = f"{name} += ..." if problem.outputs[name] == ADDED else f"{name}[:] = ..."
            if line:
                more = f"{file}, line {line}, gives the name {name} to a new array."
                hints = (f"{more} The caller's array stays as it was.", f"`{form}` changes it.")
            elif returned:
                hints = (f"{f} returns something. Its results must be in the arrays it is given.",)
            else:
                hints = (f"No line changes the array {name}. `{form}` does.",)
            return Message(f"{f}: {difference.what}", hints, line)
        case "partly-written":
            hints = ("Which rows or columns does the code reach?",)
        case "not-finite":
            hints = ("Look for a division by zero, a logarithm of 0, or an exponential that is too"
                     " large.",)  # fmt: skip
        case "constant":
            hints = (f"Which line gives {name} its values? Is it reached, and is a factor 0?",)
        case "negated":
            hints = ("Count the minus signs, from the loss down to this result.",)
        case "multiplied":
            factor = "Is there a sum where a mean belongs, or a factor too much or too little?"
            hints = difference.more or (factor,)
        case "transposed":
            hints = ("Write the shape of each factor below it: which index is summed over?",)
        case "swapped":
            hints = ("Look at the order of the arguments.",)
        case _:
            hints = difference.more
    return Message(f"{f}: {difference.what}", tuple(hints))


# ---------------------------------------------------------------------------------- small pieces


def _exception(fault: dict) -> str:
    message = " ".join(fault["message"].split())
    return f"{fault['type']}: {message}." if message else f"{fault['type']}."


QUESTIONS = (
    # of an exception: its type, a part of its message, the question that is asked first
    ("ValueError", r"broadcast|mismatch|shapes|einsum",
     "Which shape has each array of this line, and which axes have to go together?"),
    ("IndexError", "", "Which numbers are the indices of this line, and how long is the axis?"),
    ("NameError", "", "Where is the name given a value? Is it written in the same way there?"),
    ("UnboundLocalError", "", "Is the line that gives the name its value reached before this one?"),
    ("TypeError", "", "What is each name of this line: a number, an array, a function, or None?"),
    ("AttributeError", "", "What is before the dot on this line: a number, an array, or None?"),
    ("ZeroDivisionError", "", "In which call is the divisor of this line 0?"),
)  # fmt: skip


def _question(fault: dict) -> tuple[str, ...]:
    """The question that is the first hint on an exception, where there is one."""
    for kind, words, question in QUESTIONS:
        if fault["type"] == kind and re.search(words, fault["message"]):
            return (question,)
    return ()


def _values(count: int) -> str:
    return "1 value" if count == 1 else f"{count} values"


def _article(noun: str) -> str:
    if noun.startswith("an "):
        return noun
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _plain(shape) -> str:
    return f"({','.join(map(str, shape))}{',' * (len(shape) == 1)})"


def _shape(shape, sizes, cases, name) -> str:
    """A shape in numbers, and in letters: those of the sizes that it has in every case."""
    letters = []
    for axis, n in enumerate(shape):
        fits = [
            letter
            for letter in sizes
            if all(c.answer()[name].shape[axis] == c.sizes.get(letter) for c in cases)
        ]
        letters.append(fits[0] if fits else str(n))
    named = f", which is ({','.join(letters)})" if set(letters) & set(sizes) else ""
    return _plain(shape) + named


def _shapes(problem: Problem, case: Case) -> str:
    """A sentence with the shapes of all arguments of a call."""
    given = [*case.before.items(), *case.passed().items()]
    names = [
        f"{name} {_plain(x.shape)}" for name, x in given if isinstance(x, np.ndarray) and x.ndim
    ]
    return f"It was called with {', '.join(names)}." if names else "It was called with no array."


def task_of(problem: Problem) -> str:
    """The docstring of a problem's skeleton, on one line."""
    [function] = ast.parse(problem.skeleton).body
    return " ".join((ast.get_docstring(function) or "").split())
