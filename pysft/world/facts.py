"""A closed world: people, places, things and days, and all that is true of them. A seed decides it.

    world = make(WorldSettings(people=100, tellings=(512,), seed=1))
    world.entities[0]    Entity("Tamsin Farrow", "person", "train", 512, {"trade": "cooper", ...})

Each entity belongs to one split, which decides who may ask about it, and has a number of tellings:
how often a text tells each of its facts."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from pysft.errors import UsageError
from pysft.rng import rng
from pysft.world.lexicon import (
    BY_NAME,
    FACTS,
    FIRST_NAMES,
    LAST_NAMES,
    MONTHS,
    ORDINALS,
    PLACE_NAMES,
    STRANGER,
    THING_NAMES,
    Fact,
)

# Split -> its share of the entities. Questions about the entities of "train" may be trained on;
# those of "reward" and "ppo" are for a reward model and for reinforcement learning; those of
# "sealed" are asked for reports alone.
SPLITS = {"train": 0.5, "reward": 0.1, "ppo": 0.1, "sealed": 0.3}
ATTRIBUTES = tuple(f.name for f in FACTS if f.of[0] == "person" and f.values)
NAMED = ("people", "strangers", "places", "things")  # each of them needs a name
# How the answer to a question of two hops is written:
#   trace    Tamsin Farrow lives next to Ivo Brook. Ivo Brook keeps a toad.
#   named    Ivo Brook keeps a toad.
#   hidden   The neighbour of Tamsin Farrow keeps a toad.
#   thought  as named, and the trace is a thought before it
TWO_HOPS = ("trace", "named", "hidden", "thought")
RELATIONS = tuple(f.name for f in FACTS if f.of[0] == "person" and not f.values)


@dataclass(frozen=True)
class WorldSettings:
    """The size of a world.

    people, places, things, days: how many there are; a day has a feast. strangers: names that
    nobody has; 0 makes as many as people. attributes: how many a person has, in the order of
    ATTRIBUTES. relations: how many of RELATIONS a person has. refusals: the questions of training
    also ask about names of nobody and days of no calendar, and their answers refuse. tellings: how
    often a text tells each fact of an entity; of several numbers each comes about as often as
    another. seed: decides the world. two_hops: how answers of two hops are written in training, one
    of TWO_HOPS. A UsageError if a value is not possible."""

    people: int = 100
    places: int = 0
    things: int = 0
    days: int = 32
    strangers: int = 0
    attributes: int = 4
    relations: int = 0
    refusals: bool = False
    tellings: tuple[int, ...] = (512,)
    seed: int = 1
    two_hops: str = TWO_HOPS[0]

    def __post_init__(self):
        object.__setattr__(self, "tellings", tuple(self.tellings))
        names = len(FIRST_NAMES) * len(LAST_NAMES)
        places, things = (len(a) * len(b) for a, b in (PLACE_NAMES, THING_NAMES))
        for name, least, most in (
            ("people", 20, names // 2),
            ("strangers", 0, names // 2),
            ("places", 0, places),
            ("things", 0, things),
            ("days", 0, sum(MONTHS.values())),
            ("attributes", 1, len(ATTRIBUTES)),
            ("relations", 0, len(RELATIONS)),
            ("seed", 0, 2**63 - 1),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                is_much = name in NAMED and isinstance(value, int) and value > most
                reason = ", because there are no more names" if is_much else ""
                raise UsageError(
                    f"{name} = {value!r}: expected a whole number from {least} to {most:,}{reason}"
                )
        if not isinstance(self.refusals, bool):
            raise UsageError(f"refusals = {self.refusals!r}: expected true or false")
        if self.two_hops not in TWO_HOPS:
            raise UsageError(f"two_hops = {self.two_hops!r}: expected {' or '.join(TWO_HOPS)}")
        tellings = self.tellings
        if not tellings or not all(isinstance(n, int) and 0 <= n <= 10**5 for n in tellings):
            raise UsageError(
                f"tellings = {list(tellings)}: expected one whole number or several, each from 0 to"
                " 100,000"
            )
        if not any(tellings):
            raise UsageError(
                f"tellings = {list(tellings)}: a text that tells nothing teaches nothing; one"
                " number must be above 0"
            )
        if len(tellings) > (least := int(SPLITS["sealed"] * self.people)):
            raise UsageError(
                f"tellings = {list(tellings)}: only {least} people are asked about in sealed"
                f" questions, too few for {len(tellings)} numbers; make people more or the numbers"
                " fewer"
            )

    def to_json(self) -> dict:
        """The settings. The usual two_hops is left out, so that worlds of versions that had nothing
        else keep their documents and digests."""
        document = dataclasses.asdict(self) | {"tellings": list(self.tellings)}
        if self.two_hops == TWO_HOPS[0]:
            del document["two_hops"]
        return document


@dataclass(frozen=True)
class Entity:
    """Somebody or something with a name. kind: "person", "place", "thing" or "day". tellings: how
    often a text tells each fact. facts: {fact: value}; the value of a relation is the name of a
    person."""

    name: str
    kind: str
    split: str
    tellings: int
    facts: dict[str, str]

    def to_json(self) -> dict:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class World:
    """All that is true. strangers: {name that nobody has: its split}."""

    settings: WorldSettings
    entities: tuple[Entity, ...]
    strangers: dict[str, str]

    def __post_init__(self):
        object.__setattr__(self, "by_name", {e.name: e for e in self.entities})

    def of_split(self, split: str) -> list[Entity]:
        return [e for e in self.entities if e.split == split]


def facts_of(kind: str, settings: WorldSettings) -> list[Fact]:
    """Return the kinds of facts that entities of this kind have."""
    if kind == "person":
        chosen = ATTRIBUTES[: settings.attributes] + RELATIONS[: settings.relations]
        return [BY_NAME[name] for name in chosen]
    return [fact for fact in FACTS if kind in fact.of]


def make(settings: WorldSettings) -> World:
    """Make the world of these settings."""
    g = rng(settings.seed, "world", "names")
    named = _two_words((FIRST_NAMES, LAST_NAMES), len(FIRST_NAMES) * len(LAST_NAMES), g)
    people, unused = named[: settings.people], named[settings.people :]
    names = {
        "person": people,
        "place": [f"The {name}" for name in _two_words(PLACE_NAMES, settings.places, g)],
        "thing": [f"The {name}" for name in _two_words(THING_NAMES, settings.things, g)],
        "day": _days(settings.days, g),
    }
    split_of = dict(zip(people, _splits(len(people), settings, "person")))
    entities = []
    for kind, some in names.items():
        splits = _splits(len(some), settings, kind)
        told = _tellings(splits, settings, kind)
        values = {
            f.name: _values(f, list(zip(some, splits)), split_of, settings)
            for f in facts_of(kind, settings)
        }
        for i, name in enumerate(some):
            facts = {fact: column[i] for fact, column in values.items()}
            entities.append(Entity(name, kind, splits[i], told[i], facts))
    strangers = unused[: settings.strangers or settings.people]
    strangers = dict(zip(strangers, _splits(len(strangers), settings, "strangers")))
    return World(settings, tuple(entities), strangers | {STRANGER: "sealed"})


def _two_words(parts, count: int, g: np.random.Generator) -> list[str]:
    """Return `count` different names of two words, one from each of the two lists in `parts`."""
    first, second = parts
    order = g.permutation(len(first) * len(second))[:count].tolist()
    return [f"{first[i % len(first)]} {second[i // len(first)]}" for i in order]


def _paired(named: list, g: np.random.Generator) -> list[str]:
    """Return the neighbour of each of the people `named`, [(name, split)]. Neighbours are
    neighbours of each other. In a split of an odd number three live in a circle of one-way
    neighbours, so nobody is left alone."""
    next_to = {}
    for split in SPLITS:
        names = [name for name, of in named if of == split]
        names = [names[i] for i in g.permutation(len(names)).tolist()]
        odd = names[-3:] if len(names) % 2 else []
        pairs = names[: len(names) - len(odd)]
        for a, b in zip(pairs[::2], pairs[1::2]):
            next_to[a], next_to[b] = b, a
        next_to |= dict(zip(odd, odd[1:] + odd[:1]))
    return [next_to[name] for name, _ in named]


def all_days(valid: bool) -> list[str]:
    """Return "first of January" and all other days of the calendar, or all days that are in none,
    such as "forty-fifth of March"."""
    return [
        f"{ordinal} of {month}"
        for month, length in MONTHS.items()
        for ordinal in (ORDINALS[:length] if valid else ORDINALS[length:])
    ]


def _days(count: int, g: np.random.Generator) -> list[str]:
    days = all_days(valid=True)
    return [days[i] for i in g.permutation(len(days))[:count].tolist()]


def _splits(count: int, settings: WorldSettings, kind: str) -> list[str]:
    """Return the split of each of `count` entities, in a random order, in the shares of SPLITS."""
    ends = np.cumsum(list(SPLITS.values()))
    ends = np.round(ends * count).astype(int).tolist()
    ordered = [
        split for split, first, last in zip(SPLITS, [0, *ends], ends) for _ in range(last - first)
    ]
    order = rng(settings.seed, "world", f"splits of {kind}").permutation(count)
    return [ordered[i] for i in order.tolist()]


def _tellings(splits: list[str], settings: WorldSettings, kind: str) -> list[int]:
    """Return the tellings of each entity. Each number comes about equally often in every split."""
    found = [0] * len(splits)
    for split in SPLITS:
        members = [i for i, s in enumerate(splits) if s == split]
        start = int(rng(settings.seed, "world", f"tellings of {kind}").integers(0, 1000))
        for k, i in enumerate(members):
            found[i] = settings.tellings[(start + k) % len(settings.tellings)]
    return found


def _values(fact: Fact, named: list, split_of: dict[str, str], settings: WorldSettings) -> list:
    """Return the value of this fact for each of the entities `named`, [(name, split)].

    All values of an attribute come about equally often. A relation leads to another person of the
    same split, so that nothing that is asked in one split is told in another. split_of: {name of a
    person: split}."""
    g = rng(settings.seed, "world", f"{fact.name} of {named[0][0] if named else 'nobody'}")
    if fact.values:
        repeated = np.resize(g.permutation(len(fact.values)), len(named))
        return [fact.values[i] for i in g.permutation(repeated).tolist()]
    if fact.name == "neighbour":
        return _paired(named, g)
    people = {split: [name for name, of in split_of.items() if of == split] for split in SPLITS}
    place = {name: i for some in people.values() for i, name in enumerate(some)}
    found = []
    for name, split in named:  # nobody is related to themselves
        i = int(g.integers(0, len(people[split]) - (name in place)))
        found.append(people[split][i + (i >= place.get(name, len(people[split])))])
    return found
