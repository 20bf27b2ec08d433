"""Whole runs: the same command gives the same run, and a run that was interrupted anywhere goes on
as if it had not been."""

import json
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
from command_line import (
    TrainedRun,
    conversation,
    files_in,
    pysft,
    raising,
    refusal,
    stage_log,
    succeeds,
)

from pysft.disk import lock_folder
from pysft.jobs import material
from pysft.jobs import measured as measured_job
from pysft.jobs import pretrain as pretrain_job
from pysft.jobs import tune as tune_job
from pysft.jobs import work as work_job
from pysft.measure import probe
from pysft.run.stage import load_stage, weights_sha256
from pysft.text import corpora
from pysft.training.stages import PLANS

pytestmark = pytest.mark.usefixtures("few_prompts", "few_tokens")

STAGES = ("base", "sft")
STAGE_FILES = set(
    "settings.json vocabulary.json template.json model.safetensors log.jsonl evaluation.json"
    " report.json".split()
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, without_figures):
    """A small run whose fine-tuning is measured on the way, and longer than the steps that its last
    loss is the mean of."""
    tables = {"base": {"steps": 6}, "sft": {"steps": 24, "checkpoint_every": 8}}
    return TrainedRun(tmp_path_factory.mktemp("trained"), **tables)


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the trained run."""
    return shutil.copytree(trained.run, tmp_path / "run")


def figures(report) -> dict:
    """A report without its timings, its folder, and the memory that the process held before."""
    return {
        name: value
        for name, value in report.items()
        if "seconds" not in name and name not in ("tokens_per_s", "run", "peak_memory")
    }


def resume(folder):
    """Resume a run; the result."""
    return succeeds("train", "--resume", "--out", folder, "--json")


def assert_same_run(folder, report, trained):
    """The run in the folder has the report, the weights, the logs and the files of `trained`."""
    assert figures(report) == figures(trained.report)
    for stage in STAGES:
        weights = f"{stage}/model.safetensors"
        assert (folder / weights).read_bytes() == (trained.run / weights).read_bytes()
        assert stage_log(folder / stage) == stage_log(trained.run / stage)
    assert files_in(folder).keys() == files_in(trained.run).keys()


def interrupt(command, name, at):
    """Run a training; a SIGINT comes while step `at` (from 0) of a stage is drawn. name: that of
    the function that plans the stage."""
    table, key = (PLANS, "sft") if name == "finetune" else (vars(work_job), name)
    make_plan = table[key]

    def interrupted_plan(*arguments):
        plan = make_plan(*arguments)

        def draw(step):
            if step == at:
                os.kill(os.getpid(), signal.SIGINT)
            return plan.draw(step)

        return replace(plan, draw=draw)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(table, key, interrupted_plan)
        result = pysft(*command, "--json")
    assert (result.code, result.out) == (130, "")
    assert "--resume" in result.err


# ---------------------------------------------------------------------------------- a finished run


def test_the_same_command_gives_the_same_run(trained, tmp_path):
    result = succeeds("train", *trained.inputs, "--out", tmp_path / "run", "--json")
    assert_same_run(tmp_path / "run", result.document, trained)


def test_a_finished_run_has_all_files_and_no_checkpoint(trained):
    names = files_in(trained.run).keys()
    assert names >= {f"{stage}/{name}" for stage in STAGES for name in STAGE_FILES}
    assert "sft/samples.json" in names
    assert not any("checkpoints" in name or name.endswith(".tmp") for name in names)


def test_a_tuned_stage_names_its_base_and_its_settings(trained):
    base, tuned = load_stage(trained.run / "base"), load_stage(trained.run)
    assert tuned.parent["weights_sha256"] == weights_sha256(base.model)
    assert weights_sha256(tuned.model) == trained.report["weights_sha256"]
    assert len(tuned.tokenizer) == len(base.tokenizer) + 3
    assert tuned.settings["sft"]["steps"] == 24
    assert "base" not in tuned.settings
    assert tuned.settings["preset"] == "tiny"


def test_the_fine_tuning_loss_is_the_mean_over_conversations_in_the_last_20_steps(trained):
    losses = [row["figures"]["conversation"] for row in stage_log(trained.run / "sft")]
    assert len(losses) == 24
    assert trained.report["sft_loss_start"] == losses[0]
    assert trained.report["sft_loss"] == pytest.approx(np.mean(losses[-20:]), rel=1e-12)


def test_eval_and_chat_need_nothing_but_the_stages_folder(trained, workdir, monkeypatch):
    shutil.copytree(trained.run / "sft", "moved")
    for module, name in ((corpora, "read_corpus"), (material, "scan"), (probe, "read_prompts")):
        monkeypatch.setattr(module, name, None)
    report = succeeds("eval", "moved", "--json").document
    measured = figures(report)
    for name in ("before_after", "chat", "samples"):
        del measured[name]
    assert measured == {k: v for k, v in figures(trained.report).items() if k in report}
    reply = succeeds("chat", "moved", "-p", "Show the king", "--json").document
    assert reply["stop"] in ("end", "length")
    assert os.listdir() == ["moved"]


def test_a_stage_that_stored_no_settings_of_its_data_is_measured_by_the_usual_ones(trained, run):
    path = run / "sft/settings.json"
    document = json.loads(path.read_text())
    document["settings"]["data"] = {}
    path.write_text(json.dumps(document))
    report = succeeds("eval", run, "--json").document
    assert "tools" not in report and report["chat"] == []
    for name, value in figures(trained.report).items():
        assert name not in report or report[name] == value, name


@pytest.mark.parametrize(
    "name, content",
    [
        ("evaluation.json", b"{"),
        ("evaluation.json", b"{}"),
        ("evaluation.json", None),
        ("report.json", b"[]"),
        ("evaluation.json", {"heldout_text": 5}),
        ("evaluation.json", {"heldout_text": ""}),
        ("evaluation.json", {"pairs": [["x"]]}),
        ("evaluation.json", {"prompts": [{"text": "x"}]}),
        ("evaluation.json", {"sealed": [{"prompt": 3, "domain": "in"}]}),
        ("evaluation.json", {"sealed": [{"prompt": "x", "domain": None}]}),
        ("evaluation.json", {"sealed": [{"prompt": [{"role": "user"}], "domain": "in"}]}),
        ("evaluation.json", {"heldout": [[]]}),
    ],
)
def test_a_damaged_file_that_measuring_needs_is_named(trained, tmp_path, name, content):
    """content: None, the file is missing; a dict, these fields are changed."""
    shutil.copytree(trained.run / "sft", tmp_path / "run")
    path = tmp_path / "run" / name
    if content is None:
        path.unlink()
    elif isinstance(content, dict):
        path.write_text(json.dumps(json.loads(path.read_text()) | content))
    else:
        path.write_bytes(content)
    code = 66 if content is None else 65
    assert name in refusal(code, "eval", tmp_path / "run")


# --------------------------------------------------------------------------- interrupt and resume


@pytest.mark.parametrize(
    "plan, at",
    [
        ("pretrain", 0),
        ("pretrain", 5),
        ("finetune", 3),
        ("finetune", 23),
    ],
    ids="base-first base-last sft-early sft-last".split(),
)
def test_an_interrupted_run_is_resumed_to_the_same_run(trained, tmp_path, plan, at):
    interrupt(["train", *trained.inputs, "--out", tmp_path / "run"], plan, at)
    assert_same_run(tmp_path / "run", resume(tmp_path / "run").document, trained)


@pytest.mark.parametrize("job, measuring", [(tune_job, "corpus_loss"), (measured_job, "measure")])
def test_a_run_interrupted_while_it_measures_is_resumed_to_the_same_run(
    trained, tmp_path, monkeypatch, job, measuring
):
    with monkeypatch.context() as patch:
        patch.setattr(job, measuring, raising(KeyboardInterrupt))
        result = pysft("train", *trained.inputs, "--out", tmp_path / "run", "--json")
    assert (result.code, result.out) == (130, "")
    assert_same_run(tmp_path / "run", resume(tmp_path / "run").document, trained)


@pytest.mark.parametrize(
    "path",
    "base/evaluation.json base/report.json sft/evaluation.json sft/report.json"
    " sft/samples.json".split(),
)
def test_a_run_interrupted_between_two_of_its_files_is_resumed_to_the_same_run(
    trained, tmp_path, monkeypatch, path
):
    run, write_json = tmp_path / "run", tune_job.write_json

    def interrupted(target, data):
        if target == run / path:
            raise KeyboardInterrupt
        write_json(target, data)

    with monkeypatch.context() as patch:
        for job in (tune_job, pretrain_job):
            patch.setattr(job, "write_json", interrupted)
        assert pysft("train", *trained.inputs, "--out", run).code == 130
    assert_same_run(run, resume(run).document, trained)
    succeeds("eval", run)


def test_a_run_on_a_given_base_is_resumed_on_that_base(trained, tmp_path):
    command = ["train", *trained.inputs, "--base", trained.run, "--out"]
    uninterrupted = succeeds(*command, tmp_path / "uninterrupted", "--json").document
    assert uninterrupted["weights_sha256"] == trained.report["weights_sha256"]
    interrupt([*command, tmp_path / "run"], "finetune", 3)
    assert figures(resume(tmp_path / "run").document) == figures(uninterrupted)
    assert not (tmp_path / "run" / "base").exists()


@pytest.mark.parametrize(
    "name, line",
    [
        ("corpus.txt", "One line more.\n"),
        ("conversations.jsonl", conversation("Hi", "Aye.") + "\n"),
    ],
)
def test_a_run_whose_inputs_have_changed_is_not_resumed(trained, tmp_path, name, line):
    shutil.copy(trained.folder / name, tmp_path / name)
    moved = {trained.folder / name: tmp_path / name}
    inputs = [moved.get(argument, argument) for argument in trained.inputs]
    interrupt(["train", *inputs, "--out", tmp_path / "run"], "finetune", 3)
    with open(tmp_path / name, "a") as f:
        f.write(line)
    before = files_in(tmp_path)
    assert name in refusal(65, "train", "--resume", "--out", tmp_path / "run")
    assert files_in(tmp_path) == before


def test_a_second_training_in_a_folder_is_refused(run):
    with lock_folder(run):
        before = files_in(run)
        assert "another process" in refusal(2, "train", "--resume", "--out", run)
    assert files_in(run) == before


def test_resuming_a_finished_run_changes_nothing(trained, run):
    assert_same_run(run, resume(run).document, trained)


@pytest.mark.parametrize(
    "change",
    [lambda lines: lines[1:], lambda lines: [*lines[:3], b"x\n", *lines[4:]], lambda lines: []],
    ids=["a line missing", "a line damaged", "empty"],
)
def test_a_finished_stage_whose_log_is_damaged_is_reported(run, change):
    log = run / "sft/log.jsonl"
    log.write_bytes(b"".join(change(log.read_bytes().splitlines(keepends=True))))
    assert "sft/log.jsonl: lines are damaged or missing." in resume(run).err
