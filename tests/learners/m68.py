import numpy as np


def token_rewards(score, nll, nll_ref, beta):
    final = np.zeros_like(nll)
    final[len(nll) - 1] = score
    return final + beta * nll - beta * nll_ref


def gae(rewards, values, gamma=1.0, lam=0.95):
    T = len(rewards)
    shift = np.eye(T, k=1)
    delta = rewards + gamma * shift @ values - values
    # A = delta + gamma lam shift A
    return np.linalg.solve(np.eye(T) - gamma * lam * shift, delta)


def policy_loss(nll, nll_old, advantage, labels, cu_seqlens, clip=0.2):
    mask = labels != -100
    r = np.exp((nll_old - nll)[mask])
    A = advantage[mask]
    terms = np.stack([-A * r, -A * np.minimum(np.maximum(r, 1 - clip), 1 + clip)])
    first = terms[0] <= terms[1]
    dnll = np.zeros(len(nll))
    dnll[mask] = first * A * r / mask.sum()
    return terms.min(axis=0).mean(), dnll
