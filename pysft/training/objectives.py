"""What a batch is for: functions from the rows' negative log-likelihoods to a loss and to what the
loss feels of each row. Every training stage differs from the others here, and only here.

An objective is called as objective(batch, nll, value, total) -> (loss, dnll, dvalue), and
objective.count(batch) says how much of `total` the batch makes up. `total` is of the whole step, so
the division happens once and micro-batches cannot become a mean of means. Imports NumPy only."""

import numpy as np


def sft(batch, nll, value, total):
    """Mean nats per graded token: loss = sum_n counts[n] nll[n] / total.

    Pre-training is the same function: there every row is graded, in fine-tuning the reply's."""
    loss = float(np.dot(batch.counts, nll.astype(np.float64))) / total
    return loss, (batch.counts / total).astype(nll.dtype), None


sft.count = lambda batch: float(batch.counts.sum())
