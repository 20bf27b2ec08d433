"""Which lines of csrc/ were run, by the notes that gcc's --coverage left beside the objects: of
every module, instruction set and precision together. A line that none of them ran is named, and the
exit status is 1.

    python tests/lines.py FOLDER"""

import re
import subprocess
import sys
from pathlib import Path


def main(folder):
    notes = sorted(p.resolve() for p in Path(folder).rglob("*.gcno") if "csrc" in p.parts)
    if not notes:
        print(f"{folder}: no .gcno; build with PYSFT_COVERAGE=1 first (make coverage)")
        return 2
    run = {}  # (file, line) -> times
    for path in notes:
        said = subprocess.run(
            ["gcov", "--stdout", str(path)], capture_output=True, text=True, check=True
        ).stdout
        file = ""
        for line in said.splitlines():
            fields = re.fullmatch(r"\s*([^:]+):\s*(\d+):(.*)", line)
            count, number, text = fields.groups() if fields else ("-", "0", "")
            if number == "0":
                file = text.removeprefix("Source:") if text.startswith("Source:") else file
            elif count != "-" and file.startswith("csrc/"):
                times = 0 if count.startswith(("#", "=")) else int(re.sub(r"\D", "", count))
                run[file, int(number)] = run.get((file, int(number)), 0) + times
    missed = sorted(place for place, times in run.items() if not times)
    for file, number in missed:
        print(f"{file}:{number}: {Path(file).read_text().splitlines()[number - 1].strip()}")
    print(
        f"C: {len(run) - len(missed)} of {len(run)} lines run ({1 - len(missed) / len(run):.2%}),"
        f" in {len(notes)} objects"
    )
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]) if len(sys.argv) == 2 else __doc__)
