import numpy as np


def matmul_forward(y, x, w, b=None, residual=None):
    y[:] = np.einsum("nc,kc->nk", x, w)
    if b is not None:
        y += b
    if residual is not None:
        y += residual


def matmul_backward(dx, dw, db, dy, x, w):
    dx[:] = np.einsum("nk,kc->nc", dy, w)
    dw += np.einsum("nk,nc->kc", dy, x)
    db += np.einsum("nk->k", dy)
