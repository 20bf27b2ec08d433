"""PPO on a learned reward: when it games the reward, what its drift from the model before is worth,
and how DPO does on the same comparisons. The arms begin as those of rewards.py do."""

import numpy as np

from pysft.inference.best import kl_bound
from pysft.lab.experiments.charts import dots, tracks
from pysft.lab.experiments.columns import REAL, finished
from pysft.lab.experiments.experiment import Check, Column, Experiment
from pysft.lab.experiments.preferences import BEFORE, FORGOT, KL, POINTS, SHIPPED, WON
from pysft.lab.experiments.preferences import RECIPE as OF_DPO
from pysft.lab.experiments.rewards import MORE, of_labelers
from pysft.lab.policy_tasks import dpo
from pysft.lab.ppo_tasks import prepare_rewards, reinforce
from pysft.lab.preferring import BY_LABELERS, BY_LENGTH, PRESET, TaskArm
from pysft.lab.reward_tasks import NS
from pysft.measure import figures
from pysft.measure.raters import WORLD
from pysft.measure.rewards import MODEL
from pysft.training.presets import OF_WORLD

STEPS = 120  # iterations of every arm
# What the recipe of `ppo` in a world does not say.
USUAL = {
    "demonstrations": None,  # of the model before: all
    "lr": 1e-3,
    "warmup": 20,
    "beta": 0.02,
    "prompts": 16,
    "replies": 4,
    "epochs": 2,
    "windows": ((256, 2),),
} | OF_WORLD[PRESET]["ppo"]
FAST = {"lr": 1e-3}
BY_JUDGE = {"reward": WORLD}
GOOD = {"by": BY_LABELERS, "comparisons": 3000}
POOR = {"by": BY_LENGTH, "comparisons": 300}


def ppo(name: str, reward: dict, **changes) -> TaskArm:
    """PPO by the usual recipe with changes. reward: BY_JUDGE, GOOD or POOR."""
    shared = USUAL | {"steps": STEPS, "reward": MODEL} | reward
    return TaskArm(name, reinforce, shared | changes)


prepare_policies = prepare_rewards([GOOD, POOR], USUAL["demonstrations"])
gold, before, kl = finished("gold"), finished("gold_before"), finished("kl")
SECONDS = Column("processor seconds of training", finished("train_seconds"), "{:.0f}")


def gained(record: dict) -> float:
    """Points that the tuned model has more than the model before, on sealed questions."""
    return gold(record) - before(record)


def risen(record: dict) -> float:
    """By how much the score has risen, on sealed questions."""
    return finished("proxy")(record) - finished("proxy_before")(record)


GAINED = Column("points gained", gained, "{:+.2f}")
RISEN = Column("score gained", risen, "{:+.2f}")

# ------------------------------------------------------------------------------------- hacking

POOR_FREE, POOR_CHEAP, POOR_DEAR = (f"poor reward, beta {beta}" for beta in ("0", "0.02", "0.2"))
GOOD_FREE = "good reward, beta 0"


def hacking(lab, seed):
    for name, beta in ((POOR_FREE, 0.0), (POOR_CHEAP, 0.02), (POOR_DEAR, 0.2)):
        yield ppo(name, POOR, **FAST, beta=beta)
    yield ppo(GOOD_FREE, GOOD, **FAST, beta=0.0)


def hacked_at(record: dict) -> float | None:
    """The iteration at which the alarm of reward hacking came; None if it never did."""
    return next((row["hacked_at"] for row in record["track"] if row.get("hacked_at")), None)


def warned(record: dict) -> bool:
    """True if that alarm came before the last iteration."""
    at = hacked_at(record)
    return at is not None and at < record["track"][-1]["step"]


