"""LoRA: fine-tuning that leaves the weights frozen and learns a small difference to each chosen
matrix.

    W (K,C) = W0 + s B A        B (K,r), A (r,C), s = alpha / r        Hu et al. 2021, section 4.1

The rank r is far below K and C: r (K + C) numbers are trained in place of K C. A starts random and
B zero, so training starts from the very model that was given. The rows of new symbols, which no
base has ever trained, cannot stay frozen: they are trained as they are, beside the adapters.

The model does not know of this. Before its forward the adapters are merged into its weights; after
its backward, dW = dL/dW is projected on them by the chain rule: dB = s dW AT and dA = s BT dW. With
A kept transposed, both are the product that the model itself is made of, y = x wT + residual, and
its gradients:

    merge       y = W,  from x = s B, w = AT, residual = W0
    project     dy = dW,  which gives dx = dW AT, the gradient at s B, and dw = dWT (s B), the one
                at AT

So the project's own matmul does it all, and the bits are the same for any number of threads.
"""

import hashlib
from dataclasses import replace

import numpy as np

from pysft.errors import DataError, Diverged, UsageError
from pysft.nn import safetensors
from pysft.nn.arena import Arena
from pysft.nn.model import GPT, GPTConfig, parameter_shapes

MATRICES = ("qkv", "attproj", "fc", "fcproj")  # of each block


def adapter_shapes(
    config: GPTConfig, rank: int, matrices, old_vocab: int
) -> dict[str, tuple[int, ...]]:
    """What is trained, in the arena's order: the new rows of wte and head, then for each chosen W
    (K,C) the transpose of A, At (C,rank), and B (K,rank). A UsageError says what cannot be."""
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
        f"{name}.new": (new, config.channels) for name in ("wte", "head") if new and name in weights
    }
    for i in range(config.layers):
        for m in MATRICES:
            if m in matrices:
                K, C = weights[f"h{i}.{m}.w"]
                shapes |= {f"h{i}.{m}.At": (C, rank), f"h{i}.{m}.B": (K, rank)}
    return shapes


def _scale(alpha: float, rank: int) -> float:
    """The s of s B A; a UsageError if alpha cannot be."""
    if (
        isinstance(alpha, bool)
        or not isinstance(alpha, (int, float))
        or not 0 < alpha < float("inf")
    ):
        raise UsageError(f"alpha = {alpha!r} must be a number above 0; twice the rank is usual")
    return alpha / rank


class LoRA:
    """A GPT of which only adapters and new rows are trained. loop.train_step, AdamW, clip and run's
    checkpoints take it for a model: params and grads are arenas of what is trained.

    model: the grown GPT. It is worked in: its weights are the merged ones of the last forward or
    merge(). alpha: s = alpha / rank; None is twice the rank. old_vocab: the symbols of the base;
    the rows from there on are trained. rng: draws A, normal with deviation 1/sqrt(C), so that A x
    is of x's own size (the paper says Gaussian and leaves the deviation open); None leaves A zero,
    to be loaded. A rank, alpha, old_vocab or matrix that cannot be is a UsageError."""

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
        self._frozen = Arena(
            {name: model.params[name + ".w"].shape for name in adapted}, self.dtype
        )
        for name, w in self._frozen.items():
            w[:] = model.params[name + ".w"]
        for name in self._rows:
            self.params[name + ".new"][:] = model.params[name][old_vocab:]
        for name in adapted if rng is not None else ():
            At = self.params[name + ".At"]
            At[:] = rng.normal(0, len(At) ** -0.5, At.shape)

    @property
    def trained(self) -> int:
        """How many weights are trained."""
        return self.params.size

    @property
    def share(self) -> float:
        """The trained weights' number over that of the model's own (0 to 1)."""
        return self.trained / self.model.params.size

    def decaying(self) -> int:
        """All of the arena is matrices: decay pulls the adapters to zero, and so the model to its
        base."""
        return len(self.params.flat)

    def reserve(self, rows: int) -> None:
        """Room for batches of up to `rows` rows."""
        self.model.reserve(rows)

    def release(self) -> None:
        """Let go of the model's gradients and activations."""
        self.model.release()

    def merge(self) -> GPT:
        """The model, its weights those that the adapters and new rows now stand for: to save, or to
        talk to."""
        p, w = self.params, self.model.params
        for name, frozen in self._frozen.items():
            self.ops.matmul_forward(
                w[name + ".w"], self.scale * p[name + ".B"], p[name + ".At"], None, frozen
            )
        for name in self._rows:
            w[name][self.old_vocab :] = p[name + ".new"]
        return self.model

    def forward(self, batch):
        """The merged model's (nll, value). It is merged anew each time: params may have been loaded
        meanwhile."""
        return self.merge().forward(batch)

    def backward(self, dnll, dvalue=None) -> None:
        """Add to self.grads what dnll (N,) = dL/dnll makes of the batch of the last forward."""
        p, d, dw = self.params, self.grads, self.model.grads
        dw.clear()  # these serve one batch: what an earlier one left has been projected already
        self.model.backward(dnll, dvalue)
        for name in self._frozen:
            sB = self.scale * p[name + ".B"]
            dsB = np.empty_like(sB)
            self.ops.matmul_backward(
                dsB, d[name + ".At"], None, dw[name + ".w"], sB, p[name + ".At"]
            )
            d[name + ".B"][:] += self.scale * dsB
        for name in self._rows:
            d[name + ".new"][:] += dw[name][self.old_vocab :]


