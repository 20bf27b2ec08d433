"""A stage's log and its training checkpoints: what is read back, what a crash or damage leaves, and
that both belong to the same step."""

import json
import os

import numpy as np
import pytest
from command_line import raising, read_lines
from texts import one_line

from pysft.errors import DataError, Diverged
from pysft.nn import safetensors
from pysft.nn.model import GPT
from pysft.nn.optim import AdamW
from pysft.nn.shapes import GPTConfig
from pysft.run.checkpoints import load_checkpoint, save_checkpoint
from pysft.run.log import (
    FIGURES,
    add_measurement,
    append_log,
    cut_log,
    cut_measurements,
    of_this_version,
    read_log,
    read_measurements,
    whole_log,
)
from pysft.training import runner

CONFIG = GPTConfig(68, context=16, layers=1, heads=2, channels=16)


def new_adam(seed=1):
    """An optimiser that has taken no step, with a model of random weights."""
    return AdamW(GPT(CONFIG, rng=np.random.default_rng(seed)))


def saved(folder, *steps):
    """An optimiser after these steps, with a checkpoint of each; all weights are the step's
    number."""
    adam = new_adam()
    for adam.steps in steps:
        adam.model.params.flat[:] = adam.steps
        save_checkpoint(folder, adam.model, adam)
    return adam


def step_loaded(folder, say=lambda text: None):
    """The step of the checkpoint that is loaded; None if there is none."""
    adam = new_adam()
    step = load_checkpoint(folder, adam.model, adam, say)
    assert step is None or step == adam.steps
    return step


def state_of(folder, step):
    """The file of a checkpoint."""
    return folder / "checkpoints" / str(step) / "state.safetensors"


def log_line(step, **changes):
    """A line of the log."""
    line = {"step": step, "loss": step / 3, "figures": {"base": step / 3}, "norm": 1.0}
    return line | {"tokens": 48, "seconds": 0.1} | changes


def steps_in_log(folder, **options):
    return [row["step"] for row in read_log(folder, **options)]


# -------------------------------------------------------------------------------------------- log


def test_a_log_is_cut_to_a_step_even_if_its_last_line_is_half_written(tmp_path):
    append_log(tmp_path, [log_line(step) for step in range(1, 8)])
    with open(tmp_path / "log.jsonl", "a") as f:
        f.write('{"step": 8, "lo')
    assert cut_log(tmp_path, 5)
    assert read_lines(tmp_path / "log.jsonl") == [log_line(step) for step in range(1, 6)]


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[]",
        "{}",
        '{"step": "4"}',
        json.dumps({key: value for key, value in log_line(4).items() if key != "figures"}),
        json.dumps(log_line(4, loss=float("nan"))),
        json.dumps(log_line(4, losses={"base": None})),
        "[" * 100_000,
    ],
    ids="text list object step-text no-losses nan no-loss deep".split(),
)
def test_a_damaged_line_ends_the_log_and_is_reported(tmp_path, line):
    lines, messages = [json.dumps(log_line(step)) for step in range(1, 8)], []
    lines[3] = line
    saved(tmp_path, 6)
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + "\n")
    assert steps_in_log(tmp_path) == [1, 2, 3]
    assert runner.stage_figures(tmp_path)["tokens"] == 3 * 48
    assert step_loaded(tmp_path, messages.append) == 6
    [message] = messages
    assert "log.jsonl: lines are damaged or missing before step 6" in message
    assert "\n" not in message
    assert steps_in_log(tmp_path) == [1, 2, 3]


def test_a_log_of_an_earlier_version_is_read_like_one_of_this(tmp_path):
    """It called the figures "losses"."""
    old = {("losses" if k == "figures" else k): v for k, v in log_line(1).items()}
    append_log(tmp_path, [old, log_line(2)])
    assert read_log(tmp_path) == [log_line(1), log_line(2)]
    assert [of_this_version(x) for x in ([1], 3, {"step": 1})] == [[1], 3, {"step": 1}]


