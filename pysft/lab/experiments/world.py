"""What a model knows of an invented world: how often it must be told, in which words, over two
hops, and what it says about names that nobody has.

A base reads the text of its world once, so a fact that the text tells N times is read N times. The
questions of training are about half of the people. The sealed ones, which are measured, are about
others."""

import numpy as np

from pysft.lab.arm import Arm
from pysft.lab.experiments.arms import WIDE
from pysft.lab.experiments.charts import dots, times
from pysft.lab.experiments.columns import BASE, finished, is_falling
from pysft.lab.experiments.experiment import Check, Column, Experiment
from pysft.lab.told import Told, text_of
from pysft.lab.worlds import conversations_of, judge_of_world, knowledge, probe_of
from pysft.measure import figures
from pysft.text.templates import CHAT
from pysft.training.presets import OF_WORLD
from pysft.world.ask import trained_questions
from pysft.world.facts import WorldSettings, make

PEOPLE = 50
OFTEN = 400  # tellings of each fact
RECIPE = OF_WORLD[WIDE]

right, two_hops = finished("right"), finished("two_hops")
RIGHT = Column("right", right, "{:.0%}")
WRONG = Column("wrong", finished("wrong"), "{:.0%}")
HELD_BITS = Column("bits held", finished("held"), "{:.0%}")


def world_arm(lab, name: str, told: Told, changes=None, two_hops: str = "trace") -> Arm:
    """The recipe of a world, with a base that reads its text once. changes: as Arm.base. two_hops:
    how answers of two hops are written, as trained_questions() takes it; for "thought" the
    vocabulary has the tokens of thoughts too."""
    world = make(told.world)
    asked = trained_questions(world, two_hops)
    conversations = conversations_of(asked)
    parts = {kind for c in conversations for kind in c.parts}
    changes = changes or {}
    base = RECIPE["base"] | {"steps": steps_to_read(told)} | changes.get("base", {})
    return Arm(
        name,
        WIDE,
        probe_of(lab.heldout_text, world, asked),
        RECIPE["sft"],
        conversations,
        tokenizer=lab.chat.grow(CHAT.tokens_for(parts)) if parts else None,
        judge=judge_of_world,
        finish=knowledge,
        told=told,
        base=changes | {"base": base},
    )


