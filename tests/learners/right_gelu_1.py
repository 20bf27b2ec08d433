import numpy as np


def gelu_forward(y, x):
    u = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    y[:] = x / (1 + np.exp(-2 * u))


def gelu_backward(dx, dy, x):
    # (1 + tanh u) / 2 = sigmoid(2 u), whose slope by u is 2 s (1 - s)
    u = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    s = 1 / (1 + np.exp(-2 * u))
    ds = 2 * s * (1 - s) * np.sqrt(2 / np.pi) * (1 + 0.134145 * x**2)
    dx[:] = dy * (s + x * ds)
