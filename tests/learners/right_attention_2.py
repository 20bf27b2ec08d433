import numpy as np


def attention_forward(y, lse, qkv, cu_seqlens):
    C, H = y.shape[1], lse.shape[1]
    D = C // H
    for s in range(len(cu_seqlens) - 1):
        for t in range(cu_seqlens[s], cu_seqlens[s + 1]):
            for h in range(H):
                lo, hi = h * D, (h + 1) * D
                q = qkv[t, lo:hi]
                score = []
                for j in range(cu_seqlens[s], t + 1):
                    score.append(q @ qkv[j, C + lo : C + hi] / np.sqrt(D))
                top = max(score)
                e = np.exp(np.array(score) - top)
                lse[t, h] = top + np.log(e.sum())
                y[t, lo:hi] = (e / e.sum()) @ qkv[cu_seqlens[s] : t + 1, 2 * C + lo : 2 * C + hi]


def attention_backward(dqkv, dy, qkv, y, lse, cu_seqlens):
    C, H = y.shape[1], lse.shape[1]
    D = C // H
    grad = np.zeros(qkv.shape)
    for s in range(len(cu_seqlens) - 1):
        first = cu_seqlens[s]
        for t in range(first, cu_seqlens[s + 1]):
            seen = slice(first, t + 1)
            for h in range(H):
                Q, K, V = (slice(i * C + h * D, i * C + (h + 1) * D) for i in range(3))
                p = np.exp(qkv[seen, K] @ qkv[t, Q] / np.sqrt(D) - lse[t, h])
                jacobian = np.diag(p) - np.outer(p, p)  # of the softmax, symmetric
                dp = qkv[seen, V] @ dy[t, Q]
                ds = jacobian @ dp / np.sqrt(D)
                grad[t, Q] += ds @ qkv[seen, K]
                grad[seen, K] += np.outer(ds, qkv[t, Q])
                grad[seen, V] += np.outer(p, dy[t, Q])
    dqkv[:] = grad
