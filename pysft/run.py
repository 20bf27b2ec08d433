"""A run on disk: a folder of stages, each complete in itself.

RUN/base, RUN/sft, ...
    settings.json         the model's shape, the resolved settings, the parent and its weights' hash
    vocabulary.json       characters and special tokens
    template.json         how conversations are rendered
    model.safetensors     the weights
    log.jsonl             one line a step: what is read of it, or {"step", "skipped"} of one that
                          was left out
    evaluation.json       what the measurements need: held-out text, prompts, known words
    report.json           the measurements; samples.json: the replies they were taken from
    checkpoints/STEP/     weights and both moments, for --resume
RUN/sft also has
    adapter.safetensors   what LoRA trained, where it did (model.safetensors is merged)
    measurements.jsonl    one line a checkpoint; ratings.jsonl: a person's marks
    steps/STEP/           the model at each checkpoint, a stage of its own
    data.json             what it was trained on, in numbers; before.json: base and tuned model side
                          by side
RUN/report.html           all of it on a page
"""

import hashlib
import json
import math
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pysft import disk
from pysft.errors import DataError, Diverged, MissingInput, UsageError
from pysft.nn import safetensors
from pysft.nn.model import GPT, GPTConfig, parameter_shapes
from pysft.text.template import Template
from pysft.text.tokenizer import CharTokenizer

STAGES = ("base", "sft")  # in the order in which they are trained
PARTS = {"w": "the weights", "m": "the first moments", "v": "the second moments"}  # of a checkpoint
KEPT = 2  # checkpoints: the last, and the one before should the last be damaged


def weights_sha256(model: GPT) -> str:
    """Over the parameter arena's bytes: two runs can be compared in one look."""
    return hashlib.sha256(model.params.flat.tobytes()).hexdigest()


