"""The gate: the only place that touches C. One wrapper a kernel, each forward above its backward,
with the names and arguments of reference.py, where the mathematics is derived.

Each wrapper names its arrays in a compact notation, as einsum does. "y!N,K x:N,C b:K?" says that y
is written and has two axes, that x shares the first of them and that b may be None; the same letter
must be the same number everywhere. "3C" and "S+1" mean what they say, "*" is any one shape, and
"tokens#N" is int32. What passes has one precision, fits, lies contiguously, does not overlap what
is written and can be written where it must be: it cannot crash C. What does not pass raises a
GateError that says which argument, what came and what fits.

Threads are an argument (`threads=`, default: see default_threads); `on_threads(n)` gives the same
functions with it filled in, which is what a model is handed. `Calls` notes calls instead of making
them: they are checked once, and then made many times.
"""

import importlib
import os
import sys
import time
from functools import lru_cache, partial
from types import SimpleNamespace

import numpy as np

from pysft.errors import BuildError, GateError, UsageError
from pysft.nn import _build
from pysft.nn.arena import aligned

SQUARES_BLOCK = 4096  # elements of one partial sum, as in adamw.c


# ---------------------------------------------------------------- which module, how many threads

# How long an OpenMP thread spins before it sleeps, unless the user has said. libgomp's own default
# is 150 times as long: 1 % faster on an idle machine, but beside one other busy process a step
# takes several times as long (half as long a spin: 1 % slower idle, 8 % faster beside another).
SPIN = "2000"


def _import(isa):
    name = f"pysft.nn._c_{isa}"
    chosen = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys()
    try:
        if not chosen:  # libgomp reads it once, while it is loaded; nobody else shall see it
            os.environ["GOMP_SPINCOUNT"] = SPIN
        return importlib.import_module(name)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == name
        raise BuildError(
            f"pysft's C part (instruction set {isa}) "
            + ("is not built" if missing else f"cannot be loaded ({error})")
            + ": run 'make build' in the checkout, or 'pip install .'; '--ops reference' runs "
            "without it, slowly"
        ) from None
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
        raise UsageError(
            f"PYSFT_ISA={isa}: this processor has no {isa}; it can run {', '.join(isas)}"
        )
    module = base if isa == "base" else _import(isa)
    if _build.CSRC.is_dir():  # a checkout: was the module built from these very files?
        if module.ffi.string(module.lib.pysft_sources()).decode() != _build.source_hash():
            raise BuildError(
                "the sources in csrc/ have changed since the C part was built: run "
                "'make build' (a stale kernel would give stale numbers)"
            )
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
            print(
                "pysft: this process was forked, and OpenMP's threads may be missing in it; its"
                " kernels run on one thread (start processes with 'spawn' to have more)",
                file=sys.stderr,
            )
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
                raise GateError(
                    f"{function}: {name} is None, expected an array of shape ({shape_text})"
                )
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
            raise GateError(
                f"{function}: {name} is {dtype}, expected {real} like the arrays before it"
            )
        _unify(function, name, a.shape, dims, shape_text, letters)
        flags = a.flags
        if not flags.c_contiguous:
            raise GateError(
                f"{function}: {name} is not contiguous; pass np.ascontiguousarray({name})"
            )
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
                raise GateError(
                    f"{function}: {name} and {other} overlap in memory, and "
                    f"{name if written else other} is written"
                )
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
        raise GateError(
            f"{function}: {name} has shape {shape}, expected ({text.replace(',', ', ').strip()})"
            + (f" with {known}" if known else "")
            + ", none of them zero"
        )


