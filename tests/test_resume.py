"""Stopped after any step of any stage, and resumed, a training ends with the bytes of one that
nobody stopped: weights, both moments, and the log but for its timings. Here the folder is copied as
a kill would leave it, before and after each checkpoint is written; tests/torture.py kills whole
processes at random."""

import builtins
import errno
import io
import json
import os
import shutil
from collections import Counter
from dataclasses import asdict

import pytest
from conftest import in_process
from test_disk import Recorder, lay

from pysft import recipe
from pysft.lab import figures
from pysft.nn import ops, safetensors
from pysft.nn.lora import LoRA
from pysft.nn.model import GPT, GPTConfig, expand_vocab
from pysft.rng import rng
from pysft.run import Stage, read_log
from pysft.text.dataset import read_corpus
from pysft.training.stages import Settings, finetune, pretrain

STEPS = 30
SETTINGS = dict(
    context=32,
    layers=2,
    heads=2,
    channels=16,
    base_steps=STEPS,
    base_windows=((16, 3),),
    base_warmup=4,
    sft_steps=STEPS,
    sft_tokens=96,
    sft_windows=((16, 1),),
    sft_warmup=4,
)


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    home = tmp_path_factory.mktemp("material")
    (home / "corpus.txt").write_text(read_corpus("plays")[:5000])
    (home / "talk.jsonl").write_text(
        "".join(
            json.dumps({"prompt": f"{verb} {word}", "completion": f"The {word}."}) + "\n"
            for verb in ("Say", "Sing", "Show")
            for word in ("king", "rose", "crown", "ship", "night")
        )
    )
    return recipe.gather(Settings(**SETTINGS), str(home / "corpus.txt"), [str(home / "talk.jsonl")])


def run(kind, folder, material, resume=False):
    """Train the stage `kind` in `folder` from its beginning, or from what stands there."""
    settings = Settings(**SETTINGS)
    base, grown, corpus = (
        material.tokenizer,
        material.grown,
        material.tokenizer.encode(material.train_text),
    )
    model = GPT(
        GPTConfig(len(base), settings.context, settings.layers, settings.heads, settings.channels),
        ops.on_threads(1),
        rng(0, "base", "init"),
    )
    if kind == "base":
        plan, tokenizer = pretrain(settings, corpus, len(base)), base
    else:
        plan, tokenizer = finetune(settings, *material.examples, corpus, len(grown)), grown
        model = expand_vocab(model, len(grown), "mean")
    trained = (
        LoRA(model, 2, old_vocab=len(base), rng=rng(0, "sft", "lora")) if kind == "lora" else model
    )
    screen = recipe.Screen(json=True)
    screen.stream = io.StringIO()
    recipe.run_stage(
        Stage(
            folder / ("base" if kind == "base" else "sft"),
            model,
            tokenizer,
            material.template,
            asdict(settings),
        ),
        plan,
        settings,
        screen,
        resume,
        trained,
    )


def left(folder, steps=STEPS):
    """What a finished stage's folder says: the last checkpoint's bytes, and the log without
    timings."""
    stage = next(folder.iterdir())
    timings = {"seconds", "tokens_per_s"}
    return (
        (stage / "checkpoints" / str(steps) / "state.safetensors").read_bytes(),
        [{k: v for k, v in row.items() if k not in timings} for row in read_log(stage)],
    )


@pytest.mark.parametrize("kind", ["base", "sft", "lora"])
def test_killed_after_any_of_thirty_steps_and_resumed_a_stage_ends_with_the_same_bytes(
    kind, material, tmp_path, monkeypatch
):
    monkeypatch.setattr(recipe, "CHECKPOINT_SECONDS", 0)
    save, whole = recipe.save_checkpoint, tmp_path / "whole"

    def snapshots(folder, model, adam):
        shutil.copytree(
            whole, tmp_path / f"{adam.steps} before"
        )  # its step is logged and not yet in a checkpoint
        target = save(folder, model, adam)
        shutil.copytree(whole, tmp_path / f"{adam.steps} after")
        return target

    with monkeypatch.context() as patch:
        patch.setattr(recipe, "save_checkpoint", snapshots)
        run(kind, whole, material)
    expected, killed = left(whole), sorted(tmp_path.glob("* *"))
    assert len(killed) == 2 * STEPS and len(expected[1]) == STEPS
    assert expected[1][0]["loss"] > expected[1][-1]["loss"]
    for folder in killed:
        run(kind, folder, material, resume=True)
        assert left(folder) == expected, folder.name
    assert not list(tmp_path.rglob("*.tmp"))


