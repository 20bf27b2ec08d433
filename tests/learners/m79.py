import numpy as np


def graded_total(labels, cu_seqlens, weight):
    total = 0.0
    for s in range(len(weight)):
        rows = labels[cu_seqlens[s] : cu_seqlens[s + 1]]
        total += weight[s] * np.sum(rows != -100)
    return total


def sft_loss(nll, labels, cu_seqlens, weight, total):
    loss = 0.0
    for s in range(len(weight)):
        rows = slice(cu_seqlens[s], cu_seqlens[s + 1])
        loss += weight[s] * nll[rows][labels[rows] != -100].sum()
    return loss / total, (labels != -100) / total


def forgetting(base, tuned, continued):
    before, after, other = base.mean(), tuned.mean(), continued.mean()
    return after / before - 1, after / other - 1
