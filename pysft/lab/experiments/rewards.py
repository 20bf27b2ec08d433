"""Reward models: how many comparisons they need, how these are drawn, what ties are worth, and what
the best of n by their score is worth.

The arms of a seed share a world, a base, the model that answers (right about half of the time), and
its replies. Labelers, three simulated people without a bias for length, put them in order."""

from pysft.lab.experiments.charts import dots, times
from pysft.lab.experiments.columns import finished
from pysft.lab.experiments.experiment import Check, Column, Experiment
from pysft.lab.preferring import BY_CHANCE, BY_JUDGE, BY_LABELERS, TaskArm, prepare
from pysft.lab.reward_tasks import NS, best_by_judge, distances, reward
from pysft.measure import figures

PERCENT = "{:.1%}"
gold_accuracy, heldout_loss = finished("gold_accuracy"), finished("heldout_loss")
GOLD_ACCURACY = Column("right order by the exact judge", gold_accuracy, PERCENT)
ACCURACY = Column("right order by the labelers", finished("accuracy"), PERCENT)
TRAINED_ACCURACY = Column("right order in training", finished("trained_accuracy"), PERCENT)
HELD_LOSS = Column("loss on held-out comparisons", heldout_loss)
COUNT = Column("comparisons", finished("comparisons"), "{:,.0f}")


def reward_arm(name: str, by: str, comparisons: int, **options) -> TaskArm:
    """A reward model that learns from so many comparisons. options: as reward_tasks.reward()."""
    return TaskArm(name, reward, {"by": by, "comparisons": comparisons} | options)


# --------------------------------------------------------------------------------- comparisons

COUNTS = (100, 300, 1000, 3000, 6000)
FEW, SOME, MANY, MORE, MOST = (f"{n:,} comparisons" for n in COUNTS)
CHANCE, JUDGE = "3,000 in a random order", "3,000 by the exact judge"


def of_labelers(n: int) -> TaskArm:
    """A reward model of the labelers' comparisons, whose best of n is measured too."""
    return reward_arm(f"{n:,} comparisons", BY_LABELERS, n, best=True)


def comparisons(lab, seed):
    for n in COUNTS:
        yield of_labelers(n)
    yield reward_arm(CHANCE, BY_CHANCE, 3000)
    yield reward_arm(JUDGE, BY_JUDGE, 3000)


def _by_count(results) -> tuple[str, str]:
    some = {n: results[f"{n:,} comparisons"] for n in COUNTS if f"{n:,} comparisons" in results}
    series = [
        figures.Series(
            name,
            list(some),
            [[times(value(r), 100) for r in records] for records in zip(*some.values())],
        )
        for name, value in (
            ("by the exact judge", gold_accuracy),
            ("by the labelers", finished("accuracy")),
            ("by length alone", finished("length_accuracy")),
        )
    ]
    title = "Held-out replies in the right order"
    chance = (50, "chance")
    return title, figures.curves(title, series, "comparisons", "%", log_x=True, level=chance)


COMPARISONS = Experiment(
    name="comparisons",
    title="How many comparisons a reward model needs",
    claim="A reward model learns from comparisons which replies are good, and generalises to new"
    " ones. (Gao et al. 2022: below some 2,000 comparisons it is hardly better than chance.)",
    arms=comparisons,
    columns=[
        COUNT,
        GOLD_ACCURACY,
        ACCURACY,
        Column("right order by length alone", finished("length_accuracy"), PERCENT),
        TRAINED_ACCURACY,
        HELD_LOSS,
    ],
    checks=[
        Check(
            "with 100 and with 300 comparisons less than 60 % of held-out replies are put in the"
            " right order",
            lambda r: max(gold_accuracy(r[FEW]), gold_accuracy(r[SOME])) < 0.6,
        ),
        Check(
            "with 6,000 at least 65 %",
            lambda r: gold_accuracy(r[MOST]) >= 0.65,
        ),
        Check(
            "6,000 gain at least 5 points over 1,000",
            lambda r: gold_accuracy(r[MOST]) - gold_accuracy(r[MANY]) >= 0.05,
        ),
        Check(
            "3,000 by the exact judge are at least as good as 3,000 by labelers",
            lambda r: gold_accuracy(r[JUDGE]) >= gold_accuracy(r[MORE]),
        ),
        Check(
            "after 3,000 in a random order between 40 and 60 % are in the right order",
            lambda r: 0.4 <= gold_accuracy(r[CHANCE]) <= 0.6,
        ),
    ],
    figures=lambda r: [_by_count(r)],
    note="Four epochs. Replies are sampled at temperature 1 and different from each other. Held out"
    " are replies to sealed questions, which ask about people of whom no question was trained.",
    on_world=True,
    prepare=prepare,
)

