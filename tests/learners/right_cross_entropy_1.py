import numpy as np


def cross_entropy_forward(nll, lse, logits, labels):
    for n in range(len(labels)):
        nll[n] = lse[n] = 0
        if labels[n] != -100:
            top = logits[n].max()
            total = 0.0
            for v in range(logits.shape[1]):
                total += np.exp(logits[n, v] - top)
            lse[n] = top + np.log(total)
            nll[n] = lse[n] - logits[n, labels[n]]


def cross_entropy_backward(dlogits, dnll, logits, lse, labels):
    N, V = logits.shape
    for n in range(N):
        row = np.zeros(V)
        if labels[n] != -100:
            for v in range(V):
                p = np.exp(logits[n, v] - lse[n])
                row[v] = dnll[n] * (p - (1 if v == labels[n] else 0))
        dlogits[n] = row


def mean_nll(nll, labels, cu_seqlens):
    total, count = 0.0, 0
    for n in range(len(labels)):
        if labels[n] != -100:
            total += nll[n]
            count += 1
    dnll = np.zeros(len(labels))
    dnll[labels != -100] = 1 / count
    return total / count, dnll
