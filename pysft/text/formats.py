"""Readers: conversations from the formats that people have, each row with its file and line.

A row of JSON says by its keys what it is (FORMATS, or a message of a tree). A .csv or .tsv file has
two columns, what is asked and what is answered. Every row becomes `messages`. A format takes the
keys that it reads out of the row; what is left must carry no meaning (keys.py), or the row is
refused. scan() yields a row that cannot be used as a RowError, so that all faults of a file can be
named at once."""

from collections.abc import Iterator
from pathlib import Path

from pysft.errors import DataError, RowError
from pysft.text.conversation import (
    SURROGATE,
    TEXT,
    Conversation,
    LeftOut,
    check_messages,
    refuse_faults,
)
from pysft.text.files import open_data, refuse_name
from pysft.text.json_rows import json_kind, json_rows
from pysft.text.keys import MARKS, OF_ROWS, Reading, is_empty, preference_keys
from pysft.text.rows import rows_beside_trees, unknown_format
from pysft.text.spreadsheet import ANSWERED, ASKED
from pysft.text.template import Template
from pysft.text.templates import CHAT
from pysft.text.trees import KEYS as TREE
from pysft.text.trees import Trees
from pysft.text.turns import (
    behind_system,
    read_turns,
    roles_of,
    take_system,
    texts_of,
    turns_with_line_ends,
)

EVERYTHING = Reading()


def scan(
    path, template: Template = CHAT, reading: Reading = EVERYTHING
) -> Iterator[Conversation | RowError | LeftOut]:
    """Every row of a file in its order: a Conversation that `template` can render, a RowError that
    says why not, or what `reading` leaves out. The conversations of message trees come last. Raises
    MissingInput or a DataError if the file as a whole cannot be read."""
    refuse_name(path)
    path = Path(path)
    roles = roles_of(template)
    trees = Trees(str(path), roles, reading)
    for found in rows_beside_trees(path, trees, reading):
        if isinstance(found, (RowError, LeftOut)):
            yield found
            continue
        line, row = found
        where = f"{path}, line {line}"
        try:
            messages, first = _messages(row, where, roles, reading)
            check_messages(messages, where, template, first)
        except RowError as error:
            yield error
        else:
            yield Conversation(messages, str(path), line, _category(row), row=row, first_turn=first)
    for found in trees.conversations():
        try:
            if isinstance(found, Conversation):
                check_messages(found.messages, found.where, template)
        except RowError as error:
            found = error
        yield found


def read_conversations(
    path, template: Template = CHAT, reading: Reading = EVERYTHING
) -> list[Conversation]:
    """Every conversation of a file that `reading` does not leave out. A DataError if a row of it
    cannot be used, or if it has none."""
    rows = list(scan(path, template, reading))
    refuse_faults([row for row in rows if isinstance(row, RowError)])
    found = [row for row in rows if isinstance(row, Conversation)]
    if not found:
        raise DataError(
            f"{path}: no conversation in it. The guide's page 'data' shows how a row looks"
        )
    return found


def read_prompts(path, reading: Reading = EVERYTHING) -> list[dict]:
    """[{"prompt": text or turns, "domain": "in", "near", "out" or ""}] of a file of JSON lines. The
    turns are [{"role", "content"}], of which the last is to be answered. A row that says who wrote
    its prompt ("user", "persona", ...) has "source" too."""
    prompts = []
    with open_data(Path(path)) as file:
        for number, row in json_rows(file, path):
            if isinstance(row, RowError):
                raise row
            where = f"{path}, line {number}"
            if not _is_prompt(row.get("prompt")):
                remedy = 'write {"prompt": text, "domain": ...}'
                raise RowError(where, 'no "prompt" in it', remedy, "format")
            rest = {key: value for key, value in row.items() if key != "prompt"}
            reading.refuse_rest(rest, where, OF_ROWS)
            prompt = {"prompt": row["prompt"], "domain": str(row.get("domain", ""))}
            if isinstance(row.get("source"), str) and row["source"]:
                prompt["source"] = row["source"]
            prompts.append(prompt)
    return prompts


def _is_prompt(prompt) -> bool:
    """True for a text that is not empty, and for a list of turns with such texts."""
    if not isinstance(prompt, list):
        return _is_said(prompt)
    turns = all(
        isinstance(t, dict) and set(t) == {"role", "content"} and _is_said(t["content"])
        for t in prompt
    )
    return bool(prompt) and turns and prompt[-1]["role"] == "user"


