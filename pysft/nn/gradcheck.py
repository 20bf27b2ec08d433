"""Is every backward the derivative of its forward? Finite differences in float64 answer.

For each tensor that a backward gives a gradient for, every element x[i] is moved by h, 2h, -h and
-2h, and the five-point formula

    dL/dx[i] = (-L(x+2h) + 8 L(x+h) - 8 L(x-h) + L(x-2h)) / 12h  + O(h^4)

is compared with what the backward gave. The error of a tensor is max|analytic - numeric| /
max(max|analytic|, max|numeric|, 1e-6). gradcases.py has the table of cases.

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
STEP = 1e-3  # h, relative to a tensor's scale: truncation and rounding are both near 1e-12 there


@dataclass(frozen=True)
class Row:
    """One tensor of one case. worst: the error defined at the top of this file."""

    name: str
    tensor: str
    worst: float
    elements: int
    passed: bool


def run(ops, seed: int = 0, cases=CASES) -> list[Row]:
    """Check `ops` in every case, in float64. A Row for each tensor.

    cases: name -> (check, sizes), as in the table."""
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
    """dloss/dx by five-point differences, element by element. x has its old values afterwards."""
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
    """The error of a tensor; infinite if either array holds a number that is not finite."""
    if not (np.isfinite(analytic).all() and np.isfinite(numeric).all()):
        return float("inf")
    scale = max(np.abs(analytic).max(), np.abs(numeric).max(), 1e-6)
    return float(np.abs(analytic - numeric).max() / scale)


# -------------------------------------------------------------------------- a reader's own file


def load_ops(path) -> SimpleNamespace:
    """The functions of a Python file, with those of the reference for the names that it lacks.

    `own` of the result lists the names that the file has. A file that cannot be used is a
    MissingInput or a DataError."""
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


# The number of arguments without the optional last ones (attention of some rows, GELU's saved
# slope).
_PLAIN = {"attention_forward": 4, "attention_backward": 6, "gelu_forward": 2, "gelu_backward": 3}


def plain_form(function, name: str):
    """`function` for calls of the kernel `name` without its optional last arguments, and the
    reference for calls with them.

    So a reader who derives attention does not have to know of wanted rows."""
    plain = _PLAIN.get(name)
    full = getattr(reference, name)
    return lambda *a: (function if plain is None or len(a) <= plain else full)(*a)


def _guarded(function, name):
    """The reader's function. Any exception in it becomes a DataError of one sentence."""

    def call(*arguments):
        try:
            return function(*arguments)
        except Exception as error:
            line = error.__traceback__.tb_next
            at = f", line {line.tb_lineno}" if line else ""
            raise DataError(f"{name} raised {type(error).__name__}{at}: {error}") from error

    return call
