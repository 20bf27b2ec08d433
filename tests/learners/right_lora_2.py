import numpy as np


def lora_forward(y, x, w, A, B, alpha):
    y[:] = x @ (w + (alpha / A.shape[0]) * (B @ A)).T


def lora_backward(dx, dA, dB, dy, x, w, A, B, alpha):
    s = alpha / A.shape[0]
    # through the merged matrix M = w + s B A: its gradient, then on to A and B
    dx[:] = dy @ (w + s * (B @ A))
    dM = sum(np.outer(dy[n], x[n]) for n in range(len(x)))  # (K,C)
    dA += s * (B.T @ dM)
    dB += s * (dM @ A.T)
