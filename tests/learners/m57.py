import numpy as np


def adamw(w, m, v, g, step, lr, beta1=0.9, beta2=0.999, eps=1e-8, decay=0.0):
    m[...] = np.average([m, g], axis=0, weights=[beta1, 1 - beta1])
    v[...] = np.average([v, g**2], axis=0, weights=[beta2, 1 - beta2])
    unbiased = m / (1 - beta1**step)
    w[...] = (1 - decay) * w
    w[...] = w - lr * unbiased / (np.sqrt(v) + eps)
