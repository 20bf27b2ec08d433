"""Claims about one run of the source text's recipe: the order in which things are learnt, and how
far weights move."""

import numpy as np

from pysft.lab.experiments.arms import PLAIN, only_plain
from pysft.lab.experiments.charts import smooth
from pysft.lab.experiments.columns import GOAL, first_loss, first_row, is_less, last_loss
from pysft.lab.experiments.experiment import Check, Column, Experiment
from pysft.lab.measures import NEW, OLD
from pysft.measure import figures
from pysft.measure.ratio import ratio

# --------------------------------------------------------------------------------- loss-curve

LEARNT = 0.5  # nats: one level for all kinds of token, since they start at very different losses


def fallen(record: dict, step: int) -> float | None:
    """The share of the loss's whole fall that had happened by `step` of 1,000 steps; None if it did
    not fall."""
    a = np.array(record["losses"])
    n = max(1, int(len(a) * step / 1000))
    end = a[-20:].mean()
    return ratio(float(a[0] - a[max(0, n - 10) : n].mean()), float(a[0] - end))


def learnt(record: dict, kind: str) -> int | None:
    """The first step at which the loss of this kind of token, as a mean of the last ten steps, is
    below LEARNT; None if it never is."""
    a = np.array([np.nan if x is None else x for x in record["by_kind"][kind]])
    below = np.flatnonzero(np.convolve(a, np.ones(10) / 10, "valid") < LEARNT)
    return int(below[0]) + 10 if len(below) else None


def stops_at(record: dict) -> int | None:
    """The first measured step after which 95 % of the replies to the pairs stop."""
    row = first_row(record, "stopped", 0.95)
    return None if row is None else row["step"]


def recalls_at(record: dict) -> int | None:
    """The first measured step after which 36 of the 40 pairs are recalled."""
    row = first_row(record, "recall", GOAL)
    return None if row is None else row["step"]


def _loss_by_kind(results) -> tuple[str, str]:
    """Loss along the steps, with a line for each kind of token."""
    records = results[PLAIN]
    series = []
    for kind, name in (("first", "first token"), ("content", "content"), ("end", "end token")):
        curves = [smooth(r["by_kind"][kind]) for r in records]
        series.append(figures.Series(name, curves[0][0], [means for _, means in curves]))
    title = "Loss by kind of token"
    return title, figures.curves(title, series, "step", "nats", log_y=True)


LOSS_CURVE = Experiment(
    name="loss-curve",
    title="Format first, content later",
    claim="The loss falls from about 4.0 to about 0.3 in 1,000 steps. The format is learnt in the"
    " steep first 200; then the replies are memorised more slowly.",
    arms=only_plain,
    columns=[
        Column("loss at the start", first_loss),
        Column("at the end", last_loss),
        Column("share of the fall by step 200", lambda r: fallen(r, 200), "{:.0%}"),
        Column("first token below 0.5 nats at step", lambda r: learnt(r, "first"), "{:.0f}"),
        Column("content", lambda r: learnt(r, "content"), "{:.0f}"),
        Column("end token", lambda r: learnt(r, "end"), "{:.0f}"),
        Column("95 % of replies stop at step", stops_at, "{:.0f}"),
        Column("36 of 40 recalled at step", recalls_at, "{:.0f}"),
    ],
    checks=[
        Check("it starts between 3.5 and 4.5", lambda r: 3.5 <= first_loss(r[PLAIN]) <= 4.5),
        Check("it ends at 0.3 or below", lambda r: last_loss(r[PLAIN]) <= 0.3),
        Check(
            "four fifths of the fall are in the first 200 steps",
            lambda r: fallen(r[PLAIN], 200) >= 0.8,
        ),
        Check(
            "replies stop before they are recalled",
            lambda r: is_less(stops_at(r[PLAIN]), recalls_at(r[PLAIN])),
        ),
        Check(
            "the end token's loss is below 0.5 nats before the content's",
            lambda r: is_less(learnt(r[PLAIN], "end"), learnt(r[PLAIN], "content")),
        ),
    ],
    figures=lambda r: [_loss_by_kind(r)],
    note="A grown copy of the base starts near 2.2, not near ln 68 = 4.22, because it already knows"
    " its letters. The end token starts at 9 to 10 nats, because its row was drawn at random."
    " Judged by replies, stopping is still learnt first.",
)

# ------------------------------------------------------------------------------ weights-moved


def is_matrix(name: str) -> bool:
    return name.endswith((".qkv.w", ".attproj.w", ".fc.w", ".fcproj.w"))


def matrices_moved(record: dict) -> float | None:
    """The median relative change of the matrices."""
    found = [x for name, x in record["moved"].items() if is_matrix(name) and x is not None]
    return float(np.median(found)) if found else None


def most_moved(record: dict) -> float:
    """The largest relative change among matrices, positions and old rows."""
    return max(x for name, x in _shown(record).items() if NEW not in name)


def _shown(record: dict) -> dict[str, float]:
    """The changes of matrices, positions, and the rows of embedding and head."""
    return {
        name: x
        for name, x in record["moved"].items()
        if x is not None and (is_matrix(name) or "rows" in name or name == "wpe")
    }


def _changes(results) -> tuple[str, str]:
    """The change of each tensor, with a dot for each seed."""
    title = "Relative change of each tensor"
    records = results[PLAIN]
    rows = [(name, [100 * r["moved"][name] for r in records]) for name in _shown(records[0])]
    return title, figures.dots(title, rows, "%")


WEIGHTS_MOVED = Experiment(
    name="weights-moved",
    title="Nudged, not replaced",
    claim="Fine-tuning moves all weights a little; it does not replace them. Only the new rows"
    " begin at random.",
    arms=only_plain,
    columns=[
        Column("matrices (median)", matrices_moved, "{:.0%}"),
        Column("embedding, old rows", lambda r: r["moved"].get(f"wte, {OLD}"), "{:.0%}"),
        Column("head, old rows", lambda r: r["moved"].get(f"head, {OLD}"), "{:.0%}"),
        Column("embedding, new rows", lambda r: r["moved"].get(f"wte, {NEW}"), "{:.0%}"),
        Column("head, new rows", lambda r: r["moved"].get(f"head, {NEW}"), "{:.0%}"),
        Column("largest of all old", most_moved, "{:.0%}"),
    ],
    checks=[
        Check(
            "the matrices move by less than half of their norm (median)",
            lambda r: matrices_moved(r[PLAIN]) < 0.5,
        ),
        Check(
            "so do the old rows of embedding and head",
            lambda r: max(r[PLAIN]["moved"][f"{n}, {OLD}"] for n in ("wte", "head")) < 0.5,
        ),
        Check(
            "the new rows move more than the old ones",
            lambda r: all(
                r[PLAIN]["moved"][f"{n}, {NEW}"] > r[PLAIN]["moved"][f"{n}, {OLD}"]
                for n in ("wte", "head")
            ),
        ),
    ],
    figures=lambda r: [_changes(r)],
    note="|W - W0| / |W0| after the source's 1,000 steps at 1e-4.",
)
