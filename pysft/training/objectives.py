"""What a batch is for: functions from the rows' negative log-likelihoods to a loss and to what the
loss feels of each row. Every training stage differs from the others here, and only here.

An objective is called as objective(batch, nll, value, total) -> (loss, dnll, dvalue), and
objective.count(batch) says how much of `total` the batch makes up. `total` is of the whole step, so
the division happens once and micro-batches cannot become a mean of means. Imports NumPy only."""

import numpy as np

IGNORE = -100


def _weights(batch):
    """(N,) what each row counts: its sequence's weight if it is graded, else 0."""
    return np.where(batch.labels != IGNORE, batch.per_row(batch.weight), 0.0)


def sft(batch, nll, value, total):
    """Mean nats per graded token: loss = sum_n weight[n] nll[n] / total.

    Pre-training is the same function: there every row is graded, in fine-tuning the reply's."""
    weights = _weights(batch)
    loss = float(np.dot(weights, nll.astype(np.float64))) / total
    return loss, (weights / total).astype(nll.dtype), None


sft.count = lambda batch: float(_weights(batch).sum())
