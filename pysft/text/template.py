"""A chat template: the table by which conversations are written as tokens.

Each kind of segment is a row: what opens it, what closes it, and which of opener, text and closer
the model is graded on. A row is a turn, named by its role, or a part inside an assistant turn. The
special tokens are those of the rows. So a new token or a new role is one row and nothing else. The
tables that ship are in templates.py; render.py writes by them."""

import re
from dataclasses import dataclass
from functools import cached_property

from pysft.errors import UsageError
from pysft.text.conversation import THOUGHT
from pysft.text.proof import check_template
from pysft.text.tokenizer import Tokenizer

# What is graded of a segment: (opener, text, closer).
NOTHING, REPLY, ALL = (False, False, False), (False, True, True), (True, True, True)
SPECIAL = re.compile(r"<.+>|\[.+\]")  # words of a table that are special tokens; others are text


@dataclass(frozen=True)
class Row:
    """One kind of segment.

    kind    the role of a turn, or the type of a part
    opens   special tokens and plain words before the text; closes: those after it
    graded  whether the model is graded on the opener, the text and the closer
    joins   the turn that follows stands inside this one and has no opener of its own
    """

    kind: str
    opens: tuple[str, ...]
    closes: tuple[str, ...]
    graded: tuple[bool, bool, bool]
    is_part: bool = False
    joins: bool = False

    def to_json(self) -> dict:
        return {
            "opens": self.opens,
            "closes": self.closes,
            "graded": self.graded,
            "joins": self.joins,
        }


def turn(kind: str, opens, closes, graded, joins: bool = False) -> Row:
    """The row of a role. Turns of the roles "user" and "assistant" alternate; turns of any other
    role stand before the user's first turn, each role once at most, and are never graded."""
    return Row(kind, tuple(opens), tuple(closes), graded, joins=joins)


def part(kind: str, opens, closes, graded) -> Row:
    """The row of a part inside an assistant turn: a call of the tool `kind`, the "result" of a
    call, or a "thought"."""
    return Row(kind, tuple(opens), tuple(closes), graded, is_part=True)


