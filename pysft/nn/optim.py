"""AdamW over arenas, and the clipping of gradients."""

import numpy as np

from pysft.nn.arena import Arena
from pysft.nn.model import GPT


class AdamW:
    """Both moments of a model's parameters, and the step that uses them.

    decay pulls at matrices only, embeddings included (they stand first in the arena), or at every
    tensor if `decay_all`, as PyTorch's default has it. Loshchilov and Hutter 2019."""

    def __init__(self, model: GPT, betas=(0.9, 0.999), eps=1e-8, decay=0.0, decay_all=False):
        self.model, self.betas, self.eps, self.decay = model, betas, eps, decay
        shapes = model.params.shapes
        self.m, self.v = Arena(shapes, model.dtype), Arena(shapes, model.dtype)
        self.split = len(model.params.flat) if decay_all else model.decaying()
        self.steps = 0  # taken so far

    def step(self, lr: float) -> None:
        """One update of model.params from model.grads."""
        self.steps += 1
        w, g = self.model.params.flat, self.model.grads.flat
        for part, decay in ((slice(0, self.split), self.decay), (slice(self.split, None), 0.0)):
            if len(w[part]):
                self.model.ops.adamw(
                    w[part],
                    self.m.flat[part],
                    self.v.flat[part],
                    g[part],
                    self.steps,
                    lr,
                    *self.betas,
                    self.eps,
                    decay,
                )


def clip(model: GPT, limit: float) -> float:
    """The gradients' norm; if it is above `limit` (0: no limit) they are scaled down to it."""
    norm = float(np.sqrt(model.ops.sum_squares(model.grads.flat)))
    if limit and np.isfinite(norm) and norm > limit:
        model.grads.flat *= model.dtype.type(limit / norm)
    return norm
