"""A run on disk: a folder of stages, each complete in itself.

RUN/run.json              what the run was begun with (begun.py)
RUN/base, RUN/sft, ...    a stage each; a model that was tuned once more is RUN/sft-2, a reward
                          model RUN/reward, one tuned on pairs RUN/dpo, and one
                          tuned by a reward RUN/ppo:
    settings.json         the model's shape, the stage's settings, its parent and its inputs
    vocabulary.json       the tokenizer: its kind, its symbols, and special tokens
    template.json         how conversations are rendered
    model.safetensors     the weights, written last
    log.jsonl             a line for each step; {"step", "skipped"} if it was skipped. A step of
                          PPO is an iteration, and its line has the alarms that it raised
    evaluation.json       what measuring needs: held-out text, prompts, known words (not of a reward
                          model)
    report.json           the measurements
    checkpoints/STEP/     weights and both moments, for --resume
    not-finite-STEP.json  the batch of a step whose loss or gradient was not finite
a stage that talks (RUN/sft, RUN/ppo, RUN/dpo, ...) also has
    samples.json          the replies that the measurements were taken from
    measurements.jsonl    a line for each measured checkpoint
    ratings.jsonl         marks that a person gave
    steps/STEP/           the model at each measured checkpoint, a stage itself
    before.json           replies of the parent and of the tuned model side by side
    world.json            the sealed questions of its world, with replies and verdicts
a fine-tuning also has
    adapter.safetensors   the adapters that LoRA trained (model.safetensors is merged)
    data.json             the training data in numbers
a stage that learned from comparisons (RUN/reward, RUN/dpo, ...) also has
    heldout.jsonl         the rankings that it is measured on
    rankings.jsonl        those that it learned from, if they were made for it
RUN/report.html           all of it on a page
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pysft import disk
from pysft.errors import DataError, Diverged, MissingInput, UsageError
from pysft.nn import safetensors
from pysft.nn.model import GPT
from pysft.nn.shapes import GPTConfig, parameter_shapes
from pysft.text.template import Template
from pysft.text.tokenizer import Tokenizer
from pysft.text.tokenizers import vocabulary_from_json, vocabulary_to_json
from pysft.world.facts import WorldSettings


def weights_sha256(model: GPT) -> str:
    """Return the SHA-256 of the parameters. Equal digests mean equal weights, bit by bit."""
    return hashlib.sha256(model.params.flat.tobytes()).hexdigest()


def write_json(path: Path, data) -> None:
    """Write a JSON file. A crash leaves the old file or the new one."""
    disk.replace(path, [(json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode()])


def read_json(path: Path) -> dict:
    """Return the object in a JSON file of a run.

    MissingInput if there is no file, DataError if it holds no JSON object. Both name the file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise MissingInput(f"{path}: missing. The run folder is not complete") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not the JSON that this program wrote ({error})") from None
    if not isinstance(data, dict):
        raise DataError(f"{path}: a JSON {type(data).__name__}, expected an object")
    return data


@dataclass
class Stage:
    """A trained model with its tokenizer, template and settings.

    folder: RUN/base, RUN/sft, ..., or RUN/sft/steps/STEP. settings: as JSON, of this stage alone.
    parent: {"path", "weights_sha256"} of the stage that it was begun from; None for a base. inputs:
    the SHA-256 of every file that it was trained with, by name."""

    folder: Path
    model: GPT
    tokenizer: Tokenizer
    template: Template
    settings: dict
    parent: dict | None = None
    inputs: dict | None = None

    @property
    def name(self) -> str:
        return measured_stage(self.folder).name

    @property
    def can_talk(self) -> bool:
        """True if the stage was tuned and gives tokens: its vocabulary has the token that ends a
        reply, and it is no reward model."""
        return self.model.config.has_nll and self.template.end in self.tokenizer.special

    @property
    def world(self) -> WorldSettings | None:
        """The settings of the invented world that the stage learned; None if it learned none. A
        DataError if they are damaged."""
        document = self.settings.get("world") if isinstance(self.settings, dict) else None
        if document is None:
            return None
        try:
            return WorldSettings(**document)
        except (UsageError, TypeError) as error:
            raise DataError(
                f"{self.folder / 'settings.json'}: not as this program writes it ({error})"
            ) from None

    def setting(self, name: str, default):
        """Return a setting of the data that the stage was trained with, or `default` if it is not
        stored."""
        settings = self.settings if isinstance(self.settings, dict) else {}
        tables = isinstance(settings.get("data"), dict)  # else an earlier version wrote them
        return (settings["data"] if tables else settings).get(name, default)


