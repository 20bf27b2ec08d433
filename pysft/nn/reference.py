"""The lecture: every kernel again, in NumPy, written to be read. The same names and arguments as
ops.py; `GPT(config, ops=reference)` runs the whole model on these and needs no compiler.

How to read a backward. Let L be the loss, and write dy for dL/dy, which has y's shape. The chain
rule gives dL/dx = sum over the elements of y of dy * (d y / d x). Each backward below is that sum,
worked out by hand from the forward that stands right above it.

As in the kernels, parameter gradients ADD to what stands there (several rows, several micro-batches
and tied weights all contribute), activation gradients are WRITTEN, and layernorm_backward and
take_rows_backward, whose input has other readers too (the residual stream), ADD their dx.
"""

import numpy as np

IGNORE = -100


def matmul_forward(y, x, w, b=None, residual=None):
    """y (N,K) = x (N,C) wT + b (K) [+ residual (N,K)]; w (K,C) has a row for each output."""
    result = x @ w.T
    if b is not None:
        result += b
    if residual is not None:
        result += residual
    y[:] = result


def matmul_backward(dx, dw, db, dy, x, w):
    """y[n,k] = sum_c x[n,c] w[k,c] + b[k], so

    dx[n,c] = sum_k dy[n,k] w[k,c]       dx = dy w
    dw[k,c] = sum_n dy[n,k] x[n,c]       dw = dyT x
    db[k]   = sum_n dy[n,k]
    """
    if dx is not None:
        dx[:] = dy @ w
    if dw is not None:
        dw += dy.T @ x
    if db is not None:
        db += dy.sum(axis=0)


def _heads_of(q, kv, cu_seqlens, rows, H):
    """Each (sequence, head) in turn: its queries' rows of q and y, their places in the sequence,
    the sequence's rows of kv, the head's number, and its columns of C, of the keys and of the
    values."""
    C = kv.shape[1] // 2
    D = C // H
    for start, end in zip(cu_seqlens[:-1], cu_seqlens[1:]):
        mine = np.flatnonzero((rows >= start) & (rows < end))
        for h in range(H):
            yield (
                mine,
                rows[mine] - start,
                slice(start, end),
                h,
                slice(h * D, (h + 1) * D),
                slice(C + h * D, C + (h + 1) * D),
            )


def _split(qkv, q, rows):
    """(queries, keys and values, rows that ask) of either form of the arguments."""
    C = qkv.shape[1] // 3
    return (qkv[:, :C], qkv[:, C:], np.arange(len(qkv))) if rows is None else (q, qkv, rows)


def attention_forward(y, lse, qkv, cu_seqlens, q=None, rows=None):
    """Causal attention (Vaswani et al. 2017, section 3.2), each sequence and head for itself:

        score = q kT / sqrt(D), only keys j <= t;  P = softmax(score);  y = P v

    y (N,C), lse (N,H) = log sum_j exp(score[j]), qkv (N,3C) = queries, keys, values of all heads.
    With q (M,C) and rows (M) only those rows ask: qkv (N,2C) = keys, values; y (M,C), lse (M,H).
    """
    q, kv, rows = _split(qkv, q, rows)
    for mine, place, seq, h, keys, values in _heads_of(q, kv, cu_seqlens, rows, lse.shape[1]):
        k, v = kv[seq, keys], kv[seq, values]  # (T,D)
        T, D = k.shape
        score = q[mine, keys] @ k.T / np.sqrt(D)  # (M,T)
        score = np.where(np.arange(T) <= place[:, None], score, -np.inf)  # nobody sees the future
        top = score.max(axis=1, initial=-np.inf, keepdims=True)
        e = np.exp(score - top)  # no overflow
        total = e.sum(axis=1, keepdims=True)
        y[mine, keys] = e / total @ v
        lse[mine, h] = (top + np.log(total))[:, 0]


def attention_backward(dqkv, dy, qkv, y, lse, cu_seqlens, dq=None, q=None, rows=None):
    """Back from y = P v, P = softmax(score), score = scale q kT, with scale = 1/sqrt(D):

        dv = PT dy,  dP = dy vT                          (matmul_backward, twice)
        dscore[t,j] = P[t,j] (dP[t,j] - sum_i P[t,i] dP[t,i])        (the softmax's Jacobian)
        dq = scale dscore k,  dk = scale dscoreT q

    The sum over i is the same for all j of a row, and it is y[t] . dy[t], since sum_i P[t,i]
    dP[t,i] = sum_i P[t,i] (v[i] . dy[t]). P itself is exp(score - lse): nothing T x T was kept."""
    dq, dkv, _ = _split(dqkv, dq, rows)
    q, kv, rows = _split(qkv, q, rows)
    for mine, place, seq, h, keys, values in _heads_of(q, kv, cu_seqlens, rows, lse.shape[1]):
        k, v, dout = kv[seq, keys], kv[seq, values], dy[mine, keys]
        T, D = k.shape
        scale = 1 / np.sqrt(D)
        P = np.where(
            np.arange(T) <= place[:, None],
            np.exp(q[mine, keys] @ k.T * scale - lse[mine, h, None]),
            0,
        )
        dP = dout @ v.T
        delta = (y[mine, keys] * dout).sum(axis=1, keepdims=True)
        dscore = P * (dP - delta)
        dq[mine, keys] = dscore @ k * scale
        dkv[seq, keys] = dscore.T @ q[mine, keys] * scale
        dkv[seq, values] = P.T @ dout


