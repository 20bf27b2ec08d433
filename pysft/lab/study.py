"""An experiment carried out: its arms over the seeds, a table with intervals, the verdict, and what
is kept of it."""

import math
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from pysft import disk
from pysft.errors import PysftError, UsageError
from pysft.lab import figures, page
from pysft.lab.experiments import EXPERIMENTS, Experiment
from pysft.lab.trial import Lab
from pysft.run import read_json, write_json

# Student's t for 95 %, by degrees of freedom (Student 1908); the last for all above.
T95 = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
    2.201,
    2.179,
    2.160,
    2.145,
    2.131,
    2.120,
    2.110,
    2.101,
    2.093,
)
GOOD, PARTLY, BAD = "reproduced", "partly reproduced", "not reproduced"
KINDS = {GOOD: "good", PARTLY: "partly", BAD: "bad"}


def study(experiment: Experiment, lab: Lab, seeds: int) -> dict:
    """Run every arm for seeds 1 .. seeds, write FOLDER/NAME/, and give the document that stands
    there."""
    results: dict[str, list[dict]] = {}
    by_seed = []
    for seed in range(1, seeds + 1):
        arms, record, mine = experiment.arms(lab, seed), None, {}
        while True:
            try:
                arm = arms.send(record)
            except StopIteration:
                break
            record = lab.run(arm, seed)
            if arm.matched:
                record |= {"matched_loss": lab.matched(arm, seed)}
            mine[arm.name] = record
            results.setdefault(arm.name, []).append(record)
        by_seed.append(mine)
    checks = [
        {"text": c.text, "holds": [_holds(c, mine) for mine in by_seed]} for c in experiment.checks
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
        "base_loss": {
            preset: lab.ground(preset, 1).loss
            for preset in sorted({r["preset"] for rs in results.values() for r in rs})
        },
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
        "trial_seconds": round(sum(r["seconds"] for rs in results.values() for r in rs), 1),
    }
    folder = lab.folder / experiment.name
    folder.mkdir(parents=True, exist_ok=True)
    drawn = list(experiment.figures(results)) if figures.available() else []
    document["figures"] = [title for title, _ in drawn]
    for i, (_, svg) in enumerate(drawn, 1):
        disk.replace(folder / f"figure-{i}.svg", [svg.encode()])
    disk.replace(folder / "table.txt", [f"{text(document)}\n".encode()])
    write_json(folder / f"{experiment.name}.json", document)
    return document


def side_by_side(names: list[str], options: list[str], jobs: int, say) -> None:
    """Carry out experiments in `jobs` processes of one thread each, which leave their records in
    the lab's folder: small models gain more by that than by threads. options: of the command line,
    the folder among them. A PysftError if one fails."""
    waiting, running, failed = list(names), {}, []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                name = waiting.pop(0)
                command = [
                    sys.executable,
                    "-m",
                    "pysft",
                    "lab",
                    name,
                    "--part",
                    "--jobs",
                    "1",
                    "--threads",
                    "1",
                    *options,
                ]
                running[name] = (
                    subprocess.Popen(
                        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
                    ),
                    time.monotonic(),
                )
            for name, (process, began) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[name]
                if process.returncode:
                    failed.append(
                        f"lab {name}:"
                        f" {process.stderr.read().strip()[-500:] or f'ended with {process.returncode}'}"
                    )
                say(f"{name}: {time.monotonic() - began:.0f} s")
            time.sleep(0.2)
        if failed:  # the others have gone on meanwhile
            raise PysftError("; ".join(failed))
    finally:
        for process, _ in running.values():
            process.terminate()
            process.wait()


def command(name: str, lab: Lab, seeds: int) -> str:
    """What was typed, but for the folder."""
    more = (f" --corpus {shlex.quote(str(lab.corpus))}" if lab.corpus != "plays" else "") + (
        " --retrain-base" if lab.retrain else ""
    )
    return f"python -m pysft lab {name} --seeds {seeds}{more}" + (
        f" --scale {lab.scale:g}" if lab.scale != 1 else ""
    )


def _value(column, record) -> float | str | None:
    """A column's figure, None where something that it rests on was not measured."""
    try:
        return column.value(record)
    except (TypeError, KeyError, IndexError, StopIteration, ValueError):
        return None


def _holds(check, records) -> bool:
    try:
        return bool(check.holds(records))
    except (TypeError, KeyError, IndexError, StopIteration, ValueError):
        return False  # one of its figures could not be measured, so it was not shown


def verdict(checks: list[dict]) -> str:
    """Reproduced: every check held in every seed. Not: none held in more than half of them. Else:
    partly."""
    if all(all(c["holds"]) for c in checks):
        return GOOD
    return PARTLY if any(sum(c["holds"]) > len(c["holds"]) / 2 for c in checks) else BAD


def interval(values: list) -> dict:
    """mean, min, max and the half-width of the mean's 95 % interval (Student's t; null for one
    seed) of a figure over the seeds, and the values; a null among them was not measured. Of words,
    the words."""
    if any(isinstance(y, str) for y in values):
        return {"mean": None, "min": None, "max": None, "t95": None, "values": values}
    x = [float(y) for y in values if y is not None and math.isfinite(y)]
    half = None
    if len(x) > 1:
        half = T95[min(len(x) - 2, len(T95) - 1)] * float(np.std(x, ddof=1)) / math.sqrt(len(x))
    return {
        "mean": float(np.mean(x)) if x else None,
        "min": min(x, default=None),
        "max": max(x, default=None),
        "t95": half,
        "values": [None if y is None or not math.isfinite(y) else float(y) for y in values],
    }


