"""Run one stage of training on disk: its log, its checkpoints, and the signals that stop it.

`train_stage` is the only driver that writes to disk. It is a generator that yields where the model
is to be measured; the caller measures. `steps_of` writes nothing. It serves where only the trained
model is needed: a base trained further for comparison, a trial of the lab."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pysft.batch import CONVERSATION
from pysft.console import Screen, clock
from pysft.disk import make_folder
from pysft.errors import Diverged, Interrupted
from pysft.nn.optim import AdamW
from pysft.run.begun import resume_command
from pysft.run.checkpoints import load_checkpoint, save_checkpoint
from pysft.run.log import append_log, cut_measurements, read_log
from pysft.run.stage import Stage, write_json
from pysft.text.tokenizer import Tokenizer
from pysft.training.kinds import Training
from pysft.training.loop import Learner, Outliers, Report, train
from pysft.training.stages import Plan

FIRST_SECONDS = 10  # a process's time to its first checkpoint of a stage, or less
TICK = 1e-6  # seconds; a clock may not move during a short step
LAST_STEPS = 20  # the loss that is shown and reported is the mean of this many steps


def steps_of(model, plan: Plan, settings: Training, objective=None) -> Iterator[Report]:
    """Train `model` in place along a plan, and yield a Report after each step. Nothing is written.

    settings: those of the stage. objective: None is the plan's."""
    model.reserve(plan.rows)
    yield from train(learner_of(model, plan, settings, objective), plan.steps)


def learner_of(model, plan: Plan, settings: Training, objective=None) -> Learner:
    """Return what learns along a plan. The arguments are those of steps_of()."""
    objective = plan.objective if objective is None else objective
    adam = AdamW(model, **settings.adam())
    return Learner(model, adam, plan.draw, objective, plan.rate, settings.clip)


def pause(saves: int, save_every: float) -> float:
    """Return the seconds from one checkpoint to the next, after `saves` checkpoints of this
    stage by this process. The first comes sooner, so that a process that does not live long gets on
    too."""
    return save_every if saves else min(save_every, FIRST_SECONDS)


class Signals:
    """Inside `with`, the first SIGINT, SIGTERM or SIGHUP only sets `caught`, so a step always
    finishes. The same signal again takes effect at once.

    If the block ends without an exception, a caught signal is raised again, because nobody has
    acted on it. Signals are caught in the main thread only. An ignored signal stays ignored."""

    def __enter__(self):
        self.caught, self._old = None, {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) == signal.SIG_IGN:
                    continue  # as under nohup, or in a background job of a script
                self._old[number] = signal.signal(number, self._note)
        return self

    def _note(self, number, frame):
        self.caught = number
        signal.signal(number, self._old[number])

    def __exit__(self, kind, *error):
        for number, handler in self._old.items():
            signal.signal(number, handler)
        if self.caught is not None and kind is None:
            signal.raise_signal(self.caught)


class Journal:
    """The log of a running stage: a line for each step, with outliers marked. It also keeps means
    of the loss, of conversations alone in steps that have any."""

    def __init__(self, folder: Path, measured: int):
        """Go on with the log in `folder`. measured: the last step after which the stage was
        measured, 0 for none."""
        self.folder, self.lines, self.recent, self.outliers = folder, [], [], Outliers()
        rows = read_log(folder, skipped=True)
        trained = [i for i, row in enumerate(reversed(rows)) if not row.get("skipped")]
        self.skipped = trained[0] if trained else len(rows)  # skipped in a row at the log's end
        rows = [row for row in rows if not row.get("skipped")]
        self.since = [_loss(row) for row in rows if row["step"] > measured]
        for row in rows[-self.outliers.window :]:
            self.outliers(loss=row["loss"], norm=row["norm"])

    def add(self, r: Report) -> str:
        """Add a step. Return a description of its outliers (loss, gradient norm), "" if it has
        none."""
        if r.skipped:
            self.lines.append({"step": r.step, "skipped": True})
            return ""
        line = {
            "step": r.step,
            "loss": r.loss,
            "figures": r.figures,
            "norm": r.norm,
            "lr": r.lr,
            "graded_tokens": r.graded,
            "tokens": r.tokens,
            "seconds": round(r.seconds, 6),
            "tokens_per_s": round(r.tokens / max(r.seconds, TICK)),
        }
        if r.alarms:
            line["alarms"] = r.alarms
        self.lines.append(line)
        self.recent = [*self.recent, _loss(line)][-LAST_STEPS:]
        self.since.append(self.recent[-1])
        if odd := self.outliers(loss=r.loss, norm=r.norm):
            line["outliers"] = {name: round(score, 1) for name, score in odd.items()}
        return " and ".join(
            f"a {name} of {line[name]:.3g}, {score:.0f} spreads above the last hundred"
            for name, score in odd.items()
        )

    def loss(self) -> float:
        """Return the mean loss of the last LAST_STEPS steps; nan before the first."""
        return float(np.mean(self.recent or [np.nan]))

    def loss_since_measured(self) -> float | None:
        """Return the mean loss of the steps since the last call; None if there was none."""
        mean, self.since = float(np.mean(self.since)) if self.since else None, []
        return mean

    def flush(self) -> None:
        """Append the new lines to the log."""
        if self.lines:
            append_log(self.folder, self.lines)
            self.lines.clear()


