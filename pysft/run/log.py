"""A stage's log, with a line for each step, and its measurements, with a line for each measured
checkpoint."""

import json
import math
import shutil
from pathlib import Path

from pysft import disk
from pysft.errors import DataError, MissingInput

# The figures of a measurement that a checkpoint can be chosen by. Each is a number or null.
FIGURES = (
    "sft_loss",
    "heldout_loss",
    "format_compliance",
    "on_topic",
    "on_topic_chance",
    "forgetting",
    "recall",
)


def append_log(folder: Path, rows: list[dict]) -> None:
    """Append one JSON line for each step."""
    disk.append(folder / "log.jsonl", _lines(rows))


def _lines(rows) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def read_log(folder: Path, skipped: bool = False) -> list[dict]:
    """Return the rows of the log, up to the first line that is damaged or that a crash cut off. An
    empty list if there is no log.

    skipped: include the rows of skipped steps, {"step": STEP, "skipped": True}."""
    rows = []
    try:
        for line in (folder / "log.jsonl").read_bytes().splitlines():
            row = of_this_version(json.loads(line))
            if not _is_step(row):
                break
            if skipped or not row.get("skipped"):
                rows.append(row)
    except (OSError, ValueError, RecursionError):
        pass
    return rows


def of_this_version(row):
    """Return a line of a log as this version writes it. An earlier one called the figures of the
    objective "losses", because there were no others."""
    if isinstance(row, dict) and "losses" in row:
        row["figures"] = row.pop("losses")
    return row


def _is_step(row) -> bool:
    """True if a row has the fields of a step that are read again."""

    def is_number(x):
        return isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x)

    if not isinstance(row, dict) or type(row.get("step")) is not int:
        return False
    return row.get("skipped") is True or (
        isinstance(row.get("figures"), dict)
        and all(map(is_number, row["figures"].values()))
        and all(is_number(row.get(name)) for name in ("loss", "norm", "tokens", "seconds"))
    )


def whole_log(folder: Path, step: int) -> bool:
    """True if the log has exactly one line for each of steps 1 to `step`, and no other. A crash can
    leave extra lines at its end, never a gap."""
    return _is_complete(read_log(folder, skipped=True), step)


def _is_complete(rows: list[dict], step: int) -> bool:
    return [row["step"] for row in rows] == list(range(1, step + 1))


def cut_log(folder: Path, step: int) -> bool:
    """Remove the lines after `step`, because resuming writes them again. Return True if there is
    exactly one line for each of steps 1 to `step`."""
    kept = [row for row in read_log(folder, skipped=True) if row["step"] <= step]
    disk.replace(folder / "log.jsonl", [_lines(kept).encode()])
    return _is_complete(kept, step)


def add_measurement(folder: Path, row: dict) -> None:
    """Append the line of a measured checkpoint."""
    disk.append(folder / "measurements.jsonl", _lines([row]))


def read_measurements(folder: Path) -> list[dict]:
    """Return the rows of the measured checkpoints by rising step, up to the first line that is
    damaged or that a crash cut off. If a step was measured twice, the later row counts.

    Each row has its "step", "samples" and figures. samples is a list of [prompt, reply, stop], []
    if none were kept. nan is None. MissingInput if no checkpoint above step 0 was measured.
    DataError if a figure in FIGURES, or samples, has another type."""
    path, rows = Path(folder) / "measurements.jsonl", {}
    if not path.is_file():
        raise MissingInput(
            f"{path}: missing; training writes it with the checkpoints that it keeps. Train again"
            " and keep some (--checkpoint-every)"
        )
    for n, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            row = json.loads(line, parse_constant=lambda _: None)
        except (ValueError, RecursionError):
            break
        if not isinstance(row, dict) or type(row.get("step")) is not int:
            break
        wrong = [f for f in FIGURES if type(row.get(f)) not in (int, float, type(None))]
        if wrong:
            raise DataError(
                f"{path}, line {n}: {wrong[0]} is {row[wrong[0]]!r}, expected a number or null;"
                " train again"
            )
        samples = row.setdefault("samples", [])
        if not isinstance(samples, list) or any(
            type(s) is not list or [*map(type, s)] != [str] * 3 for s in samples
        ):
            raise DataError(
                f"{path}, line {n}: samples is not a list of [prompt, reply, stop]; train again"
            )
        rows[row["step"]] = row
    if max(rows, default=0) < 1:
        raise MissingInput(
            f"{path}: no checkpoint above step 0 was measured; train further, or keep checkpoints"
            " more often (--checkpoint-every)"
        )
    return [rows[step] for step in sorted(rows)]


def cut_measurements(folder: Path, step: int) -> bool:
    """Remove measurements and kept models after `step`, because resuming makes them again.

    Return False if a line before the last was damaged, which no crash can do. It is removed too."""
    path, kept, is_whole = folder / "measurements.jsonl", [], True
    if not path.is_file():
        return True
    # Read bytes, because splitting text would split at more characters, and because a crash may
    # have cut off the last line inside a character.
    for line in path.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        try:
            is_after = json.loads(line)["step"] > step
        except (ValueError, KeyError, TypeError, RecursionError):
            is_whole = False
            continue
        if not is_after:
            kept.append(line)
    disk.replace(path, kept)
    for old in (folder / "steps").glob("*"):
        if old.name.isdecimal() and int(old.name) > step:
            shutil.rmtree(old, ignore_errors=True)
    return is_whole
