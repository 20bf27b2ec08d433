import numpy as np


def attention_forward(y, lse, qkv, cu_seqlens):
    N, C = y.shape
    H = lse.shape[1]
    D = C // H
    r = 1 / np.sqrt(D)
    for s in range(len(cu_seqlens) - 1):
        i = slice(cu_seqlens[s], cu_seqlens[s + 1])
        T = i.stop - i.start
        for h in range(H):
            q = qkv[i, D * h : D * h + D]
            k = qkv[i, C + D * h : C + D * h + D]
            v = qkv[i, 2 * C + D * h : 2 * C + D * h + D]
            A = np.where(np.tril(np.ones((T, T))) == 1, r * (q @ k.T), -np.inf)
            L = np.logaddexp.reduce(A, axis=1, keepdims=True)
            lse[i, h] = L[:, 0]
            y[i, D * h : D * h + D] = np.exp(A - L) @ v


def attention_backward(dqkv, dy, qkv, y, lse, cu_seqlens):
    N, C = y.shape
    H = lse.shape[1]
    D = C // H
    r = 1 / np.sqrt(D)
    for s in range(len(cu_seqlens) - 1):
        i = slice(cu_seqlens[s], cu_seqlens[s + 1])
        for h in range(H):
            jq, jk, jv = [slice(n * C + D * h, n * C + D * h + D) for n in (0, 1, 2)]
            q, k, v, do = qkv[i, jq], qkv[i, jk], qkv[i, jv], dy[i, jq]
            P = np.tril(np.exp(r * (q @ k.T) - lse[i, h : h + 1]))
            dqkv[i, jv] = P @ do
            dP = do @ v.T
            dA = P * dP - P * np.sum(P * dP, axis=1, keepdims=True)
            dqkv[i, jq] = r * (dA @ k)
            dqkv[i, jk] = r * (dA.T @ q)
