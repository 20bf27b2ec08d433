import numpy as np


def members(labels, cu_seqlens):
    """(S,N): 1 where a graded row belongs to a sequence."""
    rows = np.arange(len(labels))
    starts, ends = np.asarray(cu_seqlens)[:-1, None], np.asarray(cu_seqlens)[1:, None]
    return ((rows >= starts) & (rows < ends) & (labels != -100)).astype(float)


def dpo_gain(nll, reference, labels, cu_seqlens):
    return members(labels, cu_seqlens) @ (reference - nll)


def dpo_backward(nll, reference, labels, cu_seqlens, chosen, rejected, beta):
    M = members(labels, cu_seqlens)
    dh = -beta * (M[chosen] - M[rejected])  # (P,N): d h[p] / d nll[n]
    h = dh @ (nll - reference)
    dloss = -0.5 * (1 - np.tanh(h / 2)) / len(h)
    return np.logaddexp(0, -h).mean(), dloss @ dh
