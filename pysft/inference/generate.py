"""Write text from a model's logits: greedy or sampled, for one prompt or many, until a stop token.

stream() reads prompts and writes replies side by side, one token of each at a time, with a cache
of keys and values (nn/decode.py). When a reply ends, the next prompt takes its slot. The caller may
inject ids into a reply while it is written, as tool_calls.py does with the results of tools.

No reply depends on the others: a sequence's logits have the same bits whatever runs beside it, and
every prompt draws from a random generator of its own."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from pysft.errors import DataError, UsageError
from pysft.inference.repetition import repeated_words
from pysft.text.characters import typed

SLOTS = 24  # replies that are written side by side


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    temperature: 0 takes the most likely token; otherwise the logits are divided by it.
    top_k: keep the k most likely tokens; 0 keeps all.
    top_p: keep the smallest set of tokens whose probabilities add up to p; 1 keeps all.
    seed: the same seed gives the same text.
    repetition: above 1, a reply is less likely to repeat its own words. The logarithm of the
        probability of each token that would begin or continue a word that the reply already has is
        multiplied by this number, so a token that the model is sure of stays. From the first call
        of a tool on there is no penalty, because an answer copies what was found.

    A value out of range raises a UsageError that names it."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    repetition: float = 1.0

    def __post_init__(self):
        if not self.temperature >= 0:
            raise UsageError(f"temperature = {self.temperature} must be 0 (greedy) or more")
        if self.top_k < 0:
            raise UsageError(f"top-k = {self.top_k} must be 0 (all) or more")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top-p = {self.top_p} must be above 0 and at most 1")
        if not 1 <= self.repetition < 1e6:
            raise UsageError(f"repetition = {self.repetition} must be 1 (no penalty) or more")


@dataclass(frozen=True)
class Reply:
    """A finished reply of n tokens.

    ids (n,) int32: the reply without the prompt and the stop token.
    stop: why it ended: "end" (the stop token), "length" (max_new tokens, or a full context) or
        "tool" (a call of a tool that gets no result).
    injected (n,) bool: True for the ids that a tool gave, False for those the model wrote."""

    ids: np.ndarray
    stop: str
    injected: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))


class Event(NamedTuple):
    """One token of a reply, or the end of the reply.

    number: the index of the prompt.
    token: the new token; with a stop it is the stop token, or None if the reply ended without one.
    logits (V,): those that the token was chosen from, valid until the next event. None if the token
        was injected, or if there is no token.
    stop: None, or why the reply ended here (see Reply)."""

    number: int
    token: int | None
    logits: np.ndarray | None = None
    stop: str | None = None


GREEDY = Sampling()
# How `chat` writes by default. bench/sampling.py measures it beside other settings.
CHAT = Sampling(repetition=2.0)


def choose(logits: np.ndarray, sampling: Sampling, rng: np.random.Generator, again=()) -> int:
    """Choose the next token from logits (V,). again: the ids that would repeat a word of the
    reply (repetition.py)."""
    if sampling.repetition > 1 and len(again):
        logits = logits - logits.max()
        logits -= np.log(np.exp(logits).sum())
        logits[again] *= sampling.repetition
    if sampling.temperature == 0:
        return int(logits.argmax())
    logits = logits.astype(np.float64)
    order = np.argsort(-logits, kind="stable")  # most likely first
    with np.errstate(over="ignore"):  # with a tiny temperature only the most likely remains
        p = np.exp((logits[order] - logits[order[0]]) / sampling.temperature)
    p /= p.sum()
    keep = len(p) if sampling.top_k == 0 else min(sampling.top_k, len(p))
    # The factor lets a sum that rounding left just below top_p count as top_p.
    keep = min(keep, int(np.searchsorted(np.cumsum(p), sampling.top_p * (1 - 1e-12))) + 1)
    p = p[:keep] / p[:keep].sum()
    return int(order[rng.choice(keep, p=p)])


@dataclass
class _Sequence:
    """A prompt that is being read, or a reply that is being written, in one slot of the decoder."""

    number: int  # of its prompt
    unread: deque[int]  # ids that the model has still to read
    room: int  # tokens that still fit into the context
    remaining: int  # tokens that the model may still choose; injected ones do not count
    rng: np.random.Generator
    written: list[int] = field(default_factory=list)  # the reply so far

    def append(self, ids: list[int]) -> None:
        """Add ids to the reply, for the model to read next."""
        self.written += ids
        self.unread.extend(ids)
        self.room -= len(ids)


def stream(
    model,
    prompts: list[np.ndarray],
    max_new: int,
    stop: int | None = None,
    sampling: Sampling = GREEDY,
    inject: Callable | None = None,
    decoder=None,
    again: Callable | None = None,
) -> Iterator[Event]:
    """Yield the Events of all replies, as they are written.

    prompts: ids; each prompt has at least one, and at most as many as the context. Any other length
        raises a DataError. A reply ends at the stop token, after max_new tokens that the model
        chose, or when the context is full.
    inject(written, room): called after each token that the model chose, with the ids of the reply
        so far and the number of tokens that still fit into the context. It returns None to let the
        model go on, a list of ids to put into the reply first, or False to end the reply ("tool").
    decoder: a decoder of this model to use again. Its cache is cleared first. Making a new decoder
        takes as long as writing twenty tokens with the tiny preset.
    again(written): the ids that would repeat a word, for sampling.repetition. Without it nothing is
        penalised."""
    context = model.config.context
    for i, prompt in enumerate(prompts):
        if not 0 < len(prompt) <= context:
            raise DataError(f"prompt {i}: {len(prompt)} tokens, the context holds 1 to {context}")
    waiting = []
    for i in reversed(range(len(prompts))):
        if max_new > 0 and len(prompts[i]) < context:
            waiting.append(i)
        else:
            yield Event(i, None, None, "length")
    if not waiting:
        return
    decoder = decoder or model.decoder(min(SLOTS, len(waiting)))
    penalised = again is not None and sampling.repetition > 1
    active: dict[int, _Sequence] = {}  # by slot
    free = list(reversed(range(len(decoder.lengths))))
    while waiting or active:
        while waiting and free:
            i, slot = waiting.pop(), free.pop()
            decoder.reset(slot)
            unread, rng = deque(map(int, prompts[i])), np.random.default_rng([sampling.seed, i])
            active[slot] = _Sequence(i, unread, context - len(unread), max_new, rng)
        slots = sorted(active)
        logits = decoder.steps([active[slot].unread.popleft() for slot in slots], slots)
        for row, slot in zip(logits, slots):
            sequence = active[slot]
            if sequence.unread:
                continue
            repeats = again(sequence.written) if penalised else ()
            token = choose(row, sampling, sequence.rng, repeats)
            if token == stop:
                ended = "end"
                yield Event(sequence.number, token, row, ended)
            else:
                sequence.append([token])
                sequence.remaining -= 1
                yield Event(sequence.number, token, row)
                more = inject(sequence.written, sequence.room) if inject is not None else None
                if more:
                    sequence.append(more)
                    for injected in more:
                        yield Event(sequence.number, injected)
                ended = "tool" if more is False else None
                if ended is None and (sequence.remaining == 0 or sequence.room <= 0):
                    ended = "length"
                if ended is not None:
                    yield Event(sequence.number, None, None, ended)
            if ended is not None:
                del active[slot]
                free.append(slot)


def generate(
    model,
    prompts: list[np.ndarray],
    max_new: int,
    stop: int | None = None,
    sampling: Sampling = GREEDY,
    inject: Callable | None = None,
    again: Callable | None = None,
) -> list[Reply]:
    """Return the Reply to each prompt. The arguments are those of stream()."""
    ids, chosen, ends = [[] for _ in prompts], [[] for _ in prompts], [""] * len(prompts)
    for event in stream(model, prompts, max_new, stop, sampling, inject, again=again):
        if event.stop is not None:
            ends[event.number] = event.stop
        else:
            ids[event.number].append(event.token)
            chosen[event.number].append(event.logits is not None)
    return [
        Reply(np.array(i, np.int32), end, ~np.array(c, bool))
        for i, c, end in zip(ids, chosen, ends)
    ]


def complete(model, tokenizer, prompt: str, max_new: int, sampling: Sampling) -> dict:
    """Continue a text, the only thing a base model can do, and return the document of `generate
    --json`. A prompt that is empty, or that leaves no room in the context, raises a DataError."""
    prompt = typed(prompt, tokenizer)
    ids = tokenizer.encode(prompt, "the prompt")
    if not len(ids):
        raise DataError("the prompt is empty; give at least one character to continue")
    if len(ids) >= model.config.context:
        raise DataError(
            f"the prompt takes {len(ids)} tokens and leaves no room in a context of "
            f"{model.config.context}; shorten it"
        )
    began = time.monotonic()
    again = repeated_words(tokenizer) if sampling.repetition > 1 else None
    reply = generate(model, [ids], max_new, sampling=sampling, again=again)[0]
    return {
        "prompt": prompt,
        "reply": tokenizer.decode(reply.ids),
        "stop": reply.stop,
        "tokens": len(reply.ids),
        "tokens_per_s": len(reply.ids) / max(time.monotonic() - began, 1e-9),
    }
