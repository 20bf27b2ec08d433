import numpy as np


def dpo_gain(nll, reference, labels, cu_seqlens):
    gain = np.zeros(len(cu_seqlens) - 1)
    for s in range(len(gain)):
        for n in range(cu_seqlens[s], cu_seqlens[s + 1]):
            if labels[n] != -100:
                gain[s] += reference[n] - nll[n]
    return gain


def dpo_backward(nll, reference, labels, cu_seqlens, chosen, rejected, beta):
    gain = dpo_gain(nll, reference, labels, cu_seqlens)
    P = len(chosen)
    loss, dnll = 0.0, np.zeros(len(nll))
    for c, r in zip(chosen, rejected):
        h = beta * (gain[c] - gain[r])
        loss += np.logaddexp(0, -h) / P
        pull = beta * np.exp(-np.logaddexp(0, h)) / P
        for n in range(cu_seqlens[c], cu_seqlens[c + 1]):
            if labels[n] != -100:
                dnll[n] += pull
        for n in range(cu_seqlens[r], cu_seqlens[r + 1]):
            if labels[n] != -100:
                dnll[n] -= pull
    return loss, dnll
