"""Lists of turns as people's files have them, read as messages."""

from pysft.errors import RowError
from pysft.text.conversation import ROLES, THOUGHT, plain
from pysft.text.files import with_line_ends
from pysft.text.keys import KNOWN, is_empty, take_flag
from pysft.text.template import Template

SYSTEM = ("system", "system_prompt")  # keys of a row that hold a system turn


def roles_of(template: Template) -> dict[str, str]:
    """The names that roles have in people's files -> their names in a template."""
    return ROLES | {role: role for role in template.turns}


def read_turns(messages, where, roles, reading):
    """A list of turns as the template's messages. A turn has "role" and "content", or, as in
    ShareGPT, "from" and "value". What is no such list is given back as it is: check_messages says
    what is wrong with it."""
    if not isinstance(messages, list):
        return messages
    return [
        _turn(m, f"{where}, turn {turn}", roles, reading) if isinstance(m, dict) else m
        for turn, m in enumerate(messages, 1)
    ]


def _turn(turn: dict, here: str, roles, reading) -> dict:
    """One turn as a message. A RowError if it has a key that is not read."""
    turn = reading.without_ignored(turn)
    is_share_gpt = "from" in turn and "role" not in turn
    role_key, content_key = ("from", "value") if is_share_gpt else ("role", "content")
    if role_key not in turn or (content_key not in turn and not turn.keys() & KNOWN.keys()):
        what = f'expected an object with "{role_key}" and "{content_key}"'
        raise RowError(here, what, "add what is missing", "format")
    role, content = turn.pop(role_key), turn.pop(content_key, None)
    if isinstance(role, str):
        role = roles.get(role, roles.get(role.strip().lower(), role))
    flag = take_flag(turn, here, role == "assistant")
    reading.refuse_rest(turn, here)
    message = {"role": role, "content": _content(content, role, here, reading)}
    if flag is not None:
        message |= {"train": flag[1], "flag": flag[0]}
    return message


def _content(content, role, here: str, reading):
    """A content as it is, or its parts with what is read of them. The parts of a turn that is no
    reply must be text, and become one."""
    if not isinstance(content, list) or not all(isinstance(p, dict) for p in content):
        return content
    parts = []
    for number, part in enumerate(map(reading.without_ignored, content), 1):
        kind, text = part.pop("type", None), part.pop("text", None)
        flag = take_flag(part, f"{here}, part {number}", kind == THOUGHT)
        if flag is not None and kind != THOUGHT:
            what = f"the flag {flag[0]!r} stands in a part of type {kind!r}"
            remedy = "only thoughts have a flag of their own; flag the turn"
            raise RowError(f"{here}, part {number}", what, remedy, "flags")
        reading.refuse_rest(part, f"{here}, part {number}")
        if role != "assistant" and kind != "text":
            what = f"a part of type {kind!r}"
            remedy = "the model reads text alone: take the row out"
            raise RowError(f"{here}, part {number}", what, remedy, "format")
        unflagged = flag is None or flag[1]
        parts.append({"type": kind, "text": text} | ({} if unflagged else {"train": False}))
    if role != "assistant" and all(isinstance(p["text"], str) for p in parts):
        return plain(parts)
    return parts


def take_system(row: dict) -> list:
    """Remove the system texts that stand beside the turns of a row. Return them."""
    return [row.pop(key) for key in SYSTEM if not is_empty(row.get(key))]


def behind_system(messages, system: list):
    """(messages that begin with the system texts of their row, the number that the first has among
    the turns of the row). An empty system turn at the beginning, as many programs write it for a
    chat without a system text, is left out. The messages may be faulty."""
    first = 1
    if isinstance(messages, list) and messages and isinstance(messages[0], dict):
        begins = messages[0]
        if begins["role"] == "system" and is_empty(begins["content"]):
            messages, first = messages[1:], 2
        elif begins["role"] == "system":
            system = [text for text in system if text != begins["content"]]
        messages = [{"role": "system", "content": text} for text in system] + messages
        first -= len(system)
    return messages, first


def turns_with_line_ends(messages):
    """The messages with "\\n" at the ends of lines. They may be faulty."""
    for m in messages if isinstance(messages, list) else []:
        if isinstance(m, dict) and isinstance(m["content"], str):
            m["content"] = with_line_ends(m["content"])
        elif isinstance(m, dict) and isinstance(m["content"], list):
            for part in m["content"]:
                if isinstance(part, dict) and isinstance(part.get("text"), str):
                    part["text"] = with_line_ends(part["text"])
    return messages


def texts_of(messages) -> list[str]:
    """The texts of messages that may be faulty."""
    if not isinstance(messages, list):
        return []
    contents = [m.get("content") for m in messages if isinstance(m, dict)]
    return [text for text in contents if isinstance(text, str)]
