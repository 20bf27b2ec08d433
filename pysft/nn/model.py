"""GPT-2's architecture, forward and backward written out by hand.

    x = wte[token] + wpe[position]
    each block:  x = x + attproj(attention(qkv(ln1(x))))
                 x = x + fcproj(gelu(fc(ln2(x))))
    logits = head(lnf(x))

Radford et al. 2019: layer norm before each part, learned positions, tanh GELU, biases in the linear
layers and none in the head. The head has its own weights unless `tied`.

The model knows nothing of losses: forward(batch) gives each row's negative log-likelihood, and
backward(dnll) takes what weight the loss put on each of them.
"""

import math
from dataclasses import asdict, dataclass

import numpy as np

from pysft.errors import UsageError
from pysft.nn.arena import Arena

INIT_STD = 0.02  # GPT-2's


@dataclass(frozen=True)
class GPTConfig:
    """vocab symbols, context positions, layers blocks, heads heads, channels features a row."""
    vocab: int
    context: int = 256
    layers: int = 4
    heads: int = 4
    channels: int = 64
    tied: bool = False

    def __post_init__(self):
        for name, value in asdict(self).items():
            if name != "tied" and (not isinstance(value, int) or value < 1):
                raise UsageError(f"{name} = {value!r} must be a whole number, at least 1")
        if self.channels % self.heads:
            raise UsageError(f"channels = {self.channels} cannot be split over heads = {self.heads}; "
                             "choose a multiple")


def parameter_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """Every parameter's shape, in the arena's order: the matrices, which decay, before the vectors,
    which do not, so that decay is one slice. Linear weights have a row for each output."""
    V, T, C = config.vocab, config.context, config.channels
    shapes = {"wte": (V, C), "wpe": (T, C)}
    for i in range(config.layers):
        shapes |= {f"h{i}.qkv.w": (3 * C, C), f"h{i}.attproj.w": (C, C),
                   f"h{i}.fc.w": (4 * C, C), f"h{i}.fcproj.w": (C, 4 * C)}
    if not config.tied:
        shapes["head"] = (V, C)
    for i in range(config.layers):
        shapes |= {f"h{i}.ln1.w": (C,), f"h{i}.ln1.b": (C,), f"h{i}.qkv.b": (3 * C,),
                   f"h{i}.attproj.b": (C,), f"h{i}.ln2.w": (C,), f"h{i}.ln2.b": (C,),
                   f"h{i}.fc.b": (4 * C,), f"h{i}.fcproj.b": (C,)}
    return shapes | {"lnf.w": (C,), "lnf.b": (C,)}


def block_activation_shapes(config: GPTConfig, N: int) -> dict[str, tuple[int, ...]]:
    """What a block's forward leaves for its backward, for N rows."""
    C, H = config.channels, config.heads
    return {"x": (N, C), "mean1": (N,), "rstd1": (N,), "ln1": (N, C), "qkv": (N, 3 * C),
            "att": (N, C), "lse": (N, H), "mid": (N, C), "mean2": (N,), "rstd2": (N,),
            "ln2": (N, C), "fc": (N, 4 * C), "gelu": (N, 4 * C)}


def activation_shapes(config: GPTConfig, N: int) -> dict[str, tuple[int, ...]]:
    """All activations of N rows, and the three gradients that walk back through the blocks."""
    C, V = config.channels, config.vocab
    shapes = {f"h{i}.{name}": shape for i in range(config.layers)
              for name, shape in block_activation_shapes(config, N).items()}
    return shapes | {"x": (N, C), "meanf": (N,), "rstdf": (N,), "lnf": (N, C), "logits": (N, V),
                     "nll": (N,), "logits_lse": (N,),
                     "dx": (N, C), "dbranch": (N, C), "dwide": (N * 4 * C,)}


def sizes(config: GPTConfig, rows: int, dtype=np.float32) -> dict[str, int]:
    """Bytes that training holds for batches of up to `rows` rows, and the number of weights."""
    def count(shapes):
        return sum(math.prod(s) for s in shapes.values())
    weights, item = count(parameter_shapes(config)), np.dtype(dtype).itemsize
    return {"params": weights, "weights": weights * item, "gradients": weights * item,
            "moments": 2 * weights * item,
            "activations": count(activation_shapes(config, rows)) * item}


def initialise(params: Arena, config: GPTConfig, rng: np.random.Generator) -> None:
    """GPT-2's: weights normal with deviation 0.02, the two projections that end on the residual
    stream smaller by sqrt(2 layers), biases 0, layer norms 1."""
    for name, w in params.items():
        if name.endswith((".ln1.w", ".ln2.w", "lnf.w")):
            w[:] = 1
        elif w.ndim == 2:
            std = INIT_STD / np.sqrt(2 * config.layers) if "proj" in name else INIT_STD
            w[:] = rng.normal(0, std, w.shape)
        else:
            w[:] = 0


