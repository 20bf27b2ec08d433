import numpy as np

ROOT = np.sqrt(2 / np.pi)


def gate(x):
    return 0.5 * (1 + np.tanh(ROOT * (x + 0.044715 * x**3)))


def gelu_forward(y, x):
    y[:] = gate(x) * x


def gelu_backward(dx, dy, x):
    dx[:] = gate(x) * dy
