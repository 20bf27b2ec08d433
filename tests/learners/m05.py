import numpy as np


def layernorm_forward(y, mean, rstd, x, w, b, eps=1e-5):
    for n, row in enumerate(x):
        mean[n] = row.mean()
        rstd[n] = 1 / np.sqrt(row.var() + eps)
        y[n] = (row - mean[n]) * rstd[n] * w + b


def layernorm_backward(dx, dw, db, dy, x, w, mean, rstd):
    N, C = x.shape
    for n in range(N):
        norm = (x[n] - mean[n]) * rstd[n]
        dw += dy[n] * norm
        db += dy[n]
        J = np.empty((C, C))
        for i in range(C):
            for j in range(C):
                J[i, j] = w[i] * rstd[n] * ((i == j) - 1 / C - norm[i] * norm[j] / C)
        dx[n] += J @ dy[n]
