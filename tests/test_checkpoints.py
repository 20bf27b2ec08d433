"""Measurements and checkpoints during fine-tuning, whatever interrupts the training, and the verbs
that read them afterwards: eval, select, rate, diagnose, report."""

import contextlib
import dataclasses
import io
import json
import math
import os
import shutil
import signal
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import SMALL_RUN, as_toml, in_process, merged
from hypothesis import given, settings
from hypothesis import strategies as st

from pysft.batch import BASE, Batch
from pysft.errors import UsageError
from pysft.inference.generate import Reply
from pysft.jobs import begin as beginning
from pysft.jobs import measured as measured_job
from pysft.jobs import pretrain as pretrain_job
from pysft.jobs import tune as tune_job
from pysft.jobs.material import gather
from pysft.measure import evaluate, figures
from pysft.measure.evaluate import corpus_loss, measure, origins
from pysft.measure.probe import Probe
from pysft.measure.provenance import VERDICTS
from pysft.nn.lora import apply_adapter
from pysft.nn.model import GPT
from pysft.nn.optim import AdamW
from pysft.nn.shapes import GPTConfig
from pysft.rng import rng
from pysft.run import stage as on_disk
from pysft.run.log import add_measurement, cut_measurements
from pysft.run.stage import load_stage, measured_stage, weights_sha256
from pysft.text.corpora import read_corpus, split_corpus
from pysft.text.templates import CHAT
from pysft.text.tokenizer import SHAKESPEARE, CharTokenizer
from pysft.text.windows import draw_windows
from pysft.training import runner
from pysft.training.kinds import FineTuning
from pysft.training.loop import Learner, schedule
from pysft.training.loop import train as training_loop
from pysft.training.objectives import Sft
from pysft.training.settings import Settings
from pysft.training.stages import PLANS, Plan, checkpoint_steps, finetune, replay_alone

pytestmark = pytest.mark.usefixtures("few_prompts", "few_tokens")

steady = settings(max_examples=300, deadline=None, derandomize=True, database=None)

SETTINGS = merged(
    SMALL_RUN,
    base={"steps": 6, "windows": [[16, 4]]},
    sft={"steps": 20, "windows": [[16, 2]], "checkpoint_every": 5},
)
TOML = as_toml(SETTINGS)
KEPT = [5, 10, 15, 20]


def command(*arguments):
    """One command in this process. An exception that reaches this far would be a traceback."""
    return SimpleNamespace(**dict(zip(("code", "out", "err"), in_process(*arguments))))


def pysft(*arguments):
    """The same with --json: (exit code, the document or None, messages). json.loads would refuse a
    second document."""
    done = command(*arguments, "--json")
    return done.code, json.loads(done.out) if done.out else None, done.err


def one_sentence(said: str) -> str:
    assert said.startswith("pysft: ") and len(said.splitlines()) == 1
    return said


@pytest.fixture(scope="module", autouse=True)
def undrawn():
    """Pages without figures are made sooner; tests/test_report.py draws them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "available", lambda: False)
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a corpus, conversations, settings, and a run made of them."""
    home = tmp_path_factory.mktemp("home")
    (home / "corpus.txt").write_text(read_corpus("plays")[:8000])
    verbs = ["Say", "Sing", "Show", "Name", "Praise", "Fear", "Seek", "Love", "Paint"]
    words = ["king", "rose", "crown", "ship", "night", "sword"]
    conversations = [
        [
            {"role": "user", "content": f"{verb} {word}"},
            {"role": "assistant", "content": f"The {word}."},
        ]
        for verb in verbs
        for word in words
    ]
    (home / "talk.jsonl").write_text(
        "".join(json.dumps({"messages": messages}) + "\n" for messages in conversations)
    )
    (home / "a.toml").write_text(TOML)
    code, report, said = pysft(*begin(home, home / "run"))
    assert code == 0, said
    return SimpleNamespace(path=home, run=home / "run", report=report)


def begin(home, out, *more):
    files = ["--config", home / "a.toml", "--corpus", home / "corpus.txt"]
    return ["train", *files, "--data", home / "talk.jsonl", "--out", out, *more]


@pytest.fixture(scope="module")
def adapted(home):
    """A run of LoRA on the home run's base."""
    code, report, said = pysft(
        *begin(home.path, home.path / "lora", "--base", home.run, "--lora", "2")
    )
    assert code == 0, said
    return SimpleNamespace(run=home.path / "lora", report=report, said=said)


@pytest.fixture(scope="module")
def base_only(home):
    """A run without fine-tuning."""
    out = home.path / "base only"
    files = ["--config", home.path / "a.toml", "--corpus", home.path / "corpus.txt"]
    assert pysft("pretrain", *files, "--out", out)[0] == 0
    return out


@pytest.fixture
def copy(home, tmp_path):
    """A copy of the home run, for tests that change it."""
    shutil.copytree(home.run, tmp_path / "run")
    return tmp_path / "run"


def lines(folder):
    return [
        json.loads(line)
        for line in (folder / "sft" / "measurements.jsonl").read_text().splitlines()
    ]


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def parentless(folder):
    """Make a stage forget the path of the base that it was tuned from."""
    path = folder / "settings.json"
    edit(path, parent={**json.loads(path.read_text())["parent"], "path": "/nowhere/base"})


