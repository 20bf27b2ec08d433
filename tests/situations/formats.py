"""The formats that conversations are read from. The guide's page on data shows each."""

import json
from typing import NamedTuple

from situations import row


class Format(NamedTuple):
    """what: its name, or what it is for. example: a row of it. messages: what the row becomes.
    flags: those that a command needs to read it."""

    what: str
    example: dict
    messages: list
    flags: str = ""


def turns(*texts, system=None) -> list:
    """Messages: the user, the assistant, the user, and so on, perhaps after a system turn."""
    before = [] if system is None else [{"role": "system", "content": system}]
    return before + row(*texts)["messages"]


def node(name, parent, role, text, **keys) -> dict:
    """A message of a tree."""
    return {"message_id": name, "parent_id": parent, "role": role, "text": text, **keys}


HI_HO = turns("Hi", "Ho.")
NO = {"role": "assistant", "content": "No."}
PARTS = [
    {"type": "search", "text": "Hi"},
    {"type": "result", "text": "A word."},
    {"type": "text", "text": "Ho."},
]
CALL = [HI_HO[0], {"role": "assistant", "content": PARTS}]
THOUGHT = [{"type": "thought", "text": "Hm."}, {"type": "text", "text": "Ho."}]
THINKS = [HI_HO[0], {"role": "assistant", "content": THOUGHT}]

NESTED = "OASST, a tree a row: each message holds its `replies`"

FORMATS = [
    Format("`messages`", {"messages": HI_HO}, HI_HO),
    Format(
        "with a system turn, if the template has one",
        {"messages": turns("Hi", "Ho.", system="Be kind.")},
        turns("Hi", "Ho.", system="Be kind."),
        "--template chatml",
    ),
    Format(
        "with a reply that is not graded (for `--grade flags`)",
        {"messages": [*turns("Hi", "Ho.", "Go"), {**NO, "train": False}]},
        [*turns("Hi", "Ho.", "Go"), {**NO, "train": False, "flag": "train"}],
        "--grade flags",
    ),
    Format("with a call of a tool, in parts", {"messages": CALL}, CALL),
    Format(
        "with a thought, which the model writes before its answer and no reader sees (the page"
        " `seeds`)",
        {"messages": THINKS},
        THINKS,
    ),
    Format("a question and its answer", {"prompt": "Hi", "completion": "Ho."}, HI_HO),
    Format("the same under similar names", {"question": "Hi", "answer": "Ho."}, HI_HO),
    Format(
        "the same as two lists of turns (TRL)",
        {"prompt": HI_HO[:1], "completion": HI_HO[1:]},
        HI_HO,
    ),
    Format(
        "Alpaca",
        {"instruction": "Sum up", "input": "A tale.", "output": "Ho."},
        turns("Sum up\n\nA tale.", "Ho."),
    ),
    Format(
        "Dolly",
        {"instruction": "Sum up", "context": "A tale.", "response": "Ho."},
        turns("Sum up\n\nA tale.", "Ho."),
    ),
    Format(
        "OpenOrca",
        {"system_prompt": "Be kind.", "question": "Hi", "response": "Ho."},
        turns("Hi", "Ho.", system="Be kind."),
        "--template chatml",
    ),
    Format(
        "ShareGPT, also with `system` beside the turns",
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho."}]},
        HI_HO,
    ),
    Format(
        NESTED,
        {"prompt": node("a", None, "prompter", "Hi", replies=[node("b", "a", "assistant", "Ho.")])},
        HI_HO,
    ),
    Format("plain text, all of it graded", {"text": "Ho."}, [{"role": "text", "content": "Ho."}]),
]
# A format in which several rows make a conversation: OASST, a message a row.
SEVERAL = [node("a", None, "prompter", "Hi"), node("b", "a", "assistant", "Ho.", rank=0)]


def format_lines() -> list[str]:
    """The list of formats as it stands in the guide: each with an example."""
    examples = [(f.what, [f.example]) for f in FORMATS]
    examples.insert(-2, ("OASST, a message a row; `rank` 0 is the best reply", SEVERAL))
    return [
        line
        for what, rows in examples
        for line in (f"- {what}:", *(f"  `{json.dumps(row, ensure_ascii=False)}`" for row in rows))
    ]
