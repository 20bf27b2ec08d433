"""`--resume`: what it goes on with, what it refuses, and the same bytes at the end."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import (
    SHORT_TUNING,
    conversation,
    files_in,
    interrupted_after,
    interrupted_at_once,
    lines,
    pysft,
    refusal,
    succeeds,
)
from conftest import merged

from pysft.jobs import material
from pysft.run.begun import READ, resume_command
from pysft.text import examples
from pysft.training.settings import Settings

pytestmark = pytest.mark.usefixtures("few_prompts", "few_tokens")

RESUME = ("train", "--resume", "--out", "run")


@pytest.fixture
def begin(workdir):
    """A function that begins a run in the folder "run" and interrupts it before its first step."""

    def begin(verb, *flags):
        with interrupted_at_once():
            assert pysft(verb, *flags, "--out", "run").code == 130

    return begin


def spoil_last_byte(path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"?")


# ----------------------------------------------------------------------------- what it goes on with


@pytest.mark.parametrize("steps", [0, 1, 5, 8])
def test_interrupted_pretraining_is_resumed_to_the_same_weights(trained, workdir, steps):
    command = ["pretrain", *trained.text]
    uninterrupted = succeeds(*command, "--out", "uninterrupted", "--json").document
    with interrupted_after(steps):
        assert pysft(*command, "--out", "run").code == 130
    resumed = succeeds("pretrain", "--resume", "--out", "run", "--json").document
    assert resumed["weights_sha256"] == uninterrupted["weights_sha256"]


def test_a_shortened_warm_up_is_stored_and_a_resumed_run_ends_in_the_same_bits(
    trained, workdir, begin
):
    command = ["train", *trained.inputs, "--set", "sft.warmup=1000"]
    uninterrupted = succeeds(*command, "--out", "uninterrupted", "--json")
    assert "[sft] warmup = 1,000 is shortened to the 10 steps of the stage" in uninterrupted.err
    begin(*command)
    stored = json.loads((workdir.path / "run" / "run.json").read_text())["settings"]
    assert (stored["sft"]["warmup"], stored["sft"]["steps"], stored["base"]["warmup"]) == (
        10,
        10,
        2,
    )
    resumed = succeeds(*RESUME, "--json")
    assert "is shortened" not in resumed.err
    assert resumed.document["weights_sha256"] == uninterrupted.document["weights_sha256"]


def test_a_run_that_was_begun_with_a_warm_up_longer_than_its_stage_keeps_it(
    trained, workdir, begin, monkeypatch
):
    """An earlier version did not shorten it."""
    command = ["train", *trained.inputs, "--set", "sft.warmup=1000"]
    with monkeypatch.context() as patch:
        patch.setattr(Settings, "with_short_warmups", lambda self: (self, []))
        uninterrupted = succeeds(*command, "--out", "uninterrupted", "--json").document
        begin(*command)
    resumed = succeeds(*RESUME, "--json").document
    assert resumed["weights_sha256"] == uninterrupted["weights_sha256"]


def test_the_time_between_checkpoints_may_be_given_anew_and_is_kept(trained, workdir, begin):
    begin("train", *trained.inputs, "--save-every", "5")

    def stored():
        settings = json.loads((workdir.path / "run" / "run.json").read_text())["settings"]
        return settings["base"]["save_every"], settings["sft"]["save_every"]

    assert stored() == (5, 5)
    with interrupted_at_once():
        assert pysft(*RESUME).code == 130
        assert stored() == (5, 5)
        assert pysft(*RESUME, "--save-every", "0.5").code == 130
    assert stored() == (0.5, 0.5)
    report = succeeds(*RESUME, "--json").document
    assert report["weights_sha256"] == trained.report["weights_sha256"]


def test_a_run_of_an_earlier_version_without_that_setting_is_resumed(trained, workdir, begin):
    begin("train", *trained.inputs)
    path = workdir.path / "run" / "run.json"
    record = json.loads(path.read_text())
    for name in ("base", "sft"):
        del record["settings"][name]["save_every"]
    path.write_text(json.dumps(record))
    report = succeeds(*RESUME, "--json").document
    assert report["weights_sha256"] == trained.report["weights_sha256"]


@pytest.mark.parametrize("value", ["-1", "soon", "nan", "1e6"])
def test_a_time_that_is_none_is_refused(value):
    error = refusal(2, "train", f"--save-every={value}")
    assert "is not a number of seconds from 0 to a million" in error


def test_a_run_begun_with_the_reference_is_resumed_with_it(trained, workdir, begin):
    command = ["train", *trained.inputs, "--ops", "reference"]
    begin(*command)
    resumed = succeeds(*RESUME, "--json")
    assert "begun with --ops reference" in resumed.err
    uninterrupted = succeeds(*command, "--out", "uninterrupted", "--json")
    assert resumed.document["weights_sha256"] == uninterrupted.document["weights_sha256"]


def test_a_run_is_resumed_by_the_verb_that_began_it(trained, workdir, begin):
    begin("train", *trained.inputs)
    before = files_in("run")
    error = refusal(2, "pretrain", "--resume", "--out", "run")
    assert "python -m pysft train --resume --out run" in error
    assert files_in("run") == before


def test_going_on_with_other_kernels_is_reported_and_recorded(trained, workdir, begin):
    begin("train", *trained.inputs)
    path = workdir.path / "run/run.json"
    record = json.loads(path.read_text())
    assert (record["verb"], record["ops"]) == ("train", "kernels")
    assert record["isa"]
    path.write_text(json.dumps(record | {"isa": "another"}))
    both = f"another, {record['isa']}"

    first, second = succeeds(*RESUME, "--json").err, succeeds(*RESUME, "--json").err
    assert "begun on instruction set another" in first
    assert "PYSFT_ISA=another" in first  # how to keep them
    assert f"begun on instruction set {both}" in second
    assert "PYSFT_ISA" not in second  # nothing keeps two
    assert json.loads(path.read_text())["isa"] == both


def test_a_damaged_finished_stage_is_trained_again_once_its_weights_are_removed(trained, workdir):
    shutil.copytree(trained.run, "run")
    weights = workdir.path / "run/sft/model.safetensors"
    spoil_last_byte(weights)
    result = pysft(*RESUME, "--json")
    assert (result.code, result.out) == (65, "")
    remedy = "Without run/sft/model.safetensors, --resume trains the stage again"
    assert remedy in result.err.splitlines()[-1]
    weights.unlink()
    report = succeeds(*RESUME, "--json").document
    assert report["weights_sha256"] == trained.report["weights_sha256"]


@pytest.mark.parametrize(
    "record, verb",
    [
        ('{"verb": "train"}', "train"),
        ('{"verb": "pretrain"}', "pretrain"),
        ('{"verb": "rm -r"}', "train"),  # a damaged record must not put words into a command
        ('{"verb": null}', "train"),
        ("{}", "train"),
        ("{", "train"),
        (None, "train"),
    ],
)
def test_the_command_that_goes_on_has_the_verb_of_the_record(tmp_path, record, verb):
    if record is not None:
        (tmp_path / "run.json").write_text(record)
    assert resume_command(tmp_path) == f"python -m pysft {verb} --resume --out {tmp_path}"


# --------------------------------------------------------------------------------- what it refuses


@pytest.mark.parametrize("missing", ["conversations.jsonl", "corpus.txt", "base"])
def test_a_run_is_resumed_in_the_folder_where_it_was_begun_with_its_inputs_in_place(
    trained, workdir, begin, monkeypatch, missing
):
    for path in (trained.data, trained.corpus, trained.config):
        shutil.copy(path, workdir.path)
    shutil.copytree(trained.run / "base", "base")
    flags = "--config small.toml --corpus corpus.txt --data conversations.jsonl".split()
    begin("train", *flags, *(["--base", "base"] if missing == "base" else []))

    monkeypatch.chdir("run")
    error = refusal(66, "train", "--resume", "--out", ".")
    assert "resume from the folder where the run was begun" in error
    monkeypatch.chdir(workdir.path)
    os.rename(missing, "elsewhere")
    error = refusal(66, *RESUME)
    assert f"{missing}: cannot be read" in error
    assert "Put it back" in error
    os.rename("elsewhere", missing)
    succeeds(*RESUME)


def test_a_base_that_was_tuned_meanwhile_is_still_the_same_base(trained, workdir):
    """Only the base stage of --base RUN is read, whatever else stands in its folder."""
    shutil.copytree(trained.run / "base", "a/base")
    config = workdir.write("short.toml", SHORT_TUNING)
    flags = ("--config", config, "--corpus", trained.corpus, "--data", trained.data)
    succeeds("train", *flags, "--base", "a", "--out", "run")
    shutil.copytree(trained.run / "sft", "a/sft")
    succeeds(*RESUME)
    spoil_last_byte(workdir.path / "a/base/model.safetensors")
    assert pysft(*RESUME).code == 65


@pytest.mark.parametrize(
    "change, text",
    [
        ({"settings": {"colour": 1}}, "colour"),
        ({"settings": {"sft": {"colour": 1}}}, "colour"),
        ({"settings": 3}, "run.json"),
        ({"settings": {"model": {"layers": -1}}}, "layers"),
        ({"template": None}, "run.json"),
        ({"sha256": "x"}, "run.json"),
        ({"isa": None}, "isa"),
        ({"corpus": 5}, "corpus"),
        ({"data": [5]}, "data"),
        ({"base": []}, "base"),
        ({"base": [5]}, "base"),
    ],
)
def test_a_record_that_no_run_wrote_is_refused(trained, workdir, change, text):
    record = json.loads((trained.run / "run.json").read_text())
    (workdir.path / "run").mkdir()
    workdir.write("run/run.json", json.dumps(merged(record, **change)))
    error = refusal(65, *RESUME)
    assert "not as this program writes it" in error
    assert text in error
    assert workdir.is_unchanged()


@pytest.mark.parametrize("flag", ["--seed 3", "--corpus x", "--lr 0.1", "--preset mini"])
def test_resume_takes_no_other_settings(workdir, flag):
    flag = flag.split()
    assert f"leave out {flag[0]}" in refusal(2, *RESUME, *flag)
    assert workdir.is_unchanged()


# ------------------------------------------------------- another version reads the same files anew


def has_read_something_else(error) -> bool:
    assert "not as this" not in error and "Put the old content back" not in error
    return "what is read from " in error and "resume with the version of pysft" in error


def change_digests(change) -> None:
    """Call change(digests) on those in the record of the run in the folder "run"."""
    path = Path("run/run.json")
    record = json.loads(path.read_text())
    change(record["sha256"])
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    "module, name, changed",
    [
        (material, "scan", lambda rows: list(rows)[1:]),  # left out
        (material, "split_corpus", lambda parts: (parts[0][:-1], parts[1])),
        (examples, "shift", lambda arrays: (arrays[0], np.append(arrays[1][:-1], 0))),  # graded
    ],
)
def test_a_run_whose_files_are_read_otherwise_now_is_not_resumed(
    trained, workdir, begin, monkeypatch, module, name, changed
):
    begin("train", *trained.inputs)
    before = files_in("run")
    read = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *a, **more: changed(read(*a, **more)))
    error = refusal(65, *RESUME)
    assert has_read_something_else(error)
    assert str(trained.corpus) in error and str(trained.data) in error
    assert files_in("run") == before


def test_a_base_whose_vocabulary_is_read_otherwise_now_is_not_resumed(
    trained, workdir, begin, monkeypatch
):
    begin("pretrain", *trained.text)
    read = material.vocabulary_of
    monkeypatch.setattr(material, "vocabulary_of", lambda kind, text: read(kind, text + "\u00a7"))
    assert has_read_something_else(refusal(65, "pretrain", "--resume", "--out", "run"))


def test_a_record_without_that_digest_gets_it_where_nothing_was_composed_or_left_out(
    trained, workdir, begin
):
    begin("train", *trained.inputs)
    change_digests(lambda sha256: sha256.pop(READ))
    report = succeeds(*RESUME, "--json").document
    assert report["weights_sha256"] == trained.report["weights_sha256"]
    assert READ in json.loads(Path("run/run.json").read_text())["sha256"]


@pytest.mark.parametrize("accents, deleted", [(True, False), (False, True)])
def test_a_record_without_that_digest_is_refused_where_something_was_composed_or_left_out(
    trained, workdir, begin, accents, deleted
):
    rows = [conversation("Praise the king", "Voila\u0300." if accents else "No.")]
    node = {"message_id": "a", "parent_id": None, "role": "prompter", "text": "Hi"}
    reply = {"message_id": "b", "parent_id": "a", "role": "assistant", "text": "Ho."}
    rows += [node, reply, reply | {"message_id": "c", "deleted": True}] if deleted else []
    data = workdir.write("mine.jsonl", lines(rows))
    begin("train", *trained.text, "--data", data, "--unknown", "grow")
    change_digests(lambda sha256: sha256.pop(READ))
    before = files_in("run")
    assert has_read_something_else(refusal(65, *RESUME))
    assert files_in("run") == before


@pytest.mark.parametrize("odd", ["a\u0300 ", "\r", "a \ufeff"])
def test_a_corpus_that_an_earlier_version_read_otherwise_is_not_called_changed(
    trained, workdir, begin, odd
):
    text = "\ufeff" + trained.corpus.read_text().replace("\n", "\r\n") + odd * 5
    corpus = workdir.path / "odd.txt"
    corpus.write_bytes(text.encode())
    begin("train", "--config", trained.config, "--corpus", "odd.txt", "--data", trained.data)
    earlier = text.removeprefix("\ufeff").replace("\r\n", "\n")
    digest = hashlib.sha256(earlier.encode()).hexdigest()
    change_digests(lambda sha256: sha256.update({"odd.txt": digest}))
    before = files_in("run")
    error = refusal(65, *RESUME)
    assert has_read_something_else(error) and error.startswith("pysft: odd.txt: ")
    corpus.write_bytes(text.encode() + b"more")
    assert "odd.txt: changed since this run was begun" in refusal(65, *RESUME)
    assert files_in("run") == before