def snapshot(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def figures_of(report):
    """A report without its timings, its folder, and the memory of the process."""
    others = ("tokens_per_s", "run", "peak_memory")
    return {k: v for k, v in report.items() if "seconds" not in k and k not in others}


def weights(folder):
    """Every file of fine-tuned weights, and the measurements, as bytes."""
    return {
        name: data
        for name, data in snapshot(folder / "sft").items()
        if name.endswith(".safetensors") or name == "measurements.jsonl"
    }


def same_figures(report, line):
    """The report has every figure that a line of measurements has."""
    names = line.keys() - {"step", "sft_loss", "samples"}  # those that are measured
    assert {k: report[k] for k in names} == {k: line[k] for k in names}


def logged(folder):
    rows = map(json.loads, (folder / "sft" / "log.jsonl").read_text().splitlines())
    return [{k: v for k, v in row.items() if k not in ("seconds", "tokens_per_s")} for row in rows]


# ------------------------------------------------------------------ what is kept during training


def test_a_run_is_measured_before_the_first_step_at_each_checkpoint_and_after_the_last(home):
    rows = lines(home.run)
    assert [row["step"] for row in rows] == [0, *KEPT]
    assert sorted(os.listdir(home.run / "sft" / "steps"), key=int) == [*map(str, KEPT)]
    assert rows[0]["sft_loss"] is None
    assert rows[0]["tuned_base_loss"] == home.report["grown_base_loss"]
    for row in rows:
        assert len(row["samples"]) == 4 + 8 + 4
        assert all([*map(type, s)] == [str] * 3 for s in row["samples"])
        assert row["forgetting"] == row["tuned_base_loss"] / home.report["base_loss"] - 1


def test_the_training_loss_of_a_measurement_is_the_mean_since_the_one_before(home):
    losses = [row["figures"]["conversation"] for row in logged(home.run)]
    assert [row["sft_loss"] for row in lines(home.run)[1:]] == [
        np.mean(losses[at - 5 : at]) for at in KEPT
    ]


def test_the_last_checkpoint_is_the_run_itself(home):
    kept = weights(home.run)
    assert kept["steps/20/model.safetensors"] == kept["model.safetensors"]
    same_figures(home.report, lines(home.run)[-1])


@pytest.mark.parametrize("step", KEPT)
def test_eval_of_a_checkpoint_gives_exactly_the_figures_of_its_line_and_writes_nothing(home, step):
    before, row = snapshot(home.run), next(row for row in lines(home.run) if row["step"] == step)
    code, report, said = pysft("eval", home.run / "sft" / "steps" / str(step))
    assert code == 0, said
    same_figures(report, row)
    assert [sample[:3] for sample in report["samples"][:8]] == row["samples"][4:12]
    assert snapshot(home.run) == before


def test_a_checkpoint_is_a_complete_stage_that_can_be_moved_and_talked_to(home, tmp_path):
    shutil.copytree(home.run / "sft" / "steps" / "5", tmp_path / "mine")
    moved, there = load_stage(tmp_path / "mine"), load_stage(home.run / "sft" / "steps" / "5")
    run = load_stage(home.run)
    assert weights_sha256(moved.model) == weights_sha256(there.model)
    assert weights_sha256(moved.model) != home.report["weights_sha256"]
    assert moved.parent == run.parent and moved.settings == run.settings
    greedy = ("-p", "Say king", "--repetition", "1")  # as the samples are
    _, asked, _ = pysft("chat", home.run / "sft" / "steps" / "5", *greedy)
    code, reply, said = pysft("chat", tmp_path / "mine", *greedy)
    assert code == 0 and reply["stop"] in ("end", "length"), said
    assert reply["reply"] == asked["reply"]
    assert ["Say king", reply["reply"]] == lines(home.run)[1]["samples"][0][:2]
    # The texts to measure it with are in the run, not in the checkpoint.
    code, report, said = pysft("eval", tmp_path / "mine")
    assert (code, report) == (66, None) and "evaluation.json" in one_sentence(said)


def test_a_checkpoint_is_found_from_inside_its_folder(home, monkeypatch):
    expected = figures_of(pysft("eval", home.run / "sft" / "steps" / "5")[1])
    for inside, name in (("sft/steps", "5"), ("sft/steps/5", "."), ("sft", "steps/5")):
        monkeypatch.chdir(home.run / inside)
        assert measured_stage(on_disk.find_stage(name)).resolve() == (home.run / "sft").resolve()
        code, report, said = pysft("eval", name)
        assert code == 0 and figures_of(report) == expected, said


def test_measuring_and_keeping_checkpoints_does_not_change_the_training(home, tmp_path):
    assert pysft(*begin(home.path, tmp_path / "run", "--checkpoint-every", "never"))[0] == 0
    assert weights(tmp_path / "run")["model.safetensors"] == weights(home.run)["model.safetensors"]
    assert logged(tmp_path / "run") == logged(home.run)
    assert not (tmp_path / "run" / "sft" / "steps").exists()
    for verb in ("select", "rate"):
        code, document, said = pysft(verb, tmp_path / "run")
        assert (code, document) == (66, None)
        assert "measurements.jsonl: missing" in one_sentence(said)
    assert pysft("diagnose", tmp_path / "run")[0] in (0, 1)  # the last figures are enough


# ------------------------------------------------------------------- the steps of checkpoints


def plan(steps, epochs=None):
    return Plan(None, None, None, steps, 1, epochs or {})


def at(every, steps, **epochs):
    return checkpoint_steps(FineTuning(checkpoint_every=every), plan(steps, epochs))


whole = st.integers(1, 5000)
schedules = st.one_of(
    st.sampled_from(["tenth", "epoch"]), st.integers(1, 10**6).map(str), st.just("9" * 400)
)


@steady
@given(schedules, whole, st.floats(0, 10000))
def test_checkpoints_rise_and_end_with_the_last_step(every, steps, epochs):
    found = at(every, steps, conversations=epochs)
    assert found == sorted(set(found)) and found[0] >= 1 and found[-1] == steps


@steady
@given(whole)
def test_ten_checkpoints_are_a_tenth_apart(steps):
    found = at("tenth", steps)
    assert len(found) == min(10, steps)
    assert all(abs(step - max(1, steps / 10) * k) <= 0.5 for k, step in enumerate(found, 1))


@steady
@given(st.integers(1, 6000), whole)
def test_every_k_steps_means_each_multiple_and_the_last_step(every, steps):
    assert at(every, steps) == sorted({*range(every, steps + 1, every), steps})


@steady
@given(st.integers(1, 300), st.floats(0.01, 1000))
def test_there_is_a_checkpoint_after_each_epoch_of_the_first_kind_of_data(steps, epochs):
    found = np.array(at("epoch", steps, conversations=epochs, pairs=7.0))
    stride = max(1.0, steps / epochs)
    # Steps are whole, so a checkpoint may be half a step away from the end of an epoch.
    ends = stride * np.arange(1, int(steps / stride) + 1)
    apart = np.abs(found[:, None] - ends)
    assert (apart.min(0) <= 0.5 + 1e-6).all()
    assert (apart[:-1].min(1, initial=math.inf) <= 0.5 + 1e-6).all()


def test_never_means_no_checkpoint_and_a_single_step_has_one():
    assert at("never", 100, conversations=3.0) == []
    for every in ("tenth", "epoch", 1, 5):
        assert at(every, 1, conversations=3.0) == [1] and at(every, 0, conversations=3.0) == []
    assert at(7, 5) == [5] and at("epoch", 10) == [10]
    assert at("epoch", 9, conversations=3.0) == [3, 6, 9]


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "tenths", "", "all", True, 0, 2.0, [5]])
def test_a_value_that_is_no_checkpoint_schedule_is_refused(value):
    with pytest.raises(UsageError, match="checkpoint_every.*expected tenth, epoch, never"):
        FineTuning(checkpoint_every=value)


# --------------------------------------------------------------------------- killed and resumed


@contextlib.contextmanager
def stopping(step, act=lambda: os.kill(os.getpid(), signal.SIGINT)):
    """Call act() while the batch of step + 1 of fine-tuning is drawn."""
    make = PLANS["sft"]

    def made(*arguments):
        plan = make(*arguments)

        def draw(at):
            if at == step:
                act()
            return plan.draw(at)

        return dataclasses.replace(plan, draw=draw)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PLANS, "sft", made)
        yield


def resumed(folder):
    code, report, said = pysft("train", "--resume", "--out", folder)
    assert code == 0, said
    return report


