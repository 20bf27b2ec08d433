import numpy as np


def layernorm_forward(y, mean, rstd, x, w, b, eps=1e-5):
    C = x.shape[1]
    for n in range(x.shape[0]):
        mean[n] = sum(x[n, c] for c in range(C)) / C
        variance = sum((x[n, c] - mean[n]) ** 2 for c in range(C)) / C
        rstd[n] = 1 / np.sqrt(variance + eps)
        for c in range(C):
            y[n, c] = (x[n, c] - mean[n]) * rstd[n] * w[c] + b[c]


def layernorm_backward(dx, dw, db, dy, x, w, mean, rstd):
    C = x.shape[1]
    norm = (x - mean[:, None]) * rstd[:, None]
    dw += (dy * norm).sum(axis=0)
    db += dy.sum(axis=0)
    # norm = (x - mean) * rstd; product rule:
    #   d(x - mean)/dx = 1 - 1/C
    #   d rstd/dx      = -rstd^3 (x - mean) / C = -rstd^2 norm / C
    slope = (1 - 1 / C) * rstd[:, None] - (x - mean[:, None]) * rstd[:, None] ** 2 * norm / C
    dx += dy * w * slope