# ------------------------------------------------------------------------------------- batches

TOGETHER, TOGETHER_LONG = "together, 1 epoch", "together, 4 epochs"
SINGLY, SINGLY_LONG = "singly, 1 epoch", "singly, 4 epochs"


def batches(lab, seed):
    for name, singly, epochs in (
        (TOGETHER, False, 1.0),
        (TOGETHER_LONG, False, 4.0),
        (SINGLY, True, 1.0),
        (SINGLY_LONG, True, 4.0),
    ):
        yield reward_arm(name, BY_LABELERS, 3000, singly=singly, epochs=epochs)


def overfit(record: dict) -> float:
    """By how much more is in the right order in training than of held-out comparisons."""
    return finished("trained_accuracy")(record) - finished("accuracy")(record)


GAP = Column("training less held out", overfit, "{:+.1%}")

BATCHES = Experiment(
    name="batches",
    title="All pairs of a prompt together, or shuffled singly",
    claim="A ranking of K replies gives K-choose-2 comparisons. They belong together in one element"
    " of a batch: shuffled singly they make a reward model overfit. (Ouyang et al. 2022, section"
    " 3.5: within one epoch.)",
    arms=batches,
    columns=[GOLD_ACCURACY, ACCURACY, TRAINED_ACCURACY, GAP, HELD_LOSS, COUNT],
    checks=[
        Check(
            "in one epoch the loss on held-out comparisons is lower together than singly",
            lambda r: heldout_loss(r[TOGETHER]) < heldout_loss(r[SINGLY]),
        ),
        Check(
            "in four epochs too",
            lambda r: heldout_loss(r[TOGETHER_LONG]) < heldout_loss(r[SINGLY_LONG]),
        ),
        Check(
            "in four epochs the gap between training and held-out comparisons is larger singly than"
            " together",
            lambda r: overfit(r[SINGLY_LONG]) > overfit(r[TOGETHER_LONG]),
        ),
        Check(
            "singly, four epochs end with a higher held-out loss than one epoch",
            lambda r: heldout_loss(r[SINGLY_LONG]) > heldout_loss(r[SINGLY]),
        ),
        Check(
            "in one epoch at least as many replies are in the right order together as singly",
            lambda r: gold_accuracy(r[TOGETHER]) >= gold_accuracy(r[SINGLY]),
        ),
    ],
    figures=lambda r: [
        dots(r, "Loss on held-out comparisons", HELD_LOSS, "nats per comparison"),
        dots(r, "Right order by the exact judge", GOLD_ACCURACY, "%", 100, level=(50, "chance")),
    ],
    note="The same 3,000 comparisons in all arms, at the same rate, with as many steps an epoch and"
    " on average as many comparisons a step. Together, a ranking counts once, however many"
    " comparisons it has; singly, each comparison counts once.",
    on_world=True,
    prepare=prepare,
)

# ---------------------------------------------------------------------------------------- ties

DROPPED, HALF, DAVIDSON = "dropped", "half for each", "Davidson"


def ties(lab, seed):
    for name, ties in ((DROPPED, "none"), (HALF, "half"), (DAVIDSON, "davidson")):
        yield reward_arm(name, BY_LABELERS, 3000, ties=ties)


tied_spread, miscalibration = finished("tied_spread"), finished("miscalibration")
SPREAD = Column("spread of equal replies", tied_spread)
OFF = Column("miscalibration", miscalibration, PERCENT)

TIES = Experiment(
    name="ties",
    title="Replies that tie: dropped, half for each, or Davidson's model",
    claim="People let replies tie (D > C > A = B). A tie says something too: a reward model that"
    " learns from ties gives equal replies more equal scores, and orders the others as well.",
    arms=ties,
    columns=[GOLD_ACCURACY, ACCURACY, SPREAD, OFF, HELD_LOSS],
    checks=[
        Check(
            "with half for each, equal replies are closer to each other than if ties are dropped",
            lambda r: tied_spread(r[HALF]) < tied_spread(r[DROPPED]),
        ),
        Check(
            "with Davidson's model they are too",
            lambda r: tied_spread(r[DAVIDSON]) < tied_spread(r[DROPPED]),
        ),
        Check(
            "both put at most 2 points fewer of the others in the right order",
            lambda r: (
                min(gold_accuracy(r[HALF]), gold_accuracy(r[DAVIDSON]))
                >= gold_accuracy(r[DROPPED]) - 0.02
            ),
        ),
        Check(
            "Davidson's model promises shares at least as well as dropped ties do",
            lambda r: miscalibration(r[DAVIDSON]) <= miscalibration(r[DROPPED]),
        ),
        Check(
            "half for each, which takes a tie for a draw between two orders, promises them worse"
            " than Davidson's model",
            lambda r: miscalibration(r[HALF]) > miscalibration(r[DAVIDSON]),
        ),
    ],
    figures=lambda r: [
        dots(r, "Spread of equal replies", SPREAD, "of that of different ones"),
        dots(r, "Miscalibration", OFF, "points", 100),
    ],
    note="The same rankings in all arms: as many as hold 3,000 comparisons without a tie. The"
    " spread is the mean distance of the scores of two replies with equal points, by that of two"
    " with different points. Miscalibration is the distance between the share of held-out"
    " comparisons in the right order and what the scores promise. A model of chance alone is well"
    " calibrated, so see the order too.",
    on_world=True,
    prepare=prepare,
)

