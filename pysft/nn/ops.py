"""The gate: the only place that touches C. One wrapper a kernel, each forward above its backward,
with the names and arguments of reference.py, where the mathematics is derived.

Each wrapper names its arrays in a compact notation, as einsum does. "y!N,K x:N,C b:K?" says that y
is written and has two axes, that x shares the first of them and that b may be None; the same letter
must be the same number everywhere. "3C" and "S+1" mean what they say, "*" is any one shape, and
"tokens#N" is int32. What passes has one precision, fits, lies contiguously, does not overlap what
is written and can be written where it must be: it cannot crash C. What does not pass raises a
GateError that says which argument, what came and what fits.

Threads are an argument (`threads=`, default: see default_threads); `on_threads(n)` gives the same
functions with it filled in, which is what a model is handed.
"""

import importlib
import os
import sys
from functools import lru_cache, partial
from types import SimpleNamespace

import numpy as np

from pysft.errors import BuildError, GateError, UsageError
from pysft.nn import _build
from pysft.nn.arena import aligned

SQUARES_BLOCK = 4096  # elements of one partial sum, as in adamw.c


# ---------------------------------------------------------------- which module, how many threads

# How long an OpenMP thread spins before it sleeps, unless the user has said. libgomp's own default is
# 300 times as long: 3 % faster on an idle machine, but beside one other busy process a step takes
# 1.5 times as long, and beside another spinning one several times.
SPIN = "1000"


def _import(isa):
    name = f"pysft.nn._c_{isa}"
    chosen = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys()
    try:
        if not chosen:  # libgomp reads it once, while it is loaded; nobody else shall see it
            os.environ["GOMP_SPINCOUNT"] = SPIN
        return importlib.import_module(name)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == name
        raise BuildError(f"pysft's C part (instruction set {isa}) "
                         + ("is not built" if missing else f"cannot be loaded ({error})")
                         + ": run 'make build' in the checkout, or 'pip install .'; '--ops reference' runs "
                           "without it, slowly") from None
    finally:
        if not chosen:
            del os.environ["GOMP_SPINCOUNT"]


def _load():
    """The module for this processor, and its name, and the names that would run here."""
    base = _import("base")
    isas = [isa for isa in _build.ISAS if base.lib.pysft_cpu_has(isa.encode())]
    isa = os.environ.get("PYSFT_ISA") or isas[-1]
    if isa not in _build.ISAS:
        raise UsageError(f"PYSFT_ISA={isa} is not one of {', '.join(_build.ISAS)}")
    if isa not in isas:
        raise UsageError(f"PYSFT_ISA={isa}: this processor has no {isa}; it can run {', '.join(isas)}")
    module = base if isa == "base" else _import(isa)
    if _build.CSRC.is_dir():  # a checkout: was the module built from these very files?
        if module.ffi.string(module.lib.pysft_sources()).decode() != _build.source_hash():
            raise BuildError("the sources in csrc/ have changed since the C part was built: run "
                             "'make build' (a stale kernel would give stale numbers)")
    return module.ffi, module.lib, isa, isas


ffi, _lib, ISA, ISAS = _load()
COMPILER = ffi.string(_lib.pysft_compiler()).decode()
OPENMP = _lib.pysft_openmp()

_forked = False


def _after_fork():
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def default_threads() -> int:
    """PYSFT_NUM_THREADS, else OMP_NUM_THREADS, else the CPUs that this process may use."""
    for variable in ("PYSFT_NUM_THREADS", "OMP_NUM_THREADS"):
        text = os.environ.get(variable, "").split(",")[0].strip()
        if text:
            if not text.isdecimal() or not 1 <= int(text) <= 1024:
                raise UsageError(f"{variable}={text} is not a number of threads from 1 to 1024")
            return int(text)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _threads(function, threads):
    global _forked
    if threads is None:
        threads = default_threads()
    if not isinstance(threads, int) or isinstance(threads, bool) or not 1 <= threads <= 1024:
        raise GateError(f"{function}: threads = {threads!r} is not a whole number from 1 to 1024")
    if _forked and threads > 1:
        # OpenMP's workers did not survive the fork; waiting for them would hang for ever.
        if _forked != "said":
            print("pysft: this process was forked, and OpenMP's threads may be missing in it; its kernels run on "
                  "one thread (start processes with 'spawn' to have more)", file=sys.stderr)
            _forked = "said"
        return 1
    return threads


