"""Characters to ids and back, and special tokens: single ids with a name of their own.

A special token is not the characters of its name. encode("<|user|>") is eight characters (which
the Shakespeare vocabulary does not even have), special["<|user|>"] is one id: nothing a user types
can turn into a control token."""

from collections.abc import Iterable

import numpy as np

from pysft.errors import DataError, UsageError

# The 65 symbols of the Shakespeare corpus, sorted: 'A' is 13, 'a' is 39.
SHAKESPEARE = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class CharTokenizer:
    """`characters`: the alphabet, id by id; `specials`: names of single-id tokens, after it."""

    def __init__(self, characters: str, specials: Iterable[str] = ()):
        if len(set(characters)) != len(characters) or not characters:
            raise UsageError("a vocabulary needs at least one character, and each only once")
        self.characters = characters
        self.specials = tuple(specials)
        if len(set(self.specials)) != len(self.specials):
            raise UsageError(f"special tokens must differ: {', '.join(self.specials)}")
        for name in self.specials:
            if len(name) < 2:
                raise UsageError(f"special token {name!r} is a single character; give it a name")
        self.special = {name: len(characters) + i for i, name in enumerate(self.specials)}
        codes = np.array([ord(c) for c in characters], np.uint32)
        self._ids = np.full(
            int(codes.max()) + 2, -1, np.int32
        )  # by code point; the last one stands for all above
        self._ids[codes] = np.arange(len(codes))

    @classmethod
    def of(cls, text: str) -> "CharTokenizer":
        """The sorted characters of a text."""
        return cls("".join(sorted(set(text))))

    def __len__(self) -> int:
        return len(self.characters) + len(self.specials)

    def __eq__(self, other) -> bool:
        return (
            isinstance(other, CharTokenizer)
            and self.characters == other.characters
            and self.specials == other.specials
        )

    def grow(self, names: Iterable[str]) -> "CharTokenizer":
        """The same with new special tokens behind the old ones, whose ids stay."""
        return CharTokenizer(self.characters, [*self.specials, *names])

    def grow_characters(self, text: str) -> "CharTokenizer":
        """The same with the unknown characters of a text behind the others; only before there are
        special tokens, whose ids would move."""
        if self.specials:
            raise UsageError(
                "a vocabulary with special tokens cannot take new characters: their ids would move"
            )
        return CharTokenizer(self.characters + "".join(sorted(set(text) - set(self.characters))))

    def unknown(self, text: str) -> list[tuple[int, str]]:
        """(position, character) of each character that is not in the alphabet."""
        known = set(self.characters)
        return [(i, c) for i, c in enumerate(text) if c not in known]

    def encode(self, text: str, where: str = "text") -> np.ndarray:
        """ids (len(text),) int32. A character outside raises a DataError that names it."""
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        ids = self._ids.take(codes, mode="clip")
        if ids.min(initial=0) < 0:
            raise DataError(self._complaint(text, where))
        return ids

    def _complaint(self, text, where):
        first = {}
        for position, c in self.unknown(text):
            first.setdefault(c, position)
        named = ", ".join(
            f"{c!r} (U+{ord(c):04X}) at position {i}" for c, i in list(first.items())[:5]
        )
        more = f" and {len(first) - 5} more" if len(first) > 5 else ""
        return (
            f"{where}: outside the {len(self.characters)} characters of this vocabulary:"
            f" {named}{more}; write it with other characters, or train on a corpus that has them"
        )

    def decode(self, ids) -> str:
        """The text of ids; special tokens appear by their names."""
        out = []
        for i in np.asarray(ids).tolist():
            if not 0 <= i < len(self):
                raise DataError(f"id {i} is not in 0..{len(self) - 1}")
            out.append(
                self.characters[i]
                if i < len(self.characters)
                else self.specials[i - len(self.characters)]
            )
        return "".join(out)

    def to_json(self) -> dict:
        return {"characters": self.characters, "specials": list(self.specials)}

    @classmethod
    def from_json(cls, data: dict) -> "CharTokenizer":
        return cls(data["characters"], data["specials"])
