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
import re
from dataclasses import dataclass, field

from pysft.errors import UsageError
from pysft.nn.shapes import MATRICES, GPTConfig
from pysft.text.keys import Reading
from pysft.training.values import as_toml, checked, is_whole
from pysft.world.facts import WorldSettings

TRANSCRIPT = 256  # tokens that a made transcript of tool use may take


class _Table:
    """A table of settings. A value that is not possible is a UsageError."""

    def __post_init__(self):
        for f in dataclasses.fields(self):
            object.__setattr__(self, f.name, checked(f, getattr(self, f.name)))


# ----------------------------------------------------------------------------- the model, the data


@dataclass(frozen=True)
class Model(_Table):
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
class Data(_Table):
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


# -------------------------------------------------------------------------------------- the stages


@dataclass(frozen=True)
class Training(_Table):
    """What the settings of every stage have: its steps, its learning rate, and AdamW.

    The values here are placeholders. Each kind of stage has its own."""

    steps: int = 0
    lr: float = 0.0
    # The windows of the invented world's text in each step, as pairs (rows, count).
    world: tuple[tuple[int, int], ...] = ()
    schedule: str = "constant"
    warmup: int = 0
    # AdamW, clipping, and what happens to a step whose loss or gradient is not finite.
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-8
    decay: float = 0.0
    decay_all: bool = False
    clip: float = 1.0
    on_nan: str = "abort"
    # Seconds from one checkpoint for --resume to the next. The first one comes sooner.
    save_every: float = 60.0
    # The number of pieces in which a step's batch is computed, one after the other. More pieces
    # need less memory and give, up to rounding, the same update.
    micro_batches: int = 1

    def __post_init__(self):
        super().__post_init__()
        if self.eps < 1e-12:
            raise UsageError(
                f"eps = {self.eps} must be at least 1e-12: the step of a weight without gradient"
                " would be 0/0"
            )
        if self.micro_batches < 1:
            raise UsageError(f"micro_batches = {self.micro_batches} must be at least 1")
        for name in ("beta1", "beta2"):
            if not getattr(self, name) < 1:
                raise UsageError(f"{name} = {getattr(self, name)} must be below 1")

    def adam(self) -> dict:
        """Return the keyword arguments of AdamW."""
        return {
            "betas": (self.beta1, self.beta2),
            "eps": self.eps,
            "decay_all": self.decay_all,
            "decay": self.decay,
        }


@dataclass(frozen=True)
class Pretraining(Training):
    """Pre-training. windows: the windows of base text in each step, as pairs (rows, count)."""

    steps: int = 3000
    lr: float = 3e-3
    schedule: str = "cosine"
    warmup: int = 100
    decay: float = 0.1
    windows: tuple[tuple[int, int], ...] = ((64, 16), (256, 4))

    def __post_init__(self):
        super().__post_init__()
        if not self.windows:
            raise UsageError("windows is empty; the base needs text to learn from")


@dataclass(frozen=True)
class FineTuning(Training):
    """Fine-tuning. Each step takes at most `tokens` tokens of conversations, `pairs` of the 40
    pairs, and the windows `windows` of base text (replay). The loss of a replayed token is weighted
    by window_weight."""

    steps: int = 2500
    lr: float = 5e-3
    schedule: str = "linear"
    warmup: int = 50
    decay: float = 0.3
    tokens: int = 1600
    pairs: int = 4
    windows: tuple[tuple[int, int], ...] = ((256, 4),)
    window_weight: float = 1.0
    # Draw pairs with replacement, as the source text does. If false, each comes once an epoch.
    replacement: bool = False
    # The rows of new symbols: random as at initialisation, or the mean of the old rows.
    new_rows: str = "mean"
    # LoRA: the rank of the adapters (0: no LoRA, all weights are trained), the matrices of each
    # block that get an adapter, and alpha (0: twice the rank).
    lora_rank: int = 0
    lora_matrices: tuple[str, ...] = MATRICES
    lora_alpha: float = 0.0
    # When the model is measured and kept: after each "tenth" of the steps, after each "epoch",
    # after every K steps (a number), or "never".
    checkpoint_every: str = "tenth"


TABLES = ("model", "data", "world")  # of settings that all stages share
KINDS = {"base": Pretraining, "sft": FineTuning}  # in the order of training


def kind_of(name: str) -> str:
    """Return the kind of a stage: "sft" for "sft" and for "sft-2". A UsageError if there is no such
    stage."""
    kind, number = re.fullmatch(r"([^-]*)(-.*)?", name, re.DOTALL).groups()
    is_numbered = kind != "base" and re.fullmatch(r"-([2-9]|[1-9][0-9]{1,2})", number or "")
    if kind not in KINDS or (number is not None and not is_numbered):
        raise UsageError(
            f"stage {name!r}: there is no such stage; a stage is {', '.join(KINDS)}, or for a model"
            " that is tuned once more sft-2, sft-3, ..."
        )
    return kind


def stages_of(document: dict) -> list[str]:
    """Return the names of the stages in a document as Settings.to_json() gives it."""
    return [name for name in document if name not in ("preset", "seed", *TABLES)]


def next_name(name: str | None) -> str:
    """Return the name of the stage that comes after the stage `name` if nothing else is asked for:
    "sft" after a base or nothing (None), else one more of the same kind."""
    if name is None or kind_of(name) == "base":
        return "sft"
    return f"{kind_of(name)}-{int(name.partition('-')[2] or 1) + 1}"


def check_stages(names: list[str], parent: str | None = None) -> None:
    """Raise a UsageError unless these stages can be trained one after the other.

    parent: the name of the stage that the first begins from; None if there is none."""
    if not names:
        raise UsageError("stages: none is named; the usual list is base,sft")
    for i, name in enumerate(names):
        kind = kind_of(name)
        if name in names[:i]:
            again = "" if kind == "base" else f"; one more of its kind is {next_name(name)!r}"
            raise UsageError(f"stage {name!r} is named twice{again}")
        if kind == "base" and i:
            raise UsageError(f"stage {name!r} begins from nothing; name it first")
        if kind == "base" and parent:
            raise UsageError(
                f"stage {name!r} begins from nothing, but --base names a stage to begin from; leave"
                " one of them out"
            )
        if kind != "base" and not i and parent is None:
            raise UsageError(
                f"stage {name!r} begins from a model; name one by --base RUN, or train a base"
                f" first: --stages base,{name}"
            )
        if name == parent:
            raise UsageError(
                f"stage {name!r} has the name of the stage that the run begins from; call it"
                f" {next_name(name)!r}"
            )


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
        """Return these settings with the stages `names`. Each has the settings of its kind. A kind
        that these settings lack takes the values of "sft" for settings of the same name."""
        kinds = {kind_of(name) for name in names}
        known = self.stages | {
            kind: _like(KINDS[kind], self.stages["sft"]) for kind in kinds - set(self.stages)
        }
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
        if self.world is None:
            del document["world"]
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


def _like(kind: type[Training], other: Training) -> Training:
    """Return settings of a kind with the values that another stage has for the same names."""
    names = [f.name for f in dataclasses.fields(kind) if hasattr(other, f.name)]
    return kind(**{name: getattr(other, name) for name in names})


def _has(table, name: str) -> bool:
    """True if a table has a setting of this name. WorldSettings has its own seed, as a run has."""
    return any(f.name == name for f in dataclasses.fields(table))


def _changed(table, name: str, document: dict):
    """Return a table of settings with the values of document[name], if there are any."""
    values = document.get(name, {})
    known = [f.name for f in dataclasses.fields(table)]
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
