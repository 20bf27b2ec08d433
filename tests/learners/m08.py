import numpy as np


def layernorm_forward(y, mean, rstd, x, w, b, eps=1e-5):
    np.mean(x, axis=1, out=mean)
    rstd[:] = np.reciprocal(np.sqrt(np.var(x, axis=1) + eps))
    np.copyto(y, (x - mean[:, np.newaxis]) * rstd[:, np.newaxis] * w + b)


def layernorm_backward(dx, dw, db, dy, x, w, mean, rstd):
    r = rstd[:, np.newaxis]
    norm = (x - mean[:, np.newaxis]) * r
    dnorm = dy * w
    db += np.sum(dy, axis=0)
    dw += np.sum(dy * norm, axis=0)
    dx += r * (dnorm - np.mean(dnorm, axis=0) - norm * np.mean(dnorm * norm, axis=0))
