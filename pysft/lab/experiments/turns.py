"""Conversations of several turns against single questions with the same answers."""

from pysft.lab.experiments.charts import dots
from pysft.lab.experiments.columns import finished
from pysft.lab.experiments.experiment import Check, Column, Experiment
from pysft.lab.preferring import TaskArm
from pysft.lab.turns_tasks import PLACES, TURNS, conversed, prepare_base

# The recipe of a world, with fewer steps.
TUNING = {"steps": 400}
GRADED = 700  # tokens of replies in a step of 1,600 tokens, about
SINGLE, SEVERAL, HALF = "single turns", "three turns", "half and half"
CHANGING, LAST = "three turns, half change the subject", "three turns, the last graded"


def arm(name: str, several: float, changing: float = 0.0, grade: str = "all") -> TaskArm:
    """An arm. several, changing, grade: as conversed() takes them."""
    options = {"several": several, "changing": changing, "grade": grade}
    return TaskArm(name, conversed, options | {"graded": GRADED, "tuning": TUNING})


def arms(lab, seed):
    yield arm(SINGLE, 0.0)
    yield arm(SEVERAL, 1.0)
    yield arm(HALF, 0.5)
    yield arm(CHANGING, 1.0, changing=0.5)
    yield arm(LAST, 1.0, grade="last")


first, second, third = map(finished, PLACES)
named = finished("named")
complies = {place: finished(f"format_{place}") for place in PLACES}
FIRST = Column("right, first turn", first, "{:.1%}")
SECOND = Column("right, second turn", second, "{:.1%}")


TURNS_OF = Experiment(
    name="turns",
    title="Several turns against one",
    claim="The mechanics of several turns are identical: there are more replies to grade."
    " Production models are trained on several turns. (So it should help with later turns, and cost"
    " nothing in the first.)",
    arms=arms,
    columns=[
        FIRST,
        SECOND,
        Column("right, third turn", third, "{:.1%}"),
        Column("right, second turn about another, by name", named, "{:.1%}"),
        *(Column(f"in format, {place} turn", complies[place], "{:.1%}") for place in PLACES),
        Column("forgetting of base text", finished("forgetting"), "{:+.1%}"),
        Column("tokens of a step", finished("step_tokens"), "{:,.0f}"),
    ],
    checks=[
        Check(
            "three turns answer at least 20 points more second questions right than single turns",
            lambda r: second(r[SEVERAL]) - second(r[SINGLE]) >= 0.2,
        ),
        Check(
            "they lose at most 3 points in the first turn",
            lambda r: first(r[SINGLE]) - first(r[SEVERAL]) <= 0.03,
        ),
        Check(
            "half and half loses at most 3 points, in the first turn of single turns and in the"
            " second of three turns",
            lambda r: (
                first(r[SINGLE]) - first(r[HALF]) <= 0.03
                and second(r[SEVERAL]) - second(r[HALF]) <= 0.03
            ),
        ),
        Check(
            "three turns are in format in every turn, at least 95 % of the time",
            lambda r: min(complies[place](r[SEVERAL]) for place in PLACES) >= 0.95,
        ),
        Check(
            "if half of them change the subject, a second turn that does is right at least 20"
            " points more often",
            lambda r: named(r[CHANGING]) - named(r[SEVERAL]) >= 0.2,
        ),
        Check(
            "if the last turn alone is graded, the third loses at most 3 points and the first at"
            " least 20",
            lambda r: (
                third(r[SEVERAL]) - third(r[LAST]) <= 0.03
                and first(r[SEVERAL]) - first(r[LAST]) >= 0.2
            ),
        ),
    ],
    figures=lambda r: [
        dots(r, "Right in the first turn", FIRST, "%", 100),
        dots(r, "Right in the second turn, which names nobody", SECOND, "%", 100),
    ],
    note=f"Questions about 50 people, each of {TURNS} facts in every order: in a row, where the"
    ' later ones ask about "this one", or one by one, with the name in each. All arms are graded on'
    f" {GRADED} tokens of the same answers in a step, in the mean; where the last turn alone is"
    " graded, a step reads three times as many. Where half change the subject, the second turn of"
    " every other conversation names somebody else, about whom the third asks. Right answers are"
    " greedy, about sealed people, behind right answers to the turns before; format is that of"
    " replies at temperature 1.",
    on_world=True,
    prepare=prepare_base,
)
