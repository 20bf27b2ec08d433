"""Objectives: NumPy functions from the rows' negative log-likelihoods to a loss and its gradient.

    loss, dnll, dvalue = objective(batch, nll, value, total)

nll (N,) is the model's loss of each row in nats; dnll (N,) is the loss's derivative by it. value
and dvalue belong to a value head, which no model has yet: None. A stage differs from the others in
its data (stages.py) and in its objective. Pre-training and fine-tuning share `sft` and differ in
their labels alone.

objective.count(batch) is the batch's part of `total`, the whole step's: the division happens once,
so a step is the same however it is split into micro-batches. This module imports NumPy only."""

import numpy as np


def sft(batch, nll, value, total):
    """Mean loss per graded token: loss = sum_n counts[n] nll[n] / total.

    counts[n] is the weight of row n's sequence if the row is graded, else 0. In pre-training every
    row is graded, in fine-tuning the replies'."""
    loss = float(np.dot(batch.counts, nll.astype(np.float64))) / total
    return loss, (batch.counts / total).astype(nll.dtype), None


sft.count = lambda batch: float(batch.counts.sum())