def new_run(out: str | None, preset: str) -> Path:
    """Make the folder of a new run and return it: `out`, or else the first of runs/PRESET,
    runs/PRESET-2, ... that is free.

    An empty folder `out` is used. A UsageError if `out` is not empty, or if the folder cannot be
    made."""
    if out is not None and not out.strip():
        raise UsageError("--out is empty; name a folder, or leave it out")
    if out is not None:
        folder = Path(out)
        try:
            str(folder).encode()
        except UnicodeEncodeError:
            raise UsageError(f"--out {out!r}: not UTF-8. Choose a name that is") from None
        try:
            is_file = folder.exists() and not folder.is_dir()
        except OSError as error:  # as of a name that is too long
            raise UsageError(
                f"--out {out}: cannot be made ({error.strerror}). Choose another folder"
            ) from None
        if is_file:
            raise UsageError(f"--out {out}: this is a file. Name a folder")
        if folder.is_symlink() and not folder.exists():
            raise UsageError(f"--out {out}: a link that leads nowhere. Name a folder")
        if out.startswith("~"):  # bash leaves it so in --out=~/run
            raise UsageError(
                f"--out {out}: the shell did not put your home folder for ~ here. Write"
                " --out with a blank, not with =, or a whole path"
            )
        if folder.is_dir():
            disk.remove_leftovers(folder.glob("run.json.*.tmp"))
        # Treat a folder as empty if it holds only a lock and temporary files of run.json. A run
        # that was stopped at its very start leaves these.
        if folder.is_dir() and any(
            p.name != disk.LOCK and not p.match("run.json.*.tmp") for p in folder.iterdir()
        ):
            begun = (folder / "run.json").is_file()
            resume = ", or go on with the run in it by --resume" if begun else ""
            raise UsageError(f"--out {out}: the folder is not empty. Name a new one{resume}")
    else:
        folder, n = Path("runs") / preset, 1
    try:
        disk.make_folder(folder.parent)
        # Make the folder at once, so that no other process can choose the same name.
        while not disk.make_new_folder(folder) and out is None:
            n += 1
            folder = Path("runs") / f"{preset}-{n}"
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be made ({error.strerror}). Choose another folder by --out"
        ) from None
    return folder


def save_origin(stage: Stage) -> None:
    """Write settings.json, which says what a stage is and what it is begun from."""
    disk.make_folder(stage.folder)
    write_json(
        stage.folder / "settings.json",
        {
            "model": asdict(stage.model.config),
            "settings": stage.settings,
            "parent": stage.parent,
            "inputs": stage.inputs,
        },
    )


def save_stage(stage: Stage) -> None:
    """Write a stage's model, vocabulary, template and settings. The weights are written last, so a
    folder that has them is complete.

    Diverged if a weight is not finite; nothing is then written."""
    if not np.isfinite(stage.model.params.flat).all():
        raise Diverged(
            f"{stage.folder}: the weights are not finite after the last step, so they were not"
            " written"
        )
    save_origin(stage)
    write_json(stage.folder / "vocabulary.json", vocabulary_to_json(stage.tokenizer))
    write_json(stage.folder / "template.json", stage.template.to_json())
    safetensors.save(
        stage.folder / "model.safetensors",
        dict(stage.model.params.items()),
        {"weights_sha256": weights_sha256(stage.model)},
    )


def stage_folders(run) -> list[Path]:
    """Return the folders of a run's stages in the order of training, whether finished or not."""
    try:
        tables = read_json(Path(run) / "run.json")["settings"].items()
        shared = ("model", "data", "world")  # tables of no stage
        listed = [n for n, v in tables if isinstance(v, dict) and n not in shared]
    except (DataError, MissingInput, KeyError, AttributeError):
        listed = []  # as in a run that `merge` made
    if "base" not in listed:
        listed += ["base", "sft"]  # as an earlier version called them, without a list
    found = [
        p
        for p in Path(run).iterdir()
        if p.is_dir() and (p.name in listed or (p / "settings.json").is_file())
    ]
    rank = {name: place for place, name in enumerate(listed)}
    return sorted(found, key=lambda path: (rank.get(path.name, len(rank)), path.name))


def is_finished(folder: Path) -> bool:
    """True if the folder holds a stage whose training is finished."""
    return (folder / "model.safetensors").is_file()


def find_stage(path) -> Path:
    """Return the folder of a run's newest finished stage that can talk, or if none can, of its
    newest finished stage; or `path` itself if it is a finished stage. MissingInput if there is
    none."""
    path = Path(path)
    if not path.is_dir():
        raise MissingInput(f"{path}: {not_a_folder(path)}")
    if is_finished(path):
        return path
    newest = [folder for folder in reversed(stage_folders(path)) if is_finished(folder)]
    if not newest:
        raise MissingInput(
            f"{path}: no stage in it (base, sft or sft-2, ... with a model.safetensors). It is not"
            " a run's folder, or its training never finished (--resume continues it)"
        )
    return next(filter(can_talk, newest), newest[0])


