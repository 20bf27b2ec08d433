"""Characters to ids and back, and special tokens: single ids that have a name.

A special token is not the characters of its name. encode("<|user|>") gives the ids of eight
characters (some of which the Shakespeare vocabulary lacks); special["<|user|>"] is one id. So
nothing that a user types can become a control token."""

from collections.abc import Iterable

import numpy as np

from pysft.errors import DataError, UsageError

# The 65 symbols of the Shakespeare corpus, sorted: 'A' is 13, 'a' is 39.
SHAKESPEARE = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class CharTokenizer:
    """A vocabulary. characters: the alphabet, in the order of the ids. specials: the names of the
    special tokens, whose ids follow."""

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
        # The id of each code point, -1 for unknown ones. The last entry is for all higher ones.
        self._ids = np.full(int(codes.max()) + 2, -1, np.int32)
        self._ids[codes] = np.arange(len(codes))

    @classmethod
    def of(cls, text: str) -> "CharTokenizer":
        """The vocabulary of a text's characters, sorted."""
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
        """The same vocabulary with new special tokens behind the old ones, whose ids stay."""
        return CharTokenizer(self.characters, [*self.specials, *names])

    def grow_characters(self, text: str) -> "CharTokenizer":
        """The same vocabulary with the unknown characters of a text, sorted, behind the others. A
        UsageError if there are special tokens already, because their ids would move."""
        if self.specials:
            raise UsageError(
                "a vocabulary with special tokens cannot take new characters: their ids would move"
            )
        return CharTokenizer(self.characters + "".join(sorted(set(text) - set(self.characters))))

    def unknown(self, text: str) -> list[tuple[int, str]]:
        """[(position, character)] of the characters that are not in the alphabet."""
        known = set(self.characters)
        return [(i, c) for i, c in enumerate(text) if c not in known]

    def encode(self, text: str, where: str = "text") -> np.ndarray:
        """The ids (len(text),) int32. A DataError that begins with `where` names the characters
        that are not in the alphabet."""
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        ids = self._ids.take(codes, mode="clip")
        if ids.min(initial=0) < 0:
            raise DataError(f"{where}: {self._fault(text)}")
        return ids

    def _fault(self, text: str) -> str:
        """What is wrong with a text that cannot be encoded, and what to do."""
        first = {}  # character -> its first position
        for position, c in self.unknown(text):
            first.setdefault(c, position)
        shown = list(first.items())[:5]
        named = ", ".join(f"{c!r} (U+{ord(c):04X}) at position {i}" for c, i in shown)
        more = f" and {len(first) - 5} more" if len(first) > 5 else ""
        return (
            f"outside the {len(self.characters)} characters of this vocabulary: {named}{more};"
            " write it with other characters, or train on a corpus that has them"
        )

    def decode(self, ids) -> str:
        """The text of some ids, with special tokens as their names. A DataError names an id that is
        not in the vocabulary."""
        out, alphabet = [], len(self.characters)
        for i in np.asarray(ids).tolist():
            if not 0 <= i < len(self):
                raise DataError(f"id {i} is not in 0..{len(self) - 1}")
            out.append(self.characters[i] if i < alphabet else self.specials[i - alphabet])
        return "".join(out)

    def to_json(self) -> dict:
        return {"characters": self.characters, "specials": list(self.specials)}

    @classmethod
    def from_json(cls, data: dict) -> "CharTokenizer":
        return cls(data["characters"], data["specials"])
