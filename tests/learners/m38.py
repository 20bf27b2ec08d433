import numpy as np


def matmul_forward(y, x, w, b=None, residual=None):
    y[:] = np.tensordot(x, w, axes=(1, 1))
    if b is not None:
        y[:] += b[None, :]
    if residual is not None:
        y[:] += residual


def matmul_backward(dx, dw, db, dy, x, w):
    for n in range(len(dy)):
        db += dy[n]
        dw += np.outer(dy[n], x[n])
        dx[n] += w.T @ dy[n]
