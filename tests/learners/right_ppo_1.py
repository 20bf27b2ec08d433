import numpy as np


def token_rewards(score, nll, nll_ref, beta):
    rewards = np.zeros(len(nll))
    for t in range(len(nll)):
        rewards[t] = -beta * (nll_ref[t] - nll[t])
    rewards[len(nll) - 1] += score
    return rewards


def gae(rewards, values, gamma=1.0, lam=0.95):
    T = len(rewards)
    delta = [
        rewards[t] + gamma * (values[t + 1] if t < T - 1 else 0) - values[t] for t in range(T)
    ]
    return np.array([sum((gamma * lam) ** (i - t) * delta[i] for i in range(t, T)) for t in range(T)])


def policy_loss(nll, nll_old, advantage, labels, cu_seqlens, clip=0.2):
    graded = [n for n in range(len(nll)) if labels[n] != -100]
    loss, dnll = 0.0, np.zeros(len(nll))
    for n in graded:
        ratio = np.exp(nll_old[n] - nll[n])
        A = advantage[n]
        flat = (A > 0 and ratio > 1 + clip) or (A < 0 and ratio < 1 - clip)
        if flat:
            loss -= A * (1 + clip if A > 0 else 1 - clip) / len(graded)
        else:
            loss -= A * ratio / len(graded)
            dnll[n] = A * ratio / len(graded)
    return loss, dnll
