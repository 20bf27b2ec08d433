import numpy as np


def normalise(x, mean, rstd):
    return (x - mean[:, None]) * rstd[:, None]


def layernorm_forward(y, mean, rstd, x, w, b, eps=1e-5):
    mean[:] = np.average(x, axis=1)
    rstd[:] = 1 / np.hypot(np.std(x, axis=1), np.sqrt(eps))
    y[:] = normalise(x, mean, rstd) * w + b


def layernorm_backward(dx, dw, db, dy, x, w, mean, rstd):
    n = normalise(x, mean, rstd)
    db += dy.sum(axis=0)
    dw += np.diag(dy.T @ n)
    centred = dy - dy.mean(axis=1, keepdims=True)
    along = (dy * n).mean(axis=1, keepdims=True)
    dx += centred - n * along
