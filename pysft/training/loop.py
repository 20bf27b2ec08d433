"""The training loop: the only one. It writes nothing to disk (runner.py does)."""

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
    """One step. loss: nats per graded token; losses: the same by source ("base", "conversation").
    norm: of the gradient before clipping. graded, tokens: how many rows. skipped: the step was not
    finite, and no weight moved."""

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
    """The learning rate of step 0, 1, ...: after a linear warm-up, `lr` ("constant"), or a fall
    along half a cosine ("cosine") or a line ("linear") to floor * lr. The step after the last would
    have floor * lr."""
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
    """One update from all micro-batches; the same update however they are split.

    limit: clip the gradient to this norm; 0 is no limit. Diverged if the loss or the gradient is
    not finite; no weight has moved then."""
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
        raise _diverged(model, adam.steps + 1, loss, norm, lr, micro_batches)
    adam.step(lr)
    losses = {source: nats / count for source, (nats, count) in sums.items()}
    graded = sum(count for _, count in sums.values())
    return Report(adam.steps, loss, losses, norm, lr, graded, _rows(micro_batches))


def _rows(batches) -> int:
    return sum(len(batch.tokens) for batch in batches)


def _diverged(model, step: int, loss: float, norm: float, lr: float, batches) -> Diverged:
    """The error of a step that is not finite: it names the first tensor at fault."""
    what = f"the gradient's norm is {norm}" if math.isfinite(loss) else f"the loss is {loss}"
    weight, gradient = _not_finite(model.params), _not_finite(model.grads)
    if weight:
        what += f", weight {weight!r} is not finite"
    elif gradient:
        what += f", first in the gradient of {gradient!r}"
    return Diverged(
        f"step {step}: {what}; no weight was changed. A lower learning rate (now {lr:g}) or a"
        " longer warm-up usually helps",
        batches,
        lasting=weight is not None,
    )


def _not_finite(arena) -> str | None:
    """The name of the first tensor that is not finite; None if all are."""
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
    """Find steps whose loss or gradient norm lies far above those of the last `window` steps.

    The score of x is (x - median) / spread. spread is 1.4826 times the median distance from the
    median (the standard deviation of a normal distribution), at least a thousandth of the median. A
    score above its limit is an outlier. Norms have longer tails than losses, and a higher limit."""

    limits = {"loss": 8.0, "norm": 20.0}

    def __init__(self, window: int = 100, least: int = 30):
        """least: values needed before anything counts as an outlier."""
        self.window, self.least = window, least
        self.seen = {name: deque(maxlen=window) for name in self.limits}

    def __call__(self, **step) -> dict[str, float]:
        """Score a step (loss=, norm=) against those before it, and add it to them: {name: score} of
        its outliers."""
        found = {}
        for name, values in self.seen.items():
            score = _score(step[name], values) if len(values) >= self.least else 0.0
            if score > self.limits[name]:
                found[name] = score
            values.append(step[name])
        return found


def _score(x: float, values) -> float:
    middle = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(np.array(values) - middle)))
    return (x - middle) / max(spread, 1e-3 * abs(middle), 1e-30)


SKIPS = 10  # skipped steps in a row; more of them are no accident


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
    """Yield a Report after each step until adam.steps is `steps`. The caller prints, measures,
    saves or stops.

    draw(step): the step's micro-batches. rate(step): its learning rate. A loaded optimiser goes on
    after its own step. skip(error): called for a step that is not finite, which is then skipped:
    weights and moments stay as they were. Diverged is raised without `skip`, after SKIPS skipped
    steps in a row, or if a weight is not finite. skipped: steps skipped just before the first."""
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
            tokens, nan = _rows(error.batches), math.nan
            report = Report(adam.steps, nan, {}, nan, rate(step), 0, tokens, skipped=True)
        else:
            skipped = 0
        report.seconds = time.perf_counter() - start
        yield report
