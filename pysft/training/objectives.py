"""Objectives: NumPy functions from the rows' negative log-likelihoods to a loss and its gradient.

    loss, dnll, dvalue = objective(batch, nll, value, total)

nll (N,) is the negative log-likelihood of each row's label, in nats. dnll (N,) is the derivative of
the loss by it. value and dvalue belong to a value head, which no model has yet: both are None. Two
stages differ in their data (stages.py) and in their objective. Pre-training and fine-tuning both
use `sft`; what their labels grade differs.

objective.count(batch) is what a batch adds to `total`, the sum over all micro-batches of the step.
Each micro-batch divides by this same `total`, so a step gives the same update however it is split,
up to rounding. This module imports NumPy only."""

import numpy as np


def sft(batch, nll, value, total):
    """Mean loss per graded token: loss = sum_n counts[n] nll[n] / total.

    counts[n] is the weight of row n's sequence if the row is graded, else 0. In pre-training every
    row is graded; in fine-tuning the rows of the replies are, and every row of base text."""
    loss = float(np.dot(batch.counts, nll.astype(np.float64))) / total
    return loss, (batch.counts / total).astype(nll.dtype), None


sft.count = lambda batch: float(batch.counts.sum())
