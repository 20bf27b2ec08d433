"""Catastrophic forgetting, and what reduces it."""

from pysft.lab.experiments.arms import PLAIN, pairs_arm, plain
from pysft.lab.experiments.charts import dots
from pysft.lab.experiments.columns import (
    COMPLIES,
    FORGOT,
    RECALL,
    STOPPED,
    at_goal,
    is_less,
    last,
    recalled,
)
from pysft.lab.experiments.experiment import Check, Column, Experiment
from pysft.lab.experiments.rates import rate_arm, short
from pysft.measure import figures
from pysft.measure.ratio import rise
from pysft.nn.shapes import MATRICES

FALLING = {"schedule": "linear", "beta2": 0.99}
LORAS = ((1, 1e-3), (4, 1e-3), (16, 1e-3), (16, 3e-4), (16, 1e-4))  # (rank, learning rate)


def _replay_arm(lab, name, windows, lora=None, **settings):
    """The source's recipe with windows of base text beside the pairs, and new rows that start at
    the mean."""
    settings = {"new_rows": "mean", "windows": ((64, windows),), **settings}
    return pairs_arm(lab, name, (200, 500), settings, lora=lora, matched=True)


def forgetting(lab, seed):
    yield plain(lab)
    yield pairs_arm(lab, "mean rows", settings={"new_rows": "mean"})
    for lr in (3e-5, 1e-5, 1e-3):
        yield rate_arm(lab, lr)
    for windows in (4, 16, 32):
        yield _replay_arm(lab, f"replay, {windows} windows", windows)
    yield _replay_arm(lab, "replay, 16 windows, 1e-3 to 0", 16, lr=1e-3, **FALLING)
    tuned = {"lr": 5e-3, "warmup": 50, "decay": 0.3, "decay_all": False, "clip": 1.0}
    yield _replay_arm(lab, "replay, 16 windows, 5e-3 to 0", 16, **tuned, **FALLING)
    for rank, lr in LORAS:
        yield pairs_arm(
            lab,
            f"LoRA rank {rank}, {short(lr)}",
            (100, 200, 500),
            {"lr": lr},
            lora=(rank, MATRICES),
        )
    lora = (16, MATRICES)
    yield _replay_arm(lab, "LoRA rank 16 and replay", 16, lora, lr=1e-3, **FALLING)


def matched(record: dict) -> float | None:
    """Forgetting relative to the base trained on the replayed windows alone; None without
    replay."""
    return rise(record["track"][-1]["tuned_base_loss"], record.get("matched_loss"))


def least_of_loras(r) -> float | None:
    """The smallest at_goal of the LoRA arms without replay; None if none reached the goal."""
    loras = [x for name, x in r.items() if name.startswith("LoRA rank") and "replay" not in name]
    return min((x for x in map(at_goal, loras) if x is not None), default=None)


def _replay_suffices(r) -> bool:
    arms = [x for name, x in r.items() if name.startswith("replay, 16")]
    return all(max(last("forgetting")(x), matched(x)) < 0.1 for x in arms)


def _is_good(record) -> bool:
    return (
        recalled(record) >= 38
        and last("format_compliance")(record) >= 0.9
        and last("forgetting")(record) <= 0.02
    )


def _trade(results, title, *kinds) -> tuple[str, str]:
    """Recall against forgetting along the steps, for the arms whose names begin with one of the
    kinds."""

    def path(record):
        rows = record["track"]
        forgotten = [100 * row["forgetting"] for row in rows]
        return forgotten, [row["recall"] * row["recall_of"] for row in rows]

    series = [
        (arm, [path(r) for r in records])
        for arm, records in results.items()
        if arm.startswith(kinds)
    ]
    title = f"What is recalled against what is forgotten: {title}"
    return title, figures.paths(title, series, "rise of the base loss, %", "pairs recalled of 40")


FORGETTING = Experiment(
    name="forgetting",
    title="Catastrophic forgetting, and what helps",
    claim="Fine-tuning overwrites some of what the base knew. Replay of base text, LoRA and lower"
    " rates reduce it; beyond 10 to 15 % it is severe.",
    arms=forgetting,
    columns=[
        RECALL,
        FORGOT,
        Column("matched forgetting", matched, "{:+.1%}"),
        Column("forgetting when 36 were first recalled", at_goal, "{:+.1%}"),
        STOPPED,
        COMPLIES,
        Column("weights trained (new rows too)", lambda r: r["trained_share"], "{:.1%}"),
    ],
    checks=[
        Check(
            "the plain recipe forgets more than 15 %",
            lambda r: last("forgetting")(r[PLAIN]) > 0.15,
        ),
        Check(
            "when 36 are first recalled, a lower rate has forgotten less",
            lambda r: is_less(at_goal(r["rate 3e-5"]), at_goal(r[PLAIN])),
        ),
        Check("16 windows of replay bring it below 10 %, matched too", _replay_suffices),
        Check(
            "when 36 are first recalled, LoRA has forgotten less than all weights at the same rate",
            lambda r: is_less(at_goal(r["LoRA rank 16, 1e-3"]), at_goal(r["rate 1e-3"])),
        ),
        Check(
            "and some LoRA has forgotten less than the plain recipe",
            lambda r: is_less(least_of_loras(r), at_goal(r[PLAIN])),
        ),
        Check(
            "some arm recalls 38 of 40, complies for 90 % of unseen prompts and forgets at most"
            " 2 %",
            lambda r: any(map(_is_good, r.values())),
        ),
    ],
    figures=lambda r: [
        _trade(r, "Rates", PLAIN, "rate"),
        _trade(r, "Replay", PLAIN, "replay"),
        _trade(r, "LoRA", PLAIN, "LoRA"),
        dots(r, "Forgetting", FORGOT, "rise of the base loss, %", 100, level=(10, "gate: 10 %")),
    ],
    note="Only with replay can the base go on learning, and a negative figure says that it did."
    " Matched forgetting compares with the base trained on the same windows alone. 36 of 40 are"
    " first recalled at one of the measured steps, and these are few.",
)
