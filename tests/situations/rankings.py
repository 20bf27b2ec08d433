"""The formats that preferences are read from. The guide's page on data shows each."""

import json
from typing import NamedTuple

from situations.formats import node, turns


class Format(NamedTuple):
    """what: its name, or what it is for. rows: those of a file, objects or lines of a table.
    prompt, replies, ranks: the ranking that they become. more: other fields of it. flags: those
    that a command needs to read it."""

    what: str
    rows: list
    prompt: list
    replies: tuple
    ranks: tuple
    more: dict = {}
    flags: str = ""


def reply(text) -> dict:
    return {"role": "assistant", "content": text}


HI = turns("Hi")
LONG = turns("Hi", "Ho.", "Go")
TWO, PAIR = ("Ho.", "No."), (1, 2)
RANKED = [
    node("b", "a", "assistant", "Ho.", rank=0),
    node("c", "a", "assistant", "No.", rank=1),
]

FORMATS = [
    Format(
        "any number of replies, with ranks of which 1 is the best and equal ones are ties",
        [
            {
                "prompt": "Hi",
                "replies": ["No.", "Ho.", "Hm."],
                "ranks": [2, 1, 2],
                "labeler": "ann",
                "source": "user",
            }
        ],
        HI,
        ("No.", "Ho.", "Hm."),
        (2, 1, 2),
        {"labeler": "ann", "source": "user"},
    ),
    Format("a pair", [{"prompt": "Hi", "chosen": "Ho.", "rejected": "No."}], HI, TWO, PAIR),
    Format(
        "a table (`.csv` or `.tsv`) with this header",
        ["prompt,chosen,rejected", "Hi,Ho.,No."],
        HI,
        TWO,
        PAIR,
    ),
    Format(
        "a pair of lists of turns (TRL), where `prompt` may have several turns",
        [{"prompt": HI, "chosen": [reply("Ho.")], "rejected": [reply("No.")]}],
        HI,
        TWO,
        PAIR,
    ),
    Format(
        "a pair of whole conversations that differ in their last turn (TRL, without `prompt`)",
        [{"chosen": [*LONG, reply("Ho.")], "rejected": [*LONG, reply("No.")]}],
        LONG,
        TWO,
        PAIR,
    ),
    Format(
        "UltraFeedback, binarized",
        [
            {
                "prompt": "Hi",
                "chosen": [*HI, reply("Ho.")],
                "rejected": [*HI, reply("No.")],
                "messages": [*HI, reply("Ho.")],
                "score_chosen": 8.0,
                "score_rejected": 3.5,
            }
        ],
        HI,
        TWO,
        PAIR,
    ),
    Format(
        "HH-RLHF",
        [
            {
                "chosen": "\n\nHuman: Hi\n\nAssistant: Ho.\n\nHuman: Go\n\nAssistant: Ho.",
                "rejected": "\n\nHuman: Hi\n\nAssistant: Ho.\n\nHuman: Go\n\nAssistant: No.",
            }
        ],
        LONG,
        TWO,
        PAIR,
    ),
    Format(
        "UltraFeedback, as it was published: the replies by their scores",
        [
            {
                "instruction": "Hi",
                "completions": [
                    {"response": "No.", "fine-grained_score": 2.25, "model": "x"},
                    {"response": "Ho.", "fine-grained_score": 4.5, "model": "y"},
                    {"response": "Hm.", "fine-grained_score": 2.25, "model": "z"},
                ],
            }
        ],
        HI,
        ("No.", "Ho.", "Hm."),
        (2, 1, 2),
    ),
    Format(
        "OASST, a message a row: the replies to one message that have a `rank`, of which 0 is the"
        " best (`audit` needs `--preferences`)",
        [node("a", None, "prompter", "Hi"), *RANKED],
        HI,
        TWO,
        PAIR,
        flags="--preferences",
    ),
    Format(
        "OASST, a tree a row",
        [{"prompt": node("a", None, "prompter", "Hi", replies=RANKED)}],
        HI,
        TWO,
        PAIR,
        flags="--preferences",
    ),
]


def text_of(rows: list) -> str:
    """The rows as they stand in a file."""
    return "\n".join(r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in rows)


def is_table(rows: list) -> bool:
    return isinstance(rows[0], str)


def ranking_lines() -> list[str]:
    """The list of formats as it stands in the guide: each with an example."""
    return [
        line
        for f in FORMATS
        for line in (f"- {f.what}:", *(f"  `{row}`" for row in text_of(f.rows).splitlines()))
    ]
