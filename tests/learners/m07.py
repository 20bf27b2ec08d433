import numpy as np


def layernorm_forward(y, mean, rstd, x, w, b, eps=1e-5):
    mean[:] = x.mean(1)
    variance = np.square(x.T - mean).mean(0)
    rstd[:] = 1 / np.sqrt(variance + eps)
    y[:] = (x - mean[:, None]) * rstd[:, None]
    y *= w
    y += b


def layernorm_backward(dx, dw, db, dy, x, w, mean, rstd):
    C = x.shape[1]
    col = lambda v: v[:, None]
    norm = (x - col(mean)) * col(rstd)
    dw += (dy * norm).sum(0)
    db += dy.sum(0)

    g = dy * w
    # three ways: directly, mean, variance
    one = g * col(rstd)
    two = -col((g * col(rstd)).sum(1)) / C
    dvariance = -0.5 * (g * (x - col(mean))).sum(1) * rstd**3
    three = col(dvariance) * 2 * x / C
    dx += one + two + three
