import numpy as np


def adamw(w, m, v, g, step, lr, beta1=0.9, beta2=0.999, eps=1e-8, decay=0.0):
    np.copyto(m, beta1 * m + (1 - beta1) * g)
    np.copyto(v, beta2 * v + (1 - beta2) * np.square(g))
    scale1, scale2 = 1 - beta1**step, 1 - beta2**step
    direction = (m / scale1) / (np.sqrt(v) / scale2 + eps)
    np.copyto(w, w - lr * decay * w - lr * direction)
