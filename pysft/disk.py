"""Files that a crash leaves whole. What is replaced is the old file or the new one and never a
piece, also where the power went; and a folder that one process works in is closed to a second."""

import contextlib
import errno
import os
import secrets
import sys
from collections.abc import Iterable
from pathlib import Path

from pysft.errors import UsageError


def replace(path: Path, pieces: Iterable) -> None:
    """Write the pieces (bytes or arrays) to path: to a file beside it, that to the disk, then its
    name onto path's, then the folder to the disk. An OSError, of a full disk say, leaves the old
    file and no other (the new one, if it is only the folder that could not be brought there)."""
    temporary = path.with_name(
        f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    )  # two may write the same at once
    try:
        with open(temporary, "xb") as f:
            for piece in pieces:
                f.write(piece)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def append(path: Path, text: str) -> None:
    """Add whole lines to a file, and that to the disk."""
    new = not path.exists()
    with open(path, "a", encoding="utf-8") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    if new:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk (where the system can: not on Windows)."""
    if hasattr(os, "O_DIRECTORY"):
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(number)
        except OSError as error:
            if error.errno not in (
                errno.EINVAL,
                errno.ENOTSUP,
                errno.EBADF,
            ):  # a file system that knows no such thing
                raise
        finally:
            os.close(number)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, each brought to the disk."""
    for part in reversed([folder, *folder.parents]):
        if not part.is_dir():
            part.mkdir(exist_ok=True)
            sync_folder(part.parent)


def make_new(folder: Path) -> bool:
    """Make a folder in one that is there, unless its name is taken: whether it was made, by this
    process and no other."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    sync_folder(folder.parent)
    return True


def sweep(paths: Iterable[Path]) -> None:
    """Remove those of the files that replace() had not finished when its process was killed."""
    for path in paths:
        number = path.name.split(".")[-3:-2]
        if (
            path.suffix == ".tmp"
            and number
            and number[0].isdecimal()
            and not _lives(int(number[0]))
        ):
            path.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's; no process's number
        pass
    return True


def hush(stream) -> None:
    """Let what is written to standard output or error from now on, and what its buffer holds, go
    nowhere: where nobody reads it any more, each write, and that at the process's end, would be an
    error anew. Any other stream is its owner's."""
    if stream is None or stream not in (sys.__stdout__, sys.__stderr__):
        return
    with contextlib.suppress(OSError, ValueError):
        number, nowhere = stream.fileno(), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)


LOCK = ".lock"  # it stays where it was made: removed, it could be another process's


@contextlib.contextmanager
def alone(folder: Path):
    """Inside `with`, no other process may enter the same; it is refused. True there, or False where
    the system or the file system knows no locks. The system lets go of a lock when its process
    ends, however it does."""
    try:
        import fcntl

        number = os.open(
            folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666
        )  # a file: of a folder, other hosts would not know
    except (ImportError, OSError):  # Windows; a folder that cannot be written to
        yield False
        return
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = True
        except BlockingIOError:
            raise UsageError(
                f"{folder}: another process is training in it; wait until it has finished, or"
                " stop it"
            ) from None
        except OSError:
            locked = False
        yield locked
    finally:
        os.close(number)