def _is_said(text) -> bool:
    return isinstance(text, str) and bool(text.strip())


def last_text(prompt: str | list) -> str:
    """What the user says in a prompt: the text, or that of the last turn."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def first_text(prompt: str | list) -> str:
    """What the user says first in a prompt: the text, or that of the user's first turn."""
    if isinstance(prompt, str):
        return prompt
    return next((turn["content"] for turn in prompt if turn["role"] == "user"), "")


def _category(row: dict) -> str:
    category = row.get("category")
    return "" if category is None else SURROGATE.sub("?", str(category))


# ---------------------------------------------------------------------------------- the formats
#
# Each takes what it reads out of the row: (row, where, roles, reading) -> messages.


def _exchange(asked, answered, where, roles, reading):
    """Two texts as a question and its answer, or two lists of turns as one."""
    if isinstance(asked, list) and isinstance(answered, list):
        return read_turns(asked + answered, where, roles, reading)
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]


def _instruction(answered):
    """The format of Alpaca ("input") and of Dolly ("context"): an instruction, what it is about,
    the answer."""

    def messages(row, where, roles, reading):
        answer = row.pop(answered)
        pieces = [row.pop(key, None) for key in ("instruction", "input", "context")]
        pieces = [piece for piece in pieces if not is_empty(piece)]
        if not all(isinstance(piece, str) for piece in pieces):
            what = '"instruction", "input" and "context" must be text'
            raise RowError(where, what, "write them so", "format")
        return _exchange("\n\n".join(pieces), answer, where, roles, reading)

    return ("instruction", answered), messages


def _pair(asked, answered):
    def messages(row, where, roles, reading):
        texts = [row.pop(asked), row.pop(answered)]
        for key, text in zip((asked, answered), texts):
            if not isinstance(text, (str, list)):
                raise RowError(where, f'"{key}" is {json_kind(text)}', "it must be text", "format")
        return _exchange(*texts, where, roles, reading)

    return (asked, answered), messages


def _list(key):
    def messages(row, where, roles, reading):
        return read_turns(row.pop(key), where, roles, reading)

    return (key,), messages


def _text(row, where, roles, reading):
    return [{"role": TEXT, "content": row.pop("text")}]


# The keys by which a row is known, and what takes them. The first that fits is taken.
FORMATS = [
    _list("messages"),
    _pair("prompt", "completion"),
    _instruction("output"),
    _instruction("response"),
    _list("conversations"),
    _list("conversation"),
    *(_pair(asked, answered) for asked in ASKED for answered in ANSWERED),
    (("text",), _text),
]
# Those that a message names: the pairs have too many names, and "response" is another "output".
NAMED = [
    ("messages",),
    ("prompt", "completion"),
    ("instruction", "output"),
    ("conversations",),
    ("text",),
    TREE,
]


def _messages(row: dict, where: str, roles: dict[str, str], reading: Reading):
    """(the messages of a row, not yet checked; the number that the first has among the turns of the
    row). A RowError if the format is unknown, or if the row has a key that would be lost."""
    row = reading.without_ignored(row)
    if keys := preference_keys(row):
        named = ", ".join(f'"{key}"' for key in keys)
        what = f"a row of preferences ({named}), from which fine-tuning cannot learn"
        remedy = 'to train on the better reply alone, write it into "messages"'
        raise RowError(where, what, remedy, "preferences")
    # A null says nothing, so formats are sought among the other keys first.
    make = _format_of(key for key in row if row[key] is not None) or _format_of(row)
    if make is None:
        raise unknown_format(row, where, '"messages"', NAMED)
    system = take_system(row)
    messages, first = behind_system(make(row, where, roles, reading), system)
    rest = {key: value for key, value in row.items() if key not in MARKS}
    reading.refuse_rest(rest, where, OF_ROWS, texts_of(messages))
    return turns_with_line_ends(messages), first


def _format_of(names):
    """What makes the messages of a row with keys of these names: that of the first format that has
    all its keys among them; None if there is no such format."""
    names = set(names)
    return next((make for keys, make in FORMATS if names.issuperset(keys)), None)
