"""The kernels: one wrapper for each C function, every forward directly above its backward. Those
that write text are in kernels_decode.py.

Names and arguments are those of reference.py, where the mathematics is derived. There are two more
keyword arguments. `threads` is the number of threads (None: gate.default_threads()). `calls` is
only for Calls (calls.py): with it the call is noted there and not made. Functions with products
have `precision` too: "bf16" rounds the factors of their products to bf16, and adds up in float32.

A wrapper passes its arrays to the gate (gate.py explains the notation), which raises a GateError
for an array that does not fit. In the docstrings N is the number of token rows, C channels, K
output channels, H heads, D = C / H channels of a head, V symbols of the vocabulary, T positions of
the context, and S sequences. Parameter gradients are ADDED to what their array holds, and
activation gradients are WRITTEN, except where a docstring says otherwise.
"""

import math
from functools import partial
from types import SimpleNamespace

import numpy as np

from pysft.errors import GateError
from pysft.nn.arena import aligned
from pysft.nn.calls import Calls
from pysft.nn.gate import (
    NULL,
    admit,
    c_function,
    count_threads,
    default_threads,
    number,
    pointer,
    require_precision,
)
from pysft.nn.kernels_decode import (
    decode_forward,
    decode_keep,
    decode_pack,
    decode_sizes,
    decoder,
    sample,
    sampler,
)

SQUARES_BLOCK = 4096  # elements of one partial sum, as in adamw.c


# ------------------------------------------------------- errors for indices that C has found bad
# A kernel that follows indices checks them first, and returns a code that says which one is bad.
# Each of these functions raises the GateError for such a code. A wrapper binds the first arguments.
# The gate adds the last three: the kernel's name, the code, and n, the number of each letter.


def _bad_token(tokens, cu_seqlens, function, row, n):
    """Embedding's code is the row of a bad token, or N + the index of a bad offset."""
    if row < n["N"]:
        raise GateError(f"{function}: tokens[{row}] = {tokens[row]} is not in 0..{n['V'] - 1}")
    _bad_offset(function, row - n["N"], cu_seqlens, n["N"], n["T"])


def _bad_offset(function, i, cu_seqlens, N, longest=None):
    """Raise the GateError for the bad offset i. longest: the most rows that a sequence can have, or
    None if there is no limit."""
    if i == 0 and cu_seqlens[0] != 0:
        raise GateError(f"{function}: cu_seqlens starts with {cu_seqlens[0]}, expected 0")
    if i > 0 and cu_seqlens[i] < cu_seqlens[i - 1]:
        raise GateError(
            f"{function}: cu_seqlens falls from {cu_seqlens[i - 1]} to {cu_seqlens[i]} "
            f"at offset {i}"
        )
    if i > 0 and longest is not None and cu_seqlens[i] - cu_seqlens[i - 1] > longest:
        raise GateError(
            f"{function}: sequence {i - 1} has {cu_seqlens[i] - cu_seqlens[i - 1]} rows, "
            f"the context has {longest}"
        )
    raise GateError(f"{function}: cu_seqlens ends with {cu_seqlens[i]}, expected N = {N}")


def _bad_offset_of_attention(cu_seqlens, longest, function, i, n):
    """Attention's code is the index of a bad offset."""
    _bad_offset(function, i, cu_seqlens, n["N"], longest)


def _bad_label(labels, function, row, n):
    """The code of cross_entropy is the row of a bad label."""
    raise GateError(
        f"{function}: labels[{row}] = {labels[row]} is neither -100 (not graded) nor in "
        f"0..{n['V'] - 1}"
    )


# ---------------------------------------------------- the kernels of a walk through the model


def matmul_forward(
    y, x, w, b=None, residual=None, *, threads=None, calls=None, precision="float32"
):
    """y (N,K) = x (N,C) wT + b [+ residual (N,K)] is written, with w (K,C) and b (K)."""
    notation = "y!N,K x:N,C w:K,C b:K? residual:N,K?"
    a = admit("matmul_forward", notation, y, x, w, b, residual, precision=precision)
    y_, *read = a.pointers
    a.call([y_, _scratch_of_product(a, "C", calls), *read, "N", "C", "K"], threads, calls)


