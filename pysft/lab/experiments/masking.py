"""Which tokens are graded: the mask, the first token of a reply, its end token."""

from pysft.lab.experiments.arms import PLAIN, pairs_arm, plain
from pysft.lab.experiments.charts import dots, tracks
from pysft.lab.experiments.columns import (
    COMPLIES,
    FORGOT,
    RECALL,
    REPLY,
    STOPPED,
    at,
    last,
    recalled,
)
from pysft.lab.experiments.experiment import Check, Column, Experiment
from pysft.lab.variants import first_token_masked, shuffled, without_end

# ------------------------------------------------------------------------------------ masking

UNMASKED = "no mask"


def masking(lab, seed):
    yield plain(lab)
    yield pairs_arm(lab, UNMASKED, settings={"grade": "everything"})


MASKING = Experiment(
    name="masking",
    title="With and without the loss mask",
    claim="Always mask: without it about half of the gradient goes into writing the user's words,"
    " learning is slower, and the model may write the user's part when it should answer.",
    arms=masking,
    columns=[
        RECALL,
        STOPPED,
        REPLY,
        Column("loss on replies at 200", at("reply_loss", 200)),
        COMPLIES,
        Column("replies without a user's turn", last("no_user_turn"), "{:.0%}"),
        FORGOT,
        Column("user's share of targets", last("user_targets"), "{:.0%}"),
        Column("of the gradient at the start", at("user_gradient", 0), "{:.0%}"),
        Column("of the gradient at the end", last("user_gradient"), "{:.0%}"),
    ],
    checks=[
        Check(
            "after 200 steps the loss on replies is lower with the mask",
            lambda r: at("reply_loss", 200)(r[PLAIN]) < at("reply_loss", 200)(r[UNMASKED]),
        ),
        Check(
            "after 1,000 steps it still is",
            lambda r: last("reply_loss")(r[PLAIN]) < last("reply_loss")(r[UNMASKED]),
        ),
        Check(
            "at the start 40 to 60 % of the unmasked gradient is the user's",
            lambda r: 0.4 <= at("user_gradient", 0)(r[PLAIN]) <= 0.6,
        ),
    ],
    figures=lambda r: [
        tracks(r, "Loss on the replies", "reply_loss", "nats per graded token", log_y=True),
        tracks(r, "User's share of the unmasked gradient", "user_gradient", "%", 100),
    ],
    note="The share of the gradient is of its 1-norm at the logits, as if nothing were masked. A"
    " conversation of one question and one answer ends with the end token, so no model here has"
    " seen what follows it, with a mask or without.",
)

# -------------------------------------------------------------------------------- first-token

OFF_BY_ONE = "first token masked (the source's code)"


def first_token(lab, seed):
    yield plain(lab)
    yield pairs_arm(lab, OFF_BY_ONE, encode=first_token_masked)


FIRST_TOKEN = Experiment(
    name="first-token",
    title="The first token of the reply, masked or not",
    claim="The source's printed code masks the label at the assistant's opening token, while its"
    " prose and drawings grade it. If that token is never trained, replies begin wrong and are not"
    " recalled.",
    arms=first_token,
    columns=[RECALL, STOPPED, REPLY, COMPLIES, FORGOT],
    checks=[
        Check(
            "with the token trained at least 36 of 40 pairs are recalled",
            lambda r: recalled(r[PLAIN]) >= 36,
        ),
        Check("with the source's code at most 4 are", lambda r: recalled(r[OFF_BY_ONE]) <= 4),
        Check("both learn to stop", lambda r: all(last("stopped")(x) >= 0.9 for x in r.values())),
    ],
    figures=lambda r: [
        tracks(r, "Pairs recalled", "recall", "of 40", 40),
        tracks(r, "Loss on the replies", "reply_loss", "nats", log_y=True),
    ],
)

# -------------------------------------------------------------------------------- missing-end


def missing_end(lab, seed):
    order = shuffled(range(1, 41), "missing end", seed)
    yield plain(lab)
    for n in (1, 4, 20, 40):
        encode = without_end(frozenset(order[:n]))
        yield pairs_arm(lab, f"{n} of 40 ends left out", (200, 500), encode=encode)


MISSING_END = Experiment(
    name="missing-end",
    title="End tokens left out",
    claim="One missing end token can confuse the model: it must learn from every example where to"
    " stop.",
    arms=missing_end,
    columns=[RECALL, STOPPED, COMPLIES, FORGOT],
    checks=[
        Check(
            "one missing end of 40 costs more than that one reply",
            lambda r: last("stopped")(r["1 of 40 ends left out"]) < 39 / 40 - 1e-9,
        ),
        Check(
            "with half of them missing, under 75 % of replies to the pairs stop",
            lambda r: last("stopped")(r["20 of 40 ends left out"]) < 0.75,
        ),
        Check(
            "with all missing no reply stops",
            lambda r: last("stopped")(r["40 of 40 ends left out"]) == 0,
        ),
    ],
    figures=lambda r: [dots(r, "Replies to the pairs that stop", STOPPED, "%", 100)],
)
