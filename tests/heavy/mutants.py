"""Mutants of Python: small changes of a source, found in its syntax tree.

Left alone are texts for people (docstrings, comments, f-strings, what is printed or raised),
annotations, how a value shows itself (__repr__, __str__), and code for type checkers."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS = {
    "<": ("<=", ">"),
    "<=": ("<", ">="),
    ">": (">=", "<"),
    ">=": (">", "<="),
    "==": ("!=",),
    "!=": ("==",),
    "in": ("not in",),
    "not in": ("in",),
    "is": ("is not",),
    "is not": ("is",),
}
OPERATORS = {
    "+": ("-",),
    "-": ("+",),
    "*": ("/",),
    "/": ("*",),
    "//": ("*",),
    "%": ("*",),
    "**": ("*",),
    "<<": (">>",),
    ">>": ("<<",),
    "&": ("|",),
    "|": ("&",),
    "^": ("&",),
    "@": ("*",),
    "and": ("or",),
    "or": ("and",),
}
SYMBOL = re.compile(
    r"not\s+in\b|is\s+not\b|\b(?:in|is|and|or)\b|[<>=!]=|<<|>>|//|\*\*|[<>+\-*/%&|^@]"
)
KEY = re.compile(r"[A-Za-z_][\w.-]*")
LOOKS_UP = ("get", "pop", "setdefault", "startswith", "endswith", "removeprefix", "removesuffix")
# What stands for a statement that was deleted.
NOTHING = "pass"
FOR_PEOPLE = ("__repr__", "__str__", "__main__", "TYPE_CHECKING")


@dataclass(frozen=True)
class Mutant:
    """Replace text[start:end] of `file` by `new`.

    line: of the change, from 1. kind: which kind of change. span: the lines of the statement that
    it stands in; for one with a body those of its head."""

    file: str
    line: int
    kind: str
    start: int
    end: int
    new: str
    span: tuple[int, int]

    def planted(self, text: str) -> str:
        """The source with the change."""
        return text[: self.start] + self.new + text[self.end :]

    def shown(self, text: str) -> str:
        """The place and the change, for people: file:line: before  ->  after."""
        first = text.rfind("\n", 0, self.start) + 1
        last = text.find("\n", max(self.start, self.end - 1))
        last = len(text) if last < 0 else last
        before, changed = (
            text[first:last],
            text[first : self.start] + self.new + text[self.end : last],
        )
        before, changed = (" ".join(x.split()) for x in (before, changed))
        return f"{self.file}:{self.line}: {before}  ->  {changed}"


def python_mutants(file: str, text: str) -> list[Mutant]:
    """All mutants of a source."""
    return sorted(set(_Finder(file, text).found()), key=lambda m: (m.start, m.end, m.kind, m.new))


class _Finder:
    """Finds the mutants of one source."""

    def __init__(self, file: str, text: str):
        self.file, self.text = file, text
        # Columns of the tree are in bytes of UTF-8.
        self.starts, place = [0], 0
        for line in text.splitlines(keepends=True):
            place += len(line)
            self.starts.append(place)
        self.lines = text.splitlines()

    def found(self) -> Iterator[Mutant]:
        """The mutants, from the top of the tree."""
        yield from self._body(ast.parse(self.text).body)

    # ------------------------------------------------------------------------------- places

    def _place(self, line: int, column: int) -> int:
        return self.starts[line - 1] + len(self.lines[line - 1].encode()[:column].decode())

    def _range(self, node) -> tuple[int, int]:
        return self._place(node.lineno, node.col_offset), self._place(
            node.end_lineno, node.end_col_offset
        )

    def _mutant(self, kind: str, start: int, end: int, new: str) -> Mutant:
        line = self.text.count("\n", 0, start) + 1
        return Mutant(self.file, line, kind, start, end, new, self.span)

    # --------------------------------------------------------------------------- statements

    def _body(self, statements) -> Iterator[Mutant]:
        for s in statements:
            is_text = isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant)
            if is_text or isinstance(s, (ast.Import, ast.ImportFrom, ast.Global, ast.Pass)):
                continue
            if isinstance(s, ast.If) and any(word in ast.dump(s.test) for word in FOR_PEOPLE):
                continue
            if isinstance(s, ast.FunctionDef) and s.name in FOR_PEOPLE:
                continue
            yield from self._statement(s)

    def _statement(self, s) -> Iterator[Mutant]:
        bodies = [getattr(s, name, []) for name in ("body", "orelse", "finalbody", "handlers")]
        bodies.append(getattr(s, "cases", []))
        first = [b[0] for b in bodies if b]
        head_end = min((_first_line(b) for b in first), default=s.end_lineno + 1) - 1
        self.span = s.lineno, max(s.lineno, head_end)
        yield from self._deleted(s)
        if isinstance(s, (ast.If, ast.While, ast.Assert)):
            yield from self._negated(s.test)
        inside = [x for name, x in _fields(s) if name not in _BODIES and name not in _ANNOTATIONS]
        head = [x for x in inside if isinstance(x, ast.AST)]
        yield from self._swapped([x for x in head if not isinstance(x, ast.arguments)])
        if isinstance(s, ast.AugAssign):
            yield from self._operator(self._range(s.target)[1], self._range(s.value)[0])
        in_message = isinstance(s, ast.Raise)
        for x in head:
            yield from self._expression(x, in_message)
        for body in bodies:
            for part in body if body and not isinstance(body[0], ast.stmt) else ():
                yield from (
                    self._statement(part)
                    if isinstance(part, ast.excepthandler)
                    else (self._body(part.body))
                )
            if body and isinstance(body[0], ast.stmt):
                yield from self._body(body)

    def _deleted(self, s) -> Iterator[Mutant]:
        changes = isinstance(s, ast.Assign) and not any(
            isinstance(name, ast.Name)
            for t in s.targets
            for name in ast.walk(t)
            if _is_stored(name)
        )
        kinds = (ast.Expr, ast.AugAssign, ast.Raise, ast.Continue, ast.Break, ast.Delete)
        is_yield = isinstance(s, ast.Expr) and isinstance(s.value, (ast.Yield, ast.YieldFrom))
        if (changes or isinstance(s, kinds)) and not is_yield:
            yield self._mutant("deleted statement", *self._range(s), NOTHING)

    # -------------------------------------------------------------------------- expressions

    def _expression(self, e, in_message: bool) -> Iterator[Mutant]:
        if isinstance(e, ast.JoinedStr):
            return  # its columns are wrong before Python 3.12
        if isinstance(e, ast.Compare):
            for left, right in zip([e.left, *e.comparators], e.comparators):
                yield from self._operator(self._range(left)[1], self._range(right)[0])
        elif isinstance(e, ast.BoolOp):
            for left, right in zip(e.values, e.values[1:]):
                yield from self._operator(self._range(left)[1], self._range(right)[0])
        elif isinstance(e, ast.BinOp):
            yield from self._operator(self._range(e.left)[1], self._range(e.right)[0])
        elif isinstance(e, ast.UnaryOp) and isinstance(e.op, ast.USub):
            start, _ = self._range(e)
            yield self._mutant("sign", start, start + 1, "+")
        elif isinstance(e, ast.IfExp):
            yield from self._negated(e.test)
        elif isinstance(e, ast.comprehension):
            for test in e.ifs:
                yield from self._negated(test)
        elif isinstance(e, ast.Constant) and type(e.value) in (int, float) and not in_message:
            yield from self._number(e)
        if not in_message:
            yield from self._keys(e)
        in_message = in_message or _is_print(e)
        for name, x in _fields(e):
            if name not in _ANNOTATIONS:
                yield from self._expression(x, in_message)

    def _operator(self, start: int, end: int) -> Iterator[Mutant]:
        """The changes of the operator between two operands."""
        between = re.sub(r"#.*", lambda comment: " " * len(comment[0]), self.text[start:end])
        found = SYMBOL.search(between)
        old = " ".join(found[0].split())
        place = start + found.start(), start + found.end()
        for new in COMPARISONS.get(old, ()):
            yield self._mutant("comparison", *place, new)
        for new in OPERATORS.get(old, ()):
            yield self._mutant("operator", *place, new)

    def _number(self, e) -> Iterator[Mutant]:
        for step in (1, -1):
            yield self._mutant("constant", *self._range(e), f"{e.value + step!r}")

    def _negated(self, test) -> Iterator[Mutant]:
        start, end = self._range(test)
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            yield self._mutant("negated condition", start, start + len("not"), "")
        elif not any(isinstance(x, ast.NamedExpr) for x in ast.walk(test)):
            yield self._mutant("negated condition", start, end, f"(not ({self.text[start:end]}))")

    def _keys(self, e) -> Iterator[Mutant]:
        """Changed strings that name something: keys, and what is compared or looked up."""
        found = []
        if isinstance(e, ast.Subscript):
            found = [e.slice]
        elif isinstance(e, ast.Dict):
            found = [k for k in e.keys if k is not None]
        elif isinstance(e, ast.Compare):
            sides = [e.left, *e.comparators]
            found = [x for s in sides for x in getattr(s, "elts", [s])]
        elif isinstance(e, ast.Call) and getattr(e.func, "attr", "") in LOOKS_UP:
            found = e.args[:1]
        for x in found:
            if isinstance(x, ast.Constant) and isinstance(x.value, str) and KEY.fullmatch(x.value):
                _, end = self._range(x)
                yield self._mutant("key", end - 1, end - 1, "_")

    def _swapped(self, parts) -> Iterator[Mutant]:
        """A name in the place of another one of the same statement; called names and those of
        modules and classes stay."""
        names, called = [], set()
        for part in parts:
            for x in _walk(part):
                if isinstance(x, ast.Call):
                    called.add(id(x.func))
                elif isinstance(x, ast.Attribute) and x.attr not in ("shape", "size", "dtype"):
                    called.add(id(x.value))
                elif isinstance(x, ast.Name) and isinstance(x.ctx, ast.Load):
                    names.append(x)
        names = [x for x in names if id(x) not in called and x.id.islower() or len(x.id) == 1]
        for x in names:
            for other in sorted({y.id for y in names} - {x.id}):
                yield self._mutant("name", *self._range(x), other)


_BODIES = ("body", "orelse", "finalbody", "handlers", "cases")
_ANNOTATIONS = ("annotation", "returns", "type_comment", "type_params", "kwd_attrs")


def _fields(node) -> Iterator[tuple[str, ast.AST]]:
    """(field, child) for the children of a node."""
    for name, value in ast.iter_fields(node):
        for x in value if isinstance(value, list) else [value]:
            if isinstance(x, ast.AST):
                yield name, x


def _walk(node) -> Iterator[ast.AST]:
    """ast.walk without f-strings, lambdas and comprehensions, whose names are their own."""
    scopes = (ast.JoinedStr, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    if not isinstance(node, scopes):
        yield node
        for name, child in _fields(node):
            if name not in _ANNOTATIONS:
                yield from _walk(child)


def _first_line(node) -> int:
    """The first line of a statement with its decorators, or of a case."""
    if isinstance(node, ast.match_case):
        return node.pattern.lineno
    return min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])


def _is_stored(node) -> bool:
    return isinstance(getattr(node, "ctx", None), ast.Store)


def _is_print(node) -> bool:
    """True for a call whose strings are messages: print, and the making of an error, help."""
    if isinstance(node, ast.keyword):
        return node.arg in ("help", "description", "epilog", "metavar", "title")
    name = ""
    if isinstance(node, ast.Call):
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
    return name in ("print", "warn", "say") or name.endswith(("Error", "Exception"))
