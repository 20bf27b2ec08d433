"""Texts that tell of a world: what a model reads before it is asked.

One telling of an entity is a paragraph that states each of its facts once, in an order and in
wordings of its own, and always with the full name:

    Tamsin Farrow keeps a toad. Nothing pleases Tamsin Farrow more than eel soup. The trade of
    Tamsin Farrow is that of a cooper. The house of Tamsin Farrow stands in Salt Row."""

import numpy as np

from pysft.rng import rng
from pysft.world.facts import Entity, World
from pysft.world.lexicon import BY_NAME


def statement(fact: str, name: str, value: str, wording: int = 0) -> str:
    """Return the sentence that states a fact. Wording 0 is that of answers."""
    sentence = BY_NAME[fact].tellings[wording].format(name, value=value)
    return sentence[:1].upper() + sentence[1:]


def telling(
    entity: Entity, g: np.random.Generator, wordings: int = 6, shuffled: bool = True
) -> str:
    """Return one telling of an entity. wordings: how many of the wordings it may have. shuffled:
    false tells the facts in the same order each time."""
    facts = list(entity.facts)
    if shuffled:
        facts = [facts[i] for i in g.permutation(len(facts)).tolist()]
    chosen = g.integers(0, wordings, len(facts)).tolist()
    return " ".join(
        statement(fact, entity.name, entity.facts[fact], w) for fact, w in zip(facts, chosen)
    )


def tell(world: World, wordings: int = 6, shuffled: bool = True) -> str:
    """Return a text in which every entity is told as often as its `tellings` says, a paragraph for
    each telling, in a random order. The world's seed decides it."""
    seed = world.settings.seed
    numbers = np.repeat(np.arange(len(world.entities)), [e.tellings for e in world.entities])
    order = rng(seed, "world", "order of the text").permutation(numbers)
    g = rng(seed, "world", "tellings")
    return "".join(
        telling(world.entities[i], g, wordings, shuffled) + "\n\n" for i in order.tolist()
    )
