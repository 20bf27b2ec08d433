import numpy as np


def attention_forward(y, lse, qkv, cu_seqlens):
    H = lse.shape[1]
    D = y.shape[1] // H
    Q, K, V = np.split(qkv, 3, axis=1)
    for h in range(H):
        c = slice(h * D, (h + 1) * D)
        for s in range(len(cu_seqlens) - 1):
            start = cu_seqlens[s]
            for t in range(start, cu_seqlens[s + 1]):
                score = np.array([Q[t, c] @ K[j, c] / np.sqrt(D) for j in range(start, t + 1)])
                lse[t, h] = score.max() + np.log(np.exp(score - score.max()).sum())
                p = np.exp(score - lse[t, h])
                y[t, c] = sum(p[j - start] * V[j, c] for j in range(start, t + 1))


def attention_backward(dqkv, dy, qkv, y, lse, cu_seqlens):
    H = lse.shape[1]
    D = y.shape[1] // H
    scale = D**-0.5
    Q, K, V = np.split(qkv, 3, axis=1)
    dQ, dK, dV = np.split(dqkv, 3, axis=1)  # views
    dqkv.fill(0)
    for h in range(H):
        c = slice(h * D, (h + 1) * D)
        for s in range(len(cu_seqlens) - 1):
            start = cu_seqlens[s]
            for t in range(start, cu_seqlens[s + 1]):
                for j in range(start, t + 1):
                    p = np.exp(Q[t, c] @ K[j, c] * scale - lse[t, h])
                    dp = dy[t, c] @ V[j, c]
                    dscore = dp * p * (1 - p)
                    dV[j, c] += p * dy[t, c]
                    dQ[t, c] += dscore * scale * K[j, c]
                    dK[j, c] += dscore * scale * Q[t, c]
