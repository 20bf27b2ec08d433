"""Print the lines of csrc/ that no test ran, from the counts that a build with PYSFT_COVERAGE=1
leaves beside its objects (gcov).

    python tests/heavy/lines.py BUILD_FOLDER

A line counts as run if any module, instruction set or precision ran it. The exit status is 1 if a
line was not run. `make coverage` builds, runs the tests and then this; run it from the folder that
holds csrc/."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path


def runs_of(notes: list[Path]) -> Counter:
    """{(file, line): how often it was run} over all objects, for each line that has code."""
    runs = Counter()
    for path in notes:
        report = subprocess.run(
            ["gcov", "--stdout", str(path)], capture_output=True, text=True, check=True
        ).stdout
        file = ""
        for line in report.splitlines():  # "count:line:text"; line 0 holds the file's name
            fields = re.fullmatch(r"\s*([^:]+):\s*(\d+):(.*)", line)
            count, number, text = fields.groups() if fields else ("-", "0", "")
            if number == "0":
                file = text.removeprefix("Source:") if text.startswith("Source:") else file
            elif count != "-" and file.startswith("csrc/"):
                never = count.startswith(("#", "="))
                runs[file, int(number)] += 0 if never else int(re.sub(r"\D", "", count))
    return runs


def main(folder):
    notes = sorted(p.resolve() for p in Path(folder).rglob("*.gcno") if "csrc" in p.parts)
    if not notes:
        print(f"{folder}: no .gcno file; build with PYSFT_COVERAGE=1 first (make coverage)")
        return 2
    runs = runs_of(notes)
    missed = sorted(place for place, times in runs.items() if not times)
    for file, number in missed:
        print(f"{file}:{number}: {Path(file).read_text().splitlines()[number - 1].strip()}")
    print(
        f"C: {len(runs) - len(missed)} of {len(runs)} lines run"
        f" ({1 - len(missed) / len(runs):.2%}), in {len(notes)} objects"
    )
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]) if len(sys.argv) == 2 else __doc__)
