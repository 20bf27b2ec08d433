import numpy as np


def attention_forward(y, lse, qkv, cu_seqlens):
    H = lse.shape[1]
    N, C = y.shape
    D = C // H
    heads = qkv.reshape(N, H, 3, D)
    for a, b in zip(cu_seqlens[:-1], cu_seqlens[1:]):
        for h in range(H):
            q, k, v = heads[a:b, h].transpose(1, 0, 2)
            s = q @ k.T / np.sqrt(D)
            s[np.triu_indices(b - a, 1)] = -np.inf
            l = np.logaddexp.reduce(s, axis=1)
            lse[a:b, h] = l
            y[a:b, h * D : (h + 1) * D] = np.exp(s - l[:, None]) @ v


def attention_backward(dqkv, dy, qkv, y, lse, cu_seqlens):
    N, C = y.shape
    H = lse.shape[1]
    D = C // H
    for a, b in zip(cu_seqlens[:-1], cu_seqlens[1:]):
        for h in range(H):
            col = slice(h * D, (h + 1) * D)
            q, k, v = qkv[a:b, :C][:, col], qkv[a:b, C : 2 * C][:, col], qkv[a:b, 2 * C :][:, col]
            g = dy[a:b, col]
            P = np.tril(np.exp(q @ k.T / np.sqrt(D) - lse[a:b, h][:, None]))
            dP = g @ v.T
            dS = P * (dP - (P * dP).sum(axis=1, keepdims=True)) / np.sqrt(D)
            dqkv[a:b, :C][:, col] = dS @ k
            dqkv[a:b, C : 2 * C][:, col] = dS.T @ q
            dqkv[a:b, 2 * C :][:, col] = P.T @ g
