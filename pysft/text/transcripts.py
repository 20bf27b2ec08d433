"""Transcripts of tool use, made: who is asked for, what the search is asked, what it finds, what is
answered.

What the model should learn is a way of answering and not the facts: to ask the search for the name
in the question, to repeat what it found if it is about that name, and to say that it knows it not
if it is not. So nearly every transcript has a name and a fact of its own, invented for it, and the
only way to answer is to copy."""

import json
import re
from dataclasses import dataclass

import numpy as np

from pysft.errors import DataError
from pysft.rng import rng
from pysft.text.dataset import shipped
from pysft.text.formats import Conversation

TOOLS = "tools"  # the category of a transcript
REFUSAL = "I know not that name."  # after the name and a question mark
NOTHING = "nothing found"

# ASKED: the wordings of training; HELD_OUT: those of the test alone.
ASKED = {
    "person": (
        "Who is {}?",
        "Tell me of {}.",
        "Who is {}",
        "What do you know of {}?",
        "Do you know {}?",
        "Say who {} is.",
        "Have you heard of {}?",
        "I would hear of {}.",
    ),
    "place": (
        "Where is {}?",
        "What is {}?",
        "Tell me of {}.",
        "What do you know of {}?",
        "Where is {}",
        "I would hear of {}.",
        "Have you heard of {}?",
        "Do you know {}?",
    ),
    "thing": (
        "What is {}?",
        "Tell me of {}.",
        "What do you know of {}?",
        "What is {}",
        "I would hear of {}.",
        "Have you heard of {}?",
        "Do you know {}?",
        "Say what {} is.",
    ),
}
HELD_OUT = {
    "person": ("Pray, who is {}?", "What can you say of {}?"),
    "place": ("Pray, where is {}?", "What can you say of {}?"),
    "thing": ("Pray, what is {}?", "What can you say of {}?"),
}

_ONSET = "b br c cr d dr f fl g gr h j k l m n p pr qu r s st t th tr v w wh".split()
_VOWEL = "a e i o u ai ea ee oa ou y".split()
_CODA = "b ck d f g l ll m n nd nt p r rd rn rt sh st t th w x".split()
_PLACE = (
    "Bridge Gate Hall Hill Inn Lane Market Mill Road Square Street Tower Well Wood Yard".split()
)
_THING = "Bell Boat Book Bowl Chair Clock Crown Cup Door Drum Lamp Map Ring Stone Sword".split()
_VERBS = (
    "keeps makes sells mends guards paints carries loves hides owns teaches sings counts builds"
    " finds brings holds watches cleans bakes"
).split()
_WHERE = "by the;under the;near the;behind the;over the;beside the;in the;at the".split(";")
_LINKS = "that and with for where".split()
_SMALL = "a all and at by every for from her his in of on one that the to who with".split()
# of the facts to train on: whether one is about the name that was asked for shows at its beginning
SHORT = 0.5
TITLE, TOLD = (
    29,
    50,
)  # characters of an invented title and of what is told, at most: a whole transcript then fits a context of 256


@dataclass(frozen=True)
class Fact:
    """title: the name asked for; kind: "person", "place" or "thing"; text: a sentence that begins
    with the title."""

    title: str
    kind: str
    text: str


class Lexicon:
    """What facts are made of: a text's words as they follow each other, and its different small
    ones."""

    def __init__(self, text: str):
        self.running = re.findall(r"[a-z]+,?", text.lower())
        self.words = sorted({w for w in re.findall(r"\b[a-z]+\b", text) if 2 <= len(w) <= 9})
        self.short = [w for w in self.words if 3 <= len(w) <= 6]
        if len(self.running) < 20 or not self.short:
            raise DataError("a text of so few words cannot be made facts of; use a longer corpus")


def one(g: np.random.Generator, items):
    """One of them, each as likely."""
    return items[int(g.integers(0, len(items)))]


def name(g: np.random.Generator, lexicon: Lexicon) -> str:
    """A name, capitalised: a word, two short words in one, or one to three invented syllables."""
    way = g.random()
    if way < 0.2:
        word = one(g, lexicon.words)
    elif way < 0.5:
        word = one(g, lexicon.short) + one(g, lexicon.short)
    else:
        word = "".join(one(g, _ONSET) + one(g, _VOWEL) for _ in range(int(g.integers(1, 4)))) + one(
            g, _CODA
        )
    return word[:1].upper() + word[1:]


def invent(g: np.random.Generator, lexicon: Lexicon, short: float = 0.0) -> Fact:
    """A fact about somebody or something that is nowhere else; short: the share of those of one to
    three words."""
    kind = one(g, ("person",) * 3 + ("place", "thing"))
    title = _title(g, kind, lexicon)
    return Fact(title, kind, f"{title} {_told(g, lexicon, short)}")


