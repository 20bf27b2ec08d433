"""A second tokenizer, unlike that of characters in everything that the interface leaves open.

Frequent pairs of characters are one token. Ids are in an order of their own. Special tokens stand
first, between the characters, and behind all text, in the vocabulary of a base already. The loss on
base text is per byte."""

from collections import Counter

import numpy as np

from pysft.errors import DataError
from pysft.text.tokenizer import Tokenizer

PAIRS = 60  # tokens that are pairs, the most frequent of the corpus


class PairTokenizer(Tokenizer):
    """symbols: the text or the name of each id. names: which of them are special tokens."""

    kind, unit = "pairs", "byte"

    def __init__(self, symbols, names):
        self.symbols, names = list(symbols), set(names)
        self.special = {s: i for i, s in enumerate(self.symbols) if s in names}
        self.ids = {s: i for i, s in enumerate(self.symbols) if s not in names}

    @classmethod
    def of(cls, text):
        single = sorted(set(text), reverse=True)
        counts = Counter(a + b for a, b in zip(text, text[1:]))
        pairs = sorted(counts, key=lambda pair: (-counts[pair], pair))[:PAIRS]
        names = ["<|eot|>", "<|unused|>", "<|bos|>"]
        return cls([names[0], *single[:5], names[1], *pairs, *single[5:], names[2]], names)

    def __len__(self):
        return len(self.symbols)

    def __eq__(self, other):
        same = isinstance(other, PairTokenizer) and self.symbols == other.symbols
        return same and self.special == other.special

    def grow(self, names):
        new = [name for name in dict.fromkeys(names) if name not in self.special]
        return PairTokenizer([*self.symbols, *new], [*self.special, *new])

    def is_special(self, ids):
        return np.isin(ids, list(self.special.values()))

    def unknown(self, text):
        return [(i, c) for i, c in enumerate(text) if c not in self.ids]

    def encode(self, text, where="text"):
        """A pair where there is one, from left to right; else a character."""
        found, at = [], 0
        while at < len(text):
            piece = text[at : at + 2] if text[at : at + 2] in self.ids else text[at]
            if piece not in self.ids:
                raise DataError(f"{where}: no token for {piece!r}; write it differently")
            found.append(self.ids[piece])
            at += len(piece)
        return np.array(found, np.int32)

    def decode(self, ids):
        ids = np.asarray(ids).tolist()
        for i in ids:
            if not 0 <= i < len(self):
                raise DataError(f"id {i} is not in 0..{len(self) - 1}")
        return "".join(self.symbols[i] for i in ids)

    def count_units(self, ids):
        return len(self.decode(ids).encode())

    def to_json(self):
        return {"symbols": self.symbols, "names": list(self.special)}

    @classmethod
    def from_json(cls, data):
        return cls(data["symbols"], data["names"])
