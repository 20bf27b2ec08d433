import numpy as np


def heads(cu_seqlens, C, H):
    D = C // H
    for s in range(len(cu_seqlens) - 1):
        for h in range(H):
            yield slice(cu_seqlens[s], cu_seqlens[s + 1]), slice(h * D, h * D + D), h


def attention_forward(y, lse, qkv, cu_seqlens):
    C, H = y.shape[1], lse.shape[1]
    q, k, v = qkv[:, :C], qkv[:, C : 2 * C], qkv[:, 2 * C :]
    for r, c, h in heads(cu_seqlens, C, H):
        e = q[r, c] @ k[r, c].T / np.sqrt(C / H)
        e[~np.tri(len(e), dtype=bool)] = -np.inf
        top = e.max(axis=1, keepdims=True)
        e = np.exp(e - top)
        total = e.sum(axis=1, keepdims=True)
        y[r, c] = e @ v[r, c] / total
        lse[r, h] = np.squeeze(top + np.log(total), 1)


def attention_backward(dqkv, dy, qkv, y, lse, cu_seqlens):
    C, H = y.shape[1], lse.shape[1]
    q, k, v = qkv[:, :C], qkv[:, C : 2 * C], qkv[:, 2 * C :]
    dq, dk, dv = dqkv[:, :C], dqkv[:, C : 2 * C], dqkv[:, 2 * C :]
    for r, c, h in heads(cu_seqlens, C, H):
        score = q[r, c] @ k[r, c].T / np.sqrt(C / H)
        P = np.tril(np.exp(score - lse[r, h][:, None]))
        dP = dy[r, c] @ v[r, c].T
        dscore = P * (dP - np.diag(y[r, c] @ dy[r, c].T)[:, None])
        dq[r, c] += dscore @ k[r, c] / np.sqrt(C / H)
        dk[r, c] += dscore @ q[r, c] / np.sqrt(C / H)
        dv[r, c] += P.T @ dy[r, c]
