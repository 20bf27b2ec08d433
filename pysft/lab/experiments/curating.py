"""Writing much and throwing most away: a teacher's rows with and without filters, and the hardest
tenth of some rows."""

from pysft.jobs.curate.prune import LOSS, RANDOM
from pysft.lab.curating_tasks import ALL, FILTERED, NONE, epochs, prepare_rows, student
from pysft.lab.experiments.charts import dots
from pysft.lab.experiments.columns import finished
from pysft.lab.experiments.experiment import Check, Column, Experiment
from pysft.lab.experiments.preferences import FORGOT
from pysft.lab.preferring import PRESET, TaskArm
from pysft.lab.pruning_tasks import prepare_before, pruning
from pysft.measure.raters import WORLD
from pysft.training.presets import OF_WORLD

SEEDS = 100
right, forgetting = finished("right"), finished("forgetting")
RIGHT = Column("right", right, "{:.1%}")
WRONG = Column("wrong", finished("wrong"), "{:.1%}")
NEW_WORDINGS = Column("right in new wordings", finished("new_wordings"), "{:.1%}")
ROWS = Column("rows", finished("rows"), "{:,.0f}")
OF_A_STUDENT = (RIGHT, WRONG, NEW_WORDINGS, FORGOT, ROWS)

# ----------------------------------------------------------------------------------- expansion

SIZES = FEWER, MORE = 2000, 8000  # rows of the teacher
TEACHER = {"seeds": SEEDS, "rows": MORE, "sft": {"steps": 100}}
EPOCHS = 3
# The source text's rate is a third of the pre-training's.
MINIMAL_RATE = OF_WORLD[PRESET]["base"]["lr"] / 3
ALONE, MINIMAL = "seeds alone", "the source's minimal recipe"
MINIMAL_ALONE = "the minimal recipe, seeds alone"
ALL_FEWER, ALL_MORE = (f"{n:,} rows, all" for n in SIZES)
KEPT_FEWER, KEPT_MORE = (f"{n:,} rows, filtered" for n in SIZES)


def expansion(lab, seed):
    shared = {"teacher": TEACHER, "sft": {"steps": 600}}
    yield TaskArm(ALONE, student, shared | {"which": NONE})
    for name, which, first in (
        (ALL_FEWER, ALL, FEWER),
        (ALL_MORE, ALL, MORE),
        (KEPT_FEWER, FILTERED, FEWER),
        (KEPT_MORE, FILTERED, MORE),
    ):
        yield TaskArm(name, student, shared | {"which": which, "first": first})
    gentle = {"lr": MINIMAL_RATE, "schedule": "constant", "warmup": 10}
    recipe = {"teacher": TEACHER, "first": MORE, "sft": gentle, "epochs": EPOCHS}
    yield TaskArm(MINIMAL, epochs, recipe | {"which": FILTERED})
    yield TaskArm(MINIMAL_ALONE, epochs, recipe | {"which": NONE})


EXPANSION = Experiment(
    name="expansion",
    title="From seeds to a data set",
    claim="Expand 50 to 100 written examples with a stronger model, filter aggressively, and train:"
    " filtered data keeps improving, unfiltered data plateaus.",
    arms=expansion,
    columns=[
        *OF_A_STUDENT,
        Column("kept by the filters", finished("kept"), "{:.1%}"),
        Column("copies of a seed", finished("copied"), "{:.0%}"),
        Column("epoch chosen by marks", finished("chosen"), "{:.0f}"),
        Column("steps until then", finished("steps"), "{:,.0f}"),
        Column("epoch of the lowest loss", finished("by_loss"), "{:.0f}"),
        Column("right then", finished("right_by_loss"), "{:.1%}"),
    ],
    checks=[
        Check(
            "filtered rows gain at least 15 points over the seeds alone",
            lambda r: right(r[KEPT_MORE]) - right(r[ALONE]) >= 0.15,
        ),
        Check(
            "and at least 5 over the same rows without filters",
            lambda r: right(r[KEPT_MORE]) - right(r[ALL_MORE]) >= 0.05,
        ),
        Check(
            "four times as many rows gain at least 2 points if they are filtered",
            lambda r: right(r[KEPT_MORE]) - right(r[KEPT_FEWER]) >= 0.02,
        ),
        Check(
            "and less than 2 if they are not",
            lambda r: right(r[ALL_MORE]) - right(r[ALL_FEWER]) < 0.02,
        ),
        Check(
            "the minimal recipe is right more often on filtered rows than on the seeds alone",
            lambda r: right(r[MINIMAL]) > right(r[MINIMAL_ALONE]),
        ),
        Check(
            "and more often than the seeds alone after 600 steps",
            lambda r: right(r[MINIMAL]) > right(r[ALONE]),
        ),
        Check(
            "and its checkpoint by marks at least as often as the one with the lowest loss",
            lambda r: right(r[MINIMAL]) >= finished("right_by_loss")(r[MINIMAL]),
        ),
    ],
    figures=lambda r: [dots(r, "Right answers", RIGHT, "%", 100)],
    note="100 seeds. Students are tuned for 600 steps on the seeds and the rows, drawn alike. The"
    " teacher is no stronger model: it is the same base, tuned on the seeds for 100 steps without"
    " a mask. `all` is what `expand` writes, without rows about what only sealed questions ask. It"
    " drops what it has written already, so of more rows fewer are right. The exact judge filters,"
    " so no false answer passes. The minimal recipe trains for"
    f" three epochs at a rate of {MINIMAL_RATE:g}; after each, 20 questions of the split"
    " `reward` that no row asks are marked by the exact judge, and the checkpoint with the highest"
    " marks counts.",
    on_world=True,
    prepare=prepare_rows(TEACHER),
)

