"""Rows that nearly repeat an earlier row.

A row is a near copy of another if three things hold:

1. the prompts are near: they share `near` or more of their shingles (near_duplicates.jaccard);
2. the replies are near in the same way;
3. the prompts ask about the same. They do not if a word of one stands in the place of a word of the
   other, and one of the two is a content word, a number or a sign; nor if such a word comes more
   often in one of them.

The first two keep a new answer to an old question, and an old answer to a new question. The third
keeps the rows of a closed world. "What pet has Ada Brook?" and "What pet has Ada Reed?" differ in
one word, as do their answers; with a longer wording they are near, and still they ask for different
facts. "Could you tell me a tale of the sea?" and "Would you tell me a tale of the sea, please?" ask
for the same. Case, white space and the stops around words do not count."""

from collections import Counter
from collections.abc import Iterable
from math import ceil

from pysft.measure.words import COMMON, subjects, words
from pysft.text.near_duplicates import SHINGLE, jaccard

STOPS = ".,;:!?\"'()"  # around a word
# Words of COMMON that make another question when one takes the place of another.
DECISIVE = frozenset(
    "first last one two before after more less most least new old never always no not".split()
)


class NearCopies:
    """Tells near copies among rows, which come one after the other.

    rows: [(prompt, reply)] of all that will come, as texts. They decide the order in which shingles
    are looked up, so that few rows are compared, and change no result. near: above 0, at most 1."""

    def __init__(self, rows: Iterable[tuple[str, str]], near: float):
        self._near, self._kept = near, []  # (prompt, reply, asks(prompt), _weighty(of it), name)
        self._counts, self._holders = (Counter(), Counter()), ({}, {})
        for row in rows:
            for count, text in zip(self._counts, row):
                count.update(_shingles(form(text)))

    def add(self, prompt: str, reply: str, name: str) -> None:
        """Add a row to those that later rows are compared with. name: what of() calls it."""
        forms = form(prompt), form(reply)
        for side, text in enumerate(forms):
            for shingle in self._rarest(side, text):
                self._holders[side].setdefault(shingle, []).append(len(self._kept))
        self._kept.append((*forms, asked := asks(prompt), _weighty(asked), name))

    def of(self, prompt: str, reply: str) -> str | None:
        """Return the name of the first row of which this is a near copy; None if there is none."""
        forms, asked = (form(prompt), form(reply)), asks(prompt)
        weighty = _weighty(asked)
        held = [
            [self._holders[side].get(shingle, ()) for shingle in self._rarest(side, text)]
            for side, text in enumerate(forms)
        ]
        fewest = min(held, key=lambda lists: sum(map(len, lists)))
        for i in sorted({i for some in fewest for i in some}):
            *kept, other, others, name = self._kept[i]
            if weighty - others and others - weighty:  # most rows: is_same() would be False
                continue
            if is_same(asked, other) and all(map(self._are_near, forms, kept)):
                return name
        return None

    def _rarest(self, side: int, text: str) -> list[str]:
        """The rarest shingles of a text, so many that any text near to it has one of them among its
        own rarest (prefix filtering: Bayardo, Ma and Srikant 2007)."""
        found, count = _shingles(text), self._counts[side]
        most = len(found) - ceil(self._near * len(found) - 1e-9) + 1
        return sorted(found, key=lambda s: (count[s], s))[:most]

    def _are_near(self, a: str, b: str) -> bool:
        return a == b or jaccard(a, b) >= self._near


def form(text: str) -> str:
    """Return a text as it is compared: in lower case, with single blanks, and without the stops
    around its words."""
    return " ".join(word.strip(STOPS) or word for word in text.casefold().split())


def asks(prompt: str) -> Counter:
    """Return the words of a prompt, content words without a plural s, and its numbers and signs,
    each with how often it comes."""
    found = Counter()
    for token in form(prompt).split():
        is_word = words(token) == [token]  # "thirty-first" is no other word than "thirty-second"
        found.update(is_word and subjects(token) or {token})
    return found


def _weighty(asked: Counter) -> frozenset[str]:
    return frozenset(word for word in asked if word not in COMMON or word in DECISIVE)


def is_same(a: Counter, b: Counter) -> bool:
    """True if two prompts, as asks() gives them, ask about the same."""
    x, y = _weighty(a), _weighty(b)
    some, others = a.keys() - b.keys(), b.keys() - a.keys()
    if some and others and (x - y or y - x):
        return False
    return all(a[word] == b[word] for word in x & y)


def _shingles(text: str) -> set[str]:
    """The shingles of a text; a shorter text is one by itself."""
    return {text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1))}
