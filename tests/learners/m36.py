import numpy as np


def matmul_forward(y, x, w, b=None, residual=None):
    N, K = y.shape
    result = np.zeros((N, K))
    for n in range(N):
        for k in range(K):
            result[n, k] = np.sum(x[n] * w[k])
            if b is not None:
                result[n, k] += b[k]
    y[:] = result if residual is None else result + residual


def matmul_backward(dx, dw, db, dy, x, w):
    N, C = x.shape
    K = w.shape[0]
    for n in range(N):
        dx[n] = sum(dy[n, k] * w[k] for k in range(K))
    # w[k,c] and b[k] are used in every row: add up what flows back from the rows
    total = dy.sum(axis=0)
    for k in range(K):
        for c in range(C):
            dw[k, c] += total[k] * x[:, c].sum()
    db += total
