"""Is every backward the derivative of its forward? Finite differences in float64 answer.

For each tensor that a backward gives a gradient for, every element x[i] is moved by h, 2h, -h, -2h
and the five-point formula

    dL/dx[i] = (-L(x+2h) + 8 L(x+h) - 8 L(x-h) + L(x-2h)) / 12h  + O(h^4)

is compared with what the backward said. L = sum(dy * y) with a random dy: a plain sum would hide
mistakes in layernorm and softmax, whose outputs' sums do not depend on their inputs. The error of
a tensor is max|analytic - numeric| / max(max|analytic|, max|numeric|, 1e-6).

The functions under test are any object with the kernels' names: ops, reference, or a reader's file
(`gradcheck --ops FILE.py`)."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from pysft import IGNORE
from pysft.errors import DataError, MissingInput
from pysft.nn import reference
from pysft.nn.lora import LoRA
from pysft.nn.model import GPT, GPTConfig

TOLERANCE = 1e-7
STEP = 1e-3  # of a tensor's scale: truncation and rounding errors are both near 1e-12 there


@dataclass(frozen=True)
class Row:
    """One tensor of one case: its worst relative error over all its elements."""

    name: str
    tensor: str
    worst: float
    elements: int
    passed: bool


def numeric_gradient(loss: Callable[[], float], x: np.ndarray) -> np.ndarray:
    """dloss/dx by five-point differences, element by element; x is put back as it was."""
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
    """The house's definition; infinite where anything is not a number."""
    if not (np.isfinite(analytic).all() and np.isfinite(numeric).all()):
        return float("inf")
    scale = max(np.abs(analytic).max(), np.abs(numeric).max(), 1e-6)
    return float(np.abs(analytic - numeric).max() / scale)


# --------------------------------------------------------------------------- one check a kernel
# Each takes the functions, a random generator and the sizes of a case; it returns, for each tensor,
# (analytic gradient, tensor, loss). Gradients that ADD start from random numbers, which are taken
# off again; gradients that are WRITTEN start from NaN, so that what is not written shows.


def _unwritten(*shape):
    return np.full(shape, np.nan)


class _Added:
    """A gradient that must be added to what stands there."""

    def __init__(self, rng, *shape):
        self.before = rng.standard_normal(shape)
        self.array = self.before.copy()

    def gained(self):
        return self.array - self.before


def check_matmul(ops, rng, N, C, K, bias=True, residual=False):
    x, w = rng.standard_normal((N, C)), rng.standard_normal((K, C))
    b = rng.standard_normal(K) if bias else None
    skip = rng.standard_normal((N, K)) if residual else None
    y, dy = _unwritten(N, K), rng.standard_normal((N, K))

    def loss():
        ops.matmul_forward(y, x, w, b, skip)
        return float((dy * y).sum())

    dx, dw, db = _unwritten(N, C), _Added(rng, K, C), _Added(rng, K)
    ops.matmul_backward(dx, dw.array, db.array if bias else None, dy, x, w)
    yield "x", dx, x, loss
    yield "w", dw.gained(), w, loss
    if bias:
        yield "b", db.gained(), b, loss
    if residual:
        yield "residual", dy, skip, loss


def check_attention(ops, rng, lengths, H, D, scale=1.0):
    cu = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    N, C = int(cu[-1]), H * D
    qkv, dy = scale * rng.standard_normal((N, 3 * C)), rng.standard_normal((N, C))
    y, lse = _unwritten(N, C), _unwritten(N, H)

    def loss():
        ops.attention_forward(y, lse, qkv, cu)
        return float((dy * y).sum())

    loss()
    dqkv = _unwritten(N, 3 * C)
    ops.attention_backward(dqkv, dy, qkv, y.copy(), lse.copy(), cu)
    yield "qkv", dqkv, qkv, loss


