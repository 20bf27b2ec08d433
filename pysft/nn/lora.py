"""LoRA: fine-tuning that freezes the weights and learns a small change of each chosen matrix.

    W (K,C) = W0 + s B A        B (K,r), A (r,C), s = alpha / r        Hu et al. 2021, section 4.1

The rank r is far smaller than K and C, so r (K + C) numbers are trained in place of K C. A starts
random and B zero, so training starts from the model that was given. The rows of new symbols cannot
stay frozen, because no base has trained them. They are trained directly, beside the adapters.

GPT does not know of this. Before its forward the adapters are merged into its weights. After its
backward, dW = dL/dW is projected on the adapters by the chain rule: dB = s dW AT and dA = s BT dW.
A is stored transposed. Then both directions are the product that the model itself is made of,
y = x wT + residual, and its gradients:

    merge       y = W, with x = s B, w = AT and residual = W0
    project     dy = dW gives dx = dW AT, the gradient at s B, and dw = dWT (s B), that at AT

So the project's own matmul does it all, and the bits are the same for any number of threads.
"""

import hashlib
from dataclasses import replace

import numpy as np

from pysft.errors import DataError, Diverged, UsageError
from pysft.nn import safetensors
from pysft.nn.arena import Arena
from pysft.nn.model import GPT
from pysft.nn.shapes import MATRICES, PER_SYMBOL, GPTConfig, parameter_shapes

# What the file of an adapter says of it.
METADATA = ("rank", "alpha", "matrices", "old_vocab", "vocab", "base_sha256")


