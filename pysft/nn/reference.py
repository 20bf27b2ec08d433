"""Every kernel once more, in NumPy, written to be read, with the derivation of every gradient.

The names and arguments are those of kernels.py, without `threads` and `calls`.
`GPT(config, ops=reference)` runs the whole model on these functions and needs no compiler.

How to read a backward. Let L be the loss, and write dy for dL/dy, which has the shape of y. By the
chain rule dL/dx is the sum of dy * (d y / d x) over all elements of y. Each backward below is that
sum, worked out by hand from the forward directly above it.

As in the kernels, parameter gradients are ADDED to what the array holds, because several
micro-batches contribute, and both uses of a tied weight. Activation gradients are WRITTEN. The
exception is layernorm_backward. Its input x is the residual stream, which has other readers too, so
it ADDS its dx.
"""

import inspect
from functools import partial
from types import SimpleNamespace

import numpy as np

IGNORE = -100  # the label of a row that is not graded


# ----------------------------------------------------------------------------- linear layers


def matmul_forward(y, x, w, b=None, residual=None, precision="float32"):
    """y (N,K) = x (N,C) wT + b (K) [+ residual (N,K)]. w (K,C) has a row for each output.

    precision: "bf16" rounds x and w (factor) and adds up in float32."""
    result = factor(x, precision) @ factor(w, precision).T
    if b is not None:
        result += b
    if residual is not None:
        result += residual
    y[:] = result


def matmul_backward(dx, dw, db, dy, x, w, precision="float32"):
    """y[n,k] = sum_c x[n,c] w[k,c] + b[k], so

    dx[n,c] = sum_k dy[n,k] w[k,c]       dx = dy w
    dw[k,c] = sum_n dy[n,k] x[n,c]       dw = dyT x
    db[k]   = sum_n dy[n,k]

    The residual is added unchanged, so its gradient is dy. Pass None for a gradient that is not
    wanted. In bf16 these formulas take no notice of the rounding: they are the derivatives of the
    product that was not rounded, and their own factors are rounded too."""
    rounded_dy = factor(dy, precision)
    if dx is not None:
        dx[:] = rounded_dy @ factor(w, precision)
    if dw is not None:
        dw += rounded_dy.T @ factor(x, precision)
    if db is not None:
        db += dy.sum(axis=0)