def _number(function, name, value):
    """A scalar argument as a float."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise GateError(f"{function}: {name} = {value!r} is not a number")
    return float(value)


def _run(calls, function, suffix, arguments, letters, explain=None):
    """Call C, or note the call in `calls`. An argument that is a letter stands for its number,
    "N*7" for 7 times as much. explain(code, letters) raises what a code that is not -1 says."""
    if calls is not None:
        calls.note(function, getattr(_lib, function + suffix), arguments, letters, explain)
        return None
    code = getattr(_lib, function + suffix)(
        *[_size(a, letters) if isinstance(a, str) else a for a in arguments]
    )
    if explain and code >= 0:
        explain(code, letters)
    return code


def _size(text, letters):
    letter, _, factor = text.partition("*")
    return letters[letter] * int(factor or 1)


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
        raise GateError(
            f"{function}: cu_seqlens falls from {cu_seqlens[i - 1]} to {cu_seqlens[i]} "
            f"at offset {i}"
        )
    if i > 0 and T is not None and cu_seqlens[i] - cu_seqlens[i - 1] > T:
        raise GateError(
            f"{function}: sequence {i - 1} has {cu_seqlens[i] - cu_seqlens[i - 1]} rows, "
            f"the context has {T}"
        )
    raise GateError(f"{function}: cu_seqlens ends with {cu_seqlens[i]}, expected N = {N}")


def _bad_label(function, row, labels, letters):
    raise GateError(
        f"{function}: labels[{row}] = {labels[row]} is neither -100 (not graded) nor in "
        f"0..{letters['V'] - 1}"
    )


# ---------------------------------------------------------------------------------- the kernels


def matmul_forward(y, x, w, b=None, residual=None, *, threads=None, calls=None):
    """y (N,K) = x (N,C) wT + b [+ residual (N,K)], with w (K,C), b (K)."""
    suffix, n, p = _admit(
        "matmul_forward", "y!N,K x:N,C w:K,C b:K? residual:N,K?", y, x, w, b, residual
    )
    _run(
        calls, "matmul_forward", suffix, [*p, "N", "C", "K", _threads("matmul_forward", threads)], n
    )


def matmul_backward(dx, dw, db, dy, x, w, *, threads=None, calls=None):
    """dx (N,C) is written, dw (K,C) and db (K) are added to; each may be None if not wanted.
    The residual's gradient is dy itself."""
    suffix, n, p = _admit(
        "matmul_backward", "dx!N,C? dw!K,C? db!K? dy:N,K x:N,C w:K,C", dx, dw, db, dy, x, w
    )
    _run(
        calls,
        "matmul_backward",
        suffix,
        [*p, "N", "C", "K", _threads("matmul_backward", threads)],
        n,
    )


