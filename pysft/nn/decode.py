"""Decoder: reads one token after the other, with the keys and values of earlier tokens in a cache
and a copy of the weights in the order in which they are read."""

import numpy as np

from pysft.errors import Diverged, UsageError
from pysft.nn.arena import aligned
from pysft.nn.shapes import head_name, reading_order

# The rows of prompts that are read at a time have so many elements of the residual stream, unless
# one prompt is longer: 2,048 rows of 64 channels, 170 of 768. Their activations need memory.
PROMPT_ELEMENTS = 1 << 17


class Decoder:
    """A model that reads token by token: up to `sequences` sequences, each in its own slot.

    step(token) reads one token in slot 0 and returns the logits (V,) of what follows it.
    steps(tokens, slots) reads one token in each of n slots and returns n such rows (n,V).
    read(prompts, slots) reads a whole prompt in each of n empty slots. choose(slots) draws a token
    from each row that was returned last. With the kernels, the logits have the bits of a full
    forward over all tokens of the slot, whatever the other slots hold. One token of one sequence
    takes about 15 microseconds, on two cores and the seed preset's shape.

    lengths: for each slot, the number of tokens read so far, at most the model's context. It is a
    plain list, because NumPy is slower for one number at a time.
    rules (sequences,3), top_k (sequences,), keys (sequences,4): what choose() obeys, row by row
    (kernels.sample). Write into them; at first each row takes the most likely token.

    The weights are copied when the decoder is made, and prompts are read with those of the model.
    So the model must not be trained while a decoder of it is in use. The copy takes as much memory
    as the weights, and the cache two vectors of C channels for each position, block and slot."""

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
        self.rules = np.tile(np.array([0, 1, 1], dtype), (sequences, 1))
        self.top_k, self._counters, self._chosen = np.zeros((3, sequences), np.int32)
        self.keys = np.zeros((sequences, 4), np.int32)
        work = np.empty((sequences, V), dtype), np.empty((sequences, V), np.int32)
        self._sampling = (self._chosen, *work, self._logits, self.rules.reshape(-1), self.top_k)
        self._sampling += self.keys.reshape(-1), self._counters
        self._sample = ops.sampler(*self._sampling) if hasattr(ops, "sampler") else self._sample_few

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
        positions = [self.lengths[slot] for slot in slots]
        if max(positions) >= context:
            raise UsageError(f"the context of {context} positions is full; reset() makes room")
        # Clip a number that int32 cannot hold to one that no vocabulary has either.
        self._tokens[:n] = [min(max(-1, token), 2**31 - 1) for token in tokens]
        self._positions[:n], self._slots[:n] = positions, slots
        self._run(n)
        for slot in slots:
            self.lengths[slot] += 1
        return self._logits[:n]

    def read(self, prompts, slots) -> np.ndarray:
        """Read a prompt, ids of at least one token, in each of n slots, whose numbers rise. What
        they held is forgotten. Return the logits (n,V) of what follows, valid until the next step.

        Prompts go through the model side by side, PROMPT_ELEMENTS at a time. This leaves in the
        cache what reading them token by token would leave, and takes the memory of their rows'
        activations. A UsageError if a prompt is empty, longer than the context, or has a token that
        is not in the vocabulary; then no slot has read anything."""
        context, vocab = self.model.config.context, self.model.config.vocab
        known = set(range(len(self.lengths)))
        if len(prompts) != len(slots) or list(slots) != sorted(known & set(slots)):
            raise UsageError(f"{len(prompts)} prompts for slots {list(slots)}, which must rise")
        for ids in prompts:
            if not 0 < len(ids) <= context:
                raise UsageError(
                    f"a prompt of {len(ids)} tokens; it needs one, and the context has {context}"
                )
            if not 0 <= min(ids) <= max(ids) < vocab:
                bad = next(i for i in ids if not 0 <= i < vocab)
                raise UsageError(f"a prompt has the token {bad}, which is not in 0..{vocab - 1}")
        first, most = 0, max(1, PROMPT_ELEMENTS // self.model.config.channels)
        while first < len(prompts):
            rows = np.cumsum([len(ids) for ids in prompts[first:]])
            last = first + max(1, int(np.searchsorted(rows, most, "right")))
            self._read_part(prompts[first:last], slots[first:last], self._logits[first:last])
            first = last
        return self._logits[: len(prompts)]

    def _read_part(self, prompts, slots, logits) -> None:
        """Read prompts in one forward, and write the logits of what follows them."""
        model = self.model
        offsets = np.cumsum([0, *map(len, prompts)]).astype(np.int32)
        tokens = np.concatenate([np.asarray(ids) for ids in prompts]).astype(np.int32)
        hidden, qkvs = model.read(tokens, offsets, offsets[1:] - 1)
        shape = model.config.context, model.config.layers
        for slot, start, end in zip(slots, offsets, offsets[1:]):
            for block, qkv in enumerate(qkvs):
                model.ops.decode_keep(self._cache[slot], qkv[start:end], 0, block, *shape)
            self.lengths[slot] = int(end - start)
        model.ops.matmul_forward(logits, hidden, model.params[head_name(model.config)])

    def choose(self, slots, repeats=None) -> list[int]:
        """Choose the next token of each of n slots, those of the last steps() or read(), from its
        row of logits, by its row of rules, top_k and keys. The number of tokens that a slot has
        read is the number of its draw.

        repeats: for each slot the ids that would repeat a word; None if there are none."""
        n = len(slots)
        self._counters[:n] = [self.lengths[slot] for slot in slots]
        again = offsets = None
        if repeats is not None and any(map(len, repeats)):
            again = np.fromiter((i for ids in repeats for i in ids), np.int32)
            offsets = np.cumsum([0, *map(len, repeats)]).astype(np.int32)
        self._sample(n, again, offsets)
        chosen = self._chosen[:n].tolist()
        if -1 in chosen:
            raise Diverged(
                f"the logits of slot {slots[chosen.index(-1)]} are not finite, so no token can be"
                " chosen; the model has diverged"
            )
        return chosen

    def _sample_few(self, n: int, again, offsets) -> None:
        """Call ops.sample for the first n rows of the arrays."""
        chosen, work, heap, logits, rules, top_k, keys, counters = self._sampling
        arrays = chosen[:n], work[:n], heap[:n], logits[:n], rules[: 3 * n], top_k[:n]
        self.model.ops.sample(*arrays, keys[: 4 * n], counters[:n], again, offsets)
