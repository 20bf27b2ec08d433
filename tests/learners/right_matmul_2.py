import numpy as np


def matmul_forward(y, x, w, b=None, residual=None):
    for n in range(x.shape[0]):
        for k in range(w.shape[0]):
            total = x[n] @ w[k]
            if b is not None:
                total += b[k]
            if residual is not None:
                total += residual[n, k]
            y[n, k] = total


def matmul_backward(dx, dw, db, dy, x, w):
    N, K = dy.shape
    for n in range(N):
        row = np.zeros(x.shape[1])
        for k in range(K):
            row += dy[n, k] * w[k]
            dw[k] += dy[n, k] * x[n]
            db[k] += dy[n, k]
        dx[n] = row
