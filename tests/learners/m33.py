import numpy as np


def cross_entropy_forward(nll, lse, logits, labels):
    ok = labels > -1
    row, col = np.nonzero(ok)[0], labels[ok]
    peak = logits[row].max(axis=1)
    s = np.log(np.exp(logits[row] - peak.reshape(-1, 1)).sum(axis=1)) + peak
    out_lse, out_nll = np.zeros(len(ok)), np.zeros(len(ok))
    out_lse[row] = s
    out_nll[row] = s - logits[row, col]
    lse[:], nll[:] = out_lse, out_nll


def cross_entropy_backward(dlogits, dnll, logits, lse, labels):
    ok = labels > -1
    row, col = np.nonzero(ok)[0], labels[ok]
    p = np.exp(logits[row] - lse[row].reshape(-1, 1))
    target = np.zeros_like(p)
    target[np.arange(len(row)), col] = 1
    grad = np.zeros_like(logits)
    grad[row] = (target - p) * dnll[row].reshape(-1, 1) / len(row)
    dlogits[:] = grad


def mean_nll(nll, labels, cu_seqlens):
    ok = labels > -1
    return nll[ok].mean(), np.where(ok, 1 / ok.sum(), 0)
