"""Questions that a table answers: whose, and what. A reply asks it by a call with two arguments.

    What pet has Ada Brook?     calls table with "Ada Brook, pet", reads "toad", and answers
                                "Ada Brook keeps a toad."

A question of two hops takes two calls, of which the first names the person for the second. Nothing
tells the model of this world, so it can answer by the table alone, and learns to ask it."""

from pysft.rng import rng
from pysft.world.ask import Question, questions
from pysft.world.facts import World, WorldSettings, make
from pysft.world.lexicon import BY_NAME, FACTS, NOTHING
from pysft.world.tell import statement
from pysft.world.transcripts import Transcript

TABLE = "table"
ROWS = 20_000  # transcripts of a training
SHARES = {"one hop": 0.5, "two hops": 0.25, "unknown": 0.25}  # of these
TESTED = 100  # questions of each group of the test
TRUTH = WorldSettings(
    people=1000, places=96, things=96, days=366, relations=3, tellings=(1,), refusals=True
)


def truth() -> World:
    """Return the world that the shipped table is about. It is the same in every run."""
    return make(TRUTH)


def facts_in(world: World) -> list[tuple[str, str, str]]:
    """Return all that is true as rows of a table, (whose, what, value)."""
    return [(e.name, what, value) for e in world.entities for what, value in e.facts.items()]


def table(count: int = ROWS, seed: int = 1) -> list[Transcript]:
    """Return `count` transcripts to train on, about the entities of "train" and about names that
    nobody has. A seed decides which, and their order."""
    g = rng(seed, TABLE, "transcripts")
    groups = _groups([q for q in questions(truth(), "train") if not q.new_wording])
    made = []
    for name, share in SHARES.items():
        chosen = g.integers(0, len(groups[name]), round(share * count))
        made += [_shown(groups[name][i]) for i in chosen.tolist()]
    return [made[i] for i in g.permutation(len(made)).tolist()]


def table_test(seed: int = 1) -> dict[str, list[Transcript]]:
    """Return questions about sealed entities by group: "one hop", "two hops" and "unknown" in
    wordings of training, and "new wordings" of all three."""
    g = rng(seed, TABLE, "test")
    asked = questions(truth(), "sealed")
    groups = _groups([q for q in asked if not q.new_wording])
    groups["new wordings"] = [q for q in asked if q.new_wording]
    return {
        name: [_shown(some[i]) for i in g.permutation(len(some))[:TESTED].tolist()]
        for name, some in groups.items()
    }


def _groups(asked: list[Question]) -> dict[str, list[Question]]:
    hops = {"unknown": 0, "one hop": 1, "two hops": 2}
    return {
        name: [q for q in asked if q.hops == n and q.fact in BY_NAME] for name, n in hops.items()
    }


def _shown(question: Question) -> Transcript:
    """Return a question with the calls that find its answer."""
    whose, calls = question.about, ()
    if question.hops == 2:
        relation = next(
            f.name
            for f in FACTS
            if f.noun and f"the {f.noun} of {question.about}" in question.prompt
        )
        calls, whose = ((TABLE, f"{whose}, {relation}", question.through),), question.through
    value = question.value or NOTHING
    answer = statement(question.fact, whose, value) if question.value else question.answer
    return Transcript(
        question.prompt, (*calls, (TABLE, f"{whose}, {question.fact}", value)), answer
    )