def matmul_backward(dx, dw, db, dy, x, w, *, threads=None, calls=None, precision="float32"):
    """From dy (N,K): dx (N,C) is written, dw (K,C) and db (K) are added to. Each of the three may
    be None if it is not wanted.

    The residual's gradient is dy itself."""
    notation = "dx!N,C? dw!K,C? db!K? dy:N,K x:N,C w:K,C"
    a = admit("matmul_backward", notation, dx, dw, db, dy, x, w, precision=precision)
    scratch = _scratch_of_product(a, "K", calls)
    a.call([*a.pointers[:3], scratch, *a.pointers[3:], "N", "C", "K"], threads, calls)


def _scratch_of_product(a, terms: str, calls):
    """Return a pointer to the working memory of a product, NULL if it needs none. terms: the letter
    of the number of terms in its sums."""
    elements = c_function("matmul_scratch", a.suffix)(a.letters["N"], a.letters[terms])
    if not elements:
        return NULL
    make = aligned if calls is None else calls.scratch
    return pointer(make(elements, np.float32))


def attention_forward(y, lse, qkv, cu_seqlens, *, threads=None, calls=None):
    """y (N,C) and lse (N,H) are written, from qkv (N,3C): causal attention inside each sequence of
    cu_seqlens (S+1) int32. H is taken from the shape of lse; D = C / H."""
    notation = "y!N,C lse!N,H qkv:N,3C cu_seqlens#S+1"
    a = admit("attention_forward", notation, y, lse, qkv, cu_seqlens)
    y_, lse_, *read = a.pointers
    _attention(a, [y_, lse_], read, cu_seqlens, y.dtype, threads, calls)


def attention_backward(dqkv, dy, qkv, y, lse, cu_seqlens, *, threads=None, calls=None):
    """dqkv (N,3C) is written, from dy (N,C) and the forward's qkv, y and lse."""
    notation = "dqkv!N,3C dy:N,C qkv:N,3C y:N,C lse:N,H cu_seqlens#S+1"
    a = admit("attention_backward", notation, dqkv, dy, qkv, y, lse, cu_seqlens)
    dqkv_, *read = a.pointers
    _attention(a, [dqkv_], read, cu_seqlens, y.dtype, threads, calls)


