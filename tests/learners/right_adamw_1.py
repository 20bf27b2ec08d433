import numpy as np


def adamw(w, m, v, g, step, lr, beta1=0.9, beta2=0.999, eps=1e-8, decay=0.0):
    for i in range(len(w)):
        m[i] = beta1 * m[i] + (1 - beta1) * g[i]
        v[i] = beta2 * v[i] + (1 - beta2) * g[i] * g[i]
        mean = m[i] / (1 - beta1**step)
        root = np.sqrt(v[i] / (1 - beta2**step))
        w[i] = w[i] * (1 - lr * decay) - lr * mean / (root + eps)
