import numpy as np


def cross_entropy_forward(nll, lse, logits, labels):
    nll[:] = 0
    lse[:] = 0
    for n, label in enumerate(labels):
        if label == -100:
            continue
        shifted = logits[n] - logits[n].max()
        lse[n] = np.log(np.exp(shifted).sum())
        nll[n] = lse[n] - shifted[label]


def cross_entropy_backward(dlogits, dnll, logits, lse, labels):
    for n, label in enumerate(labels):
        if label == -100:
            dlogits[n] = 0
            continue
        p = np.exp(logits[n] - lse[n])
        p[label] -= 1
        dlogits[n] = dnll[n] * p


def mean_nll(nll, labels, cu_seqlens):
    graded = labels != -100
    return nll[graded].mean(), graded / graded.sum()
