"""Stopped after any step of any stage, and resumed, a training ends with the bytes of one that
nobody stopped: weights, both moments, and the log but for its timings.

Here a folder is copied as a kill, a power cut or a failing disk would leave it.
tests/heavy/torture.py kills whole processes at random."""

import builtins
import errno
import io
import os
import shutil
from collections import Counter
from dataclasses import dataclass

import pytest
from command_line import lines, read_lines, stage_log, toml
from conftest import in_process
from test_disk import Recorder, restore

from pysft import console
from pysft.jobs.material import gather
from pysft.nn import kernels, safetensors
from pysft.nn.grow import expand_vocab
from pysft.nn.lora import LoRA
from pysft.nn.model import GPT
from pysft.rng import rng
from pysft.run.stage import Stage
from pysft.text.corpora import read_corpus
from pysft.training import runner
from pysft.training.kinds import FineTuning, Pretraining
from pysft.training.settings import Model, Settings
from pysft.training.stages import finetune, pretrain

pytestmark = pytest.mark.usefixtures("few_prompts", "few_tokens")

# One in EVERY of the disk's calls and of the states after a power cut is tried. `make torture`
# tries all.
EVERY = int(os.environ.get("PYSFT_EVERY", 41))


@pytest.fixture(autouse=True)
def checkpoints_after_every_step(monkeypatch):
    monkeypatch.setattr(runner, "pause", lambda saves, save_every: 0)


# --------------------------------------------------------------------------------------- one stage

STEPS = 12
SETTINGS = Settings(
    model=Model(context=32, layers=2, heads=2, channels=16),
    stages={
        "base": Pretraining(steps=STEPS, windows=((16, 3),), warmup=4),
        "sft": FineTuning(steps=STEPS, tokens=96, windows=((16, 1),), warmup=4),
    },
)
KINDS = ["base", "sft", "lora"]  # of a stage; "lora" is a fine-tuning of adapters


def pairs(verbs, subjects, reply):
    """A file of prompts and completions, one for each verb and subject."""
    return lines(
        {"prompt": f"{verb} {subject}", "completion": reply.format(verb=verb, subject=subject)}
        for verb in verbs.split()
        for subject in subjects.split()
    )


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("material")
    corpus, data = folder / "corpus.txt", folder / "data.jsonl"
    corpus.write_text(read_corpus("plays")[:5000])
    data.write_text(pairs("Say Sing Show", "king rose crown ship night", "The {subject}."))
    return gather(SETTINGS, str(corpus), [str(data)])


def train_stage(kind, folder, material, resume=False, settings=SETTINGS):
    """Train a stage of some kind below `folder`, from its first step, or from what stands there."""
    corpus = material.tokenizer.encode(material.train_text)
    old_vocab, vocab = len(material.tokenizer), len(material.grown)
    model = GPT(settings.model.shape(old_vocab), kernels.on_threads(1), rng(0, "base", "init"))
    if kind == "base":
        name, tokenizer = "base", material.tokenizer
        plan = pretrain(settings, name, corpus, old_vocab)
    else:
        name, tokenizer = "sft", material.grown
        plan = finetune(settings, name, *material.examples, corpus, vocab)
        model = expand_vocab(model, vocab, "mean")
    trained = model
    if kind == "lora":
        trained = LoRA(model, 2, old_vocab=old_vocab, rng=rng(0, "sft", "lora"))
    stage = Stage(folder / name, model, tokenizer, material.template, settings.to_json())
    screen = console.Screen(json=True)
    screen.stream = io.StringIO()
    own = settings.stages[name]
    list(runner.train_stage(stage, plan, own, screen, resume, trained))


def last_state(folder, steps=STEPS):
    """(the last checkpoint's bytes, the log without its timings) of the stage below a folder."""
    [stage] = folder.iterdir()
    checkpoint = stage / "checkpoints" / str(steps) / "state.safetensors"
    return checkpoint.read_bytes(), stage_log(stage)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stage_killed_after_any_step_is_resumed_to_the_same_bytes(
    kind, material, tmp_path, monkeypatch
):
    uninterrupted, save_checkpoint = tmp_path / "uninterrupted", runner.save_checkpoint

    def copying_save(folder, model, adam, steps, *more):
        # Before: the step is in the log and not yet in a checkpoint.
        shutil.copytree(uninterrupted, tmp_path / f"{steps} before")
        path = save_checkpoint(folder, model, adam, steps, *more)
        shutil.copytree(uninterrupted, tmp_path / f"{steps} after")
        return path

    with monkeypatch.context() as patch:
        patch.setattr(runner, "save_checkpoint", copying_save)
        train_stage(kind, uninterrupted, material)
    expected, killed = last_state(uninterrupted), sorted(tmp_path.glob("* *"))
    assert len(killed) == 2 * STEPS
    _, log = expected
    assert len(log) == STEPS
    assert log[0]["loss"] > log[-1]["loss"]
    for folder in killed:
        train_stage(kind, folder, material, resume=True)
        assert last_state(folder) == expected, folder.name
    assert not list(tmp_path.rglob("*.tmp"))


