import numpy as np


def cross_entropy_forward(nll, lse, logits, labels):
    keep = labels != -100
    picked = logits[keep, labels[keep]]
    total = np.logaddexp.reduce(logits[keep], axis=-1)
    lse[keep], lse[~keep] = total, 0
    nll[keep], nll[~keep] = total - picked, 0


def cross_entropy_backward(dlogits, dnll, logits, lse, labels):
    keep = labels != -100
    softmax = np.exp(logits[keep] - lse[keep, None])
    softmax[:, labels[keep]] -= 1
    dlogits[keep] = softmax * dnll[keep, None]
    dlogits[~keep] = 0


def mean_nll(nll, labels, cu_seqlens):
    keep = labels != -100
    return np.average(nll, weights=keep), keep.astype(float) / np.count_nonzero(keep)