# ------------------------------------------------------------------------------------- the gate

@lru_cache(None)
def _parse(notation):
    """[(name, written, integer, optional, dims)], dims = [(factor, letter, plus)] or None for *."""
    arguments = []
    for word in notation.split():
        name = word.rstrip("?")
        for mark in "!#:":
            if mark in name:
                name, dims = name.split(mark)
                break
        parsed = None
        if dims != "*":
            parsed = []
            for dim in dims.split(","):
                dim, _, plus = dim.partition("+")
                parsed.append((int(dim[:-1] or 1), dim[-1], int(plus or 0)))
        arguments.append((name, mark == "!", mark == "#", word.endswith("?"), parsed, dims))
    return arguments


def _admit(function, notation, *arrays, in_place=()):
    """Check `arrays` against the notation; return (suffix, letters, pointers).

    suffix is "_f32" or "_f64"; letters maps each letter to its number; None becomes NULL.
    `in_place` names pairs that may be the very same memory."""
    letters, pointers, spans = {}, [], []
    real = None
    for (name, written, integer, optional, dims, shape_text), a in zip(_parse(notation), arrays):
        if a is None:
            if not optional:
                raise GateError(f"{function}: {name} is None, expected an array of shape ({shape_text})")
            pointers.append(ffi.NULL)
            continue
        if not isinstance(a, np.ndarray):
            raise GateError(f"{function}: {name} is {type(a).__name__}, expected a NumPy array")
        dtype = a.dtype
        if integer:
            if dtype != np.int32:
                raise GateError(f"{function}: {name} is {dtype}, expected int32")
        elif real is None:
            if dtype != np.float32 and dtype != np.float64:
                raise GateError(f"{function}: {name} is {dtype}, expected float32 or float64")
            real = dtype
        elif dtype != real:
            raise GateError(f"{function}: {name} is {dtype}, expected {real} like the arrays before it")
        _unify(function, name, a.shape, dims, shape_text, letters)
        flags = a.flags
        if not flags.c_contiguous:
            raise GateError(f"{function}: {name} is not contiguous; pass np.ascontiguousarray({name})")
        if not flags.aligned:
            raise GateError(f"{function}: {name} is not aligned to its element size; pass a copy")
        if written and not flags.writeable:
            raise GateError(f"{function}: {name} is read-only, but it is written")
        pointer = ffi.from_buffer(a, require_writable=written)
        pointers.append(ffi.cast(_POINTER[dtype.char], pointer))
        start = int(ffi.cast("intptr_t", pointer))
        spans.append((start, start + a.nbytes, name, written))
    for i, (start, end, name, written) in enumerate(spans):
        for other_start, other_end, other, other_written in spans[:i]:
            if (written or other_written) and start < other_end and other_start < end:
                if start == other_start and end == other_end and (other, name) in in_place:
                    continue
                raise GateError(f"{function}: {name} and {other} overlap in memory, and "
                                f"{name if written else other} is written")
    return "_f32" if real == np.float32 else "_f64", letters, pointers


_POINTER = {"f": "float *", "d": "double *", "i": "int32_t *", "l": "int32_t *"}


def _unify(function, name, shape, dims, shape_text, letters):
    """Match one shape against its dims, learning letters on the way."""
    if dims is None:
        if letters.setdefault("*", shape) != shape:
            raise GateError(f"{function}: {name} has shape {shape}, expected {letters['*']}")
        if 0 in shape:
            raise GateError(f"{function}: {name} has shape {shape}, expected at least one element")
        return
    fits = len(shape) == len(dims)
    if fits:
        for size, (factor, letter, plus) in zip(shape, dims):
            value = letters.get(letter)
            if value is None:
                value, rest = divmod(size - plus, factor)
                if rest or value < 1:
                    fits = False
                    break
                letters[letter] = value
            elif size != factor * value + plus:
                fits = False
                break
    if not fits:
        known = ", ".join(f"{k} = {v}" for k, v in letters.items() if k != "*" and k in shape_text)
        text = shape_text + ("," if len(dims) == 1 else "")
        raise GateError(f"{function}: {name} has shape {shape}, expected ({text.replace(',', ', ').strip()})"
                        + (f" with {known}" if known else "") + ", none of them zero")


