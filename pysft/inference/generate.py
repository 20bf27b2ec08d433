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


def generate(model, prompts: list[np.ndarray], max_new: int, stop: int | None = None,
             sampling: Sampling = Sampling()) -> list[Reply]:
    """A Reply for each prompt (ids, at least one, at most the context): at most max_new tokens or the
    room left. They are answered one after the other with a cache of keys and values (nn/decode.py); prompt i
    draws from its own generator, so its reply does not depend on the others."""
    context = model.config.context
    for i, prompt in enumerate(prompts):
        if not 0 < len(prompt) <= context:
            raise DataError(f"prompt {i}: {len(prompt)} tokens, the context holds 1 to {context}")
    decoder = model.decoder() if len(prompts) else None
    return [_reply(decoder, prompt, min(max_new, context - len(prompt)), stop, sampling,
                   np.random.default_rng([sampling.seed, i])) for i, prompt in enumerate(prompts)]


def _reply(decoder, prompt, most, stop, sampling, rng) -> Reply:
    ids = []
    if most > 0:
        decoder.reset()
        for token in prompt:
            logits = decoder.step(token)
        while (token := choose(logits, sampling, rng)) != stop:
            ids.append(token)
            if len(ids) == most:
                break
            logits = decoder.step(token)
        else:
            return Reply(np.array(ids, np.int32), "end")
    return Reply(np.array(ids, np.int32), "length")


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
