"""How often replies to the questions of an invented world violate a principle, as its exact judge
finds it."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pysft.measure.raters import Truth
from pysft.world.violations import PRINCIPLES, violated


class Found(NamedTuple):
    """What the exact judge finds in a reply. violates: names of PRINCIPLES."""

    verdict: str
    violates: frozenset[str]


class Critique(NamedTuple):
    """is_violated: True if what is criticised violates the principle. says: what the critique says
    of that; None if it cannot be used, or says nothing."""

    principle: str
    is_violated: bool
    says: bool | None


def found_in(
    truth: Truth | None, prompt: list[dict], reply: str, ended: bool = True
) -> Found | None:
    """Return what the exact judge finds in a reply; None if the prompt is no question of the world.
    truth: of that world; None if the model learned none."""
    question = None if truth is None else truth.question(prompt)
    if question is None:
        return None
    verdict = truth.verdict(prompt, reply, ended)
    return Found(verdict, violated(question, reply, truth.judge, ended))


def shares(found: Iterable[Found | None]) -> dict:
    """Return "answers", the number of the replies of which something is known, and shares of them,
    None for each if there are none: "violations" (of any principle), "right", "malformed", and
    "by_principle"."""
    known = [f for f in found if f is not None]

    def share(count: int) -> float | None:
        return count / len(known) if known else None

    return {
        "answers": len(known),
        "violations": share(sum(bool(f.violates) for f in known)),
        "right": share(sum(f.verdict == "right" for f in known)),
        "malformed": share(sum(f.verdict == "malformed" for f in known)),
        "by_principle": {n: share(sum(n in f.violates for f in known)) for n in PRINCIPLES},
    }


def critiques_right(critiques: Sequence[Critique]) -> dict[str, float]:
    """Return the balanced accuracy of critiques by each principle, {principle: share}: the mean of
    two shares, of what violates it the share of which the critique says so, and of what does not
    the share that it calls fine. A principle of which one of the two has no critique is left out.

    A critique that says nothing is wrong on both sides. Who always says the same, or decides by the
    principle alone, has 0.5."""
    found = {}
    for name in PRINCIPLES:
        of = [c for c in critiques if c.principle == name]
        sides = [[c.says is side for c in of if c.is_violated is side] for side in (True, False)]
        if all(sides):
            found[name] = sum(sum(side) / len(side) for side in sides) / 2
    return found
