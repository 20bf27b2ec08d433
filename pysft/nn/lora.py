"""LoRA: fine-tuning that freezes the weights and learns a small change of each chosen matrix.

    W (K,C) = W0 + s B A        B (K,r), A (r,C), s = alpha / r        Hu et al. 2021, section 4.1

The rank r is far smaller than K and C, so r (K + C) numbers are trained in place of K C. A starts
random and B zero, so training starts from the model that was given. The rows of new symbols and a
value head cannot stay frozen, because no base has trained them. They are trained directly, beside
the adapters.

GPT does not know of this. Before its forward the adapters are merged into its weights
(adapter_forward). After its backward dW = dL/dW becomes the gradients of the adapters
(adapter_backward). A is stored transposed, as At. Then both steps are the product that the model
itself is made of, y = x wT + residual, and its gradients. So the same matmul serves here, and the
bits are the same for any number of threads.
"""

import hashlib
from dataclasses import replace

import numpy as np

from pysft.batch import Batch, Output
from pysft.errors import DataError, Diverged, UsageError
from pysft.nn import safetensors
from pysft.nn.arena import Arena
from pysft.nn.computing import in_precision
from pysft.nn.model import GPT
from pysft.nn.shapes import MATRICES, PER_SYMBOL, VALUE_HEAD, GPTConfig, parameter_shapes

# The metadata that every adapter file has.
METADATA = ("rank", "alpha", "matrices", "old_vocab", "vocab", "base_sha256")


