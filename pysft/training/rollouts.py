"""Replies that a policy writes to learn from them, as examples.

They are drawn at temperature 1 without cuts, so each has the probability that the policy gives it.
The log-probabilities are those that it was drawn by. Decoding gives the bits of a full forward
(nn/decode.py), so the forward that trains on a reply gives the same numbers, and every ratio is
exactly 1 before the first update. objectives.Ppo counts the rows where it is not."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pysft.batch import Example
from pysft.inference.engine import SLOTS, Engine, Sequence
from pysft.inference.sampling import Sampling
from pysft.text.examples import reply_example

PART = 1024  # rows whose distributions are compared at a time


@dataclass(frozen=True)
class Rollout:
    """A reply to a prompt.

    example: the prompt and the reply with its end, if it came to one. The tokens that the model
    chose are graded; injected ones are not. ids (n,): the reply without its end. injected (n,):
    True for those that a tool gave. stop: why it ended, as in an engine's Event. logits (T,V):
    those that the T graded tokens were chosen from."""

    example: Example
    ids: np.ndarray
    injected: np.ndarray
    stop: str
    logits: np.ndarray


def roll_out(
    model,
    prompts: list[np.ndarray],
    each: int,
    tokens: int,
    end: int,
    seed: int,
    inject: Callable | None = None,
) -> list[Rollout]:
    """Write `each` replies to each prompt, those of a prompt one after the other.

    prompts: ids, which leave room for a token and the end in the context. tokens: the most that a
    reply may take. end: the token that ends a reply. inject: as Engine.add() takes it. Reply i
    depends on the seed, i, the prompt and the weights alone."""
    slots = min(SLOTS, each * len(prompts))
    engine, context = Engine(model, slots, keeps=True), model.config.context
    begun = []
    for i, ids in enumerate(prompts):
        room = min(tokens, context - 1 - len(ids))  # a reward model reads the end too
        for j in range(each):
            sampling, number = Sampling(1.0, seed=seed), i * each + j
            begun.append(engine.add(number, ids, room, end, sampling, inject))
    engine.run()
    return [_rollout(s, end) for s in begun]


def _rollout(s: Sequence, end: int) -> Rollout:
    written, injected = np.array(s.written, np.int32), np.array(s.injected, bool)
    ids = np.append(written, [end] * (s.ended == "end"))
    example = reply_example(s.prompt, ids, f"reply {s.number}", injected)
    return Rollout(example, written, injected, s.ended, np.stack(s.kept))


def nll_of(ops, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The nll (R,) of labels (R,) by logits (R,V), with the bits that a forward gives them."""
    nll, lse = np.empty((2, len(labels)), logits.dtype)
    ops.cross_entropy_forward(nll, lse, logits, np.ascontiguousarray(labels))
    return nll


def divergence(logits: np.ndarray, reference: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """(KL (R,) of each distribution from its reference, its entropy (R,)), in nats and exact over
    the vocabulary. logits, reference (R,V); without a reference the KL is 0."""
    kl, entropy = np.zeros((2, len(logits)))
    for a in range(0, len(logits), PART):
        part = slice(a, a + PART)
        p = log_softmax(logits[part])
        entropy[part] = -(np.exp(p) * p).sum(1)
        if reference is not None:
            kl[part] = (np.exp(p) * (p - log_softmax(reference[part]))).sum(1)
    return kl, entropy


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """ln softmax over the last axis, in float64."""
    x = logits.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
