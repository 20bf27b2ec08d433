"""Run all tests, a process on each processor. A file that takes long has a process of its own, and
those that take longest begin first. The other files share processes, eight in each, because a
process of pytest takes two seconds before its first test. Prints a line for each process, and all
of pytest's output if a test fails.

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
LONGEST = "guide lab build cli_process resume checkpoints preferences report cli_data tree".split()
LONGEST += "add_a_stage figures made world situations fuzz comparing_faults gradcheck".split()
TOGETHER = 8  # files in a process that is shared
TIME_LIMIT = 1800  # seconds for one process
NOTHING_CHOSEN = 5  # pytest's exit status if the options select no test


def main(options):
    began, totals, failed = time.monotonic(), Counter(), []
    with ThreadPoolExecutor(_processors()) as pool:
        jobs = [pool.submit(_run, files, options) for files in shared(TESTS.glob("test_*.py"))]
        for job in as_completed(jobs):
            files, done = job.result()
            names = " ".join(path.stem.removeprefix("test_") for path in files)
            if done.returncode == NOTHING_CHOSEN:
                continue
            summary = done.stdout.rstrip().rpartition("\n")[2].strip("= ")
            totals += _counts(summary)
            if done.returncode:
                failed.append(names)
                print(done.stdout, flush=True)
            else:
                print(f"{names}: {summary}", flush=True)
    if not totals["passed"] and not failed:
        print("no test was run")
        return NOTHING_CHOSEN
    print(
        ", ".join(f"{n} {outcome}" for outcome, n in totals.items())
        + f" in {time.monotonic() - began:.2f}s"
        + (f"; see {', '.join(failed)}" if failed else "")
    )
    return int(bool(failed))


def shared(paths):
    """The files of each process, in the order in which the processes begin."""
    by_name = {path.stem.removeprefix("test_"): path for path in sorted(paths)}
    alone = [[by_name.pop(name)] for name in LONGEST]
    rest = list(by_name.values())
    return alone + [rest[i : i + TOGETHER] for i in range(0, len(rest), TOGETHER)]


def _processors():
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def _run(files, options):
    """(the files, their finished process)."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    try:
        return files, subprocess.run(
            [*command, *(f"tests/{path.name}" for path in files), *options],
            cwd=TESTS.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIME_LIMIT,
        )
    except subprocess.TimeoutExpired as error:
        output = (error.stdout or b"").decode(errors="replace")
        message = f"{output}\nnot finished after {TIME_LIMIT} s"
        return files, subprocess.CompletedProcess([], 1, message)


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
