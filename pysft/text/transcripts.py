"""Made transcripts of tool use: a question about a name, a search for it, what the search found,
and the answer.

The model should learn a way of answering, not the facts: search for the name in the question,
repeat what was found if it is about that name, and otherwise say that the name is unknown. So
nearly every transcript has a name and a fact of its own, invented for it, and the only way to
answer is to copy."""

import numpy as np

from pysft.rng import rng
from pysft.text.conversation import Conversation
from pysft.text.facts import Fact, Lexicon, invent, rest

TOOLS = "tools"  # the category of a transcript
REFUSAL = "I know not that name."  # after the name and a question mark
NOTHING = "nothing found"
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


def refusal(title: str) -> str:
    """The answer if nothing was found about a name. It repeats the name as an answer does, so the
    model decides behind the whole name whether to go on with what was found; there copying looks
    the name up anyway. When that was decided at the first letter, one training in three learnt
    it."""
    return f"{title}? {REFUSAL}"


def miss(g: np.random.Generator, fact: Fact, lexicon: Lexicon, short: float = 0.0) -> str:
    """What a search may find for a name that no document is about: nothing, or a document that
    shares a word with the name."""
    way = g.random()
    if way < 0.15:
        return NOTHING
    words = fact.title.split()
    other = invent(g, lexicon, short)
    if way < 0.9:  # the document is about a name with the same first word, or the same last
        theirs = other.title.split()
        if len(words) == len(theirs):
            # A shared last word is the harder case, because the words that differ are farther back.
            at = 0 if g.random() < 0.15 else len(words) - 1
            theirs[at] = words[at]
        else:
            theirs[-1] = words[-1]
        title = " ".join(theirs)
        return NOTHING if title == fact.title else f"{title} {rest(g, lexicon, short)}"
    found = other.text.rstrip(".").split()  # or the word stands somewhere in its text
    found[int(g.integers(len(other.title.split()), len(found)))] = words[-1]
    return " ".join(found) + "."


def transcript(question: str, query: str, result: str, answer: str, line: int) -> Conversation:
    """A conversation of one question, one search and one answer."""
    content = [
        {"type": "search", "text": query},
        {"type": "result", "text": result},
        {"type": "text", "text": answer},
    ]
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": content}]
    return Conversation(messages, "tools", line, TOOLS)


def transcripts(
    count: int, facts: list[Fact], lexicon: Lexicon, seed: int, known: float = 0.5
) -> list[Conversation]:
    """`count` transcripts, shuffled: each of the facts once in each wording, and invented facts for
    the others. Of the invented, a share `known` is about a name that the search finds. If `count`
    is less than the facts give, some of these are left out."""
    made = []  # (question, query, result, answer)
    for fact in facts:
        for wording in ASKED[fact.kind]:
            made.append((wording.format(fact.title), fact.title, fact.text, fact.text))
    g = rng(seed, "tools", "transcripts")
    for _ in range(max(0, count - len(made))):
        fact = invent(g, lexicon, SHORT)
        wordings = ASKED[fact.kind]
        question = wordings[int(g.integers(0, len(wordings)))].format(fact.title)
        if g.random() < known:
            made.append((question, fact.title, fact.text, fact.text))
        else:
            made.append((question, fact.title, miss(g, fact, lexicon, SHORT), refusal(fact.title)))
    order = rng(seed, "tools", "order").permutation(len(made))[:count]
    return [transcript(*made[i], line) for line, i in enumerate(order, 1)]
