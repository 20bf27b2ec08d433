"""One short function a stage: its data, its objective, its settings. Everything else about training
is the same for all, and stands in loop.py."""

import dataclasses
import math
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from pysft.errors import DataError, MissingInput, UsageError
from pysft.nn.lora import MATRICES
from pysft.nn.model import GPTConfig
from pysft.rng import rng
from pysft.text.dataset import Batch, Example, draw_windows
from pysft.text.template import GRADES
from pysft.training.loop import schedule
from pysft.training.objectives import sft


@dataclass(frozen=True)
class Settings:
    """Every choice of a run. Flags, a file of settings and presets all set these fields."""

    preset: str = "tiny"
    seed: int = 1
    # the model
    context: int = 256
    layers: int = 4
    heads: int = 4
    channels: int = 64
    # the base: windows of so many rows, so many a step
    base_steps: int = 3000
    base_windows: tuple[tuple[int, int], ...] = ((64, 16), (256, 4))
    base_lr: float = 3e-3
    base_schedule: str = "cosine"
    base_warmup: int = 100
    # fine-tuning: at most so many tokens of conversations, so many pairs and windows of base text a
    # step
    sft_steps: int = 2500
    sft_tokens: int = 1600
    sft_pairs: int = 4
    sft_windows: tuple[tuple[int, int], ...] = ((256, 4),)
    sft_window_weight: float = 1.0
    sft_lr: float = 5e-3
    sft_schedule: str = "linear"
    sft_warmup: int = 50
    replacement: bool = (
        False  # of pairs, as the source text draws them; conversations come once an epoch
    )
    new_rows: str = "mean"
    # the data: what of it, how it is written, what of it is graded, and what to do with what does
    # not fit
    data: str = "conversations+pairs"
    mix: tuple[
        float, ...
    ] = ()  # each file's share of the tokens; empty: each conversation counts the same
    transcripts: int = (
        0  # of tool use, made and mixed with the shipped conversations (train --data tools)
    )
    template: str = "chat"
    grade: str = "all"
    too_long: str = "refuse"
    unknown: str = "refuse"
    # AdamW
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-8
    base_decay: float = 0.1
    sft_decay: float = 0.3
    decay_all: bool = False
    clip: float = 1.0
    on_nan: str = "abort"  # or "skip": what becomes of a step whose loss or gradient is not finite
    micro_batches: int = 1  # pieces of a step, one after the other: less memory, the same update
    # LoRA: the adapters' rank (0: all weights are trained), the matrices of a block that have one,
    # alpha (0: twice the rank)
    lora_rank: int = 0
    lora_matrices: tuple[str, ...] = MATRICES
    lora_alpha: float = 0.0
    # how often fine-tuning is measured and its weights are kept: "tenth" of its steps, "epoch",
    # "never", or every so many steps
    checkpoint_every: str = "tenth"

    def __post_init__(self):
        if self.transcripts and _whole(self.context) and self.context < 256:
            raise UsageError(
                "made transcripts of tool use take a context of 256, and this one is"
                f" {self.context}: choose the preset tiny, mini or small, or set context = 256"
            )
        if self.transcripts and self.data == "pairs":
            raise UsageError(
                "made transcripts of tool use are mixed with conversations: set data ="
                ' "conversations"'
            )
        for f in dataclasses.fields(self):
            value, number = getattr(self, f.name), f"{f.name} = {getattr(self, f.name)!r}"
            if f.name.endswith("_windows"):
                if not _are_windows(value, self.context):
                    raise UsageError(
                        f"{number}: expected a list of pairs [rows, how many], rows at most the "
                        f"context {self.context!r}"
                    )
                object.__setattr__(self, f.name, tuple(tuple(pair) for pair in value))
            elif f.name == "lora_matrices":
                if (
                    not isinstance(value, (list, tuple))
                    or not value
                    or not all(m in MATRICES for m in value)
                ):
                    raise UsageError(f"{number}: expected some of {', '.join(MATRICES)}")
                object.__setattr__(self, f.name, tuple(value))
            elif f.name == "checkpoint_every":
                if isinstance(value, int) and not isinstance(value, bool):
                    object.__setattr__(self, f.name, str(value))
                if self.checkpoint_every not in ("tenth", "epoch", "never") and not (
                    str(self.checkpoint_every).isdecimal() and int(self.checkpoint_every) > 0
                ):
                    raise UsageError(
                        f"{number}: expected tenth, epoch, never, or a number of steps above 0"
                    )
            elif f.name == "mix":
                if not isinstance(value, (list, tuple)) or not all(
                    isinstance(w, (int, float)) and not isinstance(w, bool) and 0 < w < 1e6
                    for w in value
                ):
                    raise UsageError(
                        f"{number}: expected a list of numbers above 0, one for each file"
                    )
                object.__setattr__(self, f.name, tuple(float(w) for w in value))
            elif f.type is int and not _whole(value):
                raise UsageError(f"{number} must be a whole number, not negative")
            elif f.type is float:
                if (
                    isinstance(value, bool)
                    or not isinstance(value, (int, float))
                    or not 0 <= value < 1e6
                ):
                    raise UsageError(f"{number} must be a number from 0 to a million")
                object.__setattr__(self, f.name, float(value))
            elif f.type in (bool, str) and not isinstance(value, f.type):
                raise UsageError(
                    f"{number} must be {'true or false' if f.type is bool else 'text'}"
                )
        if self.eps < 1e-12:
            raise UsageError(
                f"eps = {self.eps} must be at least 1e-12: a weight without gradient would"
                " become 0/0"
            )
        if self.micro_batches < 1:
            raise UsageError(f"micro_batches = {self.micro_batches} must be at least 1")
        for name in ("beta1", "beta2"):
            if not getattr(self, name) < 1:
                raise UsageError(f"{name} = {getattr(self, name)} must be below 1")
        for name, kinds in (
            ("base_schedule", SCHEDULES),
            ("sft_schedule", SCHEDULES),
            ("new_rows", ("random", "mean")),
            ("grade", GRADES),
            ("too_long", ("refuse", "drop")),
            ("unknown", ("refuse", "replace", "grow")),
            ("on_nan", ("abort", "skip")),
            ("data", ("pairs", "conversations", "conversations+pairs")),
        ):
            if getattr(self, name) not in kinds:
                raise UsageError(
                    f"{name} = {getattr(self, name)!r} is not one of {', '.join(kinds)}"
                )
        GPTConfig(
            1, self.context, self.layers, self.heads, self.channels
        )  # a shape that cannot be, said now
        if self.lora_rank > self.channels:
            raise UsageError(
                f"lora_rank = {self.lora_rank} is above the {self.channels} channels; a smaller"
                " rank is the point of LoRA"
            )
        if not self.base_windows:
            raise UsageError("base_windows is empty; the base needs text to learn from")

    def adam(self, stage: str) -> dict:
        """What AdamW takes in stage "base" or "sft"."""
        return dict(
            betas=(self.beta1, self.beta2),
            eps=self.eps,
            decay_all=self.decay_all,
            decay=self.base_decay if stage == "base" else self.sft_decay,
        )


