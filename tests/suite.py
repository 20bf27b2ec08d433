"""Run all tests, a file on each processor, the files that take longest first. Prints a line for
each file, and all of pytest's output for a file that fails.

    python tests/suite.py [OPTIONS OF PYTEST]

The suite is tests/test_*.py. Files in a folder below tests/ are not part of it."""

import os
import re
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

TESTS = Path(__file__).resolve().parent
# The files that take long, the longest first. The order of the others does not matter.
LONGEST = "guide lab resume gradcheck cli_process checkpoints preferences tree build fuzz".split()
LONGEST += "cli_data model figures report hostile safetensors sample add_a_stage".split()
TIME_LIMIT = 1800  # seconds for one file
NOTHING_CHOSEN = 5  # pytest's exit status if the options select no test of a file


def main(options):
    began, totals, failed = time.monotonic(), Counter(), []
    files = sorted(TESTS.glob("test_*.py"), key=place)
    with ThreadPoolExecutor(_processors()) as pool:
        jobs = [pool.submit(_run, path, options) for path in files]
        for job in as_completed(jobs):
            path, done = job.result()
            if done.returncode == NOTHING_CHOSEN:
                continue
            summary = done.stdout.rstrip().rpartition("\n")[2].strip("= ")
            totals += _counts(summary)
            if done.returncode:
                failed.append(path.name)
                print(done.stdout, flush=True)
            else:
                print(f"{path.name:<26} {summary}", flush=True)
    if not totals["passed"] and not failed:
        print("no test was run")
        return NOTHING_CHOSEN
    print(
        ", ".join(f"{n} {outcome}" for outcome, n in totals.items())
        + f" in {time.monotonic() - began:.2f}s"
        + (f"; see {', '.join(failed)}" if failed else "")
    )
    return int(bool(failed))


def place(path):
    """Where a file stands in the order of the runs."""
    name = path.stem.removeprefix("test_")
    return LONGEST.index(name) if name in LONGEST else len(LONGEST), path.name


def _processors():
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def _run(path, options):
    """(path, the finished process) of one file of tests."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"tests/{path.name}"]
    try:
        return path, subprocess.run(
            [*command, *options],
            cwd=TESTS.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIME_LIMIT,
        )
    except subprocess.TimeoutExpired as error:
        output = (error.stdout or b"").decode(errors="replace")
        message = f"{output}\n{path.name}: not finished after {TIME_LIMIT} s"
        return path, subprocess.CompletedProcess([], 1, message)


def _counts(summary):
    """How many tests had each outcome, from pytest's last line: "3 passed, 2 errors in 0.1s"."""
    counts = Counter()
    for number, outcome in re.findall(
        r"(\d+) (passed|failed|skipped|xfailed|xpassed|errors?|deselected)", summary
    ):
        counts["error" if outcome == "errors" else outcome] += int(number)
    return counts


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
