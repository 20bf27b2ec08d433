"""Files of data: what is read as it was meant, and what is refused in a sentence."""

import bz2
import gzip
import json
import lzma
import os
import threading

from situations import OWN, Situation, row
from situations.formats import FORMATS, HI_HO, NESTED, NO, SEVERAL, node, turns

AUDIT = "audit x.jsonl --unknown replace --no-overlap"
IGNORED = [("loss", "false"), ("trainable", "false"), ("training", "0")]
LEARNT = "trained on without it, called clean"
CLEAN = "none: clean"


# What came out when these were first tried, where it was not the usual.
RIGHT, NO_FLAG, REFUSED = "right", "no such flag", "refused, in less fitting words"
BEFORE = {
    **dict.fromkeys(
        [
            "null and empty keys",
            "keys that are about a row",
            'the flag {"train": false}',
            'the flag {"weight": 0.0}',
            "Dolly with a category",
            "Alpaca with another text",
            "the prompt once more beside the messages (UltraChat)",
            "OpenOrca without a system text",
            "format: OASST, a message a row",
            *(f"format: {f.what}" for f in FORMATS if f.what not in ("Dolly", "OpenOrca", NESTED)),
        ],
        RIGHT,
    ),
    **dict.fromkeys(
        [
            "a key that the user calls meaningless",
            "one language",
            "rows without a language",
            "a language by its name",
            "a language with its country",
            "a language of other rows",
            "synthetic messages",
        ],
        NO_FLAG,
    ),
    **dict.fromkeys(
        [
            "a picture in a question",
            "an empty question below an empty system turn",
            "an empty question below a system text beside the turns",
            "a fault in the second row of a line",
            "a key that stands twice in an array of one line",
            "tools that a row describes",
            "a flag of a half",
            "two flags that differ",
            "HH-RLHF",
            "UltraFeedback",
            "ShareGPT with calls of tools",
            "ShareGPT with a turn of a tool",
            "an unknown key in a message of a tree",
            "the same key twice in a turn",
            "a fault in an array",
        ],
        REFUSED,
    ),
    **dict.fromkeys(
        [f'the flag {{"{name}": {value}}}' for name, value in IGNORED], "graded all the same"
    ),
    "a call of a tool instead of a text": "refused: NoneType",
    "format: OpenOrca": "trained on without its system text",
    "all languages": "trained on, with the deleted ones",
}


def rows_read(n: int):
    """A check that so many rows can be trained on."""

    def check(result, folder):
        assert f"of which {n} can be trained on" in result.out, result.out

    return check


def read(name, content, *says, flags="", n=1, file="x.jsonl", before="refused", **more):
    """A file that is read as it was meant: n conversations, and nothing to be found in them."""
    return Situation(
        name,
        f"{AUDIT} {flags}".replace("x.jsonl", file, 1),
        {file: content},
        says=says or (CLEAN,),
        check=rows_read(n),
        source=OWN,
        before=BEFORE.get(name, before),
        **more,
    )


def refused(name, content, *says, flags="", file="x.jsonl", before=LEARNT, **more):
    """A file with a row that is refused."""
    return Situation(
        name,
        f"{AUDIT} {flags}".replace("x.jsonl", file, 1),
        {file: content},
        65,
        (file, *says),
        (CLEAN,),
        source=OWN,
        before=BEFORE.get(name, before),
        **more,
    )


# ------------------------------------------------------------------------------ keys and formats


def reply(**keys) -> list:
    """A file of a row whose reply has these keys too."""
    return [{"messages": [HI_HO[0], {**HI_HO[1], **keys}]}]


def question(**keys) -> list:
    """A file of a row whose question has these keys too."""
    return [{"messages": [{**HI_HO[0], **keys}, HI_HO[1]]}]


def hi_ho(**keys) -> list:
    """A file of a row with these keys beside its messages."""
    return [row("Hi", "Ho.", **keys)]


