"""Tuning, and what people prefer: what DPO does to the replies that were chosen, what comparing is
worth beside writing, and which checkpoint of a fine-tuning is the best. The arms begin as those of
rewards.py do."""

from pysft.lab.experiments.charts import dots, times, tracks
from pysft.lab.experiments.columns import finished
from pysft.lab.experiments.experiment import Check, Column, Experiment
from pysft.lab.policy_tasks import demonstrate, dpo
from pysft.lab.preferring import PRESET, TaskArm, prepare
from pysft.lab.reward_tasks import past_the_minimum
from pysft.measure import figures
from pysft.training.presets import OF_WORLD

gold, greedy = finished("gold"), finished("greedy_gold")
win_rate, forgetting = finished("win_rate"), finished("forgetting")
WON = Column("won against the model before", win_rate, "{:.1%}")
WON_GREEDY = Column("won, greedy", finished("greedy_win_rate"), "{:.1%}")
POINTS = Column("points", gold, "{:.2f}")
POINTS_GREEDY = Column("points, greedy", greedy, "{:.2f}")
BEFORE = Column("points before", finished("gold_before"), "{:.2f}")
KL = Column("KL from the model before", finished("kl"), "{:.2f}")
FORGOT = Column("forgetting of base text", forgetting, "{:+.1%}")

# ------------------------------------------------------------------------------- displacement

GENTLE, GENTLE_NLL = "gentle", "gentle, with the chosen's NLL"
ROUGH, ROUGH_NLL = "rough", "rough, with the chosen's NLL"
RECIPE = OF_WORLD[PRESET]["dpo"]
SOFT = {"beta": 0.3, "lr": 5e-5}
HARD = {"beta": 0.1, "lr": 3e-4}
NLL = {"gentle": 0.1, "rough": 0.2}
SHIPPED, NLL_ALONE = "the recipe of `dpo`", "the chosen's NLL of it alone"
NO_DPO = 1e-4  # a beta at which the loss of the pairs has next to no gradient


def displacement(lab, seed):
    compared = {"demonstrations": None, "comparisons": 3000}
    shared = compared | {"steps": 300, "pairs": 16}
    for name, corner, nll in (
        (GENTLE, SOFT, 0.0),
        (GENTLE_NLL, SOFT, NLL["gentle"]),
        (ROUGH, HARD, 0.0),
        (ROUGH_NLL, HARD, NLL["rough"]),
    ):
        yield TaskArm(name, dpo, shared | corner | {"nll": nll})
    yield TaskArm(SHIPPED, dpo, compared | RECIPE)
    yield TaskArm(NLL_ALONE, dpo, compared | RECIPE | {"beta": NO_DPO})


chosen = finished("chosen_logp")
trained, heldout = finished("trained_accuracy"), finished("heldout_accuracy")

