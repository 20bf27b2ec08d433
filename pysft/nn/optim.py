"""AdamW over arenas, and the clipping of gradients."""

import numpy as np

from pysft.nn.arena import Arena
from pysft.nn.model import GPT


class AdamW:
    """AdamW (Loshchilov and Hutter 2019): both moments of a model's parameters, and the step.

    decay: of matrices only, embeddings included (they stand first in the arena); with `decay_all`
    of every tensor, which is PyTorch's default. steps: the number of steps taken so far."""

    def __init__(self, model: GPT, betas=(0.9, 0.999), eps=1e-8, decay=0.0, decay_all=False):
        self.model, self.betas, self.eps, self.decay = model, betas, eps, decay
        shapes = model.params.shapes
        self.m, self.v = Arena(shapes, model.dtype), Arena(shapes, model.dtype)
        self.split = len(model.params.flat) if decay_all else model.decaying()
        self.steps = 0

    def step(self, lr: float) -> None:
        """One update of model.params from model.grads."""
        self.steps += 1
        arrays = self.model.params.flat, self.m.flat, self.v.flat, self.model.grads.flat
        for part, decay in ((slice(0, self.split), self.decay), (slice(self.split, None), 0.0)):
            w, m, v, g = (a[part] for a in arrays)
            if len(w):
                self.model.ops.adamw(w, m, v, g, self.steps, lr, *self.betas, self.eps, decay)


def clip(model: GPT, limit: float) -> float:
    """The norm of the gradients before clipping. If it is above `limit`, they are scaled down to
    it; a limit of 0 never clips."""
    norm = float(np.sqrt(model.ops.sum_squares(model.grads.flat)))
    if limit and np.isfinite(norm) and norm > limit:
        model.grads.flat *= model.dtype.type(limit / norm)
    return norm