def flagged(**keys) -> list:
    """A file of a row with two replies, of which the second has these keys too."""
    return [{"messages": [*turns("Hi", "Ho.", "Go"), {**NO, **keys}]}]


def tools_called(arguments: str) -> list:
    return reply(content=None, tool_calls=[{"function": {"name": "x", "arguments": arguments}}])


def same_row(result, folder):
    """A check that --fix wrote the row as it stood."""
    first, second = ((folder / name).read_text() for name in ("x.jsonl", "y.jsonl"))
    assert json.loads(first) == json.loads(second)


KEYS = [
    refused("thinking kept apart", reply(reasoning_content="Hm."), "'reasoning_content'"),
    refused("a call of a tool beside a text", reply(tool_calls=[1]), "calls a tool"),
    refused(
        "a call of a tool instead of a text", tools_called("{}"), "turn 2: its key 'tool_calls'"
    ),
    refused("an old call of a tool", reply(function_call={"name": "x"}), "calls a tool"),
    refused("a name in a turn", question(name="Tom"), "turn 1: its key 'name'", "--ignore"),
    refused("sound in a turn", reply(audio={"id": "x"}), "'audio'"),
    refused("an unknown key in a turn", reply(mood="glad"), "turn 2: its key 'mood'"),
    refused("an unknown key in a row", hi_ho(persona="a king"), "line 1: its key 'persona'"),
    refused(
        "an unknown key in a part",
        reply(content=[{"type": "text", "text": "Ho.", "tone": "low"}]),
        "turn 2, part 1: its key 'tone'",
    ),
    refused(
        "a picture in a question",
        question(content=[{"type": "image_url", "image_url": {"url": "x"}}]),
        "'image_url'",
    ),
    refused(
        "several unknown keys",
        hi_ho(mood="glad", persona="a king"),
        "its keys 'mood', 'persona' are not read",
        "--ignore mood,persona",
    ),
    Situation(
        "--ignore before the name of the file",
        "audit --ignore mood x.jsonl --no-overlap",
        {"x.jsonl": hi_ho(mood="glad")},
        says=(CLEAN,),
        check=rows_read(1),
        source=OWN,
        before="no such flag",
    ),
    refused("tools that a row describes", hi_ho(tools=[{"name": "x"}]), "describes tools"),
    read("null and empty keys", [{**reply(tool_calls=None, name="", audio=[])[0], "tools": None}]),
    read("null messages beside a pair", [{"prompt": "Hi", "completion": "Ho.", "messages": None}]),
    read("keys that are about a row", hi_ho(id=7, source="x", metadata={"a": 1})),
    read("a key that the user calls meaningless", reply(mood="glad"), flags="--ignore mood"),
    Situation(
        "a key that is read cannot be ignored",
        f"{AUDIT} --ignore content",
        {"x.jsonl": hi_ho()},
        2,
        ("--ignore content: this key is read",),
        source=OWN,
        before="no such flag",
    ),
    Situation(
        "audit --fix keeps what it does not understand",
        f"{AUDIT} --ignore mood --fix y.jsonl",
        {"x.jsonl": [{**reply(mood="glad")[0], "id": 7}]},
        check=same_row,
        source=OWN,
        before="it wrote the row without these keys",
    ),
]
FLAGS = [
    *(
        read(
            f"the flag {json.dumps({name: value})}",
            flagged(**{name: value}),
            "graded                  4 of",
            flags="--grade flags",
        )
        for name, value in [
            *(("train", False), ("loss", False), ("trainable", False), ("training", 0)),
            ("weight", 0.0),
        ]
    ),
    read(
        "weight 0 on questions and 1 on replies (SlimOrca)",
        [
            {
                "conversations": [
                    {"from": "system", "value": "Be kind.", "weight": 0.0},
                    {"from": "human", "value": "Hi", "weight": 0.0},
                    {"from": "gpt", "value": "Ho.", "weight": 1.0},
                ]
            }
        ],
        flags="--template chatml",
    ),
    refused("a flag of a half", reply(weight=0.5), "'weight' is 0.5"),
    refused("a flag with two meanings", reply(mask=1), "'mask'", '"train": true or false'),
    refused("two flags that differ", reply(train=True, weight=0), "contradict"),
    refused("a flag on a question", question(loss=True), "'loss' asks to grade"),
    refused("a flag that --grade all ignores", flagged(loss=False), "'loss' says not graded"),
]