# Read the second function bottom-up: each line undoes the line of the first at the same height.

def block_forward(ops, p, a, out, cu_seqlens):
    """One block: a["x"] (N,C) to out (N,C); p holds its parameters, a its activations."""
    ops.layernorm_forward(a["ln1"], a["mean1"], a["rstd1"], a["x"], p["ln1.w"], p["ln1.b"])
    ops.matmul_forward(a["qkv"], a["ln1"], p["qkv.w"], p["qkv.b"])
    ops.attention_forward(a["att"], a["lse"], a["qkv"], cu_seqlens)
    ops.matmul_forward(a["mid"], a["att"], p["attproj.w"], p["attproj.b"], a["x"])
    ops.layernorm_forward(a["ln2"], a["mean2"], a["rstd2"], a["mid"], p["ln2.w"], p["ln2.b"])
    ops.matmul_forward(a["fc"], a["ln2"], p["fc.w"], p["fc.b"])
    ops.gelu_forward(a["gelu"], a["fc"])
    ops.matmul_forward(out, a["gelu"], p["fcproj.w"], p["fcproj.b"], a["mid"])


def block_backward(ops, p, d, a, dx, dbranch, dwide, dqkv, cu_seqlens):
    """dx (N,C) holds the gradient at the block's output and ends as the gradient at its input. It is
    the residual stream's: what bypasses a branch just stays in it, and the layer norm at the
    branch's start adds the branch's own share. d takes the parameters' gradients."""
    ops.matmul_backward(dwide, d["fcproj.w"], d["fcproj.b"], dx, a["gelu"], p["fcproj.w"])
    ops.gelu_backward(dwide, dwide, a["fc"])
    ops.matmul_backward(dbranch, d["fc.w"], d["fc.b"], dwide, a["ln2"], p["fc.w"])
    ops.layernorm_backward(dx, d["ln2.w"], d["ln2.b"], dbranch, a["mid"], p["ln2.w"], a["mean2"], a["rstd2"])
    ops.matmul_backward(dbranch, d["attproj.w"], d["attproj.b"], dx, a["att"], p["attproj.w"])
    ops.attention_backward(dqkv, dbranch, a["qkv"], a["att"], a["lse"], cu_seqlens)
    ops.matmul_backward(dbranch, d["qkv.w"], d["qkv.b"], dqkv, a["ln1"], p["qkv.w"])
    ops.layernorm_backward(dx, d["ln1.w"], d["ln1.b"], dbranch, a["x"], p["ln1.w"], a["mean1"], a["rstd1"])


