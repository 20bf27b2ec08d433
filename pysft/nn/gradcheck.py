"""The gradient check: compares every backward with finite differences of its forward, in float64.

For each tensor that a backward gives a gradient for, every element x[i] is moved by 2h, h, -h and
-2h. The five-point formula

    dL/dx[i] = (-L(x+2h) + 8 L(x+h) - 8 L(x-h) + L(x-2h)) / 12h  + O(h^4)

is the numeric gradient, and the backward gives the analytic one. The error of a tensor is
max|analytic - numeric| / max(max|analytic|, max|numeric|, 1e-6). gradcases.py has the table of
cases.

The functions under test are any object with the kernels' names (computing.py): the kernels, the
reference, or a reader's own file (`gradcheck --ops FILE.py`). The forwards of such a file are first
compared with the reference's: a backward may be the right derivative of a wrong forward."""

import ast
import inspect
import runpy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from pysft.errors import DataError, MissingInput
from pysft.nn import reference
from pysft.nn.gradcases import CASES

TOLERANCE = 1e-7
# The functions that the cases check. A reader's file may have any of them.
CHECKED = [
    f"{kernel}_{way}"
    for kernel in dict.fromkeys(name.split(",")[0] for name in CASES)
    for way in ("forward", "backward")
    if hasattr(reference, f"{kernel}_{way}")
]
# h, relative to a tensor's scale. The errors by truncation and by rounding are both near 1e-12.
STEP = 1e-3


@dataclass(frozen=True)
class Row:
    """The result for one tensor of one case.

    worst: the tensor's error, which the top of this file defines. passed: worst <= TOLERANCE."""

    name: str
    tensor: str
    worst: float
    elements: int
    passed: bool


def run(ops, seed: int = 0, cases=CASES) -> list[Row]:
    """Check `ops` in every case, in float64. Return a Row for each tensor, after those for the
    outputs of a reader's own forwards.

    cases: name -> (check, sizes), as in gradcases.CASES."""
    rows = _forward_rows(ops, seed, cases) if hasattr(ops, "own") else []
    for name, (check, sizes) in cases.items():
        rng = np.random.default_rng(seed)
        for tensor, analytic, x, loss in check(ops, rng, **sizes):
            if x is None:  # the case has judged the elements itself: 0 is right, inf is wrong
                worst = float(np.abs(analytic).max())
            elif not np.isfinite(analytic).all():
                worst = float("inf")
            else:
                worst = relative_error(analytic, numeric_gradient(loss, x))
            rows.append(Row(name, tensor, worst, analytic.size, worst <= TOLERANCE))
    return rows


def numeric_gradient(loss: Callable[[], float], x: np.ndarray) -> np.ndarray:
    """Return dloss/dx, in the shape of x, by five-point differences. loss() must depend on x, whose
    elements are moved one at a time and then set back."""
    h = STEP * max(1.0, float(np.abs(x).mean()))
    gradient = np.empty_like(x)
    flat, out = x.reshape(-1), gradient.reshape(-1)
    for i, kept in enumerate(flat):
        values = []
        for k in (2, 1, -1, -2):
            flat[i] = kept + k * h
            values.append(loss())
        flat[i] = kept
        out[i] = (-values[0] + 8 * values[1] - 8 * values[2] + values[3]) / (12 * h)
    return gradient


def relative_error(analytic: np.ndarray, numeric: np.ndarray) -> float:
    """Return the error of a tensor. It is infinite if a number in either array is not finite."""
    if not (np.isfinite(analytic).all() and np.isfinite(numeric).all()):
        return float("inf")
    scale = max(np.abs(analytic).max(), np.abs(numeric).max(), 1e-6)
    return float(np.abs(analytic - numeric).max() / scale)


# -------------------------------------------------------------------------- a reader's own file


