"""Training data with faults made on purpose: wrong masks, end tokens left out, noise."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from pysft import IGNORE
from pysft.batch import Example
from pysft.lab.arm import standard
from pysft.rng import rng
from pysft.text.conversation import Conversation


def exchange(user: str, assistant: str | list[dict], number: int = 1) -> Conversation:
    """A conversation of one question and one answer, a text or parts. number: its line number."""
    messages = [
        {"role": "user", "content": user},
        {"role": "assistant", "content": assistant},
    ]
    return Conversation(messages, "lab", number)


def shuffled(items: Sequence, name: str, seed: int = 0) -> list:
    """The items in an order that depends on name, seed and the number of items alone."""
    return [items[i] for i in rng(seed, "lab", name).permutation(len(items))]


def first_token_masked(conversation, tokenizer, settings) -> Example:
    """The Example that the source text's code makes: the label at <|assistant|> is -100 too."""
    e = standard(conversation, tokenizer, settings)
    graded = e.labels != IGNORE
    first = graded & ~np.concatenate([[False], graded[:-1]])
    return replace(e, labels=np.where(first, IGNORE, e.labels))


def without_end(lines: frozenset[int]) -> Callable:
    """An Arm.encode that leaves out the last end token of the conversations on these lines, as if
    the reply had not been closed."""

    def encode(conversation, tokenizer, settings):
        e = standard(conversation, tokenizer, settings)
        if conversation.line not in lines:
            return e
        return replace(e, input_ids=e.input_ids[:-1], labels=e.labels[:-1])

    return encode


def noisy(
    clean: list[Conversation], n: int, seed: int
) -> tuple[list[Conversation], list[Conversation]]:
    """(n rows, the good ones among them). The good half comes first: clean rows, unchanged. A fifth
    has the reply of another prompt. Three twentieths have a reply that is cut somewhere in its
    middle half. The rest repeat a good row word for word."""
    g = rng(seed, "lab", f"noise {n}")
    order = shuffled(clean, f"noise rows {n}", seed)
    good, wrong, cut = n // 2, n // 5, 3 * n // 20
    rows = order[: good + wrong + cut]
    kept = rows[:good]
    replies = [c.replies()[0] for c in rows]
    bad = []
    for c in rows[good : good + wrong]:
        bad.append(exchange(c.prompt, replies[int(g.integers(0, good))], c.line))
    for c, reply in zip(rows[good + wrong :], replies[good + wrong :]):
        words = reply.split(" ")
        length = max(1, int(len(words) * g.uniform(0.25, 0.75)))
        bad.append(exchange(c.prompt, " ".join(words[:length]), c.line))
    repeats = [kept[int(i)] for i in g.integers(0, good, n - len(rows))]
    return kept + bad + repeats, kept
