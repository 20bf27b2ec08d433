"""Tools that a reply may call: a full-text search, and arithmetic. Each takes the text of the call
and gives the text of the result; neither can run what it is given.

A new tool is one function and a row of tools(), named as in its row of _TOOLS in text/template.py,
which gives its calls their tokens; and conversations that call it, for a model to learn it from:

    def backwards(call: str) -> str:
        return call[::-1]

    Tool("backwards", backwards)"""

import ast
import json
import math
import operator
import os
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from pathlib import Path

from pysft.errors import DataError, MissingInput, PysftError, RowError
from pysft.text.formats import replaced
from pysft.text.transcripts import NOTHING

DOCS = (
    '--docs takes a folder of .txt and .md files, one such file, or a .jsonl of {"title": ...,'
    ' "text": ...}'
)
# Words that only ask: they would find a document about anything, so they are ignored unless a query
# has no other words.
ASKING = frozenset(
    "a about an and are at by can could did do does for from had has have he her him his how i in"
    " is it its know me my of on or our please she tell that the their them there they this to us"
    " was we were what when where which who whom whose why will with would you your".split()
)
QUERY = 1000  # characters of a query that are read


class CalcError(PysftError):
    """An expression that calculate() refuses, and why, in a sentence."""


@dataclass(frozen=True, slots=True)
class Tool:
    """name: the part of the template that its calls are. run: call -> result; whatever it raises,
    use() puts in words."""

    name: str
    run: Callable[[str], str]


def tools(search: "Search | None" = None) -> dict[str, Tool]:
    """The tools by name; without an index there is no search."""
    rows = [Tool("code", calculate)] + ([Tool("search", search.answer)] if search else [])
    return {tool.name: tool for tool in rows}


def use(tool: Tool, call: str, room: int, known: frozenset[str]) -> str:
    """The text to inject for a call: one line of at most `room` characters, all of them `known`; an
    error is a result too ("error: ..."). No word is cut, since half a number or name would be
    another one, so "" may come. Nothing of it becomes a control token: the name of one is only its
    characters."""
    try:
        text = tool.run(call)
        if not isinstance(text, str):
            raise DataError(f"{tool.name} gave no text")
    except PysftError as error:
        text = f"error: {error}"
    except Exception as error:  # a fault of the tool's, whichever it is, must not end the chat
        text = f"error: {tool.name} failed ({type(error).__name__})"
    room = max(room, 0)
    text = replaced(
        " ".join(text.split(None, room)[:room]), known
    )  # as many words as may fit: the rest costs nothing
    text = " ".join("".join(c for c in text if c in known).split())
    return text if len(text) <= room else text[: room + 1].rpartition(" ")[0]


# ------------------------------------------------------------------------------------------ search


@dataclass(frozen=True, slots=True)
class Document:
    title: str
    text: str


class Search:
    """A full-text index of documents in memory (SQLite's FTS5), ranked by BM25 (Robertson and
    Zaragoza 2009)."""

    def __init__(self, documents: list[Document]):
        self.documents = documents
        try:
            import sqlite3  # here, since a Python can be built without it

            self._index = sqlite3.connect(":memory:", check_same_thread=False)
            self._index.execute(
                "CREATE VIRTUAL TABLE docs USING fts5(title, text, content='')"
            )  # we keep the texts
        except Exception as error:  # ImportError, or an sqlite3.Error: no such module
            raise PysftError(
                f"search needs an SQLite with FTS5, which this Python has not ({error}); use"
                " another Python, or chat without --docs"
            ) from None
        self._index.executemany(
            "INSERT INTO docs(rowid, title, text) VALUES (?, ?, ?)",
            ((i, d.title, d.text) for i, d in enumerate(documents)),
        )

    @classmethod
    def of(cls, paths: list[str]) -> "Search":
        """The index of folders and files, as DOCS says. A MissingInput, DataError or RowError names
        what cannot be used."""
        documents = [document for path in paths for document in _read(path)]
        if not documents:
            raise DataError(f"{', '.join(paths) or 'no path'}: no text to search in; {DOCS}")
        return cls(documents)

    def find(self, query: str, most: int = 1) -> list[Document]:
        """The `most` best documents that hold a word of the query, best first, equals in their
        order; a word in a title weighs more. Words are runs of letters and digits, so nothing of
        SQLite's query language can be in one."""
        words = list(
            dict.fromkeys(re.findall(r"[^\W_]+", unicodedata.normalize("NFC", query[:QUERY])))
        )
        words = [word for word in words if word.lower() not in ASKING] or words
        if not words:
            return []
        rows = self._index.execute(
            "SELECT rowid FROM docs WHERE docs MATCH ? ORDER BY bm25(docs, 4.0, 1.0), rowid"
            " LIMIT ?",
            (" OR ".join(f'"{word}"' for word in words), min(max(most, 0), len(self.documents))),
        )
        return [self.documents[i] for (i,) in rows]

    def answer(self, query: str) -> str:
        """The best document's text, or NOTHING."""
        return next((document.text for document in self.find(query)), NOTHING)