@pytest.mark.parametrize("name", ["step", "figures", "loss", "norm", "tokens", "seconds"])
@pytest.mark.parametrize("value", [None, True, "1", [1], float("inf")])
def test_a_line_that_lacks_a_number_ends_the_log(tmp_path, name, value):
    changed = {"base": value} if name == "figures" else value
    rows = [log_line(1), log_line(2) | {name: changed}, log_line(3)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert steps_in_log(tmp_path) == steps_in_log(tmp_path, skipped=True) == [1]


@pytest.mark.parametrize("skipped, ends", [(True, False), (1, True), ("yes", True), (False, True)])
def test_a_line_of_a_skipped_step_needs_no_figures(tmp_path, skipped, ends):
    append_log(tmp_path, [log_line(1), {"step": 2, "skipped": skipped}, log_line(3)])
    assert steps_in_log(tmp_path) == ([1] if ends else [1, 3])
    assert steps_in_log(tmp_path, skipped=True) == ([1] if ends else [1, 2, 3])


def test_a_whole_log_has_each_step_once_from_the_first_to_the_last(tmp_path):
    assert whole_log(tmp_path, 0) and not whole_log(tmp_path, 1)
    append_log(tmp_path, [log_line(1), {"step": 2, "skipped": True}, log_line(3)])
    assert [whole_log(tmp_path, step) for step in (2, 3, 4)] == [False, True, False]


def test_the_lines_of_a_log_are_written_as_they_are_and_never_with_nan(tmp_path):
    append_log(tmp_path, [{"step": 1, "name": "\u00e9"}, {"step": 2}])
    text = '{"step": 1, "name": "\u00e9"}\n{"step": 2}\n'
    assert (tmp_path / "log.jsonl").read_text() == text
    with pytest.raises(ValueError):
        append_log(tmp_path, [{"loss": float("nan")}])
    assert (tmp_path / "log.jsonl").read_text() == text


def test_measurements_and_models_after_a_step_are_removed_and_those_up_to_it_stay(tmp_path):
    assert cut_measurements(tmp_path, 5)  # nothing was measured
    assert os.listdir(tmp_path) == []
    for step in (0, 4, 5, 6):
        add_measurement(tmp_path, {"step": step})
        (tmp_path / "steps" / str(step)).mkdir(parents=True)
    (tmp_path / "steps" / "9 of mine").mkdir()
    assert cut_measurements(tmp_path, 5)
    assert [row["step"] for row in read_lines(tmp_path / "measurements.jsonl")] == [0, 4, 5]
    assert sorted(os.listdir(tmp_path / "steps")) == ["0", "4", "5", "9 of mine"]


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_that_checkpoints_are_chosen_by_is_a_number_or_null(tmp_path, name):
    for value in (1, 0.5, None):
        add_measurement(tmp_path, {"step": 1, name: value})
        assert read_measurements(tmp_path) == [{"step": 1, name: value, "samples": []}]
    add_measurement(tmp_path, {"step": 2, name: "x"})
    with pytest.raises(DataError, match=f"line 4: {name} is 'x', expected a number or null"):
        read_measurements(tmp_path)


@pytest.mark.parametrize("line", ['{"step": true}', '{"step": 2.0}', '"step"', "[" * 100_000])
def test_a_line_that_is_no_measurement_ends_them(tmp_path, line):
    add_measurement(tmp_path, {"step": 1, "samples": [["a", "b", "end"]]})
    with open(tmp_path / "measurements.jsonl", "a") as f:
        f.write(line + "\n" + '{"step": 3}\n')
    assert read_measurements(tmp_path) == [{"step": 1, "samples": [["a", "b", "end"]]}]


@pytest.fixture
def log_with_a_skipped_step(tmp_path):
    """A log of six steps. Step 5 was skipped."""
    lines = [log_line(step) for step in range(1, 7)]
    lines[4] = {"step": 5, "skipped": True}
    append_log(tmp_path, lines)
    return tmp_path / "log.jsonl"


def test_a_log_with_a_skipped_step_is_complete(tmp_path, log_with_a_skipped_step):
    assert cut_log(tmp_path, 5)
    assert steps_in_log(tmp_path) == [1, 2, 3, 4]
    assert steps_in_log(tmp_path, skipped=True) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[:-1],
        lambda lines: lines[1:],
        lambda lines: lines[:2] + lines[3:],
        lambda lines: lines + lines[-1:],
        lambda lines: [],
    ],
    ids="no-last no-first no-third last-twice none".split(),
)
def test_a_log_that_lacks_a_line_or_has_one_twice_is_not_complete(
    tmp_path, log_with_a_skipped_step, change
):
    cut_log(tmp_path, 5)
    lines = log_with_a_skipped_step.read_bytes().splitlines(keepends=True)
    log_with_a_skipped_step.write_bytes(b"".join(change(lines)))
    assert not cut_log(tmp_path, 5)


def test_a_missing_log_is_not_complete(tmp_path):
    assert not cut_log(tmp_path, 5)


# ------------------------------------------------------------------------------------ checkpoints


def test_a_checkpoint_brings_back_weights_moments_and_step(tmp_path):
    adam, loaded = new_adam(1), new_adam(2)
    grads = adam.model.grads.flat
    grads[:] = np.random.default_rng(0).standard_normal(len(grads))
    for _ in range(3):
        adam.step(1e-2)
    assert not load_checkpoint(tmp_path, loaded.model, loaded)
    assert loaded.steps == 0
    assert save_checkpoint(tmp_path, adam.model, adam) == tmp_path / "checkpoints" / "3"
    assert load_checkpoint(tmp_path, loaded.model, loaded)
    assert loaded.steps == 3
    for mine, theirs in (
        (adam.model.params, loaded.model.params),
        (adam.m, loaded.m),
        (adam.v, loaded.v),
    ):
        for name in mine:
            assert np.array_equal(mine[name], theirs[name]), name