def distinct_states(recorder) -> list[tuple[int, dict]]:
    """(number of events before it, state): each state that a power cut could leave, once."""
    states = {}
    for count in range(len(recorder.events) + 1):
        for state in recorder.states(count):
            states.setdefault(frozenset(state.items()), (count, state))
    return list(states.values())


def test_a_stage_is_resumed_to_the_same_bytes_after_a_power_cut_at_any_moment(material, tmp_path):
    """All states that the disk can be in while a stage writes its log and checkpoints and removes
    old ones. (With one fsync fewer, the log would lack lines of steps before a checkpoint.)"""
    settings, root = SETTINGS.changed({"sft": {"steps": 5}}), tmp_path / "run"
    root.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        recorder = Recorder(patch, root)
        train_stage("sft", root, material, settings=settings)
    expected, states, steps = last_state(root, 5), distinct_states(recorder), set()
    for number, (count, state) in enumerate(states):
        folder = tmp_path / f"state {number}"
        folder.mkdir()
        restore(state, root, folder)
        checkpoints = [int(path.parent.name) for path in folder.rglob("state.safetensors")]
        steps.add(max(checkpoints, default=0))
        train_stage("sft", folder, material, resume=True, settings=settings)
        assert last_state(folder, 5) == expected, (count, recorder.events[count - 1][:2])
        shutil.rmtree(folder)
    assert len(states) > 40
    assert steps == {0, 1, 2, 3, 4, 5}


@pytest.mark.parametrize("kind", KINDS)
def test_the_comparison_notices_moments_that_are_off_by_their_last_bit(
    kind, material, tmp_path, monkeypatch
):
    """The control: the last step is taken again from slightly different second moments."""
    train_stage(kind, tmp_path / "right", material)
    shutil.copytree(tmp_path / "right", tmp_path / "wrong")
    shutil.rmtree(next((tmp_path / "wrong").rglob(f"checkpoints/{STEPS}")))
    load_checkpoint = runner.load_checkpoint

    def load_wrong_moments(folder, model, adam, *more):
        step = load_checkpoint(folder, model, adam, *more)
        adam.v.flat[:] *= 1 + 2**-23
        return step

    monkeypatch.setattr(runner, "load_checkpoint", load_wrong_moments)
    train_stage(kind, tmp_path / "wrong", material, resume=True)
    assert last_state(tmp_path / "wrong") != last_state(tmp_path / "right")

    def weights(name):
        tensors, _ = safetensors.load(next((tmp_path / name).rglob(f"{STEPS}/state.safetensors")))
        return {name: a.tobytes() for name, a in tensors.items() if name.startswith("w.")}

    assert weights("wrong") != weights("right")


# -------------------------------------------------------------------------------------- whole runs


@pytest.fixture
def flags(tmp_path, without_figures):
    """The flags of a whole run that takes a tenth of a second."""
    config, corpus, data = (tmp_path / name for name in ("small.toml", "corpus.txt", "data.jsonl"))
    shape = {"context": 32, "heads": 1, "channels": 8}
    base = {"steps": 2, "windows": [[8, 1]]}
    sft = {"steps": 3, "tokens": 32, "windows": [[8, 1]], "checkpoint_every": 2}
    config.write_text(toml(model=shape, base=base, sft=sft))
    corpus.write_text(read_corpus("plays")[:2000])
    data.write_text(pairs("Say Sing Show Name", "it", "{verb}."))
    inputs = ["--config", config, "--corpus", corpus, "--data", data]
    return ["--json", "--threads", 1, *inputs]


@dataclass
class Outcome:
    """How a training ended. files: the weights, logs and measurements that a finished one left,
    without timings; else None."""

    code: int
    err: str
    files: dict | None


TIMINGS = {"seconds", "tokens_per_s", "prompts_seconds"}
COMPARED = {"model.safetensors", "adapter.safetensors", "log.jsonl", "measurements.jsonl"}


def train(folder, *flags) -> Outcome:
    code, out, err = in_process("train", *flags, "--out", folder)
    assert "Traceback" not in out + err
    return Outcome(code, err, _files(folder) if code == 0 else None)


def _files(folder) -> dict:
    """The files to compare, by their paths."""
    files = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.name in COMPARED and path.suffix == ".safetensors":
            files[name] = path.read_bytes()
        elif path.name in COMPARED:
            rows = read_lines(path)
            files[name] = [{k: v for k, v in row.items() if k not in TIMINGS} for row in rows]
    return files


def go_on(folder, flags) -> Outcome:
    """Resume the run in a folder; begin it if there is no record of one."""
    if (folder / "run.json").is_file():
        return train(folder, "--resume", "--json")
    return train(folder, *flags)


