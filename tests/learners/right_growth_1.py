import numpy as np


def expand_rows(w, count):
    new = np.empty((len(w) + count, w.shape[1]), w.dtype)
    new[: len(w)] = w
    new[len(w) :] = w.mean(axis=0)
    return new


def growth_cost(mass, extra, logits, lse, count):
    # all new symbols have the mean logit; z is their sum of exp over that of the old ones
    z = count * np.exp(logits.mean(axis=1) - lse)
    mass[:] = z / (1 + z)
    extra[:] = np.log1p(z)


def new_rows_backward(dnew, dnll, x, new, lse, labels, old):
    d = np.exp(x @ new.T - lse[:, None])
    d -= (labels - old)[:, None] == np.arange(len(new))
    dnew += (dnll[:, None] * d).T @ x
