"""Markers spelled with characters instead of single tokens, and figures that are comparable between
the two.

Both vocabularies have 68 symbols, but a marker is one token or several. Therefore compliance is
judged on text, and the loss is over the reply's own characters."""

import numpy as np

from pysft import IGNORE
from pysft.batch import Batch, Example
from pysft.inference.generate import generate
from pysft.measure.evaluate import MAX_NEW, corpus_loss
from pysft.text.examples import shift
from pysft.text.render import render_prompt
from pysft.text.templates import CHAT

# The markers before the question, between question and answer, and after the answer.
USER, BETWEEN, END = "<|user|>", "<|end|><|assistant|>", "<|end|>"


def spelled(conversation, tokenizer, settings) -> Example:
    """The Example of a conversation with all three markers as the characters of their names. The
    reply and the characters of its end are graded. An Arm.encode; settings: not used."""
    head = tokenizer.encode(USER + conversation.prompt + BETWEEN)
    tail = tokenizer.encode(conversation.replies()[0] + END)
    return _graded_tail(head, tail, conversation.where)


def _graded_tail(head: np.ndarray, tail: np.ndarray, where: str) -> Example:
    """The Example of the ids `head` and `tail`. The tail is graded."""
    tokens = np.concatenate([head, tail])
    return Example(*shift(tokens, np.arange(len(tokens)) >= len(head)), where)


# Arm.judge for each kind of marker. Their names are part of the names of trials on disk.


def judge_spelled(model, tokenizer, arm) -> tuple[dict, dict]:
    """(figures, replies) of a model with spelled markers. A reply ends where the characters of
    <|end|> begin."""

    def answer(prompts):
        ids = [tokenizer.encode(USER + prompt + BETWEEN) for prompt in prompts]
        replies = generate(model, ids, MAX_NEW + len(END))
        cut = [tokenizer.decode(r.ids).partition(END) for r in replies]
        return [(text, bool(mark)) for text, mark, _ in cut]

    return _judged(model, tokenizer, arm, answer, lambda c: spelled(c, tokenizer, None), len(END))


def judge_tokens(model, tokenizer, arm) -> tuple[dict, dict]:
    """(figures, replies) of a model whose markers are one token each."""
    end = tokenizer.special[CHAT.end]

    def rendered(prompt):
        return render_prompt([{"role": "user", "content": prompt}], tokenizer, CHAT)

    def answer(prompts):
        replies = generate(model, [rendered(prompt) for prompt in prompts], MAX_NEW, end)
        return [(tokenizer.decode(r.ids), r.stop == "end") for r in replies]

    def example(c):
        return _graded_tail(
            rendered(c.prompt), np.append(tokenizer.encode(c.replies()[0]), end), c.where
        )

    return _judged(model, tokenizer, arm, answer, example, 1)


def _judged(model, tokenizer, arm, answer, example, end: int) -> tuple[dict, dict]:
    """(figures, replies). answer(prompts) -> [(text, did it stop?)]. example(conversation) ->
    Example. end: number of labels at its end that belong to the end marker."""
    pairs = answer([prompt for prompt, _ in arm.probe.pairs])
    unseen = answer([p["prompt"] for p in arm.probe.prompts])
    total, count = 0.0, 0
    for c in arm.pairs:
        e = example(c)
        e.labels[-end:] = IGNORE
        nll = model.forward(Batch.of([e], model.config.vocab, model.config.context)).nll
        total += float(nll.sum(dtype=np.float64))
        count += int((e.labels != IGNORE).sum())
    recalled = [
        stopped and text == reply for (text, stopped), (_, reply) in zip(pairs, arm.probe.pairs)
    ]
    figures = {
        "tuned_base_loss": corpus_loss(model, tokenizer, arm.probe.heldout_text),
        "reply_loss": total / count,
        "recall": float(np.mean(recalled)),
        "recall_of": len(pairs),
        "stopped": float(np.mean([stopped for _, stopped in pairs])),
        "format_compliance": float(np.mean([_complies(*reply) for reply in unseen])),
        "tokens": float(np.mean([len(example(c).labels) for c in arm.pairs])),
    }
    asked = {
        "pairs": ([prompt for prompt, _ in arm.probe.pairs], pairs),
        "prompts": ([p["prompt"] for p in arm.probe.prompts], unseen),
    }
    replies = {
        group: [(p, text, "end" if stopped else "length") for p, (text, stopped) in zip(*rows)]
        for group, rows in asked.items()
    }
    return figures, replies


def _complies(text: str, stopped: bool) -> bool:
    """True if the reply stopped, has content, and holds no beginning of a marker."""
    return stopped and bool(text.strip()) and "<|" not in text