class RefusingDisk:
    """A disk that refuses one call under `root`.

    at: the number of that call, from 1; 0: no call is refused. number: the errno it is refused
    with. calls: the kinds of the calls so far. A call opens a file for writing, writes (refused, it
    has written half) or syncs it, renames something, makes a folder, or removes something."""

    def __init__(self, monkeypatch, root, at, number):
        self.root, self.at, self.number, self.calls = str(root), at, number, []
        monkeypatch.setattr(builtins, "open", self._opening(open))
        monkeypatch.setattr(io, "open", self._opening(io.open))  # that of pathlib
        for name in ("replace", "rename", "mkdir", "unlink", "rmdir"):
            monkeypatch.setattr(os, name, self._counting(getattr(os, name), name))
        monkeypatch.setattr(os, "fsync", self._counting(os.fsync, "fsync", self._path_of))
        sync = self._counting(os.open, "open by number")
        remove = self._counting(os.open, "open to remove")  # by shutil.rmtree

        def open_by_number(path, flags, *rest, **options):
            call = sync if flags & (os.O_DIRECTORY | os.O_CREAT) else remove
            return call(path, flags, *rest, **options)

        monkeypatch.setattr(os, "open", open_by_number)

    @staticmethod
    def _path_of(number) -> str:
        return os.readlink(f"/proc/self/fd/{number}")

    def _count(self, kind, path):
        self.calls.append(kind)
        if len(self.calls) == self.at:
            raise OSError(self.number, os.strerror(self.number), str(path))

    def _counting(self, function, kind, path_of=str):
        """The function, whose first argument is a path, with its calls counted."""

        def call(target, *rest, **options):
            path = path_of(target)
            if options.get("dir_fd") is not None:
                path = os.path.join(self._path_of(options["dir_fd"]), path)
            if path.startswith(self.root):
                self._count(kind, path)
            return function(target, *rest, **options)

        return call

    def _opening(self, function):
        """The function open, with its calls counted, and those of write() of the files."""

        def call(path, mode="r", *rest, **options):
            if not set(mode) & set("wxa") or not str(path).startswith(self.root):
                return function(path, mode, *rest, **options)
            self._count("open", path)
            file = function(path, mode, *rest, **options)
            write = file.write

            def counting_write(data):
                try:
                    self._count("write", path)
                except OSError:
                    write(data[: len(data) // 2])
                    raise
                return write(data)

            try:
                file.write = counting_write
            except AttributeError:  # a class of C takes no attribute
                return FileWithWrite(file, counting_write)
            return file

        return call


class FileWithWrite:
    """A file with another write()."""

    def __init__(self, file, write):
        self.file, self.write = file, write

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


CALLS = {"open", "open by number", "open to remove", "write", "fsync", "replace", "mkdir"}
CALLS |= {"unlink", "rmdir"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["disk full", "device error"])
def test_a_run_whose_disk_refuses_a_call_says_so_and_is_resumed_to_the_same_bytes(
    tmp_path, flags, number
):
    def train_on_refusing_disk(folder, at):
        with pytest.MonkeyPatch.context() as patch:
            disk = RefusingDisk(patch, folder, at, number)
            return train(folder, *flags), disk.calls

    expected, calls = train_on_refusing_disk(tmp_path / "whole", 0)
    assert expected.code == 0, expected.err
    assert len(calls) > 200
    assert set(calls) == CALLS
    codes = Counter()
    for at in range(1 + number % EVERY, len(calls) + 1, EVERY):
        folder, case = tmp_path / str(at), (at, calls[at - 1])
        outcome, _ = train_on_refusing_disk(folder, at)
        codes[outcome.code] += 1
        if outcome.code:
            message = outcome.err.strip().splitlines()[-1]
            assert outcome.code in (1, 2), case
            assert message.startswith("pysft: "), case
            assert os.strerror(number) in message, case
            outcome = go_on(folder, flags)
        else:  # a file that was not removed does no harm; a missing lock is reported
            is_removal = calls[at - 1] in ("unlink", "rmdir", "open to remove")
            assert is_removal or "cannot be locked" in outcome.err, case
        assert outcome.code == 0, (case, outcome.err)
        assert outcome.files == expected.files, case
        assert not list(folder.rglob("*.tmp")), case
        shutil.rmtree(folder)
    assert codes[1] + codes[2] > 0.7 * codes.total(), codes


@pytest.mark.parametrize("adapters", [[], ["--lora", 2]], ids=["all weights", "lora"])
def test_a_whole_run_is_resumed_to_the_same_bytes_after_a_power_cut(tmp_path, flags, adapters):
    flags, root = [*flags, *adapters], tmp_path / "run"
    root.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        recorder = Recorder(patch, root)
        expected = train(root, *flags)
    assert expected.code == 0, expected.err
    states = distinct_states(recorder)
    assert len(recorder.events) > 100
    assert len(states) > 200
    for number, (_, state) in enumerate(states[::EVERY]):
        folder = tmp_path / str(number)
        folder.mkdir()
        restore(state, root, folder)
        outcome = go_on(folder, flags)
        assert outcome.code == 0, (number, outcome.err)
        assert outcome.files == expected.files, number
        shutil.rmtree(folder)
