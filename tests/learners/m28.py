import numpy as np


def softmax(row):
    e = np.exp(row - np.max(row))
    return e / np.sum(e)


def cross_entropy_forward(nll, lse, logits, labels):
    for n in range(len(labels)):
        if labels[n] < 0:
            nll[n] = lse[n] = 0
        else:
            top = np.max(logits[n])
            lse[n] = top - np.log(np.max(softmax(logits[n])))  # the top one has exp(top - lse)
            nll[n] = lse[n] - logits[n, labels[n]]


def cross_entropy_backward(dlogits, dnll, logits, lse, labels):
    N, V = logits.shape
    for n in range(N):
        y = labels[n]
        if y < 0:
            dlogits[n, :] = 0
            continue
        p = softmax(logits[n])
        # d p[y] / d logits[v] = p[y] ([v = y] - p[v])
        dp = np.array([p[y] * ((v == y) - p[v]) for v in range(V)])
        dlogits[n, :] = -dnll[n] * dp


def mean_nll(nll, labels, cu_seqlens):
    count = np.sum(labels >= 0)
    dnll = np.array([1 / count if y >= 0 else 0.0 for y in labels])
    return np.dot(nll, dnll), dnll
