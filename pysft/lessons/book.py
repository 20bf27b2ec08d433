"""The lessons: files NN-name.md beside this one, read into their parts, and the page for teachers.

A lesson begins with its title, then lines `needs:`, `minutes:` and `exercise:`, then its idea. The
sections follow, each under a line `## HEADING`. In a section, a line `{derivation NAME}` stands for
the docstring and the lines of a function of the source, so that a derivation stands in one place
only."""

import ast
import importlib
import inspect
import re
import textwrap
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pysft.errors import DataError
from pysft.lessons.problem import Problem

FOLDER = Path(__file__).resolve().parent
SECTIONS = ("By hand", "Exercise", "Derivation", "In C", "Questions", "Answers")
HIDDEN = ("Derivation", "Answers")  # shown when they are asked for
TEACHERS = FOLDER / "teachers.md"
TABLE = "{lessons}"  # in it, a line that stands for the table of all lessons
DERIVATION = re.compile(r"^\{derivation ([\w.]+)\}$", re.M)


@dataclass(frozen=True)
class Lesson:
    """One lesson.

    number     its place in the order of the lessons
    name       of its file, without number and suffix: "layer-norm"
    needs      the numbers of the lessons that come before it
    exercise   the name of a file in exercises/
    idea       the paragraphs below the title
    sections   heading -> text, as it stands in the file
    text       the whole file"""

    number: int
    name: str
    title: str
    needs: tuple[int, ...]
    minutes: int
    exercise: str
    idea: str
    sections: dict[str, str]
    text: str

    @property
    def file(self) -> str:
        return f"{self.number:02d}-{self.name}.md"


@cache
def lessons(folder: Path = FOLDER) -> tuple[Lesson, ...]:
    """All lessons, in order."""
    return tuple(parse(path) for path in sorted(folder.glob("[0-9][0-9]-*.md")))


def parse(path: Path) -> Lesson:
    """Read one lesson. DataError if its head is not complete."""
    text = path.read_text(encoding="utf-8")
    number, _, name = path.stem.partition("-")
    first, *parts = re.split(r"^## (.*)\n", text, flags=re.M)
    found = re.match(r"# (.+)\n\n((?:\w+:.*\n)+)\n", first)
    if not found:
        raise DataError(
            f"{path.name}: expected `# TITLE`, a blank line, and lines such as `needs: 4`"
        )
    head = dict(re.findall(r"^(\w+): *(.*?) *$", found[2], re.M))
    try:
        needs = tuple(int(n) for n in re.findall(r"\d+", head["needs"]))
        minutes, exercise = int(head["minutes"]), head["exercise"]
    except (KeyError, ValueError) as error:
        raise DataError(f"{path.name}: its head has no {error}") from error
    return Lesson(
        int(number),
        name,
        found[1],
        needs,
        minutes,
        exercise,
        first[found.end() :].strip(),
        {heading.strip(): body.strip("\n") for heading, body in zip(parts[::2], parts[1::2])},
        text,
    )


def shown(lesson: Lesson, derive: bool = False) -> str:
    """The text of a lesson for a reader, without the parts that give the solution away. derive:
    with them."""
    head = [f"# {lesson.number}. {lesson.title}", _head(lesson), lesson.idea]
    sections = [
        "\n\n".join([f"## {heading}", body.strip("\n")])
        for heading, body in lesson.sections.items()
        if derive or heading not in HIDDEN
    ]
    return expand("\n\n".join([*head, *sections])) + "\n"


def _head(lesson: Lesson) -> str:
    needs = f"needs lessons {', '.join(map(str, lesson.needs))}; " if lesson.needs else ""
    return f"{needs}{lesson.minutes} minutes; exercise: {lesson.exercise}"


def teachers() -> str:
    """The text of the page for teachers."""
    rows = [f"     {'lesson':<43}minutes  needs"]
    for lesson in lessons():
        needs = " ".join(map(str, lesson.needs))
        rows.append(f"{lesson.number:>3}  {lesson.title:<43}{lesson.minutes:>7}  {needs}".rstrip())
    return TEACHERS.read_text(encoding="utf-8").replace(TABLE, "\n".join(rows))


# ---------------------------------------------------------------------------- derivations, quoted


def expand(text: str) -> str:
    """Put the derivations in place of the lines that name them."""
    return DERIVATION.sub(lambda found: derivation(found[1]), text)


def derivation(name: str) -> str:
    """The docstring and the lines of a function or class: one of nn/reference.py, or one that is
    named in full, "pysft.training.advantages.gae"."""
    thing = _find(name)
    source = textwrap.dedent(inspect.getsource(thing))
    doc = inspect.getdoc(thing) or ""
    path = Path(inspect.getsourcefile(thing)).relative_to(FOLDER.parents[1]).as_posix()
    code = textwrap.indent(without_docstring(source).rstrip(), "    ")
    return f"{name.rpartition('.')[2]}, in {path}:\n\n{doc}\n\n{code}"


def _find(name: str):
    module, _, function = name.rpartition(".")
    try:
        found = importlib.import_module(module or "pysft.nn.reference")
        return getattr(found, function)
    except (ImportError, AttributeError) as error:
        raise DataError(f"{{derivation {name}}}: there is no such function ({error})") from error


def without_docstring(source: str) -> str:
    """The source of a function or class without its docstring."""
    [node] = ast.parse(source).body
    if ast.get_docstring(node, clean=False) is None:
        return source
    lines, first = source.splitlines(keepends=True), node.body[0]
    # A blank line below the docstring goes with it.
    end = first.end_lineno
    while end < len(lines) and not lines[end].strip():
        end += 1
    return "".join(lines[: first.lineno - 1] + lines[end:])


# --------------------------------------------------------------------------------- exercises


@cache
def problems(exercise: str) -> tuple[Problem, ...]:
    """The problems of an exercise, in the order in which they are checked."""
    return importlib.import_module(f"pysft.lessons.exercises.{exercise}").PROBLEMS
