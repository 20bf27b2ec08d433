import numpy as np


def gelu_forward(y, x):
    c = np.sqrt(2.0 / np.pi)
    t = np.tanh(c * x * (1 + 0.044715 * x * x))
    y[...] = 0.5 * (x + x * t)


def gelu_backward(dx, dy, x):
    c = np.sqrt(2.0 / np.pi)
    t = np.tanh(c * x * (1 + 0.044715 * x * x))
    dt = (1 - t) * c * (1 + 0.134145 * x * x)
    dx[...] = 0.5 * dy * (1 + t + x * dt)
