"""Read what a run folder holds, for its page. Files that are missing, cut off, or not as this
program writes them are noted; everything else is read."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from pysft.errors import MissingInput, PysftError
from pysft.run.log import of_this_version
from pysft.run.stage import read_json, stage_folders
from pysft.run.tree import tree
from pysft.training.flat import nested
from pysft.training.kinds import kind_of
from pysft.training.settings import stages_of

RUN_FILE = "run.json"
# What each file of a stage gives the page, for a base and for a fine-tuning.
BASE = {"report.json": "the figures of the base model", "log.jsonl": "the curves of the base"}
TUNED = {
    "report.json": "the figures",
    "log.jsonl": "the curves of fine-tuning",
    "data.json": "the census of the data",
    "measurements.jsonl": "the measurements by checkpoint",
    "before.json": "before and after",
    "samples.json": "the replies",
}
COMPARED = {name: what for name, what in TUNED.items() if name != "data.json"}
SCORING = {"report.json": "the figures of the reward model", "log.jsonl": "its curves"}
FILES = {"base": BASE, "sft": TUNED, "dpo": COMPARED, "reward": SCORING}  # by the kind of a stage


@dataclass
class RunFiles:
    """The contents of a run folder.

    stages: the names of its stages, in order. tree: as run.tree.tree gives it. data: {name of a
    file: its contents, None if it could not be read}, such as "sft/report.json". The contents of
    run.json have settings in tables, whichever version wrote them, and one entry more, "tuned":
    True if the run was fine-tuned, or was meant to be. missing: [(what is missing, why, what the
    page lacks without it)]."""

    stages: list[str] = field(default_factory=list)
    tree: list[dict] = field(default_factory=list)
    data: dict = field(default_factory=dict)
    missing: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def tuned(self) -> list[str]:
        """The names of the stages that talk."""
        return [name for name in self.stages if kind_of(name) not in ("base", "reward")]


def read_run(folder: Path) -> RunFiles:
    """Read the files of a run folder. MissingInput if it is not a run's folder."""
    if not folder.is_dir():
        raise MissingInput(f"{folder}: no such run folder. 'python -m pysft train' makes one")
    stages = [path.name for path in stage_folders(folder)]
    if not stages and not (folder / RUN_FILE).is_file():
        raise MissingInput(
            f"{folder}: not a run folder; name one that 'python -m pysft train' made"
        )
    files = RunFiles(stages, tree(folder) if stages else [])
    gives = {RUN_FILE: "the settings, and the command that makes the run again"}
    for stage in stages:
        of_stage = FILES.get(kind_of(stage), TUNED)
        gives |= {f"{stage}/{name}": what for name, what in of_stage.items()}
    for name, what in gives.items():
        files.data[name] = _read(folder / name, name, what, files.missing)
    run = files.data[RUN_FILE]
    if run:
        if isinstance(run.get("settings"), dict):
            run["settings"] = nested(run["settings"])
        planned = stages_of(run["settings"]) if isinstance(run["settings"], dict) else []
        was_meant = run.get("verb") != "pretrain" and any(name != "base" for name in planned)
        run["tuned"] = bool(files.tuned or was_meant)
    if not files.tuned:
        why = "this run was not fine-tuned, or not yet"
        files.missing.append(("sft", why, "everything about a tuned model"))
    if "base" not in stages:
        elsewhere = run and run.get("base")
        why = f"trained in {elsewhere}, whose page shows it" if elsewhere else "no such folder"
        files.missing.append(("base", why, "the curves of the base"))
    return files


def _read(path: Path, name: str, what: str, missing: list):
    """The contents of a file, or None. A fault is added to `missing`."""
    try:
        if name.endswith(".jsonl"):
            data = _read_lines(path, name, what, missing)
        else:
            data = read_json(path)
        if not data:
            missing.append((name, "it is empty", what))
        return data
    except (PysftError, OSError, ValueError, RecursionError) as error:
        why = str(error).removeprefix(f"{path}: ") if path.exists() else "no such file"
        missing.append((name, why, what))
    return None


def _read_lines(path: Path, name: str, what: str, missing: list) -> list[dict]:
    """A row for each step, up to the first line that is not one. (run/log.py stops there too, but
    does not say where it stopped.)"""
    rows, lines = [], path.read_bytes().splitlines()
    for n, line in enumerate(lines, 1):
        try:
            row = of_this_version(json.loads(line))
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            why = f"line {n} of {len(lines)} is cut off, or is not a step"
            missing.append((name, why, f"{what}, from that line on"))
            break
        rows.append(row)
    return rows
