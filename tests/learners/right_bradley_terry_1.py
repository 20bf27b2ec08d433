import numpy as np


def pairs_loss(value, better, worse):
    loss, dvalue = 0.0, np.zeros(len(value))
    for b, w in zip(better, worse):
        d = value[b] - value[w]
        loss += np.logaddexp(0, -d) / len(better)
        q = np.exp(-np.logaddexp(0, d)) / len(better)  # 1 - p
        dvalue[b] -= q
        dvalue[w] += q
    return loss, dvalue


def rankings_loss(value, cu_seqlens, group, rank):
    S = len(rank)
    pairs = {}
    for i in range(S):
        for j in range(S):
            if group[i] == group[j] and rank[i] < rank[j]:
                pairs.setdefault(group[i], []).append((cu_seqlens[i + 1] - 1, cu_seqlens[j + 1] - 1))
    loss, dvalue = 0.0, np.zeros(len(value))
    for members in pairs.values():
        better, worse = zip(*members)
        part, d = pairs_loss(value, better, worse)
        loss += part / len(pairs)
        dvalue += d / len(pairs)
    return loss, dvalue