def _attention(function, calls, suffix, n, dtype, threads, cu_seqlens, rows, pointers):
    """What both directions share: pointers(scratch, row widths) are the leading arguments of the C
    call."""
    C, H = n["C"], n["H"]
    if C % H:
        raise GateError(f"{function}: C = {C} channels cannot be split over H = {H} heads")
    threads, n = _threads(function, threads), {"M": n["N"], **n}
    if calls is not None:
        longest = calls.longest
    else:  # before scratch is sized by them, the offsets must make sense
        bad = np.flatnonzero(cu_seqlens[1:] < cu_seqlens[:-1])
        if cu_seqlens[0] != 0 or len(bad) or cu_seqlens[-1] != n["N"]:
            first = (
                0 if cu_seqlens[0] != 0 else int(bad[0]) + 1 if len(bad) else len(cu_seqlens) - 1
            )
            _bad_offset(function, first, cu_seqlens, n["N"])
        longest = int(np.diff(cu_seqlens).max())
    piece = getattr(_lib, "attention_scratch" + suffix)(longest, C // H)
    scratch = (
        aligned(piece * threads, dtype) if calls is None else calls.scratch(piece * threads, dtype)
    )
    widths = [C, 2 * C] if rows is not None else [3 * C, 3 * C]

    def explain(code, letters):
        if code <= letters["S"]:
            _bad_offset(function, code, cu_seqlens, letters["N"], longest)
        code -= letters["S"] + 1
        raise GateError(
            f"{function}: rows[{code}] = {rows[code]} is not above the one before it and below "
            f"N = {letters['N']}"
        )

    N = "N" if rows is None else "M"
    _run(
        calls,
        function,
        suffix,
        [
            *pointers(ffi.cast(_POINTER[dtype.char], ffi.from_buffer(scratch))),
            "N",
            "S",
            N,
            H,
            C // H,
            *widths,
            longest,
            threads,
        ],
        n,
        explain,
    )


def attention_forward(y, lse, qkv, cu_seqlens, q=None, rows=None, *, threads=None, calls=None):
    """y (N,C) and lse (N,H) from qkv (N,3C), causal inside each sequence of cu_seqlens (S+1)
    int32. H is taken from lse; D = C / H.

    With q (M,C) and rows (M) int32, rising, only the rows `rows` ask: q holds their queries, qkv
    (N,2C) the keys and values of all rows, y is (M,C) and lse (M,H)."""
    if rows is None:
        suffix, n, p = _admit(
            "attention_forward", "y!N,C lse!N,H qkv:N,3C cu_seqlens#S+1", y, lse, qkv, cu_seqlens
        )
        queries, kv, rest = p[2], p[2] + n["C"], [p[3], ffi.NULL]
    else:
        suffix, n, p = _admit(
            "attention_forward",
            "y!M,C lse!M,H qkv:N,2C cu_seqlens#S+1 q:M,C rows#M",
            y,
            lse,
            qkv,
            cu_seqlens,
            q,
            rows,
        )
        queries, kv, rest = p[4], p[2], [p[3], p[5]]
    _attention(
        "attention_forward",
        calls,
        suffix,
        n,
        y.dtype,
        threads,
        cu_seqlens,
        rows,
        lambda scratch: [p[0], p[1], scratch, queries, kv, *rest],
    )


def attention_backward(
    dqkv, dy, qkv, y, lse, cu_seqlens, dq=None, q=None, rows=None, *, threads=None, calls=None
):
    """dqkv (N,3C) is written from dy (N,C) and the forward's qkv, y, lse.

    With dq (M,C), q and rows as in the forward, dq and dqkv (N,2C) are written, and dy is (M,C)."""
    if rows is None:
        suffix, n, p = _admit(
            "attention_backward",
            "dqkv!N,3C dy:N,C qkv:N,3C y:N,C lse:N,H cu_seqlens#S+1",
            dqkv,
            dy,
            qkv,
            y,
            lse,
            cu_seqlens,
        )
        into, arrays, rest = (
            [p[0], p[0] + n["C"]],
            [p[1], p[2], p[2] + n["C"]],
            [p[3], p[4], p[5], ffi.NULL],
        )
    else:
        suffix, n, p = _admit(
            "attention_backward",
            "dqkv!N,2C dy:M,C qkv:N,2C y:M,C lse:M,H cu_seqlens#S+1 dq!M,C q:M,C rows#M",
            dqkv,
            dy,
            qkv,
            y,
            lse,
            cu_seqlens,
            dq,
            q,
            rows,
        )
        into, arrays, rest = [p[6], p[0]], [p[1], p[7], p[2]], [p[3], p[4], p[5], p[8]]
    _attention(
        "attention_backward",
        calls,
        suffix,
        n,
        y.dtype,
        threads,
        cu_seqlens,
        rows,
        lambda scratch: [*into, scratch, *arrays, *rest],
    )


def layernorm_forward(y, mean, rstd, x, w, b, eps=1e-5, *, threads=None, calls=None):
    """y (N,C) = (x - mean) * rstd * w + b over each row; mean (N) and rstd (N) are saved."""
    suffix, n, p = _admit(
        "layernorm_forward", "y!N,C mean!N rstd!N x:N,C w:C b:C", y, mean, rstd, x, w, b
    )
    _run(
        calls,
        "layernorm_forward",
        suffix,
        [
            *p,
            "N",
            "C",
            _number("layernorm_forward", "eps", eps),
            _threads("layernorm_forward", threads),
        ],
        n,
    )


def layernorm_backward(dx, dw, db, dy, x, w, mean, rstd, *, threads=None, calls=None):
    """ADDS to dx (N,C) (the gradient that bypassed the layer stands there), dw (C), db (C)."""
    suffix, n, p = _admit(
        "layernorm_backward",
        "dx!N,C? dw!C? db!C? dy:N,C x:N,C w:C mean:N rstd:N",
        dx,
        dw,
        db,
        dy,
        x,
        w,
        mean,
        rstd,
    )
    _run(
        calls,
        "layernorm_backward",
        suffix,
        [*p, "N", "C", _threads("layernorm_backward", threads)],
        n,
    )


def _elements(x):
    """(how many elements x has as a function of its rows, the letters)."""
    rows = len(x) if x.ndim else 1
    return f"N*{x.size // rows}", {"N": rows}


def gelu_forward(y, x, dydx=None, *, threads=None, calls=None):
    """y = x Phi(x) in the tanh form, element by element, any shape. y may be x. dydx, if given, is
    written: the derivative, which the backward then only multiplies; it may be x."""
    suffix, _, p = _admit(
        "gelu_forward", "y!* x:* dydx!*?", y, x, dydx, in_place=[("y", "x"), ("x", "dydx")]
    )
    size, n = _elements(x)
    _run(
        calls,
        "gelu_forward",
        suffix,
        [*p[:1], p[2], p[1], size, _threads("gelu_forward", threads)],
        n,
    )


def gelu_backward(dx, dy, x, dydx=None, *, threads=None, calls=None):
    """dx = dy * gelu'(x) is written, or, with x None, dx = dy * dydx of the forward; dx may be
    dy."""
    if (x is None) == (dydx is None):
        raise GateError(
            f"gelu_backward: x is {'' if x is None else 'not '}None and so is dydx, expected an"
            " array of shape (*) for exactly one of them"
        )
    suffix, _, p = _admit(
        "gelu_backward", "dx!* dy:* x:*? dydx:*?", dx, dy, x, dydx, in_place=[("dx", "dy")]
    )
    size, n = _elements(dy)
    _run(calls, "gelu_backward", suffix, [*p, size, _threads("gelu_backward", threads)], n)


def embedding_forward(y, tokens, cu_seqlens, wte, wpe, *, threads=None, calls=None):
    """y (N,C) = wte[tokens] + wpe[position in the sequence]; tokens (N) and cu_seqlens (S+1)
    int32, wte (V,C), wpe (T,C)."""
    suffix, n, p = _admit(
        "embedding_forward",
        "y!N,C tokens#N cu_seqlens#S+1 wte:V,C wpe:T,C",
        y,
        tokens,
        cu_seqlens,
        wte,
        wpe,
    )
    _run(
        calls,
        "embedding_forward",
        suffix,
        [*p, "N", "S", "C", "V", "T", _threads("embedding_forward", threads)],
        n,
        lambda code, letters: _bad_token("embedding_forward", code, tokens, cu_seqlens, letters),
    )


def embedding_backward(dwte, dwpe, dy, tokens, cu_seqlens, *, threads=None, calls=None):
    """dwte (V,C) and dwpe (T,C) are added to; each row of dy (N,C) goes to its token and place."""
    suffix, n, p = _admit(
        "embedding_backward",
        "dwte!V,C dwpe!T,C dy:N,C tokens#N cu_seqlens#S+1",
        dwte,
        dwpe,
        dy,
        tokens,
        cu_seqlens,
    )
    _run(
        calls,
        "embedding_backward",
        suffix,
        [*p, "N", "S", "C", "V", "T", _threads("embedding_backward", threads)],
        n,
        lambda code, letters: _bad_token("embedding_backward", code, tokens, cu_seqlens, letters),
    )


def _bad_row(function, rows):
    def explain(code, letters):
        raise GateError(
            f"{function}: rows[{code}] = {rows[code]} is not above the one before it and below "
            f"N = {letters['N']}"
        )

    return explain


def take_rows_forward(y, x, rows, *, threads=None, calls=None):
    """y (M,C) = x (N,C) at rows (M) int32, which rise."""
    suffix, n, p = _admit("take_rows_forward", "y!M,C x:N,C rows#M", y, x, rows)
    _run(
        calls,
        "take_rows_forward",
        suffix,
        [*p, "N", "M", "C", _threads("take_rows_forward", threads)],
        n,
        _bad_row("take_rows_forward", rows),
    )


def take_rows_backward(dx, dy, rows, *, threads=None, calls=None):
    """ADDS dy (M,C) to dx (N,C) at rows (M): other readers of x have their gradient there
    already."""
    suffix, n, p = _admit("take_rows_backward", "dx!N,C dy:M,C rows#M", dx, dy, rows)
    _run(
        calls,
        "take_rows_backward",
        suffix,
        [*p, "N", "M", "C", _threads("take_rows_backward", threads)],
        n,
        _bad_row("take_rows_backward", rows),
    )


def cross_entropy_forward(nll, lse, logits, labels, *, threads=None, calls=None):
    """nll (N) = lse - logits[label] from logits (N,V) and labels (N) int32; 0 where the label is
    -100. lse (N) is saved for the backward. Nats."""
    suffix, n, p = _admit(
        "cross_entropy_forward", "nll!N lse!N logits:N,V labels#N", nll, lse, logits, labels
    )
    _run(
        calls,
        "cross_entropy_forward",
        suffix,
        [*p, "N", "V", _threads("cross_entropy_forward", threads)],
        n,
        lambda code, letters: _bad_label("cross_entropy_forward", code, labels, letters),
    )


def cross_entropy_backward(dlogits, dnll, logits, lse, labels, *, threads=None, calls=None):
    """dlogits (N,V) = dnll (softmax - onehot) is written, exactly 0 where the label is -100;
    dlogits may be logits."""
    suffix, n, p = _admit(
        "cross_entropy_backward",
        "dlogits!N,V dnll:N logits:N,V lse:N labels#N",
        dlogits,
        dnll,
        logits,
        lse,
        labels,
        in_place=[("dlogits", "logits")],
    )
    _run(
        calls,
        "cross_entropy_backward",
        suffix,
        [*p, "N", "V", _threads("cross_entropy_backward", threads)],
        n,
        lambda code, letters: _bad_label("cross_entropy_backward", code, labels, letters),
    )


def _lengths(function, **sizes):
    """Whole numbers above 0."""
    for name, n in sizes.items():
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            raise GateError(f"{function}: {name} = {n!r}, expected a whole number, at least 1")


def decode_sizes(C, K, V, T, L, dtype):
    """How many elements decode_pack writes for a w of (K,C), decode_forward's weights have for V
    symbols, T positions, C channels and L blocks, and each sequence's cache and working memory."""
    _lengths("decode_sizes", C=C, K=K, V=V, T=T, L=L)
    suffix = "_f32" if np.dtype(dtype) == np.float32 else "_f64"
    return tuple(
        int(getattr(_lib, name + suffix)(*a))
        for name, a in (
            ("decode_packed", (C, K)),
            ("decode_weights", (V, T, C, L)),
            ("decode_cache", (T, C, L)),
            ("decode_work", (T, C)),
        )
    )


def decode_pack(packed, w):
    """packed (n) = w (K,C) in the order in which decode_forward reads it."""
    suffix, n, p = _admit("decode_pack", "packed!n w:K,C", packed, w)
    expected = getattr(_lib, "decode_packed" + suffix)(n["C"], n["K"])
    if n["n"] != expected:
        raise GateError(
            f"decode_pack: packed has shape ({n['n']},), expected ({expected},) for w {w.shape}"
        )
    _run(None, "decode_pack", suffix, [*p, "C", "K"], n)


def decode_forward(
    logits, cache, work, weights, tokens, positions, slots, T, H, L, eps=1e-5, *, threads=None
):
    """logits (S,V) of one more token of each of S sequences: tokens (S) at positions (S) (0 to T-1)
    behind those whose keys and values stand in rows slots (S), rising, of cache (R,c); their own
    are added. work (S,w) is working memory; weights as kernels.h lists them, their size and those
    of c and w: decode_sizes."""
    decoder(logits, cache, work, weights, tokens, positions, slots, T, H, L, eps, threads=threads)(
        len(tokens)
    )


def decoder(
    logits, cache, work, weights, tokens, positions, slots, T, H, L, eps=1e-5, *, threads=None
):
    """decode_forward with these arrays, checked once: a function of how many sequences, the first
    of the arrays', there are. What tokens, positions and slots hold is checked at each call."""
    _lengths("decode_forward", T=T, H=H, L=L)
    suffix, n, p = _admit(
        "decode_forward",
        "logits!S,V cache!R,c work!S,w weights:W tokens#S positions#S slots#S",
        logits,
        cache,
        work,
        weights,
        tokens,
        positions,
        slots,
    )
    # Work is 7 C and the scores of some heads: C follows from it.
    C = (n["w"] - (decode_sizes(1, 1, 1, T, 1, logits.dtype)[3] - 7)) // 7
    if C < 1 or C % H:
        raise GateError(
            f"decode_forward: work has rows of {n['w']}, which hold {C} channels; they cannot be"
            f" split over H = {H} heads"
        )
    sizes = decode_sizes(C, 1, n["V"], T, L, logits.dtype)
    for name, size, expected in (
        ("weights", n["W"], sizes[1]),
        ("cache", n["c"], sizes[2]),
        ("work", n["w"], sizes[3]),
    ):
        if size != expected:
            raise GateError(
                f"decode_forward: {name} has {size}"
                f" elements{'' if name == 'weights' else ' a row'}, expected {expected}"
            )
    function, most, V = getattr(_lib, "decode_forward" + suffix), n["S"], n["V"]
    rest = (
        n["R"],
        V,
        T,
        C,
        H,
        L,
        _number("decode_forward", "eps", eps),
        _threads("decode_forward", threads),
    )
    keep = logits, cache, work, weights, tokens, positions, slots  # as long as the function lives

    def step(S=1):
        if not 0 < S <= most:
            raise GateError(f"decode_forward: {S} sequences, expected 1 to {most}")
        code = function(*p, S, *rest)
        if code >= 0:
            name, a, top = (
                ("token", tokens, V),
                ("position", positions, T),
                ("slot", slots, n["R"]),
            )[code // S]
            raise GateError(
                f"decode_forward: {name} = {a[code % S]} is not in 0..{top - 1}"
                + (", or not above the slot before it" if name == "slot" else "")
            )
        return keep[0]

    return step


def adamw(w, m, v, g, step, lr, beta1=0.9, beta2=0.999, eps=1e-8, decay=0.0, *, threads=None):
    """One AdamW step, number `step` (from 1), on vectors of one length: w, m, v in place, from
    g."""
    if not isinstance(step, int) or isinstance(step, bool) or step < 1:
        raise GateError(f"adamw: step = {step!r}, expected 1 for the first, then 2, ...")
    lr, beta1, beta2, eps, decay = (
        _number("adamw", name, value)
        for name, value in (
            ("lr", lr),
            ("beta1", beta1),
            ("beta2", beta2),
            ("eps", eps),
            ("decay", decay),
        )
    )
    suffix, n, p = _admit("adamw", "w!n m!n v!n g:n", w, m, v, g)
    _run(
        None,
        "adamw",
        suffix,
        [
            *p,
            "n",
            lr,
            beta1,
            beta2,
            eps,
            decay,
            1 - beta1**step,
            1 - beta2**step,
            _threads("adamw", threads),
        ],
        n,
    )


def sum_squares(x, *, threads=None):
    """Sum of the squares of a vector, as a Python float: float64, the same for any threads."""
    suffix, n, p = _admit("sum_squares", "x:n", x)
    partials = np.empty(-(-n["n"] // SQUARES_BLOCK))
    _run(
        None,
        "sum_squares",
        suffix,
        [
            ffi.cast("double *", ffi.from_buffer(partials)),
            *p,
            "n",
            _threads("sum_squares", threads),
        ],
        n,
    )
    return float(partials.sum())


KERNELS = [
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
    take_rows_forward,
    take_rows_backward,
    cross_entropy_forward,
    cross_entropy_backward,
    adamw,
    sum_squares,
]
OF_A_STEP = adamw, sum_squares  # work on all weights at once: not part of a walk


def on_threads(threads=None):
    """All kernels with `threads` filled in (None: default_threads(), asked now, once), the
    functions for decoding, and `calls`, which makes Calls on as many threads."""
    if threads is None:
        threads = default_threads()
    _threads("on_threads", threads)
    decoding = {
        "decode_sizes": decode_sizes,
        "decode_pack": decode_pack,
        "decode_forward": partial(decode_forward, threads=threads),
        "decoder": partial(decoder, threads=threads),
    }
    return SimpleNamespace(
        **{k.__name__: partial(k, threads=threads) for k in KERNELS},
        **decoding,
        calls=partial(Calls, threads),
    )


class Calls:
    """Kernel calls that are checked once and made many times, which takes a microsecond of Python a
    call where the gate takes ten.

    They are noted with arrays of as many rows as there can ever be, and made for any number of rows
    N, sequences S and wanted rows M up to those: arrays begin where they begin, whatever their
    length, so only these three numbers change. longest: rows that a sequence can have."""

    def __init__(self, threads: int, longest: int):
        self.threads, self.longest = threads, longest
        self._calls, self._alive, self._most, self._scratch = [], [], {}, {}

    def on(self, rows: str = "N") -> SimpleNamespace:
        """The kernels; called, they are noted here. Those of on("M") work on the wanted rows
        alone."""
        return SimpleNamespace(
            **{k.__name__: partial(self._wrap, k, rows) for k in KERNELS if k not in OF_A_STEP}
        )

    def _wrap(self, kernel, rows, *arrays, **options):
        self._rows = rows
        self._alive.append(arrays)
        kernel(*arrays, **options, threads=self.threads, calls=self)

    def scratch(self, elements: int, dtype) -> np.ndarray:
        """Working memory: calls come one after the other, so those that need as much share it."""
        key = elements, np.dtype(dtype)
        if key not in self._scratch:
            self._scratch[key] = aligned(elements, dtype)
        return self._scratch[key]

    def note(self, function, c_function, arguments, letters, explain) -> None:
        """One call; arguments as in _run."""
        names = {"N": self._rows, "S": "S", "M": "M"}
        fixed, sizes = [], []
        for i, a in enumerate(arguments):
            letter = a[0] if isinstance(a, str) else ""
            if letter in names:
                sizes.append((i, "NSM".index(names[letter]), int(a[2:] or 1)))
                self._most[names[letter]] = min(
                    letters[letter], self._most.get(names[letter], letters[letter])
                )
            fixed.append(_size(a, letters) if letter else a)
        self._calls.append((function, c_function, fixed, sizes, explain, letters))

    def run(self, N: int, S: int, M: int, clock: dict | None = None) -> None:
        """Make all calls, in order. clock: if given, each kernel's seconds are added to it by
        name."""
        here = N, S, M
        for name, most in self._most.items():
            if not 1 <= here["NSM".index(name)] <= most:
                raise GateError(
                    f"{name} = {here['NSM'.index(name)]}, but these calls were checked for 1 to"
                    f" {most}"
                )
        if _forked:
            self._on_one_thread()
        for function, c_function, arguments, sizes, explain, letters in self._calls:
            for i, which, factor in sizes:
                arguments[i] = here[which] * factor
            began = time.perf_counter() if clock is not None else 0.0
            code = c_function(*arguments)
            if clock is not None:
                clock[function] = clock.get(function, 0.0) + time.perf_counter() - began
            if explain is not None and code >= 0:
                explain(code, {**letters, "N": N, "S": S, "M": M})

    def _on_one_thread(self):
        for _, _, arguments, *_ in self._calls:  # threads is the last argument of every kernel
            arguments[-1] = _threads("Calls.run", arguments[-1])
