"""The tree of stages: which stage a model was begun from, back to its base.

A stage names its parent by path and by the hash of its weights. The parent is looked for in the
same run, then in a run beside it, then at that path, and is recognised by the hash. So runs can be
moved."""

from collections.abc import Iterator
from pathlib import Path

from pysft.errors import DataError, MissingInput, PysftError, UsageError
from pysft.nn import safetensors
from pysft.nn.computing import computing_ops
from pysft.run.log import read_log
from pysft.run.stage import (
    Stage,
    checkpoint_step,
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
    parent, or if the parent is not found: in the same run, in a run beside it, or at its old
    path."""
    home = measured_stage(Path(folder))
    parent = read_json(Path(folder) / "settings.json").get("parent")
    if not isinstance(parent, dict) or not isinstance(parent.get("path"), str):
        return None
    path = Path(parent["path"])
    length = 3 if path.parent.name == "steps" else 1  # of the path inside a run
    runs = home.resolve().parent.parent
    inside, beside = path.parts[-length:], path.parts[-length - 1 :]
    for found in (home.parent.joinpath(*inside), runs.joinpath(*beside), path):
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
    return safetensors.load_metadata(folder / "model.safetensors").get("weights_sha256")


def line_of(folder: Path) -> Iterator[Path]:
    """Yield the folder of a stage and those of the stages that it was begun from, back to its base,
    as far as they are found. A DataError if they form a circle, which happens only if a file is
    damaged."""
    seen = set()
    while folder is not None:
        if folder.resolve() in seen:
            raise DataError(
                f"{folder}: its settings.json makes it an ancestor of itself; the file is damaged"
            )
        seen.add(folder.resolve())
        yield folder
        folder = parent_folder(folder)


def lineage(stage: Stage) -> list[Stage]:
    """Load the stages from `stage` back to its base, as far as they are found, `stage` first.
    Errors as in line_of()."""
    above = list(line_of(stage.folder))[1:]
    return [stage, *(load_stage(folder, stage.model.ops) for folder in above)]


def base_of(line: list[Stage]) -> Stage | None:
    """Return the base in a lineage(), which is its last stage. None if the base was not found."""
    oldest = line[-1]
    return None if oldest.parent or oldest.can_talk else oldest


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
    begun from. A stage comes after the one that it was begun from. MissingInput if there is no
    stage.

    A dict for each: "stage" (its name), "folder", "in_run" (False if it is in another run),
    "finished", "damaged" (None, or what is wrong with it), "steps" (None if unknown), "symbols" (of
    its vocabulary), "params", "weights_sha256", "parent" (the name of the stage that it was begun
    from, None for a base), "parent_folder" (where that is, or was), "parent_found"."""
    if not Path(run).is_dir():
        raise MissingInput(f"{run}: {not_a_folder(Path(run))}")
    own = [Path(run)] if is_finished(Path(run)) else stage_folders(run)
    rows, found = {}, list(own)
    while found:
        folder = found.pop(0)
        if folder.resolve() not in rows:
            rows[folder.resolve()] = row = _row(folder)
            row["in_run"] = folder in own
            found += [Path(row["parent_folder"])] if row["parent_found"] else []
    if not rows:
        raise MissingInput(f"{run}: no stage in it. 'python -m pysft train' makes a run")
    return [row for row, _ in _ordered(rows)]


def _ordered(rows: dict[Path, dict]) -> list[tuple[dict, int]]:
    """[(row, depth)] of rows by folder, each after its parent and before other children of that.

    If damaged files make a circle of stages, it begins with any of them."""
    above = {
        folder: Path(row["parent_folder"]).resolve() if row["parent_found"] else None
        for folder, row in rows.items()
    }
    depths = {}

    def place(folder, depth):
        if folder not in depths:
            depths[folder] = depth
            for child in [f for f, parent in above.items() if parent == folder]:
                place(child, depth + 1)

    for folder in sorted(rows, key=lambda f: above[f] in rows):  # roots first
        place(folder, 0)
    return [(rows[folder], depth) for folder, depth in depths.items()]


def _row(folder: Path) -> dict:
    """What is known of one stage, finished or not. Anything in its files may be damaged."""
    row = {
        "stage": label(folder),
        "folder": str(folder),
        "in_run": True,
        "finished": is_finished(folder),
        "damaged": None,
        "steps": _steps(folder),
        "symbols": None,
        "params": None,
        "precision": None,
        "weights_sha256": None,
        "parent": None,
        "parent_folder": None,
        "parent_found": None,
    }
    try:
        if (folder / "settings.json").is_file() or row["finished"]:
            row |= _parent_of(folder)
        if row["finished"]:
            stage = load_stage(folder, computing_ops("reference", None))
            row["symbols"], row["params"] = len(stage.tokenizer), stage.model.params.size
            row["precision"] = stage.model.config.precision
            row["weights_sha256"] = weights_sha256(stage.model)
    except PysftError as error:
        row["damaged"] = str(error)
    return row


def _parent_of(folder: Path) -> dict:
    """The entries of a row that are about the parent. A DataError if settings.json is damaged."""
    parent = read_json(folder / "settings.json").get("parent")
    if parent is None:
        return {}
    path = understood(folder / "settings.json", lambda data: Path(data["parent"]["path"]))
    try:
        found = parent_folder(folder)
    except DataError:  # the parent is damaged, and its own row says so
        found = None
    return {
        "parent": label(path),
        "parent_folder": str(path if found is None else found),
        "parent_found": found is not None,
    }


def _steps(folder: Path) -> int | None:
    """Return how many steps a stage or a checkpoint was trained; None if its log is not there."""
    logged = (line["step"] for line in read_log(folder, skipped=True))
    return max(logged, default=checkpoint_step(folder))


def drawn(rows: list[dict]) -> list[tuple[str, dict]]:
    """Return (a line that draws the stage's place in the tree, its row) for each row of tree()."""
    by_folder = {Path(row["folder"]).resolve(): row for row in rows}
    return [
        ("   " * (depth - 1) + "+- " * bool(depth) + row["stage"], row)
        for row, depth in _ordered(by_folder)
    ]
