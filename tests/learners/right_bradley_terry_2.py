import numpy as np


def weighted(difference, value, weight):
    """difference (P,R) has +1 at the better and -1 at the worse reply of each pair."""
    d = difference @ value
    slope = -weight / 2 * (1 - np.tanh(d / 2))  # -(1 - sigmoid(d))
    return weight @ np.logaddexp(0, -d), slope @ difference


def pairs_loss(value, better, worse):
    eye = np.eye(len(value))
    P = len(better)
    return weighted(eye[better] - eye[worse], value, np.full(P, 1 / P))


def rankings_loss(value, cu_seqlens, group, rank):
    group, rank = np.asarray(group), np.asarray(rank)
    last = np.asarray(cu_seqlens)[1:] - 1
    i, j = np.nonzero((group[:, None] == group) & (rank[:, None] < rank))
    _, which, count = np.unique(group[i], return_inverse=True, return_counts=True)
    weight = 1 / count[which] / len(count)
    eye = np.eye(len(value))
    return weighted(eye[last[i]] - eye[last[j]], value, weight)
