"""Example: one sequence with its labels. Batch: the token rows of several, as the model reads them.
Output: what the model gives for them."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from pysft import IGNORE
from pysft.errors import DataError

ROWS = 2048  # maximum rows of a batch that is measured, unless one sequence is longer
# The sources of sequences, which the log separates. WORLD: the text of an invented world.
BASE, CONVERSATION, WORLD = "base", "conversation", "world"


@dataclass(frozen=True, slots=True)
class Example:
    """One sequence of L token rows.

    input_ids (L,) int32. labels (L,) int32: the token to predict in each row, or -100 if the row is
    not graded. where: its place in a file, for messages. source: BASE, CONVERSATION or WORLD.

    wanted (L,) bool: the rows whose nll or value an objective reads; None is the graded rows.
    group: a number that the sequences of one pair or one ranking share; None is a group of its own.
    columns: name -> (L,) float32 or float64, a finite number for each row, for the objective.

    The last token of a text may be a row too, so that its value can be read. It has no label, so
    its label is -100, and it counts against the context like every row."""

    input_ids: np.ndarray
    labels: np.ndarray
    where: str = "example"
    source: str = CONVERSATION
    wanted: np.ndarray | None = None
    group: int | None = None
    columns: dict[str, np.ndarray] = field(default_factory=dict)


class Output(NamedTuple):
    """What a model gives for the N rows of a batch. None stands for what it does not give.

    nll (N,): the negative log-likelihood of each row's label in nats; 0 where the label is -100 or
    the row is not wanted. value (N,): the value head's number; 0 where the row is not wanted."""

    nll: np.ndarray | None = None
    value: np.ndarray | None = None


@dataclass(frozen=True)
class Batch:
    """N token rows of S sequences laid end to end, without padding.

    tokens      (N,) int32
    labels      (N,) int32, -100 where not graded
    cu_seqlens  (S+1,) int32, the rising offsets: sequence s begins in row cu_seqlens[s] and ends
                before row cu_seqlens[s+1]
    wanted      (N,) bool, the rows whose nll or value is read; every graded row is one of them
    weight      (S,) float64, how much each graded token of a sequence counts
    source      (S,) BASE, CONVERSATION or WORLD, for the log
    group       (S,) int: sequences with the same number belong together. The numbers rise by 1
    columns     name -> (N,), float32 or float64 as in the examples (float64 if they differ)
    """

    tokens: np.ndarray
    labels: np.ndarray
    cu_seqlens: np.ndarray
    wanted: np.ndarray
    weight: np.ndarray
    source: np.ndarray
    group: np.ndarray
    columns: dict[str, np.ndarray]

    @classmethod
    def of(cls, examples: list[Example], vocab: int, context: int, weight=None) -> "Batch":
        """Return the batch of whole examples. Tokens and labels are checked here, once.

        weight (S,): each sequence's weight, 1 by default. A DataError names the first example that
        is empty or longer than the context, has different numbers of tokens and labels, has a token
        or label outside the vocabulary, has no wanted row or a graded row that is not wanted, has
        other columns than the first example or one that does not fit, or stands apart from the
        rest of its group. It is also a DataError if there is no example, or if a weight is missing
        or negative."""
        if not examples:
            raise DataError("a batch needs at least one sequence")
        weight = np.ones(len(examples)) if weight is None else np.asarray(weight, np.float64)
        if weight.shape != (len(examples),) or not (weight >= 0).all():
            raise DataError(
                f"a batch of {len(examples)} sequences needs as many weights, none below 0; got"
                f" {weight}"
            )
        rows = [len(e.input_ids) for e in examples]
        lengths = np.array(rows)
        tokens = np.concatenate([e.input_ids for e in examples])
        labels = np.concatenate([e.labels for e in examples])
        graded = wanted = labels != IGNORE
        group, columns = np.arange(len(examples)), {}
        if any(e.wanted is not None or e.group is not None or e.columns for e in examples):
            wanted, group, columns = _wanted(examples), _groups(examples), _columns(examples)
        cu_seqlens = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        is_fine = (
            len(tokens) == len(labels)
            and lengths.min() > 0
            and lengths.max() <= context
            and tokens.min() >= 0
            and tokens.max() < vocab
            and labels.max() < vocab
            and (graded == (labels >= 0)).all()
            and np.logical_or.reduceat(wanted, cu_seqlens[:-1]).all()
            and (wanted is graded or not (graded > wanted).any())
        )
        if not is_fine or [len(e.labels) for e in examples] != rows:
            for e in examples:
                _check(e, vocab, context)
        return cls(
            tokens.astype(np.int32),
            labels.astype(np.int32),
            cu_seqlens,
            wanted,
            weight,
            np.array([e.source for e in examples]),
            group,
            columns,
        )

    @property
    def lengths(self) -> np.ndarray:
        """(S,) int32: the number of rows of each sequence."""
        return np.diff(self.cu_seqlens)

    @cached_property
    def graded(self) -> np.ndarray:
        """(N,) bool: the rows that have a label."""
        return self.labels != IGNORE

    @cached_property
    def counts(self) -> np.ndarray:
        """(N,) float64: how much each row counts: a graded row its sequence's weight, others 0."""
        return np.where(self.graded, self.per_row(self.weight), 0.0)

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
            self.group[first:last],
            {name: column[a:b] for name, column in self.columns.items()},
        )

    def split(self, pieces: int) -> list["Batch"]:
        """Split the batch into `pieces` micro-batches of whole groups and about equally many rows.
        If there are fewer groups than pieces, each group is a micro-batch."""
        numbers = np.arange(self.group[0], self.group[-1] + 2)
        firsts = np.searchsorted(self.group, numbers)  # the first sequence of each group; at last S
        offsets = self.cu_seqlens[firsts]
        G = len(firsts) - 1
        pieces = min(pieces, G)
        even = np.arange(1, pieces) * (offsets[-1] / pieces)  # equal pieces, in rows
        cuts = [0]  # in groups
        for i, cut in enumerate(np.searchsorted(offsets, even), 1):
            # Leave at least one group to this piece, and one to each piece after it.
            cuts.append(min(max(int(cut), cuts[-1] + 1), G - (pieces - i)))
        cuts.append(G)
        return [self.slice(firsts[a], firsts[b]) for a, b in zip(cuts[:-1], cuts[1:])]


