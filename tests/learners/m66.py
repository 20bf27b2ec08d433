import numpy as np


def token_rewards(score, nll, nll_ref, beta):
    log_ratio = -nll - -nll_ref  # ln pi - ln pi_ref
    rewards = -beta * log_ratio
    rewards[-1] += score
    return rewards


def gae(rewards, values, gamma=1.0, lam=0.95):
    advantage = np.empty(len(values))
    for t in range(len(values)):
        total, factor = 0, 1
        for i in range(t, len(values)):
            ahead = values[i + 1] if i < len(values) - 1 else 0
            total += factor * (rewards[i] + gamma * ahead - values[i])
            factor *= gamma * lam
        advantage[t] = total
    return advantage


def policy_loss(nll, nll_old, advantage, labels, cu_seqlens, clip=0.2):
    graded = labels != -100
    count = np.count_nonzero(graded)
    ratio = np.ones_like(nll)
    ratio[graded] = np.exp(nll_old[graded] - nll[graded])
    bounded = np.clip(ratio, 1 - clip, 1 + clip)
    loss = np.maximum(-advantage * ratio, -advantage * bounded)[graded].mean()
    inside = (ratio > 1 - clip) & (ratio < 1 + clip)  # the derivative of clip is 0 outside
    return loss, graded * inside * advantage * ratio / count
