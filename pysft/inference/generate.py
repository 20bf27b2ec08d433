"""From logits to text: greedy or sampled, one or many prompts, until the stop token."""

import time
from dataclasses import dataclass

import numpy as np

from pysft.errors import DataError, UsageError


@dataclass(frozen=True)
class Sampling:
    """temperature 0: always the likeliest token; otherwise logits are divided by it. top_k keeps
    the k likeliest (0: all), top_p the smallest set whose probabilities reach p (1: all). seed: the
    same one gives the same text."""
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self):
        if not self.temperature >= 0:
            raise UsageError(f"temperature = {self.temperature} must be 0 (greedy) or more")
        if self.top_k < 0:
            raise UsageError(f"top-k = {self.top_k} must be 0 (all) or more")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top-p = {self.top_p} must be above 0 and at most 1")


@dataclass(frozen=True)
class Reply:
    """ids without the prompt and without the stop token; stop: "end" or "length"."""
    ids: np.ndarray
    stop: str


def choose(logits: np.ndarray, sampling: Sampling, rng: np.random.Generator) -> int:
    """The next token from logits (V,)."""
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


SLOTS = 24  # sequences that are written side by side


def generate(model, prompts: list[np.ndarray], max_new: int, stop: int | None = None,
             sampling: Sampling = Sampling()) -> list[Reply]:
    """A Reply for each prompt (ids, at least one, at most the context): at most max_new tokens or the
    room left. Up to SLOTS are read and written side by side, a token of each at a time, with a cache of keys and values
    (nn/decode.py); where one is done the next begins. Prompt i draws from its own generator, and a sequence's logits have
    the same bits in any company, so its reply does not depend on the others."""
    context = model.config.context
    for i, prompt in enumerate(prompts):
        if not 0 < len(prompt) <= context:
            raise DataError(f"prompt {i}: {len(prompt)} tokens, the context holds 1 to {context}")
    replies: list = [None] * len(prompts)
    waiting = [i for i in reversed(range(len(prompts))) if max_new > 0 and len(prompts[i]) < context]
    if not waiting:
        return [_reply([], "length") for _ in prompts]
    decoder = model.decoder(min(SLOTS, len(waiting)))
    live: dict[int, list] = {}  # slot: [number, ids still to read, ids written, generator]
    free = list(reversed(range(len(decoder.lengths))))
    while waiting or live:
        while waiting and free:
            i, slot = waiting.pop(), free.pop()
            decoder.reset(slot)
            live[slot] = [i, list(map(int, prompts[i][::-1])), [], np.random.default_rng([sampling.seed, i])]
        slots = sorted(live)
        logits = decoder.steps([live[slot][1].pop() for slot in slots], slots)
        for row, slot in zip(logits, slots):
            i, unread, ids, rng = live[slot]
            if unread:
                continue
            token = choose(row, sampling, rng)
            if token != stop:
                ids.append(token)
                unread.append(token)
            if token == stop or len(ids) == min(max_new, context - len(prompts[i])):
                replies[i] = _reply(ids, "end" if token == stop else "length")
                del live[slot]
                free.append(slot)
    return [_reply([], "length") if reply is None else reply for reply in replies]


def _reply(ids, stop) -> Reply:
    return Reply(np.array(ids, np.int32), stop)


def complete(model, tokenizer, prompt: str, max_new: int, sampling: Sampling) -> dict:
    """Continue a text, as `generate` prints it: the only thing a base model does."""
    ids = tokenizer.encode(prompt, "the prompt")
    if not len(ids):
        raise DataError("an empty prompt; give at least one character to continue")
    if len(ids) >= model.config.context:
        raise DataError(f"the prompt takes {len(ids)} tokens and leaves no room in a context of "
                        f"{model.config.context}; shorten it")
    began = time.monotonic()
    reply = generate(model, [ids], max_new, sampling=sampling)[0]
    return {"prompt": prompt, "reply": tokenizer.decode(reply.ids), "stop": reply.stop, "tokens": len(reply.ids),
            "tokens_per_s": len(reply.ids) / max(time.monotonic() - began, 1e-9)}
