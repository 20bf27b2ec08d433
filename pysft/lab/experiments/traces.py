"""Traces of reasoning: what a student learns from a teacher's steps, from its own, and from those
that the world writes. The questions take two steps in an invented world."""

from pysft.lab.experiments.charts import dots
from pysft.lab.experiments.columns import finished
from pysft.lab.experiments.experiment import Check, Column, Experiment
from pysft.lab.experiments.preferences import FORGOT
from pysft.lab.preferring import Subject, TaskArm
from pysft.lab.thoughts import ANSWERS, REPEATED, THINKING
from pysft.lab.traces_tasks import (
    ALONE,
    OWN,
    TEACHERS,
    WRITTEN,
    neighbours,
    self_taught,
    student,
    taught,
)

two_hops, traced, founded = finished("two_hops"), finished("traced"), finished("founded")
attributes, next_to = finished("attributes"), finished("neighbours")
TWO_HOPS = Column("two hops: right", two_hops, "{:.1%}")
BOTH = Column("thoughts: both steps true", traced, "{:.1%}")
LENGTH = Column("tokens of a reply", finished("length"), "{:.0f}")
OF_TWO_HOPS = [
    TWO_HOPS,
    Column("thoughts: first step true", finished("first"), "{:.1%}"),
    BOTH,
    Column("right after both", founded, "{:.1%}"),
    Column("attributes: right", attributes, "{:.1%}"),
    Column("neighbours: right", next_to, "{:.1%}"),
    LENGTH,
]

# ------------------------------------------------------------------------------------- traces

TEACHER = {"steps": 800, "times": 16}
RECIPE = {"teacher": TEACHER, "tries": 4, "steps": 500, "times": 10}
QUESTIONS, TOKENS = "questions", "tokens"
ALONE_ASKED, ALONE_LONG = "answers, as many questions", "answers, as many tokens"
AGAIN, STEPS = "the question again", "the teacher's steps"


def traces(lab, seed):
    for name, rows, as_many in (
        (ALONE_ASKED, ANSWERS, QUESTIONS),
        (ALONE_LONG, ANSWERS, TOKENS),
        (AGAIN, REPEATED, QUESTIONS),
        (STEPS, THINKING, QUESTIONS),
    ):
        yield TaskArm(name, student, RECIPE | {"rows": rows, "as_many": as_many}, neighbours)


def prepare_traces(lab, seed: int) -> None:
    """Make the teacher's rows."""
    taught(Subject(lab, neighbours(seed), seed), RECIPE, lab.progress)


def is_known(record: dict, least: float = 0.8) -> bool:
    """True if at least this share of the facts of both kinds is answered right when asked for
    directly."""
    return min(attributes(record), next_to(record)) >= least


TRACED = Experiment(
    name="traces",
    title="Answers with and without their steps",
    claim="Distillation: a teacher writes reasoning traces, and a student that is trained on them"
    " learns to think step by step. (Ours: it answers better than a student that is trained on the"
    " same answers without their steps.)",
    arms=traces,
    columns=[
        *OF_TWO_HOPS,
        Column("times that a question is asked", finished("times"), "{:.1f}"),
        Column("graded tokens", finished("graded"), "{:,.0f}"),
        FORGOT,
    ],
    checks=[
        Check(
            "every student knows the facts: of each kind at least 80 % are right if asked for"
            " directly",
            lambda r: all(is_known(x) for x in r.values()),
        ),
        Check(
            "with the teacher's steps at least 20 points more of two hops are right than with"
            " answers alone, for as many questions",
            lambda r: two_hops(r[STEPS]) - two_hops(r[ALONE_ASKED]) >= 0.2,
        ),
        Check(
            "and at least 20 points more for as many graded tokens",
            lambda r: two_hops(r[STEPS]) - two_hops(r[ALONE_LONG]) >= 0.2,
        ),
        Check(
            "and at least 20 points more than with a thought that repeats the question",
            lambda r: two_hops(r[STEPS]) - two_hops(r[AGAIN]) >= 0.2,
        ),
        Check(
            "at least 60 % of its thoughts have both steps true",
            lambda r: traced(r[STEPS]) >= 0.6,
        ),
        Check(
            "at least nine tenths of its right answers follow such a thought",
            lambda r: founded(r[STEPS]) >= 0.9 * two_hops(r[STEPS]) > 0,
        ),
    ],
    figures=lambda r: [
        dots(r, "Right answers of two hops", TWO_HOPS, "%", 100, level=(100 / 16, "a guess")),
        dots(r, "Thoughts with both steps true", BOTH, "%", 100),
    ],
    note="All students begin from the base and learn the same questions of one hop beside those of"
    " two. The teacher is the base after more steps on traces that the world writes; of four"
    " tries at a question the first is kept whose answer the exact judge calls right. The visible"
    " answer is the same in all arms: 'The neighbour of Ada Brook keeps a toad.' Only the thought"
    " before it differs: none; 'What pet has the neighbour of Ada Brook? What pet ...', as long as"
    " the trace; or the trace, 'Ada Brook lives next to Ivo Finch. Ivo Finch keeps a toad.' As many"
    " tokens means more steps, until as many tokens are graded as with the traces.",
    on_world=True,
    prepare=prepare_traces,
)

