"""Crash-safe files: the order in which they reach the disk, a full disk, a power cut at any moment;
and the lock of a folder."""

import contextlib
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

from pysft import disk
from pysft.errors import DataError, UsageError
from pysft.nn.model import GPT
from pysft.nn.optim import AdamW
from pysft.nn.shapes import GPTConfig
from pysft.run import checkpoints
from pysft.run import stage as on_disk


def recorded(monkeypatch, fail=None):
    """The calls that reach the disk, in their order, with the names of the files. Call number
    `fail` raises an OSError: a full disk for an fsync, a read-only one for a rename."""
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


def test_a_file_is_synced_before_it_is_renamed_and_its_name_is_synced_last(tmp_path, monkeypatch):
    calls = recorded(monkeypatch)
    disk.replace(tmp_path / "a", [b"new ", memoryview(b"content")])
    temporary = calls[0][1]
    assert temporary.endswith(".tmp")
    assert calls == [("fsync", temporary), ("replace", temporary, "a"), ("fsync", tmp_path.name)]
    assert (tmp_path / "a").read_bytes() == b"new content" and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("fail", [0, 1])
def test_a_full_or_read_only_disk_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, fail):
    (tmp_path / "a").write_bytes(b"old")
    recorded(monkeypatch, fail)
    with pytest.raises(OSError):
        disk.replace(tmp_path / "a", [b"new"])
    assert (tmp_path / "a").read_bytes() == b"old" and os.listdir(tmp_path) == ["a"]


def test_appended_lines_are_synced_and_so_is_the_name_of_a_new_file(tmp_path, monkeypatch):
    calls = recorded(monkeypatch)
    disk.append(tmp_path / "log", "a\n")
    disk.append(tmp_path / "log", "b\n")
    assert calls == [("fsync", "log"), ("fsync", tmp_path.name), ("fsync", "log")]
    assert (tmp_path / "log").read_text() == "a\nb\n"