def not_conversations(name, row):
    """A file of a row of preferences, which an audit reads and fine-tuning does not."""
    return Situation(
        name,
        "mask x.jsonl",
        {"x.jsonl": [row]},
        65,
        ("x.jsonl, line 1: a row of preferences", "from which fine-tuning cannot learn"),
        source=OWN,
        before=BEFORE[name],
    )


SHARE_GPT = [
    {"from": "human", "value": "Hi"},
    {"from": "function_call", "value": '{"name": "x", "arguments": {}}'},
    {"from": "observation", "value": "A word."},
    {"from": "gpt", "value": "Ho."},
]
ROWS = [
    *(read(f"format: {f.what}", [f.example], flags=f.flags) for f in FORMATS),
    read("format: OASST, a message a row", SEVERAL),
    read(
        "Dolly with a category",
        [{"instruction": "Hi", "context": "", "response": "Ho.", "category": "x"}],
    ),
    read(
        "Alpaca with its rendering",
        [
            {
                "instruction": "Hi",
                "input": "",
                "output": "Ho.",
                "text": "### Instruction:\nHi\n\n### Response:\nHo.",
            }
        ],
    ),
    read(
        "Alpaca with its rendering and an input",
        [
            {
                "instruction": "Sum up",
                "input": "A tale.",
                "output": "Ho.",
                "text": "### Instruction:\nSum up\n\n### Input:\nA tale.\n\n### Response:\nHo.",
            }
        ],
    ),
    read("WildChat", [{"conversation": HI_HO, "hashed_ip": "x", "language": "English"}]),
    refused(
        "an empty question below an empty system turn",
        [{"messages": turns("", "Ho.", system="")}],
        "line 1, turn 2: empty text",
    ),
    refused(
        "an empty question below a system text beside the turns",
        [{"system": "Be kind.", "conversations": [{"from": "human", "value": ""}, {}]}],
        "turn 2: expected",
        flags="--template chatml",
    ),
    refused(
        "Alpaca with another text",
        [{"instruction": "Hi", "output": "Ho.", "text": "A tale."}],
        "its key 'text'",
    ),
    read("the prompt once more beside the messages (UltraChat)", hi_ho(prompt="Hi")),
    refused("another prompt beside the messages", hi_ho(prompt="Hey"), "its key 'prompt'"),
    refused(
        "OpenOrca with a system text, a template without",
        [{"system_prompt": "Be kind.", "question": "Hi", "response": "Ho."}],
        "no system role",
        "--template chatml",
    ),
    read(
        "OpenOrca without a system text",
        [{"id": "1", "system_prompt": "", "question": "Hi", "response": "Ho."}],
    ),
    not_conversations("HH-RLHF", {"chosen": "\n\nHuman: Hi", "rejected": "\n\nHuman: Hi"}),
    not_conversations(
        "UltraFeedback", {"prompt": "Hi", "chosen": HI_HO, "rejected": HI_HO, "messages": HI_HO}
    ),
    refused(
        "a mark of good and bad (KTO)",
        [{"prompt": "Hi", "completion": "Ho.", "label": False}],
        "'label'",
    ),
    refused("ShareGPT with calls of tools", [{"conversations": SHARE_GPT}], "'function_call'"),
    refused(
        "ShareGPT with a turn of a tool",
        [{"conversations": [SHARE_GPT[0], {"from": "tool", "value": "x"}, SHARE_GPT[3]]}],
        "a turn of role 'tool'",
    ),
]