def _base_sha256(model: GPT, old_vocab: int) -> str:
    """The SHA-256 of the model's weights without the new rows, laid out as the base has them: that
    of the base itself (run.weights_sha256)."""
    base = Arena(parameter_shapes(replace(model.config, vocab=old_vocab)), model.dtype)
    for name, w in base.items():
        w[:] = model.params[name][: len(w)]
    return hashlib.sha256(base.flat).hexdigest()


def save_adapter(path, lora: LoRA, metadata: dict[str, str] | None = None) -> None:
    """Write what was trained, and which base it belongs to, as safetensors; with more `metadata`,
    if given. Diverged if it is not finite."""
    if not np.isfinite(lora.params.flat).all():
        raise Diverged(
            f"{path}: the adapters are not finite after the last step; they were not written"
        )
    own = (
        lora.rank,
        float(lora.alpha),
        ",".join(lora.matrices),
        lora.old_vocab,
        lora.config.vocab,
        lora.base_sha256,
    )
    safetensors.save(
        path, dict(lora.params.items()), (metadata or {}) | dict(zip(METADATA, map(str, own)))
    )


METADATA = (
    "rank",
    "alpha",
    "matrices",
    "old_vocab",
    "vocab",
    "base_sha256",
)  # of an adapter's file


def apply_adapter(path, model: GPT) -> GPT:
    """A new model: `model`, the base as it was or already grown, with the adapters of the file
    merged, in the very bits that training gave. `model` stays as it is. A DataError says what does
    not fit."""
    tensors, metadata = safetensors.load(path)
    missing = [name for name in METADATA if name not in metadata]
    if missing:
        raise DataError(
            f"{path}: holds no adapters (its metadata does not say {missing[0]!r}); name a file"
            " that a LoRA training wrote"
        )
    rank, alpha, matrices, old_vocab, vocab, base = (metadata[name] for name in METADATA)
    try:
        rank, alpha, matrices, old_vocab = (
            int(rank),
            float(alpha),
            matrices.split(","),
            int(old_vocab),
        )
        config = replace(model.config, vocab=int(vocab))
        shapes, _ = adapter_shapes(config, rank, matrices, old_vocab), _scale(alpha, rank)
    except (ValueError, UsageError) as error:
        raise DataError(
            f"{path}: its adapters cannot be those of this model ({error}); name the base that they"
            " were trained on"
        ) from None
    if (
        model.config.vocab not in (old_vocab, config.vocab)
        or _base_sha256(model, old_vocab) != base
    ):
        raise DataError(
            f"{path}: its adapters belong to other weights, whose SHA-256 begins with"
            f" {base[:12]!r}; name the base that they were trained on"
        )
    _match(path, tensors, shapes, model.dtype)
    grown = GPT(config, model.ops, dtype=model.dtype)
    for name, w in model.params.items():
        grown.params[name][: len(w)] = w
    lora = LoRA(grown, rank, matrices, alpha, old_vocab=old_vocab, rng=None)
    for name, w in lora.params.items():
        w[:] = tensors[name]
    return lora.merge()


def _match(path, tensors: dict, shapes: dict, dtype) -> None:
    """A DataError unless the tensors are those of shapes."""
    for name in shapes | tensors:
        a, expected = tensors.get(name), shapes.get(name)
        if a is None:
            wrong = "is missing"
        elif expected is None:
            wrong = "is none of an adapter of its metadata"
        elif a.shape != expected or a.dtype != dtype:
            wrong = f"is {a.dtype} {a.shape}, expected {dtype} {expected}"
        elif not np.isfinite(a).all():
            wrong = "holds numbers that are not finite"
        else:
            continue
        raise DataError(
            f"{path}: tensor {name!r} {wrong}; the file is damaged, make it anew from its training"
        )
