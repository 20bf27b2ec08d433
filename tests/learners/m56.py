import numpy as np


def corrected(mean, beta, step):
    return mean / (1 - beta**step)


def adamw(w, m, v, g, step, lr, beta1=0.9, beta2=0.999, eps=1e-8, decay=0.0):
    m[:] = (1 - beta1) * m + beta1 * g
    v[:] = v - (1 - beta2) * (v - g**2)
    w[:] *= 1 - lr * decay
    w[:] -= lr * corrected(m, beta1, step) / (corrected(v, beta2, step) ** 0.5 + eps)