# ---------------------------------------------------------------------------------- message trees

TREE = {
    "message_tree_id": "a",
    "tree_state": "ready_for_export",
    "prompt": node(
        "a",
        None,
        "prompter",
        "Hi",
        lang="en",
        replies=[
            node("b", "a", "assistant", "Ho.", lang="en", replies=[], rank=0),
            node("c", "a", "assistant", "Hm.", lang="en", replies=[], deleted=True),
        ],
    ),
}
FLAT = [
    node("a", None, "prompter", "Hi", lang="en", deleted=False, review_result=True),
    node("b", "a", "assistant", "Ho.", lang="en", rank=0),
    node("c", "a", "assistant", "Hm.", lang="en", rank=1, deleted=True),
    node("d", "c", "prompter", "Why", lang="en"),
    node("e", "d", "assistant", "So.", lang="en"),
    node("f", "a", "assistant", "Ha.", lang="en", rank=2, review_result=False),
]
OTHERS = [
    node("p", None, "prompter", "Say it", lang="pt-BR"),
    node("q", "p", "assistant", "Bom.", lang="pt-BR", synthetic=True, model_name="x"),
]
TREES = [
    read(
        "deleted messages and what hangs below them",
        FLAT,
        CLEAN,
        "left out                1 deleted, 1 that failed the review, 2 that hang below those",
        before="trained on",
    ),
    read("a tree in one row", [TREE], CLEAN, "left out                1 deleted"),
    read("trees over many lines", json.dumps([TREE], indent=2)),
    refused(
        "an unknown key in a message of a tree",
        [{**TREE, "prompt": {**TREE["prompt"], "mood": "glad"}}],
        "its key 'mood'",
    ),
    read("all languages", FLAT + OTHERS, "left out", n=2),
    read("one language", FLAT + OTHERS, "2 in another language (pt-BR)", flags="--lang en"),
    read(
        "a language with its country", FLAT + OTHERS, "in another language (en)", flags="--lang pt"
    ),
    read("rows without a language", hi_ho(), flags="--lang en"),
    read("a language by its name", hi_ho(language="English"), flags="--lang english"),
    Situation(
        "a language that no row has",
        f"{AUDIT} --lang fr",
        {"x.jsonl": hi_ho(lang="en")},
        65,
        ("all of its rows are left out", "1 in another language (en)"),
        source=OWN,
        before="no such flag",
    ),
    read("a language of other rows", hi_ho(lang="en") + hi_ho(lang="de"), flags="--lang de"),
    read(
        "synthetic messages",
        FLAT + OTHERS,
        "1 synthetic",
        "1 whose replies are all left out",
        flags="--no-synthetic",
    ),
]

# --------------------------------------------------------------------------------- JSON and files


def pipe(content: str):
    """A setup that makes a pipe, from which this can be read once."""

    def setup(monkeypatch, folder):
        os.mkfifo(folder / "pipe")
        write = (folder / "pipe").write_text
        threading.Thread(target=write, args=(content,), daemon=True).start()

    return setup


