import numpy as np


def blocks(cu_seqlens, H, D):
    for s in range(len(cu_seqlens) - 1):
        for h in range(H):
            yield slice(cu_seqlens[s], cu_seqlens[s + 1]), h, h * D + np.arange(D)


def attention_forward(y, lse, qkv, cu_seqlens):
    C, H = y.shape[1], lse.shape[1]
    for rows, h, cols in blocks(cu_seqlens, H, C // H):
        q = qkv[rows][:, cols]
        k = qkv[rows][:, C + cols]
        v = qkv[rows][:, 2 * C + cols]
        score = q @ k.T * len(cols) ** -0.5
        biggest = score.max(axis=1, keepdims=True)
        e = np.exp(score - biggest)
        Z = e.sum(axis=1, keepdims=True)
        weights = np.tril(e / Z)
        y[rows, cols[0] : cols[-1] + 1] = weights @ v
        lse[rows, h] = (biggest + np.log(Z)).ravel()


def attention_backward(dqkv, dy, qkv, y, lse, cu_seqlens):
    C, H = y.shape[1], lse.shape[1]
    for rows, h, cols in blocks(cu_seqlens, H, C // H):
        scale = len(cols) ** -0.5
        q = qkv[rows][:, cols]
        k = qkv[rows][:, C + cols]
        v = qkv[rows][:, 2 * C + cols]
        out, dout = y[rows][:, cols], dy[rows][:, cols]
        weights = np.tril(np.exp(q @ k.T * scale - lse[rows, h, None]))
        ds = weights * (dout @ v.T - (out * dout).sum(axis=1)[:, None])
        first, last = cols[0], cols[-1] + 1
        dqkv[rows, first:last] = scale * ds @ k
        dqkv[rows, C + first : C + last] = scale * ds.T @ q
        dqkv[rows, 2 * C + first : 2 * C + last] = weights.T @ dout
