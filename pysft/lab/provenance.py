"""Memorised or generalised: for each reply of a model, what of it stands in what the model was
trained on.

A text is *collapsed* when every run of white space in it is one blank, and none is left at its
ends. Replies are compared as wholes collapsed, as the audit compares conversations; shared
stretches are sought in the texts as they are written, white space included. Capitals count
everywhere. All figures are exact: nothing is sampled or estimated."""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from itertools import chain, count
from os.path import commonprefix

import numpy as np

from pysft.text.audit import GRAM, NEAR, SHINGLE, Overlap

VERDICTS = ("verbatim", "near copy", "spliced", "new", "empty")
RULE = (
    "Verbatim: a training reply word for word, white space aside; near copy: of all pieces of"
    f" {SHINGLE} characters in it and a training reply, {NEAR:.0%} or more are in both; spliced:"
    f" neither, but half of it or more, and {GRAM} characters or more, stands in one stretch in a"
    " training reply or in the corpus; new: all else; empty: no content."
)


@dataclass(frozen=True)
class Origin:
    """Where a reply may come from; of an empty one nothing is said but that.

    nearest: the training reply most like it, as written, the first of several ("" if there is
    none). similarity: of the two, 0 to 1 (Jaccard: their common shingles over all their shingles;
    what is shorter than a shingle is like an equal text, 1, and no other, 0); at 0 none is like it
    and the first is named. shared_replies, shared_corpus: characters of the longest stretch that
    stands in a training reply, and in the corpus (0 below GRAM); beside each its text, the first in
    the reply of several. verdict: one of VERDICTS, by RULE."""

    nearest: str
    similarity: float
    shared_replies: int
    shared_replies_text: str
    shared_corpus: int
    shared_corpus_text: str
    verdict: str


class Provenance:
    """The training replies and the corpus, indexed once for any number of questions."""

    def __init__(self, training_replies: list[str], corpus: str | None = None):
        self._replies = list(training_replies)
        self._same, self._holders, self._sizes = (
            {},
            {},
            [],
        )  # collapsed text -> its first reply; shingle -> its replies
        for i, text in enumerate(map(_collapsed, self._replies)):
            shingles = _shingles(text)
            self._same.setdefault(text, i)
            self._sizes.append(len(shingles))
            for s in shingles:
                self._holders.setdefault(s, []).append(i)
        # Between two replies a character that none of them has: a stretch without it lies within
        # one reply.
        used = set().union(*self._replies)
        self._border = next(c for c in map(chr, count()) if c not in used)
        self._joined = self._border.join(dict.fromkeys(self._replies))
        self._order = _suffixes(self._joined)
        self._corpus = Overlap(corpus or "")

    def of(self, reply: str) -> Origin:
        said = _collapsed(reply)
        if not said:
            return Origin("", 0.0, 0, "", 0, "", "empty")
        nearest, similarity = self._nearest(said)
        ours, (length, at) = self._in_replies(reply), self._corpus.longest(reply)
        shared = max(len(ours), length)
        verdict = (
            "verbatim"
            if said in self._same
            else (
                "near copy"
                if similarity >= NEAR
                else "spliced"
                if shared >= GRAM and 2 * shared >= len(reply)
                else "new"
            )
        )
        return Origin(
            nearest,
            similarity,
            len(ours),
            ours,
            length,
            self._corpus.text[at : at + length],
            verdict,
        )

    def _nearest(self, said: str) -> tuple[str, float]:
        if (
            said in self._same
        ):  # before others with the same shingles: "hahahaha" has those of "hahahahaha"
            return self._replies[self._same[said]], 1.0
        shingles = _shingles(said)
        common = Counter(chain.from_iterable(self._holders.get(s, ()) for s in shingles))
        alike = {i: n / (len(shingles) + self._sizes[i] - n) for i, n in common.items()}
        nearest = min(alike, key=lambda i: (-alike[i], i), default=0)
        return (self._replies[nearest] if self._replies else ""), alike.get(nearest, 0.0)

    def _in_replies(self, reply: str) -> str:
        """The longest stretch that stands in a training reply too: the suffix that begins most like
        a tail of the reply is beside it in their order. (Overlap finds none below GRAM, and walks
        each place of an opening that all have.)"""
        found = ""
        for tail in (reply[i:] for i in range(len(reply))):
            place = bisect_left(self._order, tail, key=lambda p: self._joined[p : p + len(tail)])
            for p in self._order[max(0, place - 1) : place + 1]:
                common = commonprefix([tail, self._joined[p : p + len(tail)]]).partition(
                    self._border
                )[0]
                found = max(found, common, key=len)
        return found


def summary(origins: list[Origin]) -> dict:
    """{"replies": n, "counts": {verdict: how many}, "shares": {verdict: 0 to 1, None if n is 0}},
    every verdict named."""
    n, counts = len(origins), {v: sum(o.verdict == v for o in origins) for v in VERDICTS}
    return {
        "replies": n,
        "counts": counts,
        "shares": {v: k / n if n else None for v, k in counts.items()},
    }


def _collapsed(text: str) -> str:
    return " ".join(text.split())


def _shingles(text: str) -> set[str]:
    return {text[i : i + SHINGLE] for i in range(len(text) - SHINGLE + 1)}


def _suffixes(text: str) -> list[int]:
    """Where the suffixes of a text begin, in their order: ranked by one character, then by two,
    four, ... until no two are equal (Manber and Myers 1993)."""
    rank, size = np.unique(np.array([*map(ord, text)], np.int64), return_inverse=True)[1], 1
    while len(text) and rank.max() < len(text) - 1:
        after = np.append(rank[size:] + 1, np.zeros(size, np.int64))  # 0: the text is at its end
        rank, size = np.unique(rank * (len(text) + 1) + after, return_inverse=True)[1], 2 * size
    return np.argsort(rank).tolist()