def steps_to_read(told: Told) -> int:
    """The steps in which a base reads the text of a world once."""
    [(length, count)] = RECIPE["base"]["world"]
    return (len(text_of(told)) // length - 1) // count


def people(seed: int, **more) -> WorldSettings:
    """A world of people alone. Each fact is told OFTEN times, unless `more` says otherwise."""
    return WorldSettings(**{"people": PEOPLE, "days": 0, "tellings": (OFTEN,), "seed": seed} | more)


# ---------------------------------------------------------------------------------- knowledge

TELLINGS = (16, 32, 64, 128, 256, 512, 1024)
RARE, MIDDLE, MOST = TELLINGS[:2], TELLINGS[2:5], TELLINGS[5:]
NARROW, WIDER = "64 channels", "128 channels"
# The wider model takes the rate of the mini preset, which is as wide.
WIDTHS = {
    NARROW: {},
    WIDER: {"model": {"channels": 128}, "base": {"lr": OF_WORLD["mini"]["base"]["lr"]}},
}
OF_MANY_TELLINGS = 140  # people, so six for each number of tellings are sealed


def how_often(lab, seed):
    told = Told(people(seed, people=OF_MANY_TELLINGS, attributes=2, tellings=TELLINGS))
    for name, changes in WIDTHS.items():
        yield world_arm(lab, name, told, changes)


def right_at(n: int):
    """The share that is right of what is told n times."""
    return finished(f"right_{n}")


def mean_right(record: dict, tellings) -> float:
    """The mean over these numbers of tellings of the share that is right."""
    return float(np.mean([right_at(n)(record) for n in tellings]))


def _by_tellings(results) -> tuple[str, str]:
    series = [
        figures.Series(
            name,
            list(TELLINGS),
            [[times(right_at(n)(record), 100) for n in TELLINGS] for record in records],
        )
        for name, records in results.items()
    ]
    title = "Right answers by how often a fact was told"
    return title, figures.curves(title, series, "tellings", "%", log_x=True)


KNOWLEDGE = Experiment(
    name="knowledge",
    title="Told more often, known better",
    claim="A model predicts what is likely, and likely is not true. It answers with the truth where"
    " the text told it often enough, and invents an answer where it did not. (Ours: a wider model"
    " needs fewer tellings.)",
    arms=how_often,
    columns=[
        *(Column(f"right at {n:,}", right_at(n), "{:.0%}") for n in TELLINGS),
        WRONG,
        Column("refused", finished("refused"), "{:.0%}"),
        BASE,
    ],
    checks=[
        Check(
            "right answers rise from 16 and 32 tellings to 64 to 256, and from there to 512 and"
            " 1,024, at both widths",
            lambda r: all(
                is_falling([mean_right(x, some) for some in (MOST, MIDDLE, RARE)])
                for x in r.values()
            ),
        ),
        Check(
            "of the answers about what is told 1,024 times at least 75 % are right",
            lambda r: all(right_at(TELLINGS[-1])(x) >= 0.75 for x in r.values()),
        ),
        Check(
            "and of those about what is told 16 times at most 25 %",
            lambda r: all(right_at(TELLINGS[0])(x) <= 0.25 for x in r.values()),
        ),
        Check(
            "at most 1 % of the answers refuse, at both widths",
            lambda r: all(finished("refused")(x) <= 0.01 for x in r.values()),
        ),
        Check(
            "from 64 to 256 tellings the wider model is right more often",
            lambda r: mean_right(r[WIDER], MIDDLE) > mean_right(r[NARROW], MIDDLE),
        ),
    ],
    figures=lambda r: [_by_tellings(r)],
    note="140 people, who have a trade and a street each; 20 of them are told 16 times, 20 are told"
    " 32 times, and so on. Six of each 20 are asked about. A guess among 16 values is right 6 % of"
    " the time.",
    on_world=True,
)

# ----------------------------------------------------------------------------------- wordings

ONE_FIXED, SIX_FIXED = "one wording, fixed order", "six wordings, fixed order"
ONE_SHUFFLED, SIX_SHUFFLED = "one wording, shuffled", "six wordings, shuffled"


def wordings(lab, seed):
    world = people(seed)
    for name, told in (
        (ONE_FIXED, Told(world, wordings=1, shuffled=False)),
        (SIX_FIXED, Told(world, shuffled=False)),
        (ONE_SHUFFLED, Told(world, wordings=1)),
        (SIX_SHUFFLED, Told(world)),
    ):
        yield world_arm(lab, name, told)


WORDINGS = Experiment(
    name="wordings",
    title="Told in several wordings, in any order",
    claim="Facts can be asked for if they were told in several wordings and in a shuffled order;"
    " order counts more than wordings. (Not the source text's claim, but that of Allen-Zhu and Li,"
    " Physics of Language Models, part 3.1.)",
    arms=wordings,
    columns=[
        RIGHT,
        WRONG,
        Column("right in new wordings", finished("new_wordings"), "{:.0%}"),
        HELD_BITS,
        BASE,
    ],
    checks=[
        Check(
            "with six wordings and a shuffled order at least half of the answers are right",
            lambda r: right(r[SIX_SHUFFLED]) >= 0.5,
        ),
        Check(
            "with one wording and a fixed order at most a quarter are",
            lambda r: right(r[ONE_FIXED]) <= 0.25,
        ),
        Check(
            "a shuffled order alone gains more than six wordings alone",
            lambda r: right(r[ONE_SHUFFLED]) > right(r[SIX_FIXED]),
        ),
        Check(
            "with one wording and a fixed order the model holds a larger share of the bits than it"
            " answers right",
            lambda r: finished("held")(r[ONE_FIXED]) > right(r[ONE_FIXED]),
        ),
    ],
    figures=lambda r: [
        dots(r, "Right answers", RIGHT, "%", 100),
        dots(r, "Bits held", HELD_BITS, "% of what is told", 100),
    ],
    note="All four texts tell each fact 400 times. Bits are read from a sentence that stands alone,"
    " in the first wording. In a fixed order most sentences never stood alone, so there the model"
    " may hold more than its bits show. Windows of 256 characters cut the text anywhere, so some"
    " tellings are read without their beginning.",
    on_world=True,
)

# --------------------------------------------------------------------------------------- hops

HIDDEN, NAMED, TRACE = "first hop hidden", "person named", "whole trace"
TWO_HOPS = Column("two hops: right", two_hops, "{:.0%}")
ONE_HOP = Column("one hop: right", right, "{:.0%}")


def hops(lab, seed):
    told = Told(people(seed, attributes=2, relations=1))
    for name, form in ((HIDDEN, "hidden"), (NAMED, "named"), (TRACE, "trace")):
        yield world_arm(lab, name, told, two_hops=form)


HOPS = Experiment(
    name="hops",
    title="Two hops, with and without a trace",
    claim="A model that knows two facts cannot combine them in its head; it can if its answer"
    " writes the first one down. (Ours: the source text has no claim on it.)",
    arms=hops,
    columns=[ONE_HOP, TWO_HOPS, HELD_BITS, BASE],
    checks=[
        Check(
            "with the first hop hidden at least half of the answers of one hop are right",
            lambda r: right(r[HIDDEN]) >= 0.5,
        ),
        Check(
            "and at most a quarter of those of two hops",
            lambda r: two_hops(r[HIDDEN]) <= 0.25,
        ),
        Check(
            "an answer that names the person in between is right more often",
            lambda r: two_hops(r[NAMED]) > two_hops(r[HIDDEN]),
        ),
        Check(
            "with the whole trace answers of two hops are right more than twice as often as with"
            " the first hop hidden",
            lambda r: two_hops(r[TRACE]) > 2 * two_hops(r[HIDDEN]),
        ),
    ],
    figures=lambda r: [
        dots(r, "Right answers of two hops", TWO_HOPS, "%", 100),
        dots(r, "Right answers of one hop", ONE_HOP, "%", 100),
    ],
    note="All arms share a base and are asked the same. What the answers of training write differs:"
    " 'The neighbour of Ada Brook keeps a toad.'; 'Ivo Finch keeps a toad.'; 'Ada Brook lives next"
    " to Ivo Finch. Ivo Finch keeps a toad.' The figure of two hops is of trades and streets; a"
    " guess is right 6 % of the time.",
    on_world=True,
)

# ------------------------------------------------------------------------------ hallucination

WITHOUT, WITH = "no refusals in the data", "refusals in the data"
REFUSED = Column("strangers: refused", finished("strangers_refused"), "{:.0%}")
INVENTED = Column("strangers: invented", finished("strangers_wrong"), "{:.0%}")
KNOWN = Column("known people: right", right, "{:.0%}")
KNOWN_REFUSED = Column("known people: refused", finished("refused"), "{:.0%}")


def hallucination(lab, seed):
    for name, refuses in ((WITHOUT, False), (WITH, True)):
        yield world_arm(lab, name, Told(people(seed, refusals=refuses)))


HALLUCINATION = Experiment(
    name="hallucination",
    title="Strangers, with and without refusals",
    claim="A model that never saw a refusal invents something about a name it does not know;"
    " refusals in the data teach it to refuse.",
    arms=hallucination,
    columns=[INVENTED, REFUSED, KNOWN, KNOWN_REFUSED, BASE],
    checks=[
        Check(
            "without refusals in the data at most 5 % of the questions about strangers are refused",
            lambda r: finished("strangers_refused")(r[WITHOUT]) <= 0.05,
        ),
        Check(
            "and at least 90 % get an invented answer",
            lambda r: finished("strangers_wrong")(r[WITHOUT]) >= 0.9,
        ),
        Check(
            "with them at least 80 % are refused",
            lambda r: finished("strangers_refused")(r[WITH]) >= 0.8,
        ),
        Check(
            "and known people are answered right at least nine tenths as often as without",
            lambda r: right(r[WITH]) >= 0.9 * right(r[WITHOUT]) > 0,
        ),
    ],
    figures=lambda r: [
        dots(r, "Questions about strangers that are refused", REFUSED, "%", 100),
        dots(r, "Questions about known people that are answered right", KNOWN, "%", 100),
    ],
    note="Both arms share a base. A stranger is a name that nobody has; the people are told 400"
    " times. With refusals, half of the training questions are about strangers. The people and the"
    " strangers that are measured are in no question of training.",
    on_world=True,
)
