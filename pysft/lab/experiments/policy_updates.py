"""PPO on the points of the exact judge: what the clip, the base text beside the replies, and the
baseline are worth. The reward is the truth here, so it cannot be gamed."""

from pysft.lab.experiments.charts import dots, tracks
from pysft.lab.experiments.columns import REAL, finished
from pysft.lab.experiments.experiment import Check, Column, Experiment
from pysft.lab.experiments.policies import BY_JUDGE, GAINED, SECONDS, USUAL, gained, kl, ppo
from pysft.lab.experiments.preferences import BEFORE, FORGOT, KL, POINTS, WON, forgetting
from pysft.lab.preferring import prepare

PLAIN_PPO = "usual"  # the arm that the three experiments share

# ------------------------------------------------------------------------------------ proximal

FEW = USUAL["epochs"]  # updates from the same replies
MANY = 8
UNCLIPPED = f"{FEW} updates, no clip"
OFTEN, OFTEN_UNCLIPPED = f"{MANY} updates", f"{MANY} updates, no clip"
moved, moved_most = finished("kl_old"), finished("kl_old_most")


def proximal(lab, seed):
    yield ppo(PLAIN_PPO, BY_JUDGE)
    yield ppo(UNCLIPPED, BY_JUDGE, clipping="none")
    yield ppo(OFTEN, BY_JUDGE, epochs=MANY)
    yield ppo(OFTEN_UNCLIPPED, BY_JUDGE, epochs=MANY, clipping="none")


PROXIMAL = Experiment(
    name="proximal",
    title="Small steps: with and without the clip",
    claim="The proximal part of PPO takes small steps: it does not change the model too drastically"
    " in one update. This keeps training stable.",
    arms=proximal,
    columns=[
        Column("nats a token moved from the writer", moved, "{:.4f}"),
        Column("the most in an iteration", moved_most, "{:.3f}"),
        Column("ratios beyond the clip", finished("clipped"), "{:.1%}"),
        KL,
        POINTS,
        BEFORE,
        WON,
        REAL,
        FORGOT,
        SECONDS,
    ],
    checks=[
        Check(
            f"with {MANY} updates the clip keeps the policy nearer to the one that wrote the"
            " replies",
            lambda r: moved(r[OFTEN]) < moved(r[OFTEN_UNCLIPPED]),
        ),
        Check(
            "without it the most that an iteration moves is at least twice as much",
            lambda r: moved_most(r[OFTEN_UNCLIPPED]) >= 2 * moved_most(r[OFTEN]),
        ),
        Check(
            "without it the policy ends further from the model before",
            lambda r: kl(r[OFTEN_UNCLIPPED]) > kl(r[OFTEN]),
        ),
        Check(
            "without it fewer points are gained",
            lambda r: gained(r[OFTEN_UNCLIPPED]) < gained(r[OFTEN]),
        ),
        Check(
            f"with {FEW} updates it matters little: at most 0.1 points either way",
            lambda r: abs(gained(r[UNCLIPPED]) - gained(r[PLAIN_PPO])) <= 0.1,
        ),
    ],
    figures=lambda r: [
        tracks(r, "Points by the exact judge", "sealed_gold", "points, 0 to 3"),
        tracks(r, "KL from the model before", "sealed_kl", "nats a reply"),
    ],
    note="The reward is the exact judge's points. An iteration makes so many updates from the same"
    f" replies; the usual is {FEW}. How far these move the policy from the one that wrote the"
    " replies is measured before the last of them, on the tokens of the replies.",
    on_world=True,
    prepare=prepare,
)

# ----------------------------------------------------------------------------------------- ptx

NO_TEXT, MUCH_TEXT = "no text beside", "text, weight 20"
NEAR = 0.2
NO_TEXT_NEAR = f"no text, beta {NEAR:g}"
ALONE = {"windows": (), "world": ()}
forgotten_before = finished("forgetting_before")


def ptx(lab, seed):
    yield ppo(PLAIN_PPO, BY_JUDGE)
    yield ppo(NO_TEXT, BY_JUDGE, **ALONE)
    yield ppo(MUCH_TEXT, BY_JUDGE, ptx=20.0)
    yield ppo(NO_TEXT_NEAR, BY_JUDGE, **ALONE, beta=NEAR)


