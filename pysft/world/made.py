"""The kinds of transcripts that teach a tool by questions made for it, by name."""

from collections.abc import Callable
from typing import NamedTuple

from pysft.world.sums import SUMS, sums, sums_test
from pysft.world.table import TABLE, table, table_test
from pysft.world.transcripts import Transcript


class Made(NamedTuple):
    """tool: the one that is called. transcripts(seed=...): those of a training. test(): the
    questions of the test, by group."""

    tool: str
    transcripts: Callable[..., list[Transcript]]
    test: Callable[[], dict[str, list[Transcript]]]


MADE = {SUMS: Made("code", sums, sums_test), TABLE: Made("table", table, table_test)}
