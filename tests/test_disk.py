"""Files that a crash leaves whole: the order of what reaches the disk, a full disk, and a folder
for one process alone."""

import errno
import itertools
import multiprocessing
import os
import shutil
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import python

from pysft import disk, run
from pysft.errors import DataError, UsageError
from pysft.nn.model import GPT, GPTConfig
from pysft.nn.optim import AdamW


def recorded(monkeypatch, fail=None):
    """The calls that reach the disk, in their order, by the names of what they are about; `fail`:
    the one that finds no room."""
    calls, real = [], {"fsync": os.fsync, "replace": os.replace}

    def named(number):
        return os.path.basename(os.readlink(f"/proc/self/fd/{number}"))

    def fsync(number):
        calls.append(("fsync", named(number)))
        if len(calls) - 1 == fail:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real["fsync"](number)

    def replace(a, b):
        calls.append(("replace", os.path.basename(a), os.path.basename(b)))
        if len(calls) - 1 == fail:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real["replace"](a, b)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    return calls


def test_a_file_is_on_the_disk_before_its_name_and_the_name_before_anything_later(
    tmp_path, monkeypatch
):
    calls = recorded(monkeypatch)
    disk.replace(tmp_path / "a", [b"new ", memoryview(b"content")])
    temporary = calls[0][1]
    assert calls == [
        ("fsync", temporary),
        ("replace", temporary, "a"),
        ("fsync", tmp_path.name),
    ] and temporary.endswith(".tmp")
    assert (tmp_path / "a").read_bytes() == b"new content" and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("fail", [0, 1])
def test_a_disk_that_is_full_or_read_only_leaves_the_old_file_and_no_other(
    tmp_path, monkeypatch, fail
):
    (tmp_path / "a").write_bytes(b"old")
    recorded(monkeypatch, fail)
    with pytest.raises(OSError):
        disk.replace(tmp_path / "a", [b"new"])
    assert (tmp_path / "a").read_bytes() == b"old" and os.listdir(tmp_path) == ["a"]


def test_lines_that_are_added_are_on_the_disk_and_so_is_a_new_files_name(tmp_path, monkeypatch):
    calls = recorded(monkeypatch)
    disk.append(tmp_path / "log", "a\n")
    disk.append(tmp_path / "log", "b\n")
    assert (
        calls == [("fsync", "log"), ("fsync", tmp_path.name), ("fsync", "log")]
        and (tmp_path / "log").read_text() == "a\nb\n"
    )


def test_every_folder_that_is_made_is_brought_to_the_disk(tmp_path, monkeypatch):
    calls = recorded(monkeypatch)
    disk.make_folder(tmp_path / "a" / "b")
    disk.make_folder(tmp_path / "a" / "b")
    assert calls == [("fsync", tmp_path.name), ("fsync", "a")] and (tmp_path / "a" / "b").is_dir()


def test_a_folder_is_for_one_process(tmp_path):
    enter = (
        "from pathlib import Path; from pysft.disk import alone\nwith"
        f" alone(Path({str(tmp_path)!r})): print('in')"
    )
    with disk.alone(tmp_path):
        other = python("-c", enter)
        assert (
            other.returncode != 0
            and "another process is training in it" in other.stderr
            and "in" not in other.stdout
        )
        with pytest.raises(UsageError, match="another process"):
            with disk.alone(tmp_path):
                pass
    assert python("-c", enter).stdout == "in\n" and os.listdir(tmp_path) == [disk.LOCK]


@pytest.mark.parametrize(
    "lacking", ["locks of this file system", "locks of this system", "a file to lock"]
)
def test_where_there_are_no_locks_a_training_goes_on_without_and_knows_it(
    tmp_path, monkeypatch, lacking
):
    if lacking == "locks of this system":
        monkeypatch.setitem(sys.modules, "fcntl", None)
    elif lacking == "a file to lock":
        (tmp_path / disk.LOCK).mkdir()
    else:
        monkeypatch.setattr(
            "fcntl.flock",
            lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))),
        )
    before, entered = len(os.listdir("/proc/self/fd")), []
    for _ in range(2):
        with disk.alone(tmp_path) as locked:
            entered.append(locked)
    assert entered == [False, False] and len(os.listdir("/proc/self/fd")) == before


