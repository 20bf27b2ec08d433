import numpy as np


def gain_of(nll, reference, labels, rows):
    keep = labels[rows] != -100
    return (reference[rows] - nll[rows])[keep]


def dpo_gain(nll, reference, labels, cu_seqlens):
    gain = np.zeros(len(cu_seqlens) - 1)
    for s in range(len(gain)):
        tokens = gain_of(nll, reference, labels, slice(cu_seqlens[s], cu_seqlens[s + 1]))
        if len(tokens):
            gain[s] = tokens.mean()
    return gain


def dpo_backward(nll, reference, labels, cu_seqlens, chosen, rejected, beta):
    dnll = np.zeros(len(nll))
    loss = 0.0
    for c, r in zip(chosen, rejected):
        rows_c = slice(cu_seqlens[c], cu_seqlens[c + 1])
        rows_r = slice(cu_seqlens[r], cu_seqlens[r + 1])
        h = gain_of(nll, reference, labels, rows_c).sum()
        h = beta * (h - gain_of(nll, reference, labels, rows_r).sum())
        loss += np.logaddexp(0, -h) / len(chosen)
        pull = beta / (1 + np.exp(h)) / len(chosen)
        dnll[rows_c] = pull * (labels[rows_c] != -100)
        dnll[rows_r] = -pull * (labels[rows_r] != -100)
    return loss, dnll
