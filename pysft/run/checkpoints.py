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


def save_checkpoint(folder: Path, model: GPT, adam, steps=None, beside=(), numbers=()) -> Path:
    """Write the checkpoint of a step, and return its folder. Then remove old checkpoints; the one
    before it stays.

    model: the GPT or the LoRA that is trained. steps: the number of the step; None is adam.steps.
    beside: {name: (model, adam)} of models that are trained with it, such as a critic. numbers:
    {name: float} of what else a training goes on with. Diverged if a weight or moment is not
    finite; nothing is then written."""
    steps = adam.steps if steps is None else steps
    parts = _parts(model, adam, dict(beside))
    for part, arena in parts.items():
        if not np.isfinite(arena.flat).all():
            whose = part.rpartition(".")[0]
            raise Diverged(
                f"{folder}: {PARTS[part[-1]]}{f' of the {whose}' if whose else ''} are not finite"
                f" after step {steps}. The last checkpoint is the one before"
            )
    target = folder / "checkpoints" / str(steps)
    disk.make_folder(target)
    safetensors.save(
        target / "state.safetensors",
        {f"{part}.{name}": a for part, arena in parts.items() for name, a in arena.items()},
        {"steps": str(steps)} | {name: float(x).hex() for name, x in dict(numbers).items()},
    )
    kept = _whole(folder)[-KEPT:]
    for old in (folder / "checkpoints").iterdir():
        if old not in kept and 0 <= _number(old) < steps:
            shutil.rmtree(old, ignore_errors=True)
    return target


def _parts(model, adam, beside: dict) -> dict:
    """Return {"w": weights, "m" and "v": moments}, and for the models beside it "critic.w" and so
    on."""
    every = {"": (model, adam)} | {f"{name}.": pair for name, pair in beside.items()}
    return {
        f"{prefix}{part}": arena
        for prefix, (m, a) in every.items()
        for part, arena in (("w", m.params), ("m", a.m), ("v", a.v))
    }


def _whole(folder: Path) -> list[Path]:
    """The complete checkpoints of a stage, oldest first."""
    found = [p for p in (folder / "checkpoints").glob("*") if _number(p) >= 0]
    return sorted((p for p in found if (p / "state.safetensors").is_file()), key=_number)


def _number(path: Path) -> int:
    """The step in a checkpoint folder's name; -1 if the name is none."""
    return int(path.name) if path.name.isdecimal() else -1


def load_checkpoint(
    folder: Path, model: GPT, adam, say=lambda text: None, beside=(), numbers=()
) -> int | None:
    """Load the stage's last checkpoint into `model` and `adam`, and cut the log to match. Return
    the number of its step, which adam.steps is set to; None if the stage has no checkpoint.

    beside, numbers: as in save_checkpoint(), to be filled. The steps of optimisers beside it are
    not set.

    A damaged checkpoint is reported through `say`, and the one before it is loaded. Checkpoints
    after the loaded one are renamed to STEP.damaged, because the log no longer reaches them.
    DataError if there are checkpoints and all are damaged."""
    errors = []
    for path in reversed(_whole(folder)):
        try:
            state = path / "state.safetensors"
            adam.steps = _load_state(state, _parts(model, adam, dict(beside)), numbers)
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
        return adam.steps
    if errors:
        raise DataError(
            f"{errors[0]}. Every checkpoint of {folder} is damaged. Remove that folder, and"
            " --resume trains the stage again"
        )
    return None


def _load_state(path: Path, parts: dict, numbers) -> int:
    """Fill arenas and numbers from a checkpoint's file. Return the step that it was written
    after."""
    tensors, metadata = safetensors.load(path, summed=True)
    if not metadata.get("steps", "").isdecimal():
        raise DataError(f"{path}: its metadata has no number of steps; the file is damaged")
    for part, arena in parts.items():
        safetensors.check_tensors(path, tensors, arena.shapes, prefix=part + ".")
    try:
        known = {name: float.fromhex(metadata[name]) for name in numbers}
    except (KeyError, ValueError, OverflowError):
        names = ", ".join(numbers)
        raise DataError(f"{path}: its metadata lacks {names}; the file is damaged") from None
    for part, arena in parts.items():
        arena.fill(tensors, part + ".")
    if known:
        numbers.update(known)
    return int(metadata["steps"])


def drop_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a finished stage."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
