import numpy as np


def pairs_loss(value, better, worse):
    P, R = len(better), len(value)
    choose = np.zeros((P, R))
    choose[np.arange(P), better] = 1
    choose[np.arange(P), worse] = -1
    d = choose @ value
    return np.mean(np.logaddexp(0, -d)), -(choose.T @ (1 / (1 + np.exp(d)))) / P


def rankings_loss(value, cu_seqlens, group, rank):
    ends = np.array(cu_seqlens[1:]) - 1
    names = np.unique(group)
    loss, dvalue = 0.0, np.zeros_like(value)
    for name in names:
        replies = np.flatnonzero(group == name)
        i, j = np.nonzero(rank[replies][:, None] < rank[replies])
        if len(i) == 0:
            continue
        part, d = pairs_loss(value[ends[replies]], i, j)
        loss += part / len(names)
        dvalue[ends[replies]] += d / len(names)
    return loss, dvalue
