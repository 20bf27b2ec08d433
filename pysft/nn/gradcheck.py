"""The gradient check: compares every backward with finite differences of its forward, in float64.

For each tensor that a backward gives a gradient for, every element x[i] is moved by 2h, h, -h and
-2h. The five-point formula

    dL/dx[i] = (-L(x+2h) + 8 L(x+h) - 8 L(x-h) + L(x-2h)) / 12h  + O(h^4)

is the numeric gradient, and the backward gives the analytic one. The error of a tensor is
max|analytic - numeric| / max(max|analytic|, max|numeric|, 1e-6). gradcases.py has the table of
cases.

The functions under test are any object with the kernels' names (computing.py): the kernels, the
reference, or a reader's own file (`gradcheck --ops FILE.py`)."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from pysft.errors import DataError, MissingInput
from pysft.nn import reference
from pysft.nn.gradcases import CASES

TOLERANCE = 1e-7
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
    """Check `ops` in every case, in float64. Return a Row for each tensor.

    cases: name -> (check, sizes), as in gradcases.CASES."""
    rows = []
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
    spec = importlib.util.spec_from_file_location("readers_ops", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise DataError(f"{path}: cannot be run ({type(error).__name__}: {error})") from error
    known = {n: f for n, f in vars(reference).items() if callable(f) and not n.startswith("_")}
    own = [n for n in known if callable(getattr(module, n, None))]
    if not own:
        raise DataError(f"{path}: defines none of {', '.join(known)}")
    readers = {n: plain_form(_guarded(getattr(module, n), f"{path}: {n}"), n) for n in own}
    return SimpleNamespace(**(known | readers), own=own)


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