def write_json(path: Path, data) -> None:
    """A crash leaves the old file or the new one."""
    disk.replace(path, [(json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode()])


def read_json(path: Path) -> dict:
    """The object in a JSON file of a run, or an error that names it."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingInput(f"{path}: missing; the run folder is not complete") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not the JSON this program wrote ({error})") from None
    if not isinstance(data, dict):
        raise DataError(f"{path}: a JSON {type(data).__name__}, expected an object")
    return data


@dataclass
class Stage:
    """One trained model and what belongs to it."""

    folder: Path
    model: GPT
    tokenizer: CharTokenizer
    template: Template
    settings: dict
    parent: dict | None = None

    @property
    def name(self) -> str:
        return self.folder.name

    def setting(self, name: str, default):
        """A setting that it was trained with; the default where the folder does not say."""
        return self.settings.get(name, default) if isinstance(self.settings, dict) else default


def new_run(out: str | None, preset: str) -> Path:
    """The folder of a new run, made: `out`, or runs/PRESET, or the first free of runs/PRESET-2, -3,
    ..."""
    if out is not None:
        folder = Path(out)
        try:
            str(folder).encode()
        except UnicodeEncodeError:
            raise UsageError(f"--out {out!r}: not UTF-8; choose a name that is") from None
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"--out {out}: a file stands there; name a folder")
        if folder.is_dir():
            disk.sweep(folder.glob("run.json.*.tmp"))
        # A lock, and a record that was never finished, are all that is there of a run that ended at
        # its very beginning.
        if folder.is_dir() and any(
            p.name != disk.LOCK and not p.match("run.json.*.tmp") for p in folder.iterdir()
        ):
            raise UsageError(
                f"--out {out}: the folder is not empty; name a new one"
                + (
                    ", or go on with what is there by --resume"
                    if (folder / "run.json").is_file()
                    else ""
                )
            )
    else:
        folder, n = Path("runs") / preset, 1
    try:
        disk.make_folder(folder.parent)
        while (
            not disk.make_new(folder) and out is None
        ):  # made here, so that no other process takes the same
            n += 1
            folder = Path("runs") / f"{preset}-{n}"
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be made ({error.strerror}); choose another with --out"
        ) from None
    return folder


def save_stage(stage: Stage) -> None:
    """Write everything but logs and measurements. The weights come last: a folder that has them is
    complete."""
    if not np.isfinite(stage.model.params.flat).all():
        raise Diverged(
            f"{stage.folder}: the weights are not finite after the last step; they were not written"
        )
    disk.make_folder(stage.folder)
    write_json(
        stage.folder / "settings.json",
        {"model": asdict(stage.model.config), "settings": stage.settings, "parent": stage.parent},
    )
    write_json(stage.folder / "vocabulary.json", stage.tokenizer.to_json())
    write_json(stage.folder / "template.json", stage.template.to_json())
    safetensors.save(
        stage.folder / "model.safetensors",
        dict(stage.model.params.items()),
        {"weights_sha256": weights_sha256(stage.model)},
    )


def find_stage(path) -> Path:
    """The folder of a run's last stage, or the stage itself."""
    path = Path(path)
    if not path.is_dir():
        raise MissingInput(f"{path}: no such run folder; 'python -m pysft train' makes one")
    if (path / "model.safetensors").is_file():
        return path
    for name in reversed(STAGES):
        if (path / name / "model.safetensors").is_file():
            return path / name
    raise MissingInput(
        f"{path}: no {' or '.join(STAGES)} stage with a model.safetensors in it; this is "
        "no run folder, or its training never finished (--resume goes on)"
    )


def unfinished(run) -> bool:
    """Whether fine-tuning was begun in this run folder and never finished."""
    stage = Path(run) / STAGES[-1]
    return stage.is_dir() and not (stage / "model.safetensors").is_file()


def load_stage(path, ops=None) -> Stage:
    """The last stage of a run folder, its weights checked against its own settings."""
    folder = find_stage(path)
    data = read_json(folder / "settings.json")
    config = understood(folder / "settings.json", lambda data: GPTConfig(**data["model"]))
    tokenizer = understood(folder / "vocabulary.json", CharTokenizer.from_json)
    template = understood(folder / "template.json", Template.from_json)
    if len(tokenizer) != config.vocab:
        raise DataError(
            f"{folder / 'vocabulary.json'}: {len(tokenizer)} symbols, but the model has"
            f" {config.vocab}"
        )
    weights = folder / "model.safetensors"
    tensors, metadata = safetensors.load(weights)
    if config.layers > len(tensors):  # before a made-up shape takes all the memory
        raise DataError(
            f"{weights}: {len(tensors)} tensors are too few for the {config.layers} blocks of its"
            " settings"
        )
    match(parameter_shapes(config), tensors, weights)
    model = GPT(config, ops)
    fill(model.params, tensors, weights)
    if metadata.get("weights_sha256", weights_sha256(model)) != weights_sha256(model):
        raise DataError(f"{weights}: the weights' checksum does not match; the file is damaged")
    return Stage(folder, model, tokenizer, template, data.get("settings", {}), data.get("parent"))


def understood(path: Path, make):
    """make(the JSON at path), or a DataError that names the file."""
    data = read_json(path)
    try:
        return make(data)
    except (UsageError, KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        reason = str(error) if isinstance(error, UsageError) else f"{type(error).__name__}: {error}"
        raise DataError(f"{path}: not as this program writes it ({reason})") from None


def match(shapes: dict, tensors: dict, path, prefix: str = "") -> None:
    """Raise a DataError unless the tensors named `prefix`... are exactly those of `shapes`,
    float32."""
    for name, shape in shapes.items():
        a = tensors.get(prefix + name)
        if a is None:
            raise DataError(f"{path}: tensor {prefix + name!r} is missing")
        if a.shape != tuple(shape) or a.dtype != np.float32:
            raise DataError(
                f"{path}: tensor {prefix + name!r} is {a.dtype} {a.shape}, expected float32 {shape}"
                " by settings.json"
            )
        if not np.isfinite(a).all():
            raise DataError(f"{path}: tensor {prefix + name!r} holds numbers that are not finite")
    foreign = [n for n in tensors if n.startswith(prefix) and n[len(prefix) :] not in shapes]
    if foreign:
        raise DataError(f"{path}: tensor {foreign[0]!r} does not belong to this model")


def fill(arena, tensors: dict, path, prefix: str = "") -> None:
    """Copy tensors (names with `prefix`) into an arena, which must have exactly those."""
    match(arena.shapes, tensors, path, prefix)
    for name, view in arena.items():
        view[:] = tensors[prefix + name]


# ------------------------------------------------------------------------- logs and checkpoints


def append_log(folder: Path, rows: list[dict]) -> None:
    """One JSON line a step."""
    disk.append(folder / "log.jsonl", _lines(rows))


def _lines(rows) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def read_log(folder: Path, skipped: bool = False) -> list[dict]:
    """The log's lines up to the first that a crash cut off; skipped: those too of steps that were
    left out, which hold nothing but {"step", "skipped"}."""
    rows = []
    try:
        for line in (folder / "log.jsonl").read_bytes().splitlines():
            row = json.loads(line)
            if not _is_step(row):
                break
            if skipped or not row.get("skipped"):
                rows.append(row)
    except (OSError, ValueError, RecursionError):
        pass
    return rows


def _is_step(row) -> bool:
    """Whether a line of the log is one: of a step, with what is read of it."""

    def number(x):
        return isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x)

    if (
        not isinstance(row, dict)
        or not isinstance(row.get("step"), int)
        or isinstance(row["step"], bool)
    ):
        return False
    return row.get("skipped") is True or (
        isinstance(row.get("losses"), dict)
        and all(map(number, row["losses"].values()))
        and all(number(row.get(name)) for name in ("loss", "norm", "tokens", "seconds"))
    )


def whole_log(folder: Path, step: int) -> bool:
    """Whether the log tells of every step up to `step`, and of no other: nothing that a crash does
    takes a line from it."""
    return _tell_all(read_log(folder, skipped=True), step)


def _tell_all(rows: list[dict], step: int) -> bool:
    return [row["step"] for row in rows] == list(range(1, step + 1))


def cut_log(folder: Path, step: int) -> bool:
    """Drop what the log says beyond `step`: resuming writes it again. Whether it is whole then."""
    kept = [row for row in read_log(folder, skipped=True) if row["step"] <= step]
    disk.replace(folder / "log.jsonl", [_lines(kept).encode()])
    return _tell_all(kept, step)


def add_measurement(folder: Path, row: dict) -> None:
    """One JSON line a checkpoint."""
    disk.append(folder / "measurements.jsonl", _lines([row]))


def cut_measurements(folder: Path, step: int) -> bool:
    """Drop what was measured and kept beyond `step`: resuming makes it again. False if a line was
    no measurement, which no crash can bring about; it is dropped too."""
    path, kept, whole = folder / "measurements.jsonl", [], True
    if not path.is_file():
        return True
    for line in path.read_bytes().splitlines(
        keepends=True
    ):  # bytes: a text has more kinds of line ends, and may be torn
        if not line.endswith(b"\n"):
            break
        try:
            beyond = json.loads(line)["step"] > step
        except (ValueError, KeyError, TypeError, RecursionError):
            whole = False
            continue
        if not beyond:
            kept.append(line)
    disk.replace(path, kept)
    for old in (folder / "steps").glob("*"):
        if old.name.isdecimal() and int(old.name) > step:
            shutil.rmtree(old, ignore_errors=True)
    return whole


def measured_stage(folder: Path) -> Path:
    """The stage whose measurements those of this folder are: itself, or where it is a checkpoint
    (STAGE/steps/STEP) that."""
    folder = folder.resolve() if folder.resolve().parent.name == "steps" else folder
    return (
        folder.parent.parent
        if folder.parent.name == "steps" and not (folder / "evaluation.json").is_file()
        else folder
    )


def save_checkpoint(folder: Path, model: GPT, adam) -> Path:
    """Weights and both moments after adam.steps steps; the one before is kept too, older ones go
    once this is written. model: or the LoRA around it, whose adapters are what is trained."""
    parts = (("w", model.params), ("m", adam.m), ("v", adam.v))
    for part, arena in parts:
        if not np.isfinite(arena.flat).all():
            raise Diverged(
                f"{folder}: {PARTS[part]} are not finite after step {adam.steps}; the last"
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
    """A stage's checkpoints that were written to their end, oldest first."""
    return sorted(
        (
            p
            for p in (folder / "checkpoints").glob("*")
            if _number(p) >= 0 and (p / "state.safetensors").is_file()
        ),
        key=_number,
    )


def _number(path: Path) -> int:
    return int(path.name) if path.name.isdecimal() else -1


def load_checkpoint(folder: Path, model: GPT, adam, say=lambda text: None) -> bool:
    """Go back to the stage's checkpoint, if it has one: True if so. A damaged one is told (say),
    and the one before it is taken; if none is whole, the last one's error is raised. What lies
    beyond the one that is taken is put aside, named STEP.damaged: from now on it would belong to
    another history than the log."""
    errors = []
    for path in reversed(_whole(folder)):
        try:
            adam.steps = _load_state(path / "state.safetensors", model, adam)
        except DataError as error:
            errors.append(error)
            continue
        for error in errors:
            say(f"{error}; going back to the checkpoint of step {adam.steps:,}")
        for beyond in [p for p in (folder / "checkpoints").iterdir() if _number(p) > adam.steps]:
            shutil.rmtree(beyond.with_name(f"{beyond.name}.damaged"), ignore_errors=True)
            beyond.rename(beyond.with_name(f"{beyond.name}.damaged"))
        if not cut_log(folder, adam.steps):
            say(
                f"{folder / 'log.jsonl'}: lines are damaged or missing before step {adam.steps:,};"
                " the training itself lacks nothing"
            )
        return True
    if errors:
        raise DataError(
            f"{errors[0]}; no checkpoint of {folder} is whole: without that folder --resume trains"
            " the stage anew"
        )
    return False


def _load_state(path: Path, model: GPT, adam) -> int:
    """Fill weights and moments; the step after which they were written."""
    tensors, metadata = safetensors.load(path, summed=True)
    if not metadata.get("steps", "").isdecimal():
        raise DataError(f"{path}: does not say after which step it was written")
    parts = (("w", model.params), ("m", adam.m), ("v", adam.v))
    for part, arena in parts:
        match(arena.shapes, tensors, path, part + ".")
    for part, arena in parts:
        fill(arena, tensors, path, part + ".")
    return int(metadata["steps"])


def drop_checkpoints(folder: Path) -> None:
    """A finished stage needs none."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