def layernorm_forward(y, mean, rstd, x, w, b, eps=1e-5):
    """Each row of x (N,C) brought to mean 0 and variance 1, then scaled and shifted channel by
    channel (Ba, Kiros and Hinton 2016, section 3): y = norm * w + b, norm = (x - mean) * rstd,
    rstd = 1 / sqrt(variance + eps). mean (N) and rstd (N) are kept for the backward."""
    mean[:] = x.mean(axis=1)
    rstd[:] = 1 / np.sqrt(x.var(axis=1) + eps)
    y[:] = (x - mean[:, None]) * rstd[:, None] * w + b


def layernorm_backward(dx, dw, db, dy, x, w, mean, rstd):
    """y = norm * w + b gives dw = sum_n dy norm, db = sum_n dy, and g = dy * w at norm.

    norm[i] = (x[i] - mean) rstd depends on x[j] in three ways, for a row of C channels:
        directly:            d norm[i] / d x[j] has the term   rstd [i = j]
        through the mean:    d mean / d x[j] = 1/C             - rstd / C
        through rstd:        d rstd / d x[j] = -rstd^2 norm[j] / C, since the variance's derivative
                             is 2 (x[j] - mean) / C            - rstd norm[i] norm[j] / C
    Summed over i with g[i]:
        dx[j] = rstd (g[j] - mean_i(g[i]) - norm[j] mean_i(g[i] norm[i]))
    """
    norm = (x - mean[:, None]) * rstd[:, None]
    g = dy * w
    if dx is not None:
        dx += rstd[:, None] * (
            g - g.mean(axis=1, keepdims=True) - norm * (g * norm).mean(axis=1, keepdims=True)
        )
    if dw is not None:
        dw += (dy * norm).sum(axis=0)
    if db is not None:
        db += dy.sum(axis=0)


def gelu_forward(y, x, dydx=None):
    """y = x s, s = (1 + tanh u) / 2, u = sqrt(2/pi) (x + 0.044715 x^3): Hendrycks and Gimpel 2016,
    section 2, the tanh form that GPT-2 uses. dydx, if given, takes the derivative; it may be x."""
    u = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    result = 0.5 * x * (1 + np.tanh(u))
    if dydx is not None:
        dydx[:] = _gelu_slope(x)
    y[:] = result


def gelu_backward(dx, dy, x, dydx=None):
    """dx = dy * dy/dx, worked out here from x or, with x None, as the forward left it in dydx."""
    dx[:] = dy * (_gelu_slope(x) if dydx is None else dydx)


def _gelu_slope(x):
    """dy/dx = s + x ds/dx, where tanh' = 1 - tanh^2 and du/dx = sqrt(2/pi) (1 + 3 * 0.044715
    x^2)."""
    u = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    du = np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x**2)
    t = np.tanh(u)
    return 0.5 * (1 + t) + 0.5 * x * (1 - t**2) * du


def _positions(cu_seqlens):
    """0, 1, 2, ... in each sequence."""
    lengths = np.diff(cu_seqlens)
    return np.arange(cu_seqlens[-1]) - np.repeat(cu_seqlens[:-1], lengths)


def embedding_forward(y, tokens, cu_seqlens, wte, wpe):
    """y (N,C) = the token's row of wte (V,C) + its position's row of wpe (T,C)."""
    y[:] = wte[tokens] + wpe[_positions(cu_seqlens)]


def embedding_backward(dwte, dwpe, dy, tokens, cu_seqlens):
    """A row of y is the sum of two rows, so its gradient goes to both; a token that occurs often
    gathers often (np.add.at, unlike dwte[tokens] += dy, counts every occurrence)."""
    np.add.at(dwte, tokens, dy)
    np.add.at(dwpe, _positions(cu_seqlens), dy)


def take_rows_forward(y, x, rows):
    """y (M,C) = the rows `rows` (M), which rise, of x (N,C)."""
    y[:] = x[rows]


