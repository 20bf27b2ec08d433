"""One token after the other: a copy of a model's weights laid out for it, and the cache of what earlier
tokens left for later ones."""

import numpy as np

from pysft.errors import UsageError
from pysft.nn.arena import aligned


class Decoder:
    """A model that is read token by token, one sequence at a time.

    step(token) gives the logits (V,) for what follows it, with the bits of a full forward over all tokens
    since reset(): on two cores and the seed preset's shape in about 15 microseconds. length: tokens read so
    far, at most the model's context. The weights are copied when it is made: later training does not show.
    It holds as much memory as the weights once more, and two vectors of channels a position and block."""

    def __init__(self, model):
        c, self.model, ops = model.config, model, model.ops
        shape = c.context, c.channels, c.heads, c.layers

        def size(w):
            return ops.decode_sizes(w.shape[1], len(w), c.vocab, c.context, c.layers, model.dtype)

        p = model.params
        _, weights, cache = size(p["wte"])
        self._weights, self._cache = aligned(weights, model.dtype), aligned(cache, model.dtype)
        self._logits, used = np.zeros(c.vocab, model.dtype), 0
        names = ["wte", "wpe"]
        for i in range(c.layers):
            names += [f"h{i}.{name}" for name in ("ln1.w", "ln1.b", "qkv.w", "qkv.b", "attproj.w", "attproj.b", "ln2.w",
                                                  "ln2.b", "fc.w", "fc.b", "fcproj.w", "fcproj.b")]
        for name in [*names, "lnf.w", "lnf.b", "head"]:
            w = p["wte" if name == "head" and c.tied else name]
            packed = w.ndim == 2 and (name == "head" or name not in ("wte", "wpe"))
            here = self._weights[used:used + (size(w)[0] if packed else w.size)]
            if packed:
                ops.decode_pack(here, w)
            else:
                here[:] = w.ravel()
            used += len(here)
        if hasattr(ops, "decoder"):
            self._step = ops.decoder(self._logits, self._cache, self._weights, *shape)
        else:
            self._step = lambda token, position: ops.decode_forward(self._logits, self._cache, self._weights, token,
                                                                    position, *shape)
        self.length = 0

    def reset(self) -> None:
        """Forget the sequence."""
        self.length = 0

    def step(self, token: int) -> np.ndarray:
        """Read one more token: logits (V,) of the next, valid until the next step."""
        if self.length == self.model.config.context:
            raise UsageError(f"the context of {self.length} positions is full; reset() begins a new sequence")
        self._step(int(token), self.length)
        self.length += 1
        return self._logits
