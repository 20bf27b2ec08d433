import numpy as np


def row_weights(labels, cu_seqlens, weight):
    return np.repeat(weight, np.diff(cu_seqlens)) * (labels != -100)


def graded_total(labels, cu_seqlens, weight):
    return row_weights(labels, cu_seqlens, weight).sum()


def sft_loss(nll, labels, cu_seqlens, weight, total):
    dnll = row_weights(labels, cu_seqlens, weight) / total
    return nll @ dnll, dnll


def forgetting(base, tuned, continued):
    return (tuned.mean() - base.mean()) / base.mean(), tuned.mean() / continued.mean() - 1
