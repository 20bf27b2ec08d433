"""Bad input: a command that cannot be done ends with the right exit status and one line that says
what is wrong, and leaves every file as it was."""

import errno
import os
import shlex
import shutil
import stat

import pytest
from command_line import (
    conversation,
    disk_full,
    pysft,
    raising,
    refusal,
    sentence,
    succeeds,
    toml,
)

from pysft.jobs import tune as tune_job
from pysft.nn import safetensors

# ------------------------------------------------------------------------------------ exit status 2


@pytest.mark.parametrize(
    "command",
    [
        "",
        "fly",
        "train --colour red",
        "info run more",
        "chat",
        "eval",
        "train --ops gpu",
        "train --threads 0",
        "train --threads many",
        "train --threads 2000",
        "train --base-steps 0",
        "train --sft-steps 1.5",
        "train --base-step 3",
        "train --seed x",
        "train --lr fast",
        "train --lr -1",
        "train --lr nan",
        "pretrain --lr inf",
        "train --preset huge",
        "train --resume",
        "train --resume --out none",
        "pretrain --resume",
        "pretrain --steps 0",
        "train --template gpt",
        "train --grade none",
        "train --mix 1",
        "mask --user Hi",
        "mask --line 3",
        "mask x.jsonl --user Hi --assistant Ho",
        "audit --context 0",
        "audit --fix none/out.jsonl",
        "mask --svg none/out.svg",
    ],
)
def test_a_bad_command_line_is_exit_2(workdir, command):
    result = pysft(*command.split())
    assert (result.code, result.out) == (2, "")
    assert result.err
    assert workdir.is_unchanged()


LONG = {"context": 20000}
BAD_SETTINGS = [  # (changes of a settings file, part of the error)
    ({"colour": 1}, "'colour'"),
    ({"model": {"colour": 1}}, "'colour'"),
    ({"model": {"channels": 15}}, "channels"),
    ({"model": {"layers": 0}}, "layers"),
    ({"model": {"heads": 0}}, "heads"),
    ({"base": {"windows": [[65, 1]]}}, "[base] windows"),
    ({"base": {"windows": 3}}, "[base] windows"),
    ({"base": {"beta2": 1.0}}, "[base] beta2"),
    ({"sft": {"tokens": 0}}, "tokens"),
    ({"model": LONG, "base": {"windows": [[20000, 1]]}}, "20000"),
    ({"model": LONG, "sft": {"windows": [[20000, 1]]}}, "20000"),
    ({"model": {"context": 10**15}}, "context"),
    ({"base": {"eps": 1e-13}}, "[base] eps"),
    ({"base": {"micro_batches": 0}}, "[base] micro_batches"),
    ({"base": {"decay_all": 1}}, "true or false"),
    ({"data": {"grade": 3}}, "text"),
    (
        {"model": {"context": 256}, "data": {"transcripts": 10, "shipped": "pairs"}},
        "conversations",
    ),
    ("channels", "TOML"),
]


@pytest.mark.parametrize(
    "verb, changes, text",
    [("train", *row) for row in BAD_SETTINGS]
    + [("pretrain", *row) for row in BAD_SETTINGS if "sft" not in row[0]],
)
def test_a_bad_setting_is_refused(trained, workdir, verb, changes, text):
    workdir.write("a.toml", changes if isinstance(changes, str) else toml(**changes))
    data = ["--data", trained.data] if verb == "train" else []
    result = pysft(verb, "--config", "a.toml", "--corpus", trained.corpus, *data)
    assert result.code in (2, 65)
    assert text in sentence(result)
    assert workdir.is_unchanged()