def take_rows_backward(dx, dy, rows):
    """Row m of y is row rows[m] of x, so dy[m] goes there; it ADDS, for x has other readers."""
    dx[rows] += dy


def cross_entropy_forward(nll, lse, logits, labels):
    """nll[n] = -log softmax(logits[n])[label] = lse - logits[n,label], lse = log sum exp logits[n].

    Where the label is -100 the row is not graded: nll is 0, and its lse is not needed (0)."""
    graded = np.flatnonzero(labels != IGNORE)
    rows = logits[graded]
    top = rows.max(axis=1, initial=-np.inf)
    nll[:] = 0
    lse[:] = 0
    lse[graded] = top + np.log(np.exp(rows - top[:, None]).sum(axis=1))
    nll[graded] = lse[graded] - rows[np.arange(len(graded)), labels[graded]]


def cross_entropy_backward(dlogits, dnll, logits, lse, labels):
    """d lse / d logits[v] = exp(logits[v] - lse) = softmax[v], and -logits[label] gives -1 at the
    label: dlogits = dnll (softmax - onehot). A row that is not graded has no gradient at all."""
    graded = np.flatnonzero(labels != IGNORE)
    d = np.exp(logits[graded] - lse[graded, None])
    d[np.arange(len(graded)), labels[graded]] -= 1
    d *= dnll[graded, None]
    dlogits[:] = 0
    dlogits[graded] = d


def decode_sizes(C, K, V, T, L, dtype):
    """(elements of a packed w (K,C), of all weights, of a sequence's cache and working memory):
    here a packed w is w itself, the cache is each block's keys (T,C) and values (T,C), and there is
    no working memory, but a row holds C elements."""
    return C * K, (V + T) * C + L * (12 * C * C + 13 * C) + 2 * C + C * V, L * 2 * T * C, C


def decode_pack(packed, w):
    """packed (n) = w (K,C), row by row."""
    packed[:] = w.ravel()


def decode_forward(logits, cache, work, weights, tokens, positions, slots, T, H, L, eps=1e-5):
    """The next tokens' logits (S,V) at the price of a row each: of all that attention reads of
    earlier rows, their keys and values, nothing changes any more, so they wait in the cache
    (R,c)."""
    (S, V), C = logits.shape, work.shape[1]
    used = 0

    def next_weights(*shape):
        nonlocal used
        used += int(np.prod(shape))
        return weights[used - int(np.prod(shape)) : used].reshape(shape)

    def normed(x):
        y, mean, rstd = np.empty_like(x), np.empty(S, x.dtype), np.empty(S, x.dtype)
        layernorm_forward(y, mean, rstd, x, next_weights(C), next_weights(C), eps)
        return y

    x = next_weights(V, C)[tokens] + next_weights(T, C)[positions]  # (S,C)
    for block in range(L):
        qkv = normed(x) @ next_weights(3 * C, C).T + next_weights(3 * C)  # (S,3C)
        att = np.empty_like(x)
        for i, (t, slot) in enumerate(zip(positions, slots)):
            keys, values = cache[slot].reshape(L, 2, T, C)[block]
            q, keys[t], values[t] = qkv[i].reshape(3, C)
            k, v = (a[: t + 1].reshape(-1, H, C // H) for a in (keys, values))  # (t+1,H,D)
            score = np.einsum("hd,thd->ht", q.reshape(H, -1), k) / np.sqrt(C // H)
            p = np.exp(score - score.max(axis=1, keepdims=True))
            att[i] = np.einsum("ht,thd->hd", p / p.sum(axis=1, keepdims=True), v).reshape(C)
        x = x + att @ next_weights(C, C).T + next_weights(C)
        wide = normed(x) @ next_weights(4 * C, C).T + next_weights(4 * C)
        gelu_forward(wide, wide)
        x = x + wide @ next_weights(C, 4 * C).T + next_weights(C)
    logits[:] = normed(x) @ next_weights(V, C).T


def adamw(w, m, v, g, step, lr, beta1=0.9, beta2=0.999, eps=1e-8, decay=0.0):
    """Loshchilov and Hutter 2019, algorithm 2. m and v are running means of the gradient and of its
    square; they start at zero, and dividing by 1 - beta^step undoes that. The decay pulls at the
    weight directly and not through the gradient: it is decoupled."""
    m[:] = beta1 * m + (1 - beta1) * g
    v[:] = beta2 * v + (1 - beta2) * g**2
    m_hat = m / (1 - beta1**step)
    v_hat = v / (1 - beta2**step)
    w[:] = (1 - lr * decay) * w - lr * m_hat / (np.sqrt(v_hat) + eps)


def sum_squares(x):
    """Sum of the squares of a vector, in float64."""
    return float(np.sum(x.astype(np.float64) ** 2))