def check_attention_of_some_rows(ops, rng, lengths, rows, H, D):
    cu, rows = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32), np.array(rows, np.int32)
    N, M, C = int(cu[-1]), len(rows), H * D
    kv, q, dy = (
        rng.standard_normal((N, 2 * C)),
        rng.standard_normal((M, C)),
        rng.standard_normal((M, C)),
    )
    y, lse = _unwritten(M, C), _unwritten(M, H)

    def loss():
        ops.attention_forward(y, lse, kv, cu, q, rows)
        return float((dy * y).sum())

    loss()
    dkv, dq = _unwritten(N, 2 * C), _unwritten(M, C)
    ops.attention_backward(dkv, dy, kv, y.copy(), lse.copy(), cu, dq, q, rows)
    yield "kv", dkv, kv, loss
    yield "q", dq, q, loss


def check_take_rows(ops, rng, N, C, rows):
    x, dy, rows = (
        rng.standard_normal((N, C)),
        rng.standard_normal((len(rows), C)),
        np.array(rows, np.int32),
    )
    y = _unwritten(len(rows), C)

    def loss():
        ops.take_rows_forward(y, x, rows)
        return float((dy * y).sum())

    dx = _Added(rng, N, C)
    ops.take_rows_backward(dx.array, dy, rows)
    yield "x", dx.gained(), x, loss


def check_layernorm(ops, rng, N, C, scale=1.0):
    x = scale * rng.standard_normal((N, C)) + 3
    w, b, dy = rng.standard_normal(C), rng.standard_normal(C), rng.standard_normal((N, C))
    y, mean, rstd = _unwritten(N, C), _unwritten(N), _unwritten(N)

    def loss():
        ops.layernorm_forward(y, mean, rstd, x, w, b)
        return float((dy * y).sum())

    loss()
    dx, dw, db = _Added(rng, N, C), _Added(rng, C), _Added(rng, C)
    ops.layernorm_backward(dx.array, dw.array, db.array, dy, x, w, mean.copy(), rstd.copy())
    yield "x", dx.gained(), x, loss
    yield "w", dw.gained(), w, loss
    yield "b", db.gained(), b, loss


def check_gelu(ops, rng, shape, scale=1.0, saved=False):
    x, dy = scale * rng.standard_normal(shape), rng.standard_normal(shape)
    y = _unwritten(*shape)

    def loss():
        ops.gelu_forward(y, x)
        return float((dy * y).sum())

    dx = _unwritten(*shape)
    if saved:  # by the slope that the forward left
        slope = _unwritten(*shape)
        ops.gelu_forward(y, x, slope)
        ops.gelu_backward(dx, dy, None, slope)
    else:
        ops.gelu_backward(dx, dy, x)
    yield "x", dx, x, loss


def check_embedding(ops, rng, lengths, V, T, C):
    cu = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    N = int(cu[-1])
    tokens = rng.integers(0, V, N).astype(np.int32)
    wte, wpe, dy = (
        rng.standard_normal((V, C)),
        rng.standard_normal((T, C)),
        rng.standard_normal((N, C)),
    )
    y = _unwritten(N, C)

    def loss():
        ops.embedding_forward(y, tokens, cu, wte, wpe)
        return float((dy * y).sum())

    dwte, dwpe = _Added(rng, V, C), _Added(rng, T, C)
    ops.embedding_backward(dwte.array, dwpe.array, dy, tokens, cu)
    yield "wte", dwte.gained(), wte, loss
    yield "wpe", dwpe.gained(), wpe, loss


def check_cross_entropy(ops, rng, N, V, graded=0.6, scale=1.0):
    logits, dnll = scale * rng.standard_normal((N, V)), rng.standard_normal(N)
    labels = np.where(rng.random(N) < graded, rng.integers(0, V, N), IGNORE).astype(np.int32)
    if 0 < graded < 1 and N > 1:
        labels[:2] = IGNORE, V - 1  # one of each at least
    nll, lse = _unwritten(N), _unwritten(N)

    def loss():
        ops.cross_entropy_forward(nll, lse, logits, labels)
        return float((dnll * nll).sum())

    loss()
    dlogits = _unwritten(N, V)
    ops.cross_entropy_backward(dlogits, dnll, logits, lse.copy(), labels)
    yield "logits", dlogits, logits, loss
    if (
        labels == IGNORE
    ).any():  # exactly zero, and not just small: told apart by an infinite error
        masked = dlogits[labels == IGNORE]
        yield "masked logits", np.where(masked == 0, 0.0, np.inf), None, None


