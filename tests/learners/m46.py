import numpy as np


def linear_back(dy, x, w):
    return dy @ w, dy.T @ x, dy.sum(axis=0)


def norm_back(dx, dy, x, w, mean, rstd):
    """Add to dx; return dw and db."""
    n = (x - mean[:, None]) * rstd[:, None]
    g = dy * w
    dx += rstd[:, None] * (g - g.mean(1, keepdims=True) - n * (g * n).mean(1, keepdims=True))
    return (dy * n).sum(0), dy.sum(0)


def gelu_back(dy, x):
    r = np.sqrt(2 / np.pi)
    t = np.tanh(r * (x + 0.044715 * x**3))
    return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t**2) * r * (1 + 3 * 0.044715 * x**2))


def att_back(dy, qkv, lse, cu_seqlens):
    N, C = dy.shape
    H = lse.shape[1]
    D = C // H
    d = np.zeros((N, 3, H, D))
    for a, b in zip(cu_seqlens[:-1], cu_seqlens[1:]):
        for h in range(H):
            q, k, v = qkv[a:b].reshape(b - a, 3, H, D)[:, :, h].swapaxes(0, 1)
            g = dy[a:b, h * D : (h + 1) * D]
            P = np.tril(np.exp(q @ k.T / np.sqrt(D) - lse[a:b, [h]]))
            dP = g @ v.T
            ds = P * (dP - (P * dP).sum(1, keepdims=True)) / np.sqrt(D)
            d[a:b, 0, h], d[a:b, 1, h], d[a:b, 2, h] = ds @ k, ds.T @ q, P.T @ g
    return d.reshape(N, 3 * C)


def whole_backward(a, p, dnll, tokens, labels, cu_seqlens):
    g = {}
    graded = labels != -100
    d = np.exp(a["logits"] - np.where(graded, a["logits_lse"], a["logits"].max(1))[:, None])
    d[graded, labels[graded]] -= 1
    g["logits"] = d * (dnll * graded)[:, None]
    g["lnf"] = g["logits"] @ p["wte"]
    g["wte"] = g["logits"].T @ a["lnf"]

    stream = np.zeros_like(a["out"])  # the gradient on the residual stream
    g["lnf.w"], g["lnf.b"] = norm_back(stream, g["lnf"], a["out"], p["lnf.w"], a["meanf"], a["rstdf"])
    g["out"] = stream

    dgelu, g["fcproj.w"], g["fcproj.b"] = linear_back(g["out"], a["gelu"], p["fcproj.w"])
    g["fc"] = gelu_back(dgelu, a["fc"])
    g["ln2"], g["fc.w"], g["fc.b"] = linear_back(g["fc"], a["ln2"], p["fc.w"])
    g["ln2.w"], g["ln2.b"] = norm_back(stream, g["ln2"], a["mid"], p["ln2.w"], a["mean2"], a["rstd2"])
    g["mid"] = stream

    g["att"], g["attproj.w"], g["attproj.b"] = linear_back(g["mid"], a["att"], p["attproj.w"])
    g["qkv"] = att_back(g["att"], a["qkv"], a["lse"], cu_seqlens)
    g["ln1"], g["qkv.w"], g["qkv.b"] = linear_back(g["qkv"], a["ln1"], p["qkv.w"])
    g["ln1.w"], g["ln1.b"] = norm_back(stream, g["ln1"], a["x"], p["ln1.w"], a["mean1"], a["rstd1"])
    g["x"] = stream

    np.add.at(g["wte"], tokens, g["x"])
    g["wpe"] = np.zeros_like(p["wpe"])
    for start, end in zip(cu_seqlens[:-1], cu_seqlens[1:]):
        g["wpe"][: end - start] += g["x"][start:end]
    return g