def test_a_process_that_was_killed_lets_go(tmp_path):
    def hold(ready):
        with disk.alone(tmp_path):
            ready.set()
            multiprocessing.Event().wait()

    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=hold, args=(ready,))
    process.start()
    assert ready.wait(30)
    process.kill()
    process.join()
    with disk.alone(tmp_path):
        pass


def test_what_killed_processes_left_half_written_is_swept_and_nothing_else(tmp_path):
    gone = multiprocessing.get_context("fork").Process(target=lambda: None)
    gone.start()
    gone.join()
    (tmp_path / "sft").mkdir()
    stays = [
        "a.tmp",
        ".tmp",
        f"state.safetensors.{os.getpid()}.ab.tmp",
        "x.99999999999999999999999.0.tmp",
        "sft/log.jsonl",
        f"sft/{gone.pid}.0.tmp.json",
        f"{gone.pid}.tmp",
    ]
    for name in [*stays, f"state.safetensors.{gone.pid}.ab.tmp", f"sft/run.json.{gone.pid}.0f.tmp"]:
        (tmp_path / name).write_text("x")
    disk.sweep(list(tmp_path.rglob("*")))
    assert {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()} == set(
        stays
    )


def test_a_folder_is_made_by_one_process_only(tmp_path, monkeypatch):
    calls = recorded(monkeypatch)
    assert disk.make_new(tmp_path / "a") and not disk.make_new(tmp_path / "a")
    assert calls == [("fsync", tmp_path.name)]
    monkeypatch.chdir(tmp_path)
    assert [run.new_run(None, "tiny") for _ in range(3)] == [
        Path("runs/tiny"),
        Path("runs/tiny-2"),
        Path("runs/tiny-3"),
    ]


# -------------------------------------------------------------------------------- a power cut, repl


class Recorder:
    """The order in which a program's files reach the disk, and every state that a power cut could
    leave of them: what was brought to the disk is there; of the other changes to a folder's names
    any may be or not, and of a folder that is removed only the files may be gone; of what was
    written and not brought to the disk there is nothing, half, or all."""

    def __init__(self, monkeypatch, root):
        self.root, self.events = root, []
        real = {
            "fsync": os.fsync,
            "replace": os.replace,
            "mkdir": os.mkdir,
            "rmtree": shutil.rmtree,
            "unlink": os.unlink,
            "rename": os.rename,
        }

        def fsync(number):
            path = Path(os.readlink(f"/proc/self/fd/{number}"))
            self.events.append(
                ("sync", path) if path.is_dir() else ("data", path, path.read_bytes())
            )
            return real["fsync"](number)

        def replace(a, b):
            if (
                "data",
                Path(a),
                Path(a).read_bytes(),
            ) not in self.events:  # a name for what is not on the disk yet
                self.events.append(("loose", Path(a), Path(a).read_bytes()))
            self.events.append(("rename", Path(a), Path(b)))
            return real["replace"](a, b)

        def mkdir(path, *mode, **more):
            self.events.append(("mkdir", Path(path)))
            return real["mkdir"](path, *mode, **more)

        def rmtree(path, **more):
            self.events.append(("remove", Path(path)))
            return real["rmtree"](path, **more)

        def unlink(path, **more):
            if Path(path).is_absolute() and root in Path(path).parents and Path(path).exists():
                self.events.append(("remove", Path(path)))
            return real["unlink"](path, **more)

        def rename(a, b):
            self.events.append(("rename", Path(a), Path(b)))
            return real["rename"](a, b)

        for module, name, patch in (
            (os, "fsync", fsync),
            (os, "replace", replace),
            (os, "mkdir", mkdir),
            (shutil, "rmtree", rmtree),
            (os, "unlink", unlink),
            (os, "rename", rename),
        ):
            monkeypatch.setattr(module, name, patch)

    def states(self, count):
        """The states {path: bytes, of a folder None} after the first `count` events and a power
        cut."""
        durable, pending = {self.root: None}, []
        for kind, path, *rest in self.events[:count]:
            if kind == "sync":
                for change in [c for c in pending if c[1].parent == path]:
                    self._change(
                        durable, *change, torn=0.0
                    )  # a name is there now; of what was never brought there, nothing is
                    pending.remove(change)
            elif kind == "data" and path in durable:
                durable[path] = rest[0]  # its name was there before
            elif kind in ("data", "loose"):
                pending.append(("create", path, rest[0], kind == "data"))
            else:
                pending.append((kind, path, *rest))
        if (
            count < len(self.events) and self.events[count][0] == "data"
        ):  # it is being written: any beginning of it may be there
            _, path, content = self.events[count]
            pending.append(("create", path, content, False))
        for chosen in itertools.product([False, True], repeat=len(pending)):
            for torn in (0.0, 0.5, 1.0):
                state = dict(durable)
                for take, change in zip(chosen, pending):
                    if take:
                        self._change(state, *change, torn=torn)
                yield state

    @staticmethod
    def _change(state, kind, path, *rest, torn=1.0):
        if path.parent not in state:
            return
        if kind == "create":
            content, there = rest
            old = (
                len(state.get(path) or b"") if content.startswith(state.get(path) or b"") else 0
            )  # lines that were added
            state[path] = content if there else content[: old + int((len(content) - old) * torn)]
        elif kind == "mkdir":
            state[path] = None
        elif kind == "rename" and path in state:
            for moved in [p for p in state if p == path or path in p.parents]:
                state[rest[0] / moved.relative_to(path)] = state.pop(moved)
        elif kind == "remove":
            for gone in [p for p in state if p == path or path in p.parents]:
                if torn == 1.0 or state[gone] is not None:
                    del state[gone]


