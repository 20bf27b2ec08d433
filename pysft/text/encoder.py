"""Conversations as a training would read them, one after the other, without one."""

from array import array
from collections import Counter

from pysft.batch import Example
from pysft.text.characters import Written, changed_note, write_with
from pysft.text.conversation import Conversation
from pysft.text.examples import encode_conversation, length_fault
from pysft.text.template import Template
from pysft.text.tokenizer import Tokenizer

ANY_LENGTH = 1 << 62  # a context that holds every row, so that a long one is measured too


class Encoder:
    """Writes conversations with a vocabulary and counts what it meets.

    tokenizer: that of the training, before it grows by `tokens`, the special tokens of the template
    that it does not have yet. unknown: the policy for characters that the vocabulary lacks
    (characters.py); the tokenizer changes if that lets it grow. grown: the tokenizer with the
    template's tokens. lengths: the tokens of each conversation. too_long: how many of them the
    context does not hold."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: Template,
        unknown: str,
        tokens: tuple[str, ...],
        context: int,
    ):
        self.template, self.unknown, self.tokens = template, unknown, tokens
        self.context, self.lengths, self.too_long = context, array("q"), 0
        self._changed = Counter()
        self._take(write_with([], tokenizer, template, unknown).tokenizer)

    def _take(self, tokenizer: Tokenizer) -> None:
        """Read on with this vocabulary."""
        self.tokenizer, self.grown = tokenizer, tokenizer.grow(self.tokens)

    def write(self, c: Conversation) -> Written:
        """The conversation as the vocabulary can write it, and its faults (write_with())."""
        written = write_with([c], self.tokenizer, self.template, self.unknown)
        self._changed += written.changed
        if written.tokenizer is not self.tokenizer:
            self._take(written.tokenizer)
        return written

    def encode(self, c: Conversation, grade: str) -> Example:
        """The training example of a conversation that write() gave. A RowError if training would
        refuse it."""
        example = encode_conversation(c, self.grown, ANY_LENGTH, self.template, grade)
        tokens = len(example.input_ids)
        self.lengths.append(tokens)
        if tokens > self.context:
            self.too_long += 1
            raise length_fault(c.where, tokens, self.context)
        return example

    def changed(self) -> str | None:
        """What is said of the characters that were replaced or are new; None if there are none."""
        return changed_note(self._changed, self.unknown) if self._changed else None