def adapter_shapes(
    config: GPTConfig, rank: int, matrices, old_vocab: int
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all trained arrays, in the arena's order: the new rows of wte and head,
    then for each chosen W (K,C) the transpose of A, At (C,rank), and B (K,rank), then the value
    head, if the model has one.

    matrices: names from MATRICES. old_vocab: the number of symbols that the base has. A UsageError
    if rank, old_vocab or a matrix is not possible for this model."""
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
    return shapes | {name: weights[name] for name in VALUE_HEAD if name in weights}


def adapter_forward(ops, w, frozen, At, B, scale) -> None:
    """Write w (K,C) = frozen + scale B A. frozen (K,C), At (C,r), B (K,r).

    It is the product y = x wT + residual with x = scale B, w = At and residual = frozen."""
    ops.matmul_forward(w, scale * B, At, None, frozen)


def adapter_backward(ops, dAt, dB, dw, At, B, scale) -> None:
    """w[k,c] = frozen[k,c] + scale sum_i B[k,i] A[i,c], so with dw (K,C), the gradient at w,

        dB[k,i] = scale sum_c dw[k,c] A[i,c]        dB = scale dw AT
        dA[i,c] = scale sum_k B[k,i] dw[k,c]        dA = scale BT dw

    They are added to dB (K,r) and, as dA transposed, to dAt (C,r). The frozen matrix is not
    trained, so nobody needs its gradient. At the start B is 0. Then dA is 0 too and dB is not, so
    the first step moves B alone.

    A layer y = x wT has dw = dyT x. Put in, with u = x AT and du = scale dy B, both (N,r), this is
    dB = scale dyT u and dA = duT x, and no matrix as large as w is made for it.

    In the product of adapter_forward, dy = dw gives dx = dw At, the gradient at scale B, and the
    gradient at its weight, dwT (scale B), is the one at At."""
    sB = scale * B
    dsB = np.empty_like(sB)
    ops.matmul_backward(dsB, dAt, None, dw, sB, At)
    dB += scale * dsB


def _scale(alpha: float, rank: int) -> float:
    """Return s = alpha / rank. A UsageError if alpha is not a number above 0."""
    is_number = isinstance(alpha, (int, float)) and not isinstance(alpha, bool)
    if not is_number or not 0 < alpha < float("inf"):
        raise UsageError(f"alpha = {alpha!r} must be a number above 0; twice the rank is usual")
    return alpha / rank


class LoRA:
    """A GPT of which only adapters, new rows and a value head are trained.

    The training loop, AdamW, clip and the checkpoints take it in place of a model: params and grads
    are arenas of what is trained.

    model: the GPT with the grown vocabulary. Each forward and each merge() overwrite its weights
    with the merged ones. matrices: names from MATRICES, those that get an adapter. alpha: s = alpha
    / rank; None is twice the rank. old_vocab: the number of symbols of the base; the rows after
    those are trained. rng: draws A, normal with deviation 1/sqrt(C), so that A x is about as large
    as x (the paper says Gaussian and names no deviation); None leaves A zero, to be loaded. A
    UsageError if rank, alpha, old_vocab or a matrix is not possible for this model."""

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
        self.model, self.config, self.dtype = model, model.config, model.dtype
        # B A is a product of weights, in float32 also where those of activations are in bf16.
        self.ops = in_precision(model.ops, "float32")
        self.rank, self.alpha, self.old_vocab = rank, alpha, old_vocab
        self.matrices = tuple(m for m in MATRICES if m in matrices)
        self.base_sha256 = _base_sha256(model, model.config, old_vocab)
        self.params, self.grads = Arena(shapes, self.dtype), Arena(shapes, self.dtype)
        self._rows = [name.removesuffix(".new") for name in shapes if name.endswith(".new")]
        adapted = [name.removesuffix(".B") for name in shapes if name.endswith(".B")]
        weights = {name: model.params[f"{name}.w"] for name in adapted}
        self._frozen = Arena({name: w.shape for name, w in weights.items()}, self.dtype)
        self._frozen.fill(weights)
        self._value_head = [name for name in shapes if name in VALUE_HEAD]
        for name in self._rows:
            self.params[f"{name}.new"][:] = model.params[name][old_vocab:]
        for name in self._value_head:
            self.params[name][:] = model.params[name]
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
        """The number of elements that decay: all but value.b, the last. Decay pulls the adapters
        towards zero, and so the model towards its base."""
        return self.params.offsets.get("value.b", len(self.params.flat))

    def reserve(self, rows: int) -> None:
        """Make room for batches of up to `rows` rows."""
        self.model.reserve(rows)

    def release(self) -> None:
        """Free the model's gradients and activations."""
        self.model.release()

    def merge(self) -> GPT:
        """Write the adapters, new rows and value head, as they are now, into the model's weights.
        Return the model."""
        p, w = self.params, self.model.params
        for name, frozen in self._frozen.items():
            At, B = p[f"{name}.At"], p[f"{name}.B"]
            adapter_forward(self.ops, w[f"{name}.w"], frozen, At, B, self.scale)
        for name in self._rows:
            w[name][self.old_vocab :] = p[f"{name}.new"]
        for name in self._value_head:
            w[name][:] = p[name]
        return self.model

    def forward(self, batch: Batch) -> Output:
        """Return nll and value of the merged model, as GPT.forward does. It merges at each call,
        because params may have changed."""
        return self.merge().forward(batch)

    def backward(self, dnll=None, dvalue=None) -> None:
        """Add the gradients of a loss to self.grads. dnll and dvalue (N,) as in GPT.backward."""
        p, d, dw = self.params, self.grads, self.model.grads
        dw.clear()  # GPT adds to dw, and an earlier batch's part is in self.grads already
        self.model.backward(dnll, dvalue)
        for name in self._frozen:
            At, B = p[f"{name}.At"], p[f"{name}.B"]
            dAt, dB = d[f"{name}.At"], d[f"{name}.B"]
            adapter_backward(self.ops, dAt, dB, dw[f"{name}.w"], At, B, self.scale)
        for name in self._rows:
            d[f"{name}.new"][:] += dw[name][self.old_vocab :]
        for name in self._value_head:
            d[name][:] += dw[name]


def _base_sha256(model: GPT, config: GPTConfig, old_vocab: int) -> str:
    """Return the SHA-256 of those weights of `model` that an adapter with this config leaves
    frozen or adapts, laid out as in the base: without new rows and value head.

    So it equals run.stage.weights_sha256 of the base, if the model was grown from it and both give
    nll. Without nll the head does not count either."""
    shapes = parameter_shapes(replace(config, vocab=old_vocab))
    shapes = {name: shape for name, shape in shapes.items() if name not in VALUE_HEAD}
    base = Arena(shapes, model.dtype)
    for name, w in base.items():
        w[:] = model.params[name][: len(w)]
    return hashlib.sha256(base.flat).hexdigest()


def save_adapter(path, lora: LoRA, metadata: dict[str, str] | None = None) -> None:
    """Write adapters, new rows and value head to a safetensors file, with METADATA, which names
    their base, and "outputs", the model's (shapes.OUTPUTS).

    metadata: further entries. Diverged if a number is not finite; nothing is then written."""
    if not np.isfinite(lora.params.flat).all():
        raise Diverged(
            f"{path}: the adapters are not finite after the last step; they were not written"
        )
    matrices, alpha = ",".join(lora.matrices), float(lora.alpha)
    own = lora.rank, alpha, matrices, lora.old_vocab, lora.config.vocab, lora.base_sha256
    described = (metadata or {}) | dict(zip(METADATA, map(str, own)))
    described["outputs"] = lora.config.outputs
    safetensors.save(path, dict(lora.params.items()), described)


def apply_adapter(path, model: GPT) -> GPT:
    """Return a new model: `model` with the adapters of the file merged. Its weights have the same
    bits as at the end of the training.

    model: the base, with or without the new rows and the value head; it is not changed.
    MissingInput if there is no file. A DataError if the file is damaged, or belongs to other
    weights."""
    tensors, metadata = safetensors.load(path)
    missing = [name for name in METADATA if name not in metadata]
    if missing:
        raise DataError(
            f"{path}: holds no adapters (its metadata has no {missing[0]!r}); name a file that a"
            " LoRA training wrote"
        )
    rank, alpha, matrices, old_vocab, vocab, base = (metadata[name] for name in METADATA)
    try:
        rank, alpha, old_vocab = int(rank), float(alpha), int(old_vocab)
        matrices = matrices.split(",")
        outputs = metadata.get("outputs", "nll")  # files from before the value head have none
        config = replace(model.config, vocab=int(vocab), outputs=outputs)
        shapes, _ = adapter_shapes(config, rank, matrices, old_vocab), _scale(alpha, rank)
    except (ValueError, UsageError) as error:
        raise DataError(
            f"{path}: its adapters cannot be those of this model ({error}); name the base that they"
            " were trained on"
        ) from None
    fits = model.config.vocab in (old_vocab, config.vocab)
    fits = fits and (model.config.has_nll or not config.has_nll)
    if not fits or _base_sha256(model, config, old_vocab) != base:
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
        remedy="; the file is damaged. Train the adapters again",
    )
    grown = GPT(config, model.ops, dtype=model.dtype)
    for name, w in model.params.items():
        if name in grown.params:
            grown.params[name][: len(w)] = w
    lora = LoRA(grown, rank, matrices, alpha, old_vocab=old_vocab, rng=None)
    lora.params.fill(tensors)
    return lora.merge()