def same_run(folder, report, home):
    assert figures_of(report) == figures_of(home.report)
    assert weights(folder) == weights(home.run) and logged(folder) == logged(home.run)
    assert snapshot(folder).keys() == snapshot(home.run).keys()


@pytest.mark.parametrize("stops", [(0,), (4,), (6,), (19,), (2, 13)])
def test_a_training_interrupted_anywhere_and_resumed_leaves_the_same_bytes(home, tmp_path, stops):
    go = begin(home.path, tmp_path / "run")
    for step in stops:
        with stopping(step):
            assert pysft(*go)[0] == 130
        checkpoints = set(os.listdir(tmp_path / "run" / "sft" / "checkpoints"))
        assert checkpoints == {str(s + 1) for s in stops if s <= step}
        measured = [row["step"] for row in lines(tmp_path / "run")]
        assert measured == [0, *(s for s in KEPT if s <= step + 1)]
        go = ["train", "--resume", "--out", tmp_path / "run"]
    same_run(tmp_path / "run", resumed(tmp_path / "run"), home)


def test_a_signal_after_the_last_step_is_not_lost(home, tmp_path, monkeypatch):
    """The signal comes while the last periodic checkpoint is written."""
    save, sent = runner.save_checkpoint, []

    def signalled(folder, model, adam, *more):
        if folder.name == "sft" and adam.steps == 20 and not sent:
            sent.append(os.kill(os.getpid(), signal.SIGINT))
        return save(folder, model, adam, *more)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "pause", lambda saves, save_every: 0)
        patch.setattr(runner, "save_checkpoint", signalled)
        code, _, said = pysft(*begin(home.path, tmp_path / "run"))
    assert code == 130 and "interrupted after step 20" in said
    same_run(tmp_path / "run", resumed(tmp_path / "run"), home)


@pytest.fixture(scope="module")
def after_seven(home):
    """A run that was interrupted after step 7, with measurements at steps 0 and 5."""
    with stopping(6):
        assert pysft(*begin(home.path, home.path / "seven"))[0] == 130
    return home.path / "seven"


def stray(folder, tail=b'{"step": 15, "sft_loss": 3.1, "tuned_ba'):
    """Add what a power cut long after the checkpoint of step 7 can leave: a measurement, folders of
    weights, half a line."""
    add_measurement(folder / "sft", {"step": 10, "sft_loss": 99.0, "samples": []})
    with open(folder / "sft" / "measurements.jsonl", "ab") as f:
        f.write(tail)
    shutil.copytree(folder / "sft" / "steps" / "5", folder / "sft" / "steps" / "10")
    (folder / "sft" / "steps" / "15").mkdir()
    (folder / "sft" / "steps" / "15" / "settings.json").write_text("{")


@pytest.mark.parametrize(
    "tail",
    [b"", b'{"step": 15, "sft_loss": 3.1, "tuned_ba', b"\0\0\0\0", '{"step": 15, "é'.encode()[:-1]],
    ids=["whole", "in a word", "zeros", "in a character"],
)
def test_a_training_killed_between_a_measurement_and_a_checkpoint_ends_with_the_same_bytes(
    home, after_seven, tmp_path, tail
):
    shutil.copytree(after_seven, tmp_path / "run")
    stray(tmp_path / "run", tail)
    same_run(tmp_path / "run", resumed(tmp_path / "run"), home)


def test_a_training_killed_before_any_checkpoint_measures_from_the_beginning(home, tmp_path):
    def cut():
        raise KeyboardInterrupt

    with stopping(12, cut):
        assert pysft(*begin(home.path, tmp_path / "run"))[0] == 130
    assert not (tmp_path / "run" / "sft" / "checkpoints").exists()
    assert [row["step"] for row in lines(tmp_path / "run")] == [0, 5, 10]
    same_run(tmp_path / "run", resumed(tmp_path / "run"), home)


@pytest.mark.parametrize("name", ["measure", "save_stage"])
def test_a_training_killed_while_it_measures_or_saves_continues_from_the_checkpoint_before(
    home, tmp_path, monkeypatch, name
):
    work = getattr(measured_job, name)

    def cut(*arguments):
        if arguments and getattr(arguments[0], "folder", None) and arguments[0].folder.name == "10":
            with pytest.MonkeyPatch.context() as patch:  # half of the folder is written
                patch.setattr(on_disk.safetensors, "save", stop)
                work(*arguments)
        kept = tmp_path / "run" / "sft" / "steps" / "5" / "model.safetensors"
        if name == "measure" and kept.is_file():
            stop()
        return work(*arguments)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runner, "pause", lambda saves, save_every: 0)
        patch.setattr(measured_job, name, cut)
        assert pysft(*begin(home.path, tmp_path / "run"))[0] == 130
    assert sorted(os.listdir(tmp_path / "run" / "sft" / "checkpoints")) == ["8", "9"]
    assert [row["step"] for row in lines(tmp_path / "run")] == (
        [0, 5] if name == "measure" else [0, 5, 10]
    )
    same_run(tmp_path / "run", resumed(tmp_path / "run"), home)


def test_a_training_that_starts_over_keeps_no_measurement_or_checkpoint(tmp_path, home):
    add_measurement(tmp_path, {"step": 0})
    add_measurement(tmp_path, {"step": 99})
    for name in ("99", "notes"):
        (tmp_path / "steps" / name).mkdir(parents=True)
    cut_measurements(tmp_path, -1)
    assert (tmp_path / "measurements.jsonl").read_bytes() == b""
    assert os.listdir(tmp_path / "steps") == ["notes"]


@pytest.mark.parametrize(
    "said",
    ["Aye.", "Ça va? ž", "one\u2028two\x85three", 'a "b"\n\\'],
    ids=["ASCII", "other letters", "line separators", "escapes"],
)
def test_only_complete_lines_up_to_a_step_remain_wherever_a_crash_cut_the_measurements(
    tmp_path, said
):
    for step in (0, 5, 10):
        add_measurement(tmp_path, {"step": step, "samples": [["Say", said, "end"]]})
    path = tmp_path / "measurements.jsonl"
    content = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    assert len(ends) == 3
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        cut_measurements(tmp_path, 5)
        end = max((end for end in ends[:2] if end <= size), default=0)
        assert path.read_bytes() == content[:end]


@pytest.mark.parametrize("line", [b"[]\n", b"{}\n", b'{"step": "x"}\n', b"nonsense\n", b"\xff\n"])
def test_a_line_that_is_no_measurement_is_dropped_and_reported(tmp_path, line):
    path = tmp_path / "measurements.jsonl"
    path.write_bytes(b'{"step": 0}\n' + line + b'{"step": 5}\n{"step": 6}\n')
    assert not cut_measurements(tmp_path, 5) and path.read_bytes() == b'{"step": 0}\n{"step": 5}\n'
    assert cut_measurements(tmp_path, 5)