@pytest.mark.parametrize(
    "command, code, text",
    [
        ("chat RUN -p Go --docs none.jsonl", 2, "not trained to search"),
        ("chat RUN -p Go --system ' '", 2, "--system is empty"),
        ("mask DATA --run RUN --unknown grow", 2, "cannot grow"),
        ("mask DATA --run BASE", 2, "a base model"),
        ("mask DATA --run RUN --corpus CORPUS", 2, "--corpus"),
        ("mask DATA --line 999", 2, "line 999"),
        ("mask DATA --svg a.svg", 2, "--line"),
        ("mask DATA --line 1 --svg a.png", 2, ".svg"),
        ("mask DATA --line 1 --svg TAKEN", 2, "exists already"),
        ("audit DATA --fix a.txt", 2, ".jsonl"),
        ("train --data DATA DATA --mix 1 1", 2, "twice"),
        ("train --data DATA --config tools.toml", 2, "leave --data FILE out"),
        ("train --data blank.jsonl", 65, "no conversation"),
        ("train --data DATA held.jsonl --mix 1 1", 65, "held out"),
        ("diagnose BASE", 66, "a base model"),
        ("train --data DATA --base ALONE", 2, "this run holds no base"),
        ("train --resume --out RUN --lora-matrices qkv", 2, "leave out --lora-matrices"),
        ("train --resume --out RUN --no-tools", 2, "leave out --no-tools"),
        ("train --resume --out RUN/sft", 2, "Name RUN by --out"),
        ("pretrain --resume --out RUN/base", 2, "Name RUN by --out"),
        ("train --data .", 65, "directory"),
    ],
)
def test_flags_that_do_not_fit_the_files_they_name_are_refused(
    trained, workdir, command, code, text
):
    workdir.write("tools.toml", toml(model={"context": 256}, data={"transcripts": 4}))
    workdir.write("blank.jsonl", "\n")
    workdir.write("held.jsonl", trained.data.read_text().splitlines()[9])
    shutil.copytree(trained.run / "sft", workdir.path / "alone/sft")  # without its base
    names = {
        "RUN": trained.run,
        "BASE": trained.run / "base",
        "DATA": trained.data,
        "CORPUS": trained.corpus,
        "ALONE": workdir.path / "alone",
        "TAKEN": workdir.write("taken.svg", ""),
    }
    arguments = []
    for word in shlex.split(command):
        first, slash, rest = word.partition("/")
        arguments.append(f"{names.get(first, first)}{slash}{rest}")
    if arguments[0] == "train" and "--resume" not in arguments:
        arguments += ["--corpus", trained.corpus]
        arguments += [] if "--config" in arguments else ["--config", trained.config]
    error = refusal(code, *arguments)
    assert text.replace("RUN", str(trained.run)) in error
    assert "begun with" not in error
    assert workdir.is_unchanged()


def test_a_run_folder_without_its_flag_is_refused_with_the_flag(workdir):
    result = pysft("train", "--resume", "runs/small")
    assert result.code == 2
    assert "name the run's folder by --out" in result.err


@pytest.mark.parametrize("out", [".", "notes.txt"])
def test_a_folder_that_is_taken_is_refused(trained, workdir, out):
    workdir.write("notes.txt", "mine")
    assert f"--out {out}" in refusal(2, "train", *trained.inputs, "--out", out)
    assert workdir.is_unchanged()


def test_a_folder_whose_name_is_not_utf8_is_used_or_refused(trained, workdir):
    name = os.fsdecode(b"run-\xff")
    result = pysft("pretrain", *trained.text, "--out", name)
    assert result.code in (0, 2)
    if result.code:
        sentence(result)


# --------------------------------------------------------------------------------- a missing input


@pytest.mark.parametrize(
    "command, name",
    [
        ("train --corpus none.txt", "none.txt"),
        ("pretrain --corpus none.txt", "none.txt"),
        ("train --data none.jsonl", "none.jsonl"),
        ("train --data none.csv", "none.csv: no such file"),
        ("train --config none.toml", "none.toml"),
        ("train --base none", "none"),
        ("eval none", "none"),
        ("info none", "none"),
        ("chat none -p x", "none"),
        ("generate none", "none"),
        ("eval .", "train"),
        ("audit none.jsonl", "none.jsonl"),
        ("mask none.jsonl", "none.jsonl"),
        ("audit --run none", "none"),
        ("train --template none.json", "none.json"),
        ("audit --heldout none.jsonl", "none.jsonl"),
    ],
)
def test_a_missing_input_is_exit_66_and_named(workdir, command, name):
    assert name in refusal(66, *command.split())
    assert workdir.is_unchanged()


# ---------------------------------------------------------------------------------------- bad data


@pytest.mark.parametrize(
    "row, texts",
    [
        ("[", ["not JSON"]),
        ({"messages": [{"role": "robot", "content": "x"}]}, ["turn 1", "'robot'"]),
        (conversation("Hi", ""), ["turn 2", "empty reply"]),
        (conversation("Hi", "a@b"), ["turn 2", "'@' (U+0040) at position 1"]),
        (conversation("Hi", "x" * 90), ["the context holds 64"]),
    ],
    ids="json role empty unknown too-long".split(),
)
def test_a_bad_conversation_is_exit_65_and_named(trained, workdir, row, texts):
    workdir.write("mine.jsonl", [conversation("Hi", "Yes"), row])
    error = refusal(65, "train", *trained.text, "--data", trained.data, "mine.jsonl")
    for text in ("mine.jsonl", "line 2", *texts):
        assert text in error
    assert workdir.is_unchanged()


