"""The processor, its peaks, and the versions that the figures of a benchmark depend on."""

import ctypes
import datetime
import importlib.metadata
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from functools import lru_cache
from pathlib import Path

import numpy as np
from harness import Worker, has_torch, pin, say

from pysft.errors import BuildError
from pysft.nn import _build, gate

ROOT = Path(__file__).resolve().parents[1]


@lru_cache(None)
def _peak_library():
    """peak.c, compiled with the flags of the kernels that run here."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    if not shutil.which(compiler[0]):
        raise BuildError(
            f"the peak cannot be measured: no C compiler ({compiler[0]}). Install gcc, or name"
            " another compiler in CC"
        )
    folder = tempfile.TemporaryDirectory(prefix="pysft-bench-")
    target = f"{folder.name}/peak.so"
    flags = [*_build.FLAGS, *_build.ISAS[gate.ISA], "-shared"]
    if gate.HAS_BF16:
        flags += ["-mavx512bf16"]
    command = [*compiler, *flags, str(ROOT / "bench/peak.c"), "-o", target]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(
            f"the peak cannot be measured: {compiler[0]} cannot compile bench/peak.c"
            f" ({done.stderr})"
        )
    library = ctypes.CDLL(target)
    library.peak_operations.restype = ctypes.c_int64
    return library


def ceiling_functions(threads):
    """The functions of a worker that measures the machine's ceilings.

    fp32, bf16: GFLOP/s of multiply-adds in registers. The best of many short tries counts, so
    another program that takes the processor for a moment does not matter. copy: GB/s, read and
    written, of copying total/2 bytes again and again."""
    library, sink = _peak_library(), (ctypes.c_float * threads)()

    def once(rounds, peak=library.peak):
        start = time.perf_counter()
        peak(sink, ctypes.c_int64(rounds), ctypes.c_float(1), ctypes.c_float(1), threads)
        return time.perf_counter() - start

    def fp32(peak=library.peak):
        rounds = int(10_000 * max(1.0, 0.01 / once(10_000, peak)))
        operations = threads * library.peak_operations(ctypes.c_int64(rounds))
        return operations / min(once(rounds, peak) for _ in range(50)) / 1e9

    def bf16():
        return 2 * fp32(library.peak_bf16)

    def copy(total):
        n = max(64, total // 2)
        to, source = np.zeros(n, np.uint8), np.ones(n, np.uint8)
        rounds, best = max(1, 100_000_000 // n), float("inf")
        for _ in range(6):
            start = time.perf_counter()
            library.copy(
                to.ctypes.data_as(ctypes.c_void_p),
                source.ctypes.data_as(ctypes.c_void_p),
                ctypes.c_int64(n),
                ctypes.c_int64(rounds),
                threads,
            )
            best = min(best, time.perf_counter() - start)
        return 2 * n * rounds / best / 1e9

    pin(threads, lambda: once(1_000_000))
    return {"fp32": fp32, "bf16": bf16, "copy": copy}


def ceilings(threads: int) -> Worker:
    """A worker that answers "fp32", "bf16" where the processor has it, and "copy"."""
    return Worker(runner="ceilings", threads=threads)


def peaks(threads: int) -> dict:
    """Peaks on one thread and on all, in GFLOP/s, and that of bf16 on all (None without it).

    If the second is not `threads` times the first, within a tenth, another program had the
    processor. Then they are measured again, five times at most."""
    best = {1: 0.0, threads: 0.0}
    for _ in range(5):
        for n in best:
            worker = ceilings(n)
            best[n] = max(best[n], worker.ask("fp32"))
            worker.close()
        if 0.9 < best[threads] / best[1] / threads < 1.1:
            break
    else:
        say(
            "the peak on all threads is not that of one thread times their number. The machine is"
            " busy, or has fewer processors than threads"
        )
    bf16 = None
    if gate.HAS_BF16:
        worker = ceilings(threads)
        bf16 = worker.ask("bf16")
        worker.close()
    return {"fp32_peak_1": best[1], "fp32_peak": best[threads], "bf16_peak": bf16}


def about(threads: int) -> dict:
    """The machine, the versions, and the peaks, which are measured now."""

    def git(*arguments):
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True
        ).stdout.strip()

    cpu = {}
    if Path("/proc/cpuinfo").exists():
        for line in open("/proc/cpuinfo"):
            name, _, value = line.partition(":")
            cpu.setdefault(name.strip(), value.strip())
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    commit = git("rev-parse", "--short", "HEAD") if shutil.which("git") else ""
    details = [f"{k} {cpu[k]}" for k in ("cpu family", "model") if k in cpu]
    allowed = hasattr(os, "sched_getaffinity")
    return {
        "cpu": " ".join([cpu.get("model name", "unknown"), *details]),
        "cores": len(os.sched_getaffinity(0)) if allowed else os.cpu_count(),
        "isa": gate.ISA,
        "compiler": gate.COMPILER,
        "threads": threads,
        "pinned": Worker.pins,
        "numpy": np.__version__,
        "blas": f"{blas['name']} {blas['version']}",
        "torch": importlib.metadata.version("torch") if has_torch() else None,
        "commit": commit + ("+" if commit and git("status", "--porcelain") else ""),
        "date": datetime.date.today().isoformat(),
        "command": shlex.join(["python", *sys.argv]),
        **peaks(threads),
    }


def describe(machine: dict) -> str:
    """The result of `about`, in three lines of text."""
    m = machine
    torch = f"torch {m['torch']}" if m["torch"] else "no torch"
    return (
        f"{m['cpu']}, {m['cores']} cores; {m['isa']}, {m['threads']} threads,"
        f" {'pinned' if m['pinned'] else 'unpinned'}, {m['compiler']};"
        f" numpy {m['numpy']} with {m['blas']}, {torch}\n"
        f"commit {m['commit'] or 'unknown'}, {m['date']}: {m['command']}\n"
        f"fp32 peak in registers: {m['fp32_peak_1']:.0f} GFLOP/s on one thread,"
        f" {m['fp32_peak']:.0f} on {m['threads']}"
        + (f"; bf16 {m['bf16_peak']:.0f}" if m["bf16_peak"] else "")
    )
