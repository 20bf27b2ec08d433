"""Write replies from a model: for one prompt or many, greedy or sampled, until a stop token. The
engine (engine.py) writes them side by side."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from pysft.errors import DataError
from pysft.inference.engine import SLOTS, Engine, Event, Sequence
from pysft.inference.repetition import repeated_words
from pysft.inference.sampling import GREEDY, Sampling
from pysft.text.characters import typed


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
    """Yield the Events of all replies, as they are written. The number of an event is the index of
    its prompt.

    prompts: ids; each prompt has at least one, and at most as many as the context. Any other length
        raises a DataError. The other arguments are those of Engine and Engine.add()."""
    if not prompts:
        return
    engine, _ = _begun(model, prompts, decoder, max_new, stop, sampling, inject, again)
    while len(engine):
        yield from engine.step()


def _begun(model, prompts, decoder, *more) -> tuple[Engine, list[Sequence]]:
    """Return an engine with a sequence for each prompt, and these sequences. more: as add() takes
    it."""
    engine = Engine(model, min(SLOTS, len(prompts)), decoder)
    return engine, [engine.add(i, prompt, *more) for i, prompt in enumerate(prompts)]


def generate(
    model,
    prompts: list[np.ndarray],
    max_new: int,
    stop: int | None = None,
    sampling: Sampling = GREEDY,
    inject: Callable | None = None,
    again: Callable | None = None,
    decoder=None,
) -> list[Reply]:
    """Return the Reply to each prompt. The arguments are those of stream()."""
    if not prompts:
        return []
    engine, begun = _begun(model, prompts, decoder, max_new, stop, sampling, inject, again)
    engine.run()
    return [
        Reply(np.array(s.written, np.int32), s.ended, np.array(s.injected, bool)) for s in begun
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
