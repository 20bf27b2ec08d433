"""The kinds of transcripts that teach a tool by questions made for it, by name."""

from collections.abc import Callable
from typing import NamedTuple

from pysft.world.sums import SUMS, sums, sums_test
from pysft.world.table import TABLE, table, table_test
from pysft.world.transcripts import Transcript


class Made(NamedTuple):
    """transcripts(seed=...): those of a training. test(): those of the test, by group."""

    transcripts: Callable[..., list[Transcript]]
    test: Callable[[], dict[str, list[Transcript]]]


MADE = {SUMS: Made(sums, sums_test), TABLE: Made(table, table_test)}
