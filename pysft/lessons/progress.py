"""What a learner has done, in a small file beside the learner's own: `mine.py.progress.json`.

Its name begins with that of the file it is about, as `replies.jsonl.ratings` does, so the two stand
together in a folder, and the file can be copied or deleted by hand. It holds, for each exercise,

    {"layernorm": {"passed": false, "about": "layernorm_backward: ...", "checks": 2}}

about: what the last check found. checks: how many checks in a row have found this. Each of them
shows one hint more."""

import json
from pathlib import Path

from pysft import disk
from pysft.lessons.check import Finding

SUFFIX = ".progress.json"


def path_of(file: Path) -> Path:
    """The path of the progress of a learner's file."""
    return file.with_name(file.name + SUFFIX)


def read(path: Path) -> dict[str, dict]:
    """Return the content of a file of progress: {exercise: ...}. {} if there is none, or another
    program has written something else there."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    content = content if isinstance(content, dict) else {}
    return {name: x for name, x in content.items() if isinstance(x, dict)}


def noted(before: dict, exercise: str, finding: Finding) -> tuple[dict, int]:
    """Return the progress after a check, and the number of the hint that is due, from 0."""
    about = f"{finding.function}: {finding.mistake or finding.finding}"
    last = before.get(exercise, {})
    checks = last.get("checks") if last.get("about") == about else 0
    checks = checks + 1 if isinstance(checks, int) and not isinstance(checks, bool) else 1
    entry = {"passed": finding.passed, "about": about, "checks": checks}
    return before | {exercise: entry}, checks - 1


def write(path: Path, content: dict) -> None:
    """Replace a file of progress. An OSError if the folder cannot be written to."""
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    disk.replace(path, [text.encode()])


def done_in(folder: Path) -> set[str]:
    """The exercises that were right when they were last checked, of all files in a folder."""
    found = set()
    for path in folder.glob("*" + SUFFIX):
        found |= {name for name, entry in read(path).items() if entry.get("passed") is True}
    return found
