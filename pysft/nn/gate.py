"""The gate to C: loads the compiled kernels, and checks the arrays of a call before C sees them.

Besides the builder (_build.py) this is the only module that touches ffi. A wrapper in kernels.py
passes its arrays to admit(), which returns them as C pointers. The wrapper describes each array by
one word, in a notation like that of einsum:

    "y!N,K x:N,C w:K,C b:K? tokens#N cu_seqlens#S+1"

    y!N,K      a float array that C writes, with two axes, of sizes N and K
    x:N,C      a float array that C only reads; its first axis is as long as that of y
    b:K?       the argument may be None, and C then gets NULL
    tokens#N   an int32 array, which C only reads; ids!#N is one that C writes
    3C, S+1    an axis of three times C, or of one more than S
    *          any shape, but the same for all arrays with a *

In one call a letter is the same number everywhere, at least 1, and all float arrays have the same
precision, float32 or float64. Each array must be a NumPy array, contiguous, aligned to its element
size, and writable if C writes it. It must not share memory with another array if C writes either of
them, except where a wrapper allows the two to be the same array. Anything else raises a GateError
that names the function, the argument, what came and what fits.

The gate does not look at the values. The kernels check tokens, labels, offsets, positions and
slots in C before they use them as indices, and the wrappers turn the code that they return into a
GateError. So a call that passes the gate cannot crash C.
"""

import importlib
import os
import sys
from functools import lru_cache

import numpy as np

from pysft.errors import BuildError, GateError, UsageError
from pysft.nn import _build
from pysft.nn.machine import processors
from pysft.nn.shapes import PRECISIONS

# -------------------------------------------------------------------------- the compiled module

# How many times an OpenMP thread looks for work before it sleeps, unless the user has set it.
# libgomp's own default is 150 times as large. That is 1 % faster on an idle machine, but beside one
# other busy process a step takes several times as long. (Half of this value is 1 % slower on an
# idle machine, and 8 % faster beside another process.)
SPIN = "2000"


def _import(isa):
    """Import the compiled module of one instruction set; a BuildError if it is missing or cannot be
    loaded."""
    name = f"pysft.nn._c_{isa}"
    chosen = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys()
    try:
        # libgomp reads the variable once, when it is loaded. The variable is removed again below,
        # so that no other library and no child process sees it.
        if not chosen:
            os.environ["GOMP_SPINCOUNT"] = SPIN
        return importlib.import_module(name)
    except ImportError as error:
        is_missing = isinstance(error, ModuleNotFoundError) and error.name == name
        raise BuildError(
            f"pysft's C part (instruction set {isa}) "
            + ("is not built" if is_missing else f"cannot be loaded ({error})")
            + ": run 'make build' in the checkout, or 'pip install .'; '--ops reference' runs"
            " without it, slowly"
        ) from None
    finally:
        if not chosen:
            del os.environ["GOMP_SPINCOUNT"]


def _load():
    """Return (ffi, lib, isa, isas): the compiled module for this processor, the instruction set
    that it was compiled for, and all instruction sets that can run here.

    The module is the best one, or the one that PYSFT_ISA names: a UsageError if that cannot run
    here. A BuildError if the module was built from other sources."""
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
    if _build.CSRC.is_dir():  # a checkout, where the sources may have changed since the build
        built_from = module.ffi.string(module.lib.pysft_sources()).decode()
        if built_from != _build.source_hash():
            raise BuildError(
                "the sources in csrc/ have changed since the C part was built: run "
                "'make build' (a stale kernel would give stale numbers)"
            )
    return module.ffi, module.lib, isa, isas


ffi, _lib, ISA, ISAS = _load()
NULL = ffi.NULL
COMPILER = ffi.string(_lib.pysft_compiler()).decode()
OPENMP = _lib.pysft_openmp()


_FLOAT32, _FLOAT64, _INT32 = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int32)

# Products in bf16 need an instruction that not every processor has.
HAS_BF16 = hasattr(_lib, "matmul_forward_bf16") and bool(_import("base").lib.pysft_cpu_has(b"bf16"))


def precisions() -> list[str]:
    """Return the precisions in which this processor can compute products."""
    return [p for p in PRECISIONS if p != "bf16" or HAS_BF16]


