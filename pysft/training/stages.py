"""The stages: what each step trains on, at which rate and for which objective.

Each stage is a Plan, which one short function makes of draws.py and an objective. Everything else
about training is the same for all stages, and is in loop.py."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pysft.batch import Batch, Example
from pysft.errors import UsageError
from pysft.rng import rng
from pysft.training.draws import (
    base_windows,
    conversation_streams,
    micro_rows,
    once_an_epoch,
    pick_pairs,
    refuse_short,
    replayed,
    rows_in,
    walk_world,
)
from pysft.training.kinds import FineTuning, PolicyTuning, Training
from pysft.training.loop import schedule
from pysft.training.objectives import BradleyTerry, Dpo, Ppo, Sft
from pysft.training.settings import Settings


@dataclass(frozen=True)
class Plan:
    """What the training loop needs to know about a stage.

    draw(step): the micro-batches of step 0, 1, ... rate(step): its learning rate. rows: no
    micro-batch has more. epochs: how often each kind of data is seen, for reports."""

    draw: Callable[[int], list[Batch]]
    rate: Callable[[int], float]
    objective: Callable
    steps: int
    rows: int
    epochs: dict[str, float] = dataclasses.field(default_factory=dict)


# ------------------------------------------------------------------------------------- the stages


def pretrain(
    settings: Settings, name: str, corpus: np.ndarray, vocab: int, world: np.ndarray | None = None
) -> Plan:
    """Pre-training: windows of base text, every token graded.

    name: that of the stage in `settings`. corpus: base text as ids. world: the text of an invented
    world as ids. A DataError if one of them is too short for its windows."""
    stage, context = settings.stages[name], settings.model.context
    refuse_short(corpus, stage.windows)
    pick, epochs = walk_world(settings, name, world, stage.steps)

    def draw(step):
        examples = base_windows(corpus, stage.windows, rng(settings.seed, name, "windows", step))
        return Batch.of(examples + pick(step), vocab, context).split(stage.micro_batches)

    rows = micro_rows(stage, context, rows_in(stage.windows + stage.world))
    return Plan(draw, _rate(stage), Sft(), stage.steps, rows, epochs)


def finetune(
    settings: Settings,
    name: str,
    conversations: list[Example],
    pairs: list[Example],
    corpus: np.ndarray,
    vocab: int,
    files=None,
    world: np.ndarray | None = None,
) -> Plan:
    """Fine-tuning: whole conversations and pairs, graded as their labels say, and windows of base
    text (replay), so that the model does not forget it.

    name: that of the stage in `settings`. conversations, pairs: rendered examples. corpus: base
    text as ids. files: for a mixture (the setting mix), the number of each conversation's file;
    each file then has its own epochs. world: the text of an invented world as ids. A UsageError if
    nothing is left to learn from or the stage has too few tokens a step, a DataError if a file of
    the mixture is empty, or the corpus or the world's text is too short."""
    stage, context = settings.stages[name], settings.model.context
    refuse_short(corpus, stage.windows)
    from_world, of_world = walk_world(settings, name, world, stage.steps)
    streams, epochs = [], {}
    if conversations and stage.tokens:
        streams, epochs = conversation_streams(settings, name, conversations, files)
    if pairs and stage.pairs:
        streams.append((pairs, pick_pairs(settings, name, len(pairs))))
        epochs["pairs"] = stage.steps * stage.pairs / len(pairs)
    if not streams:
        raise UsageError(
            f"no conversation to learn from: tokens or pairs of [{name}] must be above 0"
        )

    def draw(step):
        graded = [examples[i] for examples, pick in streams for i in pick(step)]
        replay = replayed(settings, name, corpus, step) + from_world(step)
        weight = [1.0] * len(graded) + [stage.window_weight] * len(replay)
        return Batch.of(graded + replay, vocab, context, weight).split(stage.micro_batches)

    lengths = [np.array([len(e.input_ids) for e in examples]) for examples, _ in streams]

    def rows_of(step):
        return sum(int(n[pick(step)].sum()) for n, (_, pick) in zip(lengths, streams))

    rows = max(map(rows_of, range(stage.steps)), default=0) + rows_in(stage.windows + stage.world)
    rows = micro_rows(stage, context, rows)
    return Plan(draw, _rate(stage), Sft(), stage.steps, rows, epochs | of_world)


def reward(settings: Settings, name: str, rankings: list[list[Example]], vocab: int) -> Plan:
    """Reward modelling: each step takes some rankings, whose replies are one group each.

    name: that of the stage in `settings`. rankings: the examples of each ranking's replies
    (text/compared.py), whose values are compared."""
    stage, n = settings.stages[name], len(rankings)
    steps = stage.steps or math.ceil(stage.epochs * n / stage.rankings)
    pick = once_an_epoch(settings.seed, name, "rankings", n, stage.rankings)
    epochs = {"rankings": steps * stage.rankings / n}
    objective = BradleyTerry(stage.ties, stage.nu)
    return _of_groups(settings, name, rankings, pick, steps, objective, vocab, epochs)


def dpo(
    settings: Settings,
    name: str,
    pairs: list[tuple[Example, Example]],
    corpus: np.ndarray,
    vocab: int,
    world: np.ndarray | None = None,
) -> Plan:
    """DPO: each step takes some pairs, and windows of base text beside them (replay).

    name: that of the stage in `settings`. pairs: (chosen, rejected), with the column "reference" of
    objectives.Dpo. corpus, world: as finetune() takes them."""
    stage, n = settings.stages[name], len(pairs)
    refuse_short(corpus, stage.windows)
    steps = stage.steps or math.ceil(n / stage.pairs)
    from_world, of_world = walk_world(settings, name, world, steps)
    pick = once_an_epoch(settings.seed, name, "pairs", n, stage.pairs)

    def replay(step):
        windows = replayed(settings, name, corpus, step) + from_world(step)
        blank = np.zeros  # a window has no reference
        return [
            dataclasses.replace(e, columns={"reference": blank(len(e.input_ids), np.float32)})
            for e in windows
        ]

    epochs = {"pairs": steps * stage.pairs / n} | of_world
    objective = Dpo(stage.beta, stage.kind, stage.smoothing, stage.nll, stage.window_weight)
    return _of_groups(settings, name, pairs, pick, steps, objective, vocab, epochs, replay)


