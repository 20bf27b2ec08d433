"""Mutants of C: small changes of the code of functions, found by patterns. Comments, texts,
preprocessor lines and declarations outside of functions are left alone."""

import re
from collections.abc import Iterator

from mutants import COMPARISONS, Mutant

OPERATORS = {
    "+": ("-",),
    "-": ("+",),
    "*": ("+",),
    "/": ("*",),
    "%": ("*",),
    "&&": ("||",),
    "||": ("&&",),
    "+=": ("-=",),
    "-=": ("+=",),
    "*=": ("+=",),
    "++": ("--",),
}
ASIDE = re.compile(
    r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|^[ \t]*#(?:[^\n]*\\\n)*[^\n]*', re.S | re.M
)
# An operator between two operands has spaces around it (a pointer's star has one at most).
BINARY = re.compile(r"(?<= )(?:[<>=!]=|[<>+\-*/%]|&&|\|\||[+\-*]=)(?= )|\+\+")
NUMBER = re.compile(r"(?<![\w.])\d+(?![\w.])")
NAME = re.compile(r"(?<![\w.>\"])[A-Za-z_]\w*(?![\w(]|\s*\()")
CONDITION = re.compile(r"\b(?:if|while) (?=\()")
# How many threads compute changes no bit of a result, so no test can tell such a line's mutants.
NO_RESULT = re.compile(r"threads = 1;")
TYPES = r"(?:const|static|int|int32_t|int64_t|real|vec|char|double|float|void|unsigned|size_t)"
# A statement on a line of its own that assigns or calls; a declaration begins with two words.
STATEMENT = re.compile(
    r"(?!return|goto|break|continue|else)(?:\*?\w[\w.\[\]>*+ -]*?(?:[+\-*]?=) .*|\w+\(.*\));"
)
KEYWORDS = set("if else for while do return break continue static const inline sizeof".split())
KEYWORDS |= {"void", "int", "int32_t", "int64_t", "real", "vec", "char", "double", "float"}


def blanked(text: str) -> str:
    """The text with spaces for comments, texts and preprocessor lines."""
    return ASIDE.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), text)


def c_mutants(file: str, text: str) -> list[Mutant]:
    """All mutants of a source."""
    code, depth, start = blanked(text), 0, 0
    found = []
    for number, line in enumerate(code.split("\n"), 1):
        inside = depth > 0
        depth += line.count("{") - line.count("}")
        if inside and line.strip() and not NO_RESULT.search(line):
            for kind, first, last, new in _of_line(line):
                place = start + first, start + last
                found.append(Mutant(file, number, kind, *place, new, (number, number)))
        start += len(line) + 1
    return sorted(set(found), key=lambda m: (m.start, m.end, m.kind, m.new))


def _of_line(line: str) -> Iterator[tuple[str, int, int, str]]:
    """(kind, start, end, new) of the changes of one line."""
    for m in BINARY.finditer(line):
        kind = "comparison" if m[0] in COMPARISONS else "operator"
        for new in COMPARISONS.get(m[0], ()) or OPERATORS.get(m[0], ()):
            yield kind, *m.span(), new
    for m in NUMBER.finditer(line):
        for step in (1, -1):
            if int(m[0]) + step >= 0:
                yield "constant", *m.span(), str(int(m[0]) + step)
    for m in CONDITION.finditer(line):
        end = _closing(line, m.end())
        if end:
            yield "negated condition", m.end(), end, f"(!{line[m.end() : end]})"
    stripped = line.strip()
    if STATEMENT.fullmatch(stripped) and not re.match(rf"{TYPES}\b", stripped):
        first = line.index(stripped)
        yield "deleted statement", first, first + len(stripped), ";"
    names = [m for m in NAME.finditer(line) if m[0] not in KEYWORDS]
    if not re.match(rf"{TYPES}\b[^=]*$", stripped):
        for m in names:
            for other in sorted({x[0] for x in names if x[0].isupper() == m[0].isupper()} - {m[0]}):
                yield "name", *m.span(), other


def _closing(line: str, start: int) -> int | None:
    """The place behind the bracket that closes the one at `start`; None if it is not there."""
    depth = 0
    for i in range(start, len(line)):
        depth += {"(": 1, ")": -1}.get(line[i], 0)
        if depth == 0:
            return i + 1
    return None