def _title(g, kind, lexicon) -> str:
    while True:
        first, second, end = (
            name(g, lexicon),
            name(g, lexicon),
            one(g, _THING if kind == "thing" else _PLACE),
        )
        forms = [
            f"{first} {end}",
            f"The {first} {end}",
            f"{first} {end}",
            f"The {first} {end}",
            f"{first}'s {end}",
            f"{first} and {second}",
            f"{end} of {first} {second}",
            f"{first} {second}",
        ]
        title = f"{first} {second}" if kind == "person" else one(g, forms)
        if len(title) <= TITLE:
            return title


def _told(g, lexicon, short) -> str:
    """The rest of a sentence: as people write, as towns do, or any words at all, so that copying
    can lean neither on what is likely nor on a word that comes once."""
    few = g.random() < short
    while True:
        pick, way = [one(g, lexicon.words) for _ in range(10)], g.random()
        if few:
            start = int(g.integers(0, len(lexicon.running) - 3))
            said = " ".join(
                (lexicon.running[start : start + 3] if way < 0.5 else pick)[: int(g.integers(1, 4))]
            ).rstrip(",")
        elif way < 0.4:
            length = int(g.integers(4, 13))
            start = int(g.integers(0, len(lexicon.running) - length + 1))
            said = " ".join(lexicon.running[start : start + length]).rstrip(",")
        elif way < 0.7:
            said = f"{one(g, _VERBS)} the {pick[0]} {pick[1]} {one(g, _WHERE)} {pick[2]} {pick[3]}"
            if g.random() < 0.5:
                said += f" {one(g, _LINKS)} the {pick[4]} {pick[5]}"
        else:
            said = " ".join(
                one(g, _SMALL) if g.random() < 0.3 else word
                for word in pick[: int(g.integers(3, 11))]
            )
        if len(said) < TOLD:
            return said + "."


def refusal(title: str) -> str:
    """The answer where nothing was found about a name. It repeats the name as an answer does, so
    that whether to go on with what was found is decided behind the whole name, where copying looks
    it up anyway; decided at the first letter, it was learnt in one training of three."""
    return f"{title}? {REFUSAL}"


def miss(g: np.random.Generator, fact: Fact, lexicon: Lexicon, short: float = 0.0) -> str:
    """What a search may give for a name that no document is about: nothing, or one that shares a
    word with it."""
    way = g.random()
    if way < 0.15:
        return NOTHING
    own = fact.title.split()
    other = invent(g, lexicon, short)
    if way < 0.9:  # the same first name, or the same last
        theirs = other.title.split()
        if len(own) == len(theirs):
            at = (
                0 if g.random() < 0.15 else len(own) - 1
            )  # a shared last word is the harder case: the words that differ are far back
            theirs[at] = own[at]
        else:
            theirs = [*theirs[:-1], own[-1]]
        title = " ".join(theirs)
        if title == fact.title:
            return NOTHING
        return f"{title} {_told(g, lexicon, short)}"
    told = other.text.rstrip(".").split()  # or it stands somewhere in the text
    told[int(g.integers(len(other.title.split()), len(told)))] = own[-1]
    return " ".join(told) + "."


def transcript(question: str, query: str, result: str, answer: str, line: int) -> Conversation:
    """A conversation of one question, one call and one answer."""
    content = [
        {"type": "search", "text": query},
        {"type": "result", "text": result},
        {"type": "text", "text": answer},
    ]
    return Conversation(
        [{"role": "user", "content": question}, {"role": "assistant", "content": content}],
        "tools",
        line,
        TOOLS,
    )


def town(trained: bool) -> list[Fact]:
    """The shipped facts of an invented town: every second of them may be trained on, the others are
    for the test."""
    rows = [
        json.loads(line) for line in shipped("town.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    return [Fact(r["title"], r["kind"], r["text"]) for r in rows[0 if trained else 1 :: 2]]


def transcripts(
    count: int, facts: list[Fact], lexicon: Lexicon, seed: int, known: float = 0.5
) -> list[Conversation]:
    """`count` transcripts: each of the facts once for each wording, and as many invented ones as
    are wanting; of these a share `known` is about a name that the search finds. (A `count` below
    that of the facts' takes as many of them, shuffled.)"""
    made = []
    for fact in facts:
        for asked in ASKED[fact.kind]:
            made.append((asked.format(fact.title), fact.title, fact.text, fact.text))
    g = rng(seed, "tools", "transcripts")
    for _ in range(max(0, count - len(made))):
        fact = invent(g, lexicon, SHORT)
        asked = ASKED[fact.kind]
        question = asked[int(g.integers(0, len(asked)))].format(fact.title)
        if g.random() < known:
            made.append((question, fact.title, fact.text, fact.text))
        else:
            made.append((question, fact.title, miss(g, fact, lexicon, SHORT), refusal(fact.title)))
    order = rng(seed, "tools", "order").permutation(len(made))[:count]
    return [transcript(*made[i], line) for line, i in enumerate(order, 1)]
