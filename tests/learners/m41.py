import numpy as np


def gelu_forward(y, x):
    u = np.sqrt(2 / np.pi) * x + 0.044715 * x**3
    y[:] = x * (1 + np.tanh(u)) / 2


def gelu_backward(dx, dy, x):
    k = np.sqrt(2 / np.pi)
    u = k * (x + 0.044715 * x**3)
    du = k * (1 + 3 * 0.044715 * x**2)
    sech = 1 / np.cosh(u)
    dx[:] = dy * ((1 + np.tanh(u)) / 2 + x / 2 * sech**2 * du)