def factor(x, precision="float32"):
    """Return an array as a product takes it: itself, or in "bf16" rounded to a bf16.

    A bf16 is the upper half of a float32: its sign, its exponent and 7 of its 23 bits. x is rounded
    to the nearest one, of two that are equally near to the one whose last bit is 0. To round, add
    half of the last bit that stays, less one if that bit is 0, and cut the rest off. Numbers below
    the least normal float32, 1.2e-38, become 0, as in the instruction vcvtne2ps2bf16."""
    if precision == "float32":
        return x
    bits = x.astype(np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    tiny = np.abs(x) < np.finfo(np.float32).tiny
    return np.where(np.isfinite(x), np.where(tiny, 0, rounded.view(np.float32)), x).astype(x.dtype)


# --------------------------------------------------------------------------------- attention


def _heads_of(qkv, cu_seqlens, H):
    """Yield (seq, h, q, k, v) for each sequence and each head.

    seq: the slice of the sequence's rows. h: the head's number. q, k and v: the slices of the
    head's D columns in qkv; `q` are its columns in y too."""
    C = qkv.shape[1] // 3
    D = C // H
    for start, end in zip(cu_seqlens[:-1], cu_seqlens[1:]):
        for h in range(H):
            q, k, v = (slice(part * C + h * D, part * C + (h + 1) * D) for part in range(3))
            yield slice(start, end), h, q, k, v


def attention_forward(y, lse, qkv, cu_seqlens):
    """Causal attention (Vaswani et al. 2017, section 3.2), each sequence and head by itself:

        score[t,j] = q[t] . k[j] / sqrt(D)  for j <= t;   P = softmax(score);   y = P v

    y (N,C); lse (N,H) = log sum_j exp(score[t,j]); qkv (N,3C) = queries, keys, values of all
    heads."""
    for seq, h, q, k, v in _heads_of(qkv, cu_seqlens, lse.shape[1]):
        T, D = qkv[seq, q].shape
        score = qkv[seq, q] @ qkv[seq, k].T / np.sqrt(D)  # (T,T)
        score = np.where(np.tri(T, dtype=bool), score, -np.inf)  # so P[t,j] = 0 for j > t
        top = score.max(axis=1, initial=-np.inf, keepdims=True)
        e = np.exp(score - top)  # at most 1, so nothing overflows
        total = e.sum(axis=1, keepdims=True)
        y[seq, q] = e / total @ qkv[seq, v]
        lse[seq, h] = (top + np.log(total))[:, 0]


def attention_backward(dqkv, dy, qkv, y, lse, cu_seqlens):
    """Back through y = P v, P = softmax(score), score = scale q kT, with scale = 1/sqrt(D):

        dv = PT dy,   dP = dy vT                               (y = P v is a product)
        d P[t,i] / d score[t,j] = P[t,i] ([i = j] - P[t,j])    (of the softmax), so that
        dscore[t,j] = P[t,j] (dP[t,j] - sum_i P[t,i] dP[t,i])
        dq = scale dscore k,   dk = scale dscoreT q            (q kT is a product)

    The sum over i is the same for every j of a row. It equals y[t] . dy[t], because dP[t,i] =
    dy[t] . v[i] and sum_i P[t,i] v[i] = y[t]. P itself is exp(score - lse), so the forward does not
    keep anything of size T x T."""
    for seq, h, q, k, v in _heads_of(qkv, cu_seqlens, lse.shape[1]):
        dout, (T, D) = dy[seq, q], qkv[seq, q].shape
        scale = 1 / np.sqrt(D)
        P = np.exp(qkv[seq, q] @ qkv[seq, k].T * scale - lse[seq, h, None])
        P = np.where(np.tri(T, dtype=bool), P, 0)
        dP = dout @ qkv[seq, v].T
        delta = (y[seq, q] * dout).sum(axis=1, keepdims=True)
        dscore = P * (dP - delta)
        dqkv[seq, q] = dscore @ qkv[seq, k] * scale
        dqkv[seq, k] = dscore.T @ qkv[seq, q] * scale
        dqkv[seq, v] = P.T @ dout


# -------------------------------------------------------------------------------- layer norm


def layernorm_forward(y, mean, rstd, x, w, b, eps=1e-5):
    """y = norm * w + b, where norm = (x - mean) * rstd has mean 0 and variance 1 in each row.

    x, y (N,C); w, b (C). mean (N) and rstd (N) = 1 / sqrt(variance + eps) are taken over the
    channels of a row, and kept for the backward. Ba, Kiros and Hinton 2016, section 3."""
    mean[:] = x.mean(axis=1)
    rstd[:] = 1 / np.sqrt(x.var(axis=1) + eps)
    y[:] = (x - mean[:, None]) * rstd[:, None] * w + b


def layernorm_backward(dx, dw, db, dy, x, w, mean, rstd):
    """y = norm * w + b gives dw = sum_n dy norm, db = sum_n dy, and g = dy * w at norm.

    In a row of C channels, norm[i] = (x[i] - mean) rstd depends on x[j] in three ways. Each adds a
    term to d norm[i] / d x[j]:

        directly:          rstd [i = j]
        through the mean:  - rstd / C,                 as d mean / d x[j] = 1/C
        through rstd:      - rstd norm[i] norm[j] / C, as d variance / d x[j] = 2 (x[j] - mean) / C
                           and so d rstd / d x[j] = - rstd^3 (x[j] - mean) / C
                                                  = - rstd^2 norm[j] / C

    (The variance depends on the mean too, but that share is 0: sum_i (x[i] - mean) = 0.) The sum
    over i of g[i] times these is

        dx[j] = rstd (g[j] - mean_i(g[i]) - norm[j] mean_i(g[i] norm[i]))

    It is added to dx, which holds the gradient that bypasses the layer. Any of dx, dw and db may be
    None."""
    norm = (x - mean[:, None]) * rstd[:, None]
    g = dy * w
    if dx is not None:
        mean_g = g.mean(axis=1, keepdims=True)
        mean_g_norm = (g * norm).mean(axis=1, keepdims=True)
        dx += rstd[:, None] * (g - mean_g - norm * mean_g_norm)
    if dw is not None:
        dw += (dy * norm).sum(axis=0)
    if db is not None:
        db += dy.sum(axis=0)


# -------------------------------------------------------------------------------------- GELU


def gelu_forward(y, x, dydx=None):
    """y = x s, with s = (1 + tanh u) / 2 and u = sqrt(2/pi) (x + 0.044715 x^3), for each element.

    Hendrycks and Gimpel 2016, section 2; GPT-2 uses this tanh form. y may be x. dydx, if given, is
    set to the derivative; it may be x."""
    u = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    result = 0.5 * x * (1 + np.tanh(u))
    if dydx is not None:
        dydx[:] = _gelu_slope(x)
    y[:] = result


def gelu_backward(dx, dy, x, dydx=None):
    """dx = dy * dy/dx, for each element. The derivative is dydx, which the forward left. If dydx is
    not given, it is computed from x."""
    dx[:] = dy * (_gelu_slope(x) if dydx is None else dydx)


def _gelu_slope(x):
    """dy/dx = s + x ds/dx, with ds/dx = (1 - tanh^2 u) / 2 * du/dx (as tanh' = 1 - tanh^2) and
    du/dx = sqrt(2/pi) (1 + 3 * 0.044715 x^2)."""
    u = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    du = np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x**2)
    t = np.tanh(u)
    return 0.5 * (1 + t) + 0.5 * x * (1 - t**2) * du