# ------------------------------------------------------------------------------------- pruning

NOISE, SHARE = 0.25, 0.1
EVERY, DRAWN, HARDEST = "all rows", "random tenth", "hardest tenth"
NOISY_DRAWN, NOISY_HARDEST, NOISY_LOSS = (
    f"{name}, with false answers" for name in (DRAWN, HARDEST, "tenth of the highest loss")
)
BEFORE = {"seeds": SEEDS, "before": {"steps": 300}}


def pruned(lab, seed):
    for name, noise, keep, by in (
        (EVERY, 0.0, 1.0, RANDOM),
        (DRAWN, 0.0, SHARE, RANDOM),
        (HARDEST, 0.0, SHARE, WORLD),
        (NOISY_DRAWN, NOISE, SHARE, RANDOM),
        (NOISY_HARDEST, NOISE, SHARE, WORLD),
        (NOISY_LOSS, NOISE, SHARE, LOSS),
    ):
        options = BEFORE | {"noise": noise, "keep": keep, "by": by, "sft": {"steps": 300}}
        yield TaskArm(name, pruning, options)


false = finished("false")

PRUNING = Experiment(
    name="pruning",
    title="The hardest tenth",
    claim="Most synthetic examples are easy. Remove them and train on the hardest 5 to 10 %: the"
    " model learns more from less data.",
    arms=pruned,
    columns=[
        *OF_A_STUDENT,
        Column("false answers among them", false, "{:.0%}"),
        Column("difficulty of what is kept", finished("difficulty"), "{:.2f}"),
        Column("difficulty of all", finished("difficulty_of_all"), "{:.2f}"),
        Column("easy rows", finished("easy"), "{:.0%}"),
    ],
    checks=[
        Check(
            "at least half of the rows are easy: six of eight replies or more are right",
            lambda r: finished("easy")(r[HARDEST]) >= 0.5,
        ),
        Check(
            "the hardest tenth teaches at least as much as all rows",
            lambda r: right(r[HARDEST]) >= right(r[EVERY]),
        ),
        Check(
            "and at least 2 points more than a random tenth",
            lambda r: right(r[HARDEST]) - right(r[DRAWN]) >= 0.02,
        ),
        Check(
            "and forgets at most 1 point more of the base text",
            lambda r: forgetting(r[HARDEST]) - forgetting(r[DRAWN]) <= 0.01,
        ),
        Check(
            "without a judge before, the highest loss picks false answers: at least twice as many"
            " as a random tenth",
            lambda r: false(r[NOISY_LOSS]) >= 2 * false(r[NOISY_DRAWN]),
        ),
        Check(
            "and is right at least 5 points less often than a random tenth",
            lambda r: right(r[NOISY_DRAWN]) - right(r[NOISY_LOSS]) >= 0.05,
        ),
    ],
    figures=lambda r: [dots(r, "Right answers", RIGHT, "%", 100)],
    note="300 steps from the same model, which was tuned on 100 demonstrations. The rows are all"
    " questions that are not sealed, with right answers; where it says so, a quarter states"
    " another value. A row is as hard as its prompt: of eight replies of that model at"
    " temperature 1, the share that the exact judge does not call right. That judge knows the"
    " truth and does not read the row's answer, so it cannot prefer false ones; the loss does.",
    on_world=True,
    prepare=prepare_before(BEFORE),
)
