"""Example: one sequence with its labels. Batch: the token rows of several, as the model reads
them."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pysft import IGNORE
from pysft.errors import DataError

BASE, CONVERSATION = "base", "conversation"  # the sources of sequences; the log separates them


@dataclass(frozen=True, slots=True)
class Example:
    """One sequence of L token rows.

    input_ids (L,) int32. labels (L,) int32: the token to predict in each row, or -100 if the row is
    not graded. where: its place in a file, for messages. source: BASE or CONVERSATION."""

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
    wanted      (N,) bool, the rows whose nll is used: in a batch of Batch.of, the graded ones
    weight      (S,) float64, how much each graded token of a sequence counts
    source      (S,) BASE or CONVERSATION, for the log
    """

    tokens: np.ndarray
    labels: np.ndarray
    cu_seqlens: np.ndarray
    wanted: np.ndarray
    weight: np.ndarray
    source: np.ndarray

    @classmethod
    def of(cls, examples: list[Example], vocab: int, context: int, weight=None) -> "Batch":
        """Return the batch of whole examples. Tokens and labels are checked here, once.

        weight (S,): each sequence's weight, 1 by default. A DataError names the first example that
        is empty or longer than the context, has more tokens than labels or fewer, has a token or
        label outside the vocabulary, or has no graded row. It is also a DataError if there is no
        example, or if a weight is missing or negative."""
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
        """(S,) int32: the number of rows of each sequence."""
        return np.diff(self.cu_seqlens)

    @cached_property
    def counts(self) -> np.ndarray:
        """(N,) float64: how much each row counts: a graded row its sequence's weight, others 0."""
        return np.where(self.labels != IGNORE, self.per_row(self.weight), 0.0)

    def per_row(self, values: np.ndarray) -> np.ndarray:
        """(N,): the values (S,) of the sequences, each repeated for all rows of its sequence."""
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
        """Split the batch into `pieces` micro-batches of whole sequences and about equally many
        rows. If there are fewer sequences than pieces, each sequence is a micro-batch."""
        S = len(self.weight)
        pieces = min(pieces, S)
        even = np.arange(1, pieces) * (self.cu_seqlens[-1] / pieces)  # equal pieces, in rows
        cuts = [0]  # in sequences
        for i, cut in enumerate(np.searchsorted(self.cu_seqlens, even), 1):
            # Leave at least one sequence to this piece, and one to each piece after it.
            cuts.append(min(max(int(cut), cuts[-1] + 1), S - (pieces - i)))
        cuts.append(S)
        return [self.slice(a, b) for a, b in zip(cuts[:-1], cuts[1:])]


def _check(e: Example, vocab: int, context: int) -> None:
    """Raise a DataError if something is wrong with an example."""
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