def require_precision(precision: str) -> None:
    """Raise a UsageError if this processor cannot compute products in a precision."""
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    if precision not in precisions():
        raise UsageError(
            f"precision bf16: this processor runs the instruction set {ISA}, without the products"
            " of bf16 (AVX512-BF16). Use --precision float32 or --ops reference, or resume such a"
            " training on a processor that has them"
        )


def c_function(name: str, suffix: str):
    """Return the C function `name` in one precision. suffix: "_f32", "_f64" or "_bf16"."""
    return getattr(_lib, name + suffix)


def suffix_of(function: str, dtype, precision: str) -> str:
    """Return the suffix of the C functions for arrays of a type and products of a precision. A
    GateError if bf16 is asked for float64, a UsageError if this processor lacks it."""
    if precision == "float32":
        return "_f32" if dtype == _FLOAT32 else "_f64"
    require_precision(precision)
    if dtype != _FLOAT32:
        raise GateError(f"{function}: arrays are {dtype}, expected float32 for products in bf16")
    return "_bf16"


# ---------------------------------------------------------------------------------- threads

_forked = False  # True if this process was forked after the C part was loaded
_fork_reported = False  # True once count_threads() has reported it


def _after_fork():
    global _forked, _fork_reported
    _forked, _fork_reported = True, False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def is_forked() -> bool:
    """True if this process was forked after the C part was loaded."""
    return _forked


def default_threads() -> int:
    """Return PYSFT_NUM_THREADS, else OMP_NUM_THREADS, else the number of processors that this
    process may use, at most 1024. A container's quota counts (machine.py).

    A UsageError if a variable's value is not a number from 1 to 1024."""
    for variable in ("PYSFT_NUM_THREADS", "OMP_NUM_THREADS"):
        text = os.environ.get(variable, "").split(",")[0].strip()
        if text:
            if not text.isdecimal() or not 1 <= int(text) <= 1024:
                raise UsageError(f"{variable}={text} is not a number of threads from 1 to 1024")
            return int(text)
    return min(processors(), 1024)


def count_threads(function: str, threads: int | None) -> int:
    """Return the number of threads for a call of `function`: `threads`, or default_threads() if
    None. A GateError if it is not a whole number from 1 to 1024.

    In a forked process it is 1. OpenMP's worker threads do not survive a fork, and a call that
    waited for them would hang for ever. The first call that wants more prints this to standard
    error."""
    global _fork_reported
    if threads is None:
        threads = default_threads()
    if not isinstance(threads, int) or isinstance(threads, bool) or not 1 <= threads <= 1024:
        raise GateError(f"{function}: threads = {threads!r} is not a whole number from 1 to 1024")
    if _forked and threads > 1:
        if not _fork_reported:
            print(
                "pysft: this process was forked, and OpenMP's threads may be missing in it; its"
                " kernels run on one thread (to have more, start processes with 'spawn')",
                file=sys.stderr,
            )
            _fork_reported = True
        return 1
    return threads


# --------------------------------------------------------------------------------- the gate

_C_TYPE = {  # by dtype.char
    "f": ffi.typeof("float[]"),
    "d": ffi.typeof("double[]"),
    "i": ffi.typeof("int32_t[]"),
    "l": ffi.typeof("int32_t[]"),  # where a C long has 32 bits
}
_ADDRESS = ffi.typeof("intptr_t")


class Admitted:
    """The checked arrays of one call.

    function: the kernel's name. suffix: "_f32", "_f64" or "_bf16". letters: the number that each
    letter of the notation stands for. pointers: a C pointer for each array, in order; NULL for
    None."""

    __slots__ = ("function", "suffix", "letters", "pointers")

    def __init__(self, function, suffix, letters, pointers):
        self.function, self.suffix = function, suffix
        self.letters, self.pointers = letters, pointers

    def call(self, arguments: list, threads: int | None, calls=None, explain=None) -> None:
        """Call the C kernel with `arguments` and the number of threads. If `calls` (calls.py) is
        given, note the call there instead.

        A string among the arguments is a size: see size(). explain: for a kernel that checks
        indices. Such a kernel returns -1 if all are good. For any other code
        explain(function, code, letters) raises the GateError."""
        arguments.append(count_threads(self.function, threads))
        kernel = c_function(self.function, self.suffix)
        if calls is not None:
            calls.note(self, kernel, arguments, explain)
            return
        letters = self.letters
        code = kernel(*[size(a, letters) if isinstance(a, str) else a for a in arguments])
        if explain is not None and code >= 0:
            explain(self.function, code, letters)


