import numpy as np


class Norm:
    def __init__(self, x, w, mean, rstd):
        self.w, self.rstd = w, rstd[:, None]
        self.norm = (x - mean[:, None]) * self.rstd

    def back(self, dy):
        C = len(self.w)
        g = dy * self.w
        dots = np.einsum("nc,nc->n", g, self.norm)[:, None]
        dx = self.rstd / C * (C * g - g.sum(1)[:, None] - self.norm * dots)
        return dx, np.einsum("nc,nc->c", dy, self.norm), np.einsum("nc->c", dy)


def attention_gradient(dy, qkv, lse, cu):
    N, C = dy.shape
    H = lse.shape[1]
    D = C // H
    q, k, v = (part.reshape(N, H, D) for part in np.split(qkv, 3, axis=1))
    seq = np.searchsorted(cu, np.arange(N), side="right")
    see = np.tri(N, dtype=bool) & (seq[:, None] == seq)
    dy = dy.reshape(N, H, D)
    score = np.einsum("thd,jhd->htj", q, k) / np.sqrt(D)
    P = np.exp(np.where(see, score, -np.inf) - lse.T[:, :, None])
    dP = np.einsum("thd,jhd->htj", dy, v)
    dS = P * (dP - np.einsum("htj,htj->ht", P, dP)[..., None]) / np.sqrt(D)
    dq = np.einsum("htj,jhd->thd", dS, k)
    dk = np.einsum("htj,thd->jhd", dS, q)
    dv = np.einsum("htj,thd->jhd", P, dy)
    return np.concatenate([z.reshape(N, C) for z in (dq, dk, dv)], axis=1)


def gelu_slope(x):
    c, k = 0.044715, np.sqrt(2 / np.pi)
    t = np.tanh(k * (x + c * x**3))
    return (1 + t) / 2 + x * (1 - t**2) / 2 * k * (1 + 3 * c * x**2)


def whole_backward(a, p, dnll, tokens, labels, cu_seqlens):
    N, C = a["x"].shape
    d = {}

    d["logits"] = np.zeros_like(a["logits"])
    for n in range(N):
        if labels[n] != -100:
            d["logits"][n] = dnll[n] * np.exp(a["logits"][n] - a["logits_lse"][n])
            d["logits"][n, labels[n]] -= dnll[n]
    d["lnf"] = d["logits"] @ p["wte"]
    d["out"], d["lnf.w"], d["lnf.b"] = Norm(a["out"], p["lnf.w"], a["meanf"], a["rstdf"]).back(d["lnf"])

    # MLP
    d["fcproj.w"] = d["out"].T @ a["gelu"]
    d["fcproj.b"] = d["out"].sum(axis=0)
    d["fc"] = d["out"] @ p["fcproj.w"] * gelu_slope(a["fc"])
    d["fc.w"] = d["fc"].T @ a["ln2"]
    d["fc.b"] = d["fc"].sum(axis=0)
    d["ln2"] = d["fc"] @ p["fc.w"]
    branch, d["ln2.w"], d["ln2.b"] = Norm(a["mid"], p["ln2.w"], a["mean2"], a["rstd2"]).back(d["ln2"])
    d["mid"] = d["out"] + branch

    # attention
    d["attproj.w"] = d["mid"].T @ a["att"]
    d["attproj.b"] = d["mid"].sum(axis=0)
    d["att"] = d["mid"] @ p["attproj.w"]
    d["qkv"] = attention_gradient(d["att"], a["qkv"], a["lse"], cu_seqlens)
    d["qkv.w"] = d["qkv"].T @ a["ln1"]
    d["qkv.b"] = d["qkv"].sum(axis=0)
    d["ln1"] = d["qkv"] @ p["qkv.w"]
    branch, d["ln1.w"], d["ln1.b"] = Norm(a["x"], p["ln1.w"], a["mean1"], a["rstd1"]).back(d["ln1"])
    d["x"] = d["out"] + branch

    # tables
    position = np.arange(N) - np.repeat(cu_seqlens[:-1], np.diff(cu_seqlens))
    d["wte"] = d["logits"].T @ a["lnf"]
    np.add.at(d["wte"], tokens, d["x"])
    d["wpe"] = np.zeros_like(p["wpe"])
    np.add.at(d["wpe"], position, d["x"])
    return d
