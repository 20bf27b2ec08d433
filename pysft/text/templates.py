"""The templates that ship, and templates from files."""

import json
from pathlib import Path

from pysft.errors import DataError, MissingInput, UsageError
from pysft.text.conversation import THOUGHT
from pysft.text.template import ALL, NOTHING, REPLY, Template, part, turn

# fmt: off

# What stands inside an assistant turn. The model chooses to call a tool, so it is graded on all of
# the call. The system writes the result, so nothing of a result is ever graded. A thought is graded
# like a call, and runs nothing. A new row comes last, so that ids of older vocabularies stay.
#    kind      opens                   closes                  graded
TOOLS = (
    part("search", ["<|search_start|>"], ["<|search_end|>"], ALL),
    part("code",   ["<|code_start|>"],   ["<|code_end|>"],   ALL),
    part("result", ["<|result_start|>"], ["<|result_end|>"], NOTHING),
    part("table",  ["<|table_start|>"],  ["<|table_end|>"],  ALL),
    part(THOUGHT,  ["<|thought_start|>"], ["<|thought_end|>"], ALL),
)

# The template of the source text.
CHAT = Template.of(
    "chat",
    turn("user",      ["<|user|>"],      ["<|end|>"], NOTHING),
    turn("assistant", ["<|assistant|>"], ["<|end|>"], REPLY),
    *TOOLS,
)

# ChatML as the source text shows it: the role is a plain word between two tokens.
CHATML = Template.of(
    "chatml",
    turn("system",    ["<|im_start|>", "system", "<|im_sep|>"],    ["<|im_end|>"], NOTHING),
    turn("user",      ["<|im_start|>", "user", "<|im_sep|>"],      ["<|im_end|>"], NOTHING),
    turn("assistant", ["<|im_start|>", "assistant", "<|im_sep|>"], ["<|im_end|>"], REPLY),
    *TOOLS,
)

# The form of Llama 2: a reply follows the end of the question at once, and the system's words stand
# inside the first question. Llama writes [INST] in characters. Here it is one token, so that nobody
# can type it.
LLAMA2 = Template.of(
    "llama2",
    turn("system",    ["<s>", "[INST]", "<<SYS>>"], ["<</SYS>>"], NOTHING, joins=True),
    turn("user",      ["<s>", "[INST]"],            ["[/INST]"],  NOTHING),
    turn("assistant", [],                           ["</s>"],     REPLY),
    *TOOLS,
    pinned=("<s>", "</s>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),  # as in older runs
)

# An old form in plain words, in which only the end of a reply is a token. A text that holds one of
# its words is refused.
HUMAN = Template.of(
    "human",
    turn("user",      ["\n\nHuman: "],     [],          NOTHING),
    turn("assistant", ["\n\nAssistant: "], ["<|end|>"], REPLY),
    *TOOLS,
)
# fmt: on

TEMPLATES = {t.name: t for t in (CHAT, CHATML, LLAMA2, HUMAN)}


def load_template(name: str) -> Template:
    """A template by its name, or from a JSON file like the template.json of a run."""
    if name in TEMPLATES:
        return TEMPLATES[name]
    path = Path(name)
    if path.suffix != ".json":
        raise UsageError(
            f"template {name!r} is not one of {', '.join(TEMPLATES)}, nor a .json file like a run's"
            " template.json"
        )
    try:
        return Template.from_json(json.loads(path.read_text(encoding="utf-8-sig")))
    except FileNotFoundError:
        raise MissingInput(f"{path}: no such template") from None
    except UsageError as error:
        raise DataError(f"{path}: not a template that can be used ({error})") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error})") from None
