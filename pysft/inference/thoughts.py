"""Thoughts: parts of a reply between tokens of their own, which the model writes for itself. No
tool runs when one closes. Whoever reads the answer reads it without them.

    <|thought_start|>Ivo teaches Ada. Ivo keeps a toad.<|thought_end|>Ivo keeps a toad.<|end|>
    |----------------------------- hidden ----------------------------||--- visible ---|"""

import numpy as np

from pysft.text.conversation import THOUGHT
from pysft.text.template import Template
from pysft.text.tokenizer import Tokenizer

# Tokens that a reply may take beside those of its answer, for a model that writes thoughts. The
# longest thought about a world of characters takes 104.
ROOM = 120


def thought_tokens(tokenizer: Tokenizer, template: Template) -> tuple[int, int] | None:
    """The ids that open and close a thought; None if the template or the vocabulary has none."""
    row = template.parts.get(THOUGHT)
    if row is None or not {*row.opens, *row.closes} <= tokenizer.special.keys():
        return None
    return tokenizer.special[row.opens[0]], tokenizer.special[row.closes[-1]]


def room_for_thoughts(tokenizer: Tokenizer, template: Template) -> int:
    """How many tokens a reply may take beside those of its answer: none without thoughts."""
    return ROOM if thought_tokens(tokenizer, template) else 0


class Thoughts:
    """Tells of each id of a reply, in their order, whether a thought holds it.

    A thought opens outside of calls and results alone, as ReplyReader has it (tool_calls.py). One
    that is not closed goes on to the end of the reply."""

    def __init__(self, tokenizer: Tokenizer, template: Template):
        special = tokenizer.special
        rows = {
            kind: row
            for kind, row in template.parts.items()
            if {*row.opens, *row.closes} <= special.keys()
        }
        self._openers = {special[row.opens[0]]: kind for kind, row in rows.items()}
        self._closers = {special[row.closes[-1]]: kind for kind, row in rows.items()}
        self._open = None  # the kind of the part that is open

    def hold(self, token: int) -> bool:
        """Take the next id. True if it stands in a thought, or opens or closes one."""
        if self._open is None:
            self._open = self._openers.get(token)
            return self._open == THOUGHT
        is_held = self._open == THOUGHT
        if self._closers.get(token) == self._open:
            self._open = None
        return is_held


def visible_ids(ids, tokenizer: Tokenizer, template: Template) -> np.ndarray:
    """The ids (n,) int32 of a reply without its thoughts and their tokens."""
    ids = np.asarray(ids, np.int32)
    tokens = thought_tokens(tokenizer, template)
    if tokens is None or tokens[0] not in ids:
        return ids
    thoughts = Thoughts(tokenizer, template)
    return ids[[not thoughts.hold(i) for i in ids.tolist()]]


def visible_reply(ids, tokenizer: Tokenizer, template: Template) -> str:
    """The text of a reply without its thoughts. Calls of tools and other control tokens are in it,
    by their names."""
    return tokenizer.decode(visible_ids(ids, tokenizer, template))


def visible_parts(parts: list[dict]) -> list[dict]:
    """The parts of a content without thoughts."""
    return [part for part in parts if part["type"] != THOUGHT]
