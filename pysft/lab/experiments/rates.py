"""Learning rates, and the source text's rule for finding one."""

import numpy as np

from pysft.lab.experiments.arms import PLAIN, SMALL, pairs_arm, plain
from pysft.lab.experiments.charts import by_seed, losses
from pysft.lab.experiments.columns import (
    COMPLIES,
    FORGOT,
    JUMP,
    REAL,
    RECALL,
    REPLY,
    first_loss,
    is_falling,
    last,
    last_loss,
    recalled,
    spike_count,
)
from pysft.lab.experiments.experiment import Check, Column, Experiment
from pysft.measure import figures

SPIKES = Column("spikes", spike_count, "{:.0f}")


def short(lr: float) -> str:
    """A learning rate as people write it: 1e-4."""
    return f"{lr:.0e}".replace("e-0", "e-")


def rate_arm(lab, lr: float):
    """The source's recipe at another rate."""
    return pairs_arm(lab, f"rate {short(lr)}", settings={"lr": lr})


# ------------------------------------------------------------------------------ learning-rate

RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
TO_1E_3 = ("rate 1e-5", "rate 3e-5", PLAIN, "rate 3e-4", "rate 1e-3")


def learning_rate(lab, seed):
    for lr in RATES:
        yield plain(lab) if lr == 1e-4 else rate_arm(lab, lr)


def _by_rate(results, name, title, label, scale) -> tuple[str, str]:
    """A figure at the last measurement against the learning rate."""
    ys = by_seed(list(results.values()), name, scale)
    series = [figures.Series("after the last step", list(RATES), ys)]
    return title, figures.curves(title, series, "learning rate", label, log_x=True)


LEARNING_RATE = Experiment(
    name="learning-rate",
    title="Too low, right, too high",
    claim="A third of the pre-training rate (3e-4) is right: 1e-4. A lower rate hardly moves in"
    " 1,000 steps; the pre-training rate and above learn the format fast, with spikes, and destroy"
    " what the base knew.",
    arms=learning_rate,
    columns=[RECALL, REPLY, Column("training loss", last_loss), SPIKES, COMPLIES, FORGOT, REAL],
    checks=[
        Check(
            "1e-5 recalls less than a tenth of the pairs", lambda r: recalled(r["rate 1e-5"]) < 4
        ),
        Check(
            "and most of its replies to unseen prompts do not comply: it still autocompletes",
            lambda r: last("format_compliance")(r["rate 1e-5"]) < 0.5,
        ),
        Check("1e-4 recalls at least 36 of 40", lambda r: recalled(r[PLAIN]) >= 36),
        Check(
            "forgetting rises with the rate from 1e-5 to 1e-3",
            lambda r: is_falling([-last("forgetting")(r[n]) for n in TO_1E_3]),
        ),
        Check(
            "the pre-training rate has more spikes than 1e-4",
            lambda r: spike_count(r["rate 3e-4"]) > spike_count(r[PLAIN]),
        ),
        Check(
            "and its replies have five points fewer real words",
            lambda r: last("real_words")(r["rate 3e-4"]) <= last("real_words")(r[PLAIN]) - 0.05,
        ),
        Check(
            "from 1e-2 on there are spikes",
            lambda r: all(
                spike_count(r[n]) > 0 or r[n]["diverged"] for n in ("rate 1e-2", "rate 3e-2")
            ),
        ),
        Check(
            "at ten times the pre-training rate replies keep the format, but under half of their"
            " words are real",
            lambda r: (
                last("format_compliance")(r["rate 3e-3"]) >= 0.8
                and last("real_words")(r["rate 3e-3"]) < 0.5
            ),
        ),
    ],
    figures=lambda r: [
        losses(r, "Training loss", log_y=True),
        _by_rate(r, "forgetting", "Forgetting", "rise of the base loss, %", 100),
        _by_rate(r, "recall", "Pairs recalled", "of 40", 40),
        _by_rate(r, "real_words", "Real words", "%", 100),
    ],
)

# ------------------------------------------------------------------------------------ find-lr

STARTS = (  # (name, multiple of the pre-training rate)
    ("a third of the pre-training rate", 1 / 3),
    ("far too low", 1 / 300),
    ("far too high", 100.0),
)
TRIES = 10  # maximum number of rates that are tried from one start


def find_lr(lab, seed):
    """The source's rule, from its own start and from two bad ones: start at a third of the
    pre-training rate; halve it if the loss is jumpy; double it if the loss has hardly moved after
    500 steps. It ends with a rate that is right, before a rate is tried again, or after TRIES."""
    for start, factor in STARTS:
        lr, tried = lab.settings(SMALL).stages["base"].lr * factor, []
        while lr not in tried and len(tried) < TRIES:
            settings = {"lr": lr, "steps": 500}
            record = yield pairs_arm(lab, f"{start}: {lr:.3g}", (100, 200), settings)
            tried.append(lr)
            judged = judge_rate(record)
            if judged == "right":
                break
            lr = lr / 2 if judged == "jumpy" else lr * 2


def judge_rate(record: dict) -> str:
    """A judgement of the rate by the loss of 500 steps. "jumpy": it diverged, or rose above JUMP
    times the first loss, or more than 2 % of the steps are spikes. "flat": it fell by less than a
    fifth. Else "right"."""
    curve = record["losses"]
    spikes = spike_count(record)
    if record["diverged"] or max(curve) > JUMP * curve[0] or spikes > 0.02 * len(curve):
        return "jumpy"
    return "flat" if np.mean(curve[-20:]) > 0.8 * curve[0] else "right"


def ends(r) -> dict[str, dict]:
    """The record of the last try from each start."""
    return {name.split(":")[0]: record for name, record in r.items()}


FIND_LR = Experiment(
    name="find-lr",
    title="The source's rule for finding a rate",
    claim="Start at a third of the pre-training rate. If the loss is jumpy, halve it; if it hardly"
    " moves after 500 steps, double it.",
    arms=find_lr,
    columns=[
        Column("loss at the start", first_loss),
        Column("after 500 steps", last_loss),
        SPIKES,
        Column("judged", judge_rate),
        RECALL,
        FORGOT,
        REAL,
    ],
    checks=[
        Check(
            "a third of the pre-training rate is right at once",
            lambda r: judge_rate(list(r.values())[0]) == "right",
        ),
        Check(
            "from a rate far too low it ends at one that is right",
            lambda r: judge_rate(ends(r)["far too low"]) == "right",
        ),
        Check(
            "and so it does from one far too high",
            lambda r: judge_rate(ends(r)["far too high"]) == "right",
        ),
        Check(
            "wherever it ends, at least 36 of 40 pairs are recalled",
            lambda r: all(recalled(x) >= 36 for x in ends(r).values()),
        ),
        Check(
            "and forgetting stays below 15 %",
            lambda r: all(last("forgetting")(x) < 0.15 for x in ends(r).values()),
        ),
    ],
    figures=lambda r: [losses(r, "Training loss", log_y=True)],
    note="The rule looks at the training loss alone. It does not see what the base forgets"
    " meanwhile.",
)
