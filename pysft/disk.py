"""Crash-safe files, and the lock of a folder.

A crash or a power cut leaves the old file or the new one, never a part of either. The lock lets
only one process at a time train in a folder."""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from pysft.errors import UsageError

# The file that lock_folder() locks. It is never removed, because another process may have locked
# it.
LOCK = ".lock"


def replace(path: Path, pieces: Iterable) -> None:
    """Write the pieces (bytes or arrays) to the file `path`. An old file there is replaced.

    The pieces go to a temporary file in the same folder. It is synced to the disk and renamed to
    `path`, and then the folder is synced. After an OSError (a full disk, for example) the old file
    is unchanged and the temporary file is removed, with one exception: if only the last sync fails,
    the new file is already in place."""
    # Two processes may write the same file at once, so each has a temporary file of its own.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
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
    """Append whole lines to a file, and sync it to the disk. The file is made if it is missing.

    A crash can lose the new lines or the end of them. Earlier lines stay as they are."""
    is_new = not path.exists()
    with open(path, "a", encoding="utf-8") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    if is_new:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Sync the file names in a folder to the disk. Windows cannot, and there this does nothing."""
    if hasattr(os, "O_DIRECTORY"):
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(number)
        except OSError as error:
            # A file system that cannot sync folders gives one of these errors.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
                raise
        finally:
            os.close(number)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents where they are missing, and sync each new name to the disk."""
    for part in reversed([folder, *folder.parents]):
        if not part.is_dir():
            part.mkdir(exist_ok=True)
            sync_folder(part.parent)


def make_new_folder(folder: Path) -> bool:
    """Make a folder whose parent exists. Return True if this process made it, False if the name is
    taken. If several processes try at once, exactly one of them gets True."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    sync_folder(folder.parent)
    return True


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Remove those of `paths` that are temporary files of replace() and whose process has ended.

    Temporary files of running processes are kept, and so is every other file."""
    for path in paths:
        process = "".join(path.name.split(".")[-3:-2])  # NAME.PROCESS.RANDOM.tmp
        if path.suffix == ".tmp" and process.isdecimal() and not _is_running(int(process)):
            path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass  # another user's process, or a number that no process can have: keep the file
    return True


@contextlib.contextmanager
def lock_folder(folder: Path):
    """Hold the folder's lock inside `with`. A UsageError if another process holds it.

    Yields True if the folder is locked. Yields False if it cannot be: the system (Windows) or the
    file system has no such locks, or the folder cannot be written to. The system releases the lock
    when the process ends, even if it is killed."""
    try:
        import fcntl

        # Lock a file in the folder: other hosts do not see a lock on the folder itself.
        number = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except (ImportError, OSError):  # Windows, or a folder that cannot be written to
        yield False
        return
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_locked = True
        except BlockingIOError:
            raise UsageError(
                f"{folder}: another process is training in it; wait until it has finished, or"
                " stop it"
            ) from None
        except OSError:
            is_locked = False
        yield is_locked
    finally:
        os.close(number)