TWO = [row("Hi Tom", "Ho."), row("Hey Ann", "Hm.")]
LINES = "".join(json.dumps(one) + "\n" for one in TWO)
BROKEN = json.dumps(TWO, indent=2).replace('"Hi Tom"', '"Hi Tom')
JSON = [
    refused(
        "the same key twice",
        '{"prompt": "Hi", "completion": "Ho.", "completion": "Hm."}',
        "line 1: the key 'completion' stands twice",
        before="the last one won",
    ),
    refused(
        "the same key twice in a turn",
        '{"messages": [{"role": "user", "content": "Hi", "content": "Hey"}, {}]}',
        "the key 'content' stands twice",
    ),
    read("an array in one line", json.dumps(TWO), n=2),
    read("an array over many lines", json.dumps(TWO, indent=2), n=2),
    read("an array with an object a line", "[\n" + LINES.replace("}\n{", "},\n{") + "]", n=2),
    read("objects over many lines", "\n".join(json.dumps(t, indent=4) for t in TWO), n=2),
    refused("a fault in an array", BROKEN, "line 6: not JSON", "of which 1 can"),
    refused(
        "a fault in the second row of a line",
        json.dumps([TWO[0], {"prompt": "Hi", "completion": ""}]),
        "x.jsonl, line 1, row 2, turn 2: empty reply",
        "of which 1 can",
    ),
    refused(
        "a key that stands twice in an array of one line",
        json.dumps([TWO[0], 7, TWO[1]]).replace("7", '{"id": 1, "id": 2}'),
        "line 1, row 2: the key 'id' stands twice",
        "of which 2 can",
    ),
    Situation(
        "a fault in an array of one line",
        AUDIT,
        {"x.jsonl": json.dumps([TWO[0], 7, TWO[1]]).replace("7", '{"id" 1}')},
        65,
        ("x.jsonl, line 1: not JSON", "What follows cannot be read"),
        source=OWN,
        before=REFUSED,
    ),
    read("commas at the ends of lines", LINES.replace("}\n", "},\n"), n=2),
    read("a file packed by gzip", gzip.compress(LINES.encode()), n=2, file="x.jsonl.gz"),
    read("a file packed by bzip2", bz2.compress(LINES.encode()), n=2, file="x.jsonl.bz2"),
    read("a file packed by xz", lzma.compress(LINES.encode()), n=2, file="x.jsonl.xz"),
    read("a packed table", gzip.compress(b"Hi,Ho.\nGo,No.\n"), n=2, file="x.csv.gz"),
]
NOT_TWICE = "which --resume could not read again"
FILES = [
    Situation(
        "a file packed by zstd",
        AUDIT,
        {"x.jsonl": b"\x28\xb5\x2f\xfd\x24\x00"},
        65,
        ("packed with zstd", "unpack it"),
        source=OWN,
        before="not UTF-8",
    ),
    Situation(
        "a packed file that is not complete",
        AUDIT,
        {"x.jsonl": gzip.compress(LINES.encode())[:-9]},
        65,
        ("x.jsonl: cannot be unpacked",),
        source=OWN,
        before="not UTF-8",
    ),
    Situation(
        "a pipe is audited",
        "audit pipe --unknown replace --no-overlap",
        says=(CLEAN,),
        check=rows_read(2),
        setup=pipe(LINES),
        source=OWN,
        before="right",
    ),
    Situation(
        "a pipe for --data",
        "train {inputs} --data pipe --out run",
        code=2,
        says=("--data pipe: a pipe", NOT_TWICE),
        setup=pipe(LINES),
        source=OWN,
        before="no conversation in it, or it hung",
    ),
    Situation(
        "a pipe for --corpus",
        "train --corpus pipe --out run",
        code=2,
        says=("--corpus pipe: a pipe", NOT_TWICE),
        setup=pipe("a" * 2000),
        source=OWN,
        before="it hung",
    ),
    Situation(
        "standard input for --data",
        "train {inputs} --data /dev/stdin --out run",
        code=2,
        says=("--data /dev/stdin: a pipe or device", NOT_TWICE),
        source=OWN,
        before="no conversation in it",
    ),
    Situation(
        "a pipe for --config",
        "train --config pipe --no-tools --data none.jsonl",
        code=66,
        says=("none.jsonl: no such file",),
        setup=pipe("seed = 3\n"),
        source=OWN,
        before="right",
    ),
    Situation(
        "a pipe for --config beside the shipped data",
        "train --config pipe --set data.transcripts=9 --out taken",
        {"taken": "a file"},
        2,
        ("taken",),
        setup=pipe("seed = 3\n"),
        source=OWN,
        before="it hung",
    ),
]
SITUATIONS = [*KEYS, *FLAGS, *ROWS, *TREES, *JSON, *FILES]