# ---------------------------------------------------------------------------- rows of tables


def _positions(cu_seqlens):
    """Return the position of each row in its sequence: 0, 1, 2, ..., from 0 again in the next."""
    lengths = np.diff(cu_seqlens)
    return np.arange(cu_seqlens[-1]) - np.repeat(cu_seqlens[:-1], lengths)


def embedding_forward(y, tokens, cu_seqlens, wte, wpe):
    """y (N,C) = the token's row of wte (V,C) + the row of wpe (T,C) for its position."""
    y[:] = wte[tokens] + wpe[_positions(cu_seqlens)]


def embedding_backward(dwte, dwpe, dy, tokens, cu_seqlens):
    """A row of y is the sum of two rows, so its gradient is added to both.

    A token that occurs several times gets the sum. np.add.at adds every occurrence;
    dwte[tokens] += dy would add only one of them."""
    np.add.at(dwte, tokens, dy)
    np.add.at(dwpe, _positions(cu_seqlens), dy)


# ------------------------------------------------------------------------------------ the loss


def cross_entropy_forward(nll, lse, logits, labels):
    """nll[n] = -log softmax(logits[n])[label] = lse - logits[n,label], lse = log sum exp logits[n].

    logits (N,V), labels (N). A row whose label is -100 is not graded: its nll and lse are 0."""
    graded = np.flatnonzero(labels != IGNORE)
    rows = logits[graded]
    top = rows.max(axis=1, initial=-np.inf)
    nll[:] = 0
    lse[:] = 0
    lse[graded] = top + np.log(np.exp(rows - top[:, None]).sum(axis=1))
    nll[graded] = lse[graded] - rows[np.arange(len(graded)), labels[graded]]


