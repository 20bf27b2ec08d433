"""Longest stretches that texts have in common with a corpus."""

import numpy as np

GRAM = 16  # characters; shorter overlaps are not found


def grams(codes: np.ndarray, size: int) -> np.ndarray:
    """A 64-bit hash of each stretch of `size` characters: (len(codes) - size + 1,) uint64."""
    n = len(codes) - size + 1
    out, codes = np.zeros(max(0, n), np.uint64), codes.astype(np.uint64) + np.uint64(1)
    for i in range(size if n > 0 else 0):
        out = out * np.uint64(0x9E3779B97F4A7C15) + codes[i : i + n]
    out ^= out >> np.uint64(29)
    return out * np.uint64(0xBF58476D1CE4E5B9)


class Overlap:
    """Finds the longest common substring of a text with a corpus, from GRAM characters on."""

    def __init__(self, corpus: str):
        self.text = corpus
        self._codes = _code_points(corpus)
        hashes = grams(self._codes, GRAM)
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def longest(self, text: str) -> tuple[int, int]:
        """(characters, place in the corpus) of the longest stretch of `text` that stands in it;
        (0, 0) if no stretch has GRAM characters."""
        best, best_place = 0, 0
        codes = _code_points(text)
        hashes = grams(codes, GRAM)
        lows, highs = (np.searchsorted(self._hashes, hashes, side) for side in ("left", "right"))
        for i in np.flatnonzero(lows < highs).tolist():
            places = self._order[lows[i] : highs[i]]
            if i:  # a place where the character before matches too was counted with that one
                is_new = (places == 0) | (self._codes[places - 1] != codes[i - 1])
                places = places[is_new]
            for place in places.tolist():
                length = self._match(text, i, place)
                if length >= GRAM and length > best:
                    best, best_place = length, place
        return best, best_place

    def _match(self, text: str, i: int, place: int) -> int:
        """The number of equal characters in text from i and in the corpus from `place`."""
        length, most = 0, min(len(text) - i, len(self.text) - place)
        while length < most and text[i + length] == self.text[place + length]:
            length += 1
        return length


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