@dataclass(frozen=True)
class Template:
    """turns, parts: the rows of the table by their kinds. tokens, tool_tokens: the special tokens
    of the turns and of the parts, in the order of their ids; a vocabulary grows by them.

    A template that would train wrongly is refused by a UsageError when it is made (proof.py)."""

    name: str
    turns: dict[str, Row]
    parts: dict[str, Row]
    tokens: tuple[str, ...]
    tool_tokens: tuple[str, ...] = ()

    def __post_init__(self):
        check_template(self)

    @classmethod
    def of(cls, name: str, *rows: Row, pinned: tuple[str, ...] = ()) -> "Template":
        """The template of a table, whose special tokens are the words <...> and [...] in its rows.

        The order of their ids: `pinned` tokens; those that open turns, row by row; those that close
        turns; then those of each part. A token has the first place that it gets."""
        turns = [row for row in rows if not row.is_part]
        parts = [row for row in rows if row.is_part]
        of_turns = [word for row in turns for word in row.opens]
        of_turns += [word for row in turns for word in row.closes]
        of_parts = [word for row in parts for word in row.opens + row.closes]
        for kind in (row.kind for row in rows):
            if sum(row.kind == kind for row in rows) > 1:
                raise UsageError(f"template {name!r}: two of its rows are called {kind!r}")
        return cls(
            name,
            {row.kind: row for row in turns},
            {row.kind: row for row in parts},
            _special([*pinned, *of_turns]),
            _special(of_parts),
        )

    def tokens_for(self, kinds: set[str]) -> tuple[str, ...]:
        """Return the special tokens of parts that a vocabulary needs for parts of these kinds: all
        of them up to the last that is needed, so that a token has the same id in every run. A
        UsageError if the template has no such part."""
        if lacking := sorted(kinds - self.parts.keys()):
            what = "thoughts" if lacking[0] == THOUGHT else "calls of that tool"
            raise UsageError(
                f"template {self.name!r} has no part {lacking[0]!r}, so it cannot write {what};"
                " take a template that has one, or begin from a base"
            )
        words = {w for kind in kinds for w in self.parts[kind].opens + self.parts[kind].closes}
        needed = [i for i, token in enumerate(self.tool_tokens) if token in words]
        return self.tool_tokens[: needed[-1] + 1] if needed else ()

    @cached_property
    def marks(self) -> frozenset[str]:
        """Every special token of the template."""
        return frozenset(self.tokens + self.tool_tokens)

    @property
    def end(self) -> str:
        """The token at which the model's turn, and so generation, stops."""
        return self.turns["assistant"].closes[0]

    @cached_property
    def forgeable(self) -> tuple[str, ...]:
        """The openers and closers of turns that have no special token in them. Anybody who types
        one would forge a turn, so no content may hold them."""
        return tuple(
            "".join(words)
            for row in self.turns.values()
            for words in (row.opens, row.closes)
            if words and not self.marks & set(words)
        )

    @cached_property
    def characters(self) -> str:
        """The characters that its plain words are written with, sorted."""
        rows = [*self.turns.values(), *self.parts.values()]
        words = [w for row in rows for w in row.opens + row.closes if w not in self.marks]
        return "".join(sorted(set("".join(words))))

    def require(self, tokenizer: Tokenizer) -> None:
        """Raise a UsageError unless the tokenizer can write its plain words."""
        lacking = [c for c in self.characters if not tokenizer.can_write(c)]
        if lacking:
            raise UsageError(
                f"template {self.name!r} writes its words with {', '.join(map(repr, lacking))},"
                " which the corpus lacks; choose another template, or --unknown grow"
            )

    def to_json(self) -> dict:
        return {
            "name": self.name,
            "turns": {kind: row.to_json() for kind, row in self.turns.items()},
            "parts": {kind: row.to_json() for kind, row in self.parts.items()},
            "tokens": self.tokens,
            "tool_tokens": self.tool_tokens,
        }

    @classmethod
    def from_json(cls, data: dict) -> "Template":
        """The template of a JSON object as to_json gives it. A UsageError says what is wrong with
        another."""
        if not isinstance(data, dict):
            raise UsageError(f"a JSON {type(data).__name__}, expected an object")
        name, tokens = _field(data, "name", str), _field(data, "tokens", list)
        tool_tokens = _field(data, "tool_tokens", list, [])
        turns, parts = _rows(data, "turns"), _rows(data, "parts")
        words = (name, *turns, *tokens, *tool_tokens)
        if not all(isinstance(word, str) and word.isprintable() for word in words):
            raise UsageError("its name, roles and tokens must be printable text")
        return cls(name, turns, parts, tokens, tool_tokens)


def _special(words) -> tuple[str, ...]:
    """The special tokens among some words, each once."""
    return tuple(dict.fromkeys(word for word in words if SPECIAL.fullmatch(word)))


def _field(table: dict, key: str, kind: type, default=None):
    """A field of a JSON object, a list as a tuple. A UsageError if it is of another type."""
    value = table.get(key, default)
    if not isinstance(value, kind):
        expected = {list: "a list", str: "text", dict: "an object"}[kind]
        raise UsageError(f"{key!r} is {value!r}, expected {expected}")
    return tuple(value) if kind is list else value


def _rows(data: dict, key: str) -> dict[str, Row]:
    """The rows of "turns" or "parts" in the JSON object of a template."""
    found = {}
    for kind, row in _field(data, key, dict).items():
        if not isinstance(row, dict) or not isinstance(row.get("joins", False), bool):
            raise UsageError(
                f"{kind!r} in {key!r} must be an object with opens, closes, graded, and perhaps"
                " joins"
            )
        found[kind] = Row(
            kind,
            _field(row, "opens", list),
            _field(row, "closes", list),
            _field(row, "graded", list),
            key == "parts",
            row.get("joins", False),
        )
    return found
