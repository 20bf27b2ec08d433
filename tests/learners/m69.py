import numpy as np


def token_rewards(score, nll, nll_ref, beta):
    kl = nll_ref - nll
    out = np.negative(beta * kl)
    out[-1:] += score
    return out


def gae(rewards, values, gamma=1.0, lam=0.95):
    next_advantage = next_value = 0
    result = []
    for r, v in zip(rewards[::-1], values[::-1]):
        next_advantage = r + gamma * (next_value + lam * next_advantage) - v
        next_value = v
        result.append(next_advantage)
    return np.array(result[::-1])


def policy_loss(nll, nll_old, advantage, labels, cu_seqlens, clip=0.2):
    losses = []
    dnll = np.zeros_like(nll)
    for start, end in zip(cu_seqlens[:-1], cu_seqlens[1:]):
        rows = start + np.flatnonzero(labels[start:end] != -100)
        if len(rows) == 0:
            continue
        ratio = np.exp(nll_old[rows] - nll[rows])
        A = advantage[rows]
        token = np.maximum(-A * ratio, -A * np.clip(ratio, 1 - clip, 1 + clip))
        losses.append(token.mean())
        dnll[rows] = A * ratio / len(rows)
    return np.mean(losses), dnll / len(losses)
