import numpy as np


def dpo_gain(nll, reference, labels, cu_seqlens):
    running = np.append(0, np.cumsum(reference - nll))
    return running[cu_seqlens[1:]] - running[cu_seqlens[:-1]]


def dpo_backward(nll, reference, labels, cu_seqlens, chosen, rejected, beta):
    graded = labels != -100
    S = len(cu_seqlens) - 1
    member = np.repeat(np.eye(S), np.diff(cu_seqlens), axis=0) * graded[:, None]  # (N,S)
    gain = (reference - nll) @ member
    h = beta * (gain[chosen] - gain[rejected])
    dh = -1 / (1 + np.exp(h)) / len(h)
    dgain = np.zeros(S)
    dgain[chosen] = beta * dh
    dgain[rejected] = -beta * dh
    return np.logaddexp(0, -h).mean(), -member @ dgain
