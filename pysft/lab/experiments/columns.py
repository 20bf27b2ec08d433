"""Functions that read a figure from a record, the columns that several experiments share, and
comparisons for checks.

A record is what trial.carry_out returns: "track" has a row for each measurement, "losses" the
training loss of each step."""

from collections.abc import Callable

import numpy as np

from pysft.lab.experiments.experiment import Column

JUMP = 1.3  # a loss this many times the mean of the twenty before it is a spike
FEW = 0.1  # nats: a spike rises by at least this much, so that noise near 0 does not count
GOAL = 0.9  # recall of 36 of the 40 pairs


def last(name: str) -> Callable[[dict], float | None]:
    """A figure at the last measurement."""
    return lambda record: record["track"][-1].get(name)


def at(name: str, step: int) -> Callable[[dict], float | None]:
    """A figure after a step. If the lab is scaled: at the measurement nearest to this step."""
    return lambda record: min(record["track"], key=lambda row: abs(row["step"] - step)).get(name)


def finished(name: str) -> Callable[[dict], float | None]:
    """A figure of the finished model that Arm.finish returned."""
    return lambda record: record.get("finish", {}).get(name)


def recalled(record: dict) -> float | None:
    """The number of pairs recalled at the last measurement."""
    row = record["track"][-1]
    return None if row["recall"] is None else round(row["recall"] * row["recall_of"])


def memorised(record: dict) -> float | None:
    """The share of replies to unseen prompts that are copies or near copies of training replies, or
    spliced from these or the corpus (measure/provenance.py)."""
    found = record["track"][-1].get("origins")
    if not found:
        return None
    copied = sum(found[kind] for kind in ("verbatim", "near copy", "spliced"))
    return copied / max(1, sum(found.values()))


def lowest(record: dict) -> dict:
    """The measurement with the lowest held-out loss, step 0 excluded."""
    rows = (r for r in record["track"] if r["step"] and r["heldout_loss"] is not None)
    return min(rows, key=lambda row: row["heldout_loss"])


def first_loss(record: dict) -> float:
    """The training loss of the first step."""
    return float(record["losses"][0])


def last_loss(record: dict) -> float:
    """The mean training loss of the last twenty steps."""
    return float(np.mean(record["losses"][-20:]))


def first_row(record: dict, name: str, least: float) -> dict | None:
    """The first measurement at which a figure reaches `least`; None if it never does."""
    rows = (r for r in record["track"] if r[name] is not None and r[name] >= least)
    return next(rows, None)


def at_goal(record: dict) -> float | None:
    """Forgetting at the first measurement with 36 of 40 pairs recalled; None without one."""
    row = first_row(record, "recall", GOAL)
    return None if row is None else row["forgetting"]


def spikes(losses: list[float]) -> int:
    """The number of steps whose loss is more than JUMP times the mean of the twenty before it, and
    more than FEW above that mean. The first twenty are compared with the first loss instead."""
    a = np.array(losses)
    before = np.full(len(a), a[0] if len(a) else 0.0)
    if len(a) > 20:
        means = np.convolve(a, np.ones(20) / 20, "valid")  # [i]: of steps i .. i + 19
        before[20:] = means[:-1]
    return int((a > before + np.maximum((JUMP - 1) * before, FEW)).sum())


def spike_count(record: dict) -> int:
    """The number of spikes of a record's training loss."""
    return spikes(record["losses"])


def is_less(a: float | None, b: float | None) -> bool:
    """a < b. False if one of them is None, which means that it was not reached."""
    return a is not None and b is not None and a < b


def is_falling(values: list[float]) -> bool:
    """True if each value is below the one before it."""
    return all(b < a for a, b in zip(values, values[1:]))


BASE = Column("base loss", lambda record: record["base_loss"])
RECALL = Column("recalled of 40", recalled, "{:.0f}")
STOPPED = Column("stopped", last("stopped"), "{:.0%}")
FORGOT = Column("forgetting", last("forgetting"), "{:+.1%}")
REPLY = Column("loss on replies", last("reply_loss"))
COMPLIES = Column("format compliance", last("format_compliance"), "{:.0%}")
HELD = Column("held-out loss", last("heldout_loss"))
LOWEST = Column("held-out loss at its lowest", lambda record: lowest(record)["heldout_loss"])
REAL = Column("real words", last("real_words"), "{:.1%}")
TOPIC = Column("on topic", last("on_topic"), "{:.1%}")
CHANCE = Column("chance", last("on_topic_chance"), "{:.1%}")
MEMORY = Column("memorised", memorised, "{:.0%}")
ASKED = Column("recalled of those asked", last("recall"), "{:.0%}")