# ---------------------------------------------------------------------------------- own-traces

FEW = 8  # people with written traces, of fifty
OF_OWN = {
    "few": FEW,
    "start": {"steps": 300, "times": 16},
    "teacher": TEACHER,
    "tries": 8,
    "steps": 500,
    "tokens": 2800,
}
ONLY_FEW, OWN_RIGHT = "the few written", "and its own right ones"
OF_TEACHER, OF_EXPERTS = "and the teacher's right ones", "and all others, written"


def own_traces(lab, seed):
    for name, rows in (
        (ONLY_FEW, ALONE),
        (OWN_RIGHT, OWN),
        (OF_TEACHER, TEACHERS),
        (OF_EXPERTS, WRITTEN),
    ):
        yield TaskArm(name, self_taught, OF_OWN | {"rows": rows}, neighbours)


OWN_TRACES = Experiment(
    name="own-traces",
    title="Own traces and a teacher's",
    claim="Reasoning chains that a stronger model made teach a smaller one (DeepSeek, R1). (Ours: a"
    " model also learns from its own right chains, after a few written ones: STaR, Zelikman et al."
    " 2022.)",
    arms=own_traces,
    columns=[
        *OF_TWO_HOPS,
        Column("rows of traces", finished("rows"), "{:.0f}"),
        Column("right tries", finished("right_tries"), "{:.0%}"),
        Column("rows with a true trace", finished("true_traces"), "{:.0%}"),
    ],
    checks=[
        Check(
            "its own right traces bring at least 10 points more of two hops than the few written"
            " ones alone",
            lambda r: two_hops(r[OWN_RIGHT]) - two_hops(r[ONLY_FEW]) >= 0.1,
        ),
        Check(
            "the teacher's bring at least 5 points more than its own",
            lambda r: two_hops(r[OF_TEACHER]) - two_hops(r[OWN_RIGHT]) >= 0.05,
        ),
        Check(
            "those that the world writes bring at least 10 points more than the few alone",
            lambda r: two_hops(r[OF_EXPERTS]) - two_hops(r[ONLY_FEW]) >= 0.1,
        ),
        Check(
            "at least nine tenths of its own traces that led to a right answer are true themselves",
            lambda r: finished("true_traces")(r[OWN_RIGHT]) >= 0.9,
        ),
    ],
    figures=lambda r: [
        dots(r, "Right answers of two hops", TWO_HOPS, "%", 100, level=(100 / 16, "a guess")),
        dots(r, "Thoughts with both steps true", BOTH, "%", 100),
    ],
    note=f"Traces are written for the questions about {FEW} of 50 people. For those about the"
    " others a model tries eight times, and the first try with a right answer is kept: the model"
    " itself, after a short start on the few written traces, or the teacher, which has learned from"
    " all written ones. All students begin from the base, and take as many steps of as many tokens,"
    " with the few written traces and questions of one hop beside the others. Whether a model's"
    " chains bring more than those of experts cannot be asked here, since the teacher learned from"
    " what the world writes.",
    on_world=True,
    prepare=prepare_traces,
)
