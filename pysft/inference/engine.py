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

from pysft.errors import DataError, UsageError
from pysft.inference.sampling import GREEDY, Sampling

SLOTS = 64  # sequences that run at the same time


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

    written: the ids after the prompt so far. injected: for each of them, whether inject put it in.
    ended: why it ended, as in an Event; None while it waits or runs, or if it was cancelled. kept:
    the logits (V,) that each token of the model was chosen from, the stop token included, if the
    engine keeps them. The other fields are the arguments of Engine.add()."""

    number: int
    prompt: np.ndarray
    remaining: int  # tokens that the model may still choose; injected ones do not count
    room: int  # tokens that still fit into the context
    stop: int | None
    sampling: Sampling
    key: np.ndarray  # of its random numbers
    inject: Callable | None
    again: Callable | None
    written: list[int] = field(default_factory=list)
    injected: list[bool] = field(default_factory=list)
    unread: deque[int] = field(default_factory=deque)  # ids that the model has still to read
    ended: str | None = None
    kept: list[np.ndarray] = field(default_factory=list)


class Engine:
    """Writes sequences. add() takes one, at any time; step() writes the next token of each that
    runs; cancel() ends one.

    model: its weights must stay as they are while there are sequences. slots: how many run at the
    same time; the others wait. decoder: one of this model, to use again (making it takes as long as
    writing twenty tokens with the tiny preset); its slots count then. keeps: True keeps the logits
    of every token in its sequence, which takes as many numbers as the vocabulary has symbols."""

    def __init__(self, model, slots: int = SLOTS, decoder=None, keeps: bool = False):
        self.context, self.vocab = model.config.context, model.config.vocab
        self._decoder = decoder or model.decoder(slots)
        self._waiting: deque[Sequence] = deque()
        self._active: dict[int, Sequence] = {}  # by slot
        self._free = list(reversed(range(len(self._decoder.lengths))))
        self._keeps = keeps
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

        number: names the sequence in events, and its random numbers; 0 or more. prompt: at least
        one id and at most as many as the context, all in the vocabulary, else a DataError. The
        sequence ends at the id `stop`, after max_new tokens that the model chose, or when the
        context is full.
        inject(written, room): called after each token that the model chose, with the ids so far and
            the number of tokens that still fit into the context. It returns None to let the model
            go on, a list of at most `room` ids to put in first, or False to end the sequence
            ("tool"). It may cancel sequences. If it raises an error, its sequence is cancelled.
        again(written): the ids that would repeat a word, for sampling.repetition. Without it
            nothing is penalised."""
        if not 0 < len(prompt) <= self.context:
            raise DataError(
                f"prompt {number}: {len(prompt)} tokens, the context holds 1 to {self.context}"
            )
        if not 0 <= min(prompt) <= max(prompt) < self.vocab:
            bad = next(i for i in prompt if not 0 <= i < self.vocab)
            raise DataError(f"prompt {number}: token {bad} is not in 0..{self.vocab - 1}")
        room = self.context - len(prompt)
        again = again if sampling.repetition > 1 else None
        key = sampling.key(number)
        made = Sequence(number, prompt, max_new, room, stop, sampling, key, inject, again)
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
        self._step(events)
        return events

    def run(self) -> None:
        """Write all sequences to their ends. What was written, and why it ended, stands in each."""
        while len(self):
            self._step(None)

    # --------------------------------------------------------------------------- one step, in parts

    def _step(self, events: list[Event] | None) -> None:
        """Do one step. Events are added to the list if there is one: to make them takes a third of
        the time that this file takes."""
        before = dict(self._active)
        self._begin(events)
        # Those that ran before, unless the inject of a new one has cancelled them.
        running = sorted(slot for slot, s in before.items() if self._active.get(slot) is s)
        if running:
            unread = [self._active[slot].unread for slot in running]
            logits = self._decoder.steps([ids.popleft() for ids in unread], running)
            self._write(running, logits, events)

    def _begin(self, events: list[Event] | None) -> None:
        """Read the prompts that wait, as many as there are slots, and write their first tokens.
        Logits of events must stay as they are, so those of the first tokens are copied."""
        while self._waiting:
            slots = []
            while self._waiting and (self._free or self._ends_at_once(self._waiting[0])):
                sequence = self._waiting.popleft()
                if self._ends_at_once(sequence):
                    sequence.ended = "length"
                    if events is not None:
                        events.append(Event(sequence.number, None, None, "length"))
                else:
                    slots.append(self._free.pop())
                    self._active[slots[-1]] = sequence
            if not slots:
                return
            slots.sort()
            prompts = [self._active[slot].prompt for slot in slots]
            self._write(slots, self._decoder.read(prompts, slots).copy(), events)

    def _ends_at_once(self, sequence: Sequence) -> bool:
        return sequence.remaining <= 0 or sequence.room <= 0

    def _write(self, slots: list[int], logits: np.ndarray, events: list[Event] | None) -> None:
        """Choose a token for each slot whose ids are all read, from its row of logits."""
        running = [self._active[slot] for slot in slots]
        failure = None
        for i, (slot, sequence, token) in enumerate(zip(slots, running, self._choose(slots))):
            if sequence.unread or self._active.get(slot) is not sequence:
                continue  # it has more to read, or another sequence's inject cancelled it
            if self._keeps:
                sequence.kept.append(logits[i].copy())
            ended, more = None, None
            if token == sequence.stop:
                ended = "end"
            else:
                sequence.written.append(token)
                sequence.injected.append(False)
                sequence.unread.append(token)
                sequence.room -= 1
                sequence.remaining -= 1
                if sequence.inject is not None:
                    try:
                        more = sequence.inject(sequence.written, sequence.room)
                        self._inject(sequence, more or [])
                    except Exception as error:  # the other sequences take their tokens first
                        failure, more = failure or error, None
                        self.cancel(sequence)
                if more is False:
                    ended = "tool"
                elif sequence.remaining == 0 or sequence.room <= 0:
                    ended = "length"
            if self._active.get(slot) is not sequence:
                continue  # cancelled by its own inject
            if events is not None:
                number, row = sequence.number, logits[i]
                events.append(Event(number, token, row, ended if ended == "end" else None))
                events.extend(Event(number, injected) for injected in more or [])
                if ended in ("tool", "length"):
                    events.append(Event(number, None, None, ended))
            if ended is not None:
                sequence.ended = ended
                self._end(slot)
        if failure is not None:
            raise failure

    def _inject(self, sequence: Sequence, ids: list[int]) -> None:
        """Add ids to a text that its model did not choose, for the model to read next. A UsageError
        if they do not fit into the context."""
        if len(ids) > sequence.room:
            raise UsageError(f"inject gave {len(ids)} ids, but only {sequence.room} still fit")
        sequence.written += ids
        sequence.injected += [True] * len(ids)
        sequence.unread.extend(ids)
        sequence.room -= len(ids)

    def _choose(self, slots: list[int]) -> list[int]:
        """Return a token for each of the slots, from the decoder's rows of logits."""
        decoder, active = self._decoder, self._active
        if slots != self._rows:
            some = [active[slot] for slot in slots]
            n, self._rows = len(some), list(slots)
            decoder.rules[:n] = [s.sampling.rules() for s in some]
            decoder.top_k[:n] = [s.sampling.most() for s in some]
            decoder.keys[:n] = [s.key for s in some]
        repeats = [
            s.again(s.written) if s.again is not None and not s.unread else ()
            for s in map(active.__getitem__, slots)
        ]
        return decoder.choose(slots, repeats)

    def _end(self, slot: int) -> None:
        del self._active[slot]
        self._free.append(slot)
        self._rows = None
