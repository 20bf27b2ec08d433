"""The presets, and how a preset, a file of settings and flags become the settings of a run."""

import dataclasses
import tomllib
from pathlib import Path
from typing import NamedTuple

from pysft.errors import MissingInput, UsageError
from pysft.training.flat import is_flat, places
from pysft.training.kinds import (
    ALIGNING,
    KINDS,
    FineTuning,
    Pretraining,
    check_stages,
    kind_of,
    next_name,
)
from pysft.training.settings import TABLES, TRANSCRIPT, Data, Model, Settings, refuse_unknown
from pysft.training.values import is_whole

# PyTorch's defaults for AdamW, which the source text's code would use.
PYTORCH = {"beta2": 0.999, "decay": 0.01, "decay_all": True, "clip": 0.0}

PRESETS = {
    # The recipe of the source text to the letter. What it leaves open was chosen here, and the
    # guide's page on settings says so: 32 windows, 16 conversations, PyTorch's defaults for AdamW.
    "seed": Settings(
        preset="seed",
        model=Model(context=64),
        data=Data(shipped="pairs"),
        stages={
            "base": Pretraining(
                steps=5000,
                lr=3e-4,
                schedule="constant",
                warmup=0,
                windows=((64, 32),),
                **PYTORCH,
            ),
            "sft": FineTuning(
                steps=1000,
                lr=1e-4,
                schedule="constant",
                warmup=0,
                tokens=1024,
                pairs=16,
                windows=(),
                replacement=True,
                new_rows="random",
                **PYTORCH,
            ),
        },
    ),
    "tiny": Settings(),
    "mini": Settings(
        preset="mini",
        model=Model(channels=128, layers=6, heads=8),
        stages={
            "base": Pretraining(lr=2e-3),
            "sft": FineTuning(steps=1000, lr=8e-3, tokens=4400, windows=((256, 8),)),
        },
    ),
    "small": Settings(preset="small", model=Model(channels=384, layers=6, heads=6)),
}

# What `train` changes in a preset if it trains on the shipped conversations: it mixes them with
# made transcripts of tool use. Models trained so copy from the prompt, and name the subject of
# ordinary prompts too. bench/RESULTS.md has what was tried.
WITH_TOOLS = {
    "tiny": {
        "data": {"transcripts": 40000, "mix": (1.0, 4.0)},
        "base": {"steps": 2000},
        "sft": {
            "steps": 8500,
            "decay": 0.1,
            "tokens": 1700,
            "pairs": 2,
            "windows": ((256, 1),),
        },
    },
    "mini": {
        "data": {"transcripts": 40000, "mix": (1.0, 4.0)},
        "base": {"steps": 1200},
        "sft": {
            "steps": 5600,
            "lr": 4e-3,
            "decay": 0.1,
            "tokens": 1700,
            "pairs": 2,
            "windows": ((256, 1),),
        },
    },
}

# What `train --data tools` changes in any preset, for the longest training. How well the model
# learns to copy depends more on the number of steps than on the number of rows, so the steps are
# many and small.
TOOLS = {
    "data": {"shipped": "conversations", "transcripts": 120000, "mix": (1.0, 3.0)},
    "sft": {"steps": 55000, "lr": 2.5e-3, "decay": 0.1, "tokens": 1700, "windows": ((256, 2),)},
}

# What `train --data sums table` changes in any preset, for each of these names or both. bench/
# RESULTS.md has what was tried.
MADE = {
    "data": {"shipped": "conversations", "mix": (1.0, 4.0), "unknown": "grow"},
    "sft": {
        "steps": 5000,
        "lr": 5e-3,
        "decay": 0.1,
        "tokens": 1700,
        "pairs": 0,
        "windows": ((256, 1),),
    },
}

# What a preset changes to learn an invented world: its base reads windows of the world's text
# beside those of the corpus, its fine-tuning is asked about the world alone, and its stages that
# learn from comparisons have recipes of their own. bench/RESULTS.md has what was tried.
OF_WORLD = {
    "tiny": {
        "world": {},
        "base": {
            "steps": 4800,
            "lr": 1.2e-2,
            "windows": ((64, 8), (256, 2)),
            "world": ((256, 10),),
        },
        "sft": {
            "steps": 800,
            "lr": 2e-3,
            "decay": 0.1,
            "pairs": 0,
            "windows": ((256, 2),),
            "world": ((256, 6),),
        },
        "reward": {"epochs": 4.0},
        # One pass over the pairs: those of a model that is mostly right are few, and read more
        # often they are learned by heart.
        "dpo": {"steps": 0, "lr": 2e-4, "pairs": 16, "nll": 5.0, "world": ((256, 6),)},
        "ppo": {"steps": 300, "lr": 1e-3, "world": ((256, 6),)},
    },
    "mini": {
        "world": {"people": 400},
        "base": {
            "steps": 4400,
            "lr": 6e-3,
            "windows": ((64, 8), (256, 2)),
            "world": ((256, 10),),
        },
        "sft": {
            "steps": 400,
            "lr": 2e-3,
            "decay": 0.1,
            "tokens": 3200,
            "pairs": 0,
            "windows": ((256, 2),),
            "world": ((256, 6),),
        },
        "dpo": {"world": ((256, 8),)},
        "ppo": {"world": ((256, 8),)},
    },
}


