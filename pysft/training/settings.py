"""The settings of a run: its model, its data, and each of its stages by name.

They come from a preset, a TOML file and flags, and have the same form everywhere: a table for the
model, one for the data, and one for each stage.

    seed = 7
    [model]
    layers = 6
    [sft]
    lr = 1e-3

A stage's name is its kind, "base" or "sft", or for a model that is tuned once more "sft-2", "sft-3"
and so on. [sft] holds for every stage of that kind, [sft-2] for that stage alone."""

import dataclasses
from dataclasses import dataclass, field

from pysft.errors import UsageError
from pysft.nn.shapes import GPTConfig
from pysft.text.keys import Reading
from pysft.training.kinds import (
    KINDS,
    FineTuning,
    PolicyTuning,
    Pretraining,
    Table,
    Training,
    kind_of,
)
from pysft.training.values import as_toml, is_whole
from pysft.world.facts import WorldSettings

TRANSCRIPT = 256  # tokens that a made transcript of tool use may take


# ----------------------------------------------------------------------------- the model, the data


@dataclass(frozen=True)
class Model(Table):
    """The shape of the model. tied: the head uses the weights of the embedding. precision: what the
    factors of its products are rounded to, float32 or bf16; a stage may have another precision than
    the one that it begins from."""

    context: int = 256
    layers: int = 4
    heads: int = 4
    channels: int = 64
    tied: bool = False
    precision: str = "float32"

    def __post_init__(self):
        super().__post_init__()
        self.shape(1)  # raises if the shape is impossible

    def shape(self, vocab: int) -> GPTConfig:
        """Return the model's shape with a vocabulary of `vocab` symbols."""
        return GPTConfig(vocab, **dataclasses.asdict(self))

    @classmethod
    def of(cls, config: GPTConfig) -> "Model":
        """Return the settings that give a model of this shape."""
        return cls(**{f.name: getattr(config, f.name) for f in dataclasses.fields(cls)})


@dataclass(frozen=True)
class Data(Table):
    """What fine-tuning learns from, and how it is written as tokens."""

    # Which of the shipped conversations are used, if the user names no files.
    shipped: str = "conversations+pairs"
    # Each file's share of the tokens in a step. Empty: every conversation counts the same.
    mix: tuple[float, ...] = ()
    # How many transcripts of tool use are generated and mixed with the shipped conversations
    # (train without --data, and train --data tools).
    transcripts: int = 0
    # Transcripts of other tools that are mixed with them: "sums", "table" (world/made.py).
    made: tuple[str, ...] = ()
    # The tokenizer, the template, what is graded, and what happens to a conversation that is longer
    # than the context or has unknown characters.
    tokenizer: str = "characters"
    template: str = "chat"
    grade: str = "all"
    too_long: str = "refuse"
    unknown: str = "refuse"
    # Which rows are read: those in one language ("" reads all), and synthetic messages of trees or
    # none. And the keys of rows and turns that carry no meaning.
    lang: str = ""
    synthetic: bool = True
    ignore: tuple[str, ...] = ()

    def reading(self) -> Reading:
        """Return which rows of a file are read."""
        return Reading(self.ignore, self.lang, self.synthetic)

    def __post_init__(self):
        super().__post_init__()
        if (self.transcripts or self.made) and self.shipped == "pairs":
            raise UsageError(
                "transcripts of tool use are mixed with conversations: set shipped ="
                ' "conversations"'
            )


TABLES = ("model", "data", "world")  # of settings that all stages share


def stages_of(document: dict) -> list[str]:
    """Return the names of the stages in a document as Settings.to_json() gives it."""
    return [name for name in document if name not in ("preset", "seed", *TABLES)]


# --------------------------------------------------------------------------------- all of a run


