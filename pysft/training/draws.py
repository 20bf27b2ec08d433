"""What a step draws: conversations, pairs and prompts, windows of base text, text of a world.

A draw depends on the settings, the seed and the step alone, so a resumed run does not have to
repeat earlier ones."""

import dataclasses
import math
from functools import lru_cache

import numpy as np

from pysft.batch import WORLD, Example
from pysft.errors import DataError, UsageError
from pysft.rng import rng
from pysft.text.windows import draw_windows, window
from pysft.training.kinds import Training
from pysft.training.settings import Settings


def base_windows(corpus: np.ndarray, windows, g: np.random.Generator) -> list[Example]:
    """Draw windows of base text: for each pair (rows, count) of `windows`, `count` windows of
    `rows` rows."""
    return [e for length, count in windows for e in draw_windows(corpus, count, length, g)]


def replayed(settings: Settings, name: str, corpus: np.ndarray, step: int) -> list[Example]:
    """Return the windows of base text that a step of a stage reads beside its replies."""
    windows = settings.stages[name].windows
    return base_windows(corpus, windows, rng(settings.seed, name, "windows", step))


def walk_world(settings: Settings, name: str, text: np.ndarray | None, steps: int):
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
    refuse_short(text, [(2 * length, count) for length, count in stage.world])

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

    tokens = steps * rows_in(stage.world)
    return pick, {"world": tokens / len(text)}


def pick_pairs(settings: Settings, name: str, n: int):
    """Return pick(step), which gives the numbers of the step's pairs out of n: each once an epoch,
    or with the setting `replacement` drawn with replacement."""
    stage, seed = settings.stages[name], settings.seed
    if stage.replacement:
        return lambda step: rng(seed, name, "pairs", step).integers(0, n, stage.pairs)
    return once_an_epoch(seed, name, "pairs", n, stage.pairs)


def once_an_epoch(seed: int, name: str, purpose: str, n: int, count: int):
    """Return pick(step), which gives the numbers of the `count` out of n that a step takes. Each
    comes once an epoch, in an order drawn for each epoch."""

    @lru_cache(2)
    def order(epoch):
        return rng(seed, name, purpose, epoch).permutation(n)

    def pick(step):
        return np.array([order(i // n)[i % n] for i in range(step * count, (step + 1) * count)])

    return pick


def conversation_streams(settings: Settings, name: str, conversations: list[Example], files):
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


def rows_in(windows) -> int:
    return sum(length * count for length, count in windows)


def micro_rows(stage: Training, context: int, rows: int) -> int:
    """Return a bound on the rows of a micro-batch. Sequences stay whole, so it can have up to one
    sequence more than its share of `rows`."""
    return min(rows, rows // stage.micro_batches + context)


def refuse_short(corpus: np.ndarray, windows) -> None:
    longest = max((length for length, _ in windows), default=0)
    if len(corpus) <= longest:
        raise DataError(
            f"the corpus has {len(corpus)} tokens to train on, windows of {longest} need more: "
            "use a longer text or shorter windows"
        )
