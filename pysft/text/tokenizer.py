"""Tokenizers: text to ids and back, and special tokens, which are single ids that have a name.

A special token is not the text of its name. encode("<|user|>") gives the ids of eight characters
(some of which the Shakespeare vocabulary lacks); special["<|user|>"] is one id. So nothing that a
user types can become a control token.

Tokenizer is the interface that everything outside of this folder uses. One token of text may stand
for several characters, and special tokens may have any ids. CharTokenizer is the default."""

from collections.abc import Iterable
from typing import Protocol

import numpy as np

from pysft.errors import DataError, UsageError

# The 65 symbols of the Shakespeare corpus, sorted: 'A' is 13, 'a' is 39.
SHAKESPEARE = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class Tokenizer(Protocol):
    """A vocabulary. It never changes: grow() returns another one.

    kind     the name of the class in tokenizers.py, by which vocabulary.json is read again
    unit     what the loss on base text is divided by: "char" if a token is a character, else "byte"
    special  {name of a special token: its id}. They may stand anywhere among the ids

    len() is the number of ids, 0 to len() - 1. Vocabularies that give the same ids are equal."""

    kind: str
    unit: str
    special: dict[str, int]

    @classmethod
    def of(cls, text: str) -> "Tokenizer":
        """The vocabulary of a corpus."""
        ...

    def __len__(self) -> int: ...

    def __eq__(self, other) -> bool: ...

    def grow(self, names: Iterable[str]) -> "Tokenizer":
        """The same vocabulary with special tokens of these names. All old ids stay. Names that it
        has already keep their ids; the others get the next ids, in their order."""
        ...

    def is_special(self, ids):
        """True for the id of a special token. ids: one, or an array, which gives an array."""
        ...

    def unknown(self, text: str) -> list[tuple[int, str]]:
        """[(position, character)] of the characters that cannot be written."""
        ...

    def can_write(self, text: str) -> bool:
        """True if encode() takes the text: if each of its characters can be written."""
        return not self.unknown(text)

    def encode(self, text: str, where: str = "text") -> np.ndarray:
        """The ids (n,) int32 of a text, none of them special. A DataError "WHERE: WHAT; REMEDY"
        names the characters that cannot be written."""
        ...

    def encode_pieces(self, texts: list[str]) -> tuple[np.ndarray, list[int]]:
        """(the ids of all texts end to end, int32, and the number of ids of each). Each text is
        encoded by itself, so no token spans two of them."""
        each = [self.encode(text) for text in texts]
        return np.concatenate([np.zeros(0, np.int32), *each]), [len(ids) for ids in each]

    def decode(self, ids) -> str:
        """The text of some ids, with special tokens as their names. A DataError names an id that is
        not in the vocabulary."""
        ...

    def count_units(self, ids) -> int:
        """The number of units (see `unit`) that some ids of text stand for."""
        ...

    def to_json(self) -> dict:
        """The vocabulary as a JSON object, without its kind."""
        ...

    @classmethod
    def from_json(cls, data: dict) -> "Tokenizer":
        """The vocabulary that to_json() gave."""
        ...


class CharTokenizer(Tokenizer):
    """A vocabulary of characters. characters: the alphabet, in the order of the ids. specials: the
    names of the special tokens, whose ids follow."""

    kind, unit = "characters", "char"

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
        self._known = frozenset(characters)
        self._units = [*characters, *self.specials]  # the text of each id
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
        new = [name for name in names if name not in self.special]
        return CharTokenizer(self.characters, [*self.specials, *new])

    def grow_characters(self, text: str) -> "CharTokenizer":
        """The same vocabulary with the unknown characters of a text, sorted, behind the others. A
        UsageError if there are special tokens already, because their ids would move."""
        if self.specials:
            raise UsageError(
                "a vocabulary with special tokens cannot take new characters: their ids would move"
            )
        return CharTokenizer(self.characters + "".join(sorted(set(text) - self._known)))

    def is_special(self, ids):
        return np.asarray(ids) >= len(self.characters)

    def unknown(self, text: str) -> list[tuple[int, str]]:
        return [(i, c) for i, c in enumerate(text) if c not in self._known]

    def can_write(self, text: str) -> bool:
        return self._known.issuperset(text)

    def encode(self, text: str, where: str = "text") -> np.ndarray:
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        ids = self._ids.take(codes, mode="clip")
        if ids.min(initial=0) < 0:
            raise DataError(f"{where}: {self._fault(text)}")
        return ids

    def encode_pieces(self, texts: list[str]) -> tuple[np.ndarray, list[int]]:
        return self.encode("".join(texts)), [len(text) for text in texts]

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
        ids, size = np.asarray(ids).tolist(), len(self)
        if ids and not 0 <= min(ids) <= max(ids) < size:
            bad = next(i for i in ids if not 0 <= i < size)
            raise DataError(f"id {bad} is not in 0..{size - 1}")
        return "".join(map(self._units.__getitem__, ids))

    def count_units(self, ids) -> int:
        return len(ids)

    def to_json(self) -> dict:
        return {"characters": self.characters, "specials": list(self.specials)}

    @classmethod
    def from_json(cls, data: dict) -> "CharTokenizer":
        return cls(data["characters"], data["specials"])
