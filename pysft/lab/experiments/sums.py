"""Sums, answered at once or after a thought that adds digit by digit."""

from pysft.lab.arm import Arm
from pysft.lab.experiments.arms import CONTEXT, WIDE
from pysft.lab.experiments.charts import dots, tracks
from pysft.lab.experiments.columns import BASE, FORGOT, finished
from pysft.lab.experiments.experiment import Check, Column, Experiment
from pysft.lab.sums import adding, asked_sums, judge_of_sums, probe_of, rows_of, vocabulary
from pysft.lab.thoughts import ANSWERS, REPEATED, THINKING, Size, rewritten

STEPS, TIMES = 1200, 2
RECIPE = {"lr": 5e-3, "decay": 0.1, "pairs": 0, "windows": ((256, 1),)}
ASKED, LONG = "sums, as many questions", "sums, as many tokens"
AGAIN, STEP_BY_STEP = "the sum again", "step by step"
ALONG = (200, 400, 600, 800, 1000, 1500, 2000, 3000)
right = finished("right")


def sums(lab, seed):
    trained, sealed = asked_sums(seed)
    probe = probe_of(lab.heldout_text, trained, sealed)
    context = CONTEXT[WIDE]
    rows = rows_of(trained)
    tokenizer = vocabulary(rows, lab.tokenizer, thinks=True)
    whole = Size.of(rows, tokenizer, context)
    for name, kind, is_long in (
        (ASKED, ANSWERS, False),
        (LONG, ANSWERS, True),
        (AGAIN, REPEATED, False),
        (STEP_BY_STEP, THINKING, False),
    ):
        own = rewritten(rows, kind)
        size = Size.of(own, tokenizer, context)
        changes = size.changes(STEPS, TIMES)
        if is_long:
            changes["steps"] = round(STEPS * whole.graded / size.graded)
        yield Arm(
            name,
            WIDE,
            probe,
            RECIPE | changes,
            tuple(own),
            at=ALONG,
            tokenizer=vocabulary(rows, lab.tokenizer, thinks=kind != ANSWERS),
            judge=judge_of_sums,
            finish=adding,
        )


SUMS = Experiment(
    name="sums",
    title="Sums with and without their steps",
    claim="A student that is trained on reasoning traces learns to think step by step. (Ours: it"
    " adds numbers that it has never seen together better than a student that is trained on the"
    " same answers without their steps.)",
    arms=sums,
    columns=[
        Column("sums: right", right, "{:.1%}"),
        Column("thoughts: all steps right", finished("steps"), "{:.1%}"),
        Column("right after such a thought", finished("founded"), "{:.1%}"),
        Column("tokens of a reply", finished("length"), "{:.0f}"),
        Column("each sum asked", lambda r: r["epochs"], "{:.1f}"),
        Column("steps of training", lambda r: r["track"][-1]["step"], "{:.0f}"),
        FORGOT,
        BASE,
    ],
    checks=[
        Check(
            "with the steps at least 20 points more of the unseen sums are right than with answers"
            " alone, for as many questions",
            lambda r: right(r[STEP_BY_STEP]) - right(r[ASKED]) >= 0.2,
        ),
        Check(
            "and at least 20 points more of them for as many graded tokens",
            lambda r: right(r[STEP_BY_STEP]) - right(r[LONG]) >= 0.2,
        ),
        Check(
            "and at least 20 points more than after a thought that repeats the sum",
            lambda r: right(r[STEP_BY_STEP]) - right(r[AGAIN]) >= 0.2,
        ),
        Check(
            "with the steps at least 80 % are right",
            lambda r: right(r[STEP_BY_STEP]) >= 0.8,
        ),
        Check(
            "at least nine tenths of these follow a thought whose steps are all right",
            lambda r: finished("founded")(r[STEP_BY_STEP]) >= 0.9 * right(r[STEP_BY_STEP]) > 0,
        ),
    ],
    figures=lambda r: [
        tracks(r, "Right sums along the way", "right", "%", 100),
        dots(r, "Right sums", Column("right", right), "%", 100),
    ],
    note="20,000 sums of two numbers of three digits, in four wordings; measured on 300 others. No"
    " tool runs. The thought adds digit by digit from the right, each step with the carry of the"
    " one before: '2+5=7, 7+8=15, 4+3+1=8'. The vocabulary of the base has grown by the digits. As"
    " many tokens means more steps, until as many tokens are graded as with the thoughts.",
)
