"""Runs a learner's function in a process of its own (worker.py), with a time limit."""

import io
import json
import os
import pickle
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pysft.lessons import worker
from pysft.lessons.cases import Case

TIME_LIMIT = 10.0
START = 60.0  # seconds that Python and NumPy may take to start, on a busy machine


@dataclass
class Ran:
    """What came of the calls of a function.

    fault      {"kind": ..., details}, or None if all calls ended
    calls      of each call: {"changed": names of inputs, "returned": is it not None}
    results    of each call: {output or result: array}
    shared     of each call again, in which outputs are the arrays of arguments: {output: array}
    printed    the beginning of what the file printed"""

    fault: dict | None
    calls: list[dict] = field(default_factory=list)
    results: list[dict[str, np.ndarray]] = field(default_factory=list)
    printed: str = ""
    shared: list[dict[str, np.ndarray]] = field(default_factory=list)


def run(source: bytes, path: Path, cases: list[Case], time_limit: float = TIME_LIMIT) -> Ran:
    """Call the function of the cases' problem in a learner's file, once for each case.

    source: the content of the file at `path`. time_limit: seconds for the file and all calls."""
    problem = cases[0].problem
    given = {
        "source": source,
        "path": str(path),
        "function": problem.function,
        "skeleton": problem.skeleton,
        "returns": list(problem.returns),
        "time_limit": time_limit,
        "shared": problem.shared,
        "calls": [(case.before, case.passed()) for case in cases],
    }
    with tempfile.TemporaryDirectory(prefix="pysft-lesson-") as name:
        folder = Path(name)
        (folder / "given.pickle").write_bytes(pickle.dumps(given))
        code = _start(folder, time_limit)
        return _read(folder, code, len(cases), time_limit)


def _start(folder: Path, time_limit: float) -> int | None:
    """Run the worker. Return its exit status, or None if it had to be killed."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
    env.setdefault("OPENBLAS_NUM_THREADS", "1")  # the arrays are small
    try:
        done = subprocess.run(
            # -P: the modules of this process's path, even if the current folder has others.
            [sys.executable, "-P", "-m", "pysft.lessons.worker", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=env,
            timeout=time_limit + START,
        )
    except subprocess.TimeoutExpired:
        return None
    return done.returncode


def _read(folder: Path, code: int | None, calls: int, time_limit: float) -> Ran:
    printed = _text(folder / "printed.txt")
    try:
        report = json.loads((folder / "report.json").read_text())
    except (OSError, ValueError):  # the process did not come to its end
        trace = _text(folder / "trace.txt")
        is_late = code is None or trace.startswith("Timeout")
        found = re.search(rf'File "{re.escape(worker.FILE)}", line (\d+)', trace)
        line = int(found[1]) if found else None
        if is_late:
            fault = {"kind": "endless", "line": line, "seconds": time_limit}
        else:
            fault = {"kind": "ended", "line": line, "code": code}
        return Ran(fault, printed=printed)
    results, shared = ([{} for _ in range(calls)] for _ in range(2))
    content = io.BytesIO((folder / "results.npz").read_bytes())
    with np.load(content, allow_pickle=False) as arrays:
        for key in arrays.files:
            call, name = key.split("/")
            *again, i = call.split()
            (shared if again else results)[int(i)][name] = arrays[key]
    return Ran(report["fault"], report["calls"], results, printed, shared)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
