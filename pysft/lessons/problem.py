"""What an exercise asks for: a function that a learner writes, its right results, and its wrong
ones.

An exercise is a file of exercises/ with the tuple PROBLEMS, in the order in which they are checked.
A lesson names it. Wrong derivations are not separate formulas. answer() of a problem makes each of
its mistakes when it is told to, and so it makes pairs of them too."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

WRITTEN, ADDED, CHANGED = "written", "added", "changed"
NONE = frozenset()


@dataclass(frozen=True)
class Fact:
    """What is known of a result, and can be tested without the right one.

    result   its name
    holds    the sentence that is said where it holds: "dx adds up to 0 in each row, as it must."
    fails    the one where it does not
    of       (arguments, result) -> sums of the result's elements with some weights, which must be
             those of the right result"""

    result: str
    holds: str
    fails: str
    of: Callable[[dict, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Problem:
    """A function that a learner writes.

    function   its name, and the folder of its messages in mistakes/. That of the kernel, where
               there is one, so that `gradcheck --ops` takes the file too
    skeleton   the text of the function without its body: signature, and a docstring with the shapes
    arguments  (rng, sizes) -> {name: array, number or None} in the order of the signature, without
               the arrays that it writes or adds to. Random upstream gradients, never ones. A name
               that begins with _ is not passed to the function; the loss needs it
    outputs    {name: WRITTEN, ADDED or CHANGED}: the arrays that it fills, which come first in its
               signature. An array that is added to holds random numbers before. One that is changed
               is among the arguments too, with its values before. {} for a function that returns
               its results
    returns    the names of the results of such a function, in order
    answer     (arguments, wrong) -> {output or result: array}: the right ones, or those of the
               mistakes in the set `wrong`. For ADDED outputs it is what is added, for CHANGED ones
               the values after
    mistakes   the names of its mistakes, in words joined by hyphens: "mean-term-left-out"
    forms      other ways to write the right function, which some mistakes change in another way.
               Their names stand in `wrong` beside the mistakes, and alone they change nothing
    shared     {output: argument} of the outputs that may be the array of an argument, by the page
    parts      {output: its array -> {part: a view of it}}, where an output holds several results
    facts      what is known of a result without the answer, for where no mistake explains it
    loss       (arguments) -> a number, by the reference's forward; None for a function that is no
               derivative
    of         {output: the argument that its gradient is by}, for finite differences
    sizes      of each case. No two of the numbers of a case are equal, because a transposed or
               misplaced axis would not show

    Mistakes that any function can make are found by the checker itself: nothing written (a name
    that was bound to a new array), added for written, written for added, an input changed, the
    whole result negated or multiplied by a size. They need no entry here."""

    function: str
    skeleton: str
    arguments: Callable[[np.random.Generator, dict], dict]
    answer: Callable[[dict, frozenset], dict[str, np.ndarray]]
    sizes: tuple[dict, ...]
    outputs: dict[str, str] = field(default_factory=dict)
    returns: tuple[str, ...] = ()
    mistakes: tuple[str, ...] = ()
    forms: tuple[str, ...] = ()
    shared: dict[str, str] = field(default_factory=dict)
    parts: dict[str, Callable] = field(default_factory=dict)
    facts: tuple[Fact, ...] = ()
    loss: Callable[[dict], float] | None = None
    of: dict[str, str] = field(default_factory=dict)

    @property
    def results(self) -> tuple[str, ...]:
        """The names of what the function writes or returns."""
        return tuple(self.outputs) or self.returns
