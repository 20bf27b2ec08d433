"""`pysft lesson`: list the lessons, show one, write its exercise into a file, check the file."""

import argparse
import sys

from pysft.cli.arguments import print_json, seconds, whole
from pysft.console import command
from pysft.errors import UsageError

HELP = "list the lessons, show one, begin its exercise, or check a solution"
EXAMPLES = (
    "lesson",
    "lesson 6",
    "lesson 6 --start mine.py",
    "lesson 6 --check mine.py",
    "lesson 6 --derive | less",
    "lesson --html lessons.html --run runs/tiny",
    "lesson 9 --walk | less -S",
    "lesson teachers",
)
FILE = "mine.py"
TEACHERS = "teachers"
WALKED = 9  # the lesson that the walk belongs to


def lesson_or_page(text):
    if text == TEACHERS:
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, nor {TEACHERS!r}")
    return whole(text)


def add_arguments(p):
    p.add_argument(
        "number",
        metavar="N",
        nargs="?",
        type=lesson_or_page,
        help=f"the lesson (default: list), or {TEACHERS!r} for the page for teachers",
    )
    does = p.add_mutually_exclusive_group()
    does.add_argument(
        "--derive", action="store_true", help="show the derivation and the answers too"
    )
    does.add_argument(
        "--start",
        metavar="FILE.py",
        nargs="?",
        const=FILE,
        help=f"append the functions of the exercise, without their bodies (default: {FILE})",
    )
    does.add_argument(
        "--check",
        metavar="FILE.py",
        help="check the functions of the exercise; another check of the same mistake shows the"
        " next hint",
    )
    does.add_argument(
        "--html",
        metavar="FILE.html",
        help="write one page with all lessons and the graph of a training step, whose nodes show"
        " their arrays, derivatives and code",
    )
    p.add_argument(
        "--run",
        dest="run_folder",
        metavar="RUN",
        help="with --html: the page also holds the model of this run, and shows mask, losses and"
        " gradients of what a reader types",
    )
    does.add_argument(
        "--walk",
        action="store_true",
        help=f"lesson {WALKED}: print all numbers of one training step of a very small model",
    )
    p.add_argument(
        "--time-limit",
        type=seconds,
        default=10.0,
        metavar="SECONDS",
        help="time that --check gives each function (default 10)",
    )


def run(args):
    from pysft.lessons import book

    if args.run_folder and not args.html:
        raise UsageError("--run is for --html FILE.html, which shows the model of a run")
    if args.html:
        return _write_page(args)
    does = args.start or args.check or args.derive or args.walk
    if args.number is None:
        if does:
            raise UsageError("which lesson? Give its number: lesson 6 --check mine.py")
        return _list(book.lessons(), args.json)
    if args.number == TEACHERS:
        if does:
            raise UsageError("the page for teachers has no exercise. Give the number of a lesson")
        return _page({"name": TEACHERS}, book.teachers(), args.json)
    by_number = {lesson.number: lesson for lesson in book.lessons()}
    if args.number not in by_number:
        known = ", ".join(map(str, by_number))
        raise UsageError(f"there is no lesson {args.number}. There are {known}")
    lesson = by_number[args.number]
    if args.start:
        return _start(lesson, args)
    if args.check:
        return _check(lesson, args)
    if args.walk:
        return _walk(lesson, args)
    return _show(lesson, args)


def _write_page(args) -> None:
    """Write the page of all lessons."""
    from pysft.lessons.page import write_page
    from pysft.nn import reference
    from pysft.run.stage import load_stage

    if args.number is not None:
        raise UsageError(f"--html writes all lessons into one page; leave {args.number} out")
    stage = load_stage(args.run_folder, reference) if args.run_folder else None
    path = write_page(args.html, stage)
    if args.json:
        print_json({"page": str(path)})
    else:
        print(f"The page: {path}")


def _list(lessons, as_json) -> None:
    from pathlib import Path

    from pysft.lessons import progress

    done = progress.done_in(Path())
    if as_json:
        rows = [_head(lesson) | {"done": lesson.exercise in done} for lesson in lessons]
        print_json({"lessons": rows})
        return
    for lesson in lessons:
        mark = "done" if lesson.exercise in done else ""
        print(f"{lesson.number:>2}  {lesson.title:<52}{lesson.minutes:>4} min  {mark}".rstrip())
    hours = sum(lesson.minutes for lesson in lessons) / 60
    print(f"\n{len(lessons)} lessons, about {hours:.0f} hours.", end=" ")
    print("Show one: python -m pysft lesson N")


