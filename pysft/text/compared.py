"""Examples of comparisons: replies whose values are read, for a reward model, and replies that are
graded, for DPO.

Every reply is rendered behind its prompt, as a fine-tuning renders it."""

import numpy as np

from pysft import IGNORE
from pysft.batch import Example
from pysft.errors import RowError
from pysft.text.conversation import Conversation
from pysft.text.examples import encode_conversation, length_fault, reply_example
from pysft.text.ranking import Ranking
from pysft.text.render import render, render_prompt
from pysft.text.template import Template
from pysft.text.tokenizer import Tokenizer


def scored_example(
    c: Conversation,
    tokenizer: Tokenizer,
    context: int,
    template: Template,
    rank: int | None = None,
) -> Example:
    """The example of a conversation that ends with the reply to be scored. Its value is wanted in
    the row of the last token, which closes the reply, and nothing is graded.

    rank: that of the reply, for the column of this name. A RowError if the context cannot hold
    it."""
    tokens, _ = render(c.messages, tokenizer, template, c.where, first=c.first_turn)
    n = len(tokens)
    if n > context:
        raise length_fault(c.where, n, context)
    wanted = np.arange(n) == n - 1
    columns = {} if rank is None else {"rank": np.full(n, rank, np.float32)}
    labels = np.full(n, IGNORE, np.int32)
    return Example(tokens, labels, c.where, wanted=wanted, columns=columns)


def ranked_examples(
    ranking: Ranking, tokenizer: Tokenizer, context: int, template: Template
) -> list[Example]:
    """The scored_example() of each reply of a ranking. A RowError names the reply that the context
    cannot hold."""
    ranks = iter(ranking.ranks)
    return _of_each(ranking, lambda c: scored_example(c, tokenizer, context, template, next(ranks)))


def graded_examples(
    ranking: Ranking, tokenizer: Tokenizer, context: int, template: Template
) -> list[Example]:
    """The example of each reply of a ranking, of which the tokens of the reply and its end are
    graded. The end of a reply that was cut off is not: the model did not write it. A RowError names
    the reply that the context cannot hold."""
    ended = iter(ranking.ended)

    def make(c):
        example = encode_conversation(c, tokenizer, context, template, "last")
        if next(ended):
            return example
        *prompt, reply = c.messages
        ids = render_prompt(prompt, tokenizer, template, c.where)
        return reply_example(ids, tokenizer.encode(reply["content"]), c.where)

    return _of_each(ranking, make)


def _of_each(ranking: Ranking, make) -> list[Example]:
    examples = []
    for i, c in enumerate(ranking.conversations()):
        try:
            examples.append(make(c))
        except RowError as error:
            raise ranking.located(error, i) from None
    return examples
