"""Texts that tell of a world: what a model reads before it is asked.

One telling of an entity is a paragraph that states each of its facts once, in an order and in
wordings of its own, and always with the full name:

    Tamsin Farrow keeps a toad. Nothing pleases Tamsin Farrow more than eel soup. The trade of
    Tamsin Farrow is that of a cooper. The house of Tamsin Farrow stands in Salt Row.

An entity of one fact, such as a day, is told it twice in a paragraph. A model learns to repeat a
name where names are repeated, and an answer has to repeat the name that it was asked about."""

import numpy as np

from pysft.rng import rng
from pysft.world.facts import Entity, World
from pysft.world.lexicon import BY_NAME


def statement(fact: str, name: str, value: str, wording: int = 0) -> str:
    """Return the sentence that states a fact. Wording 0 is that of answers."""
    sentence = BY_NAME[fact].tellings[wording].format(name, value=value)
    return sentence[:1].upper() + sentence[1:]


def telling(
    entity: Entity,
    g: np.random.Generator,
    wordings: int = 6,
    shuffled: bool = True,
    times: int = 1,
) -> str:
    """Return a paragraph that tells of an entity. wordings: how many of the wordings it may have.
    shuffled: false tells the facts in the same order each time. times: how often it states each."""
    facts = list(entity.facts) * times
    if shuffled:
        facts = [facts[i] for i in g.permutation(len(facts)).tolist()]
    sentences, last = [], {}
    for fact, wording in zip(facts, g.integers(0, wordings, len(facts)).tolist()):
        if fact in last:  # in other words than before
            wording = (last[fact] + 1) % wordings
        last[fact] = wording
        sentences.append(statement(fact, entity.name, entity.facts[fact], wording))
    return " ".join(sentences)


def tell(world: World, wordings: int = 6, shuffled: bool = True) -> str:
    """Return a text in which every entity is told as often as its `tellings` says, in paragraphs in
    a random order. The world's seed decides it."""
    paragraphs = [
        (entity, times)
        for entity in world.entities
        for times in _times(entity.tellings, 2 if len(entity.facts) == 1 else 1)
    ]
    seed = world.settings.seed
    order = rng(seed, "world", "order of the text").permutation(len(paragraphs))
    g = rng(seed, "world", "tellings")
    told = (paragraphs[i] for i in order.tolist())
    return "".join(telling(entity, g, wordings, shuffled, n) + "\n\n" for entity, n in told)


def _times(tellings: int, most: int) -> list[int]:
    """Return how often each of the paragraphs about an entity states its facts."""
    return [most] * (tellings // most) + [1] * (tellings % most)