def load_ops(path) -> SimpleNamespace:
    """Return the functions of a Python file. Names that it lacks are taken from the reference.

    `own` of the result lists the names that the file has. MissingInput if there is no such file,
    DataError if it is not a Python file, cannot be run, or defines none of the names."""
    path = Path(path)
    if not path.is_file():
        raise MissingInput(
            f"{path}: no such file; expected Python functions named as in pysft/nn/reference.py"
        )
    if path.suffix != ".py":
        raise DataError(f"{path}: expected a Python file, whose name ends with .py")
    try:
        # An import might take bytecode for it: that of a text as long, of the same second.
        module = SimpleNamespace(**runpy.run_path(str(path), run_name="readers_ops"))
    except (Exception, SystemExit) as error:
        raise DataError(f"{path}: cannot be run ({type(error).__name__}: {error})") from error
    known = {n: f for n, f in vars(reference).items() if callable(f) and not n.startswith("_")}
    found = [n for n in CHECKED if callable(getattr(module, n, None))]
    if not found:
        raise DataError(f"{path}: defines none of {', '.join(CHECKED)}")
    not_written = [n for n in found if n in _not_written(path.read_bytes())]
    own = [n for n in found if n not in not_written]
    if not own:
        verb = "is" if len(found) == 1 else "are"
        raise DataError(f"{path}: {' and '.join(found)} {verb} not written yet")
    readers = {n: plain_form(_guarded(getattr(module, n), f"{path}: {n}"), n) for n in own}
    return SimpleNamespace(**(known | readers), own=own, not_written=not_written)


def _not_written(source: bytes) -> set[str]:
    """The functions of a file that do nothing but raise NotImplementedError."""
    empty = set()
    for function in ast.parse(source).body:
        if isinstance(function, ast.FunctionDef):
            lines = [line for line in function.body if not isinstance(line, ast.Expr)]
            raised = [ast.unparse(line) for line in lines if isinstance(line, ast.Raise)]
            is_alone = len(lines) == 1 and len(raised) == 1
            if is_alone and raised[0].startswith("raise NotImplementedError"):
                empty.add(function.name)
    return empty


def _forward_rows(ops, seed: int, cases) -> list[Row]:
    """Compare a reader's own forwards with the reference's. Return a Row for each output."""
    rows = []
    for name, (check, sizes) in cases.items():
        forward = f"{name.split(',')[0]}_forward"
        if forward not in ops.own:
            continue
        calls = []
        spy = SimpleNamespace(**(vars(ops) | {forward: _compared(ops, forward, calls)}))
        _, _, _, loss = next(check(spy, np.random.default_rng(seed), **sizes))
        loss()  # some checks have called the forward before, others not
        rows += [
            Row(name, f"{output} (forward)", worst, size, worst <= TOLERANCE)
            for output, (worst, size) in calls[0].items()
        ]
    return rows


def _compared(ops, name: str, calls: list):
    """Return the reader's forward. Each call of it adds {output: (error, elements)} to `calls`."""
    names = list(inspect.signature(getattr(reference, name)).parameters)

    def call(*arguments):
        right = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
        getattr(reference, name)(*right)
        outputs = {
            i: a
            for i, (a, b) in enumerate(zip(right, arguments))
            if isinstance(a, np.ndarray) and not np.array_equal(a, b, equal_nan=True)
        }
        getattr(ops, name)(*arguments)
        calls.append(
            {names[i]: (relative_error(arguments[i], a), a.size) for i, a in outputs.items()}
        )

    return call


# The number of arguments without the optional last one (GELU's saved derivative).
_PLAIN = {"gelu_forward": 2, "gelu_backward": 3}


def plain_form(function, name: str):
    """Return a function that calls `function` for the kernel `name`, or the reference if the call
    has the kernel's optional last argument.

    So a reader who derives GELU does not have to know of the saved derivative."""
    plain = _PLAIN.get(name)
    full = getattr(reference, name)
    return lambda *a: (function if plain is None or len(a) <= plain else full)(*a)


def _guarded(function, name):
    """Return the reader's function, with every exception in it turned into a DataError."""

    def call(*arguments):
        try:
            return function(*arguments)
        except Exception as error:
            line = error.__traceback__.tb_next
            at = f", line {line.tb_lineno}" if line else ""
            raise DataError(f"{name} raised {type(error).__name__}{at}: {error}") from error

    return call
