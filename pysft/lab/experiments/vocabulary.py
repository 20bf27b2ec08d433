"""New symbols: how their rows start, and whether a marker should be one token."""

import math

from pysft.lab.arm import Arm
from pysft.lab.experiments.arms import CONTEXT, EARLY, PLAIN, WIDE, pairs_arm, plain
from pysft.lab.experiments.charts import tracks
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
from pysft.lab.markers import judge_spelled, judge_tokens, spelled

# ----------------------------------------------------------------------------------- new-rows

MEAN = "mean rows"


def new_rows(lab, seed):
    yield plain(lab)
    yield pairs_arm(lab, MEAN, settings={"new_rows": "mean"})


NEW_ROWS = Experiment(
    name="new-rows",
    title="New rows: random or the mean of the old",
    claim="After the copy the model is the same for all old tokens; only the three new rows are"
    " random.",
    arms=new_rows,
    columns=[
        Column("base text before training", at("forgetting", 0), "{:+.2%}"),
        Column("loss on replies before", at("reply_loss", 0)),
        Column("after 50", at("reply_loss", 50)),
        Column("after 200", at("reply_loss", 200)),
        REPLY,
        RECALL,
        FORGOT,
    ],
    checks=[
        Check(
            "random rows move the base loss by less than 1 %",
            lambda r: abs(at("forgetting", 0)(r[PLAIN])) < 0.01,
        ),
        Check(
            "mean rows raise it by at most ln(68/65) = 0.045 nats",
            lambda r: (
                at("tuned_base_loss", 0)(r[MEAN]) - r[MEAN]["base_loss"] <= math.log(68 / 65) + 1e-6
            ),
        ),
        Check(
            "both recall at least 36 of 40",
            lambda r: all(recalled(x) >= 36 for x in r.values()),
        ),
    ],
    figures=lambda r: [
        tracks(r, "Loss on the replies", "reply_loss", "nats per graded token", log_y=True)
    ],
)

# ---------------------------------------------------------------------------------- one-token

ONE, SPELLED = "one token each", "spelled with characters"
# The source text's fine-tuning, on the base of WIDE, because spelled markers need its context.
SOURCE = {
    "steps": 1000,
    "pairs": 16,
    "windows": (),
    "lr": 1e-4,
    "schedule": "constant",
    "warmup": 0,
    "replacement": True,
    "new_rows": "random",
    "beta2": 0.999,
    "decay": 0.01,
    "decay_all": True,
    "clip": 0.0,
}


def one_token(lab, seed):
    probe = lab.probe(lab.pairs, lab.pairs, CONTEXT[WIDE], heldout=())
    common = dict(preset=WIDE, probe=probe, settings=SOURCE, pairs=lab.pairs, at=EARLY)
    yield Arm(ONE, judge=judge_tokens, **common)
    tokenizer = lab.tokenizer.grow_characters("<|>")
    yield Arm(SPELLED, judge=judge_spelled, encode=spelled, tokenizer=tokenizer, **common)


def _is_lower(r, step: int) -> bool:
    """True if the loss on replies after a step is lower with single tokens."""
    return at("reply_loss", step)(r[ONE]) < at("reply_loss", step)(r[SPELLED])


ONE_TOKEN = Experiment(
    name="one-token",
    title="A marker as one token, or spelled",
    claim="<|user|> must be one token: as eight characters it would be much harder for the model to"
    " learn that the sequence means something.",
    arms=one_token,
    columns=[
        RECALL,
        STOPPED,
        REPLY,
        Column("loss on replies at 200", at("reply_loss", 200)),
        COMPLIES,
        FORGOT,
        Column("tokens a conversation", last("tokens"), "{:.0f}"),
    ],
    checks=[
        Check(
            "after 200 steps the loss on replies is lower with single tokens",
            lambda r: _is_lower(r, 200),
        ),
        Check("after 1,000 steps it still is", lambda r: _is_lower(r, 1000)),
        Check(
            "with single tokens replies to unseen prompts comply more often, by ten points or more",
            lambda r: (
                last("format_compliance")(r[ONE]) >= last("format_compliance")(r[SPELLED]) + 0.1
            ),
        ),
    ],
    figures=lambda r: [
        tracks(
            r, "Loss on the replies' characters", "reply_loss", "nats per character", log_y=True
        ),
        tracks(r, "Pairs recalled", "recall", "of 40", 40),
    ],
    note="Both have 68 symbols: 65 characters and three tokens, or 65 and the three characters < |"
    " >. All three markers are spelled. The loss is over the reply's own characters, without its"
    " end.",
)