@dataclass(frozen=True)
class _Batch:
    """The four fields of text.dataset.Batch that a model reads."""

    tokens: np.ndarray
    labels: np.ndarray
    cu_seqlens: np.ndarray
    wanted: np.ndarray


def _model_batch_dnll(ops, rng, lengths, graded, tied, V, C, H, L):
    """A whole GPT, a batch for it, and the upstream gradient."""
    cu = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    N = int(cu[-1])
    tokens = rng.integers(0, V, N).astype(np.int32)
    labels = np.where(rng.random(N) < graded, rng.integers(0, V, N), IGNORE).astype(np.int32)
    labels[-1] = 1
    batch = _Batch(tokens, labels, cu, labels != IGNORE)
    model = GPT(GPTConfig(V, max(lengths), L, H, C, tied), ops, rng, np.float64)
    for name, w in model.params.items():  # at initialisation most gradients nearly vanish
        w += 0.3 * rng.standard_normal(w.shape)
    return model, batch, rng.standard_normal(N)


def check_model(ops, rng, lengths, graded=0.7, tied=False, V=7, C=8, H=2, L=2):
    """Every element of every tensor of a whole GPT, through one forward and one backward."""
    model, batch, dnll = _model_batch_dnll(ops, rng, lengths, graded, tied, V, C, H, L)

    def loss():
        nll, _ = model.forward(batch)
        return float((dnll * nll).sum())

    loss()
    model.backward(dnll)
    for name, w in model.params.items():
        yield name, model.grads[name].copy(), w, loss


def check_lora(ops, rng, lengths, tied=False, rank=2, alpha=3.0, new=2, V=7, C=8, H=2, L=2):
    """Every element of every adapter and new row, merged into a whole GPT."""
    model, batch, dnll = _model_batch_dnll(ops, rng, lengths, 0.7, tied, V, C, H, L)
    lora = LoRA(model, rank, alpha=alpha, old_vocab=V - new, rng=rng)
    for _, w in lora.params.items():  # at the start B is zero, and so is A's gradient
        w += 0.3 * rng.standard_normal(w.shape)

    def loss():
        nll, _ = lora.forward(batch)
        return float((dnll * nll).sum())

    loss()
    for arena in (
        lora.grads,
        model.grads,
    ):  # what another micro-batch left: the first is added to, the second is not
        arena.flat[:] = rng.standard_normal(len(arena.flat))
    before = {name: g.copy() for name, g in lora.grads.items()}
    lora.backward(dnll)
    for name, w in lora.params.items():
        yield name, lora.grads[name] - before[name], w, loss


# ----------------------------------------------------------------------------------- the table