HACKING = Experiment(
    name="hacking",
    title="Reward hacking, with and without a price of KL",
    claim="Without the KL penalty the model discovers reward hacking: outputs that score high on"
    " the reward model but are gibberish. The penalty says: improve, but stay coherent.",
    arms=hacking,
    columns=[
        RISEN,
        POINTS,
        BEFORE,
        WON,
        KL,
        REAL,
        Column("replies in format", finished("format_compliance"), "{:.0%}"),
        Column("different replies", finished("distinct"), "{:.0%}"),
        Column("tokens of a reply", finished("length"), "{:.1f}"),
        Column("tokens before", finished("length_before"), "{:.1f}"),
        Column("alarm of hacking at step", hacked_at, "{:.0f}"),
    ],
    checks=[
        Check(
            "with beta 0 the score of the poor reward rises by at least half a standard deviation",
            lambda r: risen(r[POOR_FREE]) >= 0.5,
        ),
        Check(
            "while at least 0.1 points are lost",
            lambda r: gained(r[POOR_FREE]) <= -0.1,
        ),
        Check(
            "and an alarm of reward hacking comes before the end",
            lambda r: warned(r[POOR_FREE]),
        ),
        Check(
            "with beta 0.02 the policy gets more points than with 0",
            lambda r: gold(r[POOR_CHEAP]) > gold(r[POOR_FREE]),
        ),
        Check(
            "with beta 0.2 it gets more than with 0.02",
            lambda r: gold(r[POOR_DEAR]) > gold(r[POOR_CHEAP]),
        ),
        Check(
            "and at most 0.1 points fewer than the model before",
            lambda r: gained(r[POOR_DEAR]) >= -0.1,
        ),
        Check(
            "and has moved less than half as far from it, in nats, as with 0",
            lambda r: kl(r[POOR_DEAR]) < kl(r[POOR_FREE]) / 2,
        ),
        Check(
            "with beta 0 the good reward brings more points than the poor one",
            lambda r: gold(r[GOOD_FREE]) > gold(r[POOR_FREE]),
        ),
    ],
    figures=lambda r: [
        tracks(r, "Score of the reward", "sealed_reward", "standard deviations"),
        tracks(r, "Points by the exact judge", "sealed_gold", "points, 0 to 3"),
        tracks(r, "KL from the model before", "sealed_kl", "nats a reply"),
    ],
    note=f"{STEPS} iterations at a rate of {FAST['lr']:g}. The poor reward model learned from 300"
    " comparisons by a labeler who counts 20 characters as much as a point, the good one from 3,000"
    " by labelers without a bias for length. A score of 0 is that of right answers on average, and"
    " its unit is a standard deviation of the replies of the model before. A reply without its end"
    " scores -1. Of 3 points a right answer has 3, a wrong one 1, babble 0. All figures but the"
    " real words and the alarm are of sealed questions at temperature 1.",
    on_world=True,
    prepare=prepare_policies,
)

# --------------------------------------------------------------------------------------- drift

GOOD_USUAL, BEST_OF = "good reward, usual", f"best of n, {MORE}"


def drift(lab, seed):
    yield ppo(GOOD_FREE, GOOD, **FAST, beta=0.0)
    yield ppo(GOOD_USUAL, GOOD)
    yield ppo(POOR_FREE, POOR, **FAST, beta=0.0)
    best = of_labelers(3000)
    yield TaskArm(BEST_OF, best.task, best.options)


def path(record: dict) -> tuple[np.ndarray, np.ndarray]:
    """(KL, points gained since the first) of each row of a track, or of the best of each n."""
    if record["track"]:
        found = [(row["sealed_kl"], row["sealed_gold"]) for row in record["track"]]
    else:
        found = [(kl_bound(n), record["finish"][f"gold_{n}"]) for n in NS]
    nats, golds = np.array(found, float).T  # None becomes nan
    if not np.isfinite([nats, golds]).all():
        raise ValueError("a point of the path was not measured")
    return nats, golds - golds[0]


def most(record: dict) -> tuple[float, float]:
    """(KL, points gained) where a path has the most points."""
    nats, golds = path(record)
    best = int(np.argmax(golds))
    return float(nats[best]), float(golds[best])


def lost(record: dict) -> float:
    """Points lost from there to the end of the path."""
    golds = path(record)[1]
    return float(golds.max() - golds[-1])


def kl_for(record: dict, points: float) -> float:
    """The KL at which a path has first gained so many points; infinite if it never does."""
    nats, golds = path(record)
    reached = np.flatnonzero(golds >= points)
    return float(nats[reached[0]]) if len(reached) else np.inf


def spends_more(policy: dict, best: dict) -> bool:
    """True if the best of n gains something, and the policy needs more KL for as much."""
    spent, points = most(best)
    return points > 0 and kl_for(policy, points) > spent


def _by_drift(results) -> tuple[str, str]:
    series = []
    for name, records in results.items():
        paths = (path(record) for record in records)
        series.append((name, [(np.sqrt(x.clip(0)).tolist(), y.tolist()) for x, y in paths]))
    title = "Points gained, by the drift from the model before"
    x = "square root of the KL (best of n: of its bound)"
    return title, figures.paths(title, series, x, "points gained")