def test_a_resumed_run_reports_a_damaged_measurement(after_seven, tmp_path):
    shutil.copytree(after_seven, tmp_path / "run")
    path = tmp_path / "run/sft/measurements.jsonl"
    path.write_bytes(b"x\n" + path.read_bytes())
    code, _, said = pysft("train", "--resume", "--out", tmp_path / "run")
    assert code == 0 and "measurements.jsonl: a damaged line is left out" in said


def test_checkpoints_are_removed_only_after_the_weights_are_on_the_disk(
    home, tmp_path, monkeypatch
):
    drop, seen = tune_job.drop_checkpoints, []

    def dropped(folder):
        names = ("model.safetensors", "adapter.safetensors")
        seen.append((folder.name, *((folder / name).is_file() for name in names)))
        drop(folder)

    monkeypatch.setattr(tune_job, "drop_checkpoints", dropped)
    monkeypatch.setattr(pretrain_job, "drop_checkpoints", dropped)
    assert pysft(*begin(home.path, tmp_path / "run"))[0] == 0
    assert pysft(*begin(home.path, tmp_path / "lora", "--lora", "2"))[0] == 0
    assert seen == [
        ("base", True, False),
        ("sft", True, False),
        ("base", True, False),
        ("sft", True, True),
    ]


def test_an_unfinished_run_can_be_diagnosed_selected_from_and_talked_to(after_seven):
    code, document, said = pysft("diagnose", after_seven)
    assert code == 1 and document["finished"] is False
    assert document["figures"]["heldout_loss"] == lines(after_seven)[-1]["heldout_loss"]
    code, choice, said = pysft("select", after_seven)
    assert code == 0 and choice["criteria"]["held-out loss"]["step"] == 5
    code, reply, said = pysft("chat", after_seven / "sft" / "steps" / "5", "-p", "Say king")
    assert code == 0 and reply["reply"], said


@pytest.mark.parametrize(
    "flags", [("--lora", "2"), ("--lora-matrices", "qkv"), ("--checkpoint-every", "3")]
)
def test_resuming_refuses_other_adapters_and_checkpoints(after_seven, flags):
    before = snapshot(after_seven)
    code, _, said = pysft("train", "--resume", "--out", after_seven, *flags)
    assert code == 2 and flags[0] in one_sentence(said) and snapshot(after_seven) == before


@pytest.mark.parametrize("kind", ["sft", "lora"])
def test_a_run_with_a_damaged_last_checkpoint_says_so_and_ends_with_the_same_bytes(
    home, adapted, tmp_path, monkeypatch, kind
):
    monkeypatch.setattr(runner, "pause", lambda saves, save_every: 0)
    more = ["--base", home.run, "--lora", "2"] if kind == "lora" else []
    with stopping(12):
        assert pysft(*begin(home.path, tmp_path / "run", *more))[0] == 130
    last = tmp_path / "run" / "sft" / "checkpoints" / "13" / "state.safetensors"
    last.write_bytes(last.read_bytes()[:-7] + b"garbage")
    code, report, said = pysft("train", "--resume", "--out", tmp_path / "run")
    assert code == 0 and "Going back to the checkpoint of step 12" in said and str(last) in said
    same_run(tmp_path / "run", report, adapted if kind == "lora" else home)


@contextlib.contextmanager
def not_finite(step):
    """The loss of fine-tuning is nan in step `step` + 1, each time that it is taken."""
    make, now = PLANS["sft"], {}

    def made(*arguments):
        plan = make(*arguments)

        def draw(at):
            now["step"] = at
            return plan.draw(at)

        def objective(*given):
            loss, *rest = plan.objective(*given)
            return (math.nan if now["step"] == step else loss), *rest

        objective.counts = plan.objective.counts
        return dataclasses.replace(plan, draw=draw, objective=objective)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PLANS, "sft", made)
        yield


def test_a_run_that_stopped_at_a_step_that_is_not_finite_can_be_resumed_without_it(home, tmp_path):
    with not_finite(6):
        assert pysft(*begin(home.path, tmp_path / "run"))[0] == 3
        assert pysft("train", "--resume", "--out", tmp_path / "run")[0] == 3
        code, _, said = pysft("train", "--resume", "--out", tmp_path / "run", "--on-nan", "skip")
    assert code == 0 and "sft: skipped step 7" in said
    assert [row["step"] for row in logged(tmp_path / "run")] == list(range(1, 21))
    assert [row["step"] for row in logged(tmp_path / "run") if row.get("skipped")] == [7]
    assert "1 more step was skipped" in (tmp_path / "run" / "report.html").read_text()
    assert (
        json.loads((tmp_path / "run" / "run.json").read_text())["settings"]["sft"]["on_nan"]
        == "skip"
    )
    with not_finite(6):  # the setting is kept
        assert pysft("train", "--resume", "--out", tmp_path / "run")[0] == 0


def test_of_two_trainings_started_in_one_folder_the_second_is_refused_and_changes_nothing(
    home, tmp_path, monkeypatch
):
    make = beginning.new_run

    def faster(out, name):  # the other one starts after we look at the folder, before we lock it
        folder = make(out, name)
        (folder / "run.json").write_text("the other's")
        return folder

    monkeypatch.setattr(beginning, "new_run", faster)
    code, _, said = pysft(*begin(home.path, tmp_path / "run"))
    assert code == 2 and "another process has begun a training" in one_sentence(said)
    assert {p.name: p.read_text() for p in (tmp_path / "run").iterdir()} == {
        "run.json": "the other's",
        ".lock": "",
    }


