"""How often replies to the questions of an invented world violate a principle, as its exact judge
finds it."""

from collections.abc import Iterable
from typing import NamedTuple

from pysft.world.ask import Question, questions
from pysft.world.facts import SPLITS, WorldSettings, make
from pysft.world.judge import ExactJudge
from pysft.world.violations import PRINCIPLES, violated


class Found(NamedTuple):
    """What the exact judge finds in a reply. violates: names of PRINCIPLES."""

    verdict: str
    violates: frozenset[str]


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
    """Return shares of the replies of which something is known, and None for each if there are
    none: "violations" (of any principle), "right", "malformed", and "by_principle"."""
    known = [f for f in found if f is not None]

    def share(count: int) -> float | None:
        return count / len(known) if known else None

    return {
        "violations": share(sum(bool(f.violates) for f in known)),
        "right": share(sum(f.verdict == "right" for f in known)),
        "malformed": share(sum(f.verdict == "malformed" for f in known)),
        "by_principle": {n: share(sum(n in f.violates for f in known)) for n in PRINCIPLES},
    }
