"""The training loop, the same for all stages. It writes nothing to disk (runner.py does)."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from pysft.errors import Diverged
from pysft.nn.optim import AdamW, clip


@dataclass
class Report:
    """What one step did.

    step: its number, from 1. loss: the objective's value; for Sft the mean of nats per graded
    token, weighted as the batch says. figures: the objective's figures, each the mean over the
    whole step; figures whose count is 0 are left out. norm: of the gradient before clipping.
    graded, tokens: the numbers of graded rows and of all rows. skipped: True if the step was not
    finite. alarms: what has begun to go wrong (alarms.py)."""

    step: int
    loss: float
    figures: dict[str, float]
    norm: float
    lr: float
    graded: int
    tokens: int
    seconds: float = 0.0
    skipped: bool = False
    alarms: dict[str, str] = field(default_factory=dict)


def schedule(
    step: int, steps: int, lr: float, warmup: int = 0, kind: str = "constant", floor: float = 0.0
) -> float:
    """Return the learning rate of step 0, 1, ..., steps - 1.

    It rises along a line to `lr` in the first `warmup` steps. Then it stays there ("constant"), or
    falls along half a cosine ("cosine") or along a line ("linear"). Step number `steps`, which is
    not taken, would have floor * lr."""
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
    """Update the model once, from all micro-batches. Up to rounding, the update is the same however
    a batch is split into them.

    objective: as objectives.py describes. limit: clip the gradient to this norm; 0 is no limit.
    Diverged if the loss, the gradient or a figure is not finite; no weight has moved then."""
    model.grads.clear()
    totals = {}
    for batch in micro_batches:
        for term, count in objective.counts(batch).items():
            totals[term] = totals.get(term, 0) + count
    loss, sums = 0.0, {}
    for batch in micro_batches:
        out = model.forward(batch)
        part, dnll, dvalue, figures = objective(batch, out, totals)
        loss += part
        for name, (more, count) in figures.items():
            before, counted = sums.get(name, (0.0, 0))
            sums[name] = before + more, counted + count
        model.backward(dnll, dvalue)
    norm = clip(model, limit)
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise _diverged(model, adam.steps + 1, loss, norm, lr, micro_batches)
    means = {name: total / count for name, (total, count) in sums.items() if count}
    _refuse_bad_figures(means, adam.steps + 1, objective, micro_batches)
    adam.step(lr)
    graded = sum(int(batch.graded.sum()) for batch in micro_batches)
    return Report(adam.steps, loss, means, norm, lr, graded, _rows(micro_batches))


def _rows(batches) -> int:
    return sum(len(batch.tokens) for batch in batches)


def _diverged(model, step: int, loss: float, norm: float, lr: float, batches) -> Diverged:
    """Return the error of a step that is not finite. It names the first weight that is not finite,
    or else the first gradient."""
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
    """Return the name of the first tensor that is not finite, or None if all are finite."""
    return next((name for name, a in arena.items() if not np.isfinite(a).all()), None)


def _refuse_bad_figures(figures: dict, step: int, objective, batches) -> None:
    """Raise Diverged for a figure that is not finite.

    It is lasting, so that no such step is skipped: the update is fine, and the figure is wrong."""
    for name, x in figures.items():
        if not math.isfinite(x):
            raise Diverged(
                f"step {step}: the figure {name!r} of {type(objective).__name__} is {x}, although"
                " loss and gradient are finite; no weight was changed. Correct how the objective"
                " computes it",
                batches,
                lasting=True,
            )


class Outliers:
    """Finds steps whose loss or gradient norm lies far above those of the last `window` steps.

    The score of x is (x - median) / spread. The spread is 1.4826 times the median distance from the
    median, which for a normal distribution is its standard deviation. It is at least a thousandth
    of the median, and at least 1e-6, which is about the rounding of a loss. A value whose score is
    above the limit is an outlier. Norms have longer tails than losses, so their limit is higher."""

    limits = {"loss": 8.0, "norm": 20.0}

    def __init__(self, window: int = 100, least: int = 30):
        """least: values needed before anything counts as an outlier."""
        self.window, self.least = window, least
        self.seen = {name: deque(maxlen=window) for name in self.limits}

    def __call__(self, **step) -> dict[str, float]:
        """Score a step, given as loss= and norm=, against the steps before it, and then add it to
        them. Return {name: score} of the values that are outliers."""
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
    return (x - middle) / max(spread, 1e-3 * abs(middle), 1e-6)


@dataclass
class Learner:
    """What learns: a model with its optimiser, and what a step of its training is. PPO has another
    one (ppo.py), whose step is an iteration.

    draw(step): the micro-batches of step 0, 1, ... rate(step): its learning rate. limit: as in
    train_step. beside, numbers: what a checkpoint holds beside the model and its moments."""

    model: object
    adam: AdamW
    draw: Callable[[int], list]
    objective: Callable
    rate: Callable[[int], float]
    limit: float = 0.0
    beside: dict = field(default_factory=dict)
    numbers: dict = field(default_factory=dict)
    stopped: bool = False  # True ends the training before its last step

    @property
    def steps(self) -> int:
        """The number of steps taken so far."""
        return self.adam.steps

    @steps.setter
    def steps(self, number: int) -> None:
        self.adam.steps = number

    def resume(self, rows: list[dict]) -> None:
        """Take note of the log's rows of the steps taken so far. A step here depends on none."""

    def take(self, step: int) -> Report:
        """Take step number `step`, from 0."""
        batches = self.draw(step)
        return train_step(
            self.model, self.adam, batches, self.objective, self.rate(step), self.limit
        )


SKIPS = 10  # the most steps that are skipped in a row; with one more, training stops


def train(
    learner: Learner,
    steps: int,
    skip: Callable[[Diverged], None] | None = None,
    skipped: int = 0,
) -> Iterator[Report]:
    """Train until learner.steps is `steps`, and yield a Report after each step. The caller prints,
    measures, saves or stops.

    The first step is number learner.steps, which is above 0 for a loaded optimiser.

    skip(error): called for a step that is not finite. The step is then skipped: weights and moments
    stay as they were, in an iteration of PPO as its last finite update left them. Diverged is
    raised if there is no `skip`, if SKIPS steps in a row have been skipped before, or if a weight
    is not finite. skipped: the number of steps that an interrupted run skipped just before the
    first one here."""
    while learner.steps < steps and not learner.stopped:
        start = time.perf_counter()
        step = learner.steps
        try:
            report = learner.take(step)
        except Diverged as error:
            skipped += 1
            if skip is None or error.lasting or skipped > SKIPS:
                raise
            skip(error)
            learner.steps = step + 1
            tokens, nan = _rows(error.batches), math.nan
            rate = learner.rate(step)
            report = Report(step + 1, nan, {}, nan, rate, 0, tokens, skipped=True)
        else:
            skipped = 0
        report.seconds = time.perf_counter() - start
        yield report
