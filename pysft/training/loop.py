"""The only training loop."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from pysft import IGNORE
from pysft.errors import Diverged
from pysft.nn.optim import AdamW, clip


@dataclass
class Report:
    """One step: loss in nats per graded token (by source: `losses`), the gradient's norm before
    clipping, the learning rate, graded and all tokens, seconds."""
    step: int
    loss: float
    losses: dict[str, float]
    norm: float
    lr: float
    graded: int
    tokens: int
    seconds: float = 0.0


def schedule(step: int, steps: int, lr: float, warmup: int = 0, kind: str = "constant",
             floor: float = 0.0) -> float:
    """The learning rate of step 0, 1, ...: a linear warm-up, then `lr` for ever ("constant"), or
    falling along a half cosine ("cosine") or a line ("linear") to floor * lr, which the step after the
    last would have."""
    if step < warmup:
        return lr * (step + 1) / warmup
    if kind == "constant":
        return lr
    done = (step - warmup) / max(1, steps - warmup)
    shape = (1 + math.cos(math.pi * done)) / 2 if kind == "cosine" else 1 - done
    return lr * (floor + (1 - floor) * shape)


def train_step(model, adam: AdamW, micro_batches, objective, lr: float, limit: float = 0.0) -> Report:
    """One update from the sum over all micro-batches; the same however they are split.

    A loss or gradient that is not finite raises Diverged, and no weight has moved."""
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
        what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm}"
        raise Diverged(f"step {adam.steps + 1}: {what}; no weight was changed. A lower learning rate "
                       f"(now {lr:g}) or a longer warm-up is the usual cure")
    adam.step(lr)
    return Report(adam.steps, loss, {s: t / n for s, (t, n) in sums.items()}, norm, lr,
                  sum(n for _, n in sums.values()), sum(len(b.tokens) for b in micro_batches))


def _by_source(sums, batch, nll):
    """Add to sums[source] = (total nll, graded tokens)."""
    first = batch.cu_seqlens[:-1]
    totals = np.add.reduceat(nll, first, dtype=np.float64)
    counts = np.add.reduceat(batch.labels != IGNORE, first, dtype=np.int64)
    for name in sorted(set(batch.source.tolist())):
        here = batch.source == name
        total, count = sums.get(name, (0.0, 0))
        sums[name] = total + float(totals[here].sum()), count + int(counts[here].sum())


def train(model, adam: AdamW, draw: Callable[[int], list], objective, rate: Callable[[int], float],
          steps: int, limit: float = 0.0) -> Iterator[Report]:
    """Yield a Report after each step until `steps` have been taken (adam.steps counts them, so a
    loaded optimiser goes on from where it stood). draw(step) gives the step's micro-batches,
    rate(step) its learning rate; whoever iterates prints, evaluates, saves or stops."""
    while adam.steps < steps:
        start = time.perf_counter()
        step = adam.steps
        report = train_step(model, adam, draw(step), objective, rate(step), limit)
        report.seconds = time.perf_counter() - start
        yield report