def _loss(row: dict) -> float:
    """Return the loss of a log line: that of its conversations if the step had any."""
    return row["figures"].get(CONVERSATION, row["loss"])


class _Running:
    """What train_stage() does beside its loop: checkpoints, interruptions, steps that are not
    finite."""

    def __init__(self, stage: Stage, learner: Learner, journal: Journal, screen: Screen):
        self.stage, self.learner = stage, learner
        self.journal, self.screen = journal, screen
        self.folder, self.saved, self.saves = stage.folder, time.monotonic(), 0

    def checkpoint(self) -> Path:
        self.journal.flush()  # first, because every step before a checkpoint must be in the log
        learner = self.learner
        parts = learner.model, learner.adam, learner.steps, learner.beside, learner.numbers
        path = save_checkpoint(self.folder, *parts)
        self.saved, self.saves = time.monotonic(), self.saves + 1
        return path

    def interrupt(self, number: int | None, what: str = "interrupted") -> None:
        """Write a checkpoint and raise Interrupted."""
        path = self.checkpoint()
        raise Interrupted(
            f"{what} after step {self.learner.steps}. The checkpoint is {path}. "
            f"Go on with: {resume_command(self.folder.parent)}",
            number,
        )

    def skip(self, error: Diverged) -> None:
        self.screen.say(f"{self.stage.name}: skipped {error} (its batch: {self.keep_batch(error)})")

    def keep_batch(self, error: Diverged) -> str:
        return keep_batch(self.folder, self.learner.steps + 1, error, self.stage.tokenizer)

    def diverged(self, error: Diverged) -> Diverged:
        """Return the error to raise. It names the file that the batch was written to."""
        with suppress(OSError):  # a full disk must not hide the divergence
            self.journal.flush()
        self.journal.lines.clear()
        if not error.batches:  # the error is not of a step, but of writing a checkpoint
            return error
        return Diverged(f"{error} (its batch: {self.keep_batch(error)})")


class Moment(NamedTuple):
    """A moment of a training at which the model is to be measured. step: the steps taken so far.
    loss: the mean loss since the last moment; None before the first step."""

    step: int
    loss: float | None


