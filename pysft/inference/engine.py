"""Sequences that are written side by side, one token of each at a time. They come and go while
others run.

A sequence's tokens depend on its own text, its sampling and its number alone: its logits have the
same bits whatever runs beside it, and each draw has a random number of its own, made of the seed,
the number of the sequence and the position of the token (nn/kernels.sample)."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from pysft.errors import DataError
from pysft.inference.sampling import GREEDY, Sampling

SLOTS = 64  # sequences that run at the same time
PROMPT_ROWS = 2048  # rows of prompts that are read by one forward, unless one prompt is longer


class Event(NamedTuple):
    """One token of a sequence, or its end.

    number: that of the sequence.
    token: the new token; with a stop it is the stop token, or None if the sequence ended without
        one.
    logits (V,): those that the token was chosen from, valid until the next step. None if the token
        was injected, or if there is no token.
    stop: None, or why the sequence ended here: "end" (the stop token), "length" (max_new tokens, or
        a full context) or "tool" (inject ended it)."""

    number: int
    token: int | None
    logits: np.ndarray | None = None
    stop: str | None = None


@dataclass(eq=False)
class Sequence:
    """A prompt that waits, or the text that is written after it.

    written: the ids after the prompt so far. The other fields are the arguments of Engine.add()."""

    number: int
    prompt: np.ndarray
    remaining: int  # tokens that the model may still choose; injected ones do not count
    room: int  # tokens that still fit into the context
    stop: int | None
    sampling: Sampling
    inject: Callable | None
    again: Callable | None
    written: list[int] = field(default_factory=list)
    unread: deque[int] = field(default_factory=deque)  # ids that the model has still to read

    def append(self, ids: list[int]) -> None:
        """Add ids to the text, for the model to read next."""
        self.written += ids
        self.unread.extend(ids)
        self.room -= len(ids)


class Engine:
    """Writes sequences. add() takes one, at any time; step() writes the next token of each that
    runs; cancel() ends one.

    model: its weights must stay as they are while there are sequences. slots: how many run at the
    same time; the others wait. decoder: one of this model, to use again (making it takes as long as
    writing twenty tokens with the tiny preset); its slots count then."""

    def __init__(self, model, slots: int = SLOTS, decoder=None):
        self.context = model.config.context
        self._decoder = decoder or model.decoder(slots)
        self._waiting: deque[Sequence] = deque()
        self._active: dict[int, Sequence] = {}  # by slot
        self._free = list(reversed(range(len(self._decoder.lengths))))
        self._rows = None  # the slots whose rules stand in the decoder's arrays, row by row

    def add(
        self,
        number: int,
        prompt: np.ndarray,
        max_new: int,
        stop: int | None = None,
        sampling: Sampling = GREEDY,
        inject: Callable | None = None,
        again: Callable | None = None,
    ) -> Sequence:
        """Add a sequence, and return it. Its first token comes with the next step that has a free
        slot for it.

        number: names the sequence in events, and its random numbers. prompt: at least one id and at
        most as many as the context, else a DataError. The sequence ends at the id `stop`, after
        max_new tokens that the model chose, or when the context is full.
        inject(written, room): called after each token that the model chose, with the ids so far and
            the number of tokens that still fit into the context. It returns None to let the model
            go on, a list of ids to put in first, or False to end the sequence ("tool").
        again(written): the ids that would repeat a word, for sampling.repetition. Without it
            nothing is penalised."""
        if not 0 < len(prompt) <= self.context:
            raise DataError(
                f"prompt {number}: {len(prompt)} tokens, the context holds 1 to {self.context}"
            )
        room = self.context - len(prompt)
        again = again if sampling.repetition > 1 else None
        made = Sequence(number, prompt, max_new, room, stop, sampling, inject, again)
        self._waiting.append(made)
        return made

    def cancel(self, sequence: Sequence) -> None:
        """End a sequence that waits or runs, without an event. One that has ended stays as it
        is."""
        if sequence in self._waiting:
            self._waiting.remove(sequence)
        for slot, running in self._active.items():
            if running is sequence:
                self._end(slot)
                break

    def __len__(self) -> int:
        """The number of sequences that have not ended."""
        return len(self._waiting) + len(self._active)

    def step(self) -> list[Event]:
        """Read the prompts for which there are slots, and write the next token of each sequence
        that runs. Return the events, which are valid until the next step."""
        events = []
        running = sorted(self._active)
        self._begin(events)
        if running:
            unread = [self._active[slot].unread for slot in running]
            logits = self._decoder.steps([ids.popleft() for ids in unread], running)
            self._write(running, logits, events)
        return events

    # --------------------------------------------------------------------------- one step, in parts

    def _begin(self, events: list[Event]) -> None:
        """Read the prompts that wait, as many as there are slots, and write their first tokens.
        Logits of events must stay as they are, so those of the first tokens are copied."""
        while self._waiting and (self._free or self._ends_at_once(self._waiting[0])):
            slots, rows = [], 0
            while self._waiting and (self._free or self._ends_at_once(self._waiting[0])):
                sequence = self._waiting[0]
                if self._ends_at_once(sequence):
                    events.append(Event(sequence.number, None, None, "length"))
                    self._waiting.popleft()
                    continue
                rows += len(sequence.prompt)
                if slots and rows > PROMPT_ROWS:
                    break
                slots.append(self._free.pop())
                self._active[slots[-1]] = self._waiting.popleft()
            if slots:
                slots.sort()
                prompts = [self._active[slot].prompt for slot in slots]
                self._write(slots, self._decoder.read(prompts, slots).copy(), events)

    def _ends_at_once(self, sequence: Sequence) -> bool:
        return sequence.remaining <= 0 or sequence.room <= 0

    def _write(self, slots: list[int], logits: np.ndarray, events: list[Event]) -> None:
        """Choose a token for each slot whose ids are all read, from its row of logits."""
        chosen = self._choose(slots)
        for row, slot, token in zip(logits, slots, chosen):
            sequence = self._active[slot]
            if sequence.unread:
                continue
            number = sequence.number
            if token == sequence.stop:
                events.append(Event(number, token, row, "end"))
                self._end(slot)
                continue
            sequence.append((token,))
            sequence.remaining -= 1
            events.append(Event(number, token, row))
            more = None
            if sequence.inject is not None:
                more = sequence.inject(sequence.written, sequence.room)
                if more:
                    sequence.append(more)
                    events.extend(Event(number, injected) for injected in more)
            if more is False or sequence.remaining == 0 or sequence.room <= 0:
                stop = "tool" if more is False else "length"
                events.append(Event(number, None, None, stop))
                self._end(slot)

    def _choose(self, slots: list[int]) -> list[int]:
        """Return a token for each of the slots, from the decoder's rows of logits."""
        decoder, active = self._decoder, self._active
        if slots != self._rows:
            some = [active[slot] for slot in slots]
            n, self._rows = len(some), list(slots)
            decoder.rules[:n] = [s.sampling.rules() for s in some]
            decoder.top_k[:n] = [s.sampling.most() for s in some]
            decoder.keys[:n] = [s.sampling.key(s.number) for s in some]
        repeats = [
            s.again(s.written) if s.again is not None and not s.unread else ()
            for s in map(active.__getitem__, slots)
        ]
        return decoder.choose(slots, repeats if any(map(len, repeats)) else None)

    def _end(self, slot: int) -> None:
        del self._active[slot]
        self._free.append(slot)
        self._rows = None