def test_a_record_without_the_digest_of_an_input_is_refused(home, after_seven, tmp_path):
    shutil.copytree(after_seven, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    name = str(home.path / "talk.jsonl")
    digests = {n: digest for n, digest in record["sha256"].items() if n != name}
    assert len(digests) == len(record["sha256"]) - 1
    (tmp_path / "run" / "run.json").write_text(json.dumps(record | {"sha256": digests}))
    code, _, said = pysft("train", "--resume", "--out", tmp_path / "run")
    assert code == 65 and name in one_sentence(said)


# -------------------------------------------------------------------------------------------- LoRA


def test_lora_says_how_many_weights_it_trains_and_their_share(adapted, home):
    # r (K + C) for each matrix, and three new rows in the embedding and in the head.
    by_hand = 2 * ((48 + 16) + (16 + 16) + (64 + 16) + (16 + 64)) + 2 * 3 * 16
    assert adapted.report["trained_params"] == by_hand
    assert adapted.report["params"] == home.report["params"]
    assert (
        f"LoRA of rank 2 on qkv, attproj, fc, fcproj: {by_hand} weights are trained "
        f"({by_hand / home.report['params']:.2%})" in adapted.said
    )
    assert home.report["trained_params"] == home.report["params"]


def moved(folder, base):
    """The tensors of a tuned model that differ from the base's, apart from the new rows."""
    tuned, base = load_stage(folder).model.params, load_stage(base).model.params
    return {name for name, w in base.items() if not np.array_equal(w, tuned[name][: len(w)])}


def test_lora_keeps_the_bits_of_every_frozen_weight_and_trains_the_new_rows(adapted, home):
    adapted_names = {f"h0.{m}.w" for m in ("qkv", "attproj", "fc", "fcproj")}
    assert moved(adapted.run, home.run / "base") == adapted_names
    grown, tuned = load_stage(home.run / "base").model.params, load_stage(adapted.run).model.params
    for name in ("wte", "head"):
        new = tuned[name][len(grown[name]) :]
        assert len(new) == 3 and not np.allclose(new, grown[name].mean(0), atol=1e-3)


def test_lora_on_chosen_matrices_changes_no_others(home, tmp_path):
    flags = ["--lora", "3", "--lora-matrices", "fc", "qkv"]
    flags += ["--sft-steps", "3", "--checkpoint-every", "never"]
    code, report, said = pysft(*begin(home.path, tmp_path / "run", "--base", home.run, *flags))
    assert code == 0 and report["trained_params"] == 3 * ((48 + 16) + (64 + 16)) + 96, said
    assert moved(tmp_path / "run", home.run / "base") == {"h0.qkv.w", "h0.fc.w"}
    made = apply_adapter(
        tmp_path / "run" / "sft" / "adapter.safetensors", load_stage(home.run / "base").model
    )
    assert weights_sha256(made) == report["weights_sha256"]


def test_the_adapter_and_the_base_make_the_model_that_was_saved(adapted, home):
    base, adapter = load_stage(home.run / "base"), adapted.run / "sft" / "adapter.safetensors"
    made = weights_sha256(apply_adapter(adapter, base.model))
    assert made == weights_sha256(load_stage(adapted.run).model) == adapted.report["weights_sha256"]
    assert not (home.run / "sft" / "adapter.safetensors").exists()


def test_lora_interrupted_and_resumed_leaves_the_same_bytes(adapted, home, tmp_path):
    with stopping(6):
        assert (
            pysft(*begin(home.path, tmp_path / "run", "--base", home.run, "--lora", "2"))[0] == 130
        )
    stray(tmp_path / "run")
    report = resumed(tmp_path / "run")
    same_run(tmp_path / "run", report, adapted)
    kept = weights(tmp_path / "run")
    assert "adapter.safetensors" in kept
    assert kept["steps/20/model.safetensors"] == kept["model.safetensors"]
    assert figures_of(resumed(tmp_path / "run")) == figures_of(report)  # resumed when finished


@pytest.mark.parametrize("step", [5, 20])
def test_a_checkpoint_of_lora_is_a_merged_model_that_eval_and_chat_take(adapted, home, step):
    folder = adapted.run / "sft" / "steps" / str(step)
    row = next(row for row in lines(adapted.run) if row["step"] == step)
    code, report, said = pysft("eval", folder)
    assert code == 0, said
    same_figures(report, row)
    assert moved(folder, home.run / "base") == moved(adapted.run, home.run / "base")
    code, reply, said = pysft("chat", folder, "-p", "Say king", "--repetition", "1")
    assert code == 0 and reply["reply"] == row["samples"][0][1], said


@pytest.mark.parametrize(
    "flags, named",
    [
        (("--lora", "17"), "lora_rank = 17 is above the 16 channels"),
        (("--lora", "0"), "--lora"),
        (("--lora", "two"), "--lora"),
        (("--lora", "2", "--lora-matrices", "wte"), "--lora-matrices"),
        (("--checkpoint-every", "0"), "checkpoint_every = '0'"),
        (("--checkpoint-every", "weekly"), "checkpoint_every = 'weekly'"),
    ],
)
@pytest.mark.parametrize("given", [False, True], ids=["own base", "given base"])
def test_impossible_flags_of_adapters_and_checkpoints_are_usage_errors_and_leave_no_trace(
    home, tmp_path, flags, named, given
):
    code, document, said = pysft(
        *begin(home.path, tmp_path / "run", *flags, *(("--base", home.run) if given else ()))
    )
    assert code == 2 and document is None and named in said.splitlines()[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "line",
    [
        "lora_matrices = []",
        'lora_matrices = "qkv"',
        'lora_matrices = ["wte"]',
        'lora_matrices = [["qkv"]]',
        "lora_rank = -1",
        "lora_rank = 2.0",
        "lora_alpha = -1",
        'lora_alpha = "two"',
        "checkpoint_every = 0",
        "checkpoint_every = [5]",
        "checkpoint_every = true",
    ],
)
def test_an_impossible_setting_of_adapters_or_checkpoints_is_refused_in_one_sentence(
    home, tmp_path, line
):
    others = [kept for kept in TOML.splitlines() if "checkpoint" not in kept]
    assert others[-1].startswith("windows")  # the table at the end is [sft]
    (tmp_path / "a.toml").write_text("\n".join([*others, line]))
    command = begin(home.path, tmp_path / "run")
    command[command.index(home.path / "a.toml")] = tmp_path / "a.toml"
    code, _, said = pysft(*command)
    assert code == 2 and line.split(" ")[0] in one_sentence(said)
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------------------- the gate


def risen(folder, share):
    """Change the base loss so that the tuned model's loss is above it by this share."""
    path = folder / "sft" / "report.json"
    edit(path, base_loss=json.loads(path.read_text())["tuned_base_loss"] / (1 + share))


@pytest.mark.parametrize(
    "rose, allowed, code",
    [(0.2, 0.1, 1), (0.2, 0.3, 0), (0.101, 0.1, 1), (0.099, 0.1, 0), (-0.1, 0.001, 0)],
)
def test_the_gate_exits_with_1_exactly_if_the_base_loss_rose_by_more_than_allowed(
    copy, rose, allowed, code
):
    risen(copy, rose)
    found, report, said = pysft("eval", copy, "--gate", allowed)
    assert found == code and report["forgetting"] == pytest.approx(rose, rel=1e-9)
    assert ("NOT passed" in said) is bool(code) and ("gate" in said and "passed" in said)
    assert f"rose by {rose:+.1%}, {100 * allowed:g} % is allowed" in said
    done = command("eval", copy, "--gate", allowed)  # without --json: on standard output
    assert done.code == code and done.err == ""
    assert ("NOT passed" in done.out.splitlines()[-1]) is bool(code)
    assert command("eval", copy).code == 0


def test_the_gate_of_a_matched_eval_looks_at_matched_forgetting(copy):
    edit(copy / "sft" / "report.json", base_loss=9.0)  # so high that nothing is forgotten
    matched = pysft("eval", copy, "--matched")[1]["forgetting_matched"]
    assert matched > 0
    assert pysft("eval", copy, "--gate", matched / 2)[0] == 0
    assert pysft("eval", copy, "--matched", "--gate", matched / 2)[0] == 1
    assert pysft("eval", copy, "--matched", "--gate", matched * 2)[0] == 0


def test_the_gate_works_on_a_checkpoint(copy):
    risen(copy, 0.0)
    step = lines(copy)[1]["tuned_base_loss"] / lines(copy)[-1]["tuned_base_loss"] - 1
    assert step > 0.01
    assert pysft("eval", copy / "sft" / "steps" / "5", "--gate", step * 0.99)[0] == 1
    assert pysft("eval", copy / "sft" / "steps" / "5", "--gate", step * 1.01)[0] == 0


def test_the_gate_is_refused_if_the_base_loss_is_not_known(copy):
    edit(copy / "sft" / "report.json", base_loss=None)
    code, report, _ = pysft("eval", copy)  # it is measured again, on the base beside the run
    assert code == 0 and report["base_loss"] > 0 and "forgetting" in report
    shutil.rmtree(copy / "base", ignore_errors=True)
    edit(copy / "sft" / "settings.json", parent=None)
    code, report, _ = pysft("eval", copy)
    assert code == 0 and "forgetting" not in report and report["base_loss"] is None
    assert command("eval", copy).code == 0
    code, report, said = pysft("eval", copy, "--gate", "0.1")
    assert (code, report) == (2, None) and "not known" in one_sentence(said)


def test_a_gate_on_a_base_model_does_not_pass(home, after_seven):
    for folder in (home.run / "base", after_seven):  # eval measures the base of an unfinished run
        code, _, said = pysft("eval", folder, "--gate", "0.1")
        assert code != 0 and said


@pytest.mark.parametrize("text", ["ten", "10%", "", "nan", "inf", "0", "-0.1", "15"])
def test_a_gate_that_is_no_share_is_a_usage_error(home, text):
    code, document, said = pysft("eval", home.run, f"--gate={text}")
    assert code == 2 and document is None and f"{text!r} is not a share" in said.splitlines()[-1]


# ------------------------------------------------------------------------------ matched forgetting


def by_hand(home, steps=20):
    """The loss of the base after training on the windows of base text that the fine-tuning
    replayed in its first steps."""
    base = load_stage(home.run / "base")
    trained, heldout = split_corpus((home.path / "corpus.txt").read_text())
    corpus = base.tokenizer.encode(trained)

    def draw(step):
        windows = draw_windows(corpus, 2, 16, rng(1, "sft", "windows", step))
        return [Batch.of(windows, len(base.tokenizer), 64)]

    def rate(step):
        return schedule(step, 20, 5e-3, 2, "linear")

    adam = AdamW(base.model, betas=(0.9, 0.99), eps=1e-8, decay_all=False, decay=0.3)
    learner = Learner(base.model, adam, draw, Sft(), rate, 1.0)
    assert len([*training_loop(learner, steps)]) == steps
    return corpus_loss(base.model, base.tokenizer, heldout)


def test_matched_forgetting_compares_with_the_base_trained_on_the_replayed_windows_alone(home):
    before, expected = snapshot(home.run), by_hand(home)
    code, report, said = pysft("eval", home.run, "--matched")
    assert code == 0 and report["matched_base_loss"] == expected != report["base_loss"], said
    assert report["forgetting_matched"] == report["tuned_base_loss"] / expected - 1
    plain = figures_of(pysft("eval", home.run)[1])
    del plain["before_after"]  # see the next test
    assert "forgetting_matched" not in plain and {k: report[k] for k in plain} == plain
    assert snapshot(home.run) == before
    # A checkpoint is compared with the base after as much of the replay as it had seen.
    step = pysft("eval", home.run / "sft" / "steps" / "5", "--matched")[1]
    expected = by_hand(home, 5)
    assert step["matched_base_loss"] == expected
    assert step["forgetting_matched"] == lines(home.run)[1]["tuned_base_loss"] / expected - 1


def test_a_matched_eval_shows_the_replies_of_the_base_before_it_was_trained_further(home):
    matched, plain = (pysft("eval", home.run, *flags)[1] for flags in (("--matched",), ()))
    assert matched["before_after"] == plain["before_after"]


def test_the_replay_alone_has_the_windows_and_rates_of_the_fine_tuning(home):
    chosen = Settings.of_json(load_stage(home.run).settings)
    material = gather(chosen, str(home.path / "corpus.txt"), [str(home.path / "talk.jsonl")])
    corpus = material.tokenizer.encode(material.train_text)
    both = finetune(
        chosen,
        "sft",
        *material.examples,
        material.grown.encode(material.train_text),
        len(material.grown),
    )
    alone = replay_alone(chosen, "sft", corpus, len(material.tokenizer))
    assert alone.steps == both.steps == 20
    for step in range(20):
        (mixed,), (replayed,) = both.draw(step), alone.draw(step)
        first = mixed.cu_seqlens[np.flatnonzero(mixed.source == BASE)[0]]  # row of base text
        assert np.array_equal(mixed.tokens[first:], replayed.tokens)
        assert np.array_equal(mixed.labels[first:], replayed.labels)
        assert len(replayed.tokens) == 2 * 16 <= alone.rows and set(replayed.source) == {BASE}
        assert both.rate(step) == alone.rate(step)


def test_without_replay_matched_forgetting_is_forgetting(home, tmp_path):
    (tmp_path / "a.toml").write_text(TOML.replace("[[16, 2]]", "[]"))
    flags = ["--config", tmp_path / "a.toml", "--base", home.run, "--checkpoint-every", "never"]
    code, report, said = pysft(*begin(home.path, tmp_path / "run", *flags))
    assert code == 0, said
    code, matched, said = pysft("eval", tmp_path / "run", "--matched")
    assert code == 0, said
    assert matched["forgetting_matched"] == matched["forgetting"] == report["forgetting"] != 0
    stored = json.loads((tmp_path / "run" / "sft" / "before.json").read_text())["rows"]
    assert matched["before_after"] == stored != []  # the base is at its old path


def test_matched_needs_the_very_base_of_the_run_and_plain_eval_needs_none(copy, base_only):
    parentless(copy / "sft")
    assert pysft("eval", copy, "--matched")[0] == 0  # the base is beside it
    other = load_stage(copy / "base")
    other.model.params["wte"][0, 0] += 1
    on_disk.save_stage(other)
    for change in (lambda: None, lambda: shutil.rmtree(copy / "base")):
        change()
        code, report, said = pysft("eval", copy, "--matched")
        assert (code, report) == (66, None)
        assert "the base it was tuned from" in one_sentence(said) and str(copy) in said
        code, report, said = pysft("eval", copy)
        assert code == 0 and report["before_after"] == [] and report["forgetting"] is not None


def test_a_damaged_base_is_named_in_one_sentence(copy):
    os.truncate(copy / "base" / "model.safetensors", 999)
    code, report, said = pysft("eval", copy, "--matched")
    assert (code, report) == (65, None) and str(copy / "base") in one_sentence(said)


def test_a_run_without_its_corpus_can_be_measured_but_not_matched(copy):
    path = copy / "sft" / "evaluation.json"
    data = json.loads(path.read_text())
    del data["corpus_text"]
    path.write_text(json.dumps(data))
    code, report, said = pysft("eval", copy, "--matched")
    assert (code, report) == (65, None) and "corpus" in one_sentence(said)
    code, report, said = pysft("eval", copy)
    assert code == 0 and sum(report["origins"].values()) == report["prompts"], said


@pytest.mark.parametrize(
    "name, changes, flags",
    [
        ("report.json", {"base_loss": "x"}, ()),
        ("report.json", {"base_loss": [4]}, ()),
        ("settings.json", {"settings": {"colour": 1}}, ("--matched",)),
        ("settings.json", {"settings": []}, ("--matched",)),
    ],
)
def test_a_damaged_record_is_named_in_one_sentence(copy, name, changes, flags):
    edit(copy / "sft" / name, **changes)
    code, report, said = pysft("eval", copy, *flags)
    assert code == 65 and report is None and name in one_sentence(said)


# -------------------------------------------------------------------------------- before and after


def test_eval_shows_before_and_after_if_the_base_is_beside_the_run_and_nothing_if_not(
    copy, tmp_path
):
    stored = json.loads((copy / "sft" / "before.json").read_text())["rows"]
    assert [row[4] for row in stored] == [True] * 4 + [False] * 6
    assert all([*map(type, row)] == [str] * 4 + [bool] for row in stored)
    parentless(copy / "sft")
    _, report, _ = pysft("eval", copy)
    assert report["before_after"] == stored
    unseen = {prompt for prompt, _, _, _, seen in stored if not seen}
    assert unseen <= {s[0] for s in report["samples"]}
    said = command("eval", copy).out
    assert said.count("prompts it was trained on") == said.count("prompts it never saw") == 1
    assert repr(stored[0][0]) in said
    shutil.move(copy / "sft", tmp_path / "alone")
    code, report, said = pysft("eval", tmp_path / "alone")
    assert code == 0 and report["before_after"] == [], said
    assert "prompts it was trained on" not in command("eval", tmp_path / "alone").out


def test_each_checkpoint_has_its_own_replies_after_training(home):
    early, late = (
        pysft("eval", home.run / "sft" / "steps" / step)[1]["before_after"] for step in ("5", "20")
    )
    assert [row[:2] for row in early] == [row[:2] for row in late]
    assert [row[2] for row in early] != [row[2] for row in late]


@pytest.mark.parametrize("count", [0, 3, 1000])
def test_eval_shows_as_many_samples_as_requested_each_with_its_origin(home, count):
    done = command("eval", home.run, "--samples", count)
    assert done.code == 0
    assert done.out.count("\n    origin: ") == min(count, home.report["prompts"])


# --------------------------------------------------------------------------- domains and origins

TOKENIZER = CharTokenizer(SHAKESPEARE, CHAT.tokens)
TRAINED = ["The king is kind.", "A rose is a rose.", "No, my lord."]
FORGED = np.append(TOKENIZER.encode("Aye "), TOKENIZER.special["<|user|>"]).astype(np.int32)
SAID = [*map(TOKENIZER.encode, [*TRAINED, "Roses are fine, the king said.", "xqz", " "]), FORGED]
REPLIES = st.builds(Reply, st.sampled_from(SAID), st.sampled_from(["end", "length"]))


@settings(steady, max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(["in", "near", "out"]), REPLIES), max_size=9))
def test_figures_by_domain_add_up_to_the_totals(drawn):
    asked = [{"prompt": f"What of {i}?", "domain": domain} for i, (domain, _) in enumerate(drawn)]
    probe = Probe("To be, or not to be.", [], asked, [], ["the", "king", "rose"], TRAINED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "render_prompt", lambda *_: np.zeros(1, np.int32))
        patch.setattr(evaluate, "generate", lambda *_, again: [reply for _, reply in drawn])
        total, replies = measure(GPT(GPTConfig(68, 32, 1, 2, 16)), TOKENIZER, CHAT, probe)
    parts = total["by_domain"].values()
    assert set(total["by_domain"]) == {domain for domain, _ in drawn}
    assert sum(p["prompts"] for p in parts) == total["prompts"] == len(drawn)
    verbatim = sum(TOKENIZER.decode(reply.ids) in TRAINED for _, reply in drawn)
    assert sum(p["verbatim_replies"] for p in parts) == total["verbatim_replies"] == verbatim
    distinct = [p["distinct_replies"] for p in parts]
    assert all(1 <= n <= p["prompts"] for n, p in zip(distinct, parts))
    assert max(distinct, default=0) <= total["distinct_replies"] <= sum(distinct)
    if drawn:
        complying = sum(p["format_compliance"] * p["prompts"] for p in parts)
        assert complying == pytest.approx(total["format_compliance"] * len(drawn), rel=1e-12)
        three = (total[k] for k in ("content", "stopped_unseen", "no_user_turn"))
        assert total["format_compliance"] <= min(three)
    counts, traced = origins(replies, probe)
    assert sum(counts.values()) == len(drawn) and set(counts) == set(VERDICTS)
    assert [row[:3] for row in traced["prompts"]] == [[*row] for row in replies["prompts"]]