def adapter_shapes(
    config: GPTConfig, rank: int, matrices, old_vocab: int
) -> dict[str, tuple[int, ...]]:
    """What is trained, in the arena's order: the new rows of wte and head, then for each chosen W
    (K,C) the transpose of A, At (C,rank), and B (K,rank).

    old_vocab: the number of symbols that the base has. A rank, old_vocab or matrix that cannot be
    is a UsageError."""
    for m in matrices:
        if m not in MATRICES:
            raise UsageError(f"matrices: {m!r} is unknown; choose from {', '.join(MATRICES)}")
    if not matrices:
        raise UsageError(f"matrices: none is named; choose from {', '.join(MATRICES)}")
    for name, value, most, why in (
        ("rank", rank, config.channels, "the smaller side of the matrices"),
        ("old_vocab", old_vocab, config.vocab, "the model's symbols, new ones included"),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise UsageError(f"{name} = {value!r} must be a whole number from 1 to {most}, {why}")
    weights, new = parameter_shapes(config), config.vocab - old_vocab
    shapes = {
        f"{name}.new": (new, config.channels) for name in PER_SYMBOL if new and name in weights
    }
    for i in range(config.layers):
        for m in MATRICES:
            if m in matrices:
                K, C = weights[f"h{i}.{m}.w"]
                shapes |= {f"h{i}.{m}.At": (C, rank), f"h{i}.{m}.B": (K, rank)}
    return shapes


def _scale(alpha: float, rank: int) -> float:
    """The s of s B A; a UsageError if alpha cannot be."""
    is_number = isinstance(alpha, (int, float)) and not isinstance(alpha, bool)
    if not is_number or not 0 < alpha < float("inf"):
        raise UsageError(f"alpha = {alpha!r} must be a number above 0; twice the rank is usual")
    return alpha / rank


class LoRA:
    """A GPT of which only adapters and new rows are trained.

    The training loop, AdamW, clip and the checkpoints take it in place of a model: params and grads
    are arenas of what is trained.

    model: the grown GPT. Its weights are overwritten: they are the merged ones of the last forward
    or merge(). alpha: s = alpha / rank; None is twice the rank. old_vocab: the number of symbols of
    the base; the rows after those are trained. rng: draws A, normal with deviation 1/sqrt(C), so
    that A x is about as large as x (the paper says Gaussian and names no deviation); None leaves A
    zero, to be loaded. A rank, alpha, old_vocab or matrix that cannot be is a UsageError."""

    def __init__(
        self,
        model: GPT,
        rank: int,
        matrices=MATRICES,
        alpha: float | None = None,
        *,
        old_vocab: int,
        rng: np.random.Generator | None,
    ):
        shapes = adapter_shapes(model.config, rank, matrices, old_vocab)
        alpha = 2 * rank if alpha is None else alpha
        self.scale = model.dtype.type(_scale(alpha, rank))
        self.model, self.config, self.ops, self.dtype = model, model.config, model.ops, model.dtype
        self.rank, self.alpha, self.old_vocab = rank, alpha, old_vocab
        self.matrices = tuple(m for m in MATRICES if m in matrices)
        self.base_sha256 = _base_sha256(model, old_vocab)
        self.params, self.grads = Arena(shapes, self.dtype), Arena(shapes, self.dtype)
        self._rows = [name.removesuffix(".new") for name in shapes if name.endswith(".new")]
        adapted = [name.removesuffix(".B") for name in shapes if name.endswith(".B")]
        weights = {name: model.params[f"{name}.w"] for name in adapted}
        self._frozen = Arena({name: w.shape for name, w in weights.items()}, self.dtype)
        self._frozen.fill(weights)
        for name in self._rows:
            self.params[f"{name}.new"][:] = model.params[name][old_vocab:]
        if rng is not None:
            for name in adapted:
                At = self.params[f"{name}.At"]
                At[:] = rng.normal(0, len(At) ** -0.5, At.shape)

    @property
    def trained(self) -> int:
        """The number of weights that are trained."""
        return self.params.size

    @property
    def share(self) -> float:
        """The number of trained weights divided by the number of the model's weights (0 to 1)."""
        return self.trained / self.model.params.size

    def decaying(self) -> int:
        """The number of elements that decay: all. Decay pulls the adapters to zero, and so the
        model to its base."""
        return len(self.params.flat)

    def reserve(self, rows: int) -> None:
        """Make room for batches of up to `rows` rows."""
        self.model.reserve(rows)

    def release(self) -> None:
        """Free the model's gradients and activations."""
        self.model.release()

    def merge(self) -> GPT:
        """The model, with the weights that the adapters and new rows now stand for."""
        p, w = self.params, self.model.params
        for name, frozen in self._frozen.items():
            sB, At = self.scale * p[f"{name}.B"], p[f"{name}.At"]
            self.ops.matmul_forward(w[f"{name}.w"], sB, At, None, frozen)
        for name in self._rows:
            w[name][self.old_vocab :] = p[f"{name}.new"]
        return self.model

    def forward(self, batch):
        """(nll, value) of the merged model. It merges each time, as params may have changed."""
        return self.merge().forward(batch)

    def backward(self, dnll, dvalue=None) -> None:
        """Add to self.grads the gradients of a loss, from dnll (N,) = dloss/dnll of the last
        forward's batch."""
        p, d, dw = self.params, self.grads, self.model.grads
        dw.clear()  # GPT adds to these; what an earlier batch left has been projected already
        self.model.backward(dnll, dvalue)
        for name in self._frozen:
            sB, At = self.scale * p[f"{name}.B"], p[f"{name}.At"]
            dsB = np.empty_like(sB)
            self.ops.matmul_backward(dsB, d[f"{name}.At"], None, dw[f"{name}.w"], sB, At)
            d[f"{name}.B"][:] += self.scale * dsB
        for name in self._rows:
            d[f"{name}.new"][:] += dw[name][self.old_vocab :]


def _base_sha256(model: GPT, old_vocab: int) -> str:
    """The SHA-256 of the model's weights without new rows, laid out as in the base.

    It is that of the base itself (run.stage.weights_sha256)."""
    base = Arena(parameter_shapes(replace(model.config, vocab=old_vocab)), model.dtype)
    for name, w in base.items():
        w[:] = model.params[name][: len(w)]
    return hashlib.sha256(base.flat).hexdigest()


def save_adapter(path, lora: LoRA, metadata: dict[str, str] | None = None) -> None:
    """Write what was trained as safetensors, with the base that it belongs to in the metadata.

    metadata: more of it. Diverged if what was trained is not finite; nothing is then written."""
    if not np.isfinite(lora.params.flat).all():
        raise Diverged(
            f"{path}: the adapters are not finite after the last step; they were not written"
        )
    matrices, alpha = ",".join(lora.matrices), float(lora.alpha)
    own = lora.rank, alpha, matrices, lora.old_vocab, lora.config.vocab, lora.base_sha256
    described = (metadata or {}) | dict(zip(METADATA, map(str, own)))
    safetensors.save(path, dict(lora.params.items()), described)


def apply_adapter(path, model: GPT) -> GPT:
    """A new model: `model` with the adapters of the file merged, in the very bits of the training.

    model: the base, as it was or grown already; it is not changed. A DataError says what is wrong
    with the file, or that it belongs to other weights."""
    tensors, metadata = safetensors.load(path)
    missing = [name for name in METADATA if name not in metadata]
    if missing:
        raise DataError(
            f"{path}: holds no adapters (its metadata does not say {missing[0]!r}); name a file"
            " that a LoRA training wrote"
        )
    rank, alpha, matrices, old_vocab, vocab, base = (metadata[name] for name in METADATA)
    try:
        rank, alpha, old_vocab = int(rank), float(alpha), int(old_vocab)
        matrices = matrices.split(",")
        config = replace(model.config, vocab=int(vocab))
        shapes, _ = adapter_shapes(config, rank, matrices, old_vocab), _scale(alpha, rank)
    except (ValueError, UsageError) as error:
        raise DataError(
            f"{path}: its adapters cannot be those of this model ({error}); name the base that they"
            " were trained on"
        ) from None
    fits = model.config.vocab in (old_vocab, config.vocab)
    if not fits or _base_sha256(model, old_vocab) != base:
        raise DataError(
            f"{path}: its adapters belong to other weights, whose SHA-256 begins with"
            f" {base[:12]!r}; name the base that they were trained on"
        )
    safetensors.check_tensors(
        path,
        tensors,
        shapes,
        model.dtype,
        source="its metadata",
        remedy="; the file is damaged, make it anew from its training",
    )
    grown = GPT(config, model.ops, dtype=model.dtype)
    for name, w in model.params.items():
        grown.params[name][: len(w)] = w
    lora = LoRA(grown, rank, matrices, alpha, old_vocab=old_vocab, rng=None)
    lora.params.fill(tensors)
    return lora.merge()
