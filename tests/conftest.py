"""Small helpers that several test files share."""

import contextlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

# Waiting threads sleep instead of spinning: where the machine has other work, spinning takes the
# very core that the thread waited for needs. Read when OpenMP is loaded, so before any import of
# pysft.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Output is buffered, as it is for whoever types a command.
os.environ.pop("PYTHONUNBUFFERED", None)

# A suite started in the background has SIGINT ignored, one under nohup SIGHUP, and so would the
# programs that it interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

ROOT = Path(__file__).resolve().parents[1]


# The settings of a run that takes seconds; a test file adds its own steps and windows.
SMALL_RUN = """context = 64
layers = 1
heads = 2
channels = 16
base_warmup = 2
sft_tokens = 192
sft_warmup = 2
"""


def in_process(*arguments):
    """One command in this process: (its exit code, standard output, standard error). An exception
    that reaches this far would be a traceback."""
    from pysft import cli

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main([str(a) for a in arguments])
        except SystemExit as exit:  # argparse's way
            code = exit.code
    return code, out.getvalue(), err.getvalue()


def offsets(lengths):
    """cu_seqlens of sequences with these lengths."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def distance(a, b):
    """max|a - b| relative to the scale of b; infinite where one of them is not a number."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf")
    return float(np.abs(a - b).max(initial=0) / max(np.abs(b).max(initial=0), 1e-30))


def python(*arguments, cwd=ROOT, timeout=60, **env):
    """Run this Python in `cwd` on the package that stands there."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": str(cwd), **env},
    )
