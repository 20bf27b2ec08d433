import numpy as np


def attention_forward(y, lse, qkv, cu_seqlens):
    N, C = y.shape
    H = lse.shape[1]
    q, k, v = (m.reshape(N, H, -1) for m in np.split(qkv, 3, axis=1))
    seq = np.searchsorted(cu_seqlens, np.arange(N), side="right")
    visible = (seq[:, None] == seq) & (np.arange(N)[:, None] >= np.arange(N))
    score = np.einsum("thd,jhd->htj", q, k) / np.sqrt(C)
    score[:, ~visible] = -np.inf
    m = score.max(axis=2)
    lse[:] = (m + np.log(np.exp(score - m[:, :, None]).sum(axis=2))).T
    P = np.exp(score - lse.T[:, :, None])
    y[:] = np.einsum("htj,jhd->thd", P, v).reshape(N, C)


def attention_backward(dqkv, dy, qkv, y, lse, cu_seqlens):
    N, C = y.shape
    H = lse.shape[1]
    D = C // H
    q, k, v = (m.reshape(N, H, D) for m in np.split(qkv, 3, axis=1))
    seq = np.searchsorted(cu_seqlens, np.arange(N), side="right")
    visible = (seq[:, None] == seq) & (np.arange(N)[:, None] >= np.arange(N))
    score = np.einsum("thd,jhd->htj", q, k) / np.sqrt(D)
    P = np.exp(np.where(visible, score, -np.inf) - lse.T[:, :, None])
    g = dy.reshape(N, H, D)
    dP = np.einsum("thd,jhd->htj", g, v)
    dS = P * (dP - np.einsum("htj,htj->ht", P, dP)[:, :, None]) / np.sqrt(D)
    parts = [
        np.einsum("htj,jhd->thd", dS, k),
        np.einsum("htj,thd->jhd", dS, q),
        np.einsum("htj,thd->jhd", P, g),
    ]
    dqkv[:] = np.concatenate([part.reshape(N, C) for part in parts], axis=1)