def ppo(
    settings: Settings,
    name: str,
    lengths: list[int],
    corpus: np.ndarray,
    context: int,
    world: np.ndarray | None = None,
) -> tuple[Plan, Callable[[int], np.ndarray]]:
    """PPO, whose data the policy writes itself (ppo.py). Return (plan, pick): plan.draw(update)
    gives the windows of base text and of a world beside the replies of an update, as examples, and
    pick(iteration) the numbers of the prompts that an iteration asks.

    name: that of the stage in `settings`. lengths: of the prompts, in tokens. corpus, world: as
    finetune() takes them. plan.steps are iterations, and plan.rows a bound for the longest
    replies."""
    stage, n = settings.stages[name], len(lengths)
    refuse_short(corpus, stage.windows)
    updates = stage.steps * stage.epochs
    from_world, of_world = walk_world(settings, name, world, updates)
    pick = once_an_epoch(settings.seed, name, "prompts", n, stage.prompts)

    def draw(update):
        windows = replayed(settings, name, corpus, update) + from_world(update)
        blank = np.zeros  # nobody wrote a window to learn from it
        return [
            dataclasses.replace(
                e,
                columns={c: blank(len(e.input_ids), np.float32) for c in ("nll_old", "advantage")},
            )
            for e in windows
        ]

    longest = min(context, max(lengths, default=0) + stage.tokens)
    rows = stage.prompts * stage.replies * longest + rows_in(stage.windows + stage.world)
    rows = micro_rows(stage, context, rows)
    objective = Ppo(stage.ratio_clip, stage.clipping, stage.ptx)
    epochs = {"prompts": stage.steps * stage.prompts / n} | of_world
    return Plan(draw, _rate(stage), objective, stage.steps, rows, epochs), pick


def _of_groups(
    settings: Settings, name, groups, pick, steps: int, objective, vocab: int, epochs, replay=None
) -> Plan:
    """The plan of a stage whose steps take groups of examples, which no micro-batch splits.
    pick(step): the numbers of a step's groups. replay(step): examples beside them."""
    stage, context = settings.stages[name], settings.model.context

    def draw(step):
        numbered = enumerate(pick(step))  # by place, because a step may take a group twice
        examples = [dataclasses.replace(e, group=g) for g, i in numbered for e in groups[i]]
        beside = replay(step) if replay else []
        return Batch.of(examples + beside, vocab, context).split(stage.micro_batches)

    sizes = np.array([sum(len(e.input_ids) for e in group) for group in groups])
    rows = max((int(sizes[pick(step)].sum()) for step in range(steps)), default=0)
    rows += rows_in(stage.windows + stage.world)
    rows = min(rows, rows // stage.micro_batches + int(sizes.max()))  # groups stay whole

    def rate(step):
        return schedule(step, steps, stage.lr, min(stage.warmup, steps), stage.schedule)

    return Plan(draw, rate, objective, steps, rows, epochs)


def replay_alone(
    settings: Settings, name: str, corpus: np.ndarray, vocab: int, steps: int | None = None
) -> Plan:
    """A tuning without what it is for: the same windows of base text at the same rates. steps: of
    the stage; None takes all of them.

    Matched forgetting compares the tuned model with the base trained like this, so that both have
    seen the same additional base text. A step of this plan is an update. A fine-tuning and DPO have
    one a step, and PPO has `epochs` of them in an iteration, all at its rate. A PPO with ptx = 0
    learns from no window."""
    stage, context = settings.stages[name], settings.model.context
    is_policy = isinstance(stage, PolicyTuning)
    each, rate_of = stage.epochs if is_policy else 1, _rate(stage)
    reads = stage.windows and (stage.ptx if is_policy else True)
    updates = each * (stage.steps if steps is None else min(steps, stage.steps)) if reads else 0

    def draw(step):
        windows = replayed(settings, name, corpus, step)
        return Batch.of(windows, vocab, context).split(stage.micro_batches)

    rows = micro_rows(stage, context, rows_in(stage.windows))
    return Plan(draw, lambda update: rate_of(update // each), Sft(), updates, rows)


# Kind of a stage that begins from a model -> the function that plans it. All take what finetune()
# takes.
PLANS = {"sft": finetune}


def _rate(stage: Training):
    return lambda step: schedule(step, stage.steps, stage.lr, stage.warmup, stage.schedule)


def checkpoint_steps(stage: FineTuning, plan: Plan) -> list[int]:
    """Return the steps, rising, after which a fine-tuning is measured and its weights are kept. The
    last step is always one of them, unless checkpoint_every is "never"."""
    every = stage.checkpoint_every
    if every == "never":
        return []
    if every == "tenth":
        stride = plan.steps / 10
    elif every == "epoch":
        stride = plan.steps / max(next(iter(plan.epochs.values()), 1), 1e-9)
    else:
        stride = float(every)
    stride = max(1, stride)
    marks = {round(stride * k) for k in range(1, math.ceil(plan.steps / stride) + 1)}
    return sorted(({min(plan.steps, mark) for mark in marks} | {plan.steps}) - {0})
