import numpy as np


def cross_entropy_forward(nll, lse, logits, labels):
    V = logits.shape[1]
    top = logits.max(axis=1, keepdims=True)
    full = top + np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
    onehot = np.equal.outer(labels, np.arange(V)).astype(float)
    graded = onehot.sum(axis=1)  # 0 or 1
    lse[:] = full[:, 0] * graded
    nll[:] = (onehot * (full - logits)).sum(axis=1)


def cross_entropy_backward(dlogits, dnll, logits, lse, labels):
    V = logits.shape[1]
    onehot = np.equal.outer(labels, np.arange(V)).astype(float)
    p = np.exp(logits - lse[:, None])
    dlogits[:] = np.einsum("n,nv->nv", dnll, p - onehot)


def mean_nll(nll, labels, cu_seqlens):
    graded = (labels >= 0).astype(float)
    return (graded @ nll) / graded.sum(), graded / graded.sum()
