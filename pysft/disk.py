"""Crash-safe files: a crash or a power cut leaves the old file or the new one, never a piece of
either. And a lock, so that only one process at a time trains in a folder."""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from pysft.errors import UsageError

# The file that lock_folder() locks. It is never removed: another process could have locked it.
LOCK = ".lock"


def replace(path: Path, pieces: Iterable) -> None:
    """Write the pieces (bytes or arrays) to a file, in place of what stands there.

    They go to a new file beside it, which is synced to the disk and then renamed to `path`; then
    the folder is synced. An OSError, of a full disk for example, leaves the old file and no other;
    only if syncing the folder fails does the new file stand there already."""
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
    """Append whole lines to a file, which is made if it is not there, and sync it to the disk. A
    crash can lose the new lines or the end of them; earlier lines stay as they are."""
    is_new = not path.exists()
    with open(path, "a", encoding="utf-8") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    if is_new:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder to the disk. On Windows, which cannot, this does nothing."""
    if hasattr(os, "O_DIRECTORY"):
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(number)
        except OSError as error:
            # Some file systems cannot sync folders, and say so by one of these.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
                raise
        finally:
            os.close(number)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, as far as they are missing, and sync each new name."""
    for part in reversed([folder, *folder.parents]):
        if not part.is_dir():
            part.mkdir(exist_ok=True)
            sync_folder(part.parent)


def make_new_folder(folder: Path) -> bool:
    """Make a folder, whose parent is there. Returns True if this process made it, False if the
    name was taken; of several processes that try at once, one gets True."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    sync_folder(folder.parent)
    return True


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Remove the temporary files among `paths` that replace() left when its process was killed.
    Those of processes that still run stay, and so does every other file."""
    for path in paths:
        process = "".join(path.name.split(".")[-3:-2])  # NAME.PROCESS.RANDOM.tmp
        if path.suffix == ".tmp" and process.isdecimal() and not _is_running(int(process)):
            path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's process; too large for a process's number
        pass
    return True


@contextlib.contextmanager
def lock_folder(folder: Path):
    """Inside `with`, keep every other process out of its lock_folder() of the same folder: there it
    raises a UsageError.

    Yields True if the folder is locked, False where the system or the file system has no locks. The
    system releases the lock when the process ends, even if it is killed."""
    try:
        import fcntl

        # A file in the folder, because a lock on the folder itself is not seen by other hosts.
        number = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except (ImportError, OSError):  # Windows; a folder that cannot be written to
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
