import numpy as np


def layernorm_forward(y, mean, rstd, x, w, b, eps=1e-5):
    N, C = x.shape
    for n in range(N):
        mu = x[n].sum() / C
        dev = x[n] - mu
        variance = dev @ dev / (C - 1)
        mean[n] = mu
        rstd[n] = (variance + eps) ** -0.5
        y[n] = dev * rstd[n] * w + b


def layernorm_backward(dx, dw, db, dy, x, w, mean, rstd):
    N, C = x.shape
    for n in range(N):
        norm = (x[n] - mean[n]) * rstd[n]
        g = dy[n] * w
        db += dy[n]
        dw += dy[n] * norm
        dx[n] += rstd[n] * (g - g.sum() / C - norm * (g @ norm) / C)
