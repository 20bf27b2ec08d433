import numpy as np


def token_rewards(score, nll, nll_ref, beta):
    return beta * (nll - nll_ref) + score * np.eye(len(nll))[-1]


def gae(rewards, values, gamma=1.0, lam=0.95):
    T = len(rewards)
    step = np.eye(T, k=1)
    delta = rewards - (np.eye(T) - gamma * step) @ values
    return np.linalg.solve(np.eye(T) - gamma * lam * step, delta)


def policy_loss(nll, nll_old, advantage, labels, cu_seqlens, clip=0.2):
    rows = np.flatnonzero(labels != -100)
    ratio = np.exp(nll_old[rows] - nll[rows])
    A = advantage[rows]
    terms = np.array([-A * ratio, -A * np.clip(ratio, 1 - clip, 1 + clip)])
    which = terms.argmax(axis=0)  # 0 where they are equal: not clipped
    dnll = np.zeros(len(nll))
    dnll[rows] = np.where(which == 0, -terms[0], 0) / len(rows)
    return terms.max(axis=0).mean(), dnll
