"""The stages: what each step trains on, at which rate and for which objective.

Each stage is a Plan, which one short function makes. Everything else about training is the same for
all stages, and is in loop.py. A step's draws depend on the settings, the seed and the step alone,
so a resumed run does not have to repeat earlier draws."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pysft.batch import WORLD, Batch, Example
from pysft.errors import DataError, UsageError
from pysft.rng import rng
from pysft.text.windows import draw_windows, window
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
    _refuse_short(corpus, stage.windows)
    pick, epochs = _walk_world(settings, name, world, stage.steps)

    def draw(step):
        examples = _draw(corpus, stage.windows, rng(settings.seed, name, "windows", step))
        return Batch.of(examples + pick(step), vocab, context).split(stage.micro_batches)

    rows = _micro_rows(stage, context, _rows_of(stage.windows + stage.world))
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
    _refuse_short(corpus, stage.windows)
    from_world, of_world = _walk_world(settings, name, world, stage.steps)
    streams, epochs = [], {}
    if conversations and stage.tokens:
        streams, epochs = _conversation_streams(settings, name, conversations, files)
    if pairs and stage.pairs:
        streams.append((pairs, _pick_pairs(settings, name, len(pairs))))
        epochs["pairs"] = stage.steps * stage.pairs / len(pairs)
    if not streams:
        raise UsageError(
            f"no conversation to learn from: tokens or pairs of [{name}] must be above 0"
        )

    def draw(step):
        graded = [examples[i] for examples, pick in streams for i in pick(step)]
        replay = _replay(settings, name, corpus, step) + from_world(step)
        weight = [1.0] * len(graded) + [stage.window_weight] * len(replay)
        return Batch.of(graded + replay, vocab, context, weight).split(stage.micro_batches)

    lengths = [np.array([len(e.input_ids) for e in examples]) for examples, _ in streams]

    def rows_of(step):
        return sum(int(n[pick(step)].sum()) for n, (_, pick) in zip(lengths, streams))

    rows = max(map(rows_of, range(stage.steps)), default=0) + _rows_of(stage.windows + stage.world)
    rows = _micro_rows(stage, context, rows)
    return Plan(draw, _rate(stage), Sft(), stage.steps, rows, epochs | of_world)


def reward(settings: Settings, name: str, rankings: list[list[Example]], vocab: int) -> Plan:
    """Reward modelling: each step takes some rankings, whose replies are one group each.

    name: that of the stage in `settings`. rankings: the examples of each ranking's replies
    (text/compared.py), whose values are compared."""
    stage, n = settings.stages[name], len(rankings)
    steps = stage.steps or math.ceil(stage.epochs * n / stage.rankings)
    pick = _once_an_epoch(settings.seed, name, "rankings", n, stage.rankings)
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
    _refuse_short(corpus, stage.windows)
    steps = stage.steps or math.ceil(n / stage.pairs)
    from_world, of_world = _walk_world(settings, name, world, steps)
    pick = _once_an_epoch(settings.seed, name, "pairs", n, stage.pairs)

    def replay(step):
        windows = _replay(settings, name, corpus, step) + from_world(step)
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
    _refuse_short(corpus, stage.windows)
    updates = stage.steps * stage.epochs
    from_world, of_world = _walk_world(settings, name, world, updates)
    pick = _once_an_epoch(settings.seed, name, "prompts", n, stage.prompts)

    def draw(update):
        windows = _replay(settings, name, corpus, update) + from_world(update)
        blank = np.zeros  # nobody wrote a window to learn from it
        return [
            dataclasses.replace(
                e,
                columns={c: blank(len(e.input_ids), np.float32) for c in ("nll_old", "advantage")},
            )
            for e in windows
        ]

    longest = min(context, max(lengths, default=0) + stage.tokens)
    rows = stage.prompts * stage.replies * longest + _rows_of(stage.windows + stage.world)
    rows = _micro_rows(stage, context, rows)
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
    rows += _rows_of(stage.windows + stage.world)
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
        windows = _replay(settings, name, corpus, step)
        return Batch.of(windows, vocab, context).split(stage.micro_batches)

    rows = _micro_rows(stage, context, _rows_of(stage.windows))
    return Plan(draw, lambda update: rate_of(update // each), Sft(), updates, rows)


# Kind of a stage that begins from a model -> the function that plans it. All take what finetune()
# takes.
PLANS = {"sft": finetune}


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


# ------------------------------------------------------------------------------ what a step draws


def _draw(corpus: np.ndarray, windows, g: np.random.Generator) -> list[Example]:
    """Draw windows of base text: for each pair (rows, count) of `windows`, `count` windows of
    `rows` rows."""
    return [e for length, count in windows for e in draw_windows(corpus, count, length, g)]


def _replay(settings: Settings, name: str, corpus: np.ndarray, step: int) -> list[Example]:
    """Draw the base text of a fine-tuning step."""
    windows = settings.stages[name].windows
    return _draw(corpus, windows, rng(settings.seed, name, "windows", step))


def _walk_world(settings: Settings, name: str, text: np.ndarray | None, steps: int):
    """Return (pick, {"world": epochs}). pick(step) gives the windows of the world's text that a
    step reads.

    In each epoch the text is cut anew into windows that do not overlap, from a place that is drawn,
    and each comes once, in an order that is drawn too. So an epoch tells every fact about as often
    as the text does; what stands before the first cut and behind the last is left out. pick gives
    no windows, and the dict is empty, if the stage reads no world. text: as ids. A DataError if it
    is shorter than two windows."""
    stage, seed = settings.stages[name], settings.seed
    if not stage.world:
        return lambda step: [], {}
    if text is None:
        raise DataError(f"[{name}] reads windows of a world, and there is no text of one")
    _refuse_short(text, [(2 * length, count) for length, count in stage.world])

    @lru_cache(4)
    def order(length, epoch):
        g = rng(seed, name, f"world {length}", epoch)
        first = int(g.integers(0, length))
        return g.permutation(first + length * np.arange(len(text) // length - 1))

    def pick(step):
        found = []
        for length, count in stage.world:
            n = len(text) // length - 1
            places = range(step * count, (step + 1) * count)
            starts = (int(order(length, i // n)[i % n]) for i in places)
            found += [dataclasses.replace(window(text, a, length), source=WORLD) for a in starts]
        return found

    tokens = steps * _rows_of(stage.world)
    return pick, {"world": tokens / len(text)}


def _rate(stage: Training):
    return lambda step: schedule(step, stage.steps, stage.lr, stage.warmup, stage.schedule)


def _pick_pairs(settings: Settings, name: str, n: int):
    """Return pick(step), which gives the numbers of the step's pairs out of n: each once an epoch,
    or with the setting `replacement` drawn with replacement."""
    stage, seed = settings.stages[name], settings.seed
    if stage.replacement:
        return lambda step: rng(seed, name, "pairs", step).integers(0, n, stage.pairs)
    return _once_an_epoch(seed, name, "pairs", n, stage.pairs)


def _once_an_epoch(seed: int, name: str, purpose: str, n: int, count: int):
    """Return pick(step), which gives the numbers of the `count` out of n that a step takes. Each
    comes once an epoch, in an order drawn for each epoch."""

    @lru_cache(2)
    def order(epoch):
        return rng(seed, name, purpose, epoch).permutation(n)

    def pick(step):
        return np.array([order(i // n)[i % n] for i in range(step * count, (step + 1) * count)])

    return pick


def _conversation_streams(settings: Settings, name: str, conversations: list[Example], files):
    """Return ([(examples, pick)], {purpose: epochs}), with one stream (examples, pick) for all
    conversations, or one for each file of a mixture."""
    stage = settings.stages[name]
    if files is None:
        shares, groups = [1.0], [conversations]
    else:
        shares = list(settings.data.mix)
        numbered = list(zip(conversations, files))
        groups = [[e for e, file in numbered if file == i] for i in range(len(shares))]
    if not all(groups):
        raise DataError("a file of the mixture has no conversation to learn from")
    lengths = [np.array([len(e.input_ids) for e in some]) for some in groups]
    streams, epochs = [], {}
    names = ["conversations", "transcripts"]  # of which the second may not be there
    if files is not None and not (settings.data.transcripts or settings.data.made):
        names = [f"file {i}" for i in range(1, len(shares) + 1)]
    each = widths(stage.tokens, [int(n.max()) for n in lengths], shares, name)
    for purpose, some, n, width in zip(names, groups, lengths, each):
        if files is None:
            width = min(width, int(n.sum()))  # so that no step has a conversation twice
        pick, steps = by_tokens(settings.seed, name, purpose, n, width)
        streams.append((some, pick))
        epochs[purpose] = stage.steps / steps
    return streams, epochs


def by_tokens(seed: int, name: str, purpose: str, lengths: np.ndarray, width: int):
    """Return (pick, steps). pick(step) gives the numbers of the sequences that a step takes. An
    epoch takes `steps` steps, which need not be a whole number. Each sequence comes exactly once in
    every epoch.

    lengths (n,): rows of each sequence. name, purpose: of the stage and of the draw, for the random
    generator. width: the mean number of tokens in a step.

    Lay all epochs end to end, each in an order of its own. Step i takes the sequences that begin in
    tokens i width to (i + 1) width - 1. Without its last sequence a step has fewer than `width`
    tokens. It has at least one sequence if none is longer than `width`.

        tokens    0         width     2 width   3 width
        epoch 0   |--3--|-1-|----0----|--2--|
        epoch 1                             |-1-|--2--|...
        step          0         1         2
        takes       3, 1        0       2, 1 ..."""
    total = int(lengths.sum())

    @lru_cache(4)
    def epoch_of(epoch):
        order = rng(seed, name, purpose, epoch).permutation(len(lengths))
        return order, np.cumsum(lengths[order]) - lengths[order]

    def pick(step):
        first, last, taken = step * width, (step + 1) * width, []
        for epoch in range(first // total, (last - 1) // total + 1):
            order, before = epoch_of(epoch)
            a, b = np.searchsorted(before, [first - epoch * total, last - epoch * total])
            taken.append(order[a:b])
        return np.concatenate(taken)

    return pick, total / width


def widths(budget: int, longest: list[int], shares: list[float], name: str = "sft") -> list[int]:
    """Return the width of each file for by_tokens(), in proportion to `shares`. With these widths,
    no step has more than `budget` tokens of all files together.

    longest: tokens of each file's longest conversation. name: that of the stage. A UsageError names
    the budget that is needed, if a step could otherwise be empty or a width would be below 1."""
    found = [int((budget - sum(longest)) * share / sum(shares)) for share in shares]
    if not any(width >= n for width, n in zip(found, longest)) or min(found) < 1:
        least = sum(longest) + min(n * sum(shares) / share for n, share in zip(longest, shares))
        least = math.ceil(max(least, sum(longest) + sum(shares) / min(shares)))
        files = f" in {len(shares)} files" if len(shares) > 1 else ""
        flag = f"--sft-tokens {least}" if name == "sft" else f"--set {name}.tokens={least}"
        raise UsageError(
            f"{budget:,} tokens a step are too few for conversations of up to"
            f" {max(longest):,} tokens{files}; at least {least:,} are needed: {flag}"
        )
    return found


# ------------------------------------------------------------------------------------------- rows


def _rows_of(windows) -> int:
    return sum(length * count for length, count in windows)


def _micro_rows(stage: Training, context: int, rows: int) -> int:
    """Return a bound on the rows of a micro-batch. Sequences stay whole, so it can have up to one
    sequence more than its share of `rows`."""
    return min(rows, rows // stage.micro_batches + context)


def _refuse_short(corpus: np.ndarray, windows) -> None:
    longest = max((length for length, _ in windows), default=0)
    if len(corpus) <= longest:
        raise DataError(
            f"the corpus has {len(corpus)} tokens to train on, windows of {longest} need more: "
            "use a longer text or shorter windows"
        )
