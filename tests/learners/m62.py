import numpy as np


def dpo_gain(nll, reference, labels, cu_seqlens):
    gain = []
    for s in range(len(cu_seqlens) - 1):
        total = 0.0
        for n in range(cu_seqlens[s], cu_seqlens[s + 1]):
            if labels[n] != -100:
                total += reference[n] - nll[n]
        gain.append(total)
    return np.array(gain)


def dpo_backward(nll, reference, labels, cu_seqlens, chosen, rejected, beta):
    gain = dpo_gain(nll, reference, labels, cu_seqlens)
    h = beta * (gain[chosen] - gain[rejected])
    loss = np.log1p(np.exp(-h)).mean()
    slope = beta / (1 + np.exp(h)) / len(h)  # by how much the loss falls with the chosen gain
    dnll = np.zeros_like(nll)
    for which, sign in ((chosen, 1), (rejected, -1)):
        for s, d in zip(which, slope):
            rows = np.arange(cu_seqlens[s], cu_seqlens[s + 1])
            rows = rows[labels[rows] != -100]
            if len(rows):
                dnll[rows] = sign * d / len(rows)
    return loss, dnll
