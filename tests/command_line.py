"""The command line called in this process, and a small run trained by it, for the tests of the
command line and of whole runs."""

import contextlib
import errno
import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import SMALL_RUN, as_toml, in_process, merged

from pysft.jobs import pretrain as pretrain_job
from pysft.jobs import reward as reward_job
from pysft.jobs import tune as tune_job
from pysft.jobs import tuned as tuned_job
from pysft.text.corpora import read_corpus
from pysft.training import runner

# A training that takes a fifth of a second. It is not measured on the way: that would take most of
# its time.
SETTINGS = merged(
    SMALL_RUN,
    base={"steps": 8, "windows": [[32, 8]]},
    sft={"steps": 10, "windows": [[32, 2]], "checkpoint_every": "never"},
)
# A settings file for fine-tuning a given base. All else is the base's, or the preset's.
SHORT_TUNING = '[sft]\nsteps = 2\nwindows = []\ncheckpoint_every = "never"\n'
SUBJECTS = "king rose crown ship night sword moon song bread river".split()
# Sixty conversations, each (user, assistant, user, ...). The fourth has two exchanges.
CONVERSATIONS = [
    (f"{verb} the {subject}", f"The {subject} is fair.")
    for verb in ("Praise", "Show", "Sing of", "Speak of", "Name", "What of")
    for subject in SUBJECTS
]
CONVERSATIONS[3] += ("More", "No.")


# An invented world, and a training that takes a second on it.
WORLD = {"people": 20, "days": 0, "strangers": 20, "tellings": [0, 4]}
SMALL_WORLD = as_toml(
    merged(
        SETTINGS,
        model={"context": 128},
        world=WORLD,
        base={"steps": 6, "windows": [[32, 2]], "world": [[32, 4]]},
        sft={"steps": 4, "windows": [[32, 1]], "world": [[32, 1]], "pairs": 0, "tokens": 400},
    )
)


# ------------------------------------------------------------------------------------- commands


@dataclass
class Result:
    """What a command returned and printed. document: what --json printed, else None."""

    code: int
    out: str
    err: str
    document: dict | None = None


def pysft(*arguments) -> Result:
    """Run one command in this process. It must not show a traceback."""
    result = Result(*in_process(*arguments))
    assert "Traceback" not in result.out + result.err
    if "--json" in arguments and result.out:
        result.document = json.loads(result.out)
    return result


def succeeds(*arguments) -> Result:
    """Run a command that must end with exit status 0."""
    result = pysft(*arguments)
    assert result.code == 0, result.err
    return result


def refusal(code, *arguments) -> str:
    """Run a command that must end with this exit status, nothing on standard output and one line on
    standard error. Returns that line."""
    result = pysft(*arguments)
    assert result.code == code, (result.code, result.err)
    assert result.out == ""
    return sentence(result)


def sentence(result: Result) -> str:
    """The one line on standard error, beside notes about tables of settings that are not used."""
    [line] = [line for line in result.err.splitlines() if "] not used, because" not in line]
    return line


# ------------------------------------------------------------------------------ files and folders


def conversation(*texts, system=None) -> str:
    """A JSON line: the user, the assistant, the user, and so on, perhaps after a system turn."""
    before = [] if system is None else [{"role": "system", "content": system}]
    turns = zip(("user", "assistant") * len(texts), texts)
    return json.dumps({"messages": before + [{"role": r, "content": text} for r, text in turns]})


def lines(rows) -> str:
    """A file of these lines. A row that is not a text is written as JSON."""
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def toml(**changes) -> str:
    """The text of a settings file: SETTINGS with these changes, as merged() takes them."""
    return as_toml(merged(SETTINGS, **changes))


def files_in(folder) -> dict[str, bytes]:
    """Every file under a folder, by its path from there."""
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def read_lines(path) -> list:
    """The rows of a file of JSON lines."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def stage_log(folder) -> list[dict]:
    """The rows of a stage's log, without their timings."""
    timings = ("seconds", "tokens_per_s")
    return [
        {name: value for name, value in row.items() if name not in timings}
        for row in read_lines(folder / "log.jsonl")
    ]


class WorkDir:
    """An empty current folder."""

    def __init__(self, path: Path):
        self.path = path
        self.remember()

    def _content(self):
        return {path: path.is_file() and path.read_bytes() for path in self.path.rglob("*")}

    def remember(self) -> None:
        """What stands in the folder now is what is_unchanged() compares with."""
        self._remembered = self._content()

    def is_unchanged(self) -> bool:
        """True if the folder holds the same files and folders as after the last write()."""
        return self._content() == self._remembered

    def write(self, name: str, content) -> Path:
        """Write a file of a text, of bytes, or of a list of rows (a line each)."""
        content = lines(content) if isinstance(content, list) else content
        content = content.encode() if isinstance(content, str) else content
        path = self.path / name
        path.write_bytes(content)
        self.remember()
        return path


class TrainedRun:
    """A folder with a corpus, conversations and a settings file, and a small run trained on them.

    text: the flags that name the settings and the corpus. inputs: those and the conversations.
    result: what the training returned and printed. report: its --json document."""

    def __init__(self, folder: Path, conversations=CONVERSATIONS, **settings):
        self.folder, self.run = folder, folder / "run"
        self.config = folder / "small.toml"
        self.corpus = folder / "corpus.txt"
        self.data = folder / "conversations.jsonl"
        self.config.write_text(toml(**settings))
        self.corpus.write_text(read_corpus("plays")[:12000])
        self.data.write_text(lines(conversation(*texts) for texts in conversations))
        self.text = ["--config", self.config, "--corpus", self.corpus]
        self.inputs = [*self.text, "--data", self.data]
        self.result = succeeds("train", *self.inputs, "--out", self.run, "--json")
        self.report = self.result.document

    def fine_tuning(self, data, *flags) -> list:
        """The command that fine-tunes this run's base on another file of conversations."""
        return ["train", *self.text, "--base", self.run, "--data", data, "--json", *flags]


# --------------------------------------------------------------------------------------- faults


def raising(error):
    """A function that takes any arguments and raises this error."""

    def raises(*arguments, **options):
        raise error

    return raises


def disk_full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def interrupted_at_once():
    """Inside `with`, every training meets a Ctrl-C before its first step."""
    with pytest.MonkeyPatch.context() as patch:
        for job in (tune_job, pretrain_job, reward_job, tuned_job):
            patch.setattr(job, "train_stage", raising(KeyboardInterrupt))
        yield


@contextlib.contextmanager
def interrupted_after(steps: int, updates: int = 1):
    """Inside `with`, a training meets a Ctrl-C in its step of this number; with 0, before its
    first. updates: of all models in a step."""
    if steps == 0:
        with interrupted_at_once():
            yield
        return
    adam_step, taken = runner.AdamW.step, []

    def step(*arguments, **options):
        norm = adam_step(*arguments, **options)
        taken.append(1)
        if len(taken) == (steps - 1) * updates + 1:
            os.kill(os.getpid(), signal.SIGINT)
        return norm

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner.AdamW, "step", step)
        yield
    assert len(taken) == steps * updates
