"""Training a stage on disk: interrupted and resumed it ends with the same bits, what diverges is
named, and its log and messages."""

import io
import itertools
import json
import os
import signal
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from command_line import disk_full, raising, read_lines, stage_log

from pysft import console
from pysft.errors import Diverged, Interrupted, MissingInput
from pysft.nn.model import GPT
from pysft.nn.shapes import GPTConfig
from pysft.run.log import append_log
from pysft.run.stage import Stage, load_stage
from pysft.text.templates import CHAT
from pysft.text.tokenizer import SHAKESPEARE, CharTokenizer
from pysft.training import loop, runner
from pysft.training.kinds import Pretraining
from pysft.training.loop import Outliers
from pysft.training.settings import Model, Settings
from pysft.training.stages import pretrain

CONFIG = GPTConfig(65, context=16, layers=1, heads=2, channels=16)
CORPUS = np.random.default_rng(0).integers(0, 65, 500).astype(np.int32)
SETTINGS = Pretraining(steps=9, windows=((8, 4),), warmup=2)
SKIPPING = replace(SETTINGS, on_nan="skip")
PLAN = pretrain(Settings(model=Model.of(CONFIG), stages={"base": SETTINGS}), "base", CORPUS, 65)
ALL_STEPS = list(range(1, 10))
SILENT = console.Screen(json=True)
SILENT.stream = None


def new_stage(folder):
    """The stage FOLDER/base before its training."""
    model = GPT(CONFIG, rng=np.random.default_rng(1))
    return Stage(folder / "base", model, CharTokenizer(SHAKESPEARE), CHAT, {})


def train(stage, plan=PLAN, settings=SETTINGS, screen=SILENT, resume=False, **options):
    """Train a stage to its end. Return the moments at which it is to be measured."""
    return list(runner.train_stage(stage, plan, settings, screen, resume, **options))


def plan_with(at, action):
    """The plan; action() is called when the batches of step `at` (from 0) are drawn."""

    def draw(step):
        if step == at:
            action()
        return PLAN.draw(step)

    return replace(PLAN, draw=draw)


def plan_noting(drawn):
    """The plan; the steps that are drawn are added to a list."""

    def draw(step):
        drawn.append(step)
        return PLAN.draw(step)

    return replace(PLAN, draw=draw)


def send_signal(number=signal.SIGINT, times=1):
    for _ in range(times):
        os.kill(os.getpid(), number)


