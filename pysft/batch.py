"""Example, one sequence with its labels, and Batch, the token rows of many that the model sees."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pysft import IGNORE
from pysft.errors import DataError

BASE, CONVERSATION = "base", "conversation"  # sources of sequences, for the log


@dataclass(frozen=True, slots=True)
class Example:
    """One sequence. input_ids (L,), labels (L,): int32, -100 where not graded. where: its place in
    a file, for messages. source: BASE or CONVERSATION."""

    input_ids: np.ndarray
    labels: np.ndarray
    where: str = "example"
    source: str = CONVERSATION


@dataclass(frozen=True)
class Batch:
    """N token rows of S sequences laid end to end, without padding.

    tokens      (N,) int32
    labels      (N,) int32, -100 where not graded
    cu_seqlens  (S+1,) int32, the rising offsets: sequence s begins in row cu_seqlens[s] and ends
                before row cu_seqlens[s+1]
    wanted      (N,) bool, the rows whose nll somebody reads
    weight      (S,) float, how much each graded token of a sequence counts
    source      (S,) names, for the log
    """

    tokens: np.ndarray
    labels: np.ndarray
    cu_seqlens: np.ndarray
    wanted: np.ndarray
    weight: np.ndarray
    source: np.ndarray

    @classmethod
    def of(cls, examples: list[Example], vocab: int, context: int, weight=None) -> "Batch":
        """The batch of some examples, whole. Token and label ranges are checked here, once for all
        kernels. A DataError names an example that is longer than the context, has an id outside the
        vocabulary, or has no graded token."""
        if not examples:
            raise DataError("a batch needs at least one sequence")
        weight = np.ones(len(examples)) if weight is None else np.asarray(weight, np.float64)
        if weight.shape != (len(examples),) or not (weight >= 0).all():
            raise DataError(
                f"a batch of {len(examples)} sequences needs as many weights, none below 0; got"
                f" {weight}"
            )
        lengths = np.array([len(e.input_ids) for e in examples])
        tokens = np.concatenate([e.input_ids for e in examples])
        labels = np.concatenate([e.labels for e in examples])
        graded = labels != IGNORE
        cu_seqlens = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        is_fine = (
            len(tokens) == len(labels)
            and lengths.min() > 0
            and lengths.max() <= context
            and tokens.min() >= 0
            and tokens.max() < vocab
            and labels.max() < vocab
            and (graded == (labels >= 0)).all()
            and np.logical_or.reduceat(graded, cu_seqlens[:-1]).all()
        )
        if not is_fine or any(len(e.labels) != n for e, n in zip(examples, lengths)):
            for e in examples:
                _check(e, vocab, context)
        return cls(
            tokens.astype(np.int32),
            labels.astype(np.int32),
            cu_seqlens,
            graded,
            weight,
            np.array([e.source for e in examples]),
        )

    @property
    def lengths(self) -> np.ndarray:
        """(S,) rows of each sequence."""
        return np.diff(self.cu_seqlens)

    @cached_property
    def counts(self) -> np.ndarray:
        """(N,) float64: the weight of each row, which is its sequence's if it is graded, else 0."""
        return np.where(self.labels != IGNORE, self.per_row(self.weight), 0.0)

    def per_row(self, values: np.ndarray) -> np.ndarray:
        """Values (S,) of the sequences, repeated for each of their rows: (N,)."""
        return np.repeat(values, self.lengths)

    def slice(self, first: int, last: int) -> "Batch":
        """The batch of sequences first..last-1."""
        a, b = self.cu_seqlens[first], self.cu_seqlens[last]
        return Batch(
            self.tokens[a:b],
            self.labels[a:b],
            (self.cu_seqlens[first : last + 1] - a).astype(np.int32),
            self.wanted[a:b],
            self.weight[first:last],
            self.source[first:last],
        )

    def split(self, pieces: int) -> list["Batch"]:
        """Micro-batches: `pieces` runs of whole sequences with about the same number of rows. If
        there are fewer sequences, each is a micro-batch."""
        S = len(self.weight)
        pieces = min(pieces, S)
        even = np.arange(1, pieces) * (self.cu_seqlens[-1] / pieces)  # rows
        cuts = [0]  # sequences
        for i, cut in enumerate(np.searchsorted(self.cu_seqlens, even), 1):
            # At least one sequence lies before this cut, and one for each piece after it.
            cuts.append(min(max(int(cut), cuts[-1] + 1), S - (pieces - i)))
        cuts.append(S)
        return [self.slice(a, b) for a, b in zip(cuts[:-1], cuts[1:])]


def _check(e: Example, vocab: int, context: int) -> None:
    """Raise a DataError that says what is wrong with an example, if something is."""
    tokens, labels = e.input_ids, e.labels
    if len(tokens) != len(labels) or not len(tokens):
        raise DataError(
            f"{e.where}: {len(tokens)} tokens and {len(labels)} labels; expected the same number of"
            " both, and at least one"
        )
    if len(tokens) > context:
        raise DataError(f"{e.where}: {len(tokens)} tokens, the context holds {context}")
    bad = np.flatnonzero((tokens < 0) | (tokens >= vocab))
    if len(bad):
        raise DataError(
            f"{e.where}: token {tokens[bad[0]]} at position {bad[0]} is not in 0..{vocab - 1}"
        )
    bad = np.flatnonzero((labels != IGNORE) & ((labels < 0) | (labels >= vocab)))
    if len(bad):
        raise DataError(
            f"{e.where}: label {labels[bad[0]]} at position {bad[0]} is neither -100 nor in "
            f"0..{vocab - 1}"
        )
    if not (labels != IGNORE).any():
        raise DataError(f"{e.where}: every label is -100, so there is nothing to learn from it")
