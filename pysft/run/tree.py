"""The tree of stages: which stage a model was begun from, back to its base.

A stage names its parent by path and by the hash of its weights. The parent is looked for in the
same run first, then at that path, and is recognised by the hash, so a run can be moved."""

from pathlib import Path

from pysft.errors import DataError, MissingInput, PysftError, UsageError
from pysft.nn import safetensors
from pysft.run.log import read_log
from pysft.run.stage import (
    Stage,
    find_stage,
    is_finished,
    load_stage,
    measured_stage,
    not_a_folder,
    read_json,
    stage_folders,
    understood,
    weights_sha256,
)


def named_base(path) -> Path:
    """Return the folder of the stage that --base names: `path` if it is a stage, else the base of
    the run at `path`. MissingInput or a UsageError if there is none."""
    path = Path(path)
    folder = find_stage(path)  # raises if nothing is there
    if folder == path or is_finished(path / "base"):
        return path if folder == path else path / "base"
    names = [p.name for p in stage_folders(path) if is_finished(p)]
    raise UsageError(
        f"--base {path}: this run holds no base, because it was begun from one elsewhere. Name a"
        f" stage of it: {' or '.join(str(path / name) for name in names)}"
    )


def parent_folder(folder: Path) -> Path | None:
    """Return the folder of the stage that the stage in `folder` was begun from. None if it has no
    parent, or if the parent is neither in the run nor at its old path."""
    home = measured_stage(Path(folder))
    parent = read_json(Path(folder) / "settings.json").get("parent")
    if not isinstance(parent, dict) or not isinstance(parent.get("path"), str):
        return None
    path = Path(parent["path"])
    inside = path.parts[-3:] if path.parent.name == "steps" else path.parts[-1:]
    for found in (home.parent.joinpath(*inside), path):
        if is_finished(found) and stored_sha256(found) == parent.get("weights_sha256"):
            return found
    return None


def label(path) -> str:
    """Return the name of the stage at a path: "sft", or for a checkpoint of it "sft, step 500"."""
    path = Path(path)
    if path.parent.name == "steps":
        return f"{path.parent.parent.name}, step {path.name}"
    return path.name


def stored_sha256(folder: Path) -> str | None:
    """Return the SHA-256 of a finished stage's weights, as its file names it."""
    return safetensors.load(folder / "model.safetensors")[1].get("weights_sha256")


def parent_of(stage: Stage) -> Stage | None:
    """Load the stage that `stage` was begun from; None if parent_folder() finds none."""
    folder = parent_folder(stage.folder)
    if folder is None:
        return None
    parent = load_stage(folder, stage.model.ops)
    wanted = stage.parent.get("weights_sha256")
    return parent if weights_sha256(parent.model) == wanted else None


def lineage(stage: Stage) -> list[Stage]:
    """Return the stages from `stage` back to its base, as far as they are found, `stage` first."""
    found = [stage]
    while (parent := parent_of(found[-1])) is not None:
        found.append(parent)
    return found


def base_of(stage: Stage) -> Stage | None:
    """Return the base under a stage, `stage` itself if it is one. None if it is not found."""
    oldest = lineage(stage)[-1]
    return None if oldest.parent else oldest


def refuse_other_parent(folder: Path, parent: Stage) -> None:
    """Raise a DataError if the stage in `folder`, finished or not, was begun from other weights
    than those of `parent`."""
    path = folder / "settings.json"
    if not path.is_file():
        return
    known = understood(path, lambda data: data["parent"]["weights_sha256"])
    if known != weights_sha256(parent.model):
        raise DataError(
            f"{parent.folder}: its weights are not those that {folder} was begun from. Put the old"
            f" ones back, or remove {folder} to train it again"
        )


def tree(run) -> list[dict]:
    """Return what is known of the stages of a run, or of one stage, and of those that they were
    begun from, oldest first. MissingInput if there is no stage.

    A dict for each: "stage" (its name), "folder", "parent" (the name of the stage that it was begun
    from, None for a base), "parent_found" (False if that is not where it was), "finished", "steps"
    (in its log), "symbols" (of its vocabulary), "params", "weights_sha256", "in_run" (False
    if it is in another run)."""
    if not Path(run).is_dir():
        raise MissingInput(f"{run}: {not_a_folder(Path(run))}")
    folders = [Path(run)] if is_finished(Path(run)) else stage_folders(run)
    rows = [_row(folder) | {"in_run": True} for folder in folders]
    known = {folder.resolve() for folder in folders}
    for folder in folders:
        while folder is not None and is_finished(folder):
            folder = parent_folder(folder)
            if folder is not None and folder.resolve() not in known:
                known.add(folder.resolve())
                rows.insert(0, _row(folder) | {"in_run": False})
    if not rows:
        raise MissingInput(f"{run}: no stage in it. 'python -m pysft train' makes a run")
    return rows


def _row(folder: Path) -> dict:
    row = {
        "stage": label(folder),
        "folder": str(folder),
        "parent": None,
        "parent_found": None,
        "finished": is_finished(folder),
        "steps": max((line["step"] for line in read_log(folder, skipped=True)), default=0),
        "symbols": None,
        "params": None,
        "weights_sha256": None,
    }
    try:
        settings = read_json(folder / "settings.json")
        parent = settings.get("parent") or {}
        row |= {
            "parent": label(parent["path"]) if parent else None,
            "parent_found": parent_folder(folder) is not None if parent else None,
            "symbols": settings["model"]["vocab"],
        }
        if row["finished"]:
            tensors, metadata = safetensors.load(folder / "model.safetensors")
            row["params"] = sum(tensor.size for tensor in tensors.values())
            row["weights_sha256"] = metadata.get("weights_sha256")
    except (PysftError, KeyError, TypeError):
        pass  # a stage that is not finished or damaged is shown with what can be read of it
    return row


def drawn(rows: list[dict]) -> list[tuple[str, dict]]:
    """Return (a line that draws the stage's place in the tree, its row) for each row of tree()."""
    lines, depth = [], {}
    for row in rows:
        depth[row["stage"]] = depth.get(row["parent"], -1) + 1
        branch = "   " * (depth[row["stage"]] - 1) + "+- " if depth[row["stage"]] else ""
        lines.append((branch + row["stage"], row))
    return lines