def in_batches(examples: list[Example], vocab: int, context: int):
    """Yield the examples, in their order, in batches of at most ROWS rows. An example that is
    longer is a batch of its own."""
    some, rows = [], 0
    for e in examples:
        if some and rows + len(e.input_ids) > ROWS:
            yield Batch.of(some, vocab, context)
            some, rows = [], 0
        some.append(e)
        rows += len(e.input_ids)
    if some:
        yield Batch.of(some, vocab, context)


def _wanted(examples: list[Example]) -> np.ndarray:
    """Return the wanted rows (N,) bool of all examples."""
    found = [e.labels != IGNORE if e.wanted is None else np.asarray(e.wanted) for e in examples]
    for e, rows in zip(examples, found):
        if rows.dtype != bool or rows.shape != e.labels.shape:
            raise DataError(
                f"{e.where}: wanted is {rows.dtype} {rows.shape}; expected bool, one for each of"
                f" its {len(e.labels)} rows"
            )
    return np.concatenate(found)


def _groups(examples: list[Example]) -> np.ndarray:
    """Return the group (S,) int of each sequence: 0 for the first group, 1 for the next, ..."""
    found, seen, before = [], set(), None
    for e in examples:
        begins = e.group is None or e.group != before
        if begins and e.group in seen:
            raise DataError(
                f"{e.where}: group {e.group} has sequences before and after those of another;"
                " place the sequences of a group next to each other"
            )
        if e.group is not None:
            seen.add(e.group)
        found.append(begins)
        before = e.group
    return np.cumsum(found) - 1


def _columns(examples: list[Example]) -> dict[str, np.ndarray]:
    """Return name -> (N,) of all examples."""
    names = examples[0].columns.keys()
    for e in examples:
        if e.columns.keys() != names:
            raise DataError(
                f"{e.where}: its columns are {sorted(e.columns)}, those of {examples[0].where} are"
                f" {sorted(names)}; all sequences of a batch need the same"
            )
        for name, column in e.columns.items():
            if column.dtype.char not in "fd" or column.shape != e.input_ids.shape:
                raise DataError(
                    f"{e.where}: column {name!r} is {column.dtype} {column.shape}; expected float32"
                    f" or float64, one for each of its {len(e.input_ids)} rows"
                )
            if not np.isfinite(column).all():
                bad = np.flatnonzero(~np.isfinite(column))[0]
                raise DataError(f"{e.where}: column {name!r} is {column[bad]} at position {bad}")
    return {name: np.concatenate([e.columns[name] for e in examples]) for name in names}


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
    graded = labels != IGNORE
    wanted = graded if e.wanted is None else np.asarray(e.wanted)
    bad = np.flatnonzero(graded & ~wanted)
    if len(bad):
        raise DataError(
            f"{e.where}: position {bad[0]} is graded and not wanted, so its label would be ignored"
        )
    if not wanted.any():
        why = "every label is -100" if e.wanted is None else "no row is wanted"
        raise DataError(f"{e.where}: {why}, so there is nothing to learn from it")
