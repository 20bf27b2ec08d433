import numpy as np


def split_heads(m, H):
    """(T, C) -> (H, T, D)"""
    T, C = m.shape
    return m.reshape(T, H, C // H).transpose(1, 0, 2)


def join_heads(m):
    H, T, D = m.shape
    return m.transpose(1, 0, 2).reshape(T, H * D)


def attention_forward(y, lse, qkv, cu_seqlens):
    H = lse.shape[1]
    for i in range(len(cu_seqlens) - 1):
        a, b = cu_seqlens[i], cu_seqlens[i + 1]
        q, k, v = (split_heads(m, H) for m in np.split(qkv[a:b], 3, axis=1))
        s = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
        s = s + np.triu(np.full((b - a, b - a), -1e30), 1)
        z = s - s.max(axis=-1, keepdims=True)
        e = np.exp(z)
        y[a:b] = join_heads((e / e.sum(axis=-1, keepdims=True)) @ v)
        lse[a:b] = (s.max(axis=-1) + np.log(e.sum(axis=-1))).T


def attention_backward(dqkv, dy, qkv, y, lse, cu_seqlens):
    H = lse.shape[1]
    for i in range(len(cu_seqlens) - 1):
        a, b = cu_seqlens[i], cu_seqlens[i + 1]
        q, k, v = (split_heads(m, H) for m in np.split(qkv[a:b], 3, axis=1))
        g = split_heads(dy[a:b], H)
        scale = 1 / np.sqrt(q.shape[-1])
        s = q @ k.transpose(0, 2, 1) * scale
        P = np.tril(np.exp(s - lse[a:b].T[:, :, None]))
        dv = P.transpose(0, 2, 1) @ g
        dP = g @ v.transpose(0, 2, 1)
        ds = dP * P
        dq = scale * ds @ k
        dk = scale * ds.transpose(0, 2, 1) @ q
        dqkv[a:b] = np.hstack([join_heads(dq), join_heads(dk), join_heads(dv)])