def size(text: str, letters: dict) -> int:
    """Return the number that a size stands for: "N" for letters["N"], "N*7" for 7 times that."""
    if len(text) == 1:
        return letters[text]
    letter, _, factor = text.partition("*")
    return letters[letter] * int(factor)


def admit(
    function: str, notation: str, *arrays, in_place=(), precision: str = "float32"
) -> Admitted:
    """Check the arrays of one call against the notation, which the top of this file explains.

    in_place: pairs of names, in the notation's order, whose arrays may have the same memory.
    precision: that of its products, for float32 arrays. A GateError if an array does not fit."""
    letters, pointers, spans = {}, [], []
    real = None
    for (name, written, integer, optional, dims, shape_text), a in zip(_parse(notation), arrays):
        if a is None:
            if not optional:
                raise GateError(
                    f"{function}: {name} is None, expected an array of shape ({shape_text})"
                )
            pointers.append(NULL)
            continue
        if not isinstance(a, np.ndarray):
            raise GateError(f"{function}: {name} is {type(a).__name__}, expected a NumPy array")
        dtype = a.dtype
        if integer:
            if dtype != _INT32:
                raise GateError(f"{function}: {name} is {dtype}, expected int32")
        elif real is None:
            if dtype != _FLOAT32 and dtype != _FLOAT64:
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
        pointers.append(array := ffi.from_buffer(_C_TYPE[dtype.char], a, written))
        start = int(ffi.cast(_ADDRESS, array))
        spans.append((start, start + a.nbytes, name, written))
    _refuse_overlap(function, spans, in_place)
    return Admitted(function, suffix_of(function, real, precision), letters, pointers)


@lru_cache(None)
def _parse(notation):
    """Return a list of (name, is written, is int32, is optional, dims, dims as text), one for each
    array. dims is a list of (factor, letter, plus), one for each axis; None for *."""
    arguments = []
    for word in notation.split():
        name = word.rstrip("?")
        mark = next(mark for mark in ("!#", "!", "#", ":") if mark in name)
        name, text = name.split(mark)
        dims = None
        if text != "*":
            dims = []
            for dim in text.split(","):
                dim, _, plus = dim.partition("+")
                dims.append((int(dim[:-1] or 1), dim[-1], int(plus or 0)))
        arguments.append((name, "!" in mark, "#" in mark, word.endswith("?"), dims, text))
    return arguments


def _unify(function, name, shape, dims, shape_text, letters):
    """Match an array's shape with its dims. A letter that occurs for the first time gets its number
    from the shape, and `letters` keeps it."""
    if dims is None:
        if letters.setdefault("*", shape) != shape:
            raise GateError(f"{function}: {name} has shape {shape}, expected {letters['*']}")
        if 0 in shape:
            raise GateError(f"{function}: {name} has shape {shape}, expected at least one element")
        return
    fits = len(shape) == len(dims)
    if fits:
        for length, (factor, letter, plus) in zip(shape, dims):
            value = letters.get(letter)
            if value is None:
                value, rest = divmod(length - plus, factor)
                if rest or value < 1:
                    fits = False
                    break
                letters[letter] = value
            elif length != factor * value + plus:
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


def _refuse_overlap(function, spans, in_place):
    """Raise a GateError if two arrays share memory and C writes at least one of them.

    spans: (first byte, end, name, is written), one for each array. in_place as in admit()."""
    for i, (start, end, name, written) in enumerate(spans):
        for other_start, other_end, other, other_written in spans[:i]:
            if (written or other_written) and start < other_end and other_start < end:
                if start == other_start and end == other_end and (other, name) in in_place:
                    continue
                raise GateError(
                    f"{function}: {name} and {other} overlap in memory, and "
                    f"{name if written else other} is written"
                )


def number(function: str, name: str, value) -> float:
    """Return a scalar argument as a float. A GateError if it is not a number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise GateError(f"{function}: {name} = {value!r} is not a number")
    return float(value)


def pointer(a: np.ndarray):
    """Return the C pointer to an array, without any check."""
    return ffi.from_buffer(_C_TYPE[a.dtype.char], a)
