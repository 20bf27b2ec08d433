import numpy as np


def add_linear(g, name, dy, x, w):
    """Gradients of w and b into g; return that of x. Row by row."""
    dw, db, dx = np.zeros_like(w), np.zeros(len(w)), np.zeros_like(x)
    for n in range(len(x)):
        dw += np.outer(dy[n], x[n])
        db += dy[n]
        dx[n] = w.T @ dy[n]
    g[name + ".w"], g[name + ".b"] = dw, db
    return dx


def add_norm(g, name, stream, dy, x, w, mean, rstd):
    """Gradients of w and b into g; add that of x to the stream."""
    C = x.shape[1]
    g[name + ".w"], g[name + ".b"] = np.zeros(C), np.zeros(C)
    for n in range(len(x)):
        norm = (x[n] - mean[n]) * rstd[n]
        jacobian = rstd[n] * (np.eye(C) - 1 / C - np.outer(norm, norm) / C)
        stream[n] += jacobian.T @ (w * dy[n])
        g[name + ".w"] += dy[n] * norm
        g[name + ".b"] += dy[n]


def whole_backward(a, p, dnll, tokens, labels, cu_seqlens):
    N, C = a["x"].shape
    H = a["lse"].shape[1]
    D = C // H
    g = {}

    g["logits"] = np.zeros_like(a["logits"])
    for n in range(N):
        if labels[n] != -100:
            g["logits"][n] = np.exp(a["logits"][n] - a["logits_lse"][n])
            g["logits"][n, labels[n]] -= 1
            g["logits"][n] *= dnll[n]
    g["wte"] = np.zeros_like(p["wte"])
    for n in range(N):
        g["wte"] += np.outer(g["logits"][n], a["lnf"][n])
    g["lnf"] = g["logits"] @ p["wte"]

    stream = np.zeros((N, C))
    add_norm(g, "lnf", stream, g["lnf"], a["out"], p["lnf.w"], a["meanf"], a["rstdf"])
    g["out"] = stream.copy()

    dgelu = add_linear(g, "fcproj", g["out"], a["gelu"], p["fcproj.w"])
    root = np.sqrt(2 / np.pi)
    t = np.tanh(root * (a["fc"] + 0.044715 * a["fc"] ** 3))
    slope = 0.5 * (1 + t) * (1 + a["fc"] * (1 - t) * root * (1 + 0.134145 * a["fc"] ** 2))
    g["fc"] = dgelu * slope
    g["ln2"] = add_linear(g, "fc", g["fc"], a["ln2"], p["fc.w"])
    add_norm(g, "ln2", stream, g["ln2"], a["mid"], p["ln2.w"], a["mean2"], a["rstd2"])
    g["mid"] = stream.copy()

    g["att"] = add_linear(g, "attproj", g["mid"], a["att"], p["attproj.w"])
    g["qkv"] = np.zeros((N, 3 * C))
    for start, end in zip(cu_seqlens[:-1], cu_seqlens[1:]):
        for h in range(H):
            for t in range(start, end):
                Q, K, V = (slice(i * C + h * D, i * C + (h + 1) * D) for i in range(3))
                seen = slice(start, t + 1)
                w = np.exp(a["qkv"][seen, K] @ a["qkv"][t, Q] / np.sqrt(D) - a["lse"][t, h])
                dout = g["att"][t, Q]
                ds = w * (a["qkv"][seen, V] @ dout - a["att"][t, Q] @ dout) / np.sqrt(D)
                g["qkv"][t, Q] += ds @ a["qkv"][seen, K]
                g["qkv"][seen, K] += np.outer(ds, a["qkv"][t, Q])
                g["qkv"][seen, V] += np.outer(w, dout)
    g["ln1"] = add_linear(g, "qkv", g["qkv"], a["ln1"], p["qkv.w"])
    add_norm(g, "ln1", stream, g["ln1"], a["x"], p["ln1.w"], a["mean1"], a["rstd1"])
    g["x"] = stream.copy()

    g["wpe"] = np.zeros_like(p["wpe"])
    for start, end in zip(cu_seqlens[:-1], cu_seqlens[1:]):
        for n in range(start, end):
            g["wte"][tokens[n]] += g["x"][n]
            g["wpe"][n - start] += g["x"][n]
    return g
