"""Checkpoints of a running stage: weights and both moments, for --resume."""

import shutil
from pathlib import Path

import numpy as np

from pysft import disk
from pysft.errors import DataError, Diverged
from pysft.nn import safetensors
from pysft.nn.model import GPT
from pysft.run.log import cut_log

PARTS = {"w": "the weights", "m": "the first moments", "v": "the second moments"}  # of a checkpoint
KEPT = 2  # how many checkpoints are kept: the last, and the one before in case it is damaged


def save_checkpoint(folder: Path, model: GPT, adam) -> Path:
    """Write the checkpoint of step adam.steps, and return its folder. Then remove old checkpoints;
    the one before it stays.

    model: the GPT or the LoRA that is trained. Diverged if a weight or moment is not finite;
    nothing is then written."""
    parts = (("w", model.params), ("m", adam.m), ("v", adam.v))
    for part, arena in parts:
        if not np.isfinite(arena.flat).all():
            raise Diverged(
                f"{folder}: {PARTS[part]} are not finite after step {adam.steps}. The last"
                " checkpoint is the one before"
            )
    target = folder / "checkpoints" / str(adam.steps)
    disk.make_folder(target)
    safetensors.save(
        target / "state.safetensors",
        {f"{part}.{name}": a for part, arena in parts for name, a in arena.items()},
        {"steps": str(adam.steps)},
    )
    kept = _whole(folder)[-KEPT:]
    for old in (folder / "checkpoints").iterdir():
        if old not in kept and 0 <= _number(old) < adam.steps:
            shutil.rmtree(old, ignore_errors=True)
    return target


def _whole(folder: Path) -> list[Path]:
    """The complete checkpoints of a stage, oldest first."""
    found = [p for p in (folder / "checkpoints").glob("*") if _number(p) >= 0]
    return sorted((p for p in found if (p / "state.safetensors").is_file()), key=_number)


def _number(path: Path) -> int:
    """The step in a checkpoint folder's name; -1 if the name is none."""
    return int(path.name) if path.name.isdecimal() else -1


def load_checkpoint(folder: Path, model: GPT, adam, say=lambda text: None) -> bool:
    """Load the stage's last checkpoint into `model` and `adam`, and cut the log to match. Return
    False if the stage has no checkpoint.

    A damaged checkpoint is reported through `say`, and the one before it is loaded. Checkpoints
    after the loaded one are renamed to STEP.damaged, because the log no longer reaches them.
    DataError if there are checkpoints and all are damaged."""
    errors = []
    for path in reversed(_whole(folder)):
        try:
            adam.steps = _load_state(path / "state.safetensors", model, adam)
        except DataError as error:
            errors.append(error)
            continue
        for error in errors:
            say(f"{error}. Going back to the checkpoint of step {adam.steps:,}")
        for beyond in [p for p in (folder / "checkpoints").iterdir() if _number(p) > adam.steps]:
            shutil.rmtree(beyond.with_name(f"{beyond.name}.damaged"), ignore_errors=True)
            beyond.rename(beyond.with_name(f"{beyond.name}.damaged"))
        if not cut_log(folder, adam.steps):
            say(
                f"{folder / 'log.jsonl'}: lines are damaged or missing before step {adam.steps:,}."
                " The training itself is not affected"
            )
        return True
    if errors:
        raise DataError(
            f"{errors[0]}. Every checkpoint of {folder} is damaged. Remove that folder, and"
            " --resume trains the stage again"
        )
    return False


def _load_state(path: Path, model: GPT, adam) -> int:
    """Fill weights and moments from a checkpoint's file. Return the step that it was written
    after."""
    tensors, metadata = safetensors.load(path, summed=True)
    if not metadata.get("steps", "").isdecimal():
        raise DataError(f"{path}: its metadata has no number of steps; the file is damaged")
    parts = (("w", model.params), ("m", adam.m), ("v", adam.v))
    for part, arena in parts:
        safetensors.check_tensors(path, tensors, arena.shapes, prefix=part + ".")
    for part, arena in parts:
        arena.fill(tensors, part + ".")
    return int(metadata["steps"])


def drop_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a finished stage."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
