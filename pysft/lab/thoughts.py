"""What arms that learn to think before they answer share: rows with and without their thoughts, and
how many tokens they take."""

from collections.abc import Sequence
from dataclasses import dataclass

from pysft import IGNORE
from pysft.lab.variants import exchange
from pysft.text.conversation import THOUGHT, Conversation, with_thought
from pysft.text.examples import encode_conversation
from pysft.text.tokenizer import Tokenizer

THINKING, ANSWERS, REPEATED = "thoughts", "answers", "repeated"


def thought_of(content) -> str:
    """The thoughts of a content, joined; "" without one."""
    if isinstance(content, str):
        return ""
    return "".join(part["text"] for part in content if part["type"] == THOUGHT)


def rewritten(rows: Sequence[Conversation], kind: str) -> list[Conversation]:
    """The same questions and answers with other thoughts. kind: THINKING leaves them as they are.
    ANSWERS takes them out. REPEATED puts the question in their place, again and again, up to as
    many characters as the thought has."""
    found = []
    for row in rows:
        prompt, [reply] = row.prompt, row.replies()
        thought = thought_of(row.messages[-1]["content"])
        if kind == ANSWERS:
            thought = ""
        elif kind == REPEATED:
            thought = (f"{prompt} " * len(thought))[: len(thought)]
        found.append(exchange(prompt, with_thought(thought, reply), row.line))
    return found


@dataclass(frozen=True)
class Size:
    """The tokens of some rows: of all of them, those that are graded, and of the longest row."""

    tokens: int
    graded: int
    longest: int

    @classmethod
    def of(cls, rows: Sequence[Conversation], tokenizer: Tokenizer, context: int) -> "Size":
        examples = [encode_conversation(row, tokenizer, context) for row in rows]
        lengths = [len(e.input_ids) for e in examples]
        graded = sum(int((e.labels != IGNORE).sum()) for e in examples)
        return cls(sum(lengths), graded, max(lengths))

    def changes(self, steps: int, times: float) -> dict:
        """The settings of [sft] with which each row comes `times` times in `steps` steps."""
        width = max(self.longest, round(times * self.tokens / steps))
        return {"steps": steps, "tokens": width + self.longest}
