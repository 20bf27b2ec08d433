"""Conversations: what a row of a data set becomes, and the check that it can be trained on.

Messages are [{"role": ..., "content": ...}]. A content is a text, or in an assistant turn a list of
parts, [{"type": ..., "text": ...}]: "text", a call of a tool by its name, the "result" of one, or a
"thought", which the model writes and nobody reads as its answer. A thought with "train": false is
read by the model and not graded: it is not the model's own. A turn may have "train": true or false,
which says if it is to be graded, and then "flag", the name that this has in the file. A row of
plain text is the single message {"role": "text", "content": text}.

The template that a function takes is a Template (template.py), which has the roles and the types of
parts that there are."""

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from pysft.errors import DataError, RowError
from pysft.text.json_rows import json_kind

TEXT = "text"  # the role of a row of plain text, of which every token is graded
THOUGHT = "thought"  # the type of a part that the model writes for itself
SPEAKERS = ("user", "assistant")  # they alternate; turns of other roles stand before the first
# Names of the roles in people's files.
ROLES = {
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "ai": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "system": "system",
    "developer": "system",
}
# Roles that other programs give to the calls of tools and to their results.
TOOL_ROLES = (
    *("tool", "function", "function_call", "tool_call", "function_response", "tool_response"),
    *("observation", "ipython"),
)
SURROGATE = re.compile("[\ud800-\udfff]")  # half of a character, which no file can hold


@dataclass(frozen=True, slots=True)
class Conversation:
    """The messages of a row, with its file, its line, and its category if the row names one.

    last_only: True for a made transcript. Only its last reply is graded; earlier ones stand without
    their calls, as the model sees them in a chat. row: the row as it stands in the file; None if
    the conversation is a path of a tree, or made. first_turn: the number of the first message among
    the turns of the row; 0 if it is a system text beside them, 2 if an empty one stands before."""

    messages: list[dict]
    path: str
    line: int
    category: str = ""
    last_only: bool = False
    row: dict | None = None
    first_turn: int = 1

    @property
    def where(self) -> str:
        return f"{self.path}, line {self.line}"

    @property
    def is_text(self) -> bool:
        """True for a row of plain text."""
        return self.messages[0]["role"] == TEXT

    @property
    def prompt(self) -> str:
        """The user's first text; "" for a row of plain text."""
        return next((m["content"] for m in self.messages if m["role"] == "user"), "")

    @property
    def parts(self) -> set[str]:
        """The types of the parts of its assistant turns other than text: tools, "result" and
        "thought". A vocabulary needs tokens for them."""
        contents = [m["content"] for m in self.messages if isinstance(m["content"], list)]
        return {part["type"] for content in contents for part in content} - {"text"}

    @property
    def has_calls(self) -> bool:
        """True if an assistant turn holds a call of a tool, or a result."""
        return bool(self.parts - {THOUGHT})

    def graded_turn(self, grade: str) -> int:
        """The index in messages of the first reply that is graded; -1 if there is none."""
        graded = [
            i
            for i, m in enumerate(self.messages)
            if m["role"] == "assistant" and m.get("train", True)
        ]
        if not graded:
            return -1
        return graded[-1] if grade == "last" or self.last_only else graded[0]

    def replies(self) -> list[str]:
        """The text of each assistant turn, without thoughts."""
        return [visible_text(m["content"]) for m in self.messages if m["role"] == "assistant"]

    def mapped(self, change: Callable[[str], str]) -> "Conversation":
        """The same conversation with every text changed."""

        def changed(content):
            if isinstance(content, str):
                return change(content)
            return [{**part, "text": change(part["text"])} for part in content]

        messages = [{**m, "content": changed(m["content"])} for m in self.messages]
        return replace(self, messages=messages)


class LeftOut(NamedTuple):
    """A row or message that was left out as the reader was asked to. reason: what it is."""

    reason: str


def made_conversation(
    name: str, line: int, question: str, calls, answer: str, before=()
) -> Conversation:
    """A made transcript as a conversation. name: what stands for its file, and its category. line:
    its number there. calls: [(tool, call, result)], those that the reply makes before its answer.
    before: the questions and answers that come first, [(question, answer)]; they are texts alone,
    without calls and thoughts."""
    content = [
        {"type": kind, "text": text}
        for tool, call, result in calls
        for kind, text in ((tool, call), ("result", result))
    ]
    content = [*content, {"type": "text", "text": answer}] if calls else answer
    messages = [
        {"role": role, "content": said}
        for exchange in (*before, (question, content))
        for role, said in zip(SPEAKERS, exchange)
    ]
    return Conversation(messages, name, line, name, last_only=True)


def plain(content) -> str:
    """A content as one text, its parts joined."""
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def visible_text(content) -> str:
    """What a content says to its reader: its parts joined, without thoughts."""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] != THOUGHT)


def with_thought(thought: str, answer: str, graded: bool = True) -> str | list[dict]:
    """The content of a reply that thinks first and then answers. Without a thought it is the answer
    alone. graded: False for a thought that is only read."""
    if not thought:
        return answer
    part = {"type": THOUGHT, "text": thought} | ({} if graded else {"train": False})
    return [part, {"type": "text", "text": answer}]


def is_call(kind: str) -> bool:
    """True for the type of a part that calls a tool."""
    return kind not in ("text", "result", THOUGHT)


