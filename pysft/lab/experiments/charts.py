"""Charts of records, each a (title, SVG). results: {arm's name: its records by seed}."""

import numpy as np

from pysft.lab.experiments.columns import last
from pysft.lab.experiments.experiment import Column
from pysft.measure import figures


def times(value: float | None, scale: float) -> float | None:
    """value * scale; None stays None."""
    return None if value is None else value * scale


def tracks(results, title, name, label, scale: float = 1.0, **more) -> tuple[str, str]:
    """A figure along the steps, with a line for each arm. name: of the figure in a row of
    "track"."""
    series = []
    for arm, records in results.items():
        steps = [row["step"] for row in max((r["track"] for r in records), key=len)]
        found = [{row["step"]: row.get(name) for row in r["track"]} for r in records]
        ys = [[times(by_step.get(step), scale) for step in steps] for by_step in found]
        series.append(figures.Series(arm, steps, ys))
    return title, figures.curves(title, series, "step", label, **more)


def losses(results, title, **more) -> tuple[str, str]:
    """Training loss along the steps, with a line for each arm. The curve of a seed that diverged
    ends early."""
    series = []
    for arm, records in results.items():
        curves = [smooth(r["losses"])[1] for r in records]
        steps = smooth(max((r["losses"] for r in records), key=len))[0]
        ys = [curve + [None] * (len(steps) - len(curve)) for curve in curves]
        series.append(figures.Series(arm, steps, ys))
    return title, figures.curves(title, series, "step", "loss, nats per graded token", **more)


def smooth(losses: list, width: int = 10) -> tuple[list, list]:
    """(steps, means) of a loss curve, with a point for every `width` steps. Steps at the end that
    do not fill a point are left out. A curve shorter than `width` has one point."""
    a = np.array(losses[: len(losses) // width * width] or losses)
    a = a.reshape(-1, min(width, len(losses)))
    return list((np.arange(len(a)) + 1) * a.shape[1]), a.mean(1).tolist()


def dots(results, title, column: Column, label: str, scale: float = 1.0, **more) -> tuple[str, str]:
    """One figure, with a row for each arm and a dot for each seed."""
    groups = [
        (arm, [times(column.value(r), scale) for r in records]) for arm, records in results.items()
    ]
    return title, figures.dots(title, groups, label, **more)


def by_seed(arms: list[list[dict]], value, scale: float = 1.0) -> list[list]:
    """For each seed, a figure of each arm. arms: for each arm its records by seed. value: a
    function of a record, or the name of a figure at the last measurement."""
    value = value if callable(value) else last(value)
    return [[times(value(record), scale) for record in records] for records in zip(*arms)]
