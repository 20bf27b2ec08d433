"""Decoder: reads one token after the other, with the keys and values of earlier tokens in a cache
and a copy of the weights in the order in which they are read."""

import numpy as np

from pysft.errors import UsageError
from pysft.nn.arena import aligned
from pysft.nn.shapes import head_name, reading_order


class Decoder:
    """A model that reads token by token: up to `sequences` sequences, each in its own slot.

    step(token) reads one token in slot 0 and returns the logits (V,) of what follows it.
    steps(tokens, slots) reads one token in each of n slots and returns n such rows (n,V). With the
    kernels, the logits have the bits of a full forward over all tokens of the slot, whatever the
    other slots hold. One token of one sequence takes about 15 microseconds, on two cores and the
    seed preset's shape.

    lengths: for each slot, the number of tokens read so far, at most the model's context. It is a
    plain list, because NumPy is slower for one number at a time.

    The weights are copied when the decoder is made, so later training does not change it. The copy
    takes as much memory as the weights, and the cache two vectors of C channels for each position,
    block and slot."""

    def __init__(self, model, sequences: int = 1):
        config, ops, dtype = model.config, model.ops, model.dtype
        V, T, L = config.vocab, config.context, config.layers

        def sizes(w):
            return ops.decode_sizes(w.shape[1], len(w), V, T, L, dtype)

        self.model, self.lengths = model, [0] * sequences
        _, weights, cache, work = sizes(model.params["wte"])
        self._weights = aligned(weights, dtype)
        self._cache = aligned(sequences * cache, dtype).reshape(sequences, cache)
        self._work = aligned(sequences * work, dtype).reshape(sequences, work)
        self._logits = np.zeros((sequences, V), dtype)
        self._tokens = np.zeros(sequences, np.int32)
        self._positions = np.zeros(sequences, np.int32)
        self._slots = np.zeros(sequences, np.int32)
        used = 0
        for name in reading_order(config):
            w = model.params[head_name(config) if name == "head" else name]
            is_packed = w.ndim == 2 and name not in ("wte", "wpe")  # the matrix of a product
            part = self._weights[used : used + (sizes(w)[0] if is_packed else w.size)]
            if is_packed:
                ops.decode_pack(part, w)
            else:
                part[:] = w.ravel()
            used += len(part)
        self._run = self._runner(ops, (T, config.heads, L))

    def _runner(self, ops, shape):
        """Return a function of n that calls decode_forward for the first n rows of the arrays."""
        logits, cache, work, weights = self._logits, self._cache, self._work, self._weights
        index = self._tokens, self._positions, self._slots
        if hasattr(ops, "decoder"):  # it checks the arrays once, and not at each step
            return ops.decoder(logits, cache, work, weights, *index, *shape)
        return lambda n: ops.decode_forward(
            logits[:n], cache, work[:n], weights, *(a[:n] for a in index), *shape
        )

    @property
    def length(self) -> int:
        """The number of tokens read in slot 0."""
        return self.lengths[0]

    def reset(self, slot: int = 0, length: int = 0) -> None:
        """Forget all tokens of a slot after the first `length`, which is at most the number read;
        else a UsageError."""
        if not 0 <= length <= self.lengths[slot]:
            raise UsageError(
                f"reset: slot {slot} has read {self.lengths[slot]} tokens, so keep 0 to"
                f" {self.lengths[slot]} of them, not {length}"
            )
        self.lengths[slot] = length

    def step(self, token: int) -> np.ndarray:
        """Read one more token in slot 0. Return its logits (V,), valid until the next step."""
        return self.steps((token,), (0,))[0]

    def steps(self, tokens, slots) -> np.ndarray:
        """Read one more token in each of n slots, whose numbers rise. Return their logits (n,V),
        valid until the next step.

        A UsageError if a slot's context is full. The kernels raise a GateError if a token is not in
        the vocabulary. After either error no slot has read anything."""
        n, context = len(tokens), self.model.config.context
        for i, slot in enumerate(slots):
            position = self.lengths[slot]
            if position == context:
                raise UsageError(f"the context of {context} positions is full; reset() makes room")
            # Clip a number that int32 cannot hold to one that no vocabulary has either.
            self._tokens[i] = min(max(-1, tokens[i]), 2**31 - 1)
            self._positions[i], self._slots[i] = position, slot
        self._run(n)
        for slot in slots:
            self.lengths[slot] += 1
        return self._logits[:n]
