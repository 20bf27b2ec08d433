import numpy as np


def lora_forward(y, x, w, A, B, alpha):
    s = alpha / np.sqrt(len(A))
    y[:] = x @ w.T + s * (x @ A.T) @ B.T


def lora_backward(dx, dA, dB, dy, x, w, A, B, alpha):
    s = alpha / len(A)
    du = s * dy @ B
    dx[:] = dy @ w + du @ A
    dA += du.T @ x
    dB += s * dy.T @ (x @ A.T)
