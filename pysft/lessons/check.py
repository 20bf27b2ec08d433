"""Checks a learner's file: are the functions of an exercise right, and if not, which mistake is it?

    check("layernorm", "mine.py")  ->  Finding

Each function runs in a process of its own (running.py), with inputs of all sizes of its problem and
two seeds (cases.py). judging.py compares the results with the right ones, with finite differences
and with those of the catalogue's mistakes. Where none fits, differing.py looks for what the
difference has in common."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from pysft.errors import DataError, MissingInput
from pysft.lessons import book, faults, running, source, worker
from pysft.lessons.cases import Case, cases_of, error
from pysft.lessons.differing import difference
from pysft.lessons.faults import Message
from pysft.lessons.judging import Verdict, judge
from pysft.lessons.problem import Problem
from pysft.lessons.running import TIME_LIMIT, Ran
from pysft.nn.gradcheck import TOLERANCE

PLAIN = ("nothing-written", "constant", "negated")  # differences with one simple reason
NOT_THERE = ("missing", "not-written")  # faults of a function that nobody has begun


@dataclass(frozen=True)
class Row:
    """One result of a function: its largest error in any case, relative to the largest element.
    None where there is no result, or none that is finite."""

    function: str
    result: str
    worst: float | None
    passed: bool


@dataclass(frozen=True)
class Finding:
    """What the check of an exercise has found.

    passed      all functions are right
    forward     the forward is right; None if the exercise has none
    kind        of the finding: "right", "catalogue", or as in faults.py
    function    the one that it is about
    mistake     its name in the catalogue, "FUNCTION/MISTAKE"; several are joined by " + ". None if
                there is no mistake, or none of the catalogue explains the results
    also        names of other mistakes that give the same results
    finding     what is wrong, in a sentence or two
    hints       one for each time that somebody asks, the gentlest first
    step        the number of the hint that is due, from 0
    line        of the learner's file, where one is to blame
    worst_relative_error  of the function's results; None if there are none, or none finite
    rows        the results of all functions that were run
    printed     the beginning of what the file printed"""

    passed: bool
    forward: bool | None
    kind: str
    function: str
    finding: str
    mistake: str | None = None
    also: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    step: int = 0
    line: int | None = None
    worst_relative_error: float | None = None
    rows: tuple[Row, ...] = field(default=(), repr=False)
    printed: str = ""

    @property
    def hint(self) -> str | None:
        """The hint that is due, if there is one. The last one stays."""
        return self.hints[min(self.step, len(self.hints) - 1)] if self.hints else None

    @property
    def hints_left(self) -> int:
        """How many hints come after the one that is due."""
        return max(0, len(self.hints) - 1 - self.step)


def check(exercise: str, path, time_limit: float = TIME_LIMIT) -> Finding:
    """Check the functions of an exercise in a file.

    A function is not looked at before those above it are right, because a wrong backward can fit a
    wrong forward. One that is not written yet holds nobody up. MissingInput if there is no file."""
    path = Path(path)
    text = read(path)
    findings = []
    for problem in book.problems(exercise):
        found = check_function(problem, text, path, time_limit)
        findings.append((problem, found))
        if not found.passed and found.kind not in NOT_THERE:
            break
    return _summary(book.problems(exercise), findings)


def read(path: Path) -> bytes:
    """The content of a learner's file."""
    if path.is_dir():
        raise DataError(f"{path}: a folder; expected a Python file")
    if not path.is_file():
        raise MissingInput(f"{path}: no such file; `lesson N --start {path}` writes one")
    return path.read_bytes()


def _summary(problems, findings) -> Finding:
    """One finding for all functions: that of the wrong one, else that of the first that is not
    there, else that all are right."""
    by_name = {problem.function: found.passed for problem, found in findings}
    derivatives = [i for i, problem in enumerate(problems) if problem.loss]
    forwards = problems[: derivatives[0]] if derivatives else ()
    forward = all(by_name.get(p.function, False) for p in forwards) if forwards else None
    wrong = [found for _, found in findings if not found.passed]
    wrong.sort(key=lambda found: found.kind in NOT_THERE)  # stable
    rows = tuple(row for _, found in findings for row in found.rows)
    printed = "".join(found.printed for _, found in findings)
    if wrong:
        return replace(wrong[0], forward=forward, rows=rows, printed=printed)
    worst = max(row.worst for row in rows)
    names = " and ".join(by_name)
    found = f"{names} {'is' if len(by_name) == 1 else 'are'} right."
    return Finding(True, forward, "right", names, found, worst_relative_error=worst, rows=rows,
                   printed=printed)  # fmt: skip


