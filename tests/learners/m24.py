import numpy as np


def attention_forward(y, lse, qkv, cu_seqlens):
    N, H = lse.shape
    D = qkv.shape[1] // (3 * H)
    x = qkv.reshape(N, 3, H, D)
    for h in range(H):
        for first, end in zip(cu_seqlens[:-1], cu_seqlens[1:]):
            q, k, v = x[first:end, 0, h], x[first:end, 1, h], x[first:end, 2, h]
            scaled = (q / np.sqrt(D)) @ k.T
            scaled[np.triu_indices_from(scaled, k=1)] = -np.inf
            shift = scaled.max(axis=1)
            unnormed = np.exp(scaled - shift[:, None])
            lse[first:end, h] = shift + np.log(unnormed.sum(axis=1))
            y[first:end, h * D : (h + 1) * D] = (unnormed @ v) / unnormed.sum(axis=1)[:, None]


def attention_backward(dqkv, dy, qkv, y, lse, cu_seqlens):
    N, H = lse.shape
    D = qkv.shape[1] // (3 * H)
    x = qkv.reshape(N, 3, H, D)
    dout = dy.reshape(N, H, D)
    grads = np.zeros_like(x)
    for h in range(H):
        for first, end in zip(cu_seqlens[:-1], cu_seqlens[1:]):
            rows = slice(first, end)
            q, k, v = x[rows, 0, h], x[rows, 1, h], x[rows, 2, h]
            mask = np.tri(end - first)
            P = mask * np.exp(q @ k.T - lse[rows, h, None])
            dP = dout[rows, h] @ v.T
            mean = (mask * dP).sum(axis=1) / mask.sum(axis=1)
            dscore = P * (dP - mean[:, None])
            grads[rows, 0, h] = dscore @ k / np.sqrt(D)
            grads[rows, 1, h] = dscore.T @ q / np.sqrt(D)
            grads[rows, 2, h] = P.T @ dout[rows, h]
    dqkv[:] = grads.reshape(N, -1)