def _head(lesson) -> dict:
    from pysft.lessons import book

    return {
        "number": lesson.number,
        "title": lesson.title,
        "minutes": lesson.minutes,
        "needs": list(lesson.needs),
        "exercise": lesson.exercise,
        "functions": [problem.function for problem in book.problems(lesson.exercise)],
    }


def _show(lesson, args) -> None:
    from pysft.lessons import book

    text = book.shown(lesson, args.derive)
    if args.json:
        print_json(_head(lesson) | {"text": text})
        return
    print(text)
    print(f"Begin: {command('lesson', lesson.number, '--start', FILE)}")
    print(f"Check: {command('lesson', lesson.number, '--check', FILE)}")


def _page(head: dict, text: str, as_json: bool) -> None:
    """Print a text, or a document that has it below a head."""
    if as_json:
        print_json(head | {"text": text})
    else:
        print(text, end="")


def _walk(lesson, args) -> None:
    from pysft.lessons.walk import walk
    from pysft.nn import reference

    if lesson.number != WALKED:
        raise UsageError(f"--walk belongs to lesson {WALKED}: lesson {WALKED} --walk")
    _page({"number": lesson.number, "title": lesson.title}, walk(reference), args.json)


def _start(lesson, args) -> None:
    from pathlib import Path

    from pysft.lessons.start import start

    path = Path(args.start)
    added = start(lesson.exercise, path)
    if args.json:
        print_json({"file": str(path), "added": added})
        return
    if added:
        print(f"{path}: added {' and '.join(added)}, to be written.")
    else:
        print(f"{path}: has all functions of lesson {lesson.number}; nothing was added.")
    print(f"Check: {command('lesson', lesson.number, '--check', path)}")


def _check(lesson, args) -> int:
    from dataclasses import replace
    from pathlib import Path

    from pysft.lessons import progress
    from pysft.lessons.check import check

    if args.time_limit == 0:
        raise UsageError("--time-limit 0: a function needs some time")
    path = Path(args.check)
    finding = check(lesson.exercise, path, args.time_limit)
    kept = progress.path_of(path)
    content, step = progress.noted(progress.read(kept), lesson.exercise, finding)
    finding = replace(finding, step=step)
    try:
        progress.write(kept, content)
    except OSError as error:
        print(f"pysft: {kept}: {error.strerror}, so hints do not go on", file=sys.stderr)
    if args.json:
        print_json(_document(finding))
    else:
        _print(finding, lesson, path)
    return 0 if finding.passed else 1


def _document(finding) -> dict:
    """The document of --check --json. `hint` is all that is said: what is wrong, and the hint that
    is due."""
    said = " ".join(filter(None, [finding.finding, finding.hint]))
    return {
        "passed": finding.passed,
        "forward": finding.forward,
        "kind": finding.kind,
        "function": finding.function,
        "mistake": finding.mistake,
        "also": list(finding.also),
        "finding": finding.finding,
        "hint": None if finding.passed else said,
        "hints_left": finding.hints_left,
        "line": finding.line,
        "worst_relative_error": finding.worst_relative_error,
        "rows": [
            {"function": r.function, "result": r.result, "worst": r.worst, "passed": r.passed}
            for r in finding.rows
        ],
        "printed": finding.printed,
    }


def _print(finding, lesson, path) -> None:
    if finding.printed:
        print(f"{path} printed:")
        for line in finding.printed.splitlines():
            print(f"  {line}")
        print()
    wide = max(12, *(len(row.result) + 2 for row in finding.rows), 0)
    for row in finding.rows:
        error = "not finite" if row.worst is None else f"{row.worst:.1e}"
        wrong = "   WRONG" * (not row.passed)
        print(f"{row.function:<28}{row.result:<{wide}}{error:>12}{wrong}")
    if finding.rows:
        print("(the largest error in all cases, relative to the largest element)\n")
    print(finding.finding)
    if finding.hint:
        number = min(finding.step, len(finding.hints) - 1) + 1
        print(f"\nHint {number} of {len(finding.hints)}: {finding.hint}")
    if finding.passed:
        again = command("lesson", lesson.number, "--derive")
        print(f"\nLesson {lesson.number} is done. Its derivation: {again}")
    elif finding.hints_left:
        print("\nThe next check of the same mistake shows another hint.")
