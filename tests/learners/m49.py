import numpy as np


def ln(dy, x, w, mean, rstd):
    C = x.shape[1]
    dw, db, dx = np.zeros(C), np.zeros(C), np.zeros_like(x)
    for i, row in enumerate(x):
        n = (row - mean[i]) * rstd[i]
        J = rstd[i] * (np.eye(C) - 1 / C - np.outer(n, n) / C)
        dx[i] = J.T @ (dy[i] * w)
        dw, db = dw + dy[i] * n, db + dy[i]
    return dx, dw, db


def mm(dy, x, w):
    return dy.dot(w), dy.T.dot(x), dy.sum(0)


def attention(dy, qkv, lse, cu):
    N, C = dy.shape
    H = lse.shape[1]
    D = C // H
    out = np.zeros((N, 3 * C))
    for h in range(H):
        qs, ks, vs = (np.arange(D) + h * D + i * C for i in range(3))
        for a, b in zip(cu[:-1], cu[1:]):
            for t in range(a, b):
                P = np.exp(qkv[a : t + 1, ks] @ qkv[t, qs] / D**0.5 - lse[t, h])
                J = np.diag(P) - np.outer(P, P)
                ds = J @ (qkv[a : t + 1, vs] @ dy[t, qs]) / D**0.5
                out[t, qs] += ds @ qkv[a : t + 1, ks]
                out[a : t + 1, ks] += np.outer(ds, qkv[t, qs])
                out[a : t + 1, vs] += np.outer(P, dy[t, qs])
    return out


def gelu(dy, x):
    r = np.sqrt(2 / np.pi)
    u = r * (x + 0.044715 * x**3)
    s = 1 / (1 + np.exp(-2 * u))
    return dy * (s + x * 2 * s * (1 - s) * r * (1 + 0.134145 * x**2))


def whole_backward(a, p, dnll, tokens, labels, cu_seqlens):
    rows = np.flatnonzero(labels != -100)
    logits = np.zeros_like(a["logits"])
    logits[rows] = np.exp(a["logits"][rows] - a["logits_lse"][rows, None])
    logits[rows, labels[rows]] -= 1
    logits *= dnll[:, None]

    lnf, wte, _ = mm(logits, a["lnf"], p["wte"])
    out, lnf_w, lnf_b = ln(lnf, a["out"], p["lnf.w"], a["meanf"], a["rstdf"])
    wide, fcproj_w, fcproj_b = mm(out, a["gelu"], p["fcproj.w"])
    fc = gelu(wide, a["fc"])
    ln2, fc_w, fc_b = mm(fc, a["ln2"], p["fc.w"])
    mid, ln2_w, ln2_b = ln(ln2, a["mid"], p["ln2.w"], a["mean2"], a["rstd2"])
    mid = mid + out
    att, attproj_w, attproj_b = mm(mid, a["att"], p["attproj.w"])
    qkv = attention(att, a["qkv"], a["lse"], cu_seqlens)
    ln1, qkv_w, qkv_b = mm(qkv, a["ln1"], p["qkv.w"])
    x, ln1_w, ln1_b = ln(ln1, a["x"], p["ln1.w"], a["mean1"], a["rstd1"])
    x = x + mid

    wte[tokens] += x
    wpe = np.zeros_like(p["wpe"])
    wpe[np.concatenate([np.arange(n) for n in np.diff(cu_seqlens)])] += x

    found = {"lnf.w": lnf_w, "lnf.b": lnf_b, "fcproj.w": fcproj_w, "fcproj.b": fcproj_b}
    found |= {"fc.w": fc_w, "fc.b": fc_b, "ln2.w": ln2_w, "ln2.b": ln2_b}
    found |= {"attproj.w": attproj_w, "attproj.b": attproj_b, "qkv.w": qkv_w, "qkv.b": qkv_b}
    found |= {"ln1.w": ln1_w, "ln1.b": ln1_b, "wte": wte, "wpe": wpe, "logits": logits}
    return found | dict(lnf=lnf, out=out, fc=fc, ln2=ln2, mid=mid, att=att, qkv=qkv, ln1=ln1, x=x)