@dataclass(frozen=True)
class Settings:
    """The settings of a run. world: those of the invented world that it learns, or None. stages:
    name -> settings, in the order of training. A value that is not possible is a UsageError."""

    preset: str = "tiny"
    seed: int = 1
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    stages: dict[str, Training] = field(
        default_factory=lambda: {"base": Pretraining(), "sft": FineTuning()}
    )
    world: WorldSettings | None = None

    def __post_init__(self):
        if not isinstance(self.preset, str):
            raise UsageError(f"preset = {self.preset!r} must be text")
        if not is_whole(self.seed):
            raise UsageError(f"seed = {self.seed!r} must be a whole number, not negative")
        context = self.model.context
        if (self.data.transcripts or self.data.made) and context < TRANSCRIPT:
            raise UsageError(
                f"transcripts of tool use need a context of at least {TRANSCRIPT}, and this one is"
                f" {context}: choose the preset tiny, mini or small, or set context = {TRANSCRIPT}"
            )
        for name, stage in self.stages.items():
            for key in ("windows", "world"):
                windows = getattr(stage, key)
                if any(rows > context for rows, _ in windows):
                    raise UsageError(
                        f"[{name}] {key} = {as_toml(windows)}: expected rows of at most the"
                        f" context {context}"
                    )
            if stage.world and self.world is None:
                raise UsageError(
                    f"[{name}] world = {as_toml(stage.world)}, but this run has no world; it needs"
                    " --corpus world"
                )
            if isinstance(stage, FineTuning) and stage.lora_rank > self.model.channels:
                raise UsageError(
                    f"[{name}] lora_rank = {stage.lora_rank} is above the {self.model.channels}"
                    " channels; LoRA needs a smaller rank"
                )

    def changed(self, document: dict) -> "Settings":
        """Return these settings with the values of a document {"seed": ..., "sft": {...}, ...}.

        A table of a kind holds for each of its stages, and one of a stage for that stage alone. A
        UsageError names what is unknown."""
        kinds = [kind for kind in KINDS if any(kind_of(name) == kind for name in self.stages)]
        tables = {"model": Model, "data": Data, "world": WorldSettings}
        tables |= {kind: KINDS[kind] for kind in kinds}
        for name in document:
            places = [f"[{t}]" for t, made in tables.items() if _has(made, name)]
            if places and name not in (*tables, "seed"):
                raise UsageError(f"{name} stands in no table; write it below {' or '.join(places)}")
        refuse_unknown(document, "setting", ("seed", *tables, *self.stages))
        stages = {
            name: _changed(_changed(stage, kind_of(name), document), name, document)
            for name, stage in self.stages.items()
        }
        world = self.world
        if "world" in document:
            world = _changed(world or WorldSettings(), "world", document)
        return dataclasses.replace(
            self,
            world=world,
            seed=document.get("seed", self.seed),
            model=_changed(self.model, "model", document),
            data=_changed(self.data, "data", document),
            stages=stages,
        )

    def everywhere(self, **values) -> "Settings":
        """Return these settings with the same values in each stage; a value None changes
        nothing."""
        values = {name: value for name, value in values.items() if value is not None}
        return self.changed({stage: values for stage in self.stages})

    def only(self, name: str) -> "Settings":
        """Return these settings with one stage alone."""
        return dataclasses.replace(self, stages={name: self.stages[name]})

    def with_stages(self, names: list[str]) -> "Settings":
        """Return these settings with the stages `names`. Each has the settings of its kind, or the
        defaults of a kind that these settings lack, with windows that fit the context."""
        known = {kind_of(name): self.stages.get(kind_of(name)) for name in names}
        for kind, stage in known.items():
            if stage is None:
                stage = KINDS[kind]()
                fits = tuple((min(rows, self.model.context), n) for rows, n in stage.windows)
                known[kind] = dataclasses.replace(stage, windows=fits)
        return dataclasses.replace(self, stages={name: known[kind_of(name)] for name in names})

    def with_short_warmups(self) -> tuple["Settings", list[str]]:
        """Return (these settings, with no warm-up that is longer than its stage; sentences that say
        what was shortened). With a longer one no step would have the rate that was asked for."""
        stages, notes = {}, []
        for name, stage in self.stages.items():
            stages[name] = stage
            if stage.steps and stage.warmup > stage.steps:
                stages[name] = dataclasses.replace(stage, warmup=stage.steps)
                notes.append(
                    f"[{name}] warmup = {stage.warmup:,} is shortened to the {stage.steps:,} steps"
                    f" of the stage; its last step reaches the full rate {stage.lr:g}"
                )
        return dataclasses.replace(self, stages=stages), notes

    def to_json(self) -> dict:
        """Return the document that of_json() reads: "preset", "seed", "model", "data", "world" if
        there is one, and a table for each stage."""
        document = dataclasses.asdict(self)
        world = document.pop("world")
        if self.world is not None:  # without a setting that to_json() leaves out
            document["world"] = {name: world[name] for name in self.world.to_json()}
        return document | document.pop("stages")

    @classmethod
    def of_json(cls, document: dict) -> "Settings":
        """The settings that a run stored. A UsageError, TypeError or KeyError if the document is
        not as to_json() writes it."""
        return cls(
            document["preset"],
            document["seed"],
            Model(**document["model"]),
            Data(**document["data"]),
            {name: KINDS[kind_of(name)](**document[name]) for name in stages_of(document)},
            WorldSettings(**document["world"]) if "world" in document else None,
        )


def _has(table, name: str) -> bool:
    """True if a table has a setting of this name. WorldSettings has its own seed, as a run has."""
    return any(f.name == name for f in dataclasses.fields(table))


def _changed(table, name: str, document: dict):
    """Return a table of settings with the values of document[name], if there are any."""
    values = document.get(name, {})
    known = [f.name for f in dataclasses.fields(table)]
    cuts = [key for key in ("temperature", "top_k", "top_p", "repetition") if key in values]
    if cuts and isinstance(table, PolicyTuning):
        raise UsageError(
            f"[{name}] {cuts[0]}: replies that are learned from are drawn at temperature 1 without"
            " cuts, because the loss takes the probabilities that they were drawn with; leave it"
            " out"
        )
    refuse_unknown(values, f"setting of [{name}]", known)
    try:
        return dataclasses.replace(table, **values)
    except UsageError as error:
        raise UsageError(f"[{name}] {error}") from None


def refuse_unknown(values: dict, what: str, known) -> None:
    """Raise a UsageError if `values`, which should be a table, has a name that is not known."""
    for name in values:
        if name not in known:
            raise UsageError(
                f"unknown {what} {name!r}. There are {', '.join(dict.fromkeys(known))}"
            )
