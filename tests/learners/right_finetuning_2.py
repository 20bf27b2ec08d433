import numpy as np


def graded_total(labels, cu_seqlens, weight):
    total = 0
    for s, (start, end) in enumerate(zip(cu_seqlens[:-1], cu_seqlens[1:])):
        for n in range(start, end):
            if labels[n] != -100:
                total += weight[s]
    return total


def sft_loss(nll, labels, cu_seqlens, weight, total):
    loss, dnll = 0.0, np.zeros(len(nll))
    for s, (start, end) in enumerate(zip(cu_seqlens[:-1], cu_seqlens[1:])):
        for n in range(start, end):
            if labels[n] != -100:
                dnll[n] = weight[s] / total
                loss += nll[n] * weight[s] / total
    return loss, dnll


def forgetting(base, tuned, continued):
    # the means are over the same tokens, so their number cancels
    b, t, c = (float(np.sum(v)) for v in (base, tuned, continued))
    return t / b - 1, t / c - 1
