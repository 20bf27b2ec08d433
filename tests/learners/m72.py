import numpy as np


def pairs_loss(value, better, worse):
    dvalue = np.zeros(len(value))
    loss = 0
    for b, w in zip(better, worse):
        p = 1 / (1 + np.exp(value[w] - value[b]))
        loss += np.logaddexp(0, value[w] - value[b]) / len(better)
        dvalue[b] += (p - 1) / len(better)
        dvalue[w] += (1 - p) / len(better)
    return loss, dvalue


def rankings_loss(value, cu_seqlens, group, rank):
    S = len(rank)
    lengths = np.diff(cu_seqlens)
    average = np.repeat(np.eye(S) / lengths, lengths, axis=1)  # (S,N)
    v = average @ value
    counts = (np.equal.outer(group, group)) & (np.less.outer(rank, rank))  # row better than column
    pairs_of = np.array([counts[group == g].sum() for g in group])
    weight = counts / np.maximum(pairs_of, 1)[:, None]
    weight /= weight.sum()
    d = v[:, None] - v
    loss = (weight * np.logaddexp(0, -d)).sum()
    slope = weight / (1 + np.exp(d))
    dv = slope.sum(axis=0) - slope.sum(axis=1)
    return loss, average.T @ dv
