import numpy as np


def attention_forward(y, lse, qkv, cu_seqlens):
    C, H = y.shape[1], lse.shape[1]
    D = C // H
    for start, end in zip(cu_seqlens[:-1], cu_seqlens[1:]):
        for h in range(H):
            c = h * D
            for t in range(start, end):
                query = qkv[t, c : c + D]
                keys = qkv[start : t + 1, C + c : C + c + D]
                values = qkv[start : t + 1, 2 * C + c : 2 * C + c + D]
                score = keys @ query / np.sqrt(D)
                top = score.max()
                e = np.exp(score - top)
                lse[t, h] = top + np.log(e.sum())
                y[t, c : c + D] = e @ values / e.sum()


def attention_backward(dqkv, dy, qkv, y, lse, cu_seqlens):
    C, H = y.shape[1], lse.shape[1]
    D = C // H
    dqkv[:] = 0
    for start, end in zip(cu_seqlens[:-1], cu_seqlens[1:]):
        for h in range(H):
            c = h * D
            Q, K, V = (slice(i * C + c, i * C + c + D) for i in range(3))
            for t in range(start, end):
                seen = slice(start, t + 1)
                p = np.exp(qkv[seen, K] @ qkv[t, Q] / np.sqrt(D) - lse[t, h])
                dout = dy[t, Q]
                dp = qkv[seen, V] @ dout
                ds = p * (dp - p @ dp)
                dqkv[t, Q] += ds @ qkv[seen, K] / np.sqrt(D)
                dqkv[seen, K] += np.outer(ds, qkv[t, Q])
                dqkv[seen, V] += np.outer(p, dout)
