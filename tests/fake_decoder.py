"""A model that is its own decoder, for tests of what is built on decoders."""

import numpy as np

from pysft.nn import reference


class FakeDecoder:
    """What a decoder (nn/decode.py) does, built on reset(slot) and next_row(token, slot), which a
    subclass has: the logits (V,) of what follows one more token."""

    def decoder(self, sequences=1):
        self.lengths = [0] * sequences
        self.rules, self.keys = np.zeros((sequences, 3)), np.zeros((sequences, 4), np.int32)
        self.top_k = np.zeros(sequences, np.int32)
        for slot in range(sequences):
            self.reset(slot)
        return self

    def steps(self, tokens, slots):
        assert list(slots) == sorted(set(slots))
        rows = [self.next_row(int(token), slot) for token, slot in zip(tokens, slots)]
        self._logits = np.array(rows, np.float32)
        return self._logits

    def read(self, prompts, slots):
        last = []
        for ids, slot in zip(prompts, slots):
            self.reset(slot)
            last += [self.next_row(int(token), slot) for token in ids][-1:]
        self._logits = np.array(last, np.float32)
        return self._logits

    def _counters(self, slots):
        """The number of each slot's draw: how often it was asked for a token."""
        self.drawn = getattr(self, "drawn", {})
        for slot in slots:
            self.drawn[slot] = self.drawn.get(slot, -1) + 1
        return np.array([self.drawn[slot] for slot in slots], np.int32)

    def choose(self, slots, repeats=None):
        n, again, offsets = len(slots), None, None
        if repeats is not None:
            again = np.array([i for ids in repeats for i in ids], np.int32)
            offsets = np.cumsum([0, *map(len, repeats)])
        chosen = np.zeros(n, np.int32)
        rules = self.rules[:n], self.top_k, self.keys, self._counters(slots), again, offsets
        reference.sample(chosen, None, None, self._logits, *rules)
        return chosen.tolist()
