"""Read what a run folder holds, for its page. Files that are missing, cut off, or not as this
program writes them are noted; everything else is read."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from pysft.errors import MissingInput, PysftError, UsageError
from pysft.run.log import of_this_version, read_log
from pysft.run.stage import checkpoint_step, measured_stage, read_json, stage_folders
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
REWARDED = COMPARED | {"log.jsonl": "the curves by iteration"}
SCORING = {"report.json": "the figures of the reward model", "log.jsonl": "its curves"}
FILES = {  # by the kind of a stage
    "base": BASE,
    "sft": TUNED,
    "reward": SCORING,
    "ppo": REWARDED,
    "dpo": COMPARED,
}


@dataclass
class RunFiles:
    """The contents of a run folder.

    kinds: {name of a stage: its kind}, in order. tree: as run.tree.tree gives it. way: what is
    known of each stage in it, as _on_the_way() gives it. answers: {name of a stage that was tuned
    from one that talks: [its parent's rows of world.json, its own, the parent's name, its own]}, if
    both learned a world. data: {name of a file: its contents, None
    if it could not be read}, such as "sft/report.json". The contents of run.json have settings in
    tables, whichever version wrote them, and one entry more, "tuned": True if the run was
    fine-tuned, or was meant to be. missing: [(what is missing, why, what the page lacks without
    it)]."""

    kinds: dict[str, str] = field(default_factory=dict)
    tree: list[dict] = field(default_factory=list)
    way: list[dict] = field(default_factory=list)
    answers: dict[str, list] = field(default_factory=dict)
    data: dict = field(default_factory=dict)
    missing: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def stages(self) -> list[str]:
        """The names of the stages."""
        return list(self.kinds)

    @property
    def tuned(self) -> list[str]:
        """The names of the stages that talk."""
        return [name for name, kind in self.kinds.items() if kind not in ("base", "reward")]

    @property
    def rewards(self) -> list[str]:
        """The names of the reward models."""
        return [name for name, kind in self.kinds.items() if kind == "reward"]


def read_run(folder: Path) -> RunFiles:
    """Read the files of a run folder. MissingInput if it is not a run's folder."""
    if not folder.is_dir():
        raise MissingInput(f"{folder}: no such run folder. 'python -m pysft train' makes one")
    stages = [path.name for path in stage_folders(folder)]
    if not stages and not (folder / RUN_FILE).is_file():
        raise MissingInput(
            f"{folder}: not a run folder; name one that 'python -m pysft train' made"
        )
    files = RunFiles({name: known_kind(folder / name) for name in stages})
    files.tree = tree(folder) if stages else []
    files.way = [_on_the_way(row) for row in files.tree]
    files.answers = _answers_of(files.tree)
    what = "the settings, and the command that makes the run again"
    run = files.data[RUN_FILE] = _read(folder / RUN_FILE, RUN_FILE, what, files.missing)
    settings = {}
    if run and isinstance(run.get("settings"), dict):
        settings = run["settings"] = nested(run["settings"])
    for stage, kind in files.kinds.items():
        for file, what in FILES.get(kind, TUNED).items():
            name, path = f"{stage}/{file}", folder / stage / file
            is_by_design = file == "measurements.jsonl" and _is_never_measured(settings, stage)
            missing = [] if is_by_design and not path.exists() else files.missing
            files.data[name] = _read(path, name, what, missing)
    planned = stages_of(settings)
    if run:
        was_meant = run.get("verb") != "pretrain" and any(name != "base" for name in planned)
        run["tuned"] = bool(files.tuned or was_meant)
    if not files.tuned and not _is_to_score_alone(planned):
        why = "this run was not fine-tuned, or not yet"
        files.missing.append(("sft", why, "everything about a tuned model"))
    if "base" not in stages:
        elsewhere = run and run.get("base")
        why = f"trained in {elsewhere}, whose page shows it" if elsewhere else "no such folder"
        files.missing.append(("base", why, "the curves of the base"))
    return files


def known_kind(folder: Path) -> str:
    """The kind of the stage in a folder. One that somebody has renamed counts as a fine-tuning."""
    try:
        return kind_of(folder.name)
    except UsageError:
        return "sft"


def _is_never_measured(settings: dict, stage: str) -> bool:
    """True if a stage was to keep no checkpoints, so that it has no measurements of them."""
    table = settings.get(stage)
    return isinstance(table, dict) and table.get("checkpoint_every") == "never"


def _is_to_score_alone(planned: list[str]) -> bool:
    """True if a run was begun to train reward models and nothing that talks."""
    return bool(planned) and all(known_kind(Path(n)) == "reward" for n in planned)


def _on_the_way(row: dict) -> dict:
    """What is known of a stage of the tree, in this run or in another: its "stage" and "kind", its
    "report", "data" (the census) and "run" (run.json), each {} if it cannot be read, the
    "measured" figures of a checkpoint ({} for a whole stage), and the "seconds" of its training
    steps, None without a log."""
    folder = Path(row["folder"])
    home, step = measured_stage(folder), checkpoint_step(folder)
    known = {name: _quietly(home / f"{name}.json") for name in ("report", "data")}
    log = [line for line in read_log(home) if step is None or line["step"] <= step]
    run, measured = _quietly(home.parent / RUN_FILE), {}
    if isinstance(run.get("settings"), dict):
        run["settings"] = nested(run["settings"])
    if step is not None:
        path = home / "measurements.jsonl"
        lines = _read_lines(path, "", "", []) if path.is_file() else []
        measured = next((line for line in lines if line["step"] == step), {})
    return {
        "stage": row["stage"],
        "kind": known_kind(home),
        **known,
        "run": run,
        "measured": measured,
        "seconds": sum(line["seconds"] for line in log) if log else None,
    }


def _answers_of(rows: list[dict]) -> dict[str, list]:
    """RunFiles.answers, from the rows of a tree."""
    found = {}
    for row in rows:
        if row["in_run"] and row["parent_folder"]:
            homes = [measured_stage(Path(row[k])) for k in ("parent_folder", "folder")]
            both = [_asked(home / "world.json") for home in homes]
            if all(both):
                found[row["stage"]] = [*both, row["parent"], row["stage"]]
    return found


def _asked(path: Path) -> list:
    """The rows of a world.json; [] if it is not there or cannot be read."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    return data if isinstance(data, list) else []


def _quietly(path: Path) -> dict:
    """The object in a file; {} if it cannot be read. Faults of a run's own files are named where
    its sections read them, and those of other runs on their pages."""
    try:
        return read_json(path)
    except (PysftError, OSError):
        return {}


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
