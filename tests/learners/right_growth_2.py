import numpy as np


def expand_rows(w, count):
    V = w.shape[0]
    mix = np.vstack([np.eye(V), np.full((count, V), 1 / V)])
    grown = mix @ w
    grown[:V] = w
    return grown


def growth_cost(mass, extra, logits, lse, count):
    for n in range(len(logits)):
        new = np.full(count, np.sum(logits[n]) / len(logits[n]))
        both = lse[n]
        for logit in new:
            both = np.logaddexp(both, logit)
        mass[n] = sum(np.exp(logit - both) for logit in new)
        extra[n] = both - lse[n]


def new_rows_backward(dnew, dnll, x, new, lse, labels, old):
    for n in range(len(x)):
        for m in range(len(new)):
            p = np.exp(new[m] @ x[n] - lse[n])
            if labels[n] == old + m:
                p -= 1
            dnew[m] += dnll[n] * p * x[n]
