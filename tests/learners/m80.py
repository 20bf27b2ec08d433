import numpy as np


def expand_rows(w, count):
    return np.vstack([w, np.tile(w.mean(axis=0), (count, 1))])


def growth_cost(mass, extra, logits, lse, count):
    old = np.exp(lse)
    each = np.exp(logits).mean(axis=1)
    mass[:] = count * each / (old + count * each)
    extra[:] = np.log(old + count * each) - lse


def new_rows_backward(dnew, dnll, x, new, lse, labels, old):
    for m in range(len(new)):
        p = np.exp(x @ new[m] - lse)
        d = dnll * (p - (labels == old + m))
        dnew[m] += d @ x
