"""Files of sampled replies: rows {"prompt", "replies", "ended", "source"}, which nobody has put in
an order yet. And the prompts that replies are sampled for."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pysft import disk
from pysft.errors import DataError, MissingInput, RowError
from pysft.text.conversation import SURROGATE, check_messages
from pysft.text.curated import no_ignore
from pysft.text.files import read_text, refuse_name, suffix, with_line_ends
from pysft.text.formats import EVERYTHING, read_prompts
from pysft.text.json_rows import json_kind
from pysft.text.keys import OF_ROWS
from pysft.text.replies import read_prompt, read_reply, taken
from pysft.text.rows import all_rows
from pysft.text.template import Template
from pysft.text.templates import CHATML, TEMPLATES
from pysft.text.turns import roles_of

LEAST, MOST = 2, 9  # replies to a prompt; InstructGPT's labelers ranked 4 to 9
EXAMPLE = '{"prompt": ..., "replies": [...]}'
MARKS = frozenset().union(*(template.marks for template in TEMPLATES.values()))


@dataclass(frozen=True, slots=True)
class Sampled:
    """Replies to one prompt. prompt: messages, the last of which is the user's. ended: False for a
    reply that was cut off. source: who wrote the prompt, "" if nobody says."""

    prompt: list[dict]
    replies: tuple[str, ...]
    ended: tuple[bool, ...]
    source: str = ""
    where: str = ""

    def usable(self) -> "Sampled":
        """The same with those replies alone that can be ranked and trained on. An empty reply, or
        one with a control token, cannot be an example, and of equal replies one is kept, because
        every pair with the other would count twice."""
        kept = {}
        for reply, ended in zip(self.replies, self.ended):
            if is_usable(reply):
                kept[reply] = ended or kept.get(reply, False)
        return Sampled(self.prompt, tuple(kept), tuple(kept.values()), self.source, self.where)

    def to_row(self) -> dict:
        """The row of a file."""
        row = {"prompt": self.prompt, "replies": list(self.replies), "ended": list(self.ended)}
        return row | ({"source": self.source} if self.source else {})


def is_usable(text: str, template: Template | None = None) -> bool:
    """True for the text of a turn that has content and holds no control token of a known template,
    nor one of `template`, nor words by which that begins or ends a turn."""
    own = () if template is None else (*template.marks, *template.forgeable)
    is_text = bool(text.strip()) and not SURROGATE.search(text)
    return is_text and not any(mark in text for mark in (*MARKS, *own))


def write_sampled(path: Path, rows: Iterable[Sampled]) -> None:
    """Write a file of sampled replies. A crash leaves no part of it."""
    disk.replace(path, [(json.dumps(row.to_row()) + "\n").encode() for row in rows])


def read_sampled(path) -> list[Sampled]:
    """The rows of a file of sampled replies. MissingInput or a DataError if it cannot be read, if a
    row cannot be used, or if it has none."""
    _refuse_missing(path, "replies; python -m pysft generate RUN --prompts FILE writes one")
    rows, faults = [], []
    for line, row in all_rows(Path(path), example=EXAMPLE):
        try:
            if isinstance(row, RowError):
                raise row
            rows.append(_sampled(dict(row), f"{path}, line {line}"))
        except RowError as error:
            faults.append(error)
    _refuse(faults)
    if not rows:
        raise DataError(f"{path}: no row in it; a row of replies is {EXAMPLE}")
    return rows


def _refuse_missing(path, what: str) -> None:
    refuse_name(path)
    if not Path(path).exists():
        raise MissingInput(f"{path}: no such file of {what}")


def _refuse(faults: list[RowError]) -> None:
    """Raise the first fault with the number of the others, if there are any."""
    if faults:
        others = f" (and {len(faults) - 1:,} more)" if len(faults) > 1 else ""
        raise DataError(f"{faults[0]}{others}")


def _sampled(row: dict, where: str) -> Sampled:
    roles = roles_of(CHATML)
    if "ranks" in row or "chosen" in row:
        what = "its replies have an order already"
        raise RowError(where, what, "name a file that generate --prompts has written", "format")
    asked, replies = taken(row, "prompt", where), taken(row, "replies", where)
    ended, source = row.pop("ended", None), row.pop("source", None)
    if not isinstance(replies, list) or not LEAST <= len(replies) <= MOST:
        kind = f"a list of {len(replies):,}" if isinstance(replies, list) else json_kind(replies)
        remedy = f"write a list of {LEAST} to {MOST}"
        raise RowError(where, f'"replies" is {kind}', remedy, "format")
    if ended is None:
        ended = [True] * len(replies)
    if not isinstance(ended, list) or [type(e) for e in ended] != [bool] * len(replies):
        remedy = "write true or false for each reply, or take it out"
        raise RowError(where, '"ended" does not fit the replies', remedy, "format")
    texts = [
        with_line_ends(read_reply(reply, f"{where}, reply {n}", roles, EVERYTHING))
        for n, reply in enumerate(replies, 1)
    ]
    prompt = read_prompt(asked, where, roles, EVERYTHING)
    check_prompt(prompt, where, CHATML)
    EVERYTHING.refuse_rest(row, where, OF_ROWS)
    source = source if isinstance(source, str) else ""
    return Sampled(prompt, tuple(texts), tuple(ended), source, where)


def check_prompt(prompt, where: str, template) -> None:
    """Raise a RowError unless a reply can follow these messages."""
    if not isinstance(prompt, list) or not prompt:
        raise RowError(where, "no turn in its prompt", "write what the user says", "format")
    check_messages([*prompt, {"role": "assistant", "content": "x"}], where, template)


# ------------------------------------------------------------------------------------ the prompts


def read_asked(path, template) -> list[tuple[list[dict], str, str]]:
    """[(messages, source, where)] of the prompts in a file: a text with a prompt on each line, or
    JSON lines with "prompt" and perhaps "source", by its name. Empty lines are passed over.
    MissingInput or a DataError if it cannot be read, if a prompt cannot be used, or if there is
    none."""
    _refuse_missing(path, "prompts; write one with a prompt on each line")
    if suffix(path) in (".jsonl", ".json"):
        with no_ignore():
            found = read_prompts(path)
        rows = [(row["prompt"], row.get("source", "")) for row in found]
        places = [f"{path}, prompt {n}" for n in range(1, len(rows) + 1)]
    else:
        lines = enumerate(read_text(Path(path)).split("\n"), 1)
        some = [(number, line.strip()) for number, line in lines if line.strip()]
        rows = [(line, "") for _, line in some]
        places = [f"{path}, line {number}" for number, _ in some]
    if not rows:
        raise DataError(f"{path}: no prompt in it; write one on each line")
    asked, faults = [], []
    for (prompt, source), where in zip(rows, places):
        try:
            messages = read_prompt(prompt, where, roles_of(template), EVERYTHING)
            check_prompt(messages, where, template)
            asked.append((messages, source, where))
        except RowError as error:
            faults.append(error)
    _refuse(faults)
    return asked
