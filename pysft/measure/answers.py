"""The answers of a model behind an endpoint, kept on disk.

The file has one line of JSON for each answer: "key" (of the question), "answer", "model", "cut"
and "failed". Lines are only ever added, and any number of processes may add to it."""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from pysft import disk
from pysft.errors import UsageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

MARK = b'{"key": "'  # how each line begins


class Answers:
    """The answers in a file.

    path: the file, if it exists or its name ends with .jsonl; otherwise a folder, in which the
    file is answers.jsonl. It is made when the first answer comes. None: in memory only.
    say(text) shows a message.

    A line that a crash cut off is removed or, if only its end is missing, completed. Other damaged
    lines are skipped and named. UsageError if the file holds something else."""

    def __init__(self, path: str | Path | None, say: Callable[[str], None]):
        self._answers, self._end, self._lines, self._damaged = {}, 0, 0, []
        self._inode = None
        self._path = None if path is None else Path(path)
        if self._path is None:
            return
        if not self._path.is_file() and (self._path.is_dir() or self._path.suffix != ".jsonl"):
            self._path /= "answers.jsonl"
        disk.make_folder(self._path.parent)
        content = self._path.read_bytes() if self._path.is_file() else b""
        if content.strip() and MARK not in content and not MARK.startswith(content):
            raise UsageError(
                f"{self._path}: this file holds no answers of a model; choose another name for the"
                " cache"
            )
        if self._read():
            with self._opened():
                self._read()
        if self._damaged:
            numbers = ", ".join(map(str, self._damaged[:5])) + ", ..." * (len(self._damaged) > 5)
            say(
                f"{self._path}: skipped damaged lines: {numbers} ({len(self._damaged)} in all);"
                " their questions are asked again"
            )

    @property
    def kept(self) -> str:
        """What becomes of the answers if the command stops now, for a message."""
        if self._path is None:
            return "without a cache, no answer is kept; name one to go on later"
        return (
            f"all answers so far are kept in {self._path}, and the same command goes on from them"
        )

    def of(self, key: str) -> list[dict]:
        """The answers to a question, oldest first, with those that other processes added."""
        if self._path is not None:
            self._read()
        return list(self._answers.get(key, ()))

    def add(self, key: str, answer: dict) -> None:
        """Add an answer. When this returns, it is on the disk. OSError if it cannot be written."""
        row = {"key": key, **answer}
        if self._path is None:
            self._answers.setdefault(key, []).append(row)
            return
        with self._opened() as file:
            line = json.dumps(row).encode() + b"\n"
            if file.write(line) < len(line):
                raise OSError(f"{self._path}: the disk took only a part of an answer")
            os.fsync(file.fileno())
            if file.tell() == len(line):
                disk.sync_folder(self._path.parent)

    @contextlib.contextmanager
    def alone(self, key: str):
        """Inside `with`, no other process asks this question: it waits, and then finds the answer.
        It waits as long as the other process does, which may repeat its calls.

        The system releases the lock when the process ends, even if it is killed. Where there are no
        such locks, two processes may ask the same question at the same moment."""
        with contextlib.ExitStack() as stack:
            if self._path is not None and fcntl is not None:
                with contextlib.suppress(OSError):
                    lock = self._path.with_name(self._path.name + ".lock")
                    file = stack.enter_context(open(lock, "ab"))
                    # A lock on one byte, which the question chooses, beyond the end of the file.
                    fcntl.lockf(file, fcntl.LOCK_EX, 1, int(key[:15], 16))
            yield

    @contextlib.contextmanager
    def _opened(self):
        """The file, opened for appending. Its last line is whole. While it is open, no other
        process appends to it."""
        with open(self._path, "ab+", buffering=0) as file:  # O_APPEND; each write is one call
            is_locked = False
            if fcntl is not None:
                with contextlib.suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_EX)
                    is_locked = True
            tail = self._read()
            if tail and is_locked and _row(tail) is None and tail.startswith(MARK[: len(tail)]):
                file.truncate(self._end)
            elif tail:
                file.write(b"\n")
            yield file

    def _read(self) -> bytes:
        """Read the lines that were added since the last time. Return what follows the last one."""
        try:
            with open(self._path, "rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._inode or status.st_size < self._end:  # another file now
                    self._answers, self._end, self._lines, self._damaged = {}, 0, 0, []
                    self._inode = status.st_ino
                file.seek(self._end)
                *lines, tail = file.read().split(b"\n")
        except FileNotFoundError:
            return b""
        for line in lines:
            self._end += len(line) + 1
            self._lines += 1
            row = _row(line)
            if row is not None:
                self._answers.setdefault(row["key"], []).append(row)
            elif line.strip():
                self._damaged.append(self._lines)
        return tail


def _row(line: bytes) -> dict | None:
    """A line of the file; None if it is damaged."""
    try:
        row = json.loads(line)
        types = {"key": str, "answer": str, "cut": bool, "failed": bool}
        return row if all(type(row[name]) is t for name, t in types.items()) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