CASES = {  # name: (check, sizes)
    "matmul": (check_matmul, dict(N=7, C=9, K=5)),
    "matmul, one row": (check_matmul, dict(N=1, C=5, K=3)),
    "matmul, beyond a tile": (check_matmul, dict(N=15, C=37, K=35)),
    "matmul, on threads": (check_matmul, dict(N=14, C=70, K=67)),
    "matmul, residual": (check_matmul, dict(N=5, C=4, K=6, residual=True)),
    "matmul, no bias": (check_matmul, dict(N=6, C=7, K=9, bias=False)),
    "attention": (check_attention, dict(lengths=[7], H=2, D=5)),
    "attention, one token": (check_attention, dict(lengths=[1], H=1, D=3)),
    "attention, lengths 1 5 2": (check_attention, dict(lengths=[1, 5, 2], H=3, D=2)),
    "attention, beyond a block": (check_attention, dict(lengths=[35], H=1, D=9)),
    "attention, large scores": (check_attention, dict(lengths=[6], H=1, D=4, scale=4.0)),
    "attention, of some rows": (
        check_attention_of_some_rows,
        dict(lengths=[5, 2, 1, 4], rows=[1, 2, 4, 7, 8], H=2, D=3),
    ),
    "attention, of one row": (check_attention_of_some_rows, dict(lengths=[3], rows=[1], H=1, D=2)),
    "layernorm": (check_layernorm, dict(N=5, C=11)),
    "layernorm, one row": (check_layernorm, dict(N=1, C=3)),
    "layernorm, wide": (check_layernorm, dict(N=3, C=40)),
    "layernorm, large rows": (check_layernorm, dict(N=4, C=6, scale=50.0)),
    "gelu": (check_gelu, dict(shape=(5, 7))),
    "gelu, one element": (check_gelu, dict(shape=(1,))),
    "gelu, large inputs": (check_gelu, dict(shape=(3, 19), scale=4.0)),
    "gelu, saved slope": (check_gelu, dict(shape=(4, 9), saved=True)),
    "embedding": (check_embedding, dict(lengths=[3, 4, 1], V=5, T=5, C=7)),
    "embedding, one token": (check_embedding, dict(lengths=[1], V=3, T=2, C=3)),
    "take_rows": (check_take_rows, dict(N=5, C=3, rows=[0, 3, 4])),
    "cross_entropy": (check_cross_entropy, dict(N=6, V=9)),
    "cross_entropy, one row": (check_cross_entropy, dict(N=1, V=3, graded=1)),
    "cross_entropy, wide": (check_cross_entropy, dict(N=3, V=68)),
    "cross_entropy, all -100": (check_cross_entropy, dict(N=4, V=5, graded=0)),
    "cross_entropy, large logits": (check_cross_entropy, dict(N=4, V=6, scale=30.0)),
    "GPT": (check_model, dict(lengths=[5, 1, 3])),
    "GPT, every row graded": (check_model, dict(lengths=[4, 3], graded=1)),
    "GPT, tied head": (check_model, dict(lengths=[4], tied=True, L=1)),
    "GPT, LoRA": (check_lora, dict(lengths=[4, 1, 2], C=6)),
    "GPT, LoRA, tied head": (check_lora, dict(lengths=[4], tied=True, L=1)),
}


def run(ops, seed: int = 0, cases=CASES) -> list[Row]:
    """Every case of the table against `ops`, in float64: a Row for each tensor."""
    rows = []
    for name, (check, sizes) in cases.items():
        rng = np.random.default_rng(seed)
        for tensor, analytic, x, loss in check(ops, rng, **sizes):
            if x is None:  # exact zeros, already judged
                worst = float(np.abs(analytic).max())
            elif not np.isfinite(analytic).all():
                worst = float("inf")
            else:
                worst = relative_error(analytic, numeric_gradient(loss, x))
            rows.append(Row(name, tensor, worst, analytic.size, worst <= TOLERANCE))
    return rows


def load_ops(path) -> SimpleNamespace:
    """A reader's own functions from a Python file; the reference stands in for those it lacks."""
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
    names = [
        n for n in vars(reference) if callable(getattr(reference, n)) and not n.startswith("_")
    ]
    own = [n for n in names if callable(getattr(module, n, None))]
    if not own:
        raise DataError(f"{path}: defines none of {', '.join(names)}")
    ops = SimpleNamespace(**{n: getattr(reference, n) for n in names})
    for n in own:
        setattr(ops, n, plain_form(_guarded(getattr(module, n), f"{path}: {n}"), n))
    ops.own = own
    return ops


def plain_form(function, name: str):
    """`function` where the kernel `name` is called without its optional last arguments (attention
    of some rows, GELU's saved slope), the reference where it is called with them: whoever derives
    attention need not know what a wanted row is."""
    plain = {
        "attention_forward": 4,
        "attention_backward": 6,
        "gelu_forward": 2,
        "gelu_backward": 3,
    }.get(name)
    return lambda *a: (function if plain is None or len(a) <= plain else getattr(reference, name))(
        *a
    )


def _guarded(function, name):
    """The reader's function, whose mistakes are said in one sentence."""

    def call(*arguments):
        try:
            return function(*arguments)
        except Exception as error:
            line = error.__traceback__.tb_next
            at = f", line {line.tb_lineno}" if line else ""
            raise DataError(f"{name} raised {type(error).__name__}{at}: {error}") from error

    return call