DISPLACEMENT = Experiment(
    name="displacement",
    title="What DPO does to the replies that were chosen",
    claim="DPO makes a chosen reply likelier than a rejected one. Both may become less likely, and"
    " the probability goes to replies that nobody compared. Accuracy on the training pairs does not"
    " show it. (Not the source text's claim, which names DPO as simpler and the same in its core.)",
    arms=displacement,
    columns=[
        Column("chosen, nats gained", chosen, "{:+.1f}"),
        Column("held-out chosen, nats gained", finished("heldout_chosen_logp"), "{:+.1f}"),
        Column("accuracy on training pairs", trained, "{:.1%}"),
        Column("accuracy on held-out pairs", heldout, "{:.1%}"),
        POINTS,
        BEFORE,
        POINTS_GREEDY,
        WON,
        KL,
        FORGOT,
    ],
    checks=[
        Check(
            "without the NLL, at a high rate and a small beta, the chosen replies lose at least 5"
            " nats",
            lambda r: chosen(r[ROUGH]) <= -5,
        ),
        Check(
            "with the NLL they lose less, in both corners",
            lambda r: (
                chosen(r[ROUGH_NLL]) > chosen(r[ROUGH])
                and chosen(r[GENTLE_NLL]) > chosen(r[GENTLE])
            ),
        ),
        Check(
            "the rough corner is right about more training pairs than the gentle one with the NLL",
            lambda r: trained(r[ROUGH]) > trained(r[GENTLE_NLL]),
        ),
        Check(
            "and about at least 10 points more of them than of held-out pairs",
            lambda r: trained(r[ROUGH]) - heldout(r[ROUGH]) >= 0.1,
        ),
        Check(
            "and forgets more of the base text",
            lambda r: forgetting(r[ROUGH]) > forgetting(r[GENTLE_NLL]),
        ),
        Check(
            "and gets fewer points at temperature 1",
            lambda r: gold(r[ROUGH]) < gold(r[GENTLE_NLL]),
        ),
        Check(
            "gently and with the NLL, replies at temperature 1 get more points than before",
            lambda r: gold(r[GENTLE_NLL]) > finished("gold_before")(r[GENTLE_NLL]),
        ),
        Check(
            "the recipe of `dpo` in a world wins at least 58 % against the model before",
            lambda r: win_rate(r[SHIPPED]) >= 0.58,
        ),
        Check(
            "and at least 3 points more than the chosen replies' NLL of it alone",
            lambda r: win_rate(r[SHIPPED]) - win_rate(r[NLL_ALONE]) >= 0.03,
        ),
    ],
    figures=lambda r: [
        tracks(r, "Log-probability of the chosen replies", "chosen_logp", "nats gained"),
        tracks(r, "Log-probability of the rejected replies", "rejected_logp", "nats gained"),
        tracks(r, "Training pairs in the right order", "accuracy", "%", 100),
        dots(r, "Points at temperature 1", POINTS, "points, 0 to 3"),
    ],
    note="300 steps of 16 of the same 3,000 comparisons, beside two windows of base text. Gentle:"
    " beta 0.3, rate 5e-5, with a weight of 0.1 for the NLL; rough: beta 0.1, rate 3e-4, weight"
    " 0.2. The recipe of `dpo` in a world: beta 1, rate 2e-4, weight 5, each comparison once,"
    " beside the text of the world; the last arm is the same without the loss of the pairs. The"
    " recipe was chosen on the world of seed 1. Accuracy on training pairs is measured at the end,"
    " on 300 rankings. Nats are gained since the model before, per reply. Of 3 points a right"
    " answer has 3, a wrong one 1, babble 0.",
    on_world=True,
    prepare=prepare,
)

# ---------------------------------------------------------------------------------- comparing

