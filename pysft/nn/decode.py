"""One token after the other: a copy of a model's weights laid out for it, and the cache of what
earlier tokens left for later ones."""

import numpy as np

from pysft.errors import UsageError
from pysft.nn.arena import aligned


class Decoder:
    """A model that is read token by token: one sequence, or up to `sequences` of them, each in a
    slot of its own.

    step(token) gives the logits (V,) for what follows it in slot 0; steps(tokens, slots) those
    (n,V) of one more token in each of n slots. They have the bits of a full forward over all tokens
    that the slot holds, whatever goes on in other slots. On two cores and the seed preset's shape a
    token takes about 15 microseconds alone. lengths: of each slot, tokens read so far, at most the
    model's context. The weights are copied when it is made: later training does not show. It holds
    as much memory as the weights once more, and two vectors of channels a position, block and slot.
    """

    def __init__(self, model, sequences: int = 1):
        c, self.model, ops = model.config, model, model.ops

        def sizes(w):
            return ops.decode_sizes(w.shape[1], len(w), c.vocab, c.context, c.layers, model.dtype)

        p = model.params
        _, weights, cache, work = sizes(p["wte"])
        self._weights, used = aligned(weights, model.dtype), 0
        self._cache, self._work = (
            aligned(sequences * n, model.dtype).reshape(sequences, n) for n in (cache, work)
        )
        self._logits = np.zeros((sequences, c.vocab), model.dtype)
        self._tokens, self._positions, self._slots = (
            np.zeros(sequences, np.int32) for _ in range(3)
        )
        names = ["wte", "wpe"]
        for i in range(c.layers):
            names += [
                f"h{i}.{name}"
                for name in (
                    "ln1.w",
                    "ln1.b",
                    "qkv.w",
                    "qkv.b",
                    "attproj.w",
                    "attproj.b",
                    "ln2.w",
                    "ln2.b",
                    "fc.w",
                    "fc.b",
                    "fcproj.w",
                    "fcproj.b",
                )
            ]
        for name in [*names, "lnf.w", "lnf.b", "head"]:
            w = p["wte" if name == "head" and c.tied else name]
            packed = w.ndim == 2 and (name == "head" or name not in ("wte", "wpe"))
            here = self._weights[used : used + (sizes(w)[0] if packed else w.size)]
            if packed:
                ops.decode_pack(here, w)
            else:
                here[:] = w.ravel()
            used += len(here)
        arrays = (
            self._logits,
            self._cache,
            self._work,
            self._weights,
            self._tokens,
            self._positions,
            self._slots,
        )
        rest = c.context, c.heads, c.layers
        if hasattr(ops, "decoder"):
            self._run = ops.decoder(*arrays, *rest)
        else:
            self._run = lambda n: ops.decode_forward(
                arrays[0][:n],
                *arrays[1:2],
                arrays[2][:n],
                arrays[3],
                *(a[:n] for a in arrays[4:]),
                *rest,
            )
        self.lengths = [
            0
        ] * sequences  # a list: one number at a time is read and written, where NumPy is slow

    @property
    def length(self) -> int:
        """Tokens read in slot 0."""
        return self.lengths[0]

    def reset(self, slot: int = 0, length: int = 0) -> None:
        """Forget the sequence of a slot, or what of it comes after its first `length` tokens."""
        if not 0 <= length <= self.lengths[slot]:
            raise UsageError(
                f"reset: slot {slot} has read {self.lengths[slot]} tokens; keep 0 to so many, not"
                f" {length}"
            )
        self.lengths[slot] = length

    def step(self, token: int) -> np.ndarray:
        """Read one more token in slot 0: logits (V,) of the next, valid until the next step."""
        return self.steps((token,), (0,))[0]

    def steps(self, tokens, slots) -> np.ndarray:
        """Read one more token in each of n slots, which rise: logits (n,V) of what follows, valid
        until the next step."""
        n, context = len(tokens), self.model.config.context
        for i, slot in enumerate(slots):
            position = self.lengths[slot]
            if position == context:
                raise UsageError(f"the context of {context} positions is full; reset() makes room")
            self._tokens[i], self._positions[i], self._slots[i] = (
                min(max(-1, tokens[i]), 2**31 - 1),
                position,
                slot,
            )
        self._run(n)
        for slot in slots:
            self.lengths[slot] += 1
        return self._logits[:n]
