"""AdamW over arenas, and the clipping of gradients."""

import numpy as np

from pysft.nn.arena import Arena
from pysft.nn.model import GPT


class AdamW:
    """AdamW (Loshchilov and Hutter 2019): both moments of a model's parameters, and the step.

    model: a GPT or a LoRA. decay: the weight decay. It acts on the elements that model.decaying()
    counts, which are a GPT's matrices (embeddings included) and all of a LoRA but value.b. With
    `decay_all` it acts on every tensor, which is PyTorch's default. steps: the number of steps
    taken so far."""

    def __init__(self, model: GPT, betas=(0.9, 0.999), eps=1e-8, decay=0.0, decay_all=False):
        self.model, self.betas, self.eps, self.decay = model, betas, eps, decay
        shapes = model.params.shapes
        self.m, self.v = Arena(shapes, model.dtype), Arena(shapes, model.dtype)
        self.split = len(model.params.flat) if decay_all else model.decaying()
        self.steps = 0

    def step(self, lr: float) -> None:
        """Update model.params once, from model.grads, with learning rate `lr`."""
        self.steps += 1
        arrays = self.model.params.flat, self.m.flat, self.v.flat, self.model.grads.flat
        for part, decay in ((slice(0, self.split), self.decay), (slice(self.split, None), 0.0)):
            w, m, v, g = (a[part] for a in arrays)
            if len(w):
                self.model.ops.adamw(w, m, v, g, self.steps, lr, *self.betas, self.eps, decay)


def clip(model: GPT, limit: float) -> float:
    """Scale the gradients down to norm `limit` if their norm is above it. Return the norm before.

    A limit of 0 never clips, and a norm that is not finite is left as it is."""
    norm = float(np.sqrt(model.ops.sum_squares(model.grads.flat)))
    if limit and np.isfinite(norm) and norm > limit:
        model.grads.flat *= model.dtype.type(limit / norm)
    return norm
