"""index.html: all experiments of a lab's folder on one page, each with its claim, verdict, figures
and table."""

from pathlib import Path

from pysft import disk
from pysft.errors import UsageError
from pysft.lab.experiments import EXPERIMENTS
from pysft.lab.study import BAD, GOOD, PARTLY
from pysft.lab.table import bases, cell, diverged, seeds
from pysft.measure import figures, page
from pysft.run.stage import read_json

KINDS = {GOOD: "good", PARTLY: "partly", BAD: "bad"}  # of a verdict's badge


def gather(folder: Path) -> list[dict]:
    """The documents of the folder's experiments, in the order of EXPERIMENTS."""
    paths = (Path(folder) / name / f"{name}.json" for name in EXPERIMENTS)
    return [read_json(path) for path in paths if path.is_file()]


def write_page(folder: Path) -> Path:
    """Write FOLDER/index.html and return its path. A UsageError if the folder has no experiment."""
    folder = Path(folder)
    documents = gather(folder)
    if not documents:
        raise UsageError(f"{folder}: no experiment is here; python -m pysft lab NAME makes one")
    counts = (f"{sum(d['verdict'] == v for d in documents)} {v}" for v in KINDS)
    parts = [
        page.paragraph(
            "Each claim of the source text is an experiment. A claim is reproduced if its checks"
            f" hold in every seed. {', '.join(counts)}."
        ),
        page.table(
            ["experiment", "claim", "verdict"],
            [[d["title"], d["claim"], _badge(d)] for d in documents],
        ),
    ]
    if not figures.available():
        again = "Then run the same command again."
        parts.append(page.paragraph(f"Not drawn: {figures.NEEDED}. {again}"))
    for d in documents:
        parts += _section(folder, d)
    target = folder / "index.html"
    note = "Made by pysft lab. Means over the seeds, with the range in brackets."
    disk.replace(target, [page.page("The claims, measured", parts, note).encode()])
    return target


def _badge(d: dict) -> str:
    return page.badge(d["verdict"], KINDS[d["verdict"]], alone=True)


def _section(folder: Path, d: dict) -> list[str]:
    """One experiment's part of the page."""
    parts = [page.heading(d["title"]), page.paragraph(_badge(d), d["claim"])]
    for i in range(1, len(d["figures"]) + 1):
        path = folder / d["name"] / f"figure-{i}.svg"
        if path.is_file():
            parts.append(page.figure(path.read_text(encoding="utf-8")))
    if d["diverged"]:
        parts.append(page.paragraph(f"{diverged(d)}."))
    held = [[c["text"], f"{sum(c['holds'])} of {len(c['holds'])} seeds"] for c in d["checks"]]
    parts.append(page.table(["checked", "held in"], held))
    rows = [
        [name, *(cell(figure, d["forms"][heading]) for heading, figure in arm.items())]
        for name, arm in d["arms"].items()
    ]
    parts.append(page.table(["", *d["forms"]], rows, "l" + "r" * len(d["forms"])))
    if d["note"]:
        parts.append(page.paragraph(d["note"]))
    parts.append(
        page.details(
            "Replies (seed 1; for each arm two prompts it was trained on, and two unseen)",
            [page.table(["", "prompt", "reply"], _samples(d))],
        )
    )
    spent = f"{d['trial_seconds']:,.0f} s of training and measuring"
    parts.append(page.paragraph(f"{seeds(d)}; {bases(d)}; {spent}."))
    parts.append(page.code(d["command"]))
    return parts


def _samples(d: dict) -> list[list[str]]:
    """[arm, prompt, reply]. A record has six replies to trained prompts before those to unseen
    ones."""
    return [
        [name, prompt, reply + ("" if stop == "end" else " [no end token]")]
        for name, rows in d["samples"].items()
        for prompt, reply, stop in rows[:2] + rows[6:8]
    ]