DRIFT = Experiment(
    name="drift",
    title="What drift from the model before is worth",
    claim="Trained on a learned reward, a policy first gets better and then worse, the further it"
    " drifts. (Gao et al. 2022: gold = d (alpha - beta ln d) for RL, where d is the square root of"
    " the KL; RL spends far more KL than the best of n for the same gold.)",
    arms=drift,
    columns=[
        Column("most points gained on the way", lambda r: most(r)[1], "{:+.2f}"),
        Column("KL then", lambda r: most(r)[0], "{:.2f}"),
        Column("KL at the end", lambda r: float(path(r)[0][-1]), "{:.2f}"),
        Column("points lost since the most", lost, "{:.2f}"),
        Column("alpha", finished("alpha"), "{:+.3f}"),
        Column("beta", finished("beta"), "{:+.3f}"),
        Column("share explained by Gao's curve", finished("fit"), "{:.0%}"),
    ],
    checks=[
        Check(
            "on the good reward at beta 0 at least 0.1 points are gained on the way",
            lambda r: most(r[GOOD_FREE])[1] >= 0.1,
        ),
        Check(
            "and at least 0.05 of them are lost again by the end",
            lambda r: lost(r[GOOD_FREE]) >= 0.05,
        ),
        Check(
            "Gao's curve for RL bends down (beta above 0) there",
            lambda r: finished("beta")(r[GOOD_FREE]) > 0,
        ),
        Check(
            "and explains at least 80 % of the points' variance",
            lambda r: finished("fit")(r[GOOD_FREE]) >= 0.8,
        ),
        Check(
            "for the most points that the best of n gains, both policies on the same reward spend"
            " more KL",
            lambda r: all(spends_more(r[name], r[BEST_OF]) for name in (GOOD_FREE, GOOD_USUAL)),
        ),
        Check(
            "by the usual recipe fewer points are lost by the end than at beta 0",
            lambda r: lost(r[GOOD_USUAL]) < lost(r[GOOD_FREE]),
        ),
    ],
    figures=lambda r: [_by_drift(r)],
    note="Policies are measured every ten iterations, on sealed questions at temperature 1, with"
    " the exact KL. The best of n is that of the experiment overoptimisation, with the bound of its"
    f" KL, on sealed questions too. With beta 0 the rate is {FAST['lr']:g}; the usual recipe has"
    f" {USUAL['lr']:g} and a beta of {USUAL['beta']:g}. Gao's curve is fitted by least"
    " squares, with the start free.",
    on_world=True,
    prepare=prepare_policies,
)

# ---------------------------------------------------------------------------------- dpo-or-ppo

DPO_BETAS = (0.1, 0.3)  # beside that of the recipe
OF_DPOS = (SHIPPED, *(f"DPO, beta {beta:g}" for beta in DPO_BETAS))


def dpo_or_ppo(lab, seed):
    shared = {"demonstrations": USUAL["demonstrations"], "comparisons": 3000} | OF_DPO
    yield TaskArm(SHIPPED, dpo, shared)
    for name, beta in zip(OF_DPOS[1:], DPO_BETAS):
        yield TaskArm(name, dpo, shared | {"beta": beta})
    yield ppo(GOOD_USUAL, GOOD)


def best_dpo(records: dict[str, dict]) -> dict:
    """The record of the DPO that gained the most points."""
    return max((records[name] for name in OF_DPOS), key=gained)


def gained_at(record: dict, nats: float) -> float:
    """Points that a policy has gained on its way where its KL first is so high, on the line between
    two rows of its track. At the end of the track if the KL never is so high."""
    reached, golds = path(record)
    after = int(np.argmax(reached >= nats))
    if not reached[after] >= nats:
        return float(golds[-1])
    some = slice(max(0, after - 1), after + 1)
    return float(np.interp(nats, reached[some], golds[some]))


def _side_by_side(results) -> tuple[str, str]:
    series = []
    for name, records in results.items():
        found = (path(r) if name == GOOD_USUAL else ([0, kl(r)], [0, gained(r)]) for r in records)
        series.append((name, [(list(x), list(y)) for x, y in found]))
    title = "Points gained, by KL from the model before"
    return title, figures.paths(title, series, "KL, nats a reply", "points gained")


DPO_OR_PPO = Experiment(
    name="dpo-or-ppo",
    title="DPO or PPO, from the same comparisons",
    claim="DPO collapses reward model and RL into one step: it is simpler, and learns the same from"
    " the same comparisons.",
    arms=dpo_or_ppo,
    columns=[
        GAINED,
        POINTS,
        BEFORE,
        WON,
        KL,
        FORGOT,
        Column("seconds", lambda r: r["seconds"], "{:.0f}"),
    ],
    checks=[
        Check(
            "the best DPO gains at least 0.05 points",
            lambda r: max(gained(r[name]) for name in OF_DPOS) >= 0.05,
        ),
        Check("PPO gains at least 0.05 points", lambda r: gained(r[GOOD_USUAL]) >= 0.05),
        Check(
            "at the KL of the best DPO, PPO has gained at most 0.05 points more",
            lambda r: gained_at(r[GOOD_USUAL], kl(best_dpo(r))) - gained(best_dpo(r)) <= 0.05,
        ),
        Check(
            "at its end PPO has gained at most 0.05 points more than the best DPO",
            lambda r: gained(r[GOOD_USUAL]) - gained(best_dpo(r)) <= 0.05,
        ),
        Check(
            "every DPO takes less time than PPO",
            lambda r: max(r[n]["seconds"] for n in OF_DPOS) < r[GOOD_USUAL]["seconds"],
        ),
    ],
    figures=lambda r: [
        _side_by_side(r),
        dots(r, "Won against the model before", WON, "%", 100, level=(50, "no better")),
    ],
    note="The same 3,000 comparisons by labelers. DPO reads them once, beside the text of the"
    " world, by its recipe in a world (beta 1) and with smaller betas, which let it move further."
    " PPO asks a reward model that learned from them. Points at a KL on PPO's way are interpolated"
    " between its measurements, on the same sealed prompts. Seconds are of training and measuring,"
    " without the reward model.",
    on_world=True,
    prepare=prepare_policies,
)
