import numpy as np


def adamw(w, m, v, g, step, lr, beta1=0.9, beta2=0.999, eps=1e-8, decay=0.0):
    # as a change of each array, with the corrections moved into lr and eps
    m += (1 - beta1) * (g - m)
    v += (1 - beta2) * (np.square(g) - v)
    c1, c2 = 1 - beta1**step, np.sqrt(1 - beta2**step)
    w -= lr * decay * w
    w -= (lr * c2 / c1) * m / (np.sqrt(v) + eps * c2)