def test_training_replies_given_again_are_all_verbatim():
    rows = {
        "pairs": [("Say", TRAINED[0], "end")],
        "prompts": [("Speak", reply, "end") for reply in TRAINED * 2],
        "heldout": [],
    }
    counts, traced = origins(rows, Probe("x", [], [], [], [], TRAINED, "To be, or not to be."))
    assert counts == dict.fromkeys(VERDICTS, 0) | {"verbatim": 6}
    assert all(
        row[3]["verdict"] == "verbatim" and row[3]["nearest"] == row[1]
        for group in traced.values()
        for row in group
    )


def test_invented_replies_are_new_and_silent_ones_are_empty():
    rows = {
        "pairs": [],
        "prompts": [("a", "Quite another thing!", "end"), ("b", " \n", "end"), ("c", "", "length")],
        "heldout": [],
    }
    counts, _ = origins(rows, Probe("x", [], [], [], [], TRAINED, ""))
    assert counts == dict.fromkeys(VERDICTS, 0) | {"new": 1, "empty": 2}
    none = {"pairs": [], "prompts": [], "heldout": []}
    assert origins(none, Probe("x", [], [], [], [], []))[0] == dict.fromkeys(VERDICTS, 0)


def test_the_origins_of_a_run_add_up_to_its_prompts_and_every_sample_has_one(home):
    _, report, _ = pysft("eval", home.run)
    assert sum(home.report["origins"].values()) == home.report["prompts"] == len(report["samples"])
    verdicts = [sample[3]["verdict"] for sample in report["samples"]]
    assert {v: verdicts.count(v) for v in VERDICTS} == home.report["origins"] == report["origins"]