def _number(function, name, value):
    """A scalar argument as a float."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise GateError(f"{function}: {name} = {value!r} is not a number")
    return float(value)


def _call(name, suffix, *arguments):
    return getattr(_lib, name + suffix)(*arguments)


def _bad_token(function, row, tokens, cu_seqlens, letters):
    """Raise what embedding's return code says."""
    N, V, T = letters["N"], letters["V"], letters["T"]
    if row < N:
        raise GateError(f"{function}: tokens[{row}] = {tokens[row]} is not in 0..{V - 1}")
    _bad_offset(function, row - N, cu_seqlens, N, T)


def _bad_offset(function, i, cu_seqlens, N, T=None):
    """Raise what a return code that names an offset says."""
    if i == 0 and cu_seqlens[0] != 0:
        raise GateError(f"{function}: cu_seqlens starts with {cu_seqlens[0]}, expected 0")
    if i > 0 and cu_seqlens[i] < cu_seqlens[i - 1]:
        raise GateError(f"{function}: cu_seqlens falls from {cu_seqlens[i - 1]} to {cu_seqlens[i]} "
                        f"at offset {i}")
    if i > 0 and T is not None and cu_seqlens[i] - cu_seqlens[i - 1] > T:
        raise GateError(f"{function}: sequence {i - 1} has {cu_seqlens[i] - cu_seqlens[i - 1]} rows, "
                        f"the context has {T}")
    raise GateError(f"{function}: cu_seqlens ends with {cu_seqlens[-1]}, expected N = {N}")


def _bad_label(function, row, labels, letters):
    raise GateError(f"{function}: labels[{row}] = {labels[row]} is neither -100 (not graded) nor in "
                    f"0..{letters['V'] - 1}")


# ---------------------------------------------------------------------------------- the kernels

def matmul_forward(y, x, w, b=None, residual=None, *, threads=None):
    """y (N,K) = x (N,C) wT + b [+ residual (N,K)], with w (K,C), b (K)."""
    suffix, n, p = _admit("matmul_forward", "y!N,K x:N,C w:K,C b:K? residual:N,K?",
                          y, x, w, b, residual)
    _call("matmul_forward", suffix, *p, n["N"], n["C"], n["K"], _threads("matmul_forward", threads))


def matmul_backward(dx, dw, db, dy, x, w, *, threads=None):
    """dx (N,C) is written, dw (K,C) and db (K) are added to; each may be None if not wanted.
    The residual's gradient is dy itself."""
    suffix, n, p = _admit("matmul_backward", "dx!N,C? dw!K,C? db!K? dy:N,K x:N,C w:K,C",
                          dx, dw, db, dy, x, w)
    _call("matmul_backward", suffix, *p, n["N"], n["C"], n["K"], _threads("matmul_backward", threads))


