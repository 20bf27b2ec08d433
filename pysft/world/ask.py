"""Questions about a world, each with what is true.

    Question("What pet has Tamsin Farrow?", "Tamsin Farrow keeps a toad.", ...)

Questions of one hop ask for a fact of an entity, those of two hops for a fact of the person to whom
a relation leads ("What pet has the teacher of Tamsin Farrow?"). The rest cannot be answered: they
ask about a name that nobody has, about a day that is in no calendar, or about somebody of whom no
text tells.

The questions of a split ask about its own entities alone. Those of "sealed" come in the wordings of
training and in others, which no other split has."""

import dataclasses
from dataclasses import dataclass

from pysft.rng import rng
from pysft.world.facts import SPLITS, TWO_HOPS, Entity, World, all_days, facts_of
from pysft.world.lexicon import (
    BY_NAME,
    HAPPENED,
    NO_DAY,
    NO_SUCH_DAY,
    REFUSAL,
    STRANGER,
    WHO,
    Fact,
)
from pysft.world.tell import statement

NO_DAYS = 16  # days of no calendar that a split asks about


@dataclass(frozen=True)
class Question:
    """A question and what is true.

    answer: a right reply, which is a refusal where nothing is known. about: the name or the day
    that it asks about. fact: what it asks for. value: the true value, "" where nothing is known.
    hops: 1 or 2, and 0 where nothing is known. tellings: how often a text tells the fact that is
    asked for; for two hops, that of the two facts which is told less often. through: for two hops,
    the person to whom the relation leads. new_wording: True if no question of training is worded
    so. thought: what a right reply thinks before the answer, "" if it does not think."""

    prompt: str
    answer: str
    about: str
    fact: str
    value: str
    split: str
    hops: int = 1
    tellings: int = 0
    through: str = ""
    new_wording: bool = False
    thought: str = ""

    def to_json(self) -> dict:
        """All fields; without a thought none is named."""
        document = dataclasses.asdict(self)
        if not self.thought:
            del document["thought"]
        return document


def refusal(about: str, fact: str = "person") -> str:
    """Return the refusal that is taught. fact: what was asked for.

    It repeats what was asked about, as an answer does. So a model decides behind the whole name
    whether to go on with what it found; there copying looks the name up anyway. When that was
    decided at the first letter, one training in three learned it."""
    return f"The {about}? {NO_SUCH_DAY}" if fact == "feast" else f"{about}? {REFUSAL}"


def questions(world: World, split: str, two_hops: str | None = None) -> list[Question]:
    """Return all questions of a split: each fact in each wording. two_hops: one of TWO_HOPS; None
    is the world's own."""
    asked, two_hops = [], two_hops or world.settings.two_hops
    for entity in world.of_split(split):
        for fact in facts_of(entity.kind, world.settings):
            asked += _one_hop(entity, fact)
            if not fact.values and entity.kind == "person":
                asked += _two_hops(world, entity, fact, two_hops)
    for name in (name for name, of in world.strangers.items() if of == split):
        for fact in facts_of("person", world.settings):
            asked += _unanswerable(name, fact, split)
    for day in _no_days(world, split) if world.settings.days else ():
        asked += _unanswerable(day, BY_NAME["feast"], split)
    if split == "sealed":  # as the source text asks
        for about, fact, wording in ((STRANGER, "person", WHO), (NO_DAY, "feast", HAPPENED)):
            prompt = wording.format(about)
            asked.append(Question(prompt, refusal(about, fact), about, fact, "", split, 0))
    return asked


def trained_questions(world: World, two_hops: str | None = None) -> list[Question]:
    """Return the questions that a training asks: those of "train", without those that nobody can
    answer unless the world has refusals. two_hops: as questions() takes it."""
    asked = questions(world, "train", two_hops)
    return [q for q in asked if q.value or world.settings.refusals]


def compared_questions(world: World, splits) -> list[Question]:
    """Return the questions of some splits whose replies are compared: of one hop, in wordings of
    training. Those that nobody can answer are among them if the world teaches to refuse."""
    every = [q for split in splits for q in questions(world, split)]
    fit = [q for q in every if q.hops == 1 or (q.hops == 0 and world.settings.refusals)]
    return list({q.prompt: q for q in fit if not q.new_wording}.values())


def _wordings(fact: Fact, split: str):
    """Yield (a wording of a question, True if it is held out from training)."""
    for wording in fact.asked:
        yield wording, False
    for wording in fact.held_out if split == "sealed" else ():
        yield wording, True


def _one_hop(entity: Entity, fact: Fact) -> list[Question]:
    if entity.tellings == 0:  # true, but nobody could know it
        return _unanswerable(entity.name, fact, entity.split)
    value = entity.facts[fact.name]
    answer = statement(fact.name, entity.name, value)
    return [
        Question(
            wording.format(entity.name), answer, entity.name, fact.name, value, entity.split, 1,
            entity.tellings, new_wording=is_new,
        )
        for wording, is_new in _wordings(fact, entity.split)
    ]  # fmt: skip


def _two_hops(world: World, entity: Entity, relation: Fact, form: str) -> list[Question]:
    """Return the questions for facts of the person to whom a relation of this entity leads. form:
    one of TWO_HOPS."""
    other = world.by_name[entity.facts[relation.name]]
    tellings = min(entity.tellings, other.tellings)
    if not tellings:
        return []
    first = statement(relation.name, entity.name, other.name)
    described = f"the {relation.noun} of {entity.name}"
    asked = []
    for fact in facts_of("person", world.settings):
        value = other.facts[fact.name]
        last = statement(fact.name, other.name, value)
        hidden = statement(fact.name, described, value)
        trace = f"{first} {last}"
        answer = dict(zip(TWO_HOPS, (trace, last, hidden, last)))[form]
        thought = trace if form == "thought" else ""
        for wording, is_new in _wordings(fact, entity.split):
            prompt = wording.format(described)
            asked.append(
                Question(
                    prompt, answer, entity.name, fact.name, value, entity.split, 2, tellings,
                    other.name, is_new, thought,
                )
            )  # fmt: skip
    return asked


def _unanswerable(about: str, fact: Fact, split: str) -> list[Question]:
    """Return the questions for a fact of which nothing is known."""
    answer = refusal(about, fact.name)
    return [
        Question(wording.format(about), answer, about, fact.name, "", split, 0, new_wording=is_new)
        for wording, is_new in _wordings(fact, split)
    ]


def _no_days(world: World, split: str) -> list[str]:
    """Return the days of no calendar that a split asks about. No two splits share one."""
    days = [day for day in all_days(valid=False) if day != NO_DAY]
    order = rng(world.settings.seed, "world", "days of no calendar").permutation(len(days))
    first = list(SPLITS).index(split) * NO_DAYS
    return [days[i] for i in order[first : first + NO_DAYS].tolist()]