def test_the_name_of_every_new_folder_is_synced(tmp_path, monkeypatch):
    calls = recorded(monkeypatch)
    disk.make_folder(tmp_path / "a" / "b")
    disk.make_folder(tmp_path / "a" / "b")
    assert calls == [("fsync", tmp_path.name), ("fsync", "a")] and (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize(
    "number, is_error",
    [
        (errno.EINVAL, False),
        (errno.ENOTSUP, False),
        (errno.EBADF, False),
        (errno.EIO, True),
        (errno.ENOSPC, True),
    ],
)
def test_a_file_system_that_cannot_sync_folders_is_no_error(
    tmp_path, monkeypatch, number, is_error
):
    def fsync(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    if is_error:
        with pytest.raises(OSError, match=os.strerror(number)):
            disk.sync_folder(tmp_path)
    else:
        disk.sync_folder(tmp_path)


def test_a_system_that_cannot_open_folders_syncs_none(tmp_path, monkeypatch):
    calls = recorded(monkeypatch)
    monkeypatch.delattr(os, "O_DIRECTORY")
    disk.sync_folder(tmp_path)
    assert calls == []


@pytest.mark.parametrize("fail", [None, 0, 1, 2])
def test_no_file_or_folder_stays_open(tmp_path, monkeypatch, fail):
    before = len(os.listdir("/proc/self/fd"))
    recorded(monkeypatch, fail)
    for write in (
        lambda: disk.replace(tmp_path / "a", [b"new"]),
        lambda: disk.append(tmp_path / "log", "a\n"),
        lambda: disk.make_folder(tmp_path / "b" / "c"),
    ):
        with contextlib.suppress(OSError):
            write()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_locked_folder_refuses_a_second_process(tmp_path):
    enter = (
        "from pathlib import Path; from pysft.disk import lock_folder\n"
        f"with lock_folder(Path({str(tmp_path)!r})): print('in')"
    )
    with disk.lock_folder(tmp_path):
        other = python("-c", enter)
        assert other.returncode != 0 and "in" not in other.stdout
        assert "another process is training in it" in other.stderr
        with pytest.raises(UsageError, match="another process"):
            with disk.lock_folder(tmp_path):
                pass
    assert python("-c", enter).stdout == "in\n" and os.listdir(tmp_path) == [disk.LOCK]


@pytest.mark.parametrize(
    "lacking", ["locks of this file system", "locks of this system", "a file to lock"]
)
def test_where_there_are_no_locks_the_folder_is_reported_as_not_locked(
    tmp_path, monkeypatch, lacking
):
    if lacking == "locks of this system":
        monkeypatch.setitem(sys.modules, "fcntl", None)
    elif lacking == "a file to lock":
        (tmp_path / disk.LOCK).mkdir()
    else:

        def flock(*_):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        monkeypatch.setattr("fcntl.flock", flock)
    before, entered = len(os.listdir("/proc/self/fd")), []
    for _ in range(2):
        with disk.lock_folder(tmp_path) as locked:
            entered.append(locked)
    assert entered == [False, False] and len(os.listdir("/proc/self/fd")) == before


def test_the_lock_of_a_killed_process_is_released(tmp_path):
    def hold(ready):
        with disk.lock_folder(tmp_path):
            ready.set()
            multiprocessing.Event().wait()

    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=hold, args=(ready,))
    process.start()
    assert ready.wait(30)
    process.kill()
    process.join()
    with disk.lock_folder(tmp_path):
        pass


def test_the_temporary_files_of_killed_processes_are_removed_and_nothing_else(tmp_path):
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
    goes = [f"state.safetensors.{gone.pid}.ab.tmp", f"sft/run.json.{gone.pid}.0f.tmp"]
    for name in stays + goes:
        (tmp_path / name).write_text("x")
    disk.remove_leftovers(list(tmp_path.rglob("*")))
    files = [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()]
    assert sorted(files) == sorted(stays)


@pytest.mark.parametrize(
    "error, stays", [(ProcessLookupError, False), (PermissionError, True), (OverflowError, True)]
)
def test_a_temporary_file_stays_if_its_process_may_be_running(tmp_path, monkeypatch, error, stays):
    signals = []

    def kill(process, number):
        signals.append((process, number))
        raise error

    monkeypatch.setattr(os, "kill", kill)
    (tmp_path / "run.json.77.ab.tmp").write_text("x")
    disk.remove_leftovers(tmp_path.iterdir())
    assert signals == [(77, 0)]  # signal 0 asks and ends nothing
    assert bool(os.listdir(tmp_path)) is stays


def test_everybody_may_lock_a_folder_that_everybody_may_write_to(tmp_path):
    before = os.umask(0)
    try:
        with disk.lock_folder(tmp_path):
            assert (tmp_path / disk.LOCK).stat().st_mode & 0o777 == 0o666
    finally:
        os.umask(before)


def test_a_new_folder_is_made_only_once(tmp_path, monkeypatch):
    calls = recorded(monkeypatch)
    assert disk.make_new_folder(tmp_path / "a") and not disk.make_new_folder(tmp_path / "a")
    assert calls == [("fsync", tmp_path.name)]
    monkeypatch.chdir(tmp_path)
    runs = [on_disk.new_run(None, "tiny") for _ in range(3)]
    assert runs == [Path("runs/tiny"), Path("runs/tiny-2"), Path("runs/tiny-3")]


# ------------------------------------------------------------------------- a power cut, replayed


class Recorder:
    """Records how a program's files reach the disk, and gives every state of them that a power cut
    could leave.

    What was synced is there. Of the changes to the names in a folder that were not synced, each may
    be there or not, in any combination; of a removed folder perhaps only the files are gone. Of
    bytes that were written and not synced there is nothing, half, or all."""

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
            content = Path(a).read_bytes()
            if ("data", Path(a), content) not in self.events:  # renamed without a sync
                self.events.append(("loose", Path(a), content))
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

        for name, patch in (
            ("fsync", fsync),
            ("replace", replace),
            ("mkdir", mkdir),
            ("rmtree", rmtree),
            ("unlink", unlink),
            ("rename", rename),
        ):
            monkeypatch.setattr(shutil if name == "rmtree" else os, name, patch)

    def states(self, count):
        """Every state that a power cut after the first `count` events could leave, as {path: bytes,
        or None for a folder}."""
        durable, pending = {self.root: None}, []
        for kind, path, *rest in self.events[:count]:
            if kind == "sync":
                # Names are there now. Bytes that were not synced need not be.
                for change in [c for c in pending if c[1].parent == path]:
                    self._change(durable, *change, torn=0.0)
                    pending.remove(change)
            elif kind == "data" and path in durable:
                durable[path] = rest[0]  # the name was there before
            elif kind in ("data", "loose"):
                pending.append(("create", path, rest[0], kind == "data"))
            else:
                pending.append((kind, path, *rest))
        # The next file may have been written in part when the power went.
        if count < len(self.events) and self.events[count][0] == "data":
            _, path, content = self.events[count]
            pending.append(("create", path, content, False))
        for chosen in itertools.product([False, True], repeat=len(pending)):
            taken = [change for take, change in zip(chosen, pending) if take]
            # Only a removal, and bytes that were not synced, can be there in part.
            partly = any(kind == "remove" or more[-1:] == [False] for kind, _, *more in taken)
            for torn in (0.0, 0.5, 1.0) if partly else (1.0,):
                state = dict(durable)
                for change in taken:
                    self._change(state, *change, torn=torn)
                yield state

    @staticmethod
    def _change(state, kind, path, *rest, torn=1.0):
        """Apply one event to a state. torn: the share of the bytes that are there, if they were not
        synced."""
        if path.parent not in state:
            return
        below = f"{path}{os.sep}"
        if kind == "create":
            content, is_synced = rest
            before = state.get(path) or b""
            kept = len(before) if content.startswith(before) else 0  # lines were only appended
            end = kept + int((len(content) - kept) * torn)
            state[path] = content if is_synced else content[:end]
        elif kind == "mkdir":
            state[path] = None
        elif kind == "rename" and path in state:
            for moved in [p for p in state if p == path or str(p).startswith(below)]:
                state[rest[0] / moved.relative_to(path)] = state.pop(moved)
        elif kind == "remove":
            for gone in [p for p in state if p == path or str(p).startswith(below)]:
                if torn == 1.0 or state[gone] is not None:
                    del state[gone]


def restore(state, root, folder):
    """Make the files of a state, which are below root, below another folder."""
    for path in sorted(state, key=lambda p: len(p.parts)):
        target = folder / path.relative_to(root)
        if state[path] is None:
            target.mkdir(exist_ok=True)
        else:
            target.write_bytes(state[path])


def saves(folder, steps):
    """Save a checkpoint after each of these steps. Yields the step as soon as its checkpoint is
    promised to be on the disk."""
    model = GPT(GPTConfig(5, 3, 1, 1, 2), rng=np.random.default_rng(0))
    adam = AdamW(model)
    for adam.steps in steps:
        model.params.flat[:] = adam.steps
        checkpoints.save_checkpoint(folder, model, adam)
        yield adam.steps


def loaded_step(folder):
    """The step of the checkpoint that is loaded, whose weights are all from this step; 0 if there
    is no checkpoint, -1 if none is whole."""
    model = GPT(GPTConfig(5, 3, 1, 1, 2), rng=np.random.default_rng(0))
    adam = AdamW(model)
    try:
        if not checkpoints.load_checkpoint(folder, model, adam):
            return 0
    except DataError:
        return -1
    assert (model.params.flat[:6] == adam.steps).all()
    return adam.steps


def replayed(tmp_path, monkeypatch, steps):
    """(event, step, steps) for each moment of saving these steps: the last step promised before it,
    and the steps that are loaded from the states that a power cut then could leave."""
    root = tmp_path / "stage"
    root.mkdir()
    with monkeypatch.context() as patch:
        recorder, promised = Recorder(patch, root), [(0, 0)]
        for step in saves(root, steps):
            promised.append((len(recorder.events), step))
    rows = []
    for count in range(len(recorder.events) + 1):
        last_promised, loaded = max(step for at, step in promised if at <= count), set()
        for state in {frozenset(state.items()): state for state in recorder.states(count)}.values():
            with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
                restore(state, root, Path(folder))
                loaded.add(loaded_step(Path(folder)))
        rows.append((count, last_promised, loaded))
    return rows


def test_after_a_power_cut_the_last_promised_checkpoint_or_a_later_one_is_loaded(
    tmp_path, monkeypatch
):
    rows = replayed(tmp_path, monkeypatch, (3, 7, 12, 20))
    assert len(rows) > 15 and rows[-1][1] == 20
    for count, promised, loaded in rows:
        assert min(loaded) >= promised, (count, promised, loaded)


@pytest.mark.parametrize("left_out", ["file", "folder"])
def test_the_replay_notices_an_fsync_that_is_left_out(tmp_path, monkeypatch, left_out):
    def fsync(number):
        is_folder = os.path.isdir(f"/proc/self/fd/{number}")
        if is_folder != (left_out == "folder"):
            os.fsync(number)

    # A module of its own for disk.py; its functions call os, which the recorder watches.
    own = SimpleNamespace(**{name: getattr(os, name) for name in dir(os)})
    own.fsync, own.replace = fsync, lambda a, b: os.replace(a, b)
    monkeypatch.setattr(disk, "os", own)
    rows = replayed(tmp_path, monkeypatch, (3, 7))
    assert any(min(loaded) < promised for _, promised, loaded in rows)