class GPT:
    """Parameters, gradients and activations of one model, and the two walks through it.

    ops: the functions to compute with: `kernels` (ops.on_threads(n), the default) or the module
    `reference`. rng: initialises the weights; without one they are zero, to be loaded."""

    def __init__(self, config: GPTConfig, ops=None, rng: np.random.Generator | None = None,
                 dtype=np.float32):
        if ops is None:
            from pysft.nn import ops as kernels  # not at the top: the reference needs no compiler
            ops = kernels.on_threads()
        self.config, self.ops, self.dtype = config, ops, np.dtype(dtype)
        self.params = Arena(parameter_shapes(config), dtype)
        self._grads = None
        self._activations, self._rows = None, 0
        self._last = None  # (batch, its activations) between a forward and its backward
        if rng is not None:
            initialise(self.params, config, rng)

    @property
    def grads(self) -> Arena:
        """The gradients, made when first asked for (a model that only talks has none)."""
        if self._grads is None:
            self._grads = Arena(parameter_shapes(self.config), self.dtype)
        return self._grads

    def decaying(self) -> int:
        """How many elements at the start of the arena are matrices."""
        return self.params.offsets["h0.ln1.w"]

    def reserve(self, rows: int) -> None:
        """Room for batches of up to `rows` rows; made as needed otherwise."""
        if rows > self._rows:
            self._activations = None  # let go of the old arena before asking for a larger one
            self._activations = Arena(activation_shapes(self.config, rows), self.dtype)
            self._rows = rows

    def release(self) -> None:
        """Let go of gradients and activations; they are made again when they are needed."""
        self._grads = self._activations = self._last = None
        self._rows = 0

    def _first(self, N: int) -> dict[str, np.ndarray]:
        """The activations of N rows: the arena's arrays, cut to size."""
        self.reserve(N)
        return {name: a[:N * len(a) // self._rows] for name, a in self._activations.items()}

    def _head(self) -> str:
        return "wte" if self.config.tied else "head"

    def _hidden(self, tokens, cu_seqlens):
        """Run the blocks; return the activations' dict, in which "lnf" (N,C) is the result."""
        ops, p = self.ops, self.params
        self._last = None
        a = self._first(len(tokens))
        blocks = [_block(a, i) for i in range(self.config.layers)]
        outs = [block["x"] for block in blocks[1:]] + [a["x"]]
        ops.embedding_forward(blocks[0]["x"], tokens, cu_seqlens, p["wte"], p["wpe"])
        for i, out in enumerate(outs):
            block_forward(ops, _block(p, i), blocks[i], out, cu_seqlens)
        ops.layernorm_forward(a["lnf"], a["meanf"], a["rstdf"], a["x"], p["lnf.w"], p["lnf.b"])
        return a

    def forward(self, batch):
        """(nll, value): nll (N,) nats a row, 0 where the label is -100; value is None (no head)."""
        a = self._hidden(batch.tokens, batch.cu_seqlens)
        self.ops.matmul_forward(a["logits"], a["lnf"], self.params[self._head()])
        self.ops.cross_entropy_forward(a["nll"], a["logits_lse"], a["logits"], batch.labels)
        self._last = batch, a
        return a["nll"], None

    def backward(self, dnll, dvalue=None):
        """Add to self.grads what dnll (N,) = dL/dnll makes of the batch of the last forward."""
        ops, p, d = self.ops, self.params, self.grads
        if self._last is None:
            raise UsageError("GPT.backward: no forward(batch) came before it (each forward serves one backward, "
                             "which overwrites the logits)")
        (batch, a), self._last = self._last, None
        cu_seqlens, N = batch.cu_seqlens, len(batch.tokens)
        C, head = self.config.channels, self._head()
        dx, dbranch = a["dx"], a["dbranch"]
        dwide = a["dwide"][:N * 4 * C].reshape(N, 4 * C)
        dqkv = a["dwide"][:N * 3 * C].reshape(N, 3 * C)
        dlogits = a["logits"]
        ops.cross_entropy_backward(dlogits, dnll, a["logits"], a["logits_lse"], batch.labels)
        ops.matmul_backward(dbranch, d[head], None, dlogits, a["lnf"], p[head])
        dx[:] = 0  # nothing bypasses the last layer norm
        ops.layernorm_backward(dx, d["lnf.w"], d["lnf.b"], dbranch, a["x"], p["lnf.w"], a["meanf"], a["rstdf"])
        for i in reversed(range(self.config.layers)):
            block_backward(ops, _block(p, i), _block(d, i), _block(a, i), dx, dbranch, dwide, dqkv, cu_seqlens)
        ops.embedding_backward(d["wte"], d["wpe"], dx, batch.tokens, cu_seqlens)

    def logits(self, tokens, cu_seqlens, rows=None):
        """The logits (R,V) of the given rows (all if None): a new array, for talking and tests."""
        hidden = self._hidden(tokens, cu_seqlens)["lnf"]
        if rows is not None:
            hidden = np.ascontiguousarray(hidden[rows])
        result = np.empty((len(hidden), self.config.vocab), self.dtype)
        self.ops.matmul_forward(result, hidden, self.params[self._head()])
        return result


def _block(arrays, i: int) -> dict[str, np.ndarray]:
    """Block i's arrays, by their names inside it."""
    prefix = f"h{i}."
    return {name[len(prefix):]: a for name, a in arrays.items() if name.startswith(prefix)}


def expand_vocab(model: GPT, vocab: int, rows: str = "random",
                 rng: np.random.Generator | None = None) -> GPT:
    """A new model with `vocab` symbols: every old weight copied exactly, the rows of the new symbols
    (in the embedding and, if it has its own, the head) random as at initialisation, or the mean of
    the old rows. The logits of the old symbols keep their bits.

    rows: "random" (needs rng) or "mean"."""
    old = model.config
    if vocab <= old.vocab:
        raise UsageError(f"the vocabulary has {old.vocab} symbols already; growing it to {vocab} "
                         "would not add any")
    if rows not in ("random", "mean"):
        raise UsageError(f"rows = {rows!r}: new rows are 'random' or 'mean'")
    if rows == "random" and rng is None:
        raise UsageError("random rows need a random generator")
    grown = GPT(GPTConfig(**{**asdict(old), "vocab": vocab}), model.ops, dtype=model.dtype)
    for name, w in grown.params.items():
        source = model.params[name]
        w[:len(source)] = source
        if len(source) < len(w):
            new = (len(w) - len(source), w.shape[1])
            w[len(source):] = rng.normal(0, INIT_STD, new) if rows == "random" else source.mean(axis=0)
    return grown
