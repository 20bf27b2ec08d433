import numpy as np


def gelu_forward(y, x):
    root = np.sqrt(2 / np.pi)
    for i in np.ndindex(*x.shape):
        v = float(x[i])
        y[i] = 0.5 * v * (1 + np.tanh(root * (v + 0.044715 * v * v * v)))


def gelu_backward(dx, dy, x):
    root = np.sqrt(2 / np.pi)
    for i in np.ndindex(*x.shape):
        v = float(x[i])
        t = np.tanh(root * (v + 0.044715 * v * v * v))
        gate_path = v * 0.5 * (1 - t) * (1 + t) * root * (1 + 3 * 0.044715 * v * v)
        dx[i] = dy[i] * ((1 + t) / 2 + gate_path)
