"""The processors and the memory that a container leaves to this process, from trees of files like
those of the kernel."""

import builtins
import math
import os
import resource

import pytest

from pysft.errors import UsageError
from pysft.measure import figures, memory
from pysft.nn import gate, machine
from pysft.nn.shapes import GPTConfig

GIB = 2**30
V2 = "0::/a/b\n"
V1 = "4:memory:/a/b\n2:cpu,cpuacct:/a/b\n1:name=systemd:/x\n0::/x\n"
# name -> (/proc/self/cgroup, files below /sys/fs/cgroup, processors allowed, bytes allowed)
TREES = {
    "no files at all": (None, {}, math.inf, math.inf),
    "version 2": (V2, {"a/b/cpu.max": "150000 100000", "a/b/memory.max": GIB}, 1.5, GIB),
    "version 2 without a limit": (
        V2,
        {"a/b/cpu.max": "max 100000", "a/b/memory.max": "max"},
        math.inf,
        math.inf,
    ),
    "version 2, a tighter limit above": (
        V2,
        {"a/b/cpu.max": "300000 100000", "a/cpu.max": "50000 100000", "a/memory.max": GIB,
         "a/b/memory.max": 2 * GIB},
        0.5,
        GIB,
    ),
    "version 2, a limit of a group beside it": (
        V2,
        {"a/c/cpu.max": "50000 100000", "c/memory.max": GIB},
        math.inf,
        math.inf,
    ),
    "version 2, the group's folder is not there, as inside a container": (
        "0::/docker/1234\n",
        {"cpu.max": "200000 100000", "memory.max": GIB},
        2.0,
        GIB,
    ),
    "version 2 beside version 1": (
        "1:cpu:/\n0::/a\n", {"unified/a/cpu.max": "100000 100000"}, 1.0, math.inf
    ),
    "version 1": (
        V1,
        {"cpu,cpuacct/a/b/cpu.cfs_quota_us": 250000, "cpu,cpuacct/a/b/cpu.cfs_period_us": 100000,
         "memory/a/b/memory.limit_in_bytes": GIB},
        2.5,
        GIB,
    ),
    "version 1, a folder for cpu alone, and a limit above": (
        V1,
        {"cpu/cpu.cfs_quota_us": 100000, "cpu/cpu.cfs_period_us": 50000,
         "memory/a/memory.limit_in_bytes": GIB},
        2.0,
        GIB,
    ),
    "version 1 without a limit": (
        V1,
        {"cpu/a/b/cpu.cfs_quota_us": -1, "cpu/a/b/cpu.cfs_period_us": 100000,
         "memory/a/b/memory.limit_in_bytes": 9223372036854771712},
        math.inf,
        math.inf,
    ),
    "rubbish": (
        V2 + "\n:\nrubbish\n9:cpu\n",
        {"a/b/cpu.max": "fast", "a/cpu.max": "0 0", "cpu.max": "", "a/b/memory.max": "-3",
         "a/memory.max": "0", "memory.max": "\xff lots"},
        math.inf,
        math.inf,
    ),
}  # fmt: skip


def tree(folder, own, files):
    """Write /proc/self/cgroup, and files below /sys/fs/cgroup, into a folder."""
    if own is not None:
        (folder / "proc/self").mkdir(parents=True)
        (folder / "proc/self/cgroup").write_text(own)
    for name, content in files.items():
        path = folder / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return folder


@pytest.mark.parametrize("name", TREES)
def test_the_tightest_limit_of_the_own_group_and_those_above_counts(name, tmp_path, monkeypatch):
    own, files, processors, size = TREES[name]
    root = tree(tmp_path, own, files)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    assert machine.quota(root) == processors
    assert machine.processors(root) == math.ceil(min(64, processors))
    installed, _ = machine.memory(tmp_path / "nothing here")
    assert machine.memory(root)[0] == min(installed, size)


def test_a_part_of_a_processor_is_one_and_affinity_counts_too(tmp_path, monkeypatch):
    root = tree(tmp_path, V2, {"a/cpu.max": "1000 100000"})
    assert machine.processors(root) == 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2})
    root = tree(tmp_path / "more", V2, {"a/cpu.max": "900000 100000"})
    assert machine.processors(root) == 3


def test_the_default_number_of_threads_is_that_of_the_machine(monkeypatch):
    for name in ("PYSFT_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(gate, "processors", lambda: 7)
    assert gate.default_threads() == 7
    monkeypatch.setattr(gate, "processors", lambda: 4096)  # more than a call takes
    assert gate.default_threads() == 1024


def test_a_model_that_the_container_cannot_hold_is_refused_with_the_containers_size(
    tmp_path, monkeypatch
):
    limit = machine.memory(tree(tmp_path, V2, {"a/b/memory.max": GIB // 2}))
    monkeypatch.setattr(machine, "memory", lambda: limit)
    config = GPTConfig(65, context=256, layers=6, heads=6, channels=384)
    memory.refuse_too_large(config, 256)
    with pytest.raises(
        UsageError, match=r"need [\d.]+ GiB; its control group allows 0\.5\. Choose"
    ):
        memory.refuse_too_large(config, 64 * 256)


def test_a_limit_of_the_shell_counts(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda what: (GIB, GIB))
    assert machine.memory() == (GIB, "ulimit -v allows")


def test_without_a_folder_for_matplotlib_nothing_is_drawn_and_nothing_fails(monkeypatch):
    """As with a read-only home and a full temporary folder."""
    usual = builtins.__import__

    def imported(name, *arguments, **options):
        if name.startswith("matplotlib"):
            raise OSError("Matplotlib requires access to a writable cache directory")
        return usual(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", imported)
    assert not figures.available()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no affinity")
def test_the_processors_are_not_counted_where_the_affinity_is_known(monkeypatch):
    """Each call of a kernel asks, and counting reads a file."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1 / 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(3)))
    assert machine.processors() <= 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.processors() == 1