@dataclasses.dataclass(frozen=True)
class Parent:
    """What a model that is trained already decides for the stages that begin from it.

    stage: its name, such as "sft". where: its folder, for messages. fixed: settings that must be as
    they are in it, {"model": {...}, "data": {...}}. precision: that of its products, which is the
    default. preset: that of its run; "" if it is not known."""

    stage: str
    where: str
    fixed: dict
    precision: str = "float32"
    preset: str = ""


def resolve(
    preset: str | None = None,
    file: "SettingsFile | None" = None,
    upon: dict | None = None,
    flags: dict | None = None,
    stages: list[str] | None = None,
    parent: Parent | None = None,
    say=lambda text: None,
    tools: bool = False,
    world: tuple[str, ...] = (),
) -> Settings:
    """Return the settings of a preset, changed by `upon`, then by a TOML file, then by `flags`.

    upon, flags: documents as Settings.changed() takes them. tools: True takes WITH_TOOLS for
    `upon`, if the settings leave room for transcripts. world: the tables of OF_WORLD to take; those
    of stages that align a model are taken wherever a world is known. stages: the names of
    the stages, else those that the file names, else base and sft, or after a parent the next
    fine-tuning. say(text): takes a sentence about tables of the file that no stage uses, or about a
    context without room for transcripts.

    The preset is `preset`, else the one that the file names, else for a stage of ALIGNING in a
    world the parent's, else tiny. A UsageError if a name or value is not valid, or differs from the
    parent's."""
    chosen = {} if file is None else dict(file.document)
    named, listed = chosen.pop("preset", None), chosen.pop("stages", None)
    names = listed if stages is None else stages
    if names is None:
        names = ["base", "sft"] if parent is None else [next_name(parent.stage)]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UsageError(
            f"--config {file}: stages = {names!r}: expected a list of names, such as"
            ' ["base", "sft"]'
        )
    check_stages(names, None if parent is None else parent.stage)
    knows = parent is not None and "world" in parent.fixed
    compares = (knows or world) and any(kind_of(name) in ALIGNING for name in names)
    preset = named if preset is None else preset
    if preset is None and compares and parent is not None and parent.preset in OF_WORLD:
        preset = parent.preset
    preset = "tiny" if preset is None else preset
    if not isinstance(preset, str) or preset not in PRESETS:
        where = f"--config {file}: " if preset is named else ""
        raise UsageError(f"{where}preset {preset!r} is not one of {', '.join(PRESETS)}")
    settings = PRESETS[preset].with_stages(names)
    if parent is not None:
        settings = _begun_from(settings, parent)
    if world or compares and preset in OF_WORLD:
        upon = of_world(settings, preset, (*world, *ALIGNING))
    elif tools:
        upon = _wanted_tools(settings, [chosen, flags or {}], say)
    layers = [(upon or {}, ""), (chosen, f"--config {file}: "), (flags or {}, "")]
    for document, where in layers:
        try:
            for name, values in document.items():
                is_table = name.partition("-")[0] in (*TABLES, *KINDS)
                if is_table and not isinstance(values, dict):
                    raise UsageError(f"{name} = {values!r}: expected a table of settings, [{name}]")
            used = _used(document, settings, where, say)
            if parent is not None:
                _refuse_other(used, parent)
            settings = settings.changed(used)
        except UsageError as error:
            raise UsageError(f"{where}{error}") from None
    return settings


def _wanted_tools(settings: Settings, layers: list[dict], say) -> dict:
    """Return with_tools(); nothing if no stage learns from conversations, if the layers ask for the
    pairs alone or for no transcripts, or if their context is too short for a transcript."""
    changes = with_tools(settings)

    def value(table, name, usual):
        for layer in layers:
            values = layer.get(table)
            usual = values.get(name, usual) if isinstance(values, dict) else usual
        return usual

    tunes = any(kind_of(name) not in ("base", *ALIGNING) for name in settings.stages)
    unwanted = value("data", "shipped", "") == "pairs" or value("data", "transcripts", 1) == 0
    if not changes or not tunes or unwanted:
        return {}
    context = value("model", "context", settings.model.context)
    if is_whole(context) and context < TRANSCRIPT:
        say(
            f"a context of {context} is too short for transcripts of tool use, which take up to"
            f" {TRANSCRIPT}, so the model learns no tools"
        )
        return {}
    return changes


