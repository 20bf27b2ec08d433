"""Read what a run folder holds, for its page. Files that are missing, cut off, or not as this
program writes them are noted; everything else is read."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from pysft.errors import MissingInput, PysftError
from pysft.run.stage import read_json

# What each file gives the page.
FILES = {
    "run.json": "the settings, and the command that makes the run again",
    "base/report.json": "the figures of the base model",
    "base/log.jsonl": "the curves of the base",
    "sft/report.json": "the figures",
    "sft/log.jsonl": "the curves of fine-tuning",
    "sft/data.json": "the census of the data",
    "sft/measurements.jsonl": "the measurements by checkpoint",
    "sft/before.json": "before and after",
    "sft/samples.json": "the replies",
}


@dataclass
class RunFiles:
    """The contents of a run folder.

    data: {name of a file in FILES: its contents, None if it could not be read}. The contents of
    run.json get one entry more, "tuned": True if the run was fine-tuned, or was meant to be.
    missing: [(what is missing, why, what the page lacks without it)]."""

    data: dict = field(default_factory=dict)
    missing: list[tuple[str, str, str]] = field(default_factory=list)


def read_run(folder: Path) -> RunFiles:
    """Read the files of a run folder. MissingInput if the folder is none."""
    if not folder.is_dir():
        raise MissingInput(f"{folder}: no such run folder. 'python -m pysft train' makes one")
    tuned, own_base = (folder / "sft").is_dir(), (folder / "base").is_dir()
    if not (tuned or own_base or (folder / "run.json").is_file()):
        raise MissingInput(
            f"{folder}: not a run folder; name one that 'python -m pysft train' made"
        )
    files = RunFiles()
    for name in FILES:
        stage = name.partition("/")[0]
        wanted = (stage != "sft" or tuned) and (stage != "base" or own_base)
        files.data[name] = _read(folder / name, name, files.missing) if wanted else None
    run = files.data["run.json"]
    if run:
        run["tuned"] = tuned or bool(run.get("base") or run.get("data"))
    if not tuned:
        why = "this run was not fine-tuned, or not yet"
        files.missing.append(("sft", why, "everything about a tuned model"))
    if not own_base:
        elsewhere = run and run.get("base")
        why = f"trained in {elsewhere}, whose page shows it" if elsewhere else "no such folder"
        files.missing.append(("base", why, "the curves of the base"))
    return files


def _read(path: Path, name: str, missing: list):
    """The contents of a file, or None. A fault is added to `missing`."""
    try:
        if name.endswith(".jsonl"):
            data = _read_lines(path, name, missing)
        else:
            data = read_json(path)
        if not data:
            missing.append((name, "it is empty", FILES[name]))
        return data
    except (PysftError, OSError, ValueError, RecursionError) as error:
        why = str(error).removeprefix(f"{path}: ") if path.exists() else "no such file"
        missing.append((name, why, FILES[name]))
    return None


def _read_lines(path: Path, name: str, missing: list) -> list[dict]:
    """A row for each step, up to the first line that is not one. (run/log.py stops there too, but
    does not say where it stopped.)"""
    rows, lines = [], path.read_bytes().splitlines()
    for n, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            why = f"line {n} of {len(lines)} is cut off, or is not a step"
            missing.append((name, why, f"{FILES[name]}, from that line on"))
            break
        rows.append(row)
    return rows
