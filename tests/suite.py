"""All tests, as pytest finds them, on as many processes as there are processors: a file each, the
longest first. A line for each file; of one that fails, all that pytest said.

    python tests/suite.py [PYTEST'S OPTIONS]"""

import os
import re
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

TESTS = Path(__file__).resolve().parent
LONGEST = (
    "diagnose",
    "cli",
    "resume",
    "checkpoints",
    "run",
    "lab",
    "data",
    "build",
    "model",
    "gradcheck",
    "report",
    "living",
    "fuzz",
)
HANGS = 1800  # seconds of one file
NOTHING_CHOSEN = 5  # pytest's exit status where the options leave no test of a file


def main(options):
    began, total, failed = time.monotonic(), Counter(), []
    files = sorted(
        TESTS.glob("test_*.py"),
        key=lambda p: (
            LONGEST.index(p.stem[5:]) if p.stem[5:] in LONGEST else len(LONGEST),
            p.name,
        ),
    )

    def one(path):
        try:
            return path, subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "pytest",
                    "-p",
                    "no:cacheprovider",
                    f"tests/{path.name}",
                    *options,
                ],
                cwd=TESTS.parent,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=HANGS,
            )
        except subprocess.TimeoutExpired as error:
            said = (error.stdout or b"").decode(errors="replace")
            return path, subprocess.CompletedProcess(
                [], 1, f"{said}\n{path.name}: not finished after {HANGS} s"
            )

    with ThreadPoolExecutor(
        max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    ) as pool:
        for path, done in (
            job.result() for job in as_completed([pool.submit(one, path) for path in files])
        ):
            if done.returncode == NOTHING_CHOSEN:
                continue
            said = done.stdout.rstrip().rpartition("\n")[2].strip("= ")
            for number, what in re.findall(
                r"(\d+) (passed|failed|skipped|xfailed|xpassed|errors?|deselected)", said
            ):
                total[what.removesuffix("s") if what == "errors" else what] += int(number)
            if done.returncode:
                failed.append(path.name)
                print(done.stdout, flush=True)
            else:
                print(f"{path.name:<26} {said}", flush=True)
    if not total["passed"] and not failed:
        print("no test was run")
        return NOTHING_CHOSEN
    print(
        ", ".join(f"{n} {what}" for what, n in total.items())
        + f" in {time.monotonic() - began:.2f}s"
        + (f"; see {', '.join(failed)}" if failed else "")
    )
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
