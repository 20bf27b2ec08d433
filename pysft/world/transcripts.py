"""Made transcripts of a search: a question about a name, a search for it, what the search found,
and the answer.

The model should learn a way of answering, not the facts: search for the name in the question,
repeat what was found if it is about that name, and otherwise say that the name is unknown. So
nearly every transcript has a name and a fact of its own, invented for it, and the only way to
answer is to copy.

Some go on from what was said before: "And where does she live?" can be searched for only with a
name that was said. A few end with an ordinary question, which needs no search. In a chat the model
sees its earlier replies without their calls and results, so that more of them fit the context.
These transcripts show them in the same way, and of each the last reply alone is graded."""

from typing import NamedTuple

import numpy as np

from pysft.rng import rng
from pysft.world.ask import refusal
from pysft.world.lexicon import NOTHING
from pysft.world.town import Fact, Words, invent, one, rest

# Share of the invented facts that go on with one to three words behind the name. Whether a fact is
# about the name that was asked for shows at its beginning.
SHORT = 0.5

# ASKED: the wordings of training. HELD_OUT: those of the test alone.
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

# Second and third questions about a person, by what they ask for.
FOLLOWED = {
    "home": (
        "And where does {she} live?",
        "Where does {she} live?",
        "And where is {her} home?",
        "Where is {her} house?",
        "And where does {she} sleep?",
    ),
    "friend": (
        "And who is {her} friend?",
        "Who is {her} friend?",
        "Does {she} have a friend?",
        "And does {she} have friends?",
        "Tell me of {her} friend.",
    ),
}
HELD_OUT_FOLLOWED = {
    "home": ("Pray, where does {she} live?", "And where is {her} house?"),
    "friend": ("Pray, who is {her} friend?", "And has {she} a friend?"),
}
PRONOUNS = ({"she": "she", "her": "her"}, {"she": "he", "her": "his"})
# Of the invented transcripts, the share that goes on from a question before, and the characters
# that all of one may have, so that it fits a context of 256 with the tokens of its template.
GOES_ON, LONGEST = 0.25, 238


class Transcript(NamedTuple):
    """A question, the calls of tools that a reply to it makes, [(tool, call, result)], and the
    answer. before: the questions and answers that come first, [(question, answer)]."""

    question: str
    calls: tuple[tuple[str, str, str], ...]
    answer: str
    before: tuple[tuple[str, str], ...] = ()


def miss(g: np.random.Generator, fact: Fact, source: Words, short: float = 0.0) -> str:
    """What a search may find for a name that no document is about: nothing, or a document that
    shares a word with the name."""
    way = g.random()
    if way < 0.08:
        return NOTHING
    words = fact.title.split()
    other = invent(g, source, short)
    if way < 0.92:  # the document is about a name with the same first word, or the same last
        theirs = other.title.split()
        if len(words) == len(theirs):
            # A shared last word is the harder case, because the words that differ are farther back.
            at = 0 if g.random() < 0.1 else len(words) - 1
            theirs[at] = words[at]
        else:
            theirs[-1] = words[-1]
        title = " ".join(theirs)
        return NOTHING if title == fact.title else f"{title} {rest(g, source, short)}"
    found = other.text.rstrip(".").split()  # or the word stands somewhere in its text
    found[int(g.integers(len(other.title.split()), len(found)))] = words[-1]
    return " ".join(found) + "."


def about(what: str, title: str) -> str:
    """The title of the fact that a second question asks for: what is "home" or "friend", title the
    name of a person."""
    return f"{what} of {title}"


