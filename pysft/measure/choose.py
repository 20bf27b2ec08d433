"""Choose a checkpoint of a fine-tuning: which step each criterion picks, and where they disagree.

Units are those of evaluate.py: losses in nats, shares from 0 to 1. A mark, which a person gives to
a reply (rate.py), is a whole number from 1 to 5."""

from collections.abc import Callable
from math import isfinite
from statistics import fmean
from typing import NamedTuple


class Criterion(NamedTuple):
    """One way to compare checkpoints."""

    best: str  # what the best checkpoint has, in words
    better: str  # which values are better: "low" or "high"
    value: Callable[[dict], float | None]  # of a row of `select`; None where it was not measured
    form: str  # the format of a value
    warning: str = ""  # why not to choose by it alone; `agree` lists such a criterion uncounted


def _above_chance(row: dict) -> float | None:
    rate, chance = row.get("on_topic"), row.get("on_topic_chance")
    if rate is None or chance is None:
        return None
    return round(rate - chance, 12)  # rounding errors must not break a tie


CRITERIA = {
    "held-out loss": Criterion(
        "the lowest loss on conversations never trained on",
        "low",
        lambda row: row.get("heldout_loss"),
        "{:.3f}",
    ),
    "format compliance": Criterion(
        "the most replies in the right format",
        "high",
        lambda row: row.get("format_compliance"),
        "{:.1%}",
    ),
    "on-topic above chance": Criterion(
        "the most replies on the subject of their prompt, above chance",
        "high",
        _above_chance,
        "{:+.1%}",
    ),
    "distinct words": Criterion(
        "the fewest repeated words in a reply, as chat writes",
        "high",
        lambda row: row.get("distinct_words"),
        "{:.1%}",
        "gibberish is varied too",
    ),
    "forgetting": Criterion(
        "the smallest rise of the loss on base text",
        "low",
        lambda row: row.get("forgetting"),
        "{:+.1%}",
    ),
    "recall": Criterion(
        "the most trained pairs answered word for word",
        "high",
        lambda row: row.get("recall"),
        "{:.1%}",
    ),
    "training loss": Criterion(
        "the lowest loss on the training data",
        "low",
        lambda row: row.get("sft_loss"),
        "{:.3f}",
        "the source text warns against choosing by it",
    ),
    "person's marks": Criterion(
        "the best mean mark from a blind reader", "high", lambda row: row.get("mark"), "{:.2f}"
    ),
}


# With a reward model: its score beside what it stands for.
BY_REWARD = {
    "held-out loss": CRITERIA["held-out loss"],
    "reward score": Criterion(
        "the best mean score of the reward model",
        "high",
        lambda row: row.get("reward"),
        "{:+.3f}",
        "a model can learn to please it",
    ),
    "right answers": Criterion(
        "the most right answers, by the exact judge",
        "high",
        lambda row: row.get("right"),
        "{:.1%}",
    ),
    "person's marks": CRITERIA["person's marks"],
}


# For PPO: what its own iterations earned, by the reward and by whoever knows the truth.
BY_POLICY = {
    "gold points": Criterion(
        "the most points by the exact judge, of replies in training",
        "high",
        lambda row: row.get("gold"),
        "{:.2f}",
    ),
    "reward": Criterion(
        "the highest reward, of replies in training",
        "high",
        lambda row: row.get("reward"),
        "{:.2f}",
        "a model can learn to please it",
    ),
    **{name: c for name, c in CRITERIA.items() if name != "training loss"},
}
ITERATIONS = 10  # whose mean stands for a checkpoint


def with_iterations(rows: list[dict], log: list[dict]) -> list[dict]:
    """The measurements of a stage of PPO, those above step 0 with the means of "reward" and "gold"
    over the ITERATIONS up to then; None without them. log: its rows."""
    found = []
    for row in rows:
        last = [r["figures"] for r in log if r["step"] <= row["step"]][-ITERATIONS:]
        each = {name: [f.get(name) for f in last] for name in ("reward", "gold")}
        means = {
            name: fmean(values) if values and None not in values else None
            for name, values in each.items()
        }
        found.append(row | means)
    return found


def select(
    rows: list[dict],
    marks: dict[int, list[int]] | None = None,
    compared: dict[str, Criterion] = CRITERIA,
) -> dict:
    """What each criterion picks among the checkpoints above step 0, ready for JSON.

    rows: the measurements (run/log.py). marks: {step: marks of its replies} (rate.py).
    compared: the criteria.

    criteria   name -> step (the earliest of the best; null where nothing was measured), value,
               ties (the later steps that are exactly as good)
    agree      [{"step", "criteria"}]: the step that is best, tied or alone, by the most criteria
               (the earliest of several), and these criteria; then the same for the criteria that
               remain, and so on. A criterion with a warning is listed, but does not count
    disagree   true if `agree` has more than one step
    rows       the rows by rising step, with mark (the mean, or null) and marks (how many)"""
    rows = [
        _complete(row, (marks or {}).get(row["step"], []))
        for row in sorted(rows, key=lambda row: row["step"])
    ]
    criteria, best = {}, {}
    for name, c in compared.items():
        values = {row["step"]: c.value(row) for row in rows if row["step"] > 0}
        values = {step: value for step, value in values.items() if value is not None}
        value = (min if c.better == "low" else max)(values.values(), default=None)
        steps = [step for step, v in values.items() if v == value]
        criteria[name] = {"step": steps[0] if steps else None, "value": value, "ties": steps[1:]}
        if steps:
            best[name] = steps
    agree = _agreement(best, compared)
    return {"criteria": criteria, "agree": agree, "disagree": len(agree) > 1, "rows": rows}


def _complete(row: dict, marks: list[int]) -> dict:
    row = {k: None if isinstance(v, float) and not isfinite(v) else v for k, v in row.items()}
    return row | {"mark": fmean(marks) if marks else None, "marks": len(marks)}


def _agreement(best: dict[str, list[int]], compared: dict[str, Criterion]) -> list[dict]:
    """`agree` of select. best: {criterion: its best steps, ties included}.

    A tie is no disagreement: if compliance is 100 % from step 100 on, it does not speak against
    step 900."""
    found = []
    while best:
        steps = sorted(set().union(*best.values()))
        counts = {
            step: sum(step in b and not compared[name].warning for name, b in best.items())
            for step in steps
        }
        step = max(steps, key=counts.get)  # the first of equals
        names = [name for name, b in best.items() if step in b]
        found.append({"step": step, "criteria": names})
        best = {name: b for name, b in best.items() if name not in names}
    return found
