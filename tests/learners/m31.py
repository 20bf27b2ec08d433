import numpy as np


def cross_entropy_forward(nll, lse, logits, labels):
    nll.fill(0)
    lse.fill(0)
    for n in np.where(labels != -100)[0]:
        big = max(logits[n])
        lse[n] = big + np.log(sum(np.exp(l - big) for l in logits[n]))
        nll[n] = lse[n] - logits[n][labels[n]]


def cross_entropy_backward(dlogits, dnll, logits, lse, labels):
    V = logits.shape[1]
    for n in range(len(labels)):
        if labels[n] == -100:
            dlogits[n] = np.zeros(V)
        else:
            dlogits[n] = dnll[n] * (np.exp(logits[n] - lse[n]) - np.eye(V)[labels[n]])


def mean_nll(nll, labels, cu_seqlens):
    dnll = np.zeros(len(nll))
    graded = labels != -100
    sequences = 0
    for start, end in zip(cu_seqlens[:-1], cu_seqlens[1:]):
        count = graded[start:end].sum()
        if count:
            dnll[start:end] = graded[start:end] / count
            sequences += 1
    dnll /= sequences
    return (nll * dnll).sum(), dnll