def check_function(problem: Problem, text: bytes, path: Path, time_limit=TIME_LIMIT) -> Finding:
    """Check one function of a file with this content."""
    cases = cases_of(problem)
    if source.is_empty(text, problem.function):
        ran = Ran({"kind": "not-written"})
    else:
        ran = running.run(text, path, cases, time_limit)
        ran.printed = ran.printed.replace(worker.FILE, path.name)  # in warnings
    if ran.fault:
        message = faults.of_fault(ran.fault, problem, cases, path.name, text)
        return _finding(problem, ran.fault["kind"], message, printed=ran.printed)
    return replace(judged(problem, cases, ran, text, path.name), printed=ran.printed)


def judged(
    problem: Problem, cases: list[Case], ran: Ran, text: bytes = b"", file: str = "the file"
) -> Finding:
    """The finding on a function that has run in all cases without a fault."""
    verdict = _simpler(judge(problem, cases, ran.results), problem, cases, ran.results)
    in_shared = _in_shared(problem, cases, ran)
    errors = verdict.worst | in_shared
    rows = tuple(
        Row(problem.function, name, _finite(worst), worst <= TOLERANCE)
        for name, worst in errors.items()
    )
    details = {
        "rows": rows,
        "mistake": name_of(problem, verdict.mistakes) if verdict.mistakes else None,
        "also": tuple(name_of(problem, names) for names in verdict.also),
        "worst_relative_error": _finite(max(errors.values())),
    }
    messages = [faults.of_catalogue(problem.function, name) for name in verdict.mistakes]
    kind = "catalogue"
    if changed := [name for name in cases[0].passed() if _is_changed(ran, name)]:
        kind, messages = "input-changed", [faults.of_input(problem, changed, text, file)]
    elif not messages and (message := faults.of_form(problem, cases, ran.results)):
        kind, messages = "form", [message]
    elif not messages and verdict.unexplained:
        # The arrays that a forward keeps stand after its output, which is made of them.
        is_forward = bool(problem.outputs) and problem.loss is None
        name = verdict.unexplained[-1 if is_forward else 0]
        differs = difference(problem, cases, ran.results, name)
        returned = any(call["returned"] for call in ran.calls)
        kind = differs.kind
        messages = [faults.of_difference(differs, problem, name, text, file, returned)]
        messages += [faults.of_ways(problem, verdict.ways)] if verdict.ways else []
    elif verdict.ways:
        kind = kind if messages else f"{next(iter(verdict.ways.values()))}-instead"
        messages.append(faults.of_ways(problem, verdict.ways))
    if not messages and verdict.passed and not max(in_shared.values(), default=0) <= TOLERANCE:
        kind, messages = "shared-array", [faults.of_shared(problem)]
    if not messages and verdict.passed:
        message = Message(f"{problem.function} is right.")
        return replace(_finding(problem, "right", message, passed=True), **details)
    if not messages:  # the exercise's own answer and its loss do not agree
        kind, messages = "other", [Message(f"{problem.function} fails by finite differences.")]
    return replace(_finding(problem, kind, faults.together(messages)), **details)


def _simpler(verdict: Verdict, problem, cases, results) -> Verdict:
    """The verdict, or one without mistakes if it has two or more for results that are wrong in a
    plain way (PLAIN). Two terms that are left out make a result 0, but so does a line that is never
    reached, which is likelier."""
    if len(verdict.mistakes) < 2:
        return verdict
    wrong = [name for name, worst in verdict.worst.items() if not worst <= TOLERANCE]
    for name in set(wrong) - set(verdict.unexplained):
        shapes = [(r[name].shape, case.answer()[name].shape) for r, case in zip(results, cases)]
        if any(found != right for found, right in shapes):
            return verdict
        if difference(problem, cases, results, name, detailed=False).kind not in PLAIN:
            return verdict
    return replace(verdict, mistakes=(), also=(), ways={}, unexplained=tuple(wrong))


def name_of(problem: Problem, mistakes) -> str:
    """The name of a set of mistakes of a problem, as in Finding.mistake."""
    return " + ".join(f"{problem.function}/{name}" for name in mistakes)


def _in_shared(problem: Problem, cases: list[Case], ran: Ran) -> dict[str, float]:
    """{"OUTPUT in ARGUMENT": the largest error in any case} of outputs that were the array of an
    argument."""
    return {
        f"{name} in {of}": max(error(r[name], c.answer()[name]) for r, c in zip(ran.shared, cases))
        for name, of in problem.shared.items()
        if ran.shared
    }


def _is_changed(ran: Ran, name: str) -> bool:
    return any(name in call["changed"] for call in ran.calls)


def _finding(problem: Problem, kind: str, message: Message, passed=False, printed="") -> Finding:
    return Finding(
        passed,
        None,
        kind,
        problem.function,
        message.finding,
        hints=message.hints,
        line=message.line,
        printed=printed,
    )


def _finite(error: float) -> float | None:
    return error if error < float("inf") else None