def of_world(settings: Settings, preset: str, wanted: tuple[str, ...]) -> dict:
    """Return what the tables `wanted` of OF_WORLD change in the stages of a preset, as
    Settings.changed() takes it, with windows that are no longer than the context. A UsageError if
    the preset has no recipe for a world."""
    if preset not in OF_WORLD:
        raise UsageError(
            f"preset {preset!r} has no recipe for an invented world; choose {' or '.join(OF_WORLD)}"
        )
    kinds = {"world", *map(kind_of, settings.stages)} & {*wanted}
    changes = {table: dict(OF_WORLD[preset][table]) for table in OF_WORLD[preset] if table in kinds}
    for values in changes.values():
        for key in {"windows", "world"} & values.keys():
            values[key] = tuple((min(rows, settings.model.context), n) for rows, n in values[key])
    return changes


def with_tools(settings: Settings) -> dict:
    """Return what WITH_TOOLS changes in the stages of a preset, as Settings.changed() takes it."""
    kinds = {"model", "data", *map(kind_of, settings.stages)}
    changes = WITH_TOOLS.get(settings.preset, {})
    return {table: values for table, values in changes.items() if table in kinds}


def with_made(made: list[str], tools: bool) -> dict:
    """Return what a training on made transcripts changes in any preset. made: their names in
    world/made.py. tools: True adds those of a search, for the longest training."""
    changes = {table: dict(values) for table, values in (TOOLS if tools else MADE).items()}
    if made:
        changes["data"] |= {"made": tuple(made), "unknown": MADE["data"]["unknown"]}
    return changes


class SettingsFile(NamedTuple):
    """A file of settings that has been read. It may have been a pipe, so it is read once."""

    path: str
    document: dict

    def __str__(self):
        return self.path


def read_settings(file: str) -> SettingsFile:
    """Read a TOML file of settings. MissingInput if there is none, a UsageError if it is not
    TOML, or has the flat settings of earlier versions."""
    try:
        chosen = tomllib.loads(Path(file).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise MissingInput(f"--config {file}: no such file") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"--config {file}: not TOML ({error})") from None
    if is_flat(chosen):
        raise UsageError(f"--config {file}: settings stand in tables now: {places(chosen)}")
    return SettingsFile(file, chosen)


def _begun_from(settings: Settings, parent: Parent) -> Settings:
    """Return the settings with what the parent decides, and with windows that are no longer than
    its context."""
    context = parent.fixed["model"]["context"]
    stages = {
        name: dataclasses.replace(
            stage, windows=tuple((min(rows, context), count) for rows, count in stage.windows)
        )
        for name, stage in settings.stages.items()
    }
    settings = dataclasses.replace(settings, stages=stages).changed(parent.fixed)
    return settings.changed({"model": {"precision": parent.precision}})


def _used(document: dict, settings: Settings, where: str, say) -> dict:
    """Return the document without the tables of stages that this run does not train.

    say() names those of a file, because one file may serve several commands. A UsageError names
    those of a flag."""
    trained = {*settings.stages, *map(kind_of, settings.stages)}
    idle = [name for name in document if name.partition("-")[0] in KINDS and name not in trained]
    for name in idle:
        known = [f.name for f in dataclasses.fields(KINDS[kind_of(name)])]
        refuse_unknown(document[name], f"setting of [{name}]", known)
    if idle:
        tables = ", ".join(f"[{name}]" for name in idle)
        trains = ", ".join(settings.stages)
        if not where:
            raise UsageError(
                f"flags set {tables}, but this run trains {trains}; leave them out, or name the"
                " stage by --stages"
            )
        say(f"{where}{tables} not used, because this run trains {trains}")
    return {name: value for name, value in document.items() if name not in idle}


def _refuse_other(document: dict, parent: Parent) -> None:
    """Raise a UsageError if a document sets a value that differs from the parent's."""
    for table, values in parent.fixed.items():
        for name, value in values.items():
            given = document.get(table, {}).get(name, value)
            if given != value:
                raise UsageError(
                    f"[{table}] {name} = {given!r}, but {parent.where} has {value!r}, and a stage"
                    " that begins from it keeps that; leave it out"
                )