# ------------------------------------------------------------------- select, rate, diagnose, report


def test_select_picks_among_the_checkpoints_and_recommends_one_that_exists(home):
    code, choice, said = pysft("select", home.run)
    assert code == 0 and [row["step"] for row in choice["rows"]] == [0, *KEPT] and said == ""
    best = min(lines(home.run)[1:], key=lambda row: row["heldout_loss"])
    picked = {"step": best["step"], "value": best["heldout_loss"], "ties": []}
    assert choice["criteria"]["held-out loss"] == picked
    for name in ("sft", "sft/steps/5"):
        assert pysft("select", home.run / name)[1] == choice
    said = command("select", home.run).out.rstrip().split("chat ")[-1]
    assert (on_disk.find_stage(said.strip("'")) / "model.safetensors").is_file()


def test_rate_takes_marks_from_the_input_and_select_counts_them(copy, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("5\n4\n3\nq\n"))
    flags = ["--steps", "5", "20", "--prompts", "3", "--seed", "1"]
    code, document, said = pysft("rate", copy, *flags)
    assert code == 0 and document["marked"] == 3, said
    assert [row["step"] for row in document["steps"]] == [5, 20]
    marks = sum(row["marks"] for row in document["steps"])
    assert sum(row["marks"] for row in pysft("select", copy)[1]["rows"]) == marks >= 3