def _whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_windows(value, context) -> bool:
    """Pairs (rows, count) of whole numbers above 0, rows within the context."""
    return isinstance(value, (list, tuple)) and all(
        isinstance(pair, (list, tuple))
        and len(pair) == 2
        and all(_whole(n) and n > 0 for n in pair)
        and _whole(context)
        and pair[0] <= context
        for pair in value
    )


SCHEDULES = ("constant", "cosine", "linear")

PRESETS = {
    # The source text to the letter; what it leaves open (32 windows, 16 conversations, AdamW as
    # PyTorch has it) as documented in README.
    "seed": Settings(
        preset="seed",
        context=64,
        base_steps=5000,
        base_windows=((64, 32),),
        base_lr=3e-4,
        base_schedule="constant",
        base_warmup=0,
        sft_steps=1000,
        sft_tokens=1024,
        sft_pairs=16,
        sft_windows=(),
        sft_lr=1e-4,
        sft_schedule="constant",
        sft_warmup=0,
        replacement=True,
        new_rows="random",
        data="pairs",
        beta2=0.999,
        base_decay=0.01,
        sft_decay=0.01,
        decay_all=True,
        clip=0.0,
    ),
    "tiny": Settings(),
    "mini": Settings(
        preset="mini",
        channels=128,
        layers=6,
        base_steps=3000,
        base_lr=2e-3,
        sft_steps=1000,
        sft_tokens=4400,
        sft_windows=((256, 8),),
        sft_lr=8e-3,
    ),
    "small": Settings(preset="small", channels=384, layers=6, heads=6),
}


# What `train --data tools` puts upon any preset. Copying is learnt by steps rather than by rows,
# hence the small ones.
TOOLS = {
    "data": "conversations",
    "transcripts": 120000,
    "mix": (1.0, 3.0),
    "sft_steps": 55000,
    "sft_tokens": 1700,
    "sft_windows": ((256, 2),),
    "sft_lr": 2.5e-3,
    "sft_decay": 0.1,
}


