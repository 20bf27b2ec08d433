"""Which conversations are held out, so that what is measured on them was never trained on."""

import hashlib

from pysft.errors import DataError, RowError
from pysft.text.conversation import Conversation, short
from pysft.text.formats import last_text, read_conversations, read_prompts
from pysft.text.keys import Reading
from pysft.text.scripts import compose
from pysft.text.template import Template
from pysft.text.templates import CHATML


def prompt_key(text: str) -> str:
    """The same key for prompts that differ only in case, blanks, the marks at their end, and in
    whether accents are composed with their letters."""
    return " ".join(compose(text).casefold().split()).rstrip(" .!?,;:-")


def split_heldout(
    conversations: list[Conversation], every: int = 10, shuffled: bool = False
) -> tuple[list, list]:
    """(kept, held out). Of the different prompts that conversations begin with, every tenth is held
    out, with all conversations that begin so. Rows of plain text are kept.

    The tenth is counted in the order of the file (every tenth line, if no prompt comes twice), or
    if `shuffled` in an order by hash, for files whose order has a pattern."""
    keys = list(dict.fromkeys(prompt_key(c.prompt) for c in conversations if not c.is_text))
    if shuffled:
        keys.sort(key=lambda key: hashlib.sha256(key.encode()).digest())
    chosen = set(keys[every - 1 :: every])
    kept, heldout = [], []
    for c in conversations:
        is_chosen = not c.is_text and prompt_key(c.prompt) in chosen
        (heldout if is_chosen else kept).append(c)
    return kept, heldout


def overlap_with(heldout: dict[str, str], prompt: str) -> tuple[str, str] | None:
    """(what is wrong, the remedy) if a prompt is among those that heldout_prompts() gave."""
    where = heldout.get(prompt_key(prompt))
    if where is None:
        return None
    remedy = "remove one of the two: a prompt that was trained on measures nothing"
    return f"the prompt {short(prompt)} is held out at {where}", remedy


def heldout_prompts(path: str, template: Template, reading: Reading) -> dict[str, str]:
    """{prompt_key: where} of a file of {"prompt": ...}, or of conversations in any format. A
    DataError if it is neither."""
    # ChatML has a system role, which these conversations may have and `template` may lack.
    reader = CHATML if set(template.turns) <= set(CHATML.turns) else template
    try:
        found = {
            prompt_key(text): f"{path} ({short(text)})"
            for text in (last_text(p["prompt"]) for p in read_prompts(path, reading))
        }
    except RowError:
        conversations = read_conversations(path, reader, reading)
        found = {prompt_key(c.prompt): c.where for c in conversations if not c.is_text}
    if not found:
        raise DataError(f"{path}: no prompt in it")
    return found
