import numpy as np

# The kernels, outputs first


def matmul_backward(dx, dw, db, dy, x, w):
    dx[:] = dy @ w
    dw += dy.T @ x
    if db is not None:
        db += dy.sum(axis=0)


def layernorm_backward(dx, dw, db, dy, x, w, mean, rstd):
    xm = x - mean[:, None]
    r = rstd[:, None]
    g = dy * w
    dvar = -0.5 * (g * xm).sum(axis=1, keepdims=True) * r**3
    dmean = -(g * r).sum(axis=1, keepdims=True)
    dx += g * r + 2 * dvar * xm / x.shape[1] + dmean / x.shape[1]
    dw += (dy * xm * r).sum(axis=0)
    db += dy.sum(axis=0)


def gelu_backward(dx, dy, x):
    k = np.sqrt(2 / np.pi)
    t = np.tanh(k * (x + 0.044715 * x**3))
    dx[:] = dy * 0.5 * (1 + t + x * (1 - t * t) * k * (1 + 3 * 0.044715 * x * x))


def attention_backward(dqkv, dy, qkv, y, lse, cu_seqlens):
    C, H = dy.shape[1], lse.shape[1]
    D = C // H
    for a, b in zip(cu_seqlens[:-1], cu_seqlens[1:]):
        for lo in range(0, C, D):
            q, k, v = (qkv[a:b, o + lo : o + lo + D] for o in (0, C, 2 * C))
            g = dy[a:b, lo : lo + D]
            P = np.tril(np.exp(q @ k.T / np.sqrt(D) - lse[a:b, lo // D][:, None]))
            delta = np.sum(g * y[a:b, lo : lo + D], axis=1)[:, None]
            ds = P * (g @ v.T - delta) / np.sqrt(D)
            for o, value in ((0, ds @ k), (C, ds.T @ q), (2 * C, P.T @ g)):
                dqkv[a:b, o + lo : o + lo + D] = value


def cross_entropy_backward(dlogits, dnll, logits, lse, labels):
    for n, y in enumerate(labels):
        dlogits[n] = 0 if y == -100 else dnll[n] * np.exp(logits[n] - lse[n])
        if y != -100:
            dlogits[n, y] -= dnll[n]


def whole_backward(a, p, dnll, tokens, labels, cu_seqlens):
    acts = "logits lnf out fc ln2 mid att qkv ln1 x".split()
    g = {name: np.zeros_like(a[name]) for name in acts}
    g |= {name: np.zeros_like(value) for name, value in p.items()}
    dgelu = np.zeros_like(a["gelu"])

    def linear(dx, dy, x, name):
        matmul_backward(dx, g[name + ".w"], g[name + ".b"], dy, x, p[name + ".w"])

    def norm(dx, dy, x, name, n):
        w, b = g[name + ".w"], g[name + ".b"]
        layernorm_backward(dx, w, b, dy, x, p[name + ".w"], a["mean" + n], a["rstd" + n])

    cross_entropy_backward(g["logits"], dnll, a["logits"], a["logits_lse"], labels)
    matmul_backward(g["lnf"], g["wte"], None, g["logits"], a["lnf"], p["wte"])
    norm(g["out"], g["lnf"], a["out"], "lnf", "f")
    linear(dgelu, g["out"], a["gelu"], "fcproj")
    gelu_backward(g["fc"], dgelu, a["fc"])
    linear(g["ln2"], g["fc"], a["ln2"], "fc")
    norm(g["mid"], g["ln2"], a["mid"], "ln2", "2")
    linear(g["att"], g["mid"], a["att"], "attproj")
    attention_backward(g["qkv"], g["att"], a["qkv"], a["att"], a["lse"], cu_seqlens)
    linear(g["ln1"], g["qkv"], a["ln1"], "qkv")
    g["x"][:] = g["mid"]
    norm(g["x"], g["ln1"], a["x"], "ln1", "1")
    for s, start in enumerate(cu_seqlens[:-1]):
        g["wpe"][: cu_seqlens[s + 1] - start] += g["x"][start : cu_seqlens[s + 1]]
    return g