def test_the_last_two_checkpoints_are_kept(tmp_path):
    saved(tmp_path, 5, 40, 300)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["300", "40"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: os.truncate(path, 500),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"!"),
        lambda path: path.unlink(),
    ],
    ids=["torn", "empty", "changed", "missing"],
)
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_loaded(tmp_path, damage):
    saved(tmp_path, 5, 9)
    append_log(tmp_path, [log_line(step) for step in range(1, 10)])
    damage(state_of(tmp_path, 9))
    is_missing, messages, adam = not state_of(tmp_path, 9).exists(), [], new_adam()
    assert load_checkpoint(tmp_path, adam.model, adam, messages.append)
    assert adam.steps == 5
    assert (adam.model.params.flat == 5).all()
    assert len(read_lines(tmp_path / "log.jsonl")) == 5
    if not is_missing:  # a crash while saving leaves an empty folder: nothing to report
        [message] = messages
        assert str(state_of(tmp_path, 9)) in message
        assert "the checkpoint of step 5" in message
        assert "\n" not in message


@pytest.mark.parametrize(
    "part, name", [("params", "weights"), ("m", "first moments"), ("v", "second moments")]
)
def test_a_checkpoint_that_is_not_finite_is_never_written(tmp_path, part, name):
    adam = saved(tmp_path, 5)
    adam.steps = 6
    arena = adam.model.params if part == "params" else getattr(adam, part)
    arena.flat[3] = np.nan
    with pytest.raises(Diverged, match=f"{name} are not finite after step 6"):
        save_checkpoint(tmp_path, adam.model, adam)
    assert step_loaded(tmp_path) == 5


def test_the_old_checkpoint_stays_until_the_new_one_is_written(tmp_path, monkeypatch):
    adam = saved(tmp_path, 5)
    adam.steps = 9
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", raising(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(tmp_path, adam.model, adam)
    assert step_loaded(tmp_path) == 5


@pytest.mark.parametrize(
    "change, metadata, text",
    [
        (lambda t: t.pop("m.wte"), {"steps": "5"}, "'m.wte'"),
        (lambda t: t.update({"v.wpe": np.zeros((3, 16), np.float32)}), {"steps": "5"}, "'v.wpe'"),
        (lambda t: t["w.wpe"].fill(np.inf), {"steps": "5"}, "'w.wpe'"),
        (lambda t: None, None, "step"),
        (lambda t: None, {"steps": "-1"}, "step"),
        (lambda t: None, {"steps": "x"}, "step"),
    ],
    ids="missing shape infinite no-steps negative-steps steps-text".split(),
)
def test_a_damaged_checkpoint_with_none_before_it_is_an_error_that_names_it(
    tmp_path, change, metadata, text
):
    saved(tmp_path, 5)
    path, adam = state_of(tmp_path, 5), new_adam()
    tensors = {name: a.copy() for name, a in safetensors.load(path)[0].items()}
    change(tensors)
    safetensors.save(path, tensors, metadata)
    with pytest.raises(DataError) as error:
        load_checkpoint(tmp_path, adam.model, adam)
    assert "state.safetensors" in one_line(error)
    assert text in one_line(error)


def test_a_torn_checkpoint_with_none_before_it_is_an_error_that_names_it(tmp_path):
    adam = saved(tmp_path, 5)
    os.truncate(state_of(tmp_path, 5), 500)
    with pytest.raises(DataError, match="state.safetensors"):
        load_checkpoint(tmp_path, adam.model, adam)


def test_after_a_crash_while_saving_two_complete_checkpoints_are_kept_again(tmp_path):
    adam = saved(tmp_path, 5, 9)
    (tmp_path / "checkpoints" / "12").mkdir()  # killed before the file was there
    assert step_loaded(tmp_path) == 9
    adam.steps = 11
    save_checkpoint(tmp_path, adam.model, adam)
    kept = set(os.listdir(tmp_path / "checkpoints"))
    assert {"9", "11"} <= kept
    assert "5" not in kept


def test_a_checkpoint_of_step_0_is_one_like_any_other(tmp_path):
    saved(tmp_path, 0)
    assert step_loaded(tmp_path) == 0
    saved(tmp_path, 5, 9)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["5", "9"]


def test_a_checkpoint_that_was_passed_over_is_never_loaded_again(tmp_path):
    adam = saved(tmp_path, 5, 9)
    complete = state_of(tmp_path, 9).read_bytes()
    state_of(tmp_path, 9).write_bytes(complete[:100])
    assert step_loaded(tmp_path) == 5
    adam.steps = 7
    save_checkpoint(tmp_path, adam.model, adam)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["5", "7", "9.damaged"]
    state_of(tmp_path, "9.damaged").write_bytes(complete)
    assert step_loaded(tmp_path) == 7
