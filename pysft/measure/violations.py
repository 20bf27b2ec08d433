"""How often replies to the questions of an invented world violate a principle, as its exact judge
finds it."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pysft.world.ask import Question, questions
from pysft.world.facts import SPLITS, WorldSettings, make
from pysft.world.judge import ExactJudge
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


class Inspector:
    """Finds violations in replies to the questions of one world.

    settings: those of the world; None if the model learned none, and then nothing is known."""

    def __init__(self, settings: WorldSettings | None):
        self._questions: dict[str, Question] = {}
        if settings is not None:
            world = make(settings)
            self._judge = ExactJudge(world)
            self._questions = {q.prompt: q for split in SPLITS for q in questions(world, split)}

    def question(self, prompt: list[dict]) -> Question | None:
        """Return the question of the world that a prompt is; None if it is none."""
        return self._questions.get(prompt[0]["content"]) if len(prompt) == 1 else None

    def find(self, prompt: list[dict], reply: str, ended: bool = True) -> Found | None:
        """Return what the judge finds in a reply; None if the prompt is no question of the
        world."""
        question = self.question(prompt)
        if question is None:
            return None
        verdict = self._judge.judge(question, reply, ended)
        return Found(verdict, violated(question, reply, self._judge, ended))


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
