import numpy as np


def lora_forward(y, x, w, A, B, alpha):
    merged = w + alpha / A.shape[0] * B @ A
    y[:] = x @ merged.T


def lora_backward(dx, dA, dB, dy, x, w, A, B, alpha):
    s = alpha / A.shape[0]
    dx[:] = dy @ (w + s * B @ A)
    for n in range(len(x)):
        u = A @ x[n]
        dB += s * np.outer(dy[n], u)
        du = B.T @ dy[n]
        dA += np.outer(du, x[n])
