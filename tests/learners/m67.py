import numpy as np


def token_rewards(score, nll, nll_ref, beta):
    rewards = [-beta * (b - a) for a, b in zip(nll, nll_ref)]
    rewards[-1] += score
    return np.array(rewards)


def gae(rewards, values, gamma=1.0, lam=0.95):
    delta = rewards - values
    delta[:-1] += gamma * values[1:]
    for t in reversed(range(len(delta) - 1)):
        delta[t] += gamma * lam * delta[t + 1]
    return delta


def policy_loss(nll, nll_old, advantage, labels, cu_seqlens, clip=0.2):
    use = labels != -100
    A = advantage[use]
    ratio = np.exp(nll_old[use] - nll[use])
    one, two = -A * ratio, -A * ratio.clip(1 - clip, 1 + clip)
    dnll = np.zeros_like(nll)
    dnll[use] = np.where(one < two, 0, A) / len(A)
    return np.mean(np.where(one < two, two, one)), dnll
