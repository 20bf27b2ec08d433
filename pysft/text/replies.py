"""The prompt and the replies of a row of preferences, as people's files have them."""

import re

from pysft.errors import RowError
from pysft.text.files import with_line_ends
from pysft.text.json_rows import json_kind
from pysft.text.turns import read_turns, turns_with_line_ends

_SPEAKER = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def taken(row: dict, key: str, where: str):
    """Remove a key from a row. Return its value; a RowError if there is none."""
    value = row.pop(key, None)
    if value is None:
        raise RowError(where, f'no "{key}" in it', "add it, or remove the row", "format")
    return value


def is_number(value) -> bool:
    """True for a number of JSON that is finite."""
    is_any = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_any and -float("inf") < value < float("inf")


def read_prompt(asked, where: str, roles, reading) -> list:
    """A prompt as messages, which may be faulty. It is a text, a dialogue that ends where a reply
    should begin (as in HH-RLHF), or a list of turns."""
    if isinstance(asked, str):
        turns = _dialogue(asked)
        if turns is None:
            return [{"role": "user", "content": with_line_ends(asked)}]
        return turns if turns[-1]["content"] else turns[:-1]
    where = f"{where}, prompt"
    if not isinstance(asked, list):
        raise RowError(
            where, f"it is {json_kind(asked)}", "write a text or a list of turns", "format"
        )
    return _turns_before(read_turns(asked, where, roles, reading), where)


def read_side(side, here: str, roles, reading) -> tuple[list | None, str]:
    """(the messages before a reply, the reply) of one side of a pair. The messages are those of a
    whole conversation: a dialogue in one text, or a list of several turns. They may be faulty. If
    the reply stands alone, they are None."""
    turns = _dialogue(side) if isinstance(side, str) else side
    is_whole = isinstance(turns, list) and (isinstance(side, str) or len(turns) > 1)
    if not is_whole:
        return None, read_reply(side, here, roles, reading)
    *before, last = read_turns(turns, here, roles, reading)
    return _turns_before(before, here), _text_of(last, f"{here}, turn {len(turns)}")


def read_reply(value, here: str, roles, reading) -> str:
    """The text of a reply, which is a text, an assistant turn, or a list of one such turn."""
    if isinstance(value, str):
        return value
    turns = [value] if isinstance(value, dict) else value
    if not isinstance(turns, list) or len(turns) != 1:
        what = (
            f"a list of {len(turns):,}" if isinstance(turns, list) else f"it is {json_kind(turns)}"
        )
        raise RowError(here, what, "a reply is a text, or a list of one assistant turn", "format")
    [message] = read_turns(turns, here, roles, reading)
    return _text_of(message, here)


def _text_of(message, here: str) -> str:
    """The text of an assistant turn. A RowError if it is something else, or has calls of tools."""
    if not isinstance(message, dict):
        what = 'expected an object with "role" and "content"'
        raise RowError(here, what, "write it so", "format")
    message = _without_flag(message, True, here)
    if message["role"] != "assistant":
        what = f"a turn of role {message['role']!r} where a reply should stand"
        raise RowError(here, what, "end with an assistant turn", "roles")
    content = message["content"]
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    texts = [p.get("text") for p in parts if isinstance(p, dict) and p.get("type") == "text"]
    if len(texts) < len(parts) or not all(isinstance(text, str) for text in texts):
        has = "parts" if isinstance(content, list) else json_kind(content)
        what = f'its "content" is {has}'
        raise RowError(here, what, "a reply of preferences must be text", "format")
    return "".join(texts)


def _turns_before(messages: list, where: str) -> list:
    """The messages before a reply, without flags."""
    messages = turns_with_line_ends(messages)
    return [_without_flag(m, False, f"{where}, turn {n}") for n, m in enumerate(messages, 1)]


def _without_flag(message, is_graded: bool, here: str):
    """A message without the flag that says if it is graded. A RowError if the flag asks for
    something else than what happens: the replies are graded, and no turn before them."""
    if not isinstance(message, dict):
        return message
    if message.get("train", is_graded) is not is_graded:
        what = f"its flag {message['flag']!r} says {'not ' * is_graded}graded"
        remedy = "of preferences the replies are graded, and nothing else: take the flag out"
        raise RowError(here, what, remedy, "flags")
    return {key: value for key, value in message.items() if key not in ("train", "flag")}


def _dialogue(text: str) -> list[dict] | None:
    """The turns of a dialogue in one text, as HH-RLHF writes it; None for another text."""
    text = with_line_ends(text)
    if not text.startswith("\n\nHuman:"):
        return None
    _, *pieces = _SPEAKER.split(text)
    return [
        {"role": _ROLES[speaker], "content": said.strip()}
        for speaker, said in zip(pieces[::2], pieces[1::2])
    ]