def can_talk(folder: Path) -> bool:
    """True if the stage in a folder can talk, as Stage.can_talk says."""
    if outputs_of(folder) == "value":
        return False
    tokenizer = understood(folder / "vocabulary.json", vocabulary_from_json)
    return understood(folder / "template.json", Template.from_json).end in tokenizer.special


def outputs_of(folder: Path) -> str:
    """What the model of a stage gives for a row (shapes.OUTPUTS)."""
    return understood(folder / "settings.json", lambda data: data["model"].get("outputs", "nll"))


def reward_model(path) -> Path:
    """Return the folder of a run's newest finished reward model, or `path` itself if it is one.
    MissingInput if there is none."""
    path = Path(path)
    if not path.is_dir():
        raise MissingInput(f"{path}: {not_a_folder(path)}")
    folders = [path] if is_finished(path) else [*reversed(stage_folders(path))]
    found = [f for f in folders if is_finished(f) and outputs_of(f) == "value"]
    if not found:
        raise MissingInput(
            f"{path}: no reward model in it. 'python -m pysft reward' trains one from comparisons"
        )
    return found[0]


def not_a_folder(path: Path) -> str:
    """What to say of a path that should be a run's folder and is not a folder."""
    if path.exists():
        return "this is a file. Name the folder of a run"
    kept = sorted(p.name for p in path.parent.glob("*") if p.name.isdecimal())
    if path.parent.name == "steps" and kept:
        return f"no such checkpoint. There are {', '.join(sorted(kept, key=int))}"
    if (path.parent / "run.json").is_file():
        names = [folder.name for folder in stage_folders(path.parent)]
        if names:
            return f"no such stage. This run has {', '.join(names)}"
    return "no such run folder. 'python -m pysft train' makes one"


def unfinished(run) -> str | None:
    """Return the name of the stage in a run's folder that was begun and is not finished, or None.
    A base that is not finished does not count, because such a run has no model to use yet."""
    if not Path(run).is_dir():
        return None
    names = [p.name for p in stage_folders(run) if not is_finished(p) and p.name != "base"]
    return names[0] if names else None


def load_stage(path, ops=None) -> Stage:
    """Load the stage at `path`, or of the run at `path` the one that find_stage() gives.

    ops: the functions to compute with (computing.py); None is the kernels. MissingInput if there is
    no stage or a file is missing. DataError if a file is damaged or does not fit the others."""
    folder = find_stage(path)
    data = read_json(folder / "settings.json")
    config = understood(folder / "settings.json", lambda data: GPTConfig(**data["model"]))
    tokenizer = understood(folder / "vocabulary.json", vocabulary_from_json)
    template = understood(folder / "template.json", Template.from_json)
    if len(tokenizer) != config.vocab:
        raise DataError(
            f"{folder / 'vocabulary.json'}: {len(tokenizer)} symbols, but the model has"
            f" {config.vocab}"
        )
    weights = folder / "model.safetensors"
    tensors, metadata = safetensors.load(weights)
    if config.layers > len(tensors):  # refuse an absurd number before it takes all the memory
        raise DataError(
            f"{weights}: {len(tensors)} tensors are too few for the {config.layers} blocks of its"
            " settings"
        )
    safetensors.check_tensors(weights, tensors, parameter_shapes(config))
    model = GPT(config, ops)
    model.params.fill(tensors)
    if metadata.get("weights_sha256", weights_sha256(model)) != weights_sha256(model):
        raise DataError(f"{weights}: the weights' checksum does not match. The file is damaged")
    known = (data.get(name) for name in ("parent", "inputs"))
    return Stage(folder, model, tokenizer, template, data.get("settings", {}), *known)


def understood(path: Path, make):
    """Return make(the JSON object in the file `path`). If make raises one of the errors that wrong
    content causes, raise a DataError that names the file."""
    data = read_json(path)
    try:
        return make(data)
    except (UsageError, KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        reason = str(error) if isinstance(error, UsageError) else f"{type(error).__name__}: {error}"
        raise DataError(f"{path}: not as this program writes it ({reason})") from None


def measured_stage(folder: Path) -> Path:
    """Return the folder that holds the measurements of a stage's folder: STAGE for
    STAGE/steps/STEP, else the folder itself."""
    folder = folder.resolve() if folder.resolve().parent.name == "steps" else folder
    is_checkpoint = folder.parent.name == "steps" and not (folder / "evaluation.json").is_file()
    return folder.parent.parent if is_checkpoint else folder


def checkpoint_step(folder) -> int | None:
    """Return STEP if the folder is a checkpoint, STAGE/steps/STEP. None if it is not."""
    folder = Path(folder).resolve()
    is_checkpoint = folder.parent.name == "steps" and folder.name.isdecimal()
    return int(folder.name) if is_checkpoint else None