def resolve(
    preset: str | None = None, file: str | None = None, upon: dict | None = None, **flags
) -> Settings:
    """The preset (named here, else by the file, else tiny), then the fields of `upon`, then the
    file's, then the flags that are not None."""
    fields = {f.name for f in dataclasses.fields(Settings)}
    chosen = {}
    if file is not None:
        try:
            chosen = tomllib.loads(Path(file).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise MissingInput(f"--config {file}: no such file") from None
        except (OSError, ValueError) as error:
            raise UsageError(f"--config {file}: not TOML ({error})") from None
        for name in chosen:
            if name not in fields:
                raise UsageError(
                    f"--config {file}: unknown setting {name!r}; known are "
                    f"{', '.join(sorted(fields))}"
                )
        named = chosen.pop("preset", None)
        preset = preset or named
    preset = "tiny" if preset is None else preset
    if not isinstance(preset, str) or preset not in PRESETS:
        raise UsageError(f"preset {preset!r} is not one of {', '.join(PRESETS)}")
    chosen = (
        (upon or {}) | chosen | {name: value for name, value in flags.items() if value is not None}
    )
    return dataclasses.replace(PRESETS[preset], **chosen)


@dataclass(frozen=True)
class Plan:
    """What loop.train needs to know of a stage. rows: the most that a step's (micro-)batch has,
    about. epochs: how often each kind of data comes, to be told."""

    draw: Callable[[int], list[Batch]]
    rate: Callable[[int], float]
    objective: Callable
    steps: int
    rows: int
    epochs: dict[str, float] = dataclasses.field(default_factory=dict)


def _long_enough(corpus: np.ndarray, windows) -> None:
    longest = max((length for length, _ in windows), default=0)
    if len(corpus) <= longest:
        raise DataError(
            f"the corpus has {len(corpus)} characters to train on, windows of {longest} need more: "
            "use a longer text or shorter windows"
        )


def _rows(settings: Settings, rows: int) -> int:
    """Rows of the largest micro-batch: whole sequences, so up to one sequence more than a fair
    share."""
    return min(rows, rows // settings.micro_batches + settings.context)


def checkpoint_steps(settings: Settings, plan: Plan) -> list[int]:
    """After which steps a fine-tuning is measured and its weights are kept, the last included."""
    every = settings.checkpoint_every
    if every == "never":
        return []
    stride = {
        "tenth": plan.steps / 10,
        "epoch": plan.steps / max(next(iter(plan.epochs.values()), 1), 1e-9),
    }.get(every)
    stride = max(1, float(every) if stride is None else stride)
    marks = {
        min(plan.steps, round(stride * k)) for k in range(1, math.ceil(plan.steps / stride) + 1)
    }
    return sorted((marks | {plan.steps}) - {0})


def pretrain(settings: Settings, corpus: np.ndarray, vocab: int) -> Plan:
    """Windows of the corpus, every token graded."""

    def draw(step):
        g = rng(settings.seed, "base", "windows", step)
        return Batch.of(
            [
                e
                for length, count in settings.base_windows
                for e in draw_windows(corpus, count, length, g)
            ],
            vocab,
            settings.context,
        ).split(settings.micro_batches)

    _long_enough(corpus, settings.base_windows)
    return Plan(
        draw,
        lambda step: schedule(
            step,
            settings.base_steps,
            settings.base_lr,
            settings.base_warmup,
            settings.base_schedule,
        ),
        sft,
        settings.base_steps,
        _rows(settings, sum(length * count for length, count in settings.base_windows)),
    )


def replay_alone(settings: Settings, corpus: np.ndarray, vocab: int) -> Plan:
    """The fine-tuning without its conversations: the same windows of base text at the same rates.
    What a base gains by it, it owes to being trained on, so a tuned model is compared with that
    (matched forgetting)."""

    def draw(step):
        return Batch.of(_replayed(settings, corpus, step), vocab, settings.context).split(
            settings.micro_batches
        )

    return Plan(
        draw,
        _sft_rate(settings),
        sft,
        settings.sft_steps if settings.sft_windows else 0,
        _rows(settings, sum(length * count for length, count in settings.sft_windows)),
    )


def _replayed(settings: Settings, corpus: np.ndarray, step: int) -> list[Example]:
    g = rng(settings.seed, "sft", "windows", step)
    return [
        e for length, count in settings.sft_windows for e in draw_windows(corpus, count, length, g)
    ]


def _sft_rate(settings: Settings):
    return lambda step: schedule(
        step, settings.sft_steps, settings.sft_lr, settings.sft_warmup, settings.sft_schedule
    )


def _pairs(settings: Settings, n: int):
    """step -> which sft_pairs of the n pairs: each exactly once an epoch, in an order drawn anew
    for every epoch; or drawn with replacement. A function of the step alone."""
    count = settings.sft_pairs

    @lru_cache(2)
    def order(epoch):
        return rng(settings.seed, "sft", "pairs", epoch).permutation(n)

    def pick(step):
        if settings.replacement:
            return rng(settings.seed, "sft", "pairs", step).integers(0, n, count)
        return np.array([order(i // n)[i % n] for i in range(step * count, (step + 1) * count)])

    return pick


def by_tokens(seed: int, purpose: str, lengths: np.ndarray, width: int):
    """(pick, steps): pick(step) says which sequences a step takes; each comes exactly once in every
    epoch, in an order drawn anew for each, and an epoch takes `steps` steps (not a whole number).

    All epochs lie end to end, and step i takes the sequences that begin in tokens i width .. (i+1)
    width - 1: less than `width` and one sequence, and at least one sequence if none is longer than
    `width`. So what a step takes follows from the step alone: resuming replays nothing. lengths
    (n,): the sequences' rows."""
    total = int(lengths.sum())

    @lru_cache(4)
    def epoch_of(epoch):
        order = rng(seed, "sft", purpose, epoch).permutation(len(lengths))
        return order, np.cumsum(lengths[order]) - lengths[order]

    def pick(step):
        first, last, taken = step * width, (step + 1) * width, []
        for epoch in range(first // total, (last - 1) // total + 1):
            order, before = epoch_of(epoch)
            a, b = np.searchsorted(before, [first - epoch * total, last - epoch * total])
            taken.append(order[a:b])
        return np.concatenate(taken)

    return pick, total / width


def widths(budget: int, longest: list[int], shares: list[float]) -> list[int]:
    """How many tokens of each file a step takes on average (by_tokens), so that all files together
    stay within `budget` and stand to each other as their shares; a UsageError where no file would
    then be in every step."""
    least = sum(longest) + min(n * sum(shares) / share for n, share in zip(longest, shares))
    found = [int((budget - sum(longest)) * share / sum(shares)) for share in shares]
    if not any(width >= n for width, n in zip(found, longest)) or min(found) < 1:
        least = max(least, sum(longest) + sum(shares) / min(shares))
        raise UsageError(
            f"sft_tokens = {budget:,} tokens a step are too few for conversations of up to"
            f" {max(longest):,} tokens"
            + (f" in {len(shares)} files" if len(shares) > 1 else "")
            + f"; at least {math.ceil(least):,} are needed: --sft-tokens {math.ceil(least)}"
        )
    return found


def finetune(
    settings: Settings,
    conversations: list[Example],
    pairs: list[Example],
    corpus: np.ndarray,
    vocab: int,
    files=None,
) -> Plan:
    """Whole conversations, only the assistant's tokens graded; beside them, if asked for, the pairs
    and windows of base text (replay), so that the base is not forgotten. files: with settings.mix,
    the number of the file that each conversation is from; each file then goes through its own
    epochs."""
    _long_enough(corpus, settings.sft_windows)
    streams, epochs = [], {}
    if conversations and settings.sft_tokens:
        shares = list(settings.mix) if files is not None else [1.0]
        groups = (
            [conversations]
            if files is None
            else [
                [e for e, file in zip(conversations, files) if file == i]
                for i in range(len(shares))
            ]
        )
        if not all(groups):
            raise DataError("a file of the mixture has no conversation to learn from")
        lengths = [np.array([len(e.input_ids) for e in some]) for some in groups]
        for i, width in enumerate(
            widths(settings.sft_tokens, [int(n.max()) for n in lengths], shares)
        ):
            purpose = f"file {i + 1}" if len(shares) > 1 else "conversations"
            if files is None:
                width = min(width, int(lengths[i].sum()))  # a step holds no conversation twice
            pick, steps = by_tokens(settings.seed, purpose, lengths[i], width)
            streams.append((groups[i], pick))
            epochs[purpose] = settings.sft_steps / steps
    if pairs and settings.sft_pairs:
        streams.append((pairs, _pairs(settings, len(pairs))))
        epochs["pairs"] = settings.sft_steps * settings.sft_pairs / len(pairs)
    if not streams:
        raise UsageError("no conversation to learn from: sft_tokens or sft_pairs must be above 0")

    def draw(step):
        talk = [examples[i] for examples, pick in streams for i in pick(step)]
        text = _replayed(settings, corpus, step)
        weight = [1.0] * len(talk) + [settings.sft_window_weight] * len(text)
        return Batch.of(talk + text, vocab, settings.context, weight).split(settings.micro_batches)

    lengths = [np.array([len(e.input_ids) for e in examples]) for examples, _ in streams]
    rows = max(
        (
            sum(int(n[pick(step)].sum()) for n, (_, pick) in zip(lengths, streams))
            for step in range(settings.sft_steps)
        ),
        default=0,
    )
    rows += sum(length * count for length, count in settings.sft_windows)
    return Plan(draw, _sft_rate(settings), sft, settings.sft_steps, _rows(settings, rows), epochs)