# ---------------------------------------------------------------------------- over-optimisation

ITSELF = "the exact judge itself"
OF_MODELS = (SOME, MORE, MOST)
best_gold = {n: finished(f"gold_{n}") for n in NS}
proxy = {n: finished(f"proxy_{n}") for n in NS}
beta, lost = finished("beta"), finished("lost")


def overoptimisation(lab, seed):
    for n in (300, 3000, 6000):
        yield of_labelers(n)
    yield TaskArm(ITSELF, best_by_judge)


def gain(record: dict) -> float:
    """Points that the best of the most replies has more than a single one."""
    return best_gold[NS[-1]](record) - best_gold[1](record)


def _rises(record: dict, values: dict) -> bool:
    found = [values[n](record) for n in NS]
    return all(b > a for a, b in zip(found, found[1:]))


def _by_distance(results, values: dict, title: str, label: str) -> tuple[str, str]:
    series = [
        figures.Series(arm, distances().tolist(), [[values[n](r) for n in NS] for r in records])
        for arm, records in results.items()
    ]
    x = "square root of the KL's bound, for n = 1, 2, 4, ... 64"
    return title, figures.curves(title, series, x, label)


OVEROPTIMISATION = Experiment(
    name="overoptimisation",
    title="The best of n by a proxy",
    claim="A model that is chosen by a reward model finds what that model overrates: the score"
    " rises on, the truth does not. (Gao et al. 2022: gold = d (alpha - beta d), where d is the"
    " square root of the KL; more comparisons lower beta.)",
    arms=overoptimisation,
    columns=[
        *(Column(f"points, best of {n}", best_gold[n], "{:.2f}") for n in (1, 4, 16, 64)),
        Column("score, best of 64", proxy[64], "{:.2f}"),
        Column("points lost since the best n", lost),
        Column("alpha", finished("alpha"), "{:+.3f}"),
        Column("beta", beta, "{:+.3f}"),
        Column("share explained by Gao's curve", finished("fit"), "{:.0%}"),
    ],
    checks=[
        Check(
            "the score rises with every n, for every reward model",
            lambda r: all(_rises(r[name], proxy) for name in OF_MODELS),
        ),
        Check(
            "the best of 64 by 6,000 comparisons gains more points than by 300",
            lambda r: gain(r[MOST]) > gain(r[SOME]),
        ),
        Check(
            "the best of 64 by 300 comparisons has fewer points than the best of some smaller n",
            lambda r: lost(r[SOME]) > 0,
        ),
        Check(
            "the best of 64 by 6,000 comparisons gains at least 0.1 points",
            lambda r: gain(r[MOST]) >= 0.1,
        ),
        Check(
            "Gao's curve bends down (beta above 0) with 3,000 and with 6,000 comparisons",
            lambda r: min(beta(r[MORE]), beta(r[MOST])) > 0,
        ),
        Check(
            "and explains at least 90 % of the points' variance with 6,000",
            lambda r: finished("fit")(r[MOST]) >= 0.9,
        ),
        Check(
            "no reward model gains as many points as the exact judge itself",
            lambda r: gain(r[ITSELF]) > max(gain(r[name]) for name in OF_MODELS),
        ),
    ],
    figures=lambda r: [
        _by_distance(r, best_gold, "Points of the best of n", "points, 0 to 3"),
        _by_distance(r, proxy, "Score of the best of n", "standard deviations"),
    ],
    note="60 sealed prompts with 128 replies each; every figure is the mean over all choices of n"
    " of them. Of 3 points a right answer has 3, a wrong one 1, babble 0. The KL of the best of"
    " n is at most ln n - (n - 1) / n. Where many replies are equal it is far less.",
    on_world=True,
    prepare=prepare,
)
