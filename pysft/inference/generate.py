"""From logits to text: greedy or sampled, one or many prompts, until the stop token; and what
happens in between when a tool is called.

Prompts are read and replies written side by side, a token of each at a time, with a cache of keys
and values (nn/decode.py); where one is done the next begins. A sequence's logits have the same bits
in any company and every prompt draws from a generator of its own, so no reply depends on the
others."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from pysft.errors import DataError, UsageError

SLOTS = 24  # sequences that are written side by side


@dataclass(frozen=True)
class Sampling:
    """temperature 0: always the likeliest token; otherwise logits are divided by it. top_k keeps
    the k likeliest (0: all), top_p the smallest set whose probabilities reach p (1: all).
    repetition: above 1, what the reply holds already becomes less likely (Keskar et al. 2019,
    section 4.1). seed: the same one gives the same text."""

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
    """ids without the prompt and without the stop token; stop: "end", "length", or "tool" (a call
    that nothing answers). injected: which of the ids came from a tool and not from the model."""

    ids: np.ndarray
    stop: str
    injected: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))


class Event(NamedTuple):
    """One token of reply `number`: written by the model from `logits` (V,), valid until the next
    event, or injected (logits None). With `stop` the reply has ended: the token is the stop token,
    or None at its length."""

    number: int
    token: int | None
    logits: np.ndarray | None = None
    stop: str | None = None


def choose(logits: np.ndarray, sampling: Sampling, rng: np.random.Generator, said=()) -> int:
    """The next token from logits (V,); said: the ids of the reply so far."""
    if sampling.repetition > 1 and len(said):
        logits = logits.copy()
        seen = np.unique(said)
        logits[seen] = np.where(
            logits[seen] > 0, logits[seen] / sampling.repetition, logits[seen] * sampling.repetition
        )
    if sampling.temperature == 0:
        return int(logits.argmax())
    logits = logits.astype(np.float64)
    order = np.argsort(-logits, kind="stable")  # likeliest first
    with np.errstate(over="ignore"):  # a tiny temperature leaves only the likeliest
        p = np.exp((logits[order] - logits[order[0]]) / sampling.temperature)
    p /= p.sum()
    keep = len(p) if sampling.top_k == 0 else min(sampling.top_k, len(p))
    keep = min(keep, int(np.searchsorted(np.cumsum(p), sampling.top_p * (1 - 1e-12))) + 1)
    p = p[:keep] / p[:keep].sum()
    return int(order[rng.choice(keep, p=p)])


@dataclass
class _Live:
    """A sequence being read or written: ids still to read (last first), written ones, how many the
    model wrote itself."""

    number: int
    unread: list
    said: list
    rng: np.random.Generator
    own: int = 0


def write(
    model,
    prompts: list[np.ndarray],
    max_new: int,
    stop: int | None = None,
    sampling: Sampling = Sampling(),
    pause: Callable | None = None,
    decoder=None,
) -> Iterator[Event]:
    """The Events of all replies, as they come. A prompt is ids, at least one, at most the context;
    a reply ends at the stop token, after max_new tokens of the model's own, or where the context is
    full.

    pause(said, room): asked after each token with the reply so far (ids) and the tokens that the
    context still has room for; None lets the model go on, a list of ids is injected before it does,
    and False stops the reply ("tool").

    decoder: one of this model's, to be used again; what it has read is forgotten. Without one it is
    made, which takes as long as twenty tokens of the tiny preset."""
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
    live: dict[int, _Live] = {}
    free = list(reversed(range(len(decoder.lengths))))
    while waiting or live:
        while waiting and free:
            i, slot = waiting.pop(), free.pop()
            decoder.reset(slot)
            live[slot] = _Live(
                i, list(map(int, prompts[i][::-1])), [], np.random.default_rng([sampling.seed, i])
            )
        slots = sorted(live)
        logits = decoder.steps([live[slot].unread.pop() for slot in slots], slots)
        for row, slot in zip(logits, slots):
            one = live[slot]
            if one.unread:
                continue
            token = choose(row, sampling, one.rng, one.said)
            ended = "end" if token == stop else None
            if ended is None:
                one.said.append(token)
                one.unread.append(token)
                one.own += 1
                room = context - len(prompts[one.number]) - len(one.said)
                yield Event(one.number, token, row)
                more = pause(one.said, room) if pause is not None else None
                if more is False:
                    ended = "tool"
                elif more:
                    one.said += more
                    one.unread = [*reversed(more), *one.unread]
                    room -= len(more)
                    for injected in more:
                        yield Event(one.number, injected)
                if ended is None and (one.own == max_new or room <= 0):
                    ended = "length"
            if ended is not None:
                yield Event(
                    one.number,
                    token if ended == "end" else None,
                    row if ended == "end" else None,
                    ended,
                )
                del live[slot]
                free.append(slot)


def generate(
    model,
    prompts: list[np.ndarray],
    max_new: int,
    stop: int | None = None,
    sampling: Sampling = Sampling(),
    pause: Callable | None = None,
) -> list[Reply]:
    """A Reply for each prompt, as write() makes them."""
    ids, own, ends = [[] for _ in prompts], [[] for _ in prompts], [""] * len(prompts)
    for event in write(model, prompts, max_new, stop, sampling, pause):
        if event.stop is not None:
            ends[event.number] = event.stop
        else:
            ids[event.number].append(event.token)
            own[event.number].append(event.logits is not None)
    return [Reply(np.array(i, np.int32), e, ~np.array(o, bool)) for i, o, e in zip(ids, own, ends)]


def complete(model, tokenizer, prompt: str, max_new: int, sampling: Sampling) -> dict:
    """Continue a text, as `generate` prints it: the only thing a base model does."""
    ids = tokenizer.encode(prompt, "the prompt")
    if not len(ids):
        raise DataError("an empty prompt; give at least one character to continue")
    if len(ids) >= model.config.context:
        raise DataError(
            f"the prompt takes {len(ids)} tokens and leaves no room in a context of "
            f"{model.config.context}; shorten it"
        )
    began = time.monotonic()
    reply = generate(model, [ids], max_new, sampling=sampling)[0]
    return {
        "prompt": prompt,
        "reply": tokenizer.decode(reply.ids),
        "stop": reply.stop,
        "tokens": len(reply.ids),
        "tokens_per_s": len(reply.ids) / max(time.monotonic() - began, 1e-9),
    }
