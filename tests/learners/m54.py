import numpy as np


def adamw(w, m, v, g, step, lr, beta1=0.9, beta2=0.999, eps=1e-8, decay=0.0):
    m = m + (1 - beta1) * (g - m)
    v = v + (1 - beta2) * (g**2 - v)
    correction = np.sqrt(1 - beta2**step) / (1 - beta1**step)
    w *= 1 - lr * decay
    w -= lr * correction * m / (np.sqrt(v) + eps * np.sqrt(1 - beta2**step))
