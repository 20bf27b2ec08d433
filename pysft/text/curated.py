"""Rows that a pipeline of data makes: conversations, each with all that was done to it.

    {"messages": [...], "metadata": {"steps": [{"step": "expand", "by": "runs/teacher", ...}, ...]}}

`train --data` reads such a file as it stands. A row of the user's own has no steps yet, and its
other keys are kept in "metadata" with them. Its marks stay beside "messages", where `train` looks
for them: "synthetic" (True for what a model wrote), "lang", and the others of OF_READING."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from pysft import disk
from pysft.errors import DataError, RowError, UsageError
from pysft.text.conversation import LeftOut, plain, refuse_faults
from pysft.text.formats import scan
from pysft.text.keys import MARKS, OF_ROWS, is_empty
from pysft.text.template import Template

STEPS = "steps"  # the key in "metadata"
OF_READING = (*MARKS, "lang", "language")  # keys by which keys.Reading leaves rows out
NO_END, FORM = "no end", "form"  # why steps drop what a model wrote: cut off, or no text of a turn
# Kinds of faults that a filter may drop a row for: an empty turn, half of a character, no reply at
# the end. A fault of another kind says that the file as a whole is read wrongly.
SPOILED = ("empty", "characters", "missing end")
# What keys.py says of --ignore at the end of a remedy, and what is said in its place.
_IGNORE = (
    (re.compile(r", take it out, or, if it means nothing, give --ignore .*?(?= \(and |$)"),
     ", or take it out"),
    (re.compile(r"; if it is no flag, give --ignore .*?(?= \(and |$)"), ""),
)  # fmt: skip


@dataclass(frozen=True)
class Curated:
    """A conversation. steps: what was done to it, the first first. where: its file and line. marks:
    its keys OF_READING; {"synthetic": True} if a model wrote it."""

    messages: list[dict]
    steps: tuple[dict, ...] = ()
    where: str = ""
    metadata: dict = field(default_factory=dict)
    marks: dict = field(default_factory=dict)

    @property
    def prompt(self) -> list[dict]:
        """The messages before the last reply."""
        return self.messages[:-1]

    @property
    def asked(self) -> str:
        """What the user said last."""
        return plain(self.messages[-2]["content"])

    @property
    def reply(self) -> str:
        """The last reply as one text, without thoughts and calls of tools."""
        return answer_of(self.messages[-1]["content"])

    def after(self, step: str, **figures) -> "Curated":
        """The same row, with a further step and what it found."""
        return replace(self, steps=(*self.steps, {"step": step, **figures}))

    def to_row(self) -> dict:
        """The row of a file. A flag is called "train" in it, whatever its name was."""
        messages = [{key: m[key] for key in m if key != "flag"} for m in self.messages]
        metadata = {**self.metadata, STEPS: list(self.steps)}
        return {"messages": messages, **self.marks, "metadata": metadata}


def answer_of(content) -> str:
    """Return what a reply answers: its parts of the type "text", joined. The others are thoughts,
    calls of tools and their results."""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


class Stations:
    """The counts of a step: how many rows it read and wrote, and why it dropped the others.

    reasons: all for which it may drop one, in the order in which it asks. They are counted from 0,
    so the document of a step has the same names each time. left_out: {reason: rows} that were not
    read, because a mark of theirs says so (keys.Reading)."""

    def __init__(self, *reasons: str):
        self.read, self.written, self.dropped = 0, 0, dict.fromkeys(reasons, 0)
        self.left_out = Counter()

    def drop(self, reason: str) -> None:
        self.dropped[reason] += 1

    def to_json(self) -> dict:
        """{"read", "written", "dropped": {reason: rows}, "left_out": {reason: rows}}"""
        counts = {"read": self.read, "written": self.written, "dropped": self.dropped}
        return {**counts, "left_out": dict(self.left_out)}


def read_curated(
    path,
    template: Template,
    spoiled: list[RowError] | None = None,
    left_out: Counter | None = None,
) -> list[Curated]:
    """The conversations of a file in any form that `train --data` reads. MissingInput or a
    DataError if it cannot be read, if a row cannot be used, or if it has none. A row of plain text
    is a fault, because nobody asks anything in it.

    spoiled: a list to which faults of the kinds SPOILED are added, in place of being raised.
    left_out: counts the rows that a mark leaves out, by their reason."""
    rows, faults = [], []
    left_out = Counter() if left_out is None else left_out
    for found in scan(path, template):
        if isinstance(found, RowError):
            is_spoiled = spoiled is not None and found.kind in SPOILED
            (spoiled if is_spoiled else faults).append(found)
        elif isinstance(found, LeftOut):
            left_out[found.reason] += 1
        elif found.is_text:
            what, remedy = "it is plain text", "write a prompt and a reply, or remove the line"
            faults.append(RowError(found.where, what, remedy, "format"))
        else:
            rows.append(_curated(found))
    with no_ignore():
        refuse_faults(faults)
    if not rows and not spoiled:
        words = left_out_words(left_out)
        raise DataError(
            f"{path}: no conversation in it{words and f' ({words})'}. The guide's page 'data' shows"
            " how a row looks"
        )
    return rows


@contextmanager
def no_ignore():
    """Inside `with`, a DataError about keys that are not read does not name --ignore as a remedy:
    the verbs that read files of prompts and the steps of `curate` have no such flag."""
    try:
        yield
    except DataError as error:
        text = str(error)
        for pattern, instead in _IGNORE:
            text = pattern.sub(instead, text)
        raise DataError(text) from None


def _curated(conversation) -> Curated:
    row = conversation.row or {}
    filled = {key: row[key] for key in row if not is_empty(row[key])}
    marks = {key: filled.pop(key) for key in OF_READING if key in filled}
    metadata = {key: filled[key] for key in filled if key in OF_ROWS}
    if isinstance(metadata.get("metadata"), dict):
        metadata |= metadata.pop("metadata")
    steps = metadata.pop(STEPS, ())
    is_ours = isinstance(steps, list) and all(isinstance(s, dict) and "step" in s for s in steps)
    if not is_ours and steps != ():
        metadata[STEPS + "_before"], steps = steps, ()  # of another program
    return Curated(conversation.messages, tuple(steps), conversation.where, metadata, marks)


def write_curated(path: Path, rows: Iterable[Curated]) -> None:
    """Write a file of rows. A crash leaves no part of it."""
    lines = (json.dumps(row.to_row(), ensure_ascii=False) + "\n" for row in rows)
    disk.replace(path, [line.encode() for line in lines])


def refuse_taken(out: Path, flag: str = "--out", beside: Path | None = None) -> None:
    """Raise a UsageError if a file cannot be made anew at `out`, before anything is computed. flag:
    the one that names it. beside: the file of --out, if that is another one."""
    if beside is not None and out.resolve() == beside.resolve():
        raise UsageError(f"{flag} {out}: --out names the same file; choose another name")
    if out.exists():
        raise UsageError(f"{flag} {out}: it exists already; choose another name, or remove it")
    if not out.parent.is_dir():
        raise UsageError(f"{flag} {out}: there is no folder {out.parent}; make it first")


def left_out_words(left_out: Counter) -> str:
    """Return "left out: 2 deleted, 1 synthetic"; "" if there are none."""
    counts = ", ".join(f"{n:,} {reason}" for reason, n in sorted(left_out.items()))
    return counts and f"left out: {counts}"
