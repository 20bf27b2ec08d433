"""Carry out an experiment: train its arms for each seed, compute figures with intervals, and judge
its checks."""

import math
import shlex
from pathlib import Path

import numpy as np

from pysft import disk
from pysft.lab.experiments import Experiment
from pysft.lab.experiments.experiment import Check, Column
from pysft.lab.lab import Lab
from pysft.lab.table import text
from pysft.measure import figures
from pysft.run.stage import write_json

# Student's t for 95 %, by degrees of freedom from 1 to 19 (Student 1908); the last for all above.
# fmt: off
T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093,
)
# fmt: on
GOOD, PARTLY, BAD = "reproduced", "partly reproduced", "not reproduced"
# What a record raises if a figure was not measured: a key, row or number that is not there.
NOT_MEASURED = (TypeError, KeyError, IndexError, StopIteration, ValueError)


def study(experiment: Experiment, lab: Lab, seeds: int) -> dict:
    """Run every arm for seeds 1 .. seeds, and write table, figures and document to FOLDER/NAME/.
    Returns the document."""
    by_seed = [_records(experiment, lab, seed) for seed in range(1, seeds + 1)]
    # {arm's name: its records by seed}. A seed may have arms that others have not (find-lr).
    results: dict[str, list[dict]] = {}
    for records in by_seed:
        for name, record in records.items():
            results.setdefault(name, []).append(record)
    every = [record for records in results.values() for record in records]
    presets = [] if experiment.on_world else sorted({record["preset"] for record in every})
    checks = [
        {"text": check.text, "holds": [_holds(check, records) for records in by_seed]}
        for check in experiment.checks
    ]
    document = {
        "name": experiment.name,
        "title": experiment.title,
        "claim": experiment.claim,
        "note": experiment.note,
        "corpus": Path(lab.corpus).name,
        "seeds": seeds,
        "scale": lab.scale,
        "retrain_base": lab.retrain,
        "command": command(experiment.name, lab, seeds),
        "base_loss": {preset: lab.base(preset, 1).loss for preset in presets},
        "arms": {
            name: {c.heading: interval([_value(c, r) for r in records]) for c in experiment.columns}
            for name, records in results.items()
        },
        "forms": {c.heading: c.form for c in experiment.columns},
        "checks": checks,
        "verdict": verdict(checks),
        "diverged": [
            name for name, records in results.items() if any(r["diverged"] for r in records)
        ],
        "samples": {name: records[0]["samples"] for name, records in results.items()},
        "trial_seconds": round(sum(record["seconds"] for record in every), 1),
    }
    drawn = list(experiment.figures(results)) if figures.available() else []
    document["figures"] = [title for title, _ in drawn]
    folder = lab.folder / experiment.name
    folder.mkdir(parents=True, exist_ok=True)
    for i, (_, svg) in enumerate(drawn, 1):
        disk.replace(folder / f"figure-{i}.svg", [svg.encode()])
    disk.replace(folder / "table.txt", [f"{text(document)}\n".encode()])
    write_json(folder / f"{experiment.name}.json", document)
    return document


def _records(experiment: Experiment, lab: Lab, seed: int) -> dict[str, dict]:
    """{arm's name: its record} for one seed. Each record is sent to the generator of arms, whose
    next arm may depend on it."""
    arms, record, found = experiment.arms(lab, seed), None, {}
    while True:
        try:
            arm = arms.send(record)
        except StopIteration:
            return found
        record = lab.run(arm, seed)
        if arm.matched:
            record |= {"matched_loss": lab.matched(arm, seed)}
        found[arm.name] = record


def command(name: str, lab: Lab, seeds: int) -> str:
    """The command that carries out this experiment, without --out."""
    parts = [f"python -m pysft lab {name} --seeds {seeds}"]
    if lab.corpus != "plays":
        parts.append(f"--corpus {shlex.quote(str(lab.corpus))}")
    if lab.retrain:
        parts.append("--retrain-base")
    if lab.scale != 1:
        parts.append(f"--scale {lab.scale:g}")
    return " ".join(parts)


def _value(column: Column, record: dict) -> float | str | None:
    """A column's figure; None if something that it is made from was not measured."""
    try:
        return column.value(record)
    except NOT_MEASURED:
        return None


def _holds(check: Check, records: dict[str, dict]) -> bool:
    """True if the check holds. A check with a figure that was not measured does not hold, because
    nothing was shown."""
    try:
        return bool(check.holds(records))
    except NOT_MEASURED:
        return False


def verdict(checks: list[dict]) -> str:
    """ "reproduced" if every check holds in every seed; "not reproduced" if no check holds in more
    than half of the seeds; else "partly reproduced"."""
    if all(all(c["holds"]) for c in checks):
        return GOOD
    return PARTLY if any(sum(c["holds"]) > len(c["holds"]) / 2 for c in checks) else BAD


def interval(values: list) -> dict:
    """A figure over the seeds: "mean", "min", "max", "t95" (half the width of the mean's 95 %
    interval by Student's t; None for fewer than two values) and "values".

    A value that was not measured is None, and one that is not finite becomes None. If a value is a
    word, all figures but "values" are None."""
    if any(isinstance(y, str) for y in values):
        return {"mean": None, "min": None, "max": None, "t95": None, "values": values}
    finite = [None if y is None or not math.isfinite(y) else float(y) for y in values]
    x = [y for y in finite if y is not None]
    half = None
    if len(x) > 1:
        half = T95[min(len(x) - 2, len(T95) - 1)] * float(np.std(x, ddof=1)) / math.sqrt(len(x))
    return {
        "mean": float(np.mean(x)) if x else None,
        "min": min(x, default=None),
        "max": max(x, default=None),
        "t95": half,
        "values": finite,
    }