@pytest.mark.parametrize("given", ["", None], ids=["empty", "closed"])
def test_rate_without_input_ends_and_writes_nothing(copy, monkeypatch, given):
    monkeypatch.setattr(sys, "stdin", given if given is None else io.StringIO(given))
    before = snapshot(copy)
    code, document, said = pysft("rate", copy)
    assert code == 0 and document["marked"] == 0 and document["left"] > 0
    assert "Traceback" not in said
    assert snapshot(copy) == before


def test_rating_a_step_that_was_not_measured_is_a_usage_error(home):
    code, _, said = pysft("rate", home.run, "--steps", "3")
    assert code == 2 and "step 3" in one_sentence(said)


HEALTHY = {
    "stopped_unseen": 1.0,
    "content": 1.0,
    "format_compliance": 1.0,
    "no_user_turn": 1.0,
    "real_words": 0.99,
    "distinct_words": 0.95,
    "distinct_words_greedy": 0.9,
    "recall": 0.5,
    "origins": {"new": 61},
    "verbatim_replies": 0,
    "forgetting": 0.01,
    "prompts": 61,
}


@pytest.mark.parametrize(
    "sick, mode",
    [
        ({}, None),
        ({"stopped_unseen": 0.0}, "ignores the format"),
        ({"real_words": 0.5}, "gibberish"),
        ({"origins": {"verbatim": 50, "new": 11}}, "memorises"),
        ({"no_user_turn": 0.5}, "writes the user's part"),
        ({"recall": 1.0, "heldout_loss": 99.0}, "good on training prompts only"),
        ({"forgetting": 0.2}, "forgets"),
        ({"distinct_words": 0.6}, "repeats itself"),
    ],
)
def test_diagnose_exits_with_1_if_it_finds_something_and_0_if_not(copy, sick, mode):
    edit(copy / "sft" / "report.json", **(HEALTHY | sick))
    code, document, said = pysft("diagnose", copy)
    assert code == (mode is not None) and said == ""
    assert [f["mode"] for f in document["findings"]] == [mode] * (mode is not None)
    assert document["finished"] is True
    assert all(f["cause"] and f["fix"] and f["figure"] for f in document["findings"])
    done = command("diagnose", copy)
    assert done.code == code and (mode or "none of the seven failure modes shows") in done.out


def test_report_makes_the_same_page_as_training_and_misses_no_file(copy):
    page = (copy / "report.html").read_bytes()
    (copy / "report.html").unlink()
    code, document, said = pysft("report", copy)
    assert code == 0 and said == ""
    assert document == {"run": str(copy), "report": str(copy / "report.html")}
    assert (copy / "report.html").read_bytes() == page
    text = page.decode()
    assert "Measured during fine-tuning" in text and "Before and after" in text
    missing = text.partition("What is missing")[2].partition("<h2>")[0]
    assert "sft/" not in missing and "matplotlib" in missing  # which these tests do without
    done = command("report", copy)
    assert (done.code, done.out, done.err) == (0, f"{copy / 'report.html'}\n", "")


@pytest.mark.parametrize("verb", ["select", "rate", "diagnose", "report", "eval"])
def test_a_folder_that_is_not_there_is_exit_66_in_one_sentence(tmp_path, verb):
    code, document, said = pysft(verb, tmp_path / "none")
    assert (code, document) == (66, None) and str(tmp_path / "none") in one_sentence(said)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["select", "rate", "diagnose"])
def test_a_base_model_is_refused_in_one_sentence(base_only, home, verb):
    for folder in (base_only, base_only / "base", home.run / "base"):
        before = snapshot(folder)
        code, document, said = pysft(verb, folder)
        assert (code, document) == (66, None) and str(folder) in one_sentence(said)
        assert snapshot(folder) == before


def test_a_base_model_has_a_page(base_only):
    code, document, said = pysft("report", base_only)
    assert code == 0, said
    assert "A base model that completes text" in (base_only / "report.html").read_text()


def test_the_lab_lists_its_experiments_and_refuses_others():
    code, document, said = pysft("lab")
    assert code == 0 and {"masking", "forgetting"} <= set(document["experiments"]) and said == ""
    done = command("lab")
    assert done.code == 0 and len(done.out.splitlines()) == len(document["experiments"])
    code, document, said = pysft("lab", "astrology")
    assert (code, document) == (2, None) and "'astrology'" in one_sentence(said)


# ---------------------------------------------------------------------------------------- merging


def test_merging_adapters_into_their_base_gives_the_weights_of_the_run(home, tmp_path):
    lora = ["--lora", "2", "--base", home.run]
    assert pysft(*begin(home.path, tmp_path / "lora", *lora))[0] == 0
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("adapter.safetensors", "vocabulary.json", "template.json"):
        shutil.copy(tmp_path / "lora" / "sft" / name, alone)
    code, document, said = pysft(
        "merge", alone / "adapter.safetensors", "--base", home.run, "--out", tmp_path / "merged"
    )
    assert code == 0, said
    report = json.loads((tmp_path / "lora" / "sft" / "report.json").read_text())
    assert document["weights_sha256"] == report["weights_sha256"]
    assert pysft("chat", tmp_path / "merged", "-p", "Say king")[0] == 0


def test_adapters_that_cannot_be_merged_are_refused_in_one_sentence(home, tmp_path):
    code, document, said = pysft(
        "merge", tmp_path / "none.safetensors", "--base", home.run, "--out", tmp_path / "x"
    )
    assert (code, document) == (66, None) and "no such file" in one_sentence(said)
    assert not (tmp_path / "x").exists()
    for name in ("vocabulary.json", "template.json"):
        shutil.copy(home.run / "sft" / name, tmp_path)
    shutil.copy(home.run / "sft" / "model.safetensors", tmp_path)
    code, document, said = pysft(
        "merge", tmp_path / "model.safetensors", "--base", home.run, "--out", tmp_path / "x"
    )
    assert (code, document) == (65, None) and "holds no adapters" in one_sentence(said)
    assert not (tmp_path / "x").exists()