@pytest.mark.parametrize(
    "exchange, text", [(("Hi", "a@b"), "'@'"), (("Hi", "x" * 90), "the context holds 64")]
)
def test_a_bad_heldout_conversation_is_found_before_training(trained, workdir, exchange, text):
    rows = [conversation("Hi", "Yes")] * 59
    rows[9] = conversation(*exchange)  # the tenth line is held out
    workdir.write("mine.jsonl", rows)
    error = refusal(65, "train", *trained.text, "--data", "mine.jsonl")
    assert "mine.jsonl, line 10" in error
    assert text in error
    assert workdir.is_unchanged()


@pytest.mark.parametrize(
    "content, text", [(b"\xff" * 2000, "UTF-8"), ("short", "5 characters")], ids=["bytes", "short"]
)
def test_a_bad_corpus_is_exit_65_and_named(trained, workdir, content, text):
    workdir.write("mine.txt", content)
    error = refusal(65, "train", *trained.inputs, "--corpus", "mine.txt")
    assert "mine.txt" in error
    assert text in error
    assert workdir.is_unchanged()


def test_conversations_with_characters_that_the_corpus_lacks_are_refused(trained, workdir):
    workdir.write("mine.txt", "0123456789 \n" * 200)
    error = refusal(65, "train", *trained.inputs, "--corpus", "mine.txt")
    assert "outside the 12 characters" in error
    assert workdir.is_unchanged()


# ------------------------------------------------------------------------------------- a full disk


@pytest.mark.parametrize("call, code", [("fsync folder", 2), ("fsync file", 1), ("replace", 1)])
def test_a_full_disk_is_one_sentence(trained, workdir, monkeypatch, call, code):
    name, _, kind = call.partition(" ")
    real = getattr(os, name)

    def full(*arguments):
        if kind and stat.S_ISDIR(os.fstat(arguments[0]).st_mode) != (kind == "folder"):
            return real(*arguments)
        raise disk_full()

    monkeypatch.setattr(os, name, full)
    result = pysft("pretrain", *trained.text, "--out", "run")
    assert result.code == code
    assert "No space left" in sentence(result)


def test_a_full_disk_in_a_training_says_how_to_go_on(trained, workdir, monkeypatch):
    monkeypatch.setattr(tune_job, "save_stage", raising(disk_full()))
    result = pysft("train", *trained.inputs, "--out", "run")
    assert result.code == 1
    [line] = result.err.splitlines()
    assert "No space left on device" in line
    assert "--resume --out run" in line


@pytest.fixture
def merge(trained, workdir):
    """The command that merges the adapters of a LoRA training, but for its --out."""
    succeeds("train", *trained.inputs, "--lora", 2, "--out", "run")
    return ["merge", "run/sft/adapter.safetensors", "--base", "run", "--out"]


def test_a_merge_onto_a_full_disk_leaves_no_file_and_no_folder_of_its_own(
    merge, workdir, monkeypatch
):
    monkeypatch.setattr(safetensors, "save", raising(disk_full()))
    assert pysft(*merge, "merged").code == 1
    assert not (workdir.path / "merged").exists()
    (workdir.path / "mine").mkdir()
    assert pysft(*merge, "mine").code == 1
    assert os.listdir(workdir.path / "mine") == []


def test_a_merged_run_is_not_taken_for_a_training(merge, workdir):
    succeeds(*merge, "merged")
    taken = refusal(2, *merge, "merged")
    assert "not empty" in taken
    assert "--resume" not in taken
    assert "merging does not" in refusal(66, "eval", "merged")


def test_a_folder_that_cannot_be_locked_is_reported(trained, workdir, monkeypatch):
    no_locks = OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    monkeypatch.setattr("fcntl.flock", raising(no_locks))
    out = succeeds("train", *trained.inputs, "--out", "run").out
    assert "run: cannot be locked here" in out


@pytest.mark.parametrize(
    "command, said",
    [
        ("traine", "did you mean train?"),
        ("train --base-stepz 3", "did you mean --base-steps?"),
        ("mask --proof", "did you mean --prove?"),
        ("chat", "pysft chat --help"),
        ("train --base-steps x", "'x' is not a whole number above 0"),
    ],
)
def test_a_mistyped_command_is_one_sentence_with_a_way_on(command, said):
    result = pysft(*command.split())
    assert result.code == 2 and said in result.err
    assert len(result.err.splitlines()) == 1 and "--help" in result.err
