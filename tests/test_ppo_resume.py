"""PPO killed after any iteration and resumed ends with the bytes of one that nobody stopped:
weights and moments of policy and critic, the price of KL, and the log. An alarm stops both."""

import io
import shutil

import pytest
from command_line import stage_log
from small_ppo import V, learner_of, model_of
from texts import PLAIN

from pysft import console
from pysft.errors import DataError, Diverged
from pysft.nn import safetensors
from pysft.run.stage import Stage
from pysft.training import alarms, ppo, runner
from pysft.training.objectives import ClippedValue

STEPS = 5
MOVING = dict(steps=STEPS, kl_target=0.05, horizon=100.0, beta=0.1, reference=0.1)


@pytest.fixture(autouse=True)
def checkpoints_after_every_iteration(monkeypatch):
    monkeypatch.setattr(runner, "pause", lambda saves, save_every: 0)


def train(folder, resume=False, at=(), learner=None, **changes):
    """(the learner at the end, the Moments, what was printed) of a stage in `folder`."""
    learner = learner or learner_of(**MOVING | changes)
    stage = Stage(folder / "ppo", learner.model, PLAIN, None, {})
    screen = console.Screen(json=True)
    screen.stream = io.StringIO()
    given = stage, learner.plan, learner.settings, screen, resume
    moments = list(runner.train_stage(*given, at=at, learner=learner))
    return learner, moments, screen.stream.getvalue()


def last_state(folder, step=STEPS):
    """(the last checkpoint's bytes, the log without its timings)."""
    path = folder / "ppo" / "checkpoints" / str(step) / "state.safetensors"
    return path.read_bytes(), stage_log(folder / "ppo")


def copies_at_every_save(folder, monkeypatch):
    """Copy the folder before and after each checkpoint, as kills would leave it."""
    save_checkpoint = runner.save_checkpoint

    def copying_save(stage_folder, model, adam, steps, *more):
        shutil.copytree(folder, folder.parent / f"{steps} before")
        path = save_checkpoint(stage_folder, model, adam, steps, *more)
        shutil.copytree(folder, folder.parent / f"{steps} after")
        return path

    monkeypatch.setattr(runner, "save_checkpoint", copying_save)


@pytest.mark.parametrize("baseline", ["value", "leave-one-out"])
def test_a_training_killed_after_any_iteration_is_resumed_to_the_same_bytes(
    baseline, tmp_path, monkeypatch
):
    whole = tmp_path / "whole"
    with monkeypatch.context() as patch:
        copies_at_every_save(whole, patch)
        learner, *_ = train(whole, baseline=baseline)
    expected, killed = last_state(whole), sorted(tmp_path.glob("* *"))
    assert len(killed) == 2 * STEPS
    betas = [row["figures"]["beta"] for row in expected[1]]
    assert len(set(betas)) == STEPS  # so a lost beta would be seen
    for folder in killed:
        resumed, *_ = train(folder, resume=True, baseline=baseline)
        assert last_state(folder) == expected, folder.name
        assert resumed.numbers == learner.numbers
        assert resumed.rows == learner.rows
        assert resumed.adam.steps == learner.adam.steps == 2 * STEPS
        for name, (_, adam) in learner.beside.items():
            assert resumed.beside[name][1].steps == adam.steps == 2 * STEPS
    tensors, metadata = safetensors.load(
        whole / "ppo" / "checkpoints" / str(STEPS) / "state.safetensors"
    )
    parts = {name.rpartition(".wte")[0] for name in tensors if name.endswith(".wte")}
    critic = {"critic.w", "critic.m", "critic.v"} if baseline == "value" else set()
    assert parts == {"w", "m", "v"} | critic
    assert float.fromhex(metadata["beta"]) == learner.numbers["beta"]


@pytest.mark.parametrize("lost", ["beta", "critic's moments", "critic's steps", "rows"])
def test_the_comparison_notices_what_a_resumed_training_lacks(lost, tmp_path, monkeypatch):
    """The control: one thing of the last checkpoint but one is not taken up again."""
    watched = dict(kl_limit=1e-9, on_alarm="say")
    monkeypatch.setattr(alarms, "WINDOW", STEPS)
    train(tmp_path / "right", **watched)
    shutil.copytree(tmp_path / "right", tmp_path / "wrong")
    shutil.rmtree(tmp_path / "wrong" / "ppo" / "checkpoints" / str(STEPS))
    learner = learner_of(**MOVING | watched)
    resume = learner.resume

    def forgetful(rows):
        resume(rows)
        if lost == "beta":
            learner.numbers["beta"] = learner.settings.beta
        elif lost == "critic's moments":
            learner.beside["critic"][1].m.flat[:] = 0
        elif lost == "critic's steps":
            learner.beside["critic"][1].steps = 0
        else:
            learner.rows = []

    learner.resume = forgetful
    train(tmp_path / "wrong", resume=True, learner=learner)
    assert last_state(tmp_path / "wrong") != last_state(tmp_path / "right")