def lay(state, root, there):
    """Make a state's files under another folder."""
    for path in sorted(state, key=lambda p: len(p.parts)):
        target = there / path.relative_to(root)
        if state[path] is None:
            target.mkdir(exist_ok=True)
        else:
            target.write_bytes(state[path])


def saves(folder, steps):
    """Checkpoints after these steps; yields each step once its checkpoint is promised to be
    there."""
    model = GPT(GPTConfig(5, 3, 1, 1, 2), rng=np.random.default_rng(0))
    adam = AdamW(model)
    for adam.steps in steps:
        model.params.flat[:] = adam.steps
        run.save_checkpoint(folder, model, adam)
        yield adam.steps


def found(folder):
    """The step of the checkpoint that is loaded, all of whose weights are its own; 0 if there is
    none, -1 if none is whole."""
    model = GPT(GPTConfig(5, 3, 1, 1, 2), rng=np.random.default_rng(0))
    adam = AdamW(model)
    try:
        if not run.load_checkpoint(folder, model, adam):
            return 0
    except DataError:
        return -1
    assert (model.params.flat[:6] == adam.steps).all()
    return adam.steps


def replayed(tmp_path, monkeypatch, steps):
    """(event, step promised before it, steps that the states after it load) for each moment of
    these saves."""
    root = tmp_path / "stage"
    root.mkdir()
    with monkeypatch.context() as patch:
        recorder, promised = Recorder(patch, root), [(0, 0)]
        for step in saves(root, steps):
            promised.append((len(recorder.events), step))
    rows = []
    for count in range(len(recorder.events) + 1):
        least, loaded = max(step for at, step in promised if at <= count), set()
        for state in {frozenset(state.items()): state for state in recorder.states(count)}.values():
            with tempfile.TemporaryDirectory(dir=tmp_path) as there:
                lay(state, root, Path(there))
                loaded.add(found(Path(there)))
        rows.append((count, least, loaded))
    return rows


def test_whenever_the_power_goes_the_last_promised_checkpoint_or_a_later_one_is_loaded(
    tmp_path, monkeypatch
):
    rows = replayed(tmp_path, monkeypatch, (3, 7, 12, 20))
    assert len(rows) > 15 and rows[-1][1] == 20
    for count, least, loaded in rows:
        assert min(loaded) >= least, (count, least, loaded)


@pytest.mark.parametrize("left_out", ["file", "folder"])
def test_the_replay_sees_an_fsync_that_was_left_out(tmp_path, monkeypatch, left_out):
    monkeypatch.setattr(disk, "os", SimpleNamespace(**{n: getattr(os, n) for n in dir(os)}))
    monkeypatch.setattr(
        disk.os,
        "fsync",
        lambda number: (
            None
            if os.path.isdir(f"/proc/self/fd/{number}") == (left_out == "folder")
            else os.fsync(number)
        ),
    )
    monkeypatch.setattr(disk.os, "replace", lambda a, b: os.replace(a, b))
    assert any(min(loaded) < least for _, least, loaded in replayed(tmp_path, monkeypatch, (3, 7)))
