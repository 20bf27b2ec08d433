import numpy as np


def dpo_gain(nll, reference, labels, cu_seqlens):
    g = (reference - nll) * (labels != -100)
    return np.add.reduceat(g, cu_seqlens[:-1])


def dpo_backward(nll, reference, labels, cu_seqlens, chosen, rejected, beta):
    gain = dpo_gain(nll, reference, labels, cu_seqlens)
    h = beta * gain[chosen] - beta * gain[rejected]
    q = np.exp(-np.logaddexp(0, h))  # sigmoid(-h)
    weight = np.zeros_like(gain)
    weight[chosen] += q
    weight[rejected] -= q
    dnll = np.concatenate([np.full(n, x) for n, x in zip(np.diff(cu_seqlens), weight)])
    return np.logaddexp(0, -h).sum() / len(h), dnll / len(h)