def test_whenever_the_power_goes_in_a_training_its_resumed_run_ends_with_the_same_bytes(
    material, tmp_path, monkeypatch
):
    """Every state that the disk can be in while a stage logs, writes checkpoints and removes old
    ones is resumed. (One fsync fewer, and the log would lack lines of steps that a checkpoint has
    behind it.)"""
    monkeypatch.setattr(recipe, "CHECKPOINT_SECONDS", 0)
    monkeypatch.setitem(SETTINGS, "sft_steps", 5)
    root = tmp_path / "run"
    root.mkdir()
    with monkeypatch.context() as patch:
        recorder = Recorder(patch, root)
        run("sft", root, material)
    expected, seen, steps = left(root, 5), set(), set()
    for count in range(len(recorder.events) + 1):
        for state in recorder.states(count):
            key = frozenset(state.items())
            if key in seen:
                continue
            seen.add(key)
            folder = tmp_path / f"state {len(seen)}"
            folder.mkdir()
            lay(state, root, folder)
            steps.add(
                max((int(p.parent.name) for p in folder.rglob("state.safetensors")), default=0)
            )
            run("sft", folder, material, resume=True)
            assert left(folder, 5) == expected, (count, recorder.events[count - 1][:2])
            shutil.rmtree(folder)
    assert steps == {0, 1, 2, 3, 4, 5} and len(seen) > 40


