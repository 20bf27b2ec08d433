"""Facts about names: 240 of a town, which ship, and as many more as are wanted, made up from the
words of a text."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pysft.errors import DataError

TOWN = Path(__file__).resolve().parents[1] / "data" / "town.jsonl"
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
# Characters at most of an invented title, and of the rest of its sentence. A transcript of one
# question then fits a context of 256.
TITLE, REST = 29, 50


@dataclass(frozen=True)
class Fact:
    """title: a name; kind: "person", "place" or "thing"; text: a sentence that begins with the
    title. A fact of kind "home" or "friend" has the title "home of NAME", and its text begins with
    the name."""

    title: str
    kind: str
    text: str


class Words:
    """The words of a text, of which facts are made up.

    running: the words of a text as they follow each other. words: its different words of two to
    nine letters in lower case. short: those of three to six."""

    def __init__(self, text: str):
        self.running = re.findall(r"[a-z]+,?", text.lower())
        self.words = sorted({w for w in re.findall(r"\b[a-z]+\b", text) if 2 <= len(w) <= 9})
        self.short = [w for w in self.words if 3 <= len(w) <= 6]
        if len(self.running) < 20 or not self.short:
            raise DataError("a text of so few words cannot be made facts of; use a longer corpus")


def town(trained: bool) -> list[Fact]:
    """The shipped facts of an invented town: the half that may be trained on, or the half for the
    test."""
    lines = TOWN.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [Fact(r["title"], r["kind"], r["text"]) for r in rows[0 if trained else 1 :: 2]]


def one(g: np.random.Generator, items):
    """One of the items, each equally likely."""
    return items[int(g.integers(0, len(items)))]


def name(g: np.random.Generator, source: Words) -> str:
    """A name, capitalised: a word, two short words in one, or one to three invented syllables."""
    way = g.random()
    if way < 0.2:
        word = one(g, source.words)
    elif way < 0.5:
        word = one(g, source.short) + one(g, source.short)
    else:
        syllables = [one(g, _ONSET) + one(g, _VOWEL) for _ in range(int(g.integers(1, 4)))]
        word = "".join(syllables) + one(g, _CODA)
    return word[:1].upper() + word[1:]


def invent(
    g: np.random.Generator, source: Words, short: float = 0.0, kind: str | None = None
) -> Fact:
    """A fact about somebody or something that no other text names. short: the share of facts of
    which the rest behind the title has one to three words. kind: None draws one."""
    kind = kind or one(g, ("person",) * 3 + ("place", "thing"))
    title = _title(g, kind, source)
    return Fact(title, kind, f"{title} {rest(g, source, short)}")


def _title(g: np.random.Generator, kind: str, source: Words) -> str:
    while True:
        first, second = name(g, source), name(g, source)
        end = one(g, _THING if kind == "thing" else _PLACE)
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


def rest(g: np.random.Generator, source: Words, short: float) -> str:
    """The rest of a sentence behind its title: a stretch of the text, a sentence of the form that
    the town's have, or any words. So whoever copies it can rely neither on what is likely nor on
    words that come only once."""
    is_short = g.random() < short
    while True:
        pick, way = [one(g, source.words) for _ in range(10)], g.random()
        if is_short:
            start = int(g.integers(0, len(source.running) - 3))
            words = source.running[start : start + 3] if way < 0.5 else pick
            text = " ".join(words[: int(g.integers(1, 4))]).rstrip(",")
        elif way < 0.4:
            length = int(g.integers(4, 13))
            start = int(g.integers(0, len(source.running) - length + 1))
            text = " ".join(source.running[start : start + length]).rstrip(",")
        elif way < 0.7:
            text = f"{one(g, _VERBS)} the {pick[0]} {pick[1]} {one(g, _WHERE)} {pick[2]} {pick[3]}"
            if g.random() < 0.5:
                text += f" {one(g, _LINKS)} the {pick[4]} {pick[5]}"
        else:
            words = pick[: int(g.integers(3, 11))]
            text = " ".join(one(g, _SMALL) if g.random() < 0.3 else word for word in words)
        if len(text) < REST:
            return text + "."
