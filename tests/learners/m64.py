import numpy as np


def token_rewards(score, nll, nll_ref, beta):
    rewards = beta * (nll_ref - nll)
    rewards[-1] = rewards[-1] + score
    return rewards


def gae(rewards, values, gamma=1.0, lam=0.95):
    T = len(rewards)
    advantage = np.zeros(T)
    later = 0.0
    for t in range(T - 1, -1, -1):
        after = values[t + 1] if t + 1 < T else 0.0
        later = rewards[t] + gamma * after - values[t] + gamma * lam * later
        advantage[t] = later
    return advantage


def policy_loss(nll, nll_old, advantage, labels, cu_seqlens, clip=0.2):
    ok = labels != -100
    n = ok.sum()
    ratio = np.exp(np.where(ok, nll_old - nll, 0))
    plain = -advantage * ratio
    clipped = -advantage * np.clip(ratio, 1 - clip, 1 + clip)
    loss = np.maximum(plain, clipped)[ok].sum() / n
    dnll = np.where(ok & (plain >= clipped), advantage * ratio, 0) / n
    return loss, dnll
