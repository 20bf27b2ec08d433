"""Run all tests, a process on each processor. A process of pytest takes two seconds before its
first test, so most files share processes, sixteen in each. The two files that take longest begin
first. A few have processes of their own at the end, so that all processors finish at about the same
time. Prints a line for each process, and all of pytest's output if a test fails.

    python tests/suite.py [OPTIONS OF PYTEST]

The suite is tests/test_*.py. Files in a folder below tests/ are not part of it."""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

TESTS = Path(__file__).resolve().parent
FIRST = ["guide", "lab"]  # the files that take longest
LAST = "build cli_process checkpoints preferences tree resume report".split()
TOGETHER = 16  # files in a process that is shared
TIME_LIMIT = 1800  # seconds for one process
NOTHING_CHOSEN = 5  # pytest's exit status if the options select no test


def main(options):
    with tempfile.TemporaryDirectory() as folder:
        return _all(options, _environment(folder))


def _environment(folder):
    """The variables of the processes. Where Python is told to keep no compiled modules, it keeps
    them in `folder`: else each process compiles all that it imports, and pytest all tests again."""
    found = dict(os.environ)
    if found.pop("PYTHONDONTWRITEBYTECODE", ""):
        found["PYTHONPYCACHEPREFIX"] = folder
    return found


def _all(options, environment):
    began, totals, failed = time.monotonic(), Counter(), []
    with ThreadPoolExecutor(_processors()) as pool:
        files = shared(TESTS.glob("test_*.py"))
        jobs = [pool.submit(_run, some, options, environment) for some in files]
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
    first, last = ([[by_name.pop(name)] for name in names] for names in (FIRST, LAST))
    rest = list(by_name.values())
    return first + [rest[i : i + TOGETHER] for i in range(0, len(rest), TOGETHER)] + last


def _processors():
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def _run(files, options, environment):
    """(the files, their finished process)."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    try:
        return files, subprocess.run(
            [*command, *(f"tests/{path.name}" for path in files), *options],
            cwd=TESTS.parent,
            env=environment,
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