def test_a_checkpoint_without_a_critic_is_refused_by_a_training_with_one(tmp_path):
    train(tmp_path, baseline="leave-one-out")
    with pytest.raises(DataError, match="critic"):
        train(tmp_path, resume=True, baseline="value")


# ---------------------------------------------------------------------------------- alarms


@pytest.fixture
def short_window(monkeypatch):
    monkeypatch.setattr(alarms, "WINDOW", 2)


STOPPED = dict(kl_limit=1e-9, on_alarm="stop")  # after the second iteration, whose window is full


def test_an_alarm_ends_the_training_after_a_last_moment(short_window, tmp_path):
    learner, moments, screen = train(tmp_path, at={5}, **STOPPED)
    assert learner.stopped and learner.steps == 2 and set(learner.told) == {"kl"}
    assert [m.step for m in moments] == [0, 2]
    rows = stage_log(tmp_path / "ppo")
    assert ["alarms" in row for row in rows] == [False, True]
    assert rows[1]["alarms"]["kl"] in screen and "step 2" in screen


def test_an_alarm_that_is_only_told_is_told_once(short_window, tmp_path):
    learner, moments, screen = train(tmp_path, at={5}, **STOPPED | {"on_alarm": "say"})
    assert learner.steps == STEPS and not learner.stopped and [m.step for m in moments] == [0, 5]
    assert ["alarms" in row for row in stage_log(tmp_path / "ppo")] == [False, True] + [False] * 3
    assert screen.count("the KL from the reference is") == 1


def test_a_stopped_training_is_stopped_when_it_is_resumed_too(short_window, tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    with monkeypatch.context() as patch:
        copies_at_every_save(whole, patch)
        train(whole, **STOPPED)
    expected, killed = last_state(whole, 2), sorted(tmp_path.glob("* *"))
    assert len(killed) == 4 and len(expected[1]) == 2
    for folder in killed:
        resumed, *_ = train(folder, resume=True, **STOPPED)
        assert resumed.stopped and resumed.steps == 2
        assert last_state(folder, 2) == expected, folder.name


def test_an_alarm_that_was_told_before_a_kill_is_not_told_again(
    short_window, tmp_path, monkeypatch
):
    said = STOPPED | {"on_alarm": "say"}
    whole = tmp_path / "whole"
    with monkeypatch.context() as patch:
        copies_at_every_save(whole, patch)
        train(whole, **said)
    for folder in sorted(tmp_path.glob("* *")):
        train(folder, resume=True, **said)
        assert last_state(folder) == last_state(whole), folder.name


# ------------------------------------------------------------------- iterations that are skipped


class PoisonedValue(ClippedValue):
    """The critic's loss, not finite in iteration 3."""

    calls = 0

    def __call__(self, batch, out, totals):
        loss, dnll, dvalue, figures = super().__call__(batch, out, totals)
        PoisonedValue.calls += 1
        return loss, dnll, dvalue * (float("nan") if PoisonedValue.calls == 5 else 1), figures


def test_a_skipped_iteration_is_logged_and_the_training_is_resumed_after_it(tmp_path, monkeypatch):
    monkeypatch.setattr(ppo, "ClippedValue", PoisonedValue)
    PoisonedValue.calls, whole = 0, tmp_path / "whole"
    with monkeypatch.context() as patch:
        copies_at_every_save(whole, patch)
        learner, _, screen = train(whole, on_nan="skip")
    log = stage_log(whole / "ppo")
    assert [bool(row.get("skipped")) for row in log] == [False, False, True, False, False]
    assert "skipped step 3, critic's update 5" in screen
    assert (whole / "ppo" / "not-finite-3.json").is_file()
    assert len(learner.rows) == 4 and learner.adam.steps == 2 * STEPS
    expected, killed = last_state(whole), {path.name for path in tmp_path.glob("[345] *")}
    assert len(killed) == 6
    for name in killed - {"3 before"}:  # there, iteration 3 comes again, and nothing poisons it
        folder = tmp_path / name
        resumed, *_ = train(folder, resume=True, on_nan="skip")
        assert last_state(folder) == expected, folder.name
        assert resumed.rows == learner.rows


def test_without_skipping_a_divergence_keeps_the_checkpoint_before_it(tmp_path, monkeypatch):
    monkeypatch.setattr(ppo, "ClippedValue", PoisonedValue)
    PoisonedValue.calls = 0
    with pytest.raises(Diverged, match="step 3, critic's update 5: .*not-finite-3.json"):
        train(tmp_path)
    assert len(stage_log(tmp_path / "ppo")) == 2
    assert sorted(p.name for p in (tmp_path / "ppo" / "checkpoints").iterdir()) == ["1", "2"]
    monkeypatch.undo()
    monkeypatch.setattr(runner, "pause", lambda saves, save_every: 0)
    train(tmp_path, resume=True)
    train(tmp_path / "other")
    assert last_state(tmp_path) == last_state(tmp_path / "other")


def test_the_small_model_fits_the_vocabulary_that_a_kept_batch_is_written_in():
    assert model_of().config.vocab == V <= len(PLAIN)
