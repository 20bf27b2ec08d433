import numpy as np


def back_through_norm(g, out, x, name, a, p, number):
    """Gradient at x by the layer norm's branch; g gets those of w and b."""
    dy = g[out]
    mean, rstd = a["mean" + number], a["rstd" + number]
    dx = np.zeros_like(x)
    g[name + ".w"] = np.zeros(x.shape[1])
    g[name + ".b"] = np.zeros(x.shape[1])
    for n in range(len(x)):
        z = (x[n] - mean[n]) * rstd[n]
        e = dy[n] * p[name + ".w"]
        dx[n] = rstd[n] * (e - e.mean() - z * (e * z).mean())
        g[name + ".w"] += dy[n] * z
        g[name + ".b"] += dy[n]
    return dx


def back_through_linear(g, dy, x, name, p):
    g[name + ".w"] = np.einsum("nk,nc->kc", dy, x)
    g[name + ".b"] = np.einsum("nk->k", dy)
    return np.einsum("nk,kc->nc", dy, p[name + ".w"])


def whole_backward(a, p, dnll, tokens, labels, cu_seqlens):
    g = {}
    N, C = a["x"].shape
    V = len(p["wte"])
    ok = labels != -100

    onehot = labels[:, None] == np.arange(V)
    softmax = np.exp(a["logits"] - np.logaddexp.reduce(a["logits"], axis=1)[:, None])
    g["logits"] = np.where(ok[:, None], dnll[:, None] * (softmax - onehot), 0)
    g["lnf"] = np.einsum("nv,vc->nc", g["logits"], p["wte"])
    g["out"] = back_through_norm(g, "lnf", a["out"], "lnf", a, p, "f")

    dgelu = back_through_linear(g, g["out"], a["fc"], "fcproj", p)
    x = a["fc"]
    r, k = np.sqrt(2 / np.pi), 0.044715
    t = np.tanh(r * (x + k * x**3))
    g["fc"] = dgelu * ((1 + t) / 2 + x / 2 * (1 - t**2) * r * (1 + 3 * k * x**2))
    g["ln2"] = back_through_linear(g, g["fc"], a["ln2"], "fc", p)
    g["mid"] = g["out"] + back_through_norm(g, "ln2", a["mid"], "ln2", a, p, "2")

    g["att"] = back_through_linear(g, g["mid"], a["att"], "attproj", p)
    H = a["lse"].shape[1]
    D = C // H
    qkv = a["qkv"]
    g["qkv"] = np.zeros_like(qkv)
    for s in range(len(cu_seqlens) - 1):
        r = slice(cu_seqlens[s], cu_seqlens[s + 1])
        for h in range(H):
            Q, K, W = (slice(i * C + h * D, i * C + h * D + D) for i in range(3))
            P = np.tril(np.exp(qkv[r, Q] @ qkv[r, K].T / np.sqrt(D) - a["lse"][r, h, None]))
            dout = g["att"][r, Q]
            delta = (dout * a["att"][r, Q]).sum(1)
            ds = P * (dout @ qkv[r, W].T - delta[:, None]) / np.sqrt(D)
            g["qkv"][r, Q] = ds @ qkv[r, K]
            g["qkv"][r, K] = ds.T @ qkv[r, Q]
            g["qkv"][r, W] = P.T @ dout
    g["ln1"] = back_through_linear(g, g["qkv"], a["ln1"], "qkv", p)
    g["x"] = g["mid"] + back_through_norm(g, "ln1", a["x"], "ln1", a, p, "1")

    g["wte"] = np.einsum("nv,nc->vc", g["logits"], a["lnf"])
    g["wpe"] = np.zeros_like(p["wpe"])
    for s in range(len(cu_seqlens) - 1):
        for t, n in enumerate(range(cu_seqlens[s], cu_seqlens[s + 1])):
            g["wte"][tokens[n]] += g["x"][n]
            g["wpe"][t] += g["x"][n]
    return g
