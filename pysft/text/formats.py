"""Readers: conversations from the formats that people have, each row with its file and line.

A file of JSON lines says by its keys what each row is (FORMATS, or a message tree). A .csv or .tsv
file has two columns, what is asked and what is answered. Every row becomes `messages`. scan()
yields a row that cannot be used as a RowError, so that all faults of a file can be named at
once."""

from collections.abc import Iterator
from pathlib import Path

from pysft.errors import DataError, RowError
from pysft.text.conversation import (
    ROLES,
    SURROGATE,
    TEXT,
    Conversation,
    check_messages,
    refuse_faults,
)
from pysft.text.files import json_lines, open_data
from pysft.text.spreadsheet import ANSWERED, ASKED, SUFFIXES, sheet_rows
from pysft.text.template import Template
from pysft.text.templates import CHAT
from pysft.text.trees import KEYS as TREE
from pysft.text.trees import Trees

# Keys that would change what a row means if they were not read.
UNREAD = (
    *("system", "history", "context", "input", "text", "tools", "functions"),
    *("chosen", "rejected"),
)


def scan(path, template: Template = CHAT) -> Iterator[Conversation | RowError]:
    """Every row of a file in its order: a Conversation that `template` can render, or a RowError
    that says why not. The conversations of message trees come last. Raises MissingInput or a
    DataError if the file as a whole cannot be read."""
    path = Path(path)
    roles = ROLES | {role: role for role in template.turns}
    trees = Trees(str(path), roles)
    with open_data(path) as file:
        is_sheet = path.suffix.lower() in SUFFIXES
        for line, row in sheet_rows(file, path) if is_sheet else json_lines(file, path):
            try:
                if isinstance(row, RowError):
                    raise row
                if all(key in row for key in TREE):
                    trees.add(row, line)
                    continue
                where = f"{path}, line {line}"
                messages = _messages(row, where, roles)
                check_messages(messages, where, template)
            except RowError as error:
                yield error
            else:
                yield Conversation(messages, str(path), line, _category(row))
        for found in trees.conversations():
            try:
                if isinstance(found, Conversation):
                    check_messages(found.messages, found.where, template)
            except RowError as error:
                found = error
            yield found


def read_conversations(path, template: Template = CHAT) -> list[Conversation]:
    """Every conversation of a file. A DataError if a row of it cannot be used, or if it has
    none."""
    found = list(scan(path, template))
    refuse_faults([row for row in found if isinstance(row, RowError)])
    if not found:
        raise DataError(
            f"{path}: no conversation in it. The guide's page 'data' shows how a row looks"
        )
    return found


def read_prompts(path) -> list[dict]:
    """[{"prompt": text or turns, "domain": "in", "near", "out" or ""}] of a file of JSON lines. The
    turns are [{"role", "content"}], of which the last is to be answered."""
    prompts = []
    with open_data(Path(path)) as file:
        for number, row in json_lines(file, path):
            if isinstance(row, RowError):
                raise row
            if not _is_prompt(row.get("prompt")):
                remedy = 'write {"prompt": text, "domain": ...}'
                raise RowError(f"{path}, line {number}", 'no "prompt" in it', remedy, "format")
            prompts.append({"prompt": row["prompt"], "domain": str(row.get("domain", ""))})
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


def _category(row: dict) -> str:
    category = row.get("category")
    return "" if category is None else SURROGATE.sub("?", str(category))


# ---------------------------------------------------------------------------------- the formats


def _turns(messages, where, roles, role_key="role", content_key="content"):
    """Messages whose role and content stand under the given keys, as the template's messages.
    What is no such list is given back as it is: check_messages says what is wrong with it."""
    if not isinstance(messages, list):
        return messages
    found = []
    for turn, m in enumerate(messages, 1):
        here = f"{where}, turn {turn}"
        if not isinstance(m, dict) or role_key not in m or content_key not in m:
            if (role_key, content_key) != ("role", "content"):
                what = f'expected an object with "{role_key}" and "{content_key}"'
                raise RowError(here, what, "add what is missing", "format")
            found.append(m)
            continue
        role = m[role_key]
        if isinstance(role, str):
            role = roles.get(role, role)
        new = {"role": role, "content": _content(m[content_key])}
        if m.get("train") is not None:
            new["train"] = m["train"]
        elif m.get("weight") is not None:  # another name of the flag, which is 0 or 1
            if m["weight"] not in (0, 1):
                what = f'the flag "weight" is {m["weight"]!r}'
                raise RowError(here, what, "it is 0 or 1", "flags")
            new["train"] = bool(m["weight"])
        found.append(new)
    return found


def _content(content):
    """A content; of its parts only what is read of them."""
    if isinstance(content, list) and all(
        isinstance(p, dict) and "type" in p and "text" in p for p in content
    ):
        return [{"type": p["type"], "text": p["text"]} for p in content]
    return content


def _exchange(asked, answered, where, roles):
    """Two texts as a question and its answer, or two lists of turns as one."""
    if isinstance(asked, list) and isinstance(answered, list):
        return _turns(asked + answered, where, roles)
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]


def _alpaca(row, where, roles):
    asked, more = row["instruction"], row.get("input") or ""
    if not isinstance(asked, str) or not isinstance(more, str):
        raise RowError(where, '"instruction" and "input" must be text', "write them so", "format")
    if more.strip():
        asked = f"{asked}\n\n{more}"
    return _exchange(asked, row["output"] if "output" in row else row["response"], where, roles)


def _pair(asked, answered):
    def messages(row, where, roles):
        return _exchange(row[asked], row[answered], where, roles)

    return (asked, answered), messages


def _share_gpt(row, where, roles):
    return _turns(row["conversations"], where, roles, "from", "value")


# The keys by which a row is known, and (row, where, roles) -> messages. The first that fits is
# taken.
FORMATS = [
    (("messages",), lambda row, where, roles: _turns(row["messages"], where, roles)),
    _pair("prompt", "completion"),
    (("instruction", "output"), _alpaca),
    (("instruction", "response"), _alpaca),
    (("conversations",), _share_gpt),
    *(_pair(asked, answered) for asked in ASKED for answered in ANSWERED),
    (("text",), lambda row, where, roles: [{"role": TEXT, "content": row["text"]}]),
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


def _messages(row: dict, where: str, roles: dict[str, str]):
    """The messages of a row, not yet checked. A RowError if its format is unknown, or if it has a
    key that would be lost."""
    for keys, make in FORMATS:
        if all(key in row for key in keys):
            for key in UNREAD:
                if row.get(key) and key not in keys and not (key == "input" and make is _alpaca):
                    what = f"its key {key!r} is not read, so the row would lose its meaning"
                    raise RowError(
                        where, what, 'write it into "messages", or take it out', "format"
                    )
            return make(row, where, roles)
    known = "; ".join(", ".join(f'"{key}"' for key in keys) for keys in NAMED)
    what = f'no "messages" in it, only {", ".join(map(repr, row)) or "an empty object"}'
    raise RowError(where, what, f"a row has one of these sets of keys: {known}", "format")
