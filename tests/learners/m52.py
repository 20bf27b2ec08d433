import numpy as np


def adamw(w, m, v, g, step, lr, beta1=0.9, beta2=0.999, eps=1e-8, decay=0.0):
    w *= 1 - lr * decay
    m *= beta1
    m += (1 - beta1) * g
    m /= 1 - beta1**step
    v *= beta2
    v += (1 - beta2) * g * g
    v /= 1 - beta2**step
    w -= lr * m / (np.sqrt(v) + eps)