def transcripts(
    count: int,
    facts: list[Fact],
    source: Words,
    seed: int,
    known: float = 0.5,
    ordinary: list[tuple[str, str]] = (),
) -> list[Transcript]:
    """`count` transcripts, shuffled: each of the facts once in each wording, and invented facts for
    the others. Of the invented, a share `known` is about a name that the search finds. If `count`
    is less than the facts give, some of these are left out. ordinary: prompts and replies of
    conversations, which stand before and behind questions about names, so that the model learns
    that not everything it is asked later goes on from a name."""
    made = _told(facts)
    g = rng(seed, "tools", "transcripts")
    for _ in range(max(0, count - len(made))):
        if g.random() < GOES_ON:
            made.append(_going_on(g, source, known, ordinary))
        else:
            made.append(_single(g, source, known))
    order = rng(seed, "tools", "order").permutation(len(made))[:count]
    return [made[i] for i in order.tolist()]


def _told(facts: list[Fact]) -> list[Transcript]:
    """Each of the facts in each wording that fits. Those about a person's home and friend are asked
    for after the question who that is."""
    people = {fact.title: fact for fact in facts if fact.kind == "person"}
    made = []
    for fact in facts:
        if fact.kind in ASKED:
            for wording in ASKED[fact.kind]:
                made.append(_searched(wording.format(fact.title), fact.title, fact.text, fact.text))
        else:
            person = people[fact.title.removeprefix(about(fact.kind, ""))]
            for i, wording in enumerate(FOLLOWED[fact.kind]):
                first = ASKED["person"][i].format(person.title), person.text
                question = wording.format(**PRONOUNS[i % 2])
                made.append(_searched(question, fact.title, fact.text, fact.text, [first]))
    return [row for row in made if _size(row) <= LONGEST]


def _searched(question: str, query: str, result: str, answer: str, before=()) -> Transcript:
    return Transcript(question, (("search", query, result),), answer, tuple(before))


def _single(g: np.random.Generator, source: Words, known: float) -> Transcript:
    """A question about an invented name, with nothing before it."""
    fact = invent(g, source, SHORT)
    question = one(g, ASKED[fact.kind]).format(fact.title)
    return _searched(question, fact.title, *_found(g, fact, fact, source, known))


def _going_on(g: np.random.Generator, source: Words, known: float, ordinary: list) -> Transcript:
    """A question after one or two others, of which one is about a person. It asks for that person's
    home or friend, asks about another name, or is an ordinary one of the conversations, which needs
    no search."""
    while True:
        person, pronouns = invent(g, source, SHORT, "person"), one(g, PRONOUNS)
        said = _found(g, person, person, source, known)[1]
        before = [(one(g, ASKED["person"]).format(person.title), said)]
        way = g.random()
        fact, earlier = (  # the home and the friend, in any order
            Fact(about(what, person.title), what, f"{person.title} {rest(g, source, SHORT)}")
            for what in g.permutation(list(FOLLOWED)).tolist()
        )
        if way < 0.15:  # a third question: the second one stands before it
            said = _found(g, earlier, person, source, known)[1]
            before.append((one(g, FOLLOWED[earlier.kind]).format(**pronouns), said))
            del before[: int(g.integers(0, 2))]  # a chat that needs room leaves the oldest out
        elif ordinary and way < 0.35:
            before.insert(int(g.integers(0, 2)), one(g, ordinary))
        if way < 0.55:
            question = one(g, FOLLOWED[fact.kind]).format(**pronouns)
            made = _searched(question, fact.title, *_found(g, fact, person, source, known))
        elif ordinary and way < 0.85:
            question, reply = one(g, ordinary)
            made = Transcript(question, (), reply)
        else:
            made = _single(g, source, known)
        made = made._replace(before=tuple(before))
        if _size(made) <= LONGEST:
            return made


def _found(
    g: np.random.Generator, fact: Fact, named: Fact, source: Words, known: float
) -> tuple[str, str]:
    """(what a search for a fact finds, the answer). named: the fact whose title is the name."""
    if g.random() < known:
        return fact.text, fact.text
    return miss(g, named, source, SHORT), refusal(named.title)


def _size(made: Transcript) -> int:
    """The characters of a transcript."""
    called = [text for _, *texts in made.calls for text in texts]
    said = [text for pair in made.before for text in pair]
    return sum(map(len, [made.question, *called, made.answer, *said]))