def cross_entropy_backward(dlogits, dnll, logits, lse, labels):
    """nll = lse - logits[label]. d lse / d logits[v] = exp(logits[v] - lse) = softmax[v], and the
    second term adds -1 at the label. So dlogits = dnll (softmax - onehot). In a row that is not
    graded dlogits is 0."""
    graded = np.flatnonzero(labels != IGNORE)
    d = np.exp(logits[graded] - lse[graded, None])
    d[np.arange(len(graded)), labels[graded]] -= 1
    d *= dnll[graded, None]
    dlogits[:] = 0
    dlogits[graded] = d


# ------------------------------------------------------------------------ one token at a time


def decode_sizes(C, K, V, T, L, dtype, precision="float32"):
    """Return four numbers of elements: those of a packed w (K,C), and those that decode_forward
    needs for all weights, the cache of a sequence and its working memory.

    Here a packed w is w itself, and the cache holds each block's keys (T,C) and values (T,C). No
    working memory is needed. It has C elements all the same: decode_forward takes C from its
    shape."""
    return C * K, (V + T) * C + L * (12 * C * C + 13 * C) + 2 * C + C * V, L * 2 * T * C, C


def decode_pack(packed, w, precision="float32"):
    """packed (n) = w (K,C), row by row, as factors of products."""
    packed[:] = factor(w, precision).ravel()


