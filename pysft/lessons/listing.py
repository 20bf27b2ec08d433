"""The lines of a function as they stand in the source: in NumPy, and in C if the sources of the C
part are there."""

import inspect
import re
import textwrap
from functools import cache
from pathlib import Path

from pysft.lessons.book import without_docstring

CSRC = Path(__file__).resolve().parents[2] / "csrc"
# A function of C with the comment above it. It begins in the first column, and so does its last }.
C_FUNCTION = re.compile(r"(?:^/\*(?:(?!\*/).)*\*/\n)?^[A-Za-z][^;{}]*\{\n.*?^\}$", re.S | re.M)
C_NAME = re.compile(r"(?:\bFN\((\w+)\)|\b(\w+))\(")
# Functions that check indices, share work among threads, or count working memory.
NO_ARITHMETIC = re.compile(r"first_bad.*|share.*|.*_scratch")
HELPERS = {"gelu_backward": ["_gelu_slope"]}  # functions that derive a part of another's backward


def words(function) -> str:
    """The docstring of a function, and those of helpers that have a part of its derivation."""
    module, helpers = inspect.getmodule(function), HELPERS.get(function.__name__, ())
    found = [function, *(getattr(module, name) for name in helpers)]
    return "\n\n".join(inspect.getdoc(f) or "" for f in found)


@cache
def in_numpy(function) -> str:
    """The lines of a function without its docstring. Those of helpers that it calls stand below,
    with their docstrings."""
    source = textwrap.dedent(inspect.getsource(function))
    parts = [without_docstring(source)]
    module = inspect.getmodule(function)
    for name in dict.fromkeys(re.findall(r"\b(_[a-z]\w+)\(", source)):
        if name != function.__name__ and inspect.isfunction(getattr(module, name, None)):
            parts.append(inspect.getsource(getattr(module, name)))
    return "\n\n".join(part.rstrip() for part in parts)


def c_file(function: str) -> Path | None:
    """The file of csrc/ with a function of kernels.h, such as "gelu_forward". None if the sources
    are not there."""
    found = (path for path in sorted(CSRC.glob("*.c")) if function in c_functions(path))
    return next(found, None)


def in_c(function: str) -> str | None:
    """The lines of a function of csrc/: first the functions that it calls, which have the
    arithmetic, then itself, then what these call. None if the sources are not there."""
    path = c_file(function)
    if path is None:
        return None
    known = c_functions(CSRC / "rows.h") | c_functions(path)
    known["tile"] = c_functions(CSRC / "tile.h")["tile_of"]  # tile() chooses the size of one
    order = [*_calls(known, function), function]
    for name in order:  # which grows on the way
        order += [further for further in _calls(known, name) if further not in order]
    return "\n\n".join(known[name] for name in order)


@cache
def c_functions(path: Path) -> dict[str, str]:
    """Name -> lines of every function of a C file."""
    found = {}
    for text in C_FUNCTION.findall(path.read_text(encoding="utf-8")) if path.is_file() else ():
        name = C_NAME.search(re.sub(r"/\*.*?\*/", "", text, flags=re.S))
        found[name[1] or name[2]] = text
    return found


def _calls(known: dict[str, str], function: str) -> list[str]:
    """The functions among `known` that a function calls, in the order of the file."""
    body = re.sub(r"/\*.*?\*/", "", known[function], flags=re.S)
    called = {a or b for a, b in C_NAME.findall(body)} - {function}
    return [name for name in known if name in called and not NO_ARITHMETIC.fullmatch(name)]
