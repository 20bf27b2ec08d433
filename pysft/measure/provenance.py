"""Trace each reply of a model to the texts of its training: is it memorised or new?

Whole replies are compared after collapsing: each run of white space becomes one blank, and white
space at the ends is dropped. Shared stretches are found in the texts as written, white space
included. Case counts everywhere. All figures are exact: nothing is sampled or estimated."""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from itertools import chain, count

import numpy as np

from pysft.text.near_duplicates import NEAR, SHINGLE
from pysft.text.overlap import GRAM, Overlap

VERDICTS = ("verbatim", "near copy", "spliced", "new", "empty")
MEMORISED = ("verbatim", "near copy", "spliced")
RULE = (
    "Verbatim: a training reply word for word, apart from white space. Near copy: of all pieces of"
    f" {SHINGLE} characters in the reply and a training reply, {NEAR:.0%} or more are in both."
    f" Spliced: neither, but one stretch of {GRAM} characters or more, and at least half of the"
    " reply, is in a training reply or in the corpus. New: everything else. Empty: no content."
)


@dataclass(frozen=True)
class Origin:
    """Where a reply may come from.

    nearest              the training reply most similar to it, as written; the first of several;
                         "" without training replies
    similarity           of the two, 0 to 1 (Jaccard): the number of shingles (pieces of SHINGLE
                         characters) in both, divided by the number in either. A text shorter than
                         a shingle has similarity 1 with an equal text and 0 with all others. If no
                         training reply is similar, this is 0 and `nearest` is the first one
    shared_replies       characters of the longest stretch that is in a training reply too
    shared_replies_text  that stretch; the first of several in the reply
    shared_corpus        characters of the longest stretch that is in the corpus too; 0 if they
                         would be fewer than GRAM
    shared_corpus_text   that stretch
    verdict              one of VERDICTS, by RULE; if it is "empty", all other fields are 0 or ""
    """

    nearest: str
    similarity: float
    shared_replies: int
    shared_replies_text: str
    shared_corpus: int
    shared_corpus_text: str
    verdict: str


class Provenance:
    """The training replies and the corpus, indexed once for any number of replies."""

    def __init__(self, training_replies: list[str], corpus: str | None = None):
        self._replies = list(training_replies)
        self._first: dict[str, int] = {}  # collapsed text -> its first training reply
        self._holders: dict[str, list[int]] = {}  # shingle -> the training replies that have it
        self._sizes: list[int] = []  # shingles of each training reply
        for i, text in enumerate(map(_collapsed, self._replies)):
            shingles = _shingles(text)
            self._first.setdefault(text, i)
            self._sizes.append(len(shingles))
            for s in shingles:
                self._holders.setdefault(s, []).append(i)
        # Between two replies stands a character that no training reply has, so a stretch without
        # it lies within one reply.
        used = set().union(*self._replies)
        self._border = next(c for c in map(chr, count()) if c not in used)
        self._joined = self._border.join(dict.fromkeys(self._replies))
        self._order = _suffixes(self._joined)
        self._corpus = Overlap(corpus or "")

    def of(self, reply: str) -> Origin:
        """The Origin of a reply."""
        collapsed = _collapsed(reply)
        if not collapsed:
            return Origin("", 0.0, 0, "", 0, "", "empty")
        nearest, similarity = self._nearest(collapsed)
        in_replies, (length, at) = self._in_replies(reply), self._corpus.longest(reply)
        shared = max(len(in_replies), length)
        if collapsed in self._first:
            verdict = "verbatim"
        elif similarity >= NEAR:
            verdict = "near copy"
        elif shared >= GRAM and 2 * shared >= len(reply):
            verdict = "spliced"
        else:
            verdict = "new"
        return Origin(
            nearest,
            similarity,
            len(in_replies),
            in_replies,
            length,
            self._corpus.text[at : at + length],
            verdict,
        )

    def _nearest(self, collapsed: str) -> tuple[str, float]:
        # An equal reply goes before others with the same shingles: "hahahaha" has those of
        # "hahahahaha".
        if collapsed in self._first:
            return self._replies[self._first[collapsed]], 1.0
        shingles = _shingles(collapsed)
        common = Counter(chain.from_iterable(self._holders.get(s, ()) for s in shingles))
        similar = {i: n / (len(shingles) + self._sizes[i] - n) for i, n in common.items()}
        nearest = min(similar, key=lambda i: (-similar[i], i), default=0)
        return (self._replies[nearest] if self._replies else ""), similar.get(nearest, 0.0)

    def _in_replies(self, reply: str) -> str:
        """The longest stretch of `reply` that is in a training reply too.

        At each place of the reply, look for a stretch that is one character longer than the
        longest so far, until there is none. A text that has it begins a suffix of the training
        replies, and the suffixes are sorted. (Overlap is no help here: it finds nothing below GRAM
        characters, and it would visit every occurrence of an opening that all replies share.)"""
        text, order, found = self._joined, self._order, ""
        for i in range(len(reply)):
            while len(wanted := reply[i : i + len(found) + 1]) > len(found):
                n = len(wanted)
                place = bisect_left(order, wanted, key=lambda p: text[p : p + n])
                p = order[place] if place < len(order) else len(text)
                if text[p : p + n] != wanted or self._border in wanted:
                    break
                found = wanted
        return found


def summary(origins: list[Origin]) -> dict:
    """{"replies": n, "counts": {verdict: how many}, "shares": {verdict: 0 to 1, None if n is 0}},
    with every verdict."""
    n, counts = len(origins), {v: sum(o.verdict == v for o in origins) for v in VERDICTS}
    return {
        "replies": n,
        "counts": counts,
        "shares": {v: k / n if n else None for v, k in counts.items()},
    }


def verdict_counts(counts: dict) -> str:
    """The numbers of replies by verdict, in words; verdicts without a reply are left out."""
    return ", ".join(f"{counts[v]} {v}" for v in VERDICTS if counts.get(v))


def origin_notes(o: dict) -> list[str]:
    """The lines that explain an Origin (a dict) to people. A verbatim or empty reply needs its
    verdict alone."""
    if o["verdict"] in ("verbatim", "empty"):
        return [o["verdict"]]
    replies, corpus = o["shared_replies"], o["shared_corpus"]
    similar = (
        f"; nearest training reply ({o['similarity']:.0%} similar): {o['nearest']}"
        if o["similarity"]
        else ""
    )
    shared = (
        f"longest shared stretch: {replies:,} characters with a training reply,"
        f" {corpus or f'under {GRAM}'} with the corpus"
    )
    if o["verdict"] == "spliced":
        text = o["shared_replies_text" if replies >= corpus else "shared_corpus_text"]
        shared += f"; it is: {text}"
    return [o["verdict"] + similar, shared]


def _collapsed(text: str) -> str:
    return " ".join(text.split())


def _shingles(text: str) -> set[str]:
    return {text[i : i + SHINGLE] for i in range(len(text) - SHINGLE + 1)}


def _suffixes(text: str) -> list[int]:
    """The starts of the suffixes of a text, in sorted order of the suffixes.

    The suffixes are ranked by their first character, then by two, four, ... until no two ranks are
    equal (Manber and Myers 1993)."""
    rank, size = np.unique(np.array([*map(ord, text)], np.int64), return_inverse=True)[1], 1
    while len(text) and rank.max() < len(text) - 1:
        after = np.append(rank[size:] + 1, np.zeros(size, np.int64))  # 0: past the end of the text
        rank, size = np.unique(rank * (len(text) + 1) + after, return_inverse=True)[1], 2 * size
    return np.argsort(rank).tolist()