class Refusing:
    """A disk that refuses its `at`-th call (from 1; 0: none) under `root`, whatever it is: a file
    opened, written (half of it is there then) or brought to the disk, a name given, a folder made,
    something removed. calls: what they were."""

    def __init__(self, monkeypatch, root, at, number):
        self.root, self.at, self.number, self.calls = str(root), at, number, []
        monkeypatch.setattr(builtins, "open", self.opening(open))
        monkeypatch.setattr(io, "open", self.opening(io.open))  # pathlib's
        for name in ("replace", "rename", "mkdir", "unlink", "rmdir"):
            monkeypatch.setattr(os, name, self.calling(getattr(os, name), name))
        needed, removing = (
            self.calling(os.open, "open by number"),
            self.calling(os.open, "open to remove"),
        )  # rmtree's way
        monkeypatch.setattr(
            os,
            "open",
            lambda path, flags, *rest, **more: (
                needed if flags & (os.O_DIRECTORY | os.O_CREAT) else removing
            )(path, flags, *rest, **more),
        )
        monkeypatch.setattr(
            os,
            "fsync",
            self.calling(os.fsync, "fsync", lambda n: os.readlink(f"/proc/self/fd/{n}")),
        )

    def refuse(self, what, path):
        self.calls.append(what)
        if len(self.calls) == self.at:
            raise OSError(self.number, os.strerror(self.number), str(path))

    def calling(self, real, name, place=str):
        def call(path, *rest, **more):
            at = place(path)
            if more.get("dir_fd") is not None:
                at = os.path.join(os.readlink(f"/proc/self/fd/{more['dir_fd']}"), at)
            if at.startswith(self.root):
                self.refuse(name, at)
            return real(path, *rest, **more)

        return call

    def opening(self, real):
        def opened(path, mode="r", *rest, **more):
            if not set(mode) & set("wxa") or not str(path).startswith(self.root):
                return real(path, mode, *rest, **more)
            self.refuse("open", path)
            file = real(path, mode, *rest, **more)
            write = file.write

            def half(data):
                try:
                    self.refuse("write", path)
                except OSError:
                    write(data[: len(data) // 2])
                    raise
                return write(data)

            try:
                file.write = half
            except AttributeError:  # io's own classes take no attribute
                return Through(file, half)
            return file

        return opened


class Through:
    """A file whose write() is another."""

    def __init__(self, file, write):
        self.file, self.write = file, write

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


@pytest.fixture
def typed(tmp_path, monkeypatch):
    """What is typed for a whole run that takes a tenth of a second, with a checkpoint at each
    step."""
    (tmp_path / "talk.jsonl").write_text(
        "".join(
            json.dumps({"prompt": f"{verb} it", "completion": f"{verb}."}) + "\n"
            for verb in ("Say", "Sing", "Show", "Name")
        )
    )
    (tmp_path / "corpus.txt").write_text(read_corpus("plays")[:2000])
    (tmp_path / "small.toml").write_text(
        "context = 32\nlayers = 1\nheads = 1\nchannels = 8\nbase_steps = 2\nbase_windows = [[8,"
        " 1]]\nsft_steps = 3\nsft_tokens = 32\nsft_windows = [[8, 1]]\ncheckpoint_every = 2\n"
    )
    monkeypatch.setattr(recipe, "CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr(
        figures, "available", lambda: False
    )  # they take nine tenths of such a run's time
    return [
        "--json",
        "--threads",
        1,
        "--corpus",
        tmp_path / "corpus.txt",
        "--data",
        tmp_path / "talk.jsonl",
        "--config",
        tmp_path / "small.toml",
    ]


def train(folder, *flags):
    """A run's exit code, what it said, and what it left, timings aside."""
    code, out, err = in_process("train", *flags, "--out", folder)
    assert "Traceback" not in out + err
    timings = {"seconds", "tokens_per_s", "prompts_seconds"}
    return (
        code,
        err,
        (
            None
            if code
            else {
                p.relative_to(folder).as_posix(): (
                    p.read_bytes()
                    if p.suffix == ".safetensors"
                    else [
                        {k: v for k, v in json.loads(line).items() if k not in timings}
                        for line in p.read_text().splitlines()
                    ]
                )
                for p in folder.rglob("*")
                if p.name
                in (
                    "model.safetensors",
                    "adapter.safetensors",
                    "log.jsonl",
                    "measurements.jsonl",
                )
            }
        ),
    )


def go_on(folder, typed):
    """The run in a folder resumed, or begun there where nothing says that one was."""
    return (
        train(folder, "--resume", "--json")
        if (folder / "run.json").is_file()
        else train(folder, *typed)
    )


EVERY = int(os.environ.get("PYSFT_EVERY", 23))  # which share of them is tried; make torture: 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["disk full", "device error"])
def test_whichever_call_the_disk_refuses_a_run_says_so_in_a_sentence_and_goes_on_to_the_same_bytes(
    tmp_path, typed, number
):
    def refused(folder, at):
        with pytest.MonkeyPatch.context() as patch:
            disk = Refusing(patch, folder, at, number)
            return *train(folder, *typed), disk.calls

    code, err, expected, calls = refused(tmp_path / "whole", 0)
    kinds = Counter(calls)
    assert code == 0 and len(calls) > 200, (err, kinds)
    assert kinds.keys() == {
        "open",
        "open by number",
        "open to remove",
        "write",
        "fsync",
        "replace",
        "mkdir",
        "unlink",
        "rmdir",
    }, kinds
    told = Counter()
    for at in range(1 + number % EVERY, len(calls) + 1, EVERY):
        folder = tmp_path / str(at)
        code, err, found, _ = refused(folder, at)
        told[code] += 1
        if code:
            said = err.strip().splitlines()[-1]
            assert code in (1, 2) and said.startswith("pysft: ") and os.strerror(number) in said, (
                at,
                calls[at - 1],
                code,
                err,
            )
            code, err, found = go_on(folder, typed)
        else:  # what could not be removed is in nobody's way; a lock that cannot be had is told of
            assert (
                calls[at - 1] in ("unlink", "rmdir", "open to remove") or "cannot be locked" in err
            ), (at, calls[at - 1])
        assert (code, found) == (0, expected), (at, calls[at - 1], err)
        assert not list(folder.rglob("*.tmp")), at
        shutil.rmtree(folder)
    assert told[1] + told[2] > 0.7 * sum(told.values()), told


@pytest.mark.parametrize("adapters", [[], ["--lora", 2]], ids=["all weights", "lora"])
def test_whenever_the_power_goes_in_a_whole_run_it_goes_on_to_the_same_bytes(
    tmp_path, typed, adapters
):
    typed = [*typed, *adapters]
    root = tmp_path / "run"
    root.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        recorder = Recorder(patch, root)
        code, err, expected = train(root, *typed)
    assert code == 0, err
    seen = {
        frozenset(state.items()): state
        for count in range(len(recorder.events) + 1)
        for state in recorder.states(count)
    }
    assert len(recorder.events) > 100 and len(seen) > 200
    for number, state in enumerate(seen.values()):
        if number % EVERY == 0:
            folder = tmp_path / str(number)
            folder.mkdir()
            lay(state, root, folder)
            code, err, found = go_on(folder, typed)
            assert (code, found) == (0, expected), (number, err)
            shutil.rmtree(folder)


@pytest.mark.parametrize("kind", ["base", "sft", "lora"])
def test_the_comparison_sees_moments_that_are_off_by_their_last_bit(
    kind, material, tmp_path, monkeypatch
):
    """The control: the last step is taken again from second moments that are off by the least there
    is."""
    monkeypatch.setattr(recipe, "CHECKPOINT_SECONDS", 0)
    run(kind, tmp_path / "whole", material)
    load = recipe.load_checkpoint

    def off(folder, model, adam, say):
        found = load(folder, model, adam, say)
        adam.v.flat[:] *= 1 + 2**-23
        return found

    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    shutil.rmtree(next((tmp_path / "again").rglob("checkpoints/30")))
    monkeypatch.setattr(recipe, "load_checkpoint", off)
    run(kind, tmp_path / "again", material, resume=True)
    weights = [
        {
            n: a.tobytes()
            for n, a in safetensors.load(
                next((tmp_path / name).rglob(f"{STEPS}/state.safetensors"))
            )[0].items()
            if n.startswith("w.")
        }
        for name in ("whole", "again")
    ]
    assert left(tmp_path / "again") != left(tmp_path / "whole") and weights[0] != weights[1]
