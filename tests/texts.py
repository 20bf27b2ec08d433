"""Small conversations, vocabularies and files, for the tests of pysft/text."""

import json

from hypothesis import settings

from pysft.text.conversation import made_conversation
from pysft.text.tokenizer import SHAKESPEARE, CharTokenizer
from pysft.world.transcripts import transcripts as made_transcripts

PLAIN = CharTokenizer(SHAKESPEARE)
steady = settings(max_examples=150, deadline=None, derandomize=True, database=None)


def grown(template, characters=SHAKESPEARE):
    """A vocabulary with all tokens of a template."""
    return CharTokenizer(characters).grow(template.tokens + template.tool_tokens)


def say(*texts, system=None):
    """Messages: the user, the assistant, the user, and so on, perhaps after a system turn."""
    before = [] if system is None else [{"role": "system", "content": system}]
    turns = zip(("user", "assistant") * 9, texts)
    return before + [{"role": role, "content": text} for role, text in turns]


def shown(tokens, trained, tokenizer):
    """The pieces of a rendering as text, graded ones in brackets."""
    out, state = "", False
    for token, graded in zip(tokens, trained):
        bracket = "[" if graded and not state else "]" if state and not graded else ""
        out += bracket + tokenizer.decode([token])
        state = graded
    return out + ("]" if state else "")


def node(name, parent, role, text, rank=None):
    """A message of a tree, as OASST has it."""
    return {"message_id": name, "parent_id": parent, "role": role, "text": text, "rank": rank}


def write(folder, name, *lines):
    """A file of lines, each a text or an object to be written as JSON."""
    path = folder / name
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts), encoding="utf-8")
    return path


def one_line(error) -> str:
    """The message of a caught error, which must be one line."""
    text = str(error.value)
    assert text and "\n" not in text
    return text


def transcripts(*args, **kwargs):
    """The conversations of made transcripts of a search. The arguments are those of
    world.transcripts.transcripts()."""
    made = made_transcripts(*args, **kwargs)
    return [made_conversation("tools", line, *row) for line, row in enumerate(made, 1)]
