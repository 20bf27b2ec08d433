"""Objectives: from what the model gives for each row to a loss and its derivatives by that.

    loss, dnll, dvalue, figures = objective(batch, out, totals)

An objective is a small dataclass of its settings. Two stages differ in their data (stages.py) and
in their objective. Pre-training and fine-tuning both use Sft; what their labels grade differs.

    batch             a batch.Batch: labels, weights, groups, and the columns that the stage adds
    out.nll (N,)      the negative log-likelihood of each row's label in nats; 0 if it has none
    out.value (N,)    the value of each wanted row; None if the model has no value head
    totals            {term: number}: objective.counts(batch), added up over all micro-batches of
                      the step. A term of the loss is divided by its total, so a step gives the
                      same update however it is split, up to rounding
    loss              this batch's share of the step's loss
    dnll, dvalue (N,) the derivatives of the loss by nll and value, in their precision; None is zero
    figures           {name: (sum, count)} for the log, which shows sum / count over the whole step

This module imports NumPy and dataclasses only."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sft:
    """Mean loss per graded token: loss = sum_n counts[n] nll[n] / total.

    counts[n] is the weight of row n's sequence if the row is graded, else 0. In pre-training every
    row is graded; in fine-tuning the rows of the replies are, and every row of base text. The
    figures are the mean nll of each source ("base", "conversation", "world"), without weights."""

    def counts(self, batch) -> dict[str, float]:
        """Return {"graded": sum of the weights of the graded rows}."""
        return {"graded": float(batch.counts.sum())}

    def __call__(self, batch, out, totals):
        nll, total = out.nll, totals["graded"]
        loss = float(np.dot(batch.counts, nll.astype(np.float64))) / total
        dnll = (batch.counts / total).astype(nll.dtype)
        return loss, dnll, None, nll_by_source(batch, nll)


def nll_by_source(batch, nll) -> dict[str, tuple[float, int]]:
    """Return {source: (sum of the nll of its graded rows, their number)}."""
    first = batch.cu_seqlens[:-1]
    sums = np.add.reduceat(nll, first, dtype=np.float64)
    counts = np.add.reduceat(batch.graded, first, dtype=np.int64)
    found = {}
    for source in sorted(set(batch.source.tolist())):
        here = batch.source == source
        found[source] = float(sums[here].sum()), int(counts[here].sum())
    return found
