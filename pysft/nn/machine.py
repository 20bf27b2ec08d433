"""The processors and the memory that this process may use.

A container limits both by control groups. Version 2 has one tree of groups, version 1 a tree for
each controller. A limit holds for its group and for all groups below it, so the smallest one from
this process's group up to the top counts. The functions take the folder in which proc/ and sys/
stand, which is / but in tests. A file that is missing or not understood is no limit. What the
system itself answers (affinity, the size of the memory, ulimit) is this machine's in tests too."""

import math
import os
from functools import lru_cache
from pathlib import Path

ROOT = Path("/")


def processors(root: Path = ROOT) -> int:
    """Return the number of processors that this process may use, at least 1.

    It is the number that the process may run on, or the control groups' quota if that is less. A
    quota of 1.5 processors counts as 2, because with one thread a third of it would be lost."""
    # os.cpu_count() reads a file, which is slow where each call of a kernel asks.
    has_affinity = hasattr(os, "sched_getaffinity")
    here = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(1, math.ceil(min(here, quota(root))))


@lru_cache  # because kernels ask at every call
def quota(root: Path = ROOT) -> float:
    """Return how many processors the control groups allow, such as 1.5; infinity without a
    limit."""
    found = [math.inf]
    for group in _groups(root, "cpu"):
        text = _text(group / "cpu.max")  # version 2: "150000 100000", or "max 100000"
        if not text:
            text = f"{_text(group / 'cpu.cfs_quota_us')} {_text(group / 'cpu.cfs_period_us')}"
        numbers = [int(word) for word in text.split() if word.isdecimal()]
        if len(numbers) == 2 and min(numbers) > 0:
            found.append(numbers[0] / numbers[1])
    return min(found)


def memory(root: Path = ROOT) -> tuple[int, str]:
    """Return (the bytes of memory that this process may use, what limits them, as in "this machine
    has")."""
    limits = [(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "this machine has")]
    for group in _groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _text(group / name)
            if text.isdecimal() and int(text) > 0:
                limits.append((int(text), "its control group allows"))
    try:
        import resource

        most, _ = resource.getrlimit(resource.RLIMIT_AS)
        if most != resource.RLIM_INFINITY:
            limits.append((most, "ulimit -v allows"))
    except (ImportError, OSError):  # Windows
        pass
    return min(limits, key=lambda limit: limit[0])


def _groups(root: Path, controller: str) -> list[Path]:
    """Return the folders of this process's groups for a controller, and of all groups above.

    Inside a container the folder of the process's own group may not be there. The top folder is
    then the container's."""
    found, top = [], root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, names, path = (line.split(":", 2) + ["", ""])[:3]
        if not names:  # version 2, alone or beside version 1
            mounts = [top, top / "unified"]
        elif controller in names.split(","):
            mounts = [top / names, top / controller]
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", ".", "..")]
        for mount in mounts:
            found += [mount.joinpath(*parts[:n]) for n in range(len(parts) + 1)]
    return found


def _text(path: Path) -> str:
    """Return the text of a small file, "" if it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
