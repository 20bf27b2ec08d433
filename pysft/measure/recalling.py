"""Conversations that teach a model to look at what it recalls before it answers.

A small model that is asked about somebody of whom it never read does not fail to recall. It recalls
somebody else whose name begins alike, and answers about them:

    What is the trade of Anwen Featherstone?      Anwen Fernley is a barber by trade.

So the rows have what it recalls as a thought, and the answer depends on whom the thought is about:

    answers    thought: its own right reply               answer: the same
    refusals   thought: its own reply about another       answer: a refusal
    compared   thought: a reply about the name that is asked for, or about another one, which the
               model reads and is not graded on           answer: the same, or a refusal

The names of `compared` are any, most of them of nobody, so it cannot be learned by heart which
names to refuse. Without these rows a model learns the names of the others by heart, and refuses
every new one. What it compares stands in its context, and so it works for names that it has not
seen."""

import numpy as np

from pysft.measure.knowing import KNOWN, MIXED, UNKNOWN, Asked, Probed
from pysft.rng import rng
from pysft.text.conversation import with_thought
from pysft.text.curated import Curated
from pysft.text.sampled import is_usable

MOST_RECALLED = 2  # different thoughts of a question that is refused
REACH = 8  # places in the order of names within which two begin alike


def recalled(found: list[Probed], by: str) -> tuple[list[Curated], list[Curated]]:
    """Return (answers, refusals): rows whose thoughts are the model's own replies."""
    answers = [
        _row(p.asked, reply, reply, "answers", by)
        for p in found
        if p.kind in (KNOWN, MIXED)
        for reply in p.right_replies()
    ]
    refusals = [
        _row(p.asked, reply, p.asked.refusal, "refusals", by)
        for p in found
        if p.kind == UNKNOWN
        for reply in _recalled_wrongly(p)
    ]
    return answers, refusals


def _recalled_wrongly(p: Probed) -> list[str]:
    """Different wrong replies. One that names whom the question asks about is left out: nothing
    in it shows that it is wrong."""
    wrong = [r for r, v in zip(p.replies, p.verdicts) if v == "wrong" and is_usable(r)]
    others = [r for r in wrong if not p.asked.about or p.asked.about not in r]
    return [*dict.fromkeys(others)][:MOST_RECALLED]


def compared(found: list[Probed], names, count: int, seed: int, by: str) -> list[Curated]:
    """Return `count` pairs of rows with a thought that is read only: one about the name that is
    asked for, and one about another. names: those that may stand in them, all of one kind, such as
    people; only questions about one of them are changed. Return [] if there are fewer than two
    names, or if no right reply to such a question names whom it asks about."""
    named = [(p.asked, reply) for p in found if p.kind == KNOWN for reply in p.right_replies()[:1]]
    ordered = sorted(set(names))
    named = [(a, r) for a, r in named if a.about in names and a.about in r and _asks(a)]
    if not named or len(ordered) < 2:
        return []
    g, rows = rng(seed, "probe", "compared"), []
    for _ in range(count):
        asked, reply = named[int(g.integers(len(named)))]
        place = int(g.integers(len(ordered)))
        about, other = ordered[place], ordered[_near(place, len(ordered), g)]
        question = _about(asked, about)
        same = reply.replace(asked.about, about)
        rows.append(_row(question, same, same, "compared", by, graded=False))
        another = reply.replace(asked.about, other)
        rows.append(_row(question, another, question.refusal, "compared", by, graded=False))
    return rows


def _near(place: int, count: int, g: np.random.Generator) -> int:
    """The place of another name, not more than REACH away."""
    places = [i for i in range(place - REACH, place + REACH + 1) if 0 <= i < count and i != place]
    return places[int(g.integers(len(places)))]


def _asks(asked: Asked) -> bool:
    """True if the prompt is one text that has the name in it."""
    return len(asked.prompt) == 1 and asked.about in asked.prompt[0]["content"]


def _about(asked: Asked, name: str) -> Asked:
    """The same question about somebody else."""
    text = asked.prompt[0]["content"].replace(asked.about, name)
    refusal = asked.refusal.replace(asked.about, name)
    return Asked([{"role": "user", "content": text}], "", refusal, name)


def _row(asked: Asked, thought: str, answer: str, kind: str, by: str, graded=True) -> Curated:
    reply = {"role": "assistant", "content": with_thought(thought, answer, graded)}
    row = Curated([*asked.prompt, reply], marks={"synthetic": True})
    return row.after("recall", by=by, rows=kind)
