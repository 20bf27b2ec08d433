"""Batches: sequences laid end to end, what is refused, and how they are split."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from texts import one_line, steady

from pysft import IGNORE
from pysft.batch import Batch, Example
from pysft.errors import DataError


def example(tokens, labels=None, where="line 7"):
    tokens = np.array(tokens, np.int32)
    return Example(tokens, np.array(tokens if labels is None else labels, np.int32), where)


@pytest.mark.parametrize(
    "bad, named",
    [
        (example(range(9)), "line 7: 9 tokens, the context holds 8"),
        (example([1, 2], [IGNORE, IGNORE]), "line 7: every label is -100"),
        (example([1, 10], [1, 2]), "line 7: token 10 at position 1 is not in 0..9"),
        (example([-1, 1], [1, 2]), "line 7: token -1 at position 0"),
        (example([1, 2], [10, 2]), "line 7: label 10 at position 0"),
        (example([1, 2], [1, -99]), "line 7: label -99 at position 1"),
        (example([1, 2], [1]), "line 7: 2 tokens and 1 labels"),
        (example([], []), "line 7: 0 tokens and 0 labels"),
        (
            Example(np.array([2**32 + 1, 2]), np.array([1, 2]), "line 7"),
            f"line 7: token {2**32 + 1} at position 0",
        ),
        (
            Example(np.array([1, 2]), np.array([1, 2**32 + 2]), "line 7"),
            f"line 7: label {2**32 + 2} at position 1",
        ),
    ],
)
def test_a_batch_names_the_example_that_it_refuses(bad, named):
    with pytest.raises(DataError) as error:
        Batch.of([example([1, 2]), bad], vocab=10, context=8)
    assert named in one_line(error)


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(DataError, match="at least one sequence"):
        Batch.of([], 10, 8)


def test_a_batch_lays_its_sequences_end_to_end():
    batch = Batch.of(
        [example([1, 2, 3], [IGNORE, 4, 5]), example([6], [7])], 10, 8, weight=[1, 0.5]
    )
    assert batch.tokens.tolist() == [1, 2, 3, 6] and batch.labels.tolist() == [IGNORE, 4, 5, 7]
    assert batch.cu_seqlens.tolist() == [0, 3, 4] and batch.lengths.tolist() == [3, 1]
    assert batch.wanted.tolist() == [False, True, True, True]
    assert batch.per_row(batch.weight).tolist() == [1, 1, 1, 0.5]
    assert {a.dtype for a in (batch.tokens, batch.labels, batch.cu_seqlens)} == {np.dtype(np.int32)}


@steady
@given(st.lists(st.integers(1, 12), min_size=1, max_size=12), st.integers(1, 15))
def test_splitting_covers_every_sequence_once_in_order(lengths, pieces):
    batch = Batch.of(
        [example(np.arange(n) + i, where=str(i)) for i, n in enumerate(lengths)],
        100,
        12,
        weight=np.arange(len(lengths)),
    )
    parts = batch.split(pieces)
    assert 1 <= len(parts) <= min(pieces, len(lengths))
    for name in ("tokens", "labels", "wanted", "weight", "source"):
        joined = np.concatenate([getattr(p, name) for p in parts])
        assert np.array_equal(joined, getattr(batch, name))
    assert np.concatenate([p.lengths for p in parts]).tolist() == lengths
    assert all(p.cu_seqlens[0] == 0 and p.cu_seqlens[-1] == len(p.tokens) > 0 for p in parts)


def test_an_even_batch_splits_evenly():
    batch = Batch.of([example(range(4)) for _ in range(8)], 10, 8)
    assert [len(p.weight) for p in batch.split(4)] == [2, 2, 2, 2]


@pytest.mark.parametrize(
    "lengths, pieces, expected",
    [
        ([3, 3, 3, 3], 2, [[3, 3], [3, 3]]),
        ([3, 3, 3, 3], 3, [[3, 3], [3], [3]]),  # 4 and 8 rows: the next beginnings are 6 and 9
        ([2, 2, 2, 4, 4, 4], 3, [[2, 2, 2], [4, 4], [4]]),
        ([1, 1, 1, 9], 2, [[1, 1, 1], [9]]),
        ([9, 1, 1, 1], 2, [[9], [1, 1, 1]]),
        # Each piece has a sequence, wherever the long one stands.
        ([12, 1, 1, 1], 4, [[12], [1], [1], [1]]),
        ([1, 1, 1, 12], 4, [[1], [1], [1], [12]]),
        ([1, 1, 12, 1, 1], 4, [[1, 1], [12], [1], [1]]),
        ([5, 7], 3, [[5], [7]]),
        ([5], 1, [[5]]),
    ],
)
def test_a_batch_is_cut_where_the_sequence_at_an_equal_share_of_the_rows_begins_or_ends(
    lengths, pieces, expected
):
    batch = Batch.of([example([i] * n) for i, n in enumerate(lengths)], 100, 12)
    assert [p.lengths.tolist() for p in batch.split(pieces)] == expected
