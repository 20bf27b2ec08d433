"""The architecture in numbers: the name, shape and initial value of every tensor of a model.

Letters: V symbols of the vocabulary, T positions of the context, C channels, H heads, N token rows.
The weight of a linear layer has a row for each of its outputs.
"""

import math
from dataclasses import asdict, dataclass

import numpy as np

from pysft.errors import UsageError
from pysft.nn.arena import Arena

INIT_STD = 0.02  # GPT-2's
LOGITS_BYTES = 256 << 20  # memory for logits, in bytes: see logits_rows
OUTPUTS = ("nll", "nll+value", "value")  # what a model can give for a row
PRECISIONS = ("float32", "bf16")  # what the factors of its products can be rounded to


@dataclass(frozen=True)
class GPTConfig:
    """The size of a model: V = vocab, T = context, C = channels, H = heads, and `layers` blocks.

    tied: the head uses the weights of the embedding. outputs: what the model gives for a row, from
    OUTPUTS. Without "nll" it has no head and no logits. precision: what the factors of products of
    activations and weights are rounded to, from PRECISIONS; all arrays, and the sums, stay float32.
    An impossible size is a UsageError."""

    vocab: int
    context: int = 256
    layers: int = 4
    heads: int = 4
    channels: int = 64
    tied: bool = False
    outputs: str = "nll"
    precision: str = "float32"

    def __post_init__(self):
        for name, known in (("outputs", OUTPUTS), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise UsageError(
                    f"{name} = {getattr(self, name)!r} must be one of {', '.join(known)}"
                )
        for name, value in asdict(self).items():
            is_size = name not in ("tied", "outputs", "precision")
            if is_size and (not isinstance(value, int) or value < 1):
                raise UsageError(f"{name} = {value!r} must be a whole number, at least 1")
        if self.channels % self.heads:
            raise UsageError(
                f"channels = {self.channels} cannot be split over heads = {self.heads}; "
                "choose a multiple"
            )

    @property
    def has_nll(self) -> bool:
        """True if the model gives a negative log-likelihood for each row."""
        return self.outputs != "value"

    @property
    def has_value(self) -> bool:
        """True if the model gives a value for each row."""
        return self.outputs != "nll"


# ------------------------------------------------------------------------------- parameters


def block_parameter_shapes(C: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each parameter of a block, in the order in which a forward uses it."""
    return {
        "ln1.w": (C,),
        "ln1.b": (C,),
        "qkv.w": (3 * C, C),
        "qkv.b": (3 * C,),
        "attproj.w": (C, C),
        "attproj.b": (C,),
        "ln2.w": (C,),
        "ln2.b": (C,),
        "fc.w": (4 * C, C),
        "fc.b": (4 * C,),
        "fcproj.w": (C, 4 * C),
        "fcproj.b": (C,),
    }


# The linear layers of a block, whose weights are matrices.
MATRICES = tuple(
    name.removesuffix(".w") for name, shape in block_parameter_shapes(1).items() if len(shape) == 2
)
PER_SYMBOL = ("wte", "head")  # parameters with a row for each symbol; a tied model has no "head"
VALUE_HEAD = ("value.w", "value.b")  # the parameters of the value head


def parameter_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter, in the arena's order. Those of block i are named
    "h{i}.NAME".

    Matrices decay and vectors do not. All matrices stand first, so weight decay acts on one
    slice."""
    V, T, C = config.vocab, config.context, config.channels
    blocks = {
        f"h{i}.{name}": shape
        for i in range(config.layers)
        for name, shape in block_parameter_shapes(C).items()
    }
    shapes = {"wte": (V, C), "wpe": (T, C)}
    shapes |= {name: shape for name, shape in blocks.items() if len(shape) == 2}
    if config.has_nll and not config.tied:
        shapes["head"] = (V, C)
    if config.has_value:
        shapes["value.w"] = (1, C)
    shapes |= {name: shape for name, shape in blocks.items() if len(shape) == 1}
    shapes |= {"lnf.w": (C,), "lnf.b": (C,)}
    return shapes | {"value.b": (1,)} if config.has_value else shapes


def reading_order(config: GPTConfig) -> list[str]:
    """Return the names of all parameters in the order in which a forward uses them, the head last.

    decode_forward reads its weights in this order (kernels.h). "head" is in the list for a tied
    model too, although head_name then returns another name."""
    blocks = [f"h{i}.{n}" for i in range(config.layers) for n in block_parameter_shapes(1)]
    return ["wte", "wpe", *blocks, "lnf.w", "lnf.b", "head"]


def head_name(config: GPTConfig) -> str:
    """Return the name of the parameter whose weights the head uses."""
    return "wte" if config.tied else "head"


def initialise(params: Arena, config: GPTConfig, rng: np.random.Generator) -> None:
    """Set all parameters to their initial values, as in GPT-2.

    Matrices are normal with mean 0 and standard deviation 0.02. In the two projections of a block
    that add to the residual stream, the deviation is divided by sqrt(2 layers). Biases are 0, the
    weights of layer norms 1."""
    for name, w in params.items():
        if name.endswith((".ln1.w", ".ln2.w", "lnf.w")):
            w[:] = 1
        elif w.ndim == 2:
            std = INIT_STD / np.sqrt(2 * config.layers) if "proj" in name else INIT_STD
            w[:] = rng.normal(0, std, w.shape)
        else:
            w[:] = 0


# ------------------------------------------------------------------------------ activations


def block_activation_shapes(N: int, C: int, H: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each array that a block's forward leaves for its backward, in the order
    of computation. "fc" is overwritten by the derivative of GELU."""
    return {
        "x": (N, C),
        "mean1": (N,),
        "rstd1": (N,),
        "ln1": (N, C),
        "qkv": (N, 3 * C),
        "att": (N, C),
        "lse": (N, H),
        "mid": (N, C),
        "mean2": (N,),
        "rstd2": (N,),
        "ln2": (N, C),
        "fc": (N, 4 * C),
        "gelu": (N, 4 * C),
    }


def logits_rows(config: GPTConfig, rows: int, dtype=np.float32, limit: int = LOGITS_BYTES) -> int:
    """Return how many of `rows` rows have their logits in memory at a time: those that fit into
    `limit` bytes.

    It is all of them or a multiple of the rows that matmul_backward sums in a block (KC_DW in
    matmul.c), so the parts give the same bits as the whole: 256, in bf16 512. It is at least one
    block, even if that does not fit."""
    block = 512 if config.precision == "bf16" else 256
    most = limit // (config.vocab * np.dtype(dtype).itemsize)
    return rows if rows <= most else min(rows, max(1, most // block) * block)


def activation_shapes(
    config: GPTConfig, N: int, dtype=np.float32, limit: int = LOGITS_BYTES
) -> dict[str, tuple[int, ...]]:
    """Return the shape of all activations of N rows, and of the gradients by activations that a
    backward needs.

    The activations of block i are named "h{i}.NAME". limit: bytes for logits (logits_rows)."""
    C, V = config.channels, config.vocab
    blocks = {
        f"h{i}.{name}": shape
        for i in range(config.layers)
        for name, shape in block_activation_shapes(N, C, config.heads).items()
    }
    top = {"att_wanted": (N, C), "x": (N, C), "meanf": (N,), "rstdf": (N,), "lnf": (N, C)}
    if config.has_nll:
        rows = logits_rows(config, N, dtype, limit)
        top |= {"logits": (rows, V), "nll": (N,), "logits_lse": (N,)}
    if config.has_value:
        top["value"] = (N, 1)
    gradients = {"dx": (N, C), "dbranch": (N, C), "dwide": (N, 4 * C)}
    return blocks | top | gradients


def sizes(config: GPTConfig, rows: int, dtype=np.float32) -> dict[str, int]:
    """Return the bytes that training on batches of up to `rows` rows needs for "weights",
    "gradients", "moments" and "activations". "params" is the number of weights. In bf16 the working
    memory for the factors that products convert counts with the activations."""

    def count(shapes):
        return sum(math.prod(shape) for shape in shapes.values())

    params, item = count(parameter_shapes(config)), np.dtype(dtype).itemsize
    scratch = 0
    if config.precision == "bf16":  # for a row of the blocks, and of the logits (KC_OUTER terms)
        scratch = 5 * config.channels // 2 + min(config.vocab * config.has_nll, 3072) // 2
    return {
        "params": params,
        "weights": params * item,
        "gradients": params * item,
        "moments": 2 * params * item,
        "activations": (count(activation_shapes(config, rows, dtype)) + rows * scratch) * item,
    }


def decoder_bytes(config: GPTConfig, sequences: int, dtype=np.float32) -> int:
    """Return about how many bytes a Decoder for so many sequences holds: a copy of the weights, and
    for each sequence its keys, values, logits and working memory."""
    C, V, T = config.channels, config.vocab, config.context
    keys = -(-T // 64) * 64 * C  # they stand in panels of up to 64 positions
    row = config.layers * (keys + T * C) + 9 * C + 4 * T + 3 * V
    params, item = sizes(config, 1)["params"], np.dtype(dtype).itemsize
    return (params + sequences * row) * item
