"""Runs and machines."""

import os
import resource
from pathlib import Path

import pytest
from command_line import CONVERSATIONS, conversation, read_lines, succeeds, toml
from conftest import ROOT

from pysft.text import corpora
from pysft.text.corpora import read_corpus
from situations import OWN, Situation

SMALL = {
    "small.toml": toml(),
    "text.txt": read_corpus("plays")[:12000],
    "talk.jsonl": [conversation(*texts) for texts in CONVERSATIONS],
}
ONE = {
    "small.toml": toml(),
    "one.txt": "a" * 1000,
    "talk.jsonl": [conversation("a" * n, "a" * (n + 1)) for n in range(1, 9)],
}
TRAIN = "train --config small.toml --corpus text.txt --data talk.jsonl --out run"
ONE_RUN = "train --config small.toml --corpus one.txt --data talk.jsonl --out run"


# ------------------------------------------------------------------------------------- the machine


def shakespeare(monkeypatch):
    """The corpus is fetched from a file, and this process has none of it yet."""
    text = ROOT.parent / "shared" / "data" / "tinyshakespeare.txt"
    if not text.is_file():
        pytest.skip("no copy of the Shakespeare corpus here")
    monkeypatch.setenv("PYSFT_SHAKESPEARE_URL", text.as_uri())
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    corpora._uncached.cache_clear()


def no_home(monkeypatch, folder):
    def home():
        raise RuntimeError("Could not determine home directory.")

    shakespeare(monkeypatch)
    monkeypatch.setattr(Path, "home", home)


def home_is_a_file(monkeypatch, folder):
    shakespeare(monkeypatch)
    (folder / "home").write_text("")
    monkeypatch.setenv("HOME", str(folder / "home"))


def home_cannot_be_written(monkeypatch, folder):
    shakespeare(monkeypatch)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)


def said_once(result, folder):
    assert result.err.count("cannot be kept in a cache") == 1


def shell_limit(monkeypatch, folder):
    monkeypatch.setattr(resource, "getrlimit", lambda what: (2**28, 2**28))


def nothing_was_made(result, folder):
    assert not (folder / "run").exists()


MACHINES = [
    Situation(
        "Shakespeare for a user without a home, as an unknown uid in a container",
        "pretrain --config small.toml --corpus shakespeare --out run",
        {"small.toml": toml()},
        says=("cannot be kept in a cache (this user has no home folder)", "base: "),
        check=said_once,
        source=OWN,
        before="RuntimeError: Could not determine home directory, a traceback",
        setup=no_home,
    ),
    Situation(
        "Shakespeare where the home is no folder",
        "pretrain --config small.toml --corpus shakespeare --out run",
        {"small.toml": toml()},
        says=("cannot be kept in a cache (", "Not a directory", "base: "),
        check=said_once,
        source=OWN,
        before="three downloads in one command, and no word about it",
        setup=home_is_a_file,
    ),
    Situation(
        "Shakespeare where the cache cannot be written",
        "pretrain --config small.toml --corpus shakespeare --out run",
        {"small.toml": toml()},
        says=("cannot be kept in a cache (", "Permission denied", "base: "),
        check=said_once,
        source=OWN,
        before="three downloads in one command, and no word about it",
        setup=home_cannot_be_written,
    ),
    Situation(
        "ulimit -v below what the model needs",
        f"{TRAIN} --set model.context=512 base.windows=[[512,512]]",
        SMALL,
        code=2,
        says=("GiB; ulimit -v allows 0.25. Choose a smaller model",),
        check=nothing_was_made,
        source=OWN,
        before="the run was begun, then: not enough memory",
        setup=shell_limit,
    ),
]


# ------------------------------------------------------------------------------------------- runs


def nothing_to_forget(result, folder):
    report = result.document
    assert (report["base_loss"], report["forgetting"]) == (0.0, None)
    assert report["tuned_base_loss"] > 0


def one_symbol(monkeypatch, folder):
    succeeds(*ONE_RUN.split())


def no_matched_forgetting(result, folder):
    report = result.document
    assert report["matched_base_loss"] == 0
    assert report["forgetting"] is report["forgetting_matched"] is None


def rates(folder, stage):
    return [row["lr"] for row in read_lines(folder / "run" / stage / "log.jsonl")]


def the_rate_is_reached(result, folder):
    assert max(rates(folder, "base")) == rates(folder, "base")[-1] == 3e-3
    assert max(rates(folder, "sft")) == rates(folder, "sft")[-1] == 5e-3


def slow_start(monkeypatch, folder):
    """A run of an earlier version, whose warm-up was longer than the stage."""
    from pysft.training.settings import Settings

    with monkeypatch.context() as patch:
        patch.setattr(Settings, "with_short_warmups", lambda self: (self, []))
        succeeds(*TRAIN.split(), "--set", "sft.warmup=1000")


def cut_document(result, folder):
    assert result.document["stop"] == "length"
    assert 0 < result.document["tokens"] < 1000


def linked(monkeypatch, folder):
    succeeds(*TRAIN.split())
    (folder / "link").symlink_to("run")


