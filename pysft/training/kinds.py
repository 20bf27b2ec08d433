"""The kinds of stages and the settings of each: its steps, its learning rate, what a step takes.

A stage's name is its kind, "base" or "sft", or for a model that is tuned once more "sft-2", "sft-3"
and so on."""

import dataclasses
import re
from dataclasses import dataclass

from pysft.errors import UsageError
from pysft.nn.shapes import MATRICES
from pysft.training.values import checked


class Table:
    """A table of settings. A value that is not possible is a UsageError."""

    def __post_init__(self):
        for f in dataclasses.fields(self):
            object.__setattr__(self, f.name, checked(f, getattr(self, f.name)))


@dataclass(frozen=True)
class Training(Table):
    """What the settings of every stage have: its steps, its learning rate, and AdamW.

    The values here are placeholders. Each kind of stage has its own."""

    steps: int = 0
    lr: float = 0.0
    # The windows of base text and of an invented world's text in each step, as pairs (rows, count).
    windows: tuple[tuple[int, int], ...] = ()
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


@dataclass(frozen=True)
class Comparing(Training):
    """What the stages that learn from comparisons have in common.

    Where no file of rankings is given, the comparisons are made first: the model that the stage
    begins from writes `replies` replies to each prompt, `rounds` times, and `by` ranks them
    (measure/raters.py)."""

    schedule: str = "linear"
    replies: int = 6
    rounds: int = 3
    by: str = "labelers"

    def __post_init__(self):
        super().__post_init__()
        if not 2 <= self.replies <= 9:
            raise UsageError(f"replies = {self.replies}: expected 2 to 9 replies to compare")
        if not self.rounds:
            raise UsageError("rounds = 0: each prompt needs at least one ranking")


@dataclass(frozen=True)
class RewardModel(Comparing):
    """A reward model, which learns from rankings of replies to score a reply.

    Each step takes `rankings` rankings. steps = 0 takes as many as `epochs` passes over all of them
    need. ties, nu: as in objectives.BradleyTerry."""

    lr: float = 1e-3
    warmup: int = 10
    decay: float = 1.0
    epochs: float = 2.0
    rankings: int = 16
    ties: str = "none"
    nu: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if not self.rankings:
            raise UsageError("rankings = 0: a step needs at least one")
        if self.windows or self.world:
            raise UsageError("a reward model reads comparisons alone; leave windows and world out")
        if self.by == "reward":
            raise UsageError(
                "by = 'reward': no reward model is there yet; choose world or labelers"
            )
        if not self.nu:
            raise UsageError("nu = 0 gives ties no probability; it must be above 0")
        if not self.steps and not self.epochs:
            raise UsageError("steps and epochs are both 0; one of them must be above 0")


@dataclass(frozen=True)
class PreferenceTuning(Comparing):
    """DPO: tuning on pairs of a chosen and a rejected reply.

    Each step takes `pairs` pairs and the windows `windows` of base text (replay), whose loss has
    the weight window_weight. steps = 0 takes as many as one pass over all pairs needs. beta, kind,
    smoothing, nll: as in objectives.Dpo. by: "reward" is the reward model that the run trained
    before, or if there is none, the labelers."""

    steps: int = 100
    lr: float = 1e-4
    warmup: int = 20
    pairs: int = 48
    beta: float = 1.0
    kind: str = "sigmoid"
    smoothing: float = 0.0
    nll: float = 0.1
    windows: tuple[tuple[int, int], ...] = ((256, 2),)
    window_weight: float = 1.0
    by: str = "reward"
    checkpoint_every: str = "tenth"

    def __post_init__(self):
        super().__post_init__()
        if not self.pairs:
            raise UsageError("pairs = 0: a step needs at least one")
        if not self.beta:
            raise UsageError("beta = 0: the loss would not depend on the model; 1 is usual")
        if not self.smoothing < 0.5:
            raise UsageError(
                f"smoothing = {self.smoothing} must be below 0.5, at which a pair says nothing"
            )
        if self.smoothing and self.kind == "ipo":
            raise UsageError("smoothing is not defined for kind = 'ipo'; leave one of them out")


