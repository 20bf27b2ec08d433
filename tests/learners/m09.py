import numpy as np


def layernorm_forward(y, mean, rstd, x, w, b, eps=1e-5):
    ones = np.ones(x.shape[1]) / x.shape[1]
    mean[:] = x @ ones
    xc = x - np.outer(mean, np.ones(x.shape[1]))
    rstd[:] = 1 / np.sqrt(xc**2 @ ones + eps)
    y[:] = np.diag(rstd) @ xc @ np.diag(w) + b


def layernorm_backward(dx, dw, db, dy, x, w, mean, rstd):
    C = x.shape[1]
    xc = x - mean[:, None]
    dw += (dy * xc).sum(axis=0)
    db += dy.sum(axis=0)
    norm = xc * rstd[:, None]
    g = dy * w
    for n in range(len(x)):
        project = np.eye(C) - 1 / C - np.outer(norm[n], norm[n]) / C
        dx[n] += rstd[n] * project @ g[n]