def short(text: str, most: int = 48) -> str:
    """A text in quotes for a message, cut if it is long."""
    return repr(text if len(text) <= most else text[: most - 3] + "...")


def refuse_faults(faults: list[RowError]) -> None:
    """Raise the first fault with the number of the others, if there are any."""
    if faults:
        files = " ".join(
            dict.fromkeys(shlex.quote(f.where.partition(", line ")[0]) for f in faults)
        )
        # An audit does not find fault with preferences, but checks them as such.
        does = "checks the file" if faults[0].kind == "preferences" else "names them all"
        others = f" (and {len(faults) - 1:,} more; python -m pysft audit {files} {does})"
        raise DataError(f"{faults[0]}{others if len(faults) > 1 else ''}")


# ------------------------------------------------------------------------------------- the check


def check_messages(messages, where: str, template, first: int = 1) -> None:
    """Raise a RowError that names the turn unless `messages` can be trained on. first: the number
    of the first turn."""
    if not isinstance(messages, list) or not messages:
        what, remedy = (
            '"messages" must be a list of turns',
            'make each {"role": ..., "content": ...}',
        )
        raise RowError(where, what, remedy, "format")
    if len(messages) == 1 and isinstance(messages[0], dict) and messages[0].get("role") == TEXT:
        return _check_plain_text(messages[0].get("content"), where)
    expected, before = "user", []  # before: the roles of the turns before the user's first
    for turn, message in enumerate(messages, first):
        here = f"{where}, turn {turn}"
        role = _known_role(message, here, template)
        is_before = role not in SPEAKERS and len(before) == turn - first and role not in before
        if is_before and not (before and template.turns[before[-1]].joins):
            before.append(role)
        elif role == expected:
            expected = "assistant" if role == "user" else "user"
        else:
            raise _out_of_order(role, expected, here, template)
        _check_turn(message, here, template)
    if messages[-1]["role"] != "assistant":
        here = f"{where}, turn {first + len(messages) - 1}"
        raise RowError(here, "no reply follows", "end with an assistant turn", "missing end")


def _check_plain_text(text, where: str) -> None:
    if not isinstance(text, str) or len(text) < 2:
        what = '"text" is no text of two characters or more'
        raise RowError(where, what, "write more, or remove the line", "empty")
    _refuse_surrogates(text, where)


def _refuse_surrogates(text: str, where: str) -> None:
    if SURROGATE.search(text):
        what = "half of a character (a lone surrogate)"
        raise RowError(where, what, "write the whole character", "characters")


def _known_role(message, here: str, template) -> str:
    """The role of a message. A RowError if the message is none, or the template lacks the role."""
    if not isinstance(message, dict) or "role" not in message or "content" not in message:
        what = 'expected an object with "role" and "content"'
        raise RowError(here, what, "add what is missing", "format")
    role = message["role"]
    if isinstance(role, str) and role in template.turns:
        return role
    if role == "system":
        what = f"template {template.name!r} has no system role"
        remedy = "take the turn out, or choose --template chatml or llama2"
        raise RowError(here, what, remedy, "roles")
    known = " or ".join(f'"{r}"' for r in template.turns)
    others = [r for r in ROLES if r not in template.turns and ROLES[r] in template.turns]
    remedy = f"this template has {known} (also accepted: {', '.join(others)})"
    if role in TOOL_ROLES:
        what = f"a turn of role {role!r}; calls of tools and their results are parts of a reply"
        remedy = 'write them into its "content" (the guide\'s page tools shows it)'
        raise RowError(here, what, remedy, "roles")
    raise RowError(here, f"unknown role {role!r}", remedy, "roles")


def _out_of_order(role: str, expected: str, here: str, template) -> RowError:
    others = " or the ".join(r for r in template.turns if r not in SPEAKERS)
    after = f" (after the {others}, if there is one)" if others else ""
    remedy = f"turns alternate, and the user begins{after}"
    return RowError(here, f"role {role!r}, expected {expected!r}", remedy, "roles")


def _check_turn(message: dict, here: str, template) -> None:
    """Raise a RowError unless the content of a turn is as it should be."""
    role, content = message["role"], message["content"]
    if isinstance(content, str):
        text = whole = content
    elif isinstance(content, list) and role == "assistant":
        _check_parts(content, here, template)
        written = [part for part in content if part["type"] != "result"]
        text, whole = visible_text(written), plain(content)
    else:
        remedy = "it must be text" + (" or a list of parts" if role == "assistant" else "")
        raise RowError(here, f'"content" is {json_kind(content)}', remedy, "format")
    _refuse_surrogates(whole, here)
    if not text.strip():
        what = f"empty {'reply' if role == 'assistant' else 'text'}"
        raise RowError(here, what, "write one, or remove the line", "empty")


def _check_parts(parts: list, here: str, template) -> None:
    types = ("text", *template.parts)
    for part in parts:
        if (
            not isinstance(part, dict)
            or not isinstance(part.get("type"), str)
            or part["type"] not in types
            or not isinstance(part.get("text"), str)
            or not isinstance(part.get("train", True), bool)
        ):
            named = " or ".join(f'"{t}"' for t in types)
            what = f'a part must be {{"type": {named}, "text": ...}}'
            raise RowError(here, what, "write it so", "format")
