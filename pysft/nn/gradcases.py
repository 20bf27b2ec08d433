"""The cases of the gradient check: every kernel, the whole model and LoRA, at small sizes.

A check is a generator check(ops, rng, **sizes). For each tensor that a backward gives a gradient
for, it yields (name, analytic gradient, the tensor, loss). loss() computes the loss again from the
tensor's present values. The loss is sum(dy * y) with a random dy. A plain sum of y would hide
mistakes in layernorm and softmax, because the sums of their outputs do not depend on their inputs.

A gradient array that a backward must add to starts with random numbers, which are subtracted from
the result. An array that must be written starts with NaN, so an element that was left out shows up.
"""

import numpy as np

from pysft import IGNORE
from pysft.batch import BASE, Batch
from pysft.nn.lora import LoRA
from pysft.nn.model import GPT
from pysft.nn.shapes import GPTConfig


def _unwritten(*shape):
    return np.full(shape, np.nan)


class _Added:
    """A gradient array (array) that a backward must add to. gained() is what it has added."""

    def __init__(self, rng, *shape):
        self.before = rng.standard_normal(shape)
        self.array = self.before.copy()

    def gained(self):
        return self.array - self.before


def _offsets(lengths):
    """Return cu_seqlens (S+1) int32 of sequences with these lengths."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


# -------------------------------------------------------------------------------- the kernels


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
    cu = _offsets(lengths)
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
    """saved: whether the backward gets the derivative that the forward left, or computes it."""
    x, dy = scale * rng.standard_normal(shape), rng.standard_normal(shape)
    y = _unwritten(*shape)

    def loss():
        ops.gelu_forward(y, x)
        return float((dy * y).sum())

    dx = _unwritten(*shape)
    if saved:
        slope = _unwritten(*shape)
        ops.gelu_forward(y, x, slope)
        ops.gelu_backward(dx, dy, None, slope)
    else:
        ops.gelu_backward(dx, dy, x)
    yield "x", dx, x, loss


def check_embedding(ops, rng, lengths, V, T, C):
    cu = _offsets(lengths)
    N = int(cu[-1])
    tokens = rng.integers(0, V, N).astype(np.int32)
    wte, wpe = rng.standard_normal((V, C)), rng.standard_normal((T, C))
    dy = rng.standard_normal((N, C))
    y = _unwritten(N, C)

    def loss():
        ops.embedding_forward(y, tokens, cu, wte, wpe)
        return float((dy * y).sum())

    dwte, dwpe = _Added(rng, V, C), _Added(rng, T, C)
    ops.embedding_backward(dwte.array, dwpe.array, dy, tokens, cu)
    yield "wte", dwte.gained(), wte, loss
    yield "wpe", dwpe.gained(), wpe, loss


def check_cross_entropy(ops, rng, N, V, graded=0.6, scale=1.0):
    """graded: about the share of rows with a label. Unless it is 0 or 1, both kinds of row occur
    (for N > 1)."""
    logits, dnll = scale * rng.standard_normal((N, V)), rng.standard_normal(N)
    labels = np.where(rng.random(N) < graded, rng.integers(0, V, N), IGNORE).astype(np.int32)
    if 0 < graded < 1 and N > 1:
        labels[:2] = IGNORE, V - 1
    nll, lse = _unwritten(N), _unwritten(N)

    def loss():
        ops.cross_entropy_forward(nll, lse, logits, labels)
        return float((dnll * nll).sum())

    loss()
    dlogits = _unwritten(N, V)
    ops.cross_entropy_backward(dlogits, dnll, logits, lse.copy(), labels)
    yield "logits", dlogits, logits, loss
    masked = dlogits[labels == IGNORE]
    if len(masked):  # they must be exactly zero: any other element counts as an infinite error
        yield "masked logits", np.where(masked == 0, 0.0, np.inf), None, None


# ------------------------------------------------------------------------------- whole models


def random_batch(
    rng, lengths, V=7, graded=0.7, wanted=0.0, groups=None, columns=None, sources=None
) -> Batch:
    """Return a Batch of random tokens and labels for V symbols.

    graded: about the share of rows with a label; the last row has one. wanted: about the share of
    the other rows that are wanted. groups: the number of each sequence's group; None is a group
    each. columns: name -> function(rng, N), which draws the column. sources: of each sequence;
    None is base text."""
    cu = _offsets(lengths)
    N, S = int(cu[-1]), len(lengths)
    tokens = rng.integers(0, V, N).astype(np.int32)
    labels = np.where(rng.random(N) < graded, rng.integers(0, V, N), IGNORE).astype(np.int32)
    labels[-1] = 1
    rows = labels != IGNORE
    if wanted:
        rows = rows | (rng.random(N) < wanted)
    group = np.arange(S) if groups is None else np.array(groups)
    drawn = {name: draw(rng, N) for name, draw in (columns or {}).items()}
    source = np.array(sources or [BASE] * S)
    return Batch(tokens, labels, cu, rows, np.ones(S), source, group, drawn)


def _random_model(ops, rng, batch, V, C, H, L, tied, outputs) -> GPT:
    """Return a GPT for the batch. It is far from its initialisation, where most gradients are
    nearly zero."""
    config = GPTConfig(V, int(batch.lengths.max()), L, H, C, tied, outputs)
    model = GPT(config, ops, rng, np.float64)
    for _, w in model.params.items():
        w += 0.3 * rng.standard_normal(w.shape)
    return model


def _upstream(rng, model, N):
    """Return (weigh, upstream): random gradients of what the model gives for N rows, and the
    function weigh(out) whose gradients they are."""
    given = model.config.has_nll, model.config.has_value
    upstream = [rng.standard_normal(N) if is_given else None for is_given in given]

    def weigh(out):
        return sum(float((d * x).sum()) for d, x in zip(upstream, out) if d is not None)

    return weigh, upstream


def check_model(ops, rng, lengths, graded=0.7, tied=False, outputs="nll", V=7, C=8, H=2, L=2):
    """Check every parameter of a whole GPT, through one forward and one backward."""
    batch = random_batch(rng, lengths, V, graded, wanted=0.0 if outputs == "nll" else 0.5)
    model = _random_model(ops, rng, batch, V, C, H, L, tied, outputs)
    weigh, upstream = _upstream(rng, model, len(batch.tokens))

    def loss():
        return weigh(model.forward(batch))

    loss()
    model.backward(*upstream)
    for name, w in model.params.items():
        yield name, model.grads[name].copy(), w, loss


def check_lora(
    ops, rng, lengths, tied=False, outputs="nll", rank=2, alpha=3.0, new=2, V=7, C=8, H=2, L=2
):
    """Check every adapter and new row of a LoRA around a whole GPT, and its value head."""
    batch = random_batch(rng, lengths, V, wanted=0.0 if outputs == "nll" else 0.5)
    model = _random_model(ops, rng, batch, V, C, H, L, tied, outputs)
    weigh, upstream = _upstream(rng, model, len(batch.tokens))
    lora = LoRA(model, rank, alpha=alpha, old_vocab=V - new, rng=rng)
    for _, w in lora.params.items():  # at the start B is zero, and so is the gradient of A
        w += 0.3 * rng.standard_normal(w.shape)

    def loss():
        return weigh(lora.forward(batch))

    loss()
    # Start as after an earlier micro-batch. The backward must add to the adapters' gradients, and
    # clear the model's first.
    for arena in (lora.grads, model.grads):
        arena.flat[:] = rng.standard_normal(len(arena.flat))
    before = {name: g.copy() for name, g in lora.grads.items()}
    lora.backward(*upstream)
    for name, w in lora.params.items():
        yield name, lora.grads[name] - before[name], w, loss


def check_objective(
    ops, rng, objective, lengths, outputs="nll", pieces=2, V=7, C=6, H=2, L=1, **batch
):
    """Check the derivatives of an objective (training/objectives.py) by every parameter of a GPT,
    over the micro-batches of one step.

    objective: its loss must be differentiable at random inputs. pieces: the number of
    micro-batches. batch: further arguments of random_batch, such as groups and columns."""
    whole = random_batch(rng, lengths, V, **batch)
    model = _random_model(ops, rng, whole, V, C, H, L, False, outputs)
    batches, totals = whole.split(pieces), {}
    for b in batches:
        for term, count in objective.counts(b).items():
            totals[term] = totals.get(term, 0) + count

    def loss():
        return sum(objective(b, model.forward(b), totals)[0] for b in batches)

    model.grads.clear()
    for b in batches:
        _, dnll, dvalue, _ = objective(b, model.forward(b), totals)
        model.backward(dnll, dvalue)
    for name, w in model.params.items():
        yield name, model.grads[name].copy(), w, loss


# ---------------------------------------------------------------------------------- the table

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
    "GPT, value head": (check_model, dict(lengths=[5, 1, 3], outputs="nll+value", C=6)),
    "GPT, value head, tied head": (
        check_model,
        dict(lengths=[4, 2], outputs="nll+value", tied=True, C=6, L=1),
    ),
    "GPT, value alone": (check_model, dict(lengths=[4, 1, 2], outputs="value", C=6, L=1)),
    "GPT, value alone, tied": (
        check_model,
        dict(lengths=[3, 2], outputs="value", tied=True, C=6, L=1),
    ),
    "GPT, LoRA, value head": (check_lora, dict(lengths=[4, 2], outputs="nll+value", L=1)),
    "GPT, LoRA, value alone": (check_lora, dict(lengths=[3, 2], outputs="value", L=1)),
}