def cell(figure: dict, form: str) -> str:
    """A figure as people read it: its mean, and the range over the seeds where they differ."""
    if any(isinstance(y, str) for y in figure["values"]):
        return ", ".join(dict.fromkeys(str(y) for y in figure["values"]))
    if figure["mean"] is None:
        return "-"
    mean, least, most = (form.format(figure[k]) for k in ("mean", "min", "max"))
    return mean if least == most else f"{mean} ({least}..{most})"


def text(d: dict) -> str:
    """The experiment for a terminal."""
    headings = [f"{i}" for i in range(1, len(d["forms"]) + 1)]
    rows = [
        [cell(figure, d["forms"][name]) for name, figure in arm.items()]
        for arm in d["arms"].values()
    ]
    first = max([len(name) for name in d["arms"]])
    wide = [max([len(h), *(len(row[i]) for row in rows)]) for i, h in enumerate(headings)]
    out = [d["title"], "", f"Claim: {d['claim']}", ""]
    out += [f"  {i}  {name}" for i, name in zip(headings, d["forms"])]
    out += ["", " " * first + "".join(f"  {h:>{w}}" for h, w in zip(headings, wide))]
    out += [
        f"{name:<{first}}" + "".join(f"  {c:>{w}}" for c, w in zip(row, wide))
        for name, row in zip(d["arms"], rows)
    ]
    out += ["", *(f"  {_of(c['holds']):>7}  {c['text']}" for c in d["checks"])]
    out += ["", f"Verdict: {d['verdict']} ({_seeds(d)}; {_bases(d)})"]
    if d["diverged"]:
        out.append(f"Diverged, with its figures from before: {', '.join(d['diverged'])}")
    return "\n".join(out + ([f"Note: {d['note']}"] if d["note"] else []))


def _of(holds):
    return "yes" if all(holds) else "no" if not any(holds) else f"{sum(holds)} of {len(holds)}"


def _seeds(d):
    hint = ", which is only a hint" if d["seeds"] == 1 else ""
    scaled = f", scaled to {d['scale']:g}: the verdict means nothing" if d["scale"] != 1 else ""
    return f"{d['seeds']} seed{'s' * (d['seeds'] != 1)}{hint}{scaled}"


def _bases(d):
    return (
        f"corpus {d['corpus']}, base "
        + ", ".join(f"{name} {loss:.3f} nats/char" for name, loss in d["base_loss"].items())
        + (", one for each seed" if d["retrain_base"] else "")
    )


def gather(folder: Path) -> list[dict]:
    """The documents of the experiments that stand in a lab's folder, in the order of
    EXPERIMENTS."""
    return [
        read_json(path)
        for name in EXPERIMENTS
        if (path := Path(folder) / name / f"{name}.json").is_file()
    ]


def write_page(folder: Path) -> Path:
    """FOLDER/index.html: every experiment that stands in the folder, each figure beside its claim
    and the verdict."""
    documents = gather(folder)
    if not documents:
        raise UsageError(f"{folder}: no experiment stands here; python -m pysft lab NAME makes one")
    counts = {v: sum(d["verdict"] == v for d in documents) for v in KINDS}
    parts = [
        page.paragraph(
            "Each claim of the source text is an experiment; a claim counts when its checks hold in"
            " every seed. " + ", ".join(f"{n} {v}" for v, n in counts.items()) + "."
        ),
        page.table(
            ["experiment", "claim", "verdict"],
            [
                [d["title"], d["claim"], page.badge(d["verdict"], KINDS[d["verdict"]], alone=True)]
                for d in documents
            ],
        ),
    ]
    if not figures.available():
        parts.append(
            page.paragraph("No figures: " + figures.NEEDED + ", then the same command again.")
        )
    for d in documents:
        parts += _section(Path(folder), d)
    target = Path(folder) / "index.html"
    whole = page.page(
        "The claims, measured", parts, "Made by pysft lab. Means over seeds, the range in brackets."
    )
    disk.replace(target, [whole.encode()])
    return target


def _section(folder: Path, d: dict) -> list[str]:
    parts = [
        page.heading(d["title"]),
        page.paragraph(page.badge(d["verdict"], KINDS[d["verdict"]], alone=True), d["claim"]),
    ]
    for i, title in enumerate(d["figures"], 1):
        path = folder / d["name"] / f"figure-{i}.svg"
        if path.is_file():
            parts.append(page.figure(path.read_text(encoding="utf-8")))
    if d["diverged"]:
        parts.append(
            page.paragraph(f"Diverged, with its figures from before: {', '.join(d['diverged'])}.")
        )
    parts.append(
        page.table(
            ["checked", "held in"],
            [[c["text"], f"{sum(c['holds'])} of {len(c['holds'])} seeds"] for c in d["checks"]],
        )
    )
    parts.append(
        page.table(
            ["", *d["forms"]],
            [
                [name, *(cell(figure, d["forms"][k]) for k, figure in arm.items())]
                for name, arm in d["arms"].items()
            ],
            "l" + "r" * len(d["forms"]),
        )
    )
    if d["note"]:
        parts.append(page.paragraph(d["note"]))
    samples = [
        [name, prompt, reply + ("" if stop == "end" else " [no end token]")]
        for name, rows in d["samples"].items()
        for prompt, reply, stop in rows[:2] + rows[6:8]
    ]
    parts.append(
        page.details(
            "What they say (seed 1; the first prompts, two trained on, two unseen)",
            [page.table(["", "prompt", "reply"], samples)],
        )
    )
    parts.append(
        page.paragraph(
            f"{_seeds(d)}; {_bases(d)}; {d['trial_seconds']:,.0f} s of training and measuring."
        )
    )
    parts.append(page.code(d["command"]))
    return parts
