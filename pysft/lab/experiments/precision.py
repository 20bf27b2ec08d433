"""Products in bf16 against products in float32: is anything lost?"""

from pysft.errors import UsageError
from pysft.lab.experiments.arms import PLAIN, conversations_arm, pairs_arm, plain
from pysft.lab.experiments.charts import losses, tracks
from pysft.lab.experiments.columns import (
    BASE,
    COMPLIES,
    FORGOT,
    REAL,
    RECALL,
    REPLY,
    TOPIC,
    last,
    recalled,
)
from pysft.lab.experiments.experiment import Check, Experiment
from pysft.nn.computing import in_precision

IN_BF16, TALK, TALK_IN_BF16 = f"{PLAIN}, bf16", "conversations", "conversations, bf16"


def precision(lab, seed):
    """Two recipes, each from base to tuned model in either precision."""
    in_precision(lab.ops, "bf16")  # a UsageError where the processor lacks it
    bf16 = {"precision": "bf16"}
    yield plain(lab)
    yield pairs_arm(lab, IN_BF16, **bf16)
    yield conversations_arm(lab, TALK, lab.conversations)
    yield conversations_arm(lab, TALK_IN_BF16, lab.conversations, **bf16)


def can_run(ops) -> bool:
    """True if the functions can compute in bf16 on this processor."""
    try:
        in_precision(ops, "bf16")
    except UsageError:
        return False
    return True


def apart(r, name: str, arms=(TALK, TALK_IN_BF16)) -> float:
    """How far a figure at the last measurement in bf16 is from the one in float32."""
    in_float32, in_bf16 = (last(name)(r[arm]) for arm in arms)
    return abs(in_bf16 - in_float32)


PRECISION = Experiment(
    name="precision",
    title="Half the bits of a factor",
    claim="Products whose factors are rounded to bf16, added up in float32, train the same models:"
    " losses, recall, forgetting and topics are where float32 has them. (Ours; the source text"
    " trains in float32 alone.)",
    arms=precision,
    columns=[
        BASE,
        RECALL,
        REPLY,
        FORGOT,
        COMPLIES,
        REAL,
        TOPIC,
    ],
    checks=[
        Check(
            "the base loss of the source's recipe is within 0.005 nats of float32's",
            lambda r: abs(r[IN_BF16]["base_loss"] - r[PLAIN]["base_loss"]) <= 0.005,
        ),
        Check(
            "and that of the larger base within 0.01",
            lambda r: abs(r[TALK_IN_BF16]["base_loss"] - r[TALK]["base_loss"]) <= 0.01,
        ),
        Check("it recalls all 40 pairs", lambda r: recalled(r[IN_BF16]) == 40),
        Check(
            "forgetting differs by at most two points",
            lambda r: apart(r, "forgetting", (PLAIN, IN_BF16)) <= 0.02,
        ),
        Check(
            "the on-topic rate after conversations by at most three",
            lambda r: apart(r, "on_topic") <= 0.03,
        ),
    ],
    figures=lambda r: [
        losses(r, "Training loss", log_y=True),
        tracks(r, "Forgetting", "forgetting", "rise of the base loss, %", 100),
    ],
    note="Both precisions draw the same batches. All seeds share a base unless --retrain-base is"
    " given; then base losses have a spread too.",
)
