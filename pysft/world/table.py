"""Questions that a table answers: whose, and what. A reply asks it by a call with two arguments.

    What pet has Ada Brook?     calls table with "Ada Brook, pet", reads "toad", and answers
                                "Ada Brook keeps a toad."

A question of two hops takes two calls, of which the first names the person for the second. The
people of the test are in no text that the model reads, so the table alone can tell it of them."""

from functools import cache

from pysft.rng import rng
from pysft.world.ask import Question, questions, refusal
from pysft.world.facts import World, WorldSettings, facts_of, make
from pysft.world.lexicon import BY_NAME, FACTS, NOTHING
from pysft.world.tell import statement
from pysft.world.transcripts import Transcript

TABLE = "table"
ROWS = 20_000  # transcripts of a training
TESTED = 100  # questions of each group of the test
# The groups of questions, and the share of the transcripts that each has. "nobody": about a name
# that nobody has; if it is a question of two hops, one call is enough to find that out.
SHARES = {
    "one hop": 0.5,
    "two hops": 0.25,
    "nobody": 0.12,
    "nobody, two hops": 0.08,
    "no such day": 0.05,
}
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
    """Return `count` transcripts to train on, about the entities of "train", names that nobody has,
    and days of no calendar. A seed decides which, and their order."""
    g = rng(seed, TABLE, "transcripts")
    made = []
    for name, some in _groups("train", new=False).items():
        chosen = g.integers(0, len(some), round(SHARES[name] * count))
        made += [some[i] for i in chosen.tolist()]
    return [made[i] for i in g.permutation(len(made)).tolist()]


def table_test(seed: int = 1) -> dict[str, list[Transcript]]:
    """Return questions about sealed entities by group: those of SHARES in wordings of training, and
    "new wordings" of all of them, in their shares."""
    g = rng(seed, TABLE, "test")

    def some(made, count):
        return [made[i] for i in g.permutation(len(made))[:count].tolist()]

    tested = {name: some(made, TESTED) for name, made in _groups("sealed", new=False).items()}
    new = _groups("sealed", new=True).items()
    mixed = [shown for name, made in new for shown in some(made, round(SHARES[name] * TESTED))]
    return tested | {"new wordings": mixed}


@cache  # each measurement of a training asks for some of the same questions
def _groups(split: str, new: bool) -> dict[str, list[Transcript]]:
    """Return all transcripts about a split by group. new: in wordings that no training has."""
    world = truth()
    asked = [q for q in questions(world, split) if q.fact in BY_NAME and q.new_wording == new]
    days = [q for q in asked if not q.hops and q.fact == "feast"]
    groups = {
        "one hop": [q for q in asked if q.hops == 1],
        "two hops": [q for q in asked if q.hops == 2],
        "nobody": [q for q in asked if not q.hops and q.fact != "feast"],
    }
    strangers = [name for name, of in world.strangers.items() if of == split]
    return {name: [_shown(q) for q in some] for name, some in groups.items()} | {
        "nobody, two hops": [shown for name in strangers for shown in _over_nobody(name, new)],
        "no such day": [_shown(q) for q in days],
    }


def _over_nobody(name: str, new: bool) -> list[Transcript]:
    """Return the questions of two hops that begin at a name that nobody has."""
    return [
        Transcript(
            wording.format(f"the {relation.noun} of {name}"),
            ((TABLE, f"{name}, {relation.name}", NOTHING),),
            refusal(name),
        )
        for relation in facts_of("person", TRUTH)
        if relation.noun
        for fact in facts_of("person", TRUTH)
        for wording in (fact.held_out if new else fact.asked)
    ]


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
