import numpy as np


def cross_entropy_forward(nll, lse, logits, labels):
    N = len(labels)
    graded = labels != -100
    lse[:] = np.logaddexp.reduce(logits, axis=1)
    safe = np.where(graded, labels, 0)
    nll[:] = np.where(graded, lse - logits[np.arange(N), safe], 0.0)


def cross_entropy_backward(dlogits, dnll, logits, lse, labels):
    N, V = logits.shape
    graded = labels != -100
    onehot = labels[:, None] == np.arange(V)
    shift = np.where(graded, lse, logits.max(axis=1))
    softmax = np.exp(logits - shift[:, None])
    dlogits[:] = np.where(graded, dnll, 0)[:, None] * (softmax - onehot)


def mean_nll(nll, labels, cu_seqlens):
    weight = np.where(labels == -100, 0.0, 1.0)
    weight /= weight.sum()
    return weight @ nll, weight
