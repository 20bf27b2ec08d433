"""Helpers that several test files share."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

# Waiting OpenMP threads sleep instead of spinning. On a machine with other work, a spinning thread
# takes the very core that the thread it waits for needs. OpenMP reads this when it is loaded, so it
# stands before any import of pysft.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Output is buffered, as it is for a command typed in a shell.
os.environ.pop("PYTHONUNBUFFERED", None)

# A suite started in the background ignores SIGINT, and one started by nohup ignores SIGHUP. The
# programs that the tests start and interrupt would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

ROOT = Path(__file__).resolve().parents[1]


# Settings of a run that takes seconds. A test file adds its own steps and windows.
SMALL_RUN = {
    "model": {"context": 64, "layers": 1, "heads": 2, "channels": 16},
    "base": {"warmup": 2},
    "sft": {"tokens": 192, "warmup": 2},
}


def merged(document: dict, **changes) -> dict:
    """A document of settings with these changes, each a value or (a part of) a table."""
    for name, value in changes.items():
        is_table = isinstance(value, dict) and isinstance(document.get(name), dict)
        document = document | {name: document[name] | value if is_table else value}
    return document


def as_toml(document: dict) -> str:
    """A document of settings as a TOML file: its values, then its tables."""
    tables = {name: values for name, values in document.items() if isinstance(values, dict)}
    alone = {name: value for name, value in document.items() if name not in tables}
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in alone.items())
    return text + "".join(f"[{name}]\n{as_toml(values)}" for name, values in tables.items())


def in_process(*arguments):
    """Run one command in this process; return (exit code, standard output, standard error). An
    exception that leaves this function would be a traceback on a user's screen."""
    from pysft.cli import main as cli

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main([str(a) for a in arguments])
        except SystemExit as exit:  # how argparse ends
            code = exit.code
    return code, out.getvalue(), err.getvalue()


def offsets(lengths):
    """cu_seqlens of sequences with these lengths."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def distance(a, b):
    """max|a - b| relative to max|b|; infinite if an element is not finite."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf")
    return float(np.abs(a - b).max(initial=0) / max(np.abs(b).max(initial=0), 1e-30))


def python(*arguments, cwd=ROOT, timeout=60, **env):
    """Run this Python in the folder `cwd`, with the package that stands in it."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": str(cwd), **env},
    )


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk():
    """os.fsync returns at once in the process of the tests: a small run syncs 43 times, and waits
    for the disk as long as it computes. Only a power cut would show the difference. What a sync
    keeps then is worked out from the calls, by the Recorder in test_disk.py. Other processes that
    the tests start do sync."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda number: None)
        yield


# ---------------------------------------------- fixtures of the tests that use command_line.py


@pytest.fixture(scope="module")
def without_figures():
    """For the tests of a file, matplotlib is not there: drawing the figures takes most of the time
    of a small training."""
    from pysft.measure import figures

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "available", lambda: False)
        yield


@pytest.fixture(scope="module")
def figures_as_placed():
    """For the tests of a file, matplotlib draws figures where it first puts them. How texts, axes
    and legend share the room is tested in test_figures.py."""
    from pysft.measure import figures

    def drawn(self, *file, **options):
        self.set_layout_engine(None)
        return save(self, *file, **options)

    with pytest.MonkeyPatch.context() as patch:
        if figures.available():
            from matplotlib.figure import Figure

            save = Figure.savefig
            patch.setattr(Figure, "savefig", drawn)
        yield


@pytest.fixture(scope="module")
def few_prompts():
    """For the tests of a file, a model is asked a seventh of the prompts: measuring it takes
    half the time of a small training."""
    from pysft.measure import probe

    read_prompts = probe.read_prompts
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "read_prompts", lambda path: list(read_prompts(path))[::7])
        yield


@pytest.fixture(scope="module")
def few_tokens():
    """For the tests of a file, the replies of a model that is measured or talked to have at most
    24 tokens. A small model seldom ends a reply."""
    from pysft.inference import session
    from pysft.measure import evaluate

    with pytest.MonkeyPatch.context() as patch:
        for module in (evaluate, session):
            patch.setattr(module, "MAX_NEW", 24)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory, without_figures, few_prompts):
    """A small trained run."""
    from command_line import TrainedRun

    return TrainedRun(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def world_run(tmp_path_factory, without_figures, few_prompts):
    """A small run that learned an invented world: (its folder, its --json document)."""
    from command_line import SMALL_WORLD, succeeds

    folder = tmp_path_factory.mktemp("world")
    config = folder / "small.toml"
    config.write_text(SMALL_WORLD)
    out = folder / "run"
    done = succeeds("train", "--data", "world", "--config", config, "--out", out, "--json")
    return out, done.document


@pytest.fixture(scope="module")
def small_lab():
    """The presets of the lab are small in a whole file of tests."""
    from small_lab import small_presets

    with small_presets():
        yield


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The path of a small corpus for a lab."""
    from small_lab import write_corpus

    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def lab(tmp_path, corpus):
    """A new lab at the scale of the tests."""
    from small_lab import lab_at

    return lab_at(tmp_path / "lab", corpus)


@pytest.fixture
def exercises_here():
    """Exercises run in the process of the tests."""
    from lesson_worker import here

    with here():
        yield


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """An empty current folder."""
    from command_line import WorkDir

    monkeypatch.chdir(tmp_path)
    return WorkDir(tmp_path)
