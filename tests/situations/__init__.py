"""Situations: what people's files and machines are really like, and what must come out.

Each module here is a table, SITUATIONS. tests/test_situations.py runs every row of every table, and
`python tests/test_situations.py` prints them as the table of bench/RESULTS.md."""

from collections.abc import Callable
from dataclasses import dataclass, field

OWN = "tried here"  # the source of a situation that is from no thread


@dataclass(frozen=True)
class Situation:
    """One command in an empty folder, and what must come out.

    name      a few words, unique
    command   as typed behind `python -m pysft`. In it {run} is a small run that has been trained,
              and {inputs} the flags --config and --corpus of its training
    files     name -> content: text, bytes, or a list of rows that are written as JSON lines
    code      the exit status
    says      each of these stands in what is printed
    never     none of these stands in what is printed
    check     check(result, folder), for what the words cannot show: a number, a file
    source    where it was met: the address of a public thread, or OWN
    before    what came out when it was first tried; "right" if it was right already
    setup     setup(monkeypatch, folder), before the command: a pipe, an environment variable
    """

    name: str
    command: str
    files: dict[str, str | bytes | list] = field(default_factory=dict)
    code: int = 0
    says: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    check: Callable | None = None
    source: str = ""
    before: str = ""
    setup: Callable | None = None


def row(*texts, **more) -> dict:
    """A row of `messages`: the user, the assistant, the user, and so on."""
    roles = ("user", "assistant") * len(texts)
    return {"messages": [{"role": r, "content": t} for r, t in zip(roles, texts)], **more}
