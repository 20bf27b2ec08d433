"""The stages: what a step trains on, at which rate, for which objective.

A stage is a Plan, made by one short function. Everything else about training is the same for all
stages, and is in loop.py. What a step draws depends on the seed and the step alone, so resuming
replays nothing."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pysft.batch import Batch, Example
from pysft.errors import DataError, UsageError
from pysft.rng import rng
from pysft.text.windows import draw_windows
from pysft.training.loop import schedule
from pysft.training.objectives import sft
from pysft.training.settings import Settings


@dataclass(frozen=True)
class Plan:
    """What the training loop needs to know of a stage.

    draw(step): the micro-batches of step 0, 1, ... rate(step): its learning rate. rows: about the
    most rows that a micro-batch has. epochs: how often each kind of data is seen, for reports."""

    draw: Callable[[int], list[Batch]]
    rate: Callable[[int], float]
    objective: Callable
    steps: int
    rows: int
    epochs: dict[str, float] = dataclasses.field(default_factory=dict)


# ------------------------------------------------------------------------------------- the stages


def pretrain(settings: Settings, corpus: np.ndarray, vocab: int) -> Plan:
    """Windows of base text with every token graded."""
    _refuse_short(corpus, settings.base_windows)
    s, windows = settings, settings.base_windows

    def draw(step):
        examples = _draw(corpus, windows, rng(s.seed, "base", "windows", step))
        return Batch.of(examples, vocab, s.context).split(s.micro_batches)

    def rate(step):
        return schedule(step, s.base_steps, s.base_lr, s.base_warmup, s.base_schedule)

    return Plan(draw, rate, sft, s.base_steps, _micro_rows(s, _rows_of(windows)))


def finetune(
    settings: Settings,
    conversations: list[Example],
    pairs: list[Example],
    corpus: np.ndarray,
    vocab: int,
    files=None,
) -> Plan:
    """Whole conversations, graded where their labels say; beside them pairs, and windows of base
    text (replay) so that the base is not forgotten, as the settings say.

    files: with settings.mix, the number of each conversation's file. Each file then goes through
    its own epochs."""
    _refuse_short(corpus, settings.sft_windows)
    s, streams, epochs = settings, [], {}
    if conversations and s.sft_tokens:
        streams, epochs = _conversation_streams(s, conversations, files)
    if pairs and s.sft_pairs:
        streams.append((pairs, _pick_pairs(s, len(pairs))))
        epochs["pairs"] = s.sft_steps * s.sft_pairs / len(pairs)
    if not streams:
        raise UsageError("no conversation to learn from: sft_tokens or sft_pairs must be above 0")

    def draw(step):
        graded = [examples[i] for examples, pick in streams for i in pick(step)]
        replay = _replay(s, corpus, step)
        weight = [1.0] * len(graded) + [s.sft_window_weight] * len(replay)
        return Batch.of(graded + replay, vocab, s.context, weight).split(s.micro_batches)

    lengths = [np.array([len(e.input_ids) for e in examples]) for examples, _ in streams]

    def rows_of(step):
        return sum(int(n[pick(step)].sum()) for n, (_, pick) in zip(lengths, streams))

    rows = max(map(rows_of, range(s.sft_steps)), default=0) + _rows_of(s.sft_windows)
    return Plan(draw, _sft_rate(s), sft, s.sft_steps, _micro_rows(s, rows), epochs)


def replay_alone(settings: Settings, corpus: np.ndarray, vocab: int) -> Plan:
    """The fine-tuning without its conversations: the same windows of base text at the same rates.

    A tuned model is compared with the base trained so (matched forgetting): what that base gains,
    it owes to more base text."""
    s, steps = settings, settings.sft_steps if settings.sft_windows else 0

    def draw(step):
        return Batch.of(_replay(s, corpus, step), vocab, s.context).split(s.micro_batches)

    return Plan(draw, _sft_rate(s), sft, steps, _micro_rows(s, _rows_of(s.sft_windows)))


def checkpoint_steps(settings: Settings, plan: Plan) -> list[int]:
    """The steps after which a fine-tuning is measured and its weights are kept; the last is one."""
    every = settings.checkpoint_every
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
    """Windows of base text: (rows, count) of each length."""
    return [e for length, count in windows for e in draw_windows(corpus, count, length, g)]


def _replay(settings: Settings, corpus: np.ndarray, step: int) -> list[Example]:
    """The base text of a fine-tuning step."""
    return _draw(corpus, settings.sft_windows, rng(settings.seed, "sft", "windows", step))


def _sft_rate(settings: Settings):
    s = settings
    return lambda step: schedule(step, s.sft_steps, s.sft_lr, s.sft_warmup, s.sft_schedule)


def _pick_pairs(settings: Settings, n: int):
    """A function of the step: the numbers of its sft_pairs pairs of n. Each pair comes once an
    epoch, in an order drawn for each epoch; or pairs are drawn with replacement."""
    count = settings.sft_pairs

    @lru_cache(2)
    def order(epoch):
        return rng(settings.seed, "sft", "pairs", epoch).permutation(n)

    def pick(step):
        if settings.replacement:
            return rng(settings.seed, "sft", "pairs", step).integers(0, n, count)
        return np.array([order(i // n)[i % n] for i in range(step * count, (step + 1) * count)])

    return pick


def _conversation_streams(settings: Settings, conversations: list[Example], files):
    """([(examples, pick)], {name: epochs}): one stream, or one for each file of a mixture."""
    if files is None:
        shares, groups = [1.0], [conversations]
    else:
        shares = list(settings.mix)
        numbered = list(zip(conversations, files))
        groups = [[e for e, file in numbered if file == i] for i in range(len(shares))]
    if not all(groups):
        raise DataError("a file of the mixture has no conversation to learn from")
    lengths = [np.array([len(e.input_ids) for e in some]) for some in groups]
    streams, epochs = [], {}
    each = widths(settings.sft_tokens, [int(n.max()) for n in lengths], shares)
    for i, (some, n, width) in enumerate(zip(groups, lengths, each), 1):
        purpose = f"file {i}" if len(shares) > 1 else "conversations"
        if files is None:
            width = min(width, int(n.sum()))  # a step holds no conversation twice
        pick, steps = by_tokens(settings.seed, purpose, n, width)
        streams.append((some, pick))
        epochs[purpose] = settings.sft_steps / steps
    return streams, epochs


def by_tokens(seed: int, purpose: str, lengths: np.ndarray, width: int):
    """(pick, steps): pick(step) gives the numbers of the sequences that a step takes; an epoch
    takes `steps` steps, which need not be whole. Each sequence comes exactly once in every epoch.

    lengths (n,): rows of each sequence. purpose: names the draw for the random generator.

    Lay all epochs end to end, each in an order of its own. Step i takes the sequences that begin in
    tokens i width to (i + 1) width - 1: fewer than `width` tokens plus one sequence, and at least
    one sequence if none is longer than `width`.

        tokens    0         width     2 width   3 width
        epoch 0   |--3--|-1-|----0----|--2--|
        epoch 1                             |-1-|--2--|...
        step          0         1         2
        takes       3, 1        0       2, 1 ..."""
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
    """Mean tokens a step of each file (for by_tokens), in proportion to their shares, so that all
    files together never exceed `budget`.

    longest: tokens of each file's longest conversation. A UsageError names the budget that is
    needed if no file would then be in every step."""
    found = [int((budget - sum(longest)) * share / sum(shares)) for share in shares]
    if not any(width >= n for width, n in zip(found, longest)) or min(found) < 1:
        least = sum(longest) + min(n * sum(shares) / share for n, share in zip(longest, shares))
        least = math.ceil(max(least, sum(longest) + sum(shares) / min(shares)))
        files = f" in {len(shares)} files" if len(shares) > 1 else ""
        raise UsageError(
            f"sft_tokens = {budget:,} tokens a step are too few for conversations of up to"
            f" {max(longest):,} tokens{files}; at least {least:,} are needed: --sft-tokens {least}"
        )
    return found


# ------------------------------------------------------------------------------------------- rows


def _rows_of(windows) -> int:
    return sum(length * count for length, count in windows)


def _micro_rows(settings: Settings, rows: int) -> int:
    """Rows of the largest micro-batch: sequences stay whole, so up to one more than its share."""
    return min(rows, rows // settings.micro_batches + settings.context)


def _refuse_short(corpus: np.ndarray, windows) -> None:
    longest = max((length for length, _ in windows), default=0)
    if len(corpus) <= longest:
        raise DataError(
            f"the corpus has {len(corpus)} characters to train on, windows of {longest} need more: "
            "use a longer text or shorter windows"
        )
