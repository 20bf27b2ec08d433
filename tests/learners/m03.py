import numpy as np


def layernorm_forward(y, mean, rstd, x, w, b, eps=1e-5):
    mu = x.mean(axis=1, keepdims=True)
    centred = x - mu
    var = (centred**2).mean(axis=1, keepdims=True)
    inv = 1 / np.sqrt(var + eps)
    y[:] = centred * inv * w + b
    mean[:] = mu.ravel()
    rstd[:] = inv.ravel()


def layernorm_backward(dx, dw, db, dy, x, w, mean, rstd):
    C = x.shape[1]
    inv = rstd.reshape(-1, 1)
    centred = x - mean.reshape(-1, 1)

    # y = norm * w + b
    db += dy.sum(axis=0)
    dw += (dy * centred * inv).sum(axis=0)
    dnorm = dy * w

    # norm = centred * inv
    dcentred = dnorm * inv
    dinv = (dnorm * centred).sum(axis=1, keepdims=True)

    # inv = (var + eps) ** -1/2, var = mean of centred ** 2
    dvar = dinv * -0.5 * inv**3
    dcentred = dcentred + dvar * 2 * centred / C

    # centred = x - mean
    dx += dcentred