@dataclass(frozen=True)
class PolicyTuning(Training):
    """PPO: tuning on a reward for the replies that the model itself writes.

    A step is an iteration: the model writes `replies` replies to each of `prompts` prompts at
    temperature 1, of at most `tokens` tokens beside their thoughts, and then learns from them in
    `epochs` updates, each from all of them.

    reward: "reward" (the run's reward model, or if there is none, the exact judge), "world" (the
    exact judge), or FILE.py:function. A reply that did not end, is empty or holds a control token
    has the score `unfinished` instead. tools: let replies call the tools that the model knows.
    beta: the price of a nat of KL from the model that the stage begins from. kl_target: above 0,
    beta rises and falls so that the KL per reply comes near it, within about `horizon` replies.

    baseline: what a reward is compared with: the "value" of a critic, the other replies to the same
    prompt ("leave-one-out"), or their mean and deviation ("group"). gamma, lam: of a critic's
    advantages (advantages.gae). critic_lr: its learning rate. whiten: give the advantages that a
    critic gives in an iteration the mean 0 and the deviation 1. clipping, ratio_clip: kind and clip
    of objectives.Ppo. value_clip: clip of ClippedValue. ptx: the weight of the windows of base text
    and of a world.

    kl_limit: an alarm tells of a KL above it; 0 is no limit. on_alarm: "say" or "stop"."""

    steps: int = 200
    lr: float = 3e-4
    schedule: str = "linear"
    warmup: int = 20
    prompts: int = 16
    replies: int = 4
    tokens: int = 120
    epochs: int = 2
    reward: str = "reward"
    unfinished: float = -1.0
    tools: bool = False
    beta: float = 0.02
    kl_target: float = 0.0
    horizon: float = 10_000.0
    baseline: str = "value"
    gamma: float = 1.0
    lam: float = 0.95
    critic_lr: float = 1e-3
    whiten: bool = True
    clipping: str = "ppo"
    ratio_clip: float = 0.2
    value_clip: float = 0.2
    ptx: float = 1.0
    windows: tuple[tuple[int, int], ...] = ((256, 2),)
    kl_limit: float = 20.0
    on_alarm: str = "say"
    checkpoint_every: str = "tenth"
    micro_batches: int = 4  # of all replies together the activations do not fit into caches

    def __post_init__(self):
        super().__post_init__()
        for name in ("steps", "prompts", "replies", "tokens", "epochs"):
            if not getattr(self, name):
                raise UsageError(f"{name} = 0: an iteration needs at least one")
        if self.baseline != "value" and self.replies < 2:
            raise UsageError(
                f"replies = {self.replies}: the baseline {self.baseline!r} compares the replies to"
                " a prompt, so it needs at least 2"
            )
        if self.kl_target and not (self.beta and self.horizon):
            raise UsageError(
                f"kl_target = {self.kl_target}: beta = {self.beta} and horizon = {self.horizon}"
                " must be above 0, because beta is raised and lowered by a share of itself"
            )
        for name in ("gamma", "lam"):
            if getattr(self, name) > 1:
                raise UsageError(f"{name} = {getattr(self, name)} must be at most 1")
        if not 0 < self.ratio_clip < 1:
            raise UsageError(f"ratio_clip = {self.ratio_clip} must be above 0 and below 1")


KINDS = {  # in the order of training
    "base": Pretraining,
    "sft": FineTuning,
    "reward": RewardModel,
    "ppo": PolicyTuning,
    "dpo": PreferenceTuning,
}
# The kinds that learn from comparisons, and those that begin from a model that talks and need no
# conversations: these, and a policy that writes its own.
COMPARING = tuple(kind for kind, made in KINDS.items() if issubclass(made, Comparing))
ALIGNING = (*COMPARING, "ppo")


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


def next_name(name: str | None, kind: str = "sft") -> str:
    """Return the name of the stage of a kind that comes after the stage `name`: "sft" after a base
    or nothing (None), "sft-2" after "sft"."""
    if name is None or kind_of(name) != kind:
        return kind
    return f"{kind}-{int(name.partition('-')[2] or 1) + 1}"


def check_stages(names: list[str], parent: str | None = None) -> None:
    """Raise a UsageError unless these stages can be trained one after the other.

    parent: the name of the stage that the first begins from; None if there is none."""
    if not names:
        raise UsageError("stages: none is named; the usual list is base,sft")
    for i, name in enumerate(names):
        kind = kind_of(name)
        if name in names[:i]:
            again = f"; one more of its kind is {next_name(name, kind)!r}" if kind != "base" else ""
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
                f" {next_name(name, kind)!r}"
            )
