"""What an experiment is made of."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pysft.lab.arm import Arm
from pysft.lab.lab import Lab
from pysft.lab.preferring import TaskArm


@dataclass(frozen=True)
class Column:
    """A figure by which arms are compared.

    heading: in tables and JSON. value: a function of a record; None means not measured. form: the
    format of its text."""

    heading: str
    value: Callable[[dict], float | str | None]
    form: str = "{:.3f}"


@dataclass(frozen=True)
class Check:
    """A statement that must hold if the claim is true.

    holds(records): True if it holds for one seed's records, {arm's name: record}. A TypeError,
    KeyError, IndexError, StopIteration or ValueError means that a figure was not measured."""

    text: str
    holds: Callable[[dict[str, dict]], bool]


@dataclass(frozen=True)
class Experiment:
    """A claim of the source text and how it is tested.

    claim    what the source text says, in our words
    arms     (lab, seed) -> a generator that yields Arms or TaskArms and is sent the record of
             each, so an arm can depend on earlier results
    columns  the columns of the table
    checks   their results in all seeds give the verdict
    figures  {arm's name: its records by seed} -> [(title, SVG)]
    note     a remark for the reader of the table
    on_world the arms begin from bases of their own, which read of an invented world; each seed has
             a world and a base of its own
    prepare  (lab, seed): make what the arms begin from and share with other experiments. It is
             called once before several processes need it; None: nothing is shared"""

    name: str
    title: str
    claim: str
    arms: Callable[[Lab, int], Iterator[Arm | TaskArm]]
    columns: list[Column]
    checks: list[Check]
    figures: Callable[[dict[str, list[dict]]], list[tuple[str, str]]]
    note: str = ""
    on_world: bool = False
    prepare: Callable[[Lab, int], None] | None = None
