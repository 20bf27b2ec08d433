"""The only training loop."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from pysft import IGNORE
from pysft.errors import Diverged
from pysft.nn.optim import AdamW, clip


@dataclass
class Report:
    """One step: loss in nats per graded token (by source: `losses`), the gradient's norm before
    clipping, the learning rate, graded and all tokens, seconds. skipped: a step that was not finite
    and left out."""

    step: int
    loss: float
    losses: dict[str, float]
    norm: float
    lr: float
    graded: int
    tokens: int
    seconds: float = 0.0
    skipped: bool = False


def schedule(
    step: int, steps: int, lr: float, warmup: int = 0, kind: str = "constant", floor: float = 0.0
) -> float:
    """The learning rate of step 0, 1, ...: a linear warm-up, then `lr` for ever ("constant"), or
    falling along a half cosine ("cosine") or a line ("linear") to floor * lr, which the step after
    the last would have."""
    if step < warmup:
        return lr * (step + 1) / warmup
    if kind == "constant":
        return lr
    done = (step - warmup) / max(1, steps - warmup)
    shape = (1 + math.cos(math.pi * done)) / 2 if kind == "cosine" else 1 - done
    return lr * (floor + (1 - floor) * shape)


def train_step(
    model, adam: AdamW, micro_batches, objective, lr: float, limit: float = 0.0
) -> Report:
    """One update from the sum over all micro-batches; the same however they are split.

    A loss or gradient that is not finite raises Diverged, which names the first tensor at fault,
    and no weight has moved."""
    model.grads.clear()
    total = sum(objective.count(batch) for batch in micro_batches)
    loss, sums = 0.0, {}
    for batch in micro_batches:
        nll, value = model.forward(batch)
        part, dnll, dvalue = objective(batch, nll, value, total)
        loss += part
        _by_source(sums, batch, nll)
        model.backward(dnll, dvalue)
    norm = clip(model, limit)
    if not (math.isfinite(loss) and math.isfinite(norm)):
        what = (
            f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm}"
        )
        weight, gradient = _not_finite(model.params), _not_finite(model.grads)
        where = (
            f", weight {weight!r} is not finite"
            if weight
            else f", first in the gradient of {gradient!r}"
            if gradient
            else ""
        )
        raise Diverged(
            f"step {adam.steps + 1}: {what}{where}; no weight was changed. A lower learning rate "
            f"(now {lr:g}) or a longer warm-up is the usual cure",
            micro_batches,
            lasting=weight is not None,
        )
    adam.step(lr)
    return Report(
        adam.steps,
        loss,
        {s: t / n for s, (t, n) in sums.items()},
        norm,
        lr,
        sum(n for _, n in sums.values()),
        sum(len(b.tokens) for b in micro_batches),
    )


def _not_finite(arena) -> str | None:
    """The first tensor that holds something else than finite numbers."""
    return next((name for name, a in arena.items() if not np.isfinite(a).all()), None)


def _by_source(sums, batch, nll):
    """Add to sums[source] = (total nll, graded tokens)."""
    first = batch.cu_seqlens[:-1]
    totals = np.add.reduceat(nll, first, dtype=np.float64)
    counts = np.add.reduceat(batch.labels != IGNORE, first, dtype=np.int64)
    for name in sorted(set(batch.source.tolist())):
        here = batch.source == name
        total, count = sums.get(name, (0.0, 0))
        sums[name] = total + float(totals[here].sum()), count + int(counts[here].sum())


class Outliers:
    """How far each step's loss and gradient norm lie from those of the last `window` steps: (x -
    median) / spread, where spread is 1.4826 times the median distance from the median (the standard
    deviation, if they were normal), at least a thousandth of the median. What passes its limit is
    an outlier. Norms have long tails, hence the second limit."""

    limits = {"loss": 8.0, "norm": 20.0}

    def __init__(self, window: int = 100, least: int = 30):
        self.seen, self.window, self.least = (
            {name: deque(maxlen=window) for name in self.limits},
            window,
            least,
        )

    def __call__(self, **step) -> dict[str, float]:
        """{"loss" or "norm": its score} of what is an outlier in a step (loss=, norm=), which then
        joins the others."""
        found = {}
        for name, values in self.seen.items():
            x = step[name]
            if len(values) >= self.least:
                middle = float(np.median(values))
                spread = max(
                    1.4826 * float(np.median(np.abs(np.array(values) - middle))),
                    1e-3 * abs(middle),
                    1e-30,
                )
                if (x - middle) / spread > self.limits[name]:
                    found[name] = (x - middle) / spread
            values.append(x)
        return found


SKIPS = 10  # steps in a row: more of them are no accident


def train(
    model,
    adam: AdamW,
    draw: Callable[[int], list],
    objective,
    rate: Callable[[int], float],
    steps: int,
    limit: float = 0.0,
    skip: Callable[[Diverged], None] | None = None,
    skipped: int = 0,
) -> Iterator[Report]:
    """Yield a Report after each step until `steps` have been taken (adam.steps counts them, so a
    loaded optimiser goes on from where it stood). draw(step) gives the step's micro-batches,
    rate(step) its learning rate; whoever iterates prints, evaluates, saves or stops.

    skip: told of a step that is not finite, which is then left out, weights and moments as they
    were; without it, after SKIPS in a row, or if a weight is not finite, Diverged is raised.
    skipped: how many of those there were just before."""
    while adam.steps < steps:
        start = time.perf_counter()
        step = adam.steps
        try:
            report = train_step(model, adam, draw(step), objective, rate(step), limit)
        except Diverged as error:
            skipped += 1
            if skip is None or error.lasting or skipped > SKIPS:
                raise
            skip(error)
            adam.steps += 1
            report = Report(
                adam.steps,
                math.nan,
                {},
                math.nan,
                rate(step),
                0,
                sum(len(b.tokens) for b in error.batches),
                skipped=True,
            )
        else:
            skipped = 0
        report.seconds = time.perf_counter() - start
        yield report