def decode_forward(
    logits,
    cache,
    work,
    weights,
    tokens,
    positions,
    slots,
    T,
    H,
    L,
    eps=1e-5,
    precision="float32",
):
    """Read one more token of each of S sequences. logits (S,V) of what follows them are written.

    A token costs as much as one row of a full forward. Attention reads only the keys and values of
    earlier rows, and these never change. So they are kept in the cache (R,c), in which slots (S)
    names the row of each sequence. The arguments are those of kernels.decode_forward."""
    (S, V), C = logits.shape, work.shape[1]
    used = 0

    def next_weights(*shape):
        nonlocal used
        used += int(np.prod(shape))
        return weights[used - int(np.prod(shape)) : used].reshape(shape)

    def product(x, w):
        return factor(x, precision) @ w.T

    def normed(x):
        y, mean, rstd = np.empty_like(x), np.empty(S, x.dtype), np.empty(S, x.dtype)
        layernorm_forward(y, mean, rstd, x, next_weights(C), next_weights(C), eps)
        return y

    x = next_weights(V, C)[tokens] + next_weights(T, C)[positions]  # (S,C)
    for block in range(L):
        qkv = product(normed(x), next_weights(3 * C, C)) + next_weights(3 * C)  # (S,3C)
        att = np.empty_like(x)
        for i, (t, slot) in enumerate(zip(positions, slots)):
            keys, values = cache[slot].reshape(L, 2, T, C)[block]
            q, keys[t], values[t] = qkv[i].reshape(3, C)
            k, v = (a[: t + 1].reshape(-1, H, C // H) for a in (keys, values))  # (t+1,H,D)
            score = np.einsum("hd,thd->ht", q.reshape(H, -1), k) / np.sqrt(C // H)
            p = np.exp(score - score.max(axis=1, keepdims=True))
            att[i] = np.einsum("ht,thd->hd", p / p.sum(axis=1, keepdims=True), v).reshape(C)
        x = x + product(att, next_weights(C, C)) + next_weights(C)
        wide = product(normed(x), next_weights(4 * C, C)) + next_weights(4 * C)
        gelu_forward(wide, wide)
        x = x + product(wide, next_weights(C, 4 * C)) + next_weights(C)
    logits[:] = product(normed(x), next_weights(V, C))


def decode_keep(cache, qkv, first, block, T, L):
    """The keys and values of the rows of qkv (N,3C) go to the cache of one sequence: those of a
    block, at the positions first, first + 1, ... So a whole forward over a prompt leaves in the
    cache what reading it token by token would leave."""
    N, C = len(qkv), qkv.shape[1] // 3
    keys, values = cache.reshape(L, 2, T, C)[block]
    _, keys[first : first + N], values[first : first + N] = np.split(qkv, 3, axis=1)


# -------------------------------------------------------------------------- the choice of tokens


def sample(chosen, work, heap, logits, rules, top_k, keys, counters, again=None, offsets=None):
    """The next token of each of S sequences, from its logits (S,V).

    The log-probabilities of the tokens that would repeat a word (again) are multiplied by
    `repetition`, which is above 1, so they become less likely. A temperature of 0 takes the most
    likely token. Otherwise the log-probabilities are divided by it, which makes the distribution
    flatter (above 1) or sharper (below 1). top_k keeps the k most likely tokens, and top_p
    (Holtzman et al. 2020) the fewest that have the probability p together. One of those that are
    left is drawn: the first, in the order of ids, at which the sum of the probabilities is above a
    random number.

    The random number is a function of the sequence's key and of the number of the draw (Philox,
    Salmon et al. 2011), so a draw depends on nothing that was drawn before. work and heap are not
    needed here. chosen is -1 where logits are not finite."""
    for s, (temperature, top_p, repetition) in enumerate(rules.reshape(-1, 3)):
        x = logits[s].astype(np.float64)
        if not np.isfinite(x).all():
            chosen[s] = -1
            continue
        if again is not None and offsets[s] < offsets[s + 1]:
            x -= x.max() + np.log(np.exp(x - x.max()).sum())
            x[again[offsets[s] : offsets[s + 1]]] *= repetition
        if temperature == 0:
            chosen[s] = x.argmax()
            continue
        p = np.exp((x - x.max()) / temperature)
        p /= p.sum()
        order = np.argsort(-p, kind="stable")  # of two that are equal the lower id first
        before = np.cumsum(p[order]) - p[order]  # what the more likely ones add up to
        keep = np.arange(len(p)) < (top_k[s] or len(p))
        # A sum that rounding left just below top_p counts as top_p.
        keep &= (before < top_p * (1 - 1e-6)) | (top_p >= 1)
        keep[0] = True
        p[order[~keep]] = 0
        counter = [int(counters[s]), 0, 0, 0]
        key = keys.reshape(-1, 4)[s].astype(np.int32).view(np.uint64)
        u = (np.random.Philox(key=key, counter=counter).random_raw() >> 11) * 2.0**-53
        chosen[s] = np.searchsorted(np.cumsum(p), u * p.sum(), side="right")


# ------------------------------------------------------------------------- all weights at once


def adamw(w, m, v, g, step, lr, beta1=0.9, beta2=0.999, eps=1e-8, decay=0.0):
    """AdamW step number `step`, which counts from 1 (Loshchilov and Hutter 2019, algorithm 2).

    m and v are running weighted means of the gradient and of its square. They start at zero, so
    after `step` steps the weights of all past gradients add up to 1 - beta^step only. Dividing by
    that number corrects the means. The decay acts on the weight itself and not through the
    gradient: it is decoupled. It is multiplied by lr, as in PyTorch (in the paper, by the
    schedule's multiplier alone)."""
    m[:] = beta1 * m + (1 - beta1) * g
    v[:] = beta2 * v + (1 - beta2) * g**2
    m_hat = m / (1 - beta1**step)
    v_hat = v / (1 - beta2**step)
    w[:] = (1 - lr * decay) * w - lr * m_hat / (np.sqrt(v_hat) + eps)


def sum_squares(x):
    """Return the sum of the squares of a vector, added up in float64."""
    return float(np.sum(x.astype(np.float64) ** 2))


# ------------------------------------------------------------------------------ other precisions


def at(precision):
    """Return all of these functions, those with products in a precision (computing.py)."""
    found = {name: f for name, f in globals().items() if inspect.isfunction(f)}
    products = matmul_forward, matmul_backward, decode_sizes, decode_pack, decode_forward
    found |= {f.__name__: partial(f, precision=precision) for f in products}
    return SimpleNamespace(**found, precision=precision)
