import numpy as np


def gelu_forward(y, x):
    for i in np.ndindex(x.shape):
        u = (2 / np.pi) ** 0.5 * (x[i] + 0.044715 * x[i] ** 3)
        y[i] = 0.5 * x[i] * (1 + np.tanh(u))


def gelu_backward(dx, dy, x):
    for i in np.ndindex(x.shape):
        u = (2 / np.pi) ** 0.5 * (x[i] + 0.044715 * x[i] ** 3)
        t = np.tanh(u)
        dt_du = 1 - t * t
        du_dx = (2 / np.pi) ** 0.5 * (1 + 0.044715 * x[i] ** 2)
        dx[i] = dy[i] * (0.5 * (1 + t) + 0.5 * x[i] * dt_du * du_dx)
