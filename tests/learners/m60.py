import numpy as np


def sigmoid(z):
    return 0.5 * (1 + np.tanh(z / 2))


def dpo_gain(nll, reference, labels, cu_seqlens):
    per_token = np.where(labels == -100, 0, reference - nll)
    return np.array([per_token[a:b].sum() for a, b in zip(cu_seqlens, cu_seqlens[1:])])


def dpo_backward(nll, reference, labels, cu_seqlens, chosen, rejected, beta):
    gain = dpo_gain(nll, reference, labels, cu_seqlens)
    h = beta * (gain[chosen] - gain[rejected])
    loss = np.mean(np.log1p(np.exp(-h)))

    dloss_dh = -sigmoid(h) / len(h)
    dgain = np.zeros_like(gain)
    np.add.at(dgain, chosen, beta * dloss_dh)
    np.add.at(dgain, rejected, -beta * dloss_dh)
    # gain = sum (reference - nll)
    dnll = -np.repeat(dgain, np.diff(cu_seqlens))
    dnll[labels == -100] = 0
    return loss, dnll
