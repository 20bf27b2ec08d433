import numpy as np


def layernorm_forward(y, mean, rstd, x, w, b, eps=1e-5):
    for n in range(len(x)):
        mu = sum(x[n]) / len(x[n])
        var = sum((v - mu) ** 2 for v in x[n]) / len(x[n])
        mean[n], rstd[n] = mu, 1 / np.sqrt(var + eps)
        y[n] = (x[n] - mu) * rstd[n] * w + b


def layernorm_backward(dx, dw, db, dy, x, w, mean, rstd):
    N, C = x.shape
    for n in range(N):
        d = x[n] - mean[n]
        norm = d * rstd[n]
        db += dy[n]
        dw += dy[n] * norm
        # the Jacobian d norm[i] / d x[j] of this row, from d mean and d variance
        dmean = np.full(C, 1 / C)
        dvariance = 2 * d / C
        drstd = -0.5 * rstd[n] ** 3 * dvariance
        J = rstd[n] * (np.eye(C) - np.outer(np.ones(C), dmean)) + np.outer(d, drstd)
        dx[n] += J.T @ np.diag(w) @ dy[n]