def _read(path: str) -> list[Document]:
    """The documents of a folder (its files in order of their paths) or a file."""
    kind = Path(path).suffix.lower()
    if os.path.isdir(path):
        files = sorted(
            p for p in Path(path).rglob("*") if p.suffix.lower() in (".txt", ".md") and p.is_file()
        )
        return [document for file in files for document in _read(str(file))]
    if not os.path.exists(path):
        raise MissingInput(f"{path}: no such file or folder; {DOCS}")
    if kind not in (".jsonl", ".txt", ".md"):
        raise DataError(f"{path}: no kind of file that search reads; {DOCS}")
    try:
        text = Path(path).read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read as UTF-8 text ({error}); save it as UTF-8"
        ) from None
    if kind == ".jsonl":
        return [
            _document(line, f"{path}, line {n}")
            for n, line in enumerate(text.split("\n"), 1)
            if line.strip()
        ]
    if kind == ".md":  # a heading says what the paragraph below it is about, and nothing alone
        text = re.sub(r"^#+[ \t]+(\S.*)\n\s*(?=\S)", r"\1: ", text, flags=re.M)
    return [
        Document(Path(path).stem, " ".join(part.split()))
        for part in re.split(r"\n\s*\n", text)
        if part.strip()
    ]


def _document(line: str, where: str) -> Document:
    """The document of a row, which may have other keys too."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RowError(
            where,
            f"not JSON ({str(error).split(': line')[0]})",
            "write one object a line, or remove the line",
            "format",
        ) from None
    if not isinstance(row, dict) or not all(
        isinstance(row.get(key, ""), str) for key in ("title", "text")
    ):
        raise RowError(
            where,
            "no document",
            'write {"title": text, "text": text}; the title may be left out',
            "format",
        )
    title, text = row.get("title", ""), row.get("text", "")
    if not text.strip():
        raise RowError(where, 'no "text" in it', "write some, or remove the line", "empty")
    if re.search("[\ud800-\udfff]", title + text):
        raise RowError(
            where,
            "half of a character (a lone surrogate)",
            "write the whole character",
            "characters",
        )
    return Document(title, text)


# -------------------------------------------------------------------------------------- arithmetic

LONGEST, NODES = (
    200,
    60,
)  # characters of an expression; numbers, operations and names in it, so also its depth
LARGEST, FINE = (
    10**30,
    10**40,
)  # the largest value, and its inverse is the smallest; closer than 1/FINE is equal
DECIMALS = 10**60  # the largest denominator: beyond it a value is rounded
PI = Fraction("3.141592653589793238462643383279502884197169399375105820974944")
LARGE, SMALL = "too large: a value passes 10**30", "too small: a value is nearer to 0 than 10**-30"
LIKE = "write something like 3 * (4 + 5)"
_NUMBER = re.compile(r"(?<![\w.])(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d\d?)?(?![\w.])", re.ASCII)
_SHORT, _POWER = Context(prec=12), Context(prec=50, Emax=99, Emin=-99, traps=[])


def calculate(expression: str) -> str:
    """The value of an expression of numbers, + - * / // % **, parentheses, pi, and abs, min, max,
    round, floor, ceil, sqrt: in 12 digits, or whole if it is an integer. Values are fractions,
    exact but for roots, pi and denominators beyond DECIMALS. Everything else is a CalcError. A
    numerator has at most 90 digits and a denominator 60, so each step is short."""
    if len(expression) > LONGEST:
        raise CalcError(f"too long: {len(expression):,} characters, at most {LONGEST} are read")
    text = " ".join(expression.split())
    if not text:
        raise CalcError(f"nothing to calculate: {LIKE}")
    if odd := re.search(r"[^\w.,+*/%() -]", text, re.ASCII):
        raise CalcError(
            f"not arithmetic: {ascii(odd[0])} has no meaning in it"
            + "; a power is **" * (odd[0] == "^")
        )
    if re.search(
        r"\d", _NUMBER.sub("", text)
    ):  # 0x10, 3j, 1_000, and 1if, at which Python would warn
        raise CalcError("not a number: write it like 12, 0.5 or 2e3, apart from other words")
    try:
        tree = ast.parse(text, mode="eval").body
        if sum(isinstance(node, ast.expr) for node in ast.walk(tree)) > NODES:
            raise CalcError(f"too long: more than {NODES} numbers and operations")
        return _written(_value(tree, text))
    except ZeroDivisionError:
        raise CalcError("division by zero") from None
    except (SyntaxError, ValueError, MemoryError, RecursionError, OverflowError):
        raise CalcError(f"not arithmetic: {LIKE}") from None


def _value(node: ast.expr, text: str) -> Fraction:
    match node:
        case ast.Constant() if type(node.value) in (int, float):
            found = Fraction(
                text[node.col_offset : node.end_col_offset]
            )  # as written: a float would have rounded it
        case ast.Name(id="pi"):
            found = PI
        case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
            found = _value(node.operand, text) * (-1 if isinstance(node.op, ast.USub) else 1)
        case ast.BinOp() if type(node.op) in _OPERATORS:
            found = Fraction(
                _OPERATORS[type(node.op)](_value(node.left, text), _value(node.right, text))
            )
            if isinstance(node.op, (ast.Add, ast.Sub)) and abs(found) * FINE < 1:
                found = Fraction(0)  # what roots that are rounded leave: sqrt(8) - 2 * sqrt(2)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            least, most, function = _FUNCTIONS[name]
            if not least <= len(arguments) <= most:
                takes = f"{least}" if least == most else f"{least} to {most}"
                raise CalcError(
                    f"not so many numbers: {name} takes {takes}, here are {len(arguments)}"
                )
            found = Fraction(function(*[_value(argument, text) for argument in arguments]))
        case _:
            raise CalcError(
                f"not arithmetic: it has numbers, + - * / // % **, pi and {', '.join(_FUNCTIONS)}"
            )
    if not found:
        return found
    if abs(found) > LARGEST or abs(found) * LARGEST < 1:
        raise CalcError(LARGE if abs(found) > 1 else SMALL)
    if found.denominator > FINE and abs(found - round(found)) * FINE < 1:
        return Fraction(round(found))  # floor(sqrt(2) ** 2) is 2
    return found if found.denominator <= DECIMALS else Fraction(round(found * DECIMALS), DECIMALS)


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if not base:
        return 1 / base if exponent < 0 else Fraction(exponent == 0)
    if base < 0 and exponent.denominator != 1:
        raise CalcError("a negative number has whole powers only")
    digits = [math.log10(abs(base.numerator)), math.log10(base.denominator)]
    size = float(exponent) * (
        digits[0] - digits[1]
    )  # the result's logarithm, known before there is a result
    if abs(size) > 31:
        raise CalcError(LARGE if size > 0 else SMALL)
    if exponent.denominator == 1 and abs(exponent) * max(digits) < 300:
        return base**exponent.numerator
    found = _POWER.power(_decimal(base, _POWER), _decimal(exponent, _POWER))
    if not found.is_finite() or not found:
        raise CalcError(LARGE if found else SMALL)
    return Fraction(found)


def _root(value: Fraction) -> Fraction:
    if value < 0:
        raise CalcError("a negative number has no square root")
    return Fraction(math.isqrt(value.numerator * DECIMALS**2 // value.denominator), DECIMALS)


def _round(value: Fraction, places: Fraction = Fraction(0)) -> Fraction:
    if places.denominator != 1 or abs(places) > 30:
        raise CalcError("round takes a whole number of places, at most 30")
    return round(value, int(places))


def _decimal(value: Fraction, context: Context) -> Decimal:
    return context.divide(Decimal(value.numerator), Decimal(value.denominator))


def _written(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    short = _SHORT.normalize(_decimal(value, _SHORT))
    return format(short, "f" if -7 < short.adjusted() < 12 else "e")


_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}
# The fewest and most numbers that a function takes, and the function.
_FUNCTIONS = {
    "abs": (1, 1, abs),
    "min": (2, NODES, min),
    "max": (2, NODES, max),
    "round": (1, 2, _round),
    "floor": (1, 1, math.floor),
    "ceil": (1, 1, math.ceil),
    "sqrt": (1, 1, _root),
}
