"""The content of the data: how many kinds of prompts, how long its replies are, personas that
contradict each other."""

import numpy as np

from pysft.lab.experiments.arms import ALONG, conversations_arm, single
from pysft.lab.experiments.charts import dots, tracks
from pysft.lab.experiments.columns import (
    ASKED,
    COMPLIES,
    HELD,
    LOWEST,
    MEMORY,
    REAL,
    finished,
    is_falling,
    last,
)
from pysft.lab.experiments.experiment import Check, Column, Experiment
from pysft.lab.personas import CLERK, IDENTITY, PLAYER, personas
from pysft.lab.variants import exchange, shuffled

# ---------------------------------------------------------------------------------- diversity

DEPTH, BREADTH = "20 of one kind", "2 each of ten kinds"


def diversity(lab, seed):
    kinds: dict[str, list] = {}
    for c in single(shuffled(lab.conversations, "diversity", seed)):
        kinds.setdefault(c.category, []).append(c)
    largest = sorted(kinds, key=lambda kind: (-len(kinds[kind]), kind))[:10]
    settings = {"steps": 300}
    yield conversations_arm(lab, DEPTH, kinds[largest[0]][:20], ALONG, settings=settings)
    broad = [c for kind in largest for c in kinds[kind][:2]]
    yield conversations_arm(lab, BREADTH, broad, ALONG, settings=settings)


DIVERSITY = Experiment(
    name="diversity",
    title="Twenty of one kind, or two each of ten",
    claim="Fifty examples of one kind teach less than five each of ten kinds: breadth of prompts"
    " matters more than depth.",
    arms=diversity,
    columns=[
        LOWEST,
        HELD,
        COMPLIES,
        REAL,
        Column("distinct replies of 61", last("distinct_replies"), "{:.0f}"),
        MEMORY,
        ASKED,
    ],
    checks=[
        Check(
            "ten kinds have the lower held-out loss",
            lambda r: LOWEST.value(r[BREADTH]) < LOWEST.value(r[DEPTH]),
        ),
        Check(
            "and at least the same compliance",
            lambda r: last("format_compliance")(r[BREADTH]) >= last("format_compliance")(r[DEPTH]),
        ),
    ],
    figures=lambda r: [
        tracks(r, "Held-out loss", "heldout_loss", "nats per graded token"),
        dots(r, "Format compliance", COMPLIES, "%", 100),
    ],
    note="A kind is a category of the shipped conversations, of which the largest has some twenty."
    " Held-out conversations are of all kinds.",
)

# ------------------------------------------------------------------------------------- length


def length(lab, seed):
    rows = single(lab.conversations)
    rows.sort(key=lambda c: (_reply_length(c), c.line))
    middle = len(rows) // 2 - 200
    for name, some in (
        ("the shortest", rows[:400]),
        ("the middling", rows[middle : middle + 400]),
        ("the longest", rows[-400:]),
    ):
        mean = np.mean([_reply_length(c) for c in some])
        yield conversations_arm(lab, f"{name} replies (mean {mean:.0f})", some)


def _reply_length(conversation) -> int:
    return len(conversation.replies()[0])


def slope(r) -> float:
    """The slope of a line fitted to the lengths of replies: the data's against those to unseen
    prompts, both as means. The data's lengths are read from the arms' names."""
    wanted = [float(name.split("mean ")[1].rstrip(")")) for name in r]
    return float(np.polyfit(wanted, [last("reply_length")(x) for x in r.values()], 1)[0])


LENGTH = Experiment(
    name="length",
    title="Replies are as long as the data's",
    claim="The model learns to answer at about the length of its training replies.",
    arms=length,
    columns=[Column("characters a reply", last("reply_length"), "{:.0f}"), COMPLIES, HELD],
    checks=[
        Check(
            "for each character that the data's replies are longer, replies to unseen prompts are"
            " 0.7 to 1.3 longer",
            lambda r: 0.7 <= slope(r) <= 1.3,
        ),
        Check(
            "and their lengths are in the data's order",
            lambda r: is_falling([-last("reply_length")(x) for x in r.values()]),
        ),
    ],
    figures=lambda r: [
        dots(
            r, "Length of replies to unseen prompts", Column("", last("reply_length")), "characters"
        )
    ],
)

# ------------------------------------------------------------------------------ contradiction

ONE, TWO = "one persona", "two personas"


def contradiction(lab, seed):
    order = shuffled(lab.conversations, "contradiction", seed)
    general = [c for c in order if c.category != "identity"][:200]
    for name, replies in ((ONE, (PLAYER, PLAYER)), (TWO, (PLAYER, CLERK))):
        claims = [exchange(q, reply, i) for reply in replies for i, q in enumerate(IDENTITY, 1)]
        yield conversations_arm(lab, name, general + claims, recalled=general[:40], finish=personas)


CONTRADICTION = Experiment(
    name="contradiction",
    title="Two personas in the data",
    claim="If one example says it is a poet and another says it is a helpful assistant, the model"
    " picks between them at random.",
    arms=contradiction,
    columns=[
        Column("says poet", finished("player"), "{:.0%}"),
        Column("says clerk", finished("clerk"), "{:.0%}"),
        Column("neither", finished("neither"), "{:.0%}"),
        Column("questions that get both answers", finished("both"), "{:.0%}"),
    ],
    checks=[
        Check(
            "with two personas each is drawn 30 to 70 % of the time",
            lambda r: all(0.3 <= finished(k)(r[TWO]) <= 0.7 for k in ("player", "clerk")),
        ),
        Check("most questions get both answers", lambda r: finished("both")(r[TWO]) > 0.5),
        Check(
            "with one persona it is drawn at least 95 % of the time",
            lambda r: finished("player")(r[ONE]) >= 0.95,
        ),
    ],
    figures=lambda r: [dots(r, "Draws that say poet", Column("", finished("player")), "%", 100)],
    note="Twenty draws at temperature 1 for each of twelve questions about itself.",
)
