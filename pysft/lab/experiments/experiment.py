"""What an experiment is made of."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pysft.lab.arm import Arm
from pysft.lab.lab import Lab


@dataclass(frozen=True)
class Column:
    """A figure by which arms are compared: its heading in tables and JSON, its value in a record,
    and the format of its text. None: not measured."""

    heading: str
    value: Callable[[dict], float | str | None]
    form: str = "{:.3f}"


@dataclass(frozen=True)
class Check:
    """A statement that must hold if the claim is true. holds(records): does it hold for one seed's
    records, {arm's name: record}? A TypeError, KeyError, IndexError, StopIteration or ValueError
    means that one of its figures was not measured."""

    text: str
    holds: Callable[[dict[str, dict]], bool]


@dataclass(frozen=True)
class Experiment:
    """A claim of the source text and how it is tested.

    claim    what the source text says, in our words
    arms     (lab, seed) -> a generator that yields Arms and is sent the record of each, so an arm
             can depend on earlier results
    columns  the table's
    checks   their results in all seeds give the verdict
    figures  {arm's name: its records by seed} -> [(title, SVG)]
    note     what a reader needs to know beside the table"""

    name: str
    title: str
    claim: str
    arms: Callable[[Lab, int], Iterator[Arm]]
    columns: list[Column]
    checks: list[Check]
    figures: Callable[[dict[str, list[dict]]], list[tuple[str, str]]]
    note: str = ""