PTX = Experiment(
    name="ptx",
    title="Base text beside the replies",
    claim="PPO forgets what it does not train: base text beside the replies (ptx) keeps it, a"
    " higher price of KL does not. (Ouyang et al. 2022, with a weight of 20 or more.)",
    arms=ptx,
    columns=[
        FORGOT,
        Column("forgetting before", forgotten_before, "{:+.1%}"),
        POINTS,
        BEFORE,
        GAINED,
        WON,
        KL,
        SECONDS,
    ],
    checks=[
        Check(
            "without text PPO forgets at least 3 points more than the model before",
            lambda r: forgetting(r[NO_TEXT]) - forgotten_before(r[NO_TEXT]) >= 0.03,
        ),
        Check(
            "with text at weight 1 it forgets less than without",
            lambda r: forgetting(r[PLAIN_PPO]) < forgetting(r[NO_TEXT]),
        ),
        Check(
            "at weight 20 at most 1 point more than the model before",
            lambda r: forgetting(r[MUCH_TEXT]) - forgotten_before(r[MUCH_TEXT]) <= 0.01,
        ),
        Check(
            "and gains at least half of the points that it gains without text",
            lambda r: gained(r[MUCH_TEXT]) >= gained(r[NO_TEXT]) / 2 > 0,
        ),
        Check(
            f"without text, beta {NEAR:g} forgets more than text at weight 1",
            lambda r: forgetting(r[NO_TEXT_NEAR]) > forgetting(r[PLAIN_PPO]),
        ),
    ],
    figures=lambda r: [
        dots(r, "Forgetting of base text", FORGOT, "rise of the base loss, %", 100),
        dots(r, "Points gained", GAINED, "points"),
    ],
    note="The reward is the exact judge's points. Text is that of the recipe: two windows of the"
    " plays and some of the world's own text in each update, with weight 1. Forgetting is the rise"
    " of the loss on the held-out tail of the plays since the base. Without text an update is"
    " shorter too.",
    on_world=True,
    prepare=prepare,
)

# ----------------------------------------------------------------------------------- baselines

OTHERS, GROUP, CISPO = "leave-one-out", "group", "CISPO's clip"
BASELINES_OF = (PLAIN_PPO, OTHERS, GROUP, CISPO)


def baselines(lab, seed):
    yield ppo(PLAIN_PPO, BY_JUDGE)
    for name in (OTHERS, GROUP):
        yield ppo(name, BY_JUDGE, baseline=name)
    yield ppo(CISPO, BY_JUDGE, clipping="cispo")


seconds = finished("train_seconds")

BASELINES = Experiment(
    name="baselines",
    title="A critic, the other replies, or the group",
    claim="The other replies to a prompt are as good a baseline as a critic, and cost less. (Not"
    " the source text's claim, but that of Ahmadian et al. 2024 for leave-one-out and of Shao et"
    " al. 2024 for the group.)",
    arms=baselines,
    columns=[GAINED, POINTS, BEFORE, WON, KL, FORGOT, SECONDS],
    checks=[
        Check(
            "each of the four gains at least 0.1 points",
            lambda r: min(gained(r[name]) for name in BASELINES_OF) >= 0.1,
        ),
        Check(
            "leave-one-out gains at most 0.05 points less than a critic",
            lambda r: gained(r[PLAIN_PPO]) - gained(r[OTHERS]) <= 0.05,
        ),
        Check(
            "the group gains at most 0.05 points less than a critic",
            lambda r: gained(r[PLAIN_PPO]) - gained(r[GROUP]) <= 0.05,
        ),
        Check(
            "both take less time than a critic",
            lambda r: max(seconds(r[OTHERS]), seconds(r[GROUP])) < seconds(r[PLAIN_PPO]),
        ),
        Check(
            "CISPO's clip gains at most 0.05 points less than PPO's",
            lambda r: gained(r[PLAIN_PPO]) - gained(r[CISPO]) <= 0.05,
        ),
    ],
    figures=lambda r: [
        tracks(r, "Points by the exact judge", "sealed_gold", "points, 0 to 3"),
        dots(r, "Processor seconds of training", SECONDS, "seconds"),
    ],
    note="The reward is the exact judge's points. All have as many iterations of as many replies."
    " The usual arm has PPO's clip and a critic that begins as the model before with a value of 0;"
    " CISPO's clip (MiniMax 2025) has that critic too.",
    on_world=True,
    prepare=prepare,
)
