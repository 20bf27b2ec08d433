import numpy as np


def pairs_loss(value, better, worse):
    d = value[better] - value[worse]
    loss = np.logaddexp(0, -d).mean()
    q = 1 / (1 + np.exp(d)) / len(d)
    dvalue = np.zeros_like(value)
    dvalue[better] -= q
    dvalue[worse] += q
    return loss, dvalue


def rankings_loss(value, cu_seqlens, group, rank):
    last = np.asarray(cu_seqlens[1:]) - 1
    v = value[last]
    dv = np.zeros_like(v)
    losses = []
    found = []
    for name in np.unique(group):
        pairs = [
            (i, j)
            for i in np.flatnonzero(group == name)
            for j in np.flatnonzero(group == name)
            if rank[i] < rank[j]
        ]
        if pairs:
            found.append(pairs)
    for pairs in found:
        part = 0
        for i, j in pairs:
            part += np.log1p(np.exp(v[j] - v[i]))
            q = 1 / (1 + np.exp(v[i] - v[j])) / len(pairs) / len(found)
            dv[i] -= q
            dv[j] += q
        losses.append(part / len(pairs))
    dvalue = np.zeros_like(value)
    dvalue[last] = dv
    return np.mean(losses), dvalue