def _attention_scratch(cu_seqlens, D, threads, dtype, suffix):
    """The kernel's working memory: one aligned piece a thread, and the length of a piece."""
    lengths = np.diff(cu_seqlens)
    longest = int(min(max(lengths.max(), 1), cu_seqlens[-1] if cu_seqlens[-1] > 0 else 1))
    stride = -(-_call("attention_scratch", suffix, longest, D) // 16) * 16
    return aligned(stride * threads, dtype), stride


def _heads(function, letters):
    C, H = letters["C"], letters["H"]
    if C % H:
        raise GateError(f"{function}: C = {C} channels cannot be split over H = {H} heads")
    return H, C // H


def _check_offsets(function, cu_seqlens, N):
    """Before scratch is sized by them, the offsets must make sense."""
    bad = np.flatnonzero(cu_seqlens[1:] < cu_seqlens[:-1])
    if cu_seqlens[0] != 0 or len(bad) or cu_seqlens[-1] != N:
        first = 0 if cu_seqlens[0] != 0 else int(bad[0]) + 1 if len(bad) else len(cu_seqlens) - 1
        _bad_offset(function, first, cu_seqlens, N)


def attention_forward(y, lse, qkv, cu_seqlens, *, threads=None):
    """y (N,C) and lse (N,H) from qkv (N,3C), causal inside each sequence of cu_seqlens (S+1)
    int32. H is taken from lse; D = C / H."""
    suffix, n, p = _admit("attention_forward", "y!N,C lse!N,H qkv:N,3C cu_seqlens#S+1",
                          y, lse, qkv, cu_seqlens)
    (H, D), threads = _heads("attention_forward", n), _threads("attention_forward", threads)
    _check_offsets("attention_forward", cu_seqlens, n["N"])
    scratch, stride = _attention_scratch(cu_seqlens, D, threads, y.dtype, suffix)
    bad = _call("attention_forward", suffix, p[0], p[1], ffi.cast(_POINTER[y.dtype.char],
                ffi.from_buffer(scratch)), p[2], p[3], n["N"], n["S"], H, D, stride, threads)
    if bad >= 0:
        _bad_offset("attention_forward", bad, cu_seqlens, n["N"])


def attention_backward(dqkv, dy, qkv, y, lse, cu_seqlens, *, threads=None):
    """dqkv (N,3C) is written from dy (N,C) and the forward's qkv, y, lse."""
    suffix, n, p = _admit("attention_backward",
                          "dqkv!N,3C dy:N,C qkv:N,3C y:N,C lse:N,H cu_seqlens#S+1",
                          dqkv, dy, qkv, y, lse, cu_seqlens)
    (H, D), threads = _heads("attention_backward", n), _threads("attention_backward", threads)
    _check_offsets("attention_backward", cu_seqlens, n["N"])
    scratch, stride = _attention_scratch(cu_seqlens, D, threads, y.dtype, suffix)
    bad = _call("attention_backward", suffix, p[0], ffi.cast(_POINTER[y.dtype.char],
                ffi.from_buffer(scratch)), *p[1:], n["N"], n["S"], H, D, stride, threads)
    if bad >= 0:
        _bad_offset("attention_backward", bad, cu_seqlens, n["N"])


def layernorm_forward(y, mean, rstd, x, w, b, eps=1e-5, *, threads=None):
    """y (N,C) = (x - mean) * rstd * w + b over each row; mean (N) and rstd (N) are saved."""
    suffix, n, p = _admit("layernorm_forward", "y!N,C mean!N rstd!N x:N,C w:C b:C",
                          y, mean, rstd, x, w, b)
    _call("layernorm_forward", suffix, *p, n["N"], n["C"], _number("layernorm_forward", "eps", eps),
          _threads("layernorm_forward", threads))


def layernorm_backward(dx, dw, db, dy, x, w, mean, rstd, *, threads=None):
    """ADDS to dx (N,C) (the gradient that bypassed the layer stands there), dw (C), db (C)."""
    suffix, n, p = _admit("layernorm_backward",
                          "dx!N,C? dw!C? db!C? dy:N,C x:N,C w:C mean:N rstd:N",
                          dx, dw, db, dy, x, w, mean, rstd)
    _call("layernorm_backward", suffix, *p, n["N"], n["C"], _threads("layernorm_backward", threads))


def gelu_forward(y, x, *, threads=None):
    """y = x Phi(x) in the tanh form, element by element, any shape. y may be x."""
    suffix, n, p = _admit("gelu_forward", "y!* x:*", y, x, in_place=[("y", "x")])
    _call("gelu_forward", suffix, *p, x.size, _threads("gelu_forward", threads))


def gelu_backward(dx, dy, x, *, threads=None):
    """dx = dy * gelu'(x) is written; dx may be dy."""
    suffix, n, p = _admit("gelu_backward", "dx!* dy:* x:*", dx, dy, x, in_place=[("dx", "dy")])
    _call("gelu_backward", suffix, *p, x.size, _threads("gelu_backward", threads))


def embedding_forward(y, tokens, cu_seqlens, wte, wpe, *, threads=None):
    """y (N,C) = wte[tokens] + wpe[position in the sequence]; tokens (N) and cu_seqlens (S+1)
    int32, wte (V,C), wpe (T,C)."""
    suffix, n, p = _admit("embedding_forward", "y!N,C tokens#N cu_seqlens#S+1 wte:V,C wpe:T,C",
                          y, tokens, cu_seqlens, wte, wpe)
    bad = _call("embedding_forward", suffix, *p, n["N"], n["S"], n["C"], n["V"], n["T"],
                _threads("embedding_forward", threads))
    if bad >= 0:
        _bad_token("embedding_forward", bad, tokens, cu_seqlens, n)


def embedding_backward(dwte, dwpe, dy, tokens, cu_seqlens, *, threads=None):
    """dwte (V,C) and dwpe (T,C) are added to; each row of dy (N,C) goes to its token and place."""
    suffix, n, p = _admit("embedding_backward", "dwte!V,C dwpe!T,C dy:N,C tokens#N cu_seqlens#S+1",
                          dwte, dwpe, dy, tokens, cu_seqlens)
    bad = _call("embedding_backward", suffix, *p, n["N"], n["S"], n["C"], n["V"], n["T"],
                _threads("embedding_backward", threads))
    if bad >= 0:
        _bad_token("embedding_backward", bad, tokens, cu_seqlens, n)


def cross_entropy_forward(nll, lse, logits, labels, *, threads=None):
    """nll (N) = lse - logits[label] from logits (N,V) and labels (N) int32; 0 where the label is
    -100. lse (N) is saved for the backward. Nats."""
    suffix, n, p = _admit("cross_entropy_forward", "nll!N lse!N logits:N,V labels#N",
                          nll, lse, logits, labels)
    bad = _call("cross_entropy_forward", suffix, *p, n["N"], n["V"], _threads("cross_entropy_forward", threads))
    if bad >= 0:
        _bad_label("cross_entropy_forward", bad, labels, n)


def cross_entropy_backward(dlogits, dnll, logits, lse, labels, *, threads=None):
    """dlogits (N,V) = dnll (softmax - onehot) is written, exactly 0 where the label is -100;
    dlogits may be logits."""
    suffix, n, p = _admit("cross_entropy_backward", "dlogits!N,V dnll:N logits:N,V lse:N labels#N",
                          dlogits, dnll, logits, lse, labels, in_place=[("dlogits", "logits")])
    bad = _call("cross_entropy_backward", suffix, *p, n["N"], n["V"], _threads("cross_entropy_backward", threads))
    if bad >= 0:
        _bad_label("cross_entropy_backward", bad, labels, n)


def adamw(w, m, v, g, step, lr, beta1=0.9, beta2=0.999, eps=1e-8, decay=0.0, *, threads=None):
    """One AdamW step, number `step` (from 1), on vectors of one length: w, m, v in place, from g."""
    if not isinstance(step, int) or isinstance(step, bool) or step < 1:
        raise GateError(f"adamw: step = {step!r}, expected 1 for the first, then 2, ...")
    lr, beta1, beta2, eps, decay = (_number("adamw", name, value) for name, value in (
        ("lr", lr), ("beta1", beta1), ("beta2", beta2), ("eps", eps), ("decay", decay)))
    suffix, n, p = _admit("adamw", "w!n m!n v!n g:n", w, m, v, g)
    _call("adamw", suffix, *p, n["n"], lr, beta1, beta2, eps, decay, 1 - beta1 ** step,
          1 - beta2 ** step, _threads("adamw", threads))


def sum_squares(x, *, threads=None):
    """Sum of the squares of a vector, as a Python float: float64, the same for any threads."""
    suffix, n, p = _admit("sum_squares", "x:n", x)
    partials = np.empty(-(-n["n"] // SQUARES_BLOCK))
    _call("sum_squares", suffix, ffi.cast("double *", ffi.from_buffer(partials)), *p, n["n"],
          _threads("sum_squares", threads))
    return float(partials.sum())


KERNELS = [matmul_forward, matmul_backward, attention_forward, attention_backward,
           layernorm_forward, layernorm_backward, gelu_forward, gelu_backward, embedding_forward,
           embedding_backward, cross_entropy_forward, cross_entropy_backward, adamw, sum_squares]


def on_threads(threads=None):
    """All kernels with `threads` filled in (None: default_threads(), asked now, once)."""
    if threads is None:
        threads = default_threads()
    _threads("on_threads", threads)
    return SimpleNamespace(**{k.__name__: partial(k, threads=threads) for k in KERNELS})