def _attention(a, written, read, cu_seqlens, dtype, threads, calls):
    """Call the kernel that `a` was admitted for, forward or backward.

    Its C arguments are the pointers `written`, working memory, the pointers `read` and sizes."""
    N, C, H = a.letters["N"], a.letters["C"], a.letters["H"]
    if C % H:
        raise GateError(f"{a.function}: C = {C} channels cannot be split over H = {H} heads")
    threads = count_threads(a.function, threads)
    longest = calls.longest if calls is not None else _longest(a.function, cu_seqlens, N)
    elements = threads * c_function("attention_scratch", a.suffix)(longest, C // H)
    scratch = calls.scratch(elements, dtype) if calls is not None else aligned(elements, dtype)
    arguments = [*written, pointer(scratch), *read, "N", "S", H, C // H, longest]
    a.call(arguments, threads, calls, partial(_bad_offset_of_attention, cu_seqlens, longest))


def _longest(function, cu_seqlens, N):
    """Return the number of rows of the longest sequence. The size of the working memory depends on
    it, so the offsets are checked here already, before C checks them."""
    falls = np.flatnonzero(cu_seqlens[1:] < cu_seqlens[:-1])
    if cu_seqlens[0] != 0:
        _bad_offset(function, 0, cu_seqlens, N)
    if len(falls):
        _bad_offset(function, int(falls[0]) + 1, cu_seqlens, N)
    if cu_seqlens[-1] != N:
        _bad_offset(function, len(cu_seqlens) - 1, cu_seqlens, N)
    return int(np.diff(cu_seqlens).max())


def layernorm_forward(y, mean, rstd, x, w, b, eps=1e-5, *, threads=None, calls=None):
    """y (N,C) = (x - mean) * rstd * w + b is written, for each row of x (N,C), with w (C), b (C).

    mean (N) and rstd (N) are written for the backward."""
    notation = "y!N,C mean!N rstd!N x:N,C w:C b:C"
    a = admit("layernorm_forward", notation, y, mean, rstd, x, w, b)
    eps = number("layernorm_forward", "eps", eps)
    a.call([*a.pointers, "N", "C", eps], threads, calls)


def layernorm_backward(dx, dw, db, dy, x, w, mean, rstd, *, threads=None, calls=None):
    """From dy (N,C): dx (N,C), dw (C) and db (C) are all ADDED to. Each may be None if it is not
    wanted.

    dx holds the gradient that bypasses the layer on the residual stream."""
    notation = "dx!N,C? dw!C? db!C? dy:N,C x:N,C w:C mean:N rstd:N"
    a = admit("layernorm_backward", notation, dx, dw, db, dy, x, w, mean, rstd)
    a.call([*a.pointers, "N", "C"], threads, calls)


def gelu_forward(y, x, dydx=None, *, threads=None, calls=None):
    """y = GELU(x) in its tanh form is written, for each element. All arrays have the same shape,
    which may be any.

    dydx, if given, is written: the derivative, so that the backward is one multiplication. Either
    y or dydx may be x itself."""
    in_place = [("y", "x"), ("x", "dydx")]
    a = admit("gelu_forward", "y!* x:* dydx!*?", y, x, dydx, in_place=in_place)
    y_, x_, dydx_ = a.pointers
    a.call([y_, dydx_, x_, _elements(a)], threads, calls)


def gelu_backward(dx, dy, x, dydx=None, *, threads=None, calls=None):
    """dx = dy * dy/dx is written. The derivative is computed from x, or is the forward's dydx.

    Exactly one of x and dydx is given, the other is None. dx may be dy itself."""
    if (x is None) == (dydx is None):
        raise GateError(
            f"gelu_backward: x and dydx are both {'None' if x is None else 'not None'}, expected an"
            " array of shape (*) for exactly one of them"
        )
    in_place = [("dx", "dy")]
    a = admit("gelu_backward", "dx!* dy:* x:*? dydx:*?", dx, dy, x, dydx, in_place=in_place)
    a.call([*a.pointers, _elements(a)], threads, calls)


def _elements(a):
    """Return the number of elements as a size of the gate: N rows times the elements of a row."""
    shape = a.letters["*"] or (1,)
    a.letters["N"] = shape[0]
    return f"N*{math.prod(shape[1:])}"


def embedding_forward(y, tokens, cu_seqlens, wte, wpe, *, threads=None, calls=None):
    """y (N,C) = wte[token] + wpe[position in the sequence] is written, for each row.

    tokens (N) and cu_seqlens (S+1) are int32; wte (V,C), wpe (T,C)."""
    notation = "y!N,C tokens#N cu_seqlens#S+1 wte:V,C wpe:T,C"
    a = admit("embedding_forward", notation, y, tokens, cu_seqlens, wte, wpe)
    explain = partial(_bad_token, tokens, cu_seqlens)
    a.call([*a.pointers, "N", "S", "C", "V", "T"], threads, calls, explain)


def embedding_backward(dwte, dwpe, dy, tokens, cu_seqlens, *, threads=None, calls=None):
    """Each row of dy (N,C) is added to dwte (V,C) at its token, and to dwpe (T,C) at its
    position."""
    notation = "dwte!V,C dwpe!T,C dy:N,C tokens#N cu_seqlens#S+1"
    a = admit("embedding_backward", notation, dwte, dwpe, dy, tokens, cu_seqlens)
    explain = partial(_bad_token, tokens, cu_seqlens)
    a.call([*a.pointers, "N", "S", "C", "V", "T"], threads, calls, explain)


def cross_entropy_forward(nll, lse, logits, labels, *, threads=None, calls=None):
    """nll (N) = lse - logits[label], in nats, is written, from logits (N,V) and labels (N) int32.

    lse (N) = log sum exp(logits) is written too. Both are 0 where the label is -100."""
    a = admit("cross_entropy_forward", "nll!N lse!N logits:N,V labels#N", nll, lse, logits, labels)
    a.call([*a.pointers, "N", "V"], threads, calls, partial(_bad_label, labels))


def cross_entropy_backward(dlogits, dnll, logits, lse, labels, *, threads=None, calls=None):
    """dlogits (N,V) = dnll (softmax - onehot) is written, exactly 0 where the label is -100.

    dlogits may be logits itself."""
    notation = "dlogits!N,V dnll:N logits:N,V lse:N labels#N"
    arrays = dlogits, dnll, logits, lse, labels
    a = admit("cross_entropy_backward", notation, *arrays, in_place=[("dlogits", "logits")])
    a.call([*a.pointers, "N", "V"], threads, calls, partial(_bad_label, labels))


# ------------------------------------------------------------------------------ all weights at once


def adamw(w, m, v, g, step, lr, beta1=0.9, beta2=0.999, eps=1e-8, decay=0.0, *, threads=None):
    """AdamW step number `step`, which counts from 1, on vectors of the same length (n).

    w, m and v are updated in place from the gradient g. A GateError if `step` is below 1."""
    if not isinstance(step, int) or isinstance(step, bool) or step < 1:
        raise GateError(f"adamw: step = {step!r}, expected 1 for the first, then 2, ...")
    lr, decay = number("adamw", "lr", lr), number("adamw", "decay", decay)
    beta1, beta2 = number("adamw", "beta1", beta1), number("adamw", "beta2", beta2)
    eps = number("adamw", "eps", eps)
    a = admit("adamw", "w!n m!n v!n g:n", w, m, v, g)
    corrections = 1 - beta1**step, 1 - beta2**step  # they undo the moments' bias at this step
    a.call([*a.pointers, "n", lr, beta1, beta2, eps, decay, *corrections], threads)


def sum_squares(x, *, threads=None):
    """Return the sum of the squares of a vector, added up in float64, as a Python float.

    It has the same bits for any number of threads."""
    a = admit("sum_squares", "x:n", x)
    partials = np.empty(-(-a.letters["n"] // SQUARES_BLOCK))
    a.call([pointer(partials), *a.pointers, "n"], threads)
    return float(partials.sum())


# ----------------------------------------------------------------------------------- all of them

# The kernels of a walk through the model, forward or backward. Calls can note these.
OF_A_WALK = [
    matmul_forward,
    matmul_backward,
    attention_forward,
    attention_backward,
    layernorm_forward,
    layernorm_backward,
    gelu_forward,
    gelu_backward,
    embedding_forward,
    embedding_backward,
    cross_entropy_forward,
    cross_entropy_backward,
]
KERNELS = [*OF_A_WALK, adamw, sum_squares]


PRODUCTS = [matmul_forward, matmul_backward, decode_sizes, decode_pack, decode_forward, decoder]


def on_threads(threads=None, precision="float32"):
    """Return the `ops` of a model (computing.py): all kernels and the functions for decoding, with
    `threads` and `precision` filled in. threads: None is default_threads() at the time of this
    call. A UsageError if this processor lacks the precision.

    calls(longest) of the result makes a Calls with the same number of threads. at(precision) is the
    same functions with products in another precision."""
    if threads is None:
        threads = default_threads()
    count_threads("on_threads", threads)
    require_precision(precision)
    found = {k.__name__: k for k in (*KERNELS, *PRODUCTS, decode_keep, sample, sampler)}
    found |= {k.__name__: partial(k, precision=precision) for k in PRODUCTS}
    walk = {k.__name__: found[k.__name__] for k in OF_A_WALK}
    without_threads = "decode_sizes", "decode_pack", "decode_keep"
    found |= {n: partial(k, threads=threads) for n, k in found.items() if n not in without_threads}
    return SimpleNamespace(
        **found,
        calls=partial(Calls, walk, threads),
        precision=precision,
        at=partial(on_threads, threads),
    )
