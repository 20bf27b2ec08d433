import numpy as np


def matmul_forward(y, x, w, b=None, residual=None):
    y[:] = np.einsum("nc,kc->nk", x, w)
    y += 0 if b is None else b
    y += 0 if residual is None else residual


def matmul_backward(dx, dw, db, dy, x, w):
    dx[:] = np.einsum("nk,kc->nc", dy, w)
    dw += np.einsum("nc,nk->ck", x, dy).reshape(dw.shape)
    db += np.einsum("nk->k", dy)