def train_stage(
    stage: Stage,
    plan: Plan,
    settings: Training,
    screen: Screen,
    resume: bool,
    model=None,
    at=(),
    learner: Learner | None = None,
) -> Iterator[Moment]:
    """Train a stage along its plan in stage.folder, and log each step. Yield a Moment after each
    step in `at` and, unless `at` is empty, one before the first step. Training goes on when the
    next one is asked for, so the caller must exhaust the generator.

    settings: those of the stage. resume: go on from the last checkpoint, if there is one. model:
    the LoRA around stage.model, if that is trained; None is stage.model itself. learner: what
    learns, if it is more than that model along the plan. A training that it stops early has a
    Moment after its last step too.

    If a signal comes, or if the output can no longer be written, a checkpoint is written and
    Interrupted is raised. A step that is not finite is skipped or raises Diverged, as
    settings.on_nan says."""
    folder, model = stage.folder, stage.model if model is None else model
    make_folder(folder)
    learner = learner or learner_of(model, plan, settings)
    _go_back_to_checkpoint(stage, learner, screen, resume)
    model.reserve(plan.rows)
    journal = Journal(folder, max((s for s in at if s <= learner.steps), default=0))
    if learner.steps == 0 and len(at):
        yield Moment(0, None)
    running = _Running(stage, learner, journal, screen)
    skip = running.skip if settings.on_nan == "skip" else None
    seconds, tokens, first = 0.0, 0, learner.steps
    with Signals() as signals:
        try:
            for r in train(learner, plan.steps, skip, journal.skipped):
                seconds, tokens = seconds + r.seconds, tokens + r.tokens
                outlier = journal.add(r)
                if r.step in at or learner.stopped and len(at):
                    yield Moment(r.step, journal.loss_since_measured())
                # Only after measuring, because printing raises if the reader has gone.
                for odd in filter(None, (outlier, *r.alarms.values())):
                    screen.say(f"{stage.name}: step {r.step:,}: {odd}")
                left = (plan.steps - r.step) * seconds / (r.step - first)
                screen.progress(
                    f"{stage.name}  step {r.step:,} of {plan.steps:,}  loss {journal.loss():.3f}  "
                    f"{clock(left)} left  {tokens / max(seconds, TICK):,.0f} tokens/s",
                    r.step == plan.steps,
                )
                if signals.caught is not None:
                    running.interrupt(signals.caught)
                if time.monotonic() - running.saved > pause(running.saves, settings.save_every):
                    running.checkpoint()
            journal.flush()
            if signals.caught is not None:  # a signal after the last check in the loop
                running.interrupt(signals.caught)
        except Diverged as error:
            raise running.diverged(error) from None
        except BrokenPipeError as error:
            why = f"stopped, because its output can no longer be written ({error.strerror}),"
            running.interrupt(signals.caught, why)
        finally:
            with suppress(BrokenPipeError):
                screen.end_line()  # what follows, such as an error, begins a line of its own
            journal.flush()


def _go_back_to_checkpoint(stage: Stage, learner: Learner, screen: Screen, resume: bool) -> None:
    """If `resume`, load the stage's last checkpoint. Cut the log and the measurements to match, or
    start both anew."""
    folder, parts = stage.folder, (learner.beside, learner.numbers)
    step = None
    if resume:
        step = load_checkpoint(folder, learner.model, learner.adam, screen.say, *parts)
    if step is not None:
        learner.steps = step
        learner.resume(read_log(folder))
        screen.say(f"{stage.name}: going on after step {step:,}")
    else:
        (folder / "log.jsonl").unlink(missing_ok=True)
    if not cut_measurements(folder, step if step else -1) and step:
        screen.say(
            f"{folder / 'measurements.jsonl'}: a damaged line is left out; `select` and the report"
            " do without it"
        )


def keep_batch(folder: Path, step: int, error: Diverged, tokenizer: Tokenizer) -> str:
    """Write the batch of a step that was not finite to a file in `folder`. Return its path, or a
    text that says why it could not be written."""
    path = folder / f"not-finite-{step}.json"
    sequences = [
        {
            "source": str(batch.source[s]),
            "text": tokenizer.decode(batch.tokens[a:b]),
            "tokens": batch.tokens[a:b].tolist(),
            "labels": batch.labels[a:b].tolist(),
        }
        for batch in error.batches
        for s, (a, b) in enumerate(zip(batch.cu_seqlens, batch.cu_seqlens[1:]))
    ]
    try:
        write_json(path, {"step": step, "error": str(error), "sequences": sequences})
    except OSError as failure:  # a full disk must not hide the divergence
        return f"could not be kept, {failure.strerror}"
    return str(path)


def stage_figures(folder: Path) -> dict:
    """Return a stage's figures from its log, without skipped steps: loss_start (of the first step),
    loss (mean of the last LAST_STEPS steps), tokens and seconds of all steps. Losses are those of
    conversations where there are any, and None for an empty log."""
    rows = read_log(folder)
    losses = [_loss(row) for row in rows]
    return {
        "loss_start": losses[0] if losses else None,
        "loss": float(np.mean(losses[-LAST_STEPS:])) if losses else None,
        "tokens": sum(row["tokens"] for row in rows),
        "seconds": sum(row["seconds"] for row in rows),
    }
