import numpy as np


def token_rewards(score, nll, nll_ref, beta):
    last = np.arange(len(nll)) == len(nll) - 1
    return score * last - beta * (nll_ref - nll)


def gae(rewards, values, gamma=1.0, lam=0.95):
    T = len(rewards)
    following = np.append(values[1:], values[-1])
    delta = rewards + gamma * following - values
    gap = np.arange(T) - np.arange(T)[:, None]
    weight = np.where(gap >= 0, (gamma * lam) ** np.maximum(gap, 0), 0)
    return weight @ delta


def policy_loss(nll, nll_old, advantage, labels, cu_seqlens, clip=0.2):
    rows = np.flatnonzero(labels != -100)
    dnll = np.zeros(len(nll))
    loss = 0.0
    for n in rows:
        A, ratio = advantage[n], np.exp(nll_old[n] - nll[n])
        bounded = min(max(ratio, 1 - clip), 1 + clip)
        if -A * ratio >= -A * bounded:
            loss += -A * ratio
            dnll[n] = A * ratio / len(rows)
        else:
            loss += -A * bounded
    return loss / len(rows), dnll
