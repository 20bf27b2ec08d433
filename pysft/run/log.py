"""A stage's log (one line a step) and its measurements (one line a measured checkpoint)."""

import json
import math
import shutil
from pathlib import Path

from pysft import disk
from pysft.errors import DataError, MissingInput

# Figures of a measurement by which a checkpoint can be chosen: numbers, or null.
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
    """The log's rows, up to the first line that is damaged or was cut off by a crash.

    skipped: include the rows of skipped steps, {"step", "skipped": True}."""
    rows = []
    try:
        for line in (folder / "log.jsonl").read_bytes().splitlines():
            row = json.loads(line)
            if not _is_step(row):
                break
            if skipped or not row.get("skipped"):
                rows.append(row)
    except (OSError, ValueError, RecursionError):
        pass
    return rows


def _is_step(row) -> bool:
    """True if a row has the fields that are read of a step."""

    def number(x):
        return isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x)

    if not isinstance(row, dict) or type(row.get("step")) is not int:
        return False
    return row.get("skipped") is True or (
        isinstance(row.get("losses"), dict)
        and all(map(number, row["losses"].values()))
        and all(number(row.get(name)) for name in ("loss", "norm", "tokens", "seconds"))
    )


def whole_log(folder: Path, step: int) -> bool:
    """True if the log has exactly one line for each of steps 1 to `step`. A crash can leave extra
    lines at its end, never a gap."""
    return _is_complete(read_log(folder, skipped=True), step)


def _is_complete(rows: list[dict], step: int) -> bool:
    return [row["step"] for row in rows] == list(range(1, step + 1))


def cut_log(folder: Path, step: int) -> bool:
    """Remove the lines after `step`, which resuming writes again; True if the rest is complete."""
    kept = [row for row in read_log(folder, skipped=True) if row["step"] <= step]
    disk.replace(folder / "log.jsonl", [_lines(kept).encode()])
    return _is_complete(kept, step)


def add_measurement(folder: Path, row: dict) -> None:
    """Append the JSON line of a measured checkpoint."""
    disk.append(folder / "measurements.jsonl", _lines([row]))


def read_measurements(folder: Path) -> list[dict]:
    """The rows of the measured checkpoints by rising step, up to the first line that a crash cut
    off. Of a step that was measured twice, the later row.

    Each row has its "step", "samples" ([prompt, reply, stop], [] if none were kept) and figures;
    nan is None. MissingInput if no checkpoint above step 0 was measured; DataError if a value of
    FIGURES or the samples are of another type."""
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
    """Remove measurements and kept models after `step`, which resuming makes again.

    False if a line in the middle was damaged, which a crash cannot do; it is removed too."""
    path, kept, whole = folder / "measurements.jsonl", [], True
    if not path.is_file():
        return True
    # As bytes: text knows more kinds of line ends, and the last line may be torn.
    for line in path.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        try:
            beyond = json.loads(line)["step"] > step
        except (ValueError, KeyError, TypeError, RecursionError):
            whole = False
            continue
        if not beyond:
            kept.append(line)
    disk.replace(path, kept)
    for old in (folder / "steps").glob("*"):
        if old.name.isdecimal() and int(old.name) > step:
            shutil.rmtree(old, ignore_errors=True)
    return whole