def moved(monkeypatch, folder):
    succeeds(*TRAIN.split())
    (folder / "run").rename(folder / "elsewhere")


def stdin_closed(monkeypatch, folder):
    monkeypatch.setattr("sys.stdin", None)


RUNS = [
    Situation(
        "a corpus of one character",
        f"{ONE_RUN} --json",
        ONE,
        says=("one.txt: it has one symbol alone",),
        check=nothing_to_forget,
        source=OWN,
        before="forgetting was left out, without a word why",
    ),
    Situation(
        "matched forgetting on a corpus of one character",
        "eval run --matched --json",
        ONE,
        check=no_matched_forgetting,
        source=OWN,
        before="ZeroDivisionError after the measurements, a traceback",
        setup=one_symbol,
    ),
    Situation(
        "the gate on a corpus of one character",
        "eval run --matched --gate 0.1",
        ONE,
        code=2,
        says=("not known or 0, so --gate cannot check its rise; leave --gate out",),
        source=OWN,
        before="ZeroDivisionError after the measurements, a traceback",
        setup=one_symbol,
    ),
    Situation(
        "a warm-up longer than the stage",
        f"{TRAIN} --set base.warmup=100 sft.warmup=1000",
        SMALL,
        says=(
            "[base] warmup = 100 is shortened to the 8 steps of the stage; its last"
            " step reaches the full rate 0.003",
            "[sft] warmup = 1,000 is shortened to the 10 steps of the stage",
        ),
        check=the_rate_is_reached,
        source=OWN,
        before="not a word; the highest rate was 0.01 of the one asked for",
    ),
    Situation(
        "diagnose a run whose rate was never reached",
        "diagnose run",
        SMALL,
        code=1,
        says=("0.005 was asked for, but no step had more than 5e-05",),
        source=OWN,
        before="too low a learning rate (0.005)",
        setup=slow_start,
    ),
    Situation(
        "more tokens than the context holds",
        "generate {run} --tokens 1000 -p King",
        says=("pysft: the text was cut off after 60 of 1,000 tokens, because the context of 64",),
        source=OWN,
        before="the text ended early, without a word",
    ),
    Situation(
        "more tokens than the context holds, as JSON",
        "generate {run} --tokens 1000 -p King --json",
        says=("pysft: the text was cut off after 60 of 1,000 tokens",),
        check=cut_document,
        source=OWN,
        before="the text ended early, without a word",
    ),
    Situation(
        "as many tokens as were asked for",
        "generate {run} --tokens 5 -p King",
        says=("King",),
        never=("cut off",),
        source=OWN,
        before="right",
    ),
    Situation(
        "a message with characters that the vocabulary lacks, to be replaced",
        "chat {run} -p 'K\u00eeng {go}' --unknown replace",
        never=("outside the",),
        says=("pysft: the reply was cut off",),
        source=OWN,
        before="unrecognized arguments: --unknown replace",
    ),
    Situation(
        "a name that is too long",
        f"{TRAIN}{'x' * 300}",
        SMALL,
        code=2,
        says=("cannot be made (File name too long). Choose another folder",),
        source=OWN,
        before="exit 1: File name too long: xxx. Files that were complete on disk are unchanged",
    ),
    Situation(
        "a run's name with a line break",
        "eval 'no\nsuch'",
        code=66,
        says=("pysft: no\\nsuch: no such run folder",),
        source=OWN,
        before="the message was on two lines",
    ),
    Situation(
        "the output folder is a file",
        "train --config small.toml --corpus text.txt --data talk.jsonl --out text.txt",
        SMALL,
        code=2,
        says=("--out text.txt: this is a file. Name a folder",),
        source=OWN,
        before="right",
    ),
    Situation(
        "a run behind a symbolic link",
        "train --resume --out link",
        SMALL,
        says=("-m pysft chat link", "recalled word for word"),
        source=OWN,
        before="right",
        setup=linked,
    ),
    Situation(
        "a run that was moved",
        "eval elsewhere --matched",
        SMALL,
        says=("matched ", "recalled word for word"),
        source=OWN,
        before="right",
        setup=moved,
    ),
    Situation(
        "a thousand threads",
        "generate {run} --threads 1000 --tokens 5 -p King",
        says=("King",),
        source=OWN,
        before="right",
    ),
    Situation(
        "OMP_NUM_THREADS is no number",
        "generate {run} --tokens 5 -p King",
        code=2,
        says=("pysft: OMP_NUM_THREADS=lots is not a number of threads from 1 to 1024",),
        source=OWN,
        before="right",
        setup=lambda monkeypatch, folder: (
            monkeypatch.delenv("PYSFT_NUM_THREADS", raising=False),
            monkeypatch.setenv("OMP_NUM_THREADS", "lots"),
        ),
    ),
    Situation(
        "a chat whose input is closed",
        "chat {run}",
        check=lambda result, folder: None,
        source=OWN,
        before="right",
        setup=stdin_closed,
    ),
]

SITUATIONS: list[Situation] = [*MACHINES, *RUNS]