FEW, WORK = 100, 1200  # demonstrations that everything begins from, and what is spent on top
MORE = (75, 150, 300, 600)  # demonstrations
COSTS = tuple(WORK // n for n in MORE)  # of one of them, in comparisons, if they are as much work
NOTHING, COMPARED = "no more work", "1,200 comparisons"


def written(n: int) -> str:
    """The name of the arm with so many more demonstrations."""
    return f"{n} more demonstrations"


def comparing(lab, seed):
    yield TaskArm(NOTHING, demonstrate, {"demonstrations": FEW, "more": 0})
    tuned = {"demonstrations": FEW, "work": WORK} | RECIPE
    yield TaskArm(COMPARED, dpo, tuned)
    for n in MORE:
        yield TaskArm(written(n), demonstrate, {"demonstrations": FEW, "more": n})


def _by_cost(results) -> tuple[str, str]:
    some = [results[written(n)] for n in MORE if written(n) in results]
    costs = list(COSTS)[: len(some)]
    won = [[times(win_rate(r), 100) for r in records] for records in zip(*some)]
    beside = [[times(win_rate(r), 100)] * len(costs) for r in results.get(COMPARED, [])]
    series = [
        figures.Series("more demonstrations", costs, won),
        figures.Series("comparisons", costs, beside),
    ]
    title = "Won against the model before, by the same work"
    x = "comparisons that one demonstration costs"
    return title, figures.curves(title, series, x, "%", log_x=True, level=(50, "no better"))


COMPARING = Experiment(
    name="comparing",
    title="Writing or comparing, for the same work",
    claim="Comparing is easier than creating. So a labeler's work is worth more if it compares"
    " replies than if it writes them.",
    arms=comparing,
    columns=[WON, WON_GREEDY, POINTS, BEFORE, POINTS_GREEDY, KL, FORGOT],
    checks=[
        Check(
            "1,200 comparisons win at least 52 % against the model before",
            lambda r: win_rate(r[COMPARED]) >= 0.52,
        ),
        Check(
            "they win more than the same demonstrations over again",
            lambda r: win_rate(r[COMPARED]) > win_rate(r[NOTHING]),
        ),
        Check(
            "if writing costs 16 comparisons, comparing wins more than writing",
            lambda r: win_rate(r[COMPARED]) > win_rate(r[written(75)]),
        ),
        Check(
            "if it costs 4, as we assume, comparing still wins more",
            lambda r: win_rate(r[COMPARED]) > win_rate(r[written(300)]),
        ),
        Check(
            "if it costs 2, writing wins more",
            lambda r: win_rate(r[COMPARED]) < win_rate(r[written(600)]),
        ),
    ],
    figures=lambda r: [
        _by_cost(r),
        dots(r, "Won against the model before", WON, "%", 100, level=(50, "no better")),
    ],
    note="Everything begins from a model of 100 demonstrations. Putting K replies in order is as"
    " much work as K - 1 comparisons; ties are work too. What a demonstration costs is an"
    " assumption: the source text says only that comparing is dramatically easier. We assume 4, and"
    " the figure shows where the verdict turns. Against 1,200 comparisons stand 600, 300, 150 and"
    " 75 demonstrations, for a cost of 2, 4, 8 and 16. Our comparisons are by labelers who err,"
    " about people of two splits; our demonstrations are all right, about people of one. DPO takes"
    " the recipe of a world: beta 1, rate 2e-4, the NLL of the chosen with a weight of 5.",
    on_world=True,
    prepare=prepare,
)

# ------------------------------------------------------------------------- past the minimum

LONG_ON_FEW = "100 demonstrations, 640 steps"
by_loss, by_score = finished("gold_by_loss"), finished("gold_by_score")


def past(lab, seed):
    options = {"demonstrations": 100, "comparisons": 3000}
    yield TaskArm(LONG_ON_FEW, past_the_minimum, options)


def _checkpoints(results) -> list[tuple[str, str]]:
    [records] = results.values()
    steps = [row["step"] for row in records[0]["track"]]

    def lines(*names):
        return [
            figures.Series(label, steps, [[row[name] for row in r["track"]] for r in records])
            for name, label in names
        ]

    points = lines(("gold", "temperature 1"), ("greedy", "greedy"))
    drawn = (
        ("Loss on held-out demonstrations", lines(("heldout_loss", "held-out loss")), "nats"),
        ("Score of the reward model", lines(("score", "mean score")), "score"),
        ("Points by the exact judge", points, "points, 0 to 3"),
    )
    return [(t, figures.curves(t, series, "step", y, log_x=True)) for t, series, y in drawn]


PAST_THE_MINIMUM = Experiment(
    name="past-the-minimum",
    title="Fine-tuning past the minimum of its held-out loss",
    claim="Held-out loss and what people prefer diverge: after the loss has turned up, replies"
    " still get better. So the checkpoint is chosen by the score of a reward model, not by the"
    " loss.",
    arms=past,
    columns=[
        Column("rise of the held-out loss since its lowest", finished("risen"), "{:+.1%}"),
        Column("step: lowest loss", finished("step_by_loss"), "{:.0f}"),
        Column("step: highest score", finished("step_by_score"), "{:.0f}"),
        Column("step: most points", finished("step_best"), "{:.0f}"),
        Column("points: lowest loss", by_loss, "{:.2f}"),
        Column("points: highest score", by_score, "{:.2f}"),
        Column("points: last step", finished("gold_last"), "{:.2f}"),
        Column("points: most", finished("gold_best"), "{:.2f}"),
        Column("greedy points: lowest loss", finished("greedy_by_loss"), "{:.2f}"),
        Column("greedy points: highest score", finished("greedy_by_score"), "{:.2f}"),
    ],
    checks=[
        Check(
            "the loss on held-out demonstrations ends at least 5 % above its lowest",
            lambda r: finished("risen")(r[LONG_ON_FEW]) >= 0.05,
        ),
        Check(
            "the checkpoint with the highest score comes after the one with the lowest loss",
            lambda r: (
                finished("step_by_score")(r[LONG_ON_FEW]) > finished("step_by_loss")(r[LONG_ON_FEW])
            ),
        ),
        Check(
            "and gets more points on sealed questions",
            lambda r: by_score(r[LONG_ON_FEW]) > by_loss(r[LONG_ON_FEW]),
        ),
        Check(
            "and at most 0.05 fewer than the best checkpoint",
            lambda r: finished("gold_best")(r[LONG_ON_FEW]) - by_score(r[LONG_ON_FEW]) <= 0.05,
        ),
    ],
    figures=_checkpoints,
    note="Checkpoints after 10, 20, 40, ... 640 steps; no text is replayed."
    " Loss and score are measured on questions of their own, points on sealed ones, at"
    " temperature 1. The reward model learned from 3,000"
    " comparisons of replies of another fine-tuning of the same base. The best checkpoint is the"
    " best of seven noisy figures, so it is a little overrated. The control is the choice by loss.",
    on_world=True,
    prepare=prepare,
)