def interrupt(stage, at, number=signal.SIGINT, settings=SETTINGS) -> Interrupted:
    """Train a stage until a signal comes in step `at` (from 0); the error."""
    with pytest.raises(Interrupted) as error:
        train(stage, plan_with(at, lambda: send_signal(number)), settings)
    return error.value


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The weights and the log of a training that nothing stopped."""
    stage = new_stage(tmp_path_factory.mktemp("uninterrupted"))
    train(stage)
    return SimpleNamespace(weights=stage.model.params.flat.copy(), log=stage_log(stage.folder))


def steps_in_log(stage) -> list[int]:
    return [row["step"] for row in stage_log(stage.folder)]


# --------------------------------------------------------------------------- interrupt and resume


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [0, 4, 8])
def test_a_signal_ends_the_training_after_its_step_with_a_checkpoint(tmp_path, at, number):
    stage = new_stage(tmp_path)
    error = interrupt(stage, at, number)
    assert error.exit_code == 128 + number
    assert f"after step {at + 1}." in str(error)
    assert "--resume" in str(error)
    assert "\n" not in str(error)
    assert (stage.folder / "checkpoints" / str(at + 1) / "state.safetensors").is_file()


class OpenLine(console.Screen):
    """A screen that keeps what it has written, and shows each progress line at once."""

    def __init__(self):
        super().__init__(json=False)
        self.stream, self.live = io.StringIO(), True

    def progress(self, text, last=False):
        self._last = -1e9
        super().progress(text, last)


@pytest.mark.parametrize(
    "error", [Diverged("the loss is nan"), OSError(28, "No space left on device"), KeyError("bug")]
)
def test_an_error_begins_a_line_of_its_own_behind_a_progress_line(tmp_path, error):
    screen = OpenLine()
    with pytest.raises(type(error)):
        train(new_stage(tmp_path), plan_with(4, raising(error)), screen=screen)
    written = screen.stream.getvalue()
    assert "step 4 of" in written and written.endswith("tokens/s\n")


def test_the_signal_handlers_are_restored_after_a_training(tmp_path):
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    interrupt(new_stage(tmp_path), 4)
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.mark.parametrize("at", [0, 4, 8])
def test_a_resumed_training_ends_with_the_same_weights_and_log(tmp_path, uninterrupted, at):
    interrupt(new_stage(tmp_path), at)
    stage, drawn = new_stage(tmp_path), []
    train(stage, plan_noting(drawn), resume=True)
    assert drawn == list(range(at + 1, 9))  # no step is taken twice
    assert np.array_equal(stage.model.params.flat, uninterrupted.weights)
    assert stage_log(stage.folder) == uninterrupted.log
    assert steps_in_log(stage) == ALL_STEPS


def test_a_crash_loses_the_steps_since_the_last_checkpoint_alone(
    tmp_path, uninterrupted, monkeypatch
):
    monkeypatch.setattr(runner, "pause", lambda saves, save_every: 0)
    with pytest.raises(RuntimeError):
        train(new_stage(tmp_path), plan_with(6, raising(RuntimeError("power cut"))))
    assert sorted(os.listdir(tmp_path / "base" / "checkpoints")) == ["5", "6"]
    stage, drawn = new_stage(tmp_path), []
    train(stage, plan_noting(drawn), resume=True)
    assert drawn == [6, 7, 8]
    assert stage_log(stage.folder) == uninterrupted.log
    assert np.array_equal(stage.model.params.flat, uninterrupted.weights)


def test_the_first_checkpoint_comes_soon_and_then_one_each_interval(tmp_path, monkeypatch):
    """A clock that moves by three seconds a step, read once for each step and checkpoint."""
    assert [runner.pause(n, 60.0) for n in (0, 1, 2)] == [10, 60, 60]
    assert [runner.pause(n, 2.0) for n in (0, 1, 2)] == [2, 2, 2]
    now, saved = [0.0], []

    def draw(step):
        now[0] += 3.0
        return PLAN.draw(step)

    clock = SimpleNamespace(monotonic=lambda: now[0], perf_counter=runner.time.perf_counter)
    monkeypatch.setattr(runner, "time", clock)
    monkeypatch.setattr(runner, "FIRST_SECONDS", 4)
    monkeypatch.setattr(
        runner, "save_checkpoint", lambda folder, model, adam, *more: saved.append(adam.steps)
    )
    train(new_stage(tmp_path), replace(PLAN, draw=draw), replace(SETTINGS, save_every=8.0))
    assert saved == [2, 5, 8]


def test_log_lines_after_the_checkpoint_are_written_again_on_resume(tmp_path, uninterrupted):
    interrupt(new_stage(tmp_path), 3)
    # As after a power cut: two lines more than the checkpoint knows of, and half a third.
    line = {"loss": 1.0, "figures": {"base": 1.0}, "norm": 1.0, "tokens": 48, "seconds": 0.1}
    append_log(tmp_path / "base", [{"step": 5, **line}, {"step": 6, **line}])
    with open(tmp_path / "base" / "log.jsonl", "a") as f:
        f.write('{"step": 7')
    stage = new_stage(tmp_path)
    train(stage, resume=True)
    assert stage_log(stage.folder) == uninterrupted.log
    assert np.array_equal(stage.model.params.flat, uninterrupted.weights)


def test_without_resume_a_stage_begins_from_its_first_step(tmp_path, uninterrupted):
    interrupt(new_stage(tmp_path), 3)
    stage, drawn = new_stage(tmp_path), []
    train(stage, plan_noting(drawn))
    assert drawn == list(range(9))
    assert stage_log(stage.folder) == uninterrupted.log
    assert np.array_equal(stage.model.params.flat, uninterrupted.weights)


def test_a_second_interrupt_takes_effect_at_once(tmp_path):
    stage = new_stage(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(stage, plan_with(3, lambda: send_signal(times=2)))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert steps_in_log(stage) == [1, 2, 3]


def test_a_signal_while_the_end_of_the_log_is_written_leaves_a_checkpoint(tmp_path, monkeypatch):
    flush = runner.Journal.flush

    def signalled(self):
        if self.lines and self.lines[-1]["step"] == 9:
            send_signal(signal.SIGTERM)
        flush(self)

    monkeypatch.setattr(runner.Journal, "flush", signalled)
    with pytest.raises(Interrupted, match="after step 9") as error:
        train(new_stage(tmp_path))
    assert error.value.exit_code == 143
    assert (tmp_path / "base/checkpoints/9/state.safetensors").is_file()


def test_a_signal_that_nobody_acted_on_is_raised_again():
    with pytest.raises(KeyboardInterrupt):
        with runner.Signals():
            send_signal()


def test_a_signal_that_nobody_acted_on_hides_no_error():
    with pytest.raises(RuntimeError):
        with runner.Signals():
            send_signal()
            raise RuntimeError


def test_a_background_job_goes_on_ignoring_interrupts():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with runner.Signals() as signals:
            send_signal()
            assert signals.caught is None
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


# ------------------------------------------------------------------------ steps that are not finite


def overflowing(stage, steps):
    """A stage whose gradients are not finite in these of the steps to come, counted from 1."""
    backward, count = stage.model.backward, itertools.count(1)

    def overflow(*arguments):
        backward(*arguments)
        if next(count) in steps:
            stage.model.grads["h0.fc.w"][0, 0] = np.nan

    stage.model.backward = overflow
    return stage


def test_a_divergence_names_its_step_and_keeps_the_log(tmp_path):
    stage = new_stage(tmp_path)
    plan = plan_with(4, lambda: stage.model.params["wte"].fill(np.inf))
    with pytest.raises(Diverged, match="step 5") as error:
        train(stage, plan)
    assert error.value.exit_code == 3
    assert "\n" not in str(error.value)
    assert steps_in_log(stage) == [1, 2, 3, 4]
    with pytest.raises(MissingInput):
        load_stage(tmp_path)


def test_the_batch_of_a_step_that_is_not_finite_is_kept_in_a_file(tmp_path):
    stage = overflowing(new_stage(tmp_path), {3})
    expected = r"step 3: .*gradient of 'h0.fc.w'.*not-finite-3.json\)"
    with pytest.raises(Diverged, match=expected) as error:
        train(stage)
    assert "\n" not in str(error.value)
    assert steps_in_log(stage) == [1, 2]
    kept = json.loads((stage.folder / "not-finite-3.json").read_text())
    assert kept["step"] == 3
    [batch] = PLAN.draw(2)
    assert sum((s["tokens"] for s in kept["sequences"]), []) == batch.tokens.tolist()
    for sequence in kept["sequences"]:
        assert sequence["text"] == stage.tokenizer.decode(sequence["tokens"])
        assert sequence["source"] == "base"


@pytest.fixture(params=["this file", "any file"])
def full_disk(request, monkeypatch):
    """The disk takes not this file, the kept batch, or no file at all."""
    write_json = runner.write_json

    def refuse_batch(path, data):
        if path.name.startswith("not-finite"):
            raise disk_full()
        write_json(path, data)

    def refuse_files(number):
        if not os.path.isdir(f"/proc/self/fd/{number}"):
            raise disk_full()

    if request.param == "this file":
        monkeypatch.setattr(runner, "write_json", refuse_batch)
    else:
        monkeypatch.setattr(os, "fsync", refuse_files)


def test_a_full_disk_does_not_hide_what_diverged(tmp_path, full_disk):
    stage = overflowing(new_stage(tmp_path), {3})
    expected = r"step 3: .*gradient of 'h0.fc.w'.*could not be kept, No space left on device\)"
    with pytest.raises(Diverged, match=expected):
        train(stage)


def test_skipped_steps_are_reported_and_training_ends_at_the_same_step(tmp_path, capsys):
    stage = overflowing(new_stage(tmp_path), {3, 6})
    train(stage, settings=SKIPPING, screen=console.Screen(False))
    assert steps_in_log(stage) == ALL_STEPS
    skipped = [row for row in stage_log(stage.folder) if "loss" not in row]
    assert skipped == [{"step": 3, "skipped": True}, {"step": 6, "skipped": True}]
    assert np.isfinite(stage.model.params.flat).all()
    assert capsys.readouterr().out.count("base: skipped step") == 2
    batches = {path.name for path in stage.folder.glob("not-finite-*")}
    assert batches == {"not-finite-3.json", "not-finite-6.json"}


@pytest.mark.parametrize("stop", [None, 2, 4, 7])
def test_skipped_steps_in_a_row_are_counted_across_an_interruption(tmp_path, monkeypatch, stop):
    """Two in a row are allowed here, and the third ends the training, interrupted or not."""
    monkeypatch.setattr(loop, "SKIPS", 2)
    bad = {2, 3, 5, 7, 8, 9}
    if stop is not None:
        interrupt(overflowing(new_stage(tmp_path), bad), stop, settings=SKIPPING)
        bad = {step - stop - 1 for step in bad}
    stage = overflowing(new_stage(tmp_path), bad)
    with pytest.raises(Diverged, match="step 9"):
        train(stage, settings=SKIPPING, resume=stop is not None)
    taken = [row["step"] for row in stage_log(stage.folder) if "loss" in row]
    assert taken == [1, 4, 6]


def test_a_skipped_step_is_measured_like_any_other(tmp_path):
    stage = overflowing(new_stage(tmp_path), {5, 9})
    measured = train(stage, settings=SKIPPING, at=[5, 6, 9])
    losses = {row["step"]: row["loss"] for row in stage_log(stage.folder) if "loss" in row}
    mean = {5: np.mean([losses[n] for n in (1, 2, 3, 4)]), 6: losses[6]}
    mean[9] = np.mean([losses[7], losses[8]])
    assert measured[0] == (0, None)
    assert [step for step, _ in measured[1:]] == [5, 6, 9]
    for step, loss in measured[1:]:
        assert loss == pytest.approx(mean[step]), step


def test_a_skipped_step_is_interrupted_like_any_other(tmp_path):
    error = interrupt(overflowing(new_stage(tmp_path), {4}), 3, settings=SKIPPING)
    assert "after step 4" in str(error)


# ----------------------------------------------------------------------------------------- its log


def test_a_log_line_has_step_loss_figures_norm_rate_and_speed(tmp_path):
    stage = new_stage(tmp_path)
    train(stage)
    rows = read_lines(stage.folder / "log.jsonl")
    for row in rows:
        assert row.keys() >= set("step loss figures norm lr graded_tokens tokens_per_s".split())
        assert row["figures"] == {"base": pytest.approx(row["loss"], rel=1e-6)}
        assert row["graded_tokens"] == 32
    assert rows[0]["lr"] == pytest.approx(SETTINGS.lr / 2)  # the first of two warm-up steps


@pytest.fixture
def seconds_alone(monkeypatch):
    """Each step takes a second."""
    seconds = itertools.count()
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: float(next(seconds))))


def test_a_step_too_short_for_the_clock_has_a_speed_too(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: 1.0))
    stage = new_stage(tmp_path)
    train(stage)
    rows = read_lines(stage.folder / "log.jsonl")
    assert {(row["seconds"], row["tokens_per_s"]) for row in rows} == {(0.0, 32_000_000)}


def test_the_time_of_a_step_is_logged_to_a_microsecond_with_its_tokens(tmp_path, monkeypatch):
    ends = itertools.count()
    ticks = SimpleNamespace(perf_counter=lambda: 0.123456789 * next(ends))
    monkeypatch.setattr(loop, "time", ticks)
    stage = new_stage(tmp_path)
    train(stage)
    found = {
        (r["tokens"], r["seconds"], r["tokens_per_s"])
        for r in read_lines(stage.folder / "log.jsonl")
    }
    assert found == {(32, 0.123457, 259)}  # 32 / 0.1234568
    figures = runner.stage_figures(stage.folder)
    losses = [row["loss"] for row in stage_log(stage.folder)]
    assert figures["tokens"] == 9 * 32 and figures["seconds"] == pytest.approx(9 * 0.123457)
    assert figures["loss_start"] == losses[0] and figures["loss"] == pytest.approx(np.mean(losses))


def test_of_a_long_log_the_loss_is_the_mean_of_the_last_twenty_steps_and_without_one_is_none(
    tmp_path,
):
    losses = [float(i * i) for i in range(50)]
    rows = [
        {"step": i, "loss": x, "figures": {}, "norm": 1.0, "tokens": 1, "seconds": 0.5}
        for i, x in enumerate(losses, 1)
    ]
    rows[-1]["figures"] = {"base": 9.0, "conversation": 7.0}  # where there is one, it counts
    append_log(tmp_path, rows)
    found = runner.stage_figures(tmp_path)
    assert found["loss"] == pytest.approx(np.mean([*losses[30:49], 7.0]))
    assert (found["loss_start"], found["tokens"], found["seconds"]) == (0.0, 50, 25.0)
    nothing = {"loss_start": None, "loss": None, "tokens": 0, "seconds": 0}
    (tmp_path / "log.jsonl").write_text("")
    assert runner.stage_figures(tmp_path) == nothing


@pytest.mark.parametrize("begun", [0, 4])
def test_progress_has_step_loss_time_left_and_speed_also_after_resuming(
    tmp_path, seconds_alone, begun
):
    stage, shown = new_stage(tmp_path), []
    if begun:
        interrupt(stage, begun - 1)
        stage = new_stage(tmp_path)
    screen = console.Screen(json=True)
    screen.stream = None
    screen.progress = lambda text, last: shown.append((text, last))
    train(stage, screen=screen, resume=bool(begun))
    losses = [row["loss"] for row in stage_log(stage.folder)]
    assert shown == [
        (
            f"base  step {n} of 9  loss {np.mean(losses[begun:n]):.3f}  0:0{9 - n} left"
            "  32 tokens/s",
            n == 9,
        )
        for n in range(begun + 1, 10)
    ]


@pytest.fixture
def sensitive_to_outliers(monkeypatch):
    """Whatever is above the median of the last four steps is an outlier."""
    monkeypatch.setattr(runner, "Outliers", lambda: Outliers(window=4, least=2))
    monkeypatch.setattr(Outliers, "limits", {"loss": 0.0, "norm": 0.0})


def test_an_outlier_is_reported_and_logged(tmp_path, sensitive_to_outliers, capsys):
    stage = new_stage(tmp_path)
    train(stage, screen=console.Screen(False))
    scores = [x for row in stage_log(stage.folder) for x in row.get("outliers", {}).values()]
    assert scores and scores == [round(x, 1) for x in scores] != [round(x) for x in scores]
    assert "spreads above the last hundred" in capsys.readouterr().out


@pytest.mark.parametrize("at", [2, 6])
def test_outliers_are_the_same_after_resuming(tmp_path, sensitive_to_outliers, at):
    uninterrupted = new_stage(tmp_path / "uninterrupted")
    train(uninterrupted)
    interrupt(new_stage(tmp_path), at)
    stage = new_stage(tmp_path)
    train(stage, resume=True)
    assert stage_log(stage.folder) == stage_log(uninterrupted.folder)
