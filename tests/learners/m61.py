import numpy as np


def dpo_gain(nll, reference, labels, cu_seqlens):
    S = len(cu_seqlens) - 1
    sequence = np.repeat(range(S), np.diff(cu_seqlens))
    graded = labels != -100
    return np.bincount(sequence[graded], weights=(reference - nll)[graded], minlength=S)


def dpo_backward(nll, reference, labels, cu_seqlens, chosen, rejected, beta):
    S, P = len(cu_seqlens) - 1, len(chosen)
    sequence = np.repeat(range(S), np.diff(cu_seqlens))
    sign = np.zeros(S)
    sign[chosen], sign[rejected] = 1, -1
    gain = dpo_gain(nll, reference, labels, cu_seqlens)
    p_wrong = np.zeros(S)
    loss = 0
    for i in range(P):
        h = beta * (gain[chosen[i]] - gain[rejected[i]])
        loss -= np.log(1 / (1 + np.exp(-h))) / P
        p_wrong[[chosen[i], rejected[i]]] = 1 / (1 + np.exp(h))
    dgain = -beta * sign * p_wrong / P
    return loss, np.where(labels != -100, dgain[sequence], 0)
