"""GPT-2's architecture, forward and backward written out by hand.

    x = wte[token] + wpe[position]
    each block:  x = x + attproj(attention(qkv(ln1(x))))
                 x = x + fcproj(gelu(fc(ln2(x))))
    logits = head(lnf(x))

Radford et al. 2019: layer norm before each part, learned positions, tanh GELU, biases in the linear
layers and none in the head. The head has its own weights unless `tied`.

The model knows nothing of losses: forward(batch) gives each row's negative log-likelihood, and
backward(dnll) takes what weight the loss put on each of them.

Compute only what the loss can see: a row that nobody wants (batch.wanted) still gives keys and
values to the rows behind it, in every block. But in the last block nothing else of it is used, so
from there on (its query, its part of the MLP, its logits) only the wanted rows are computed:
last_block_forward."""

import math
import time
from dataclasses import asdict, dataclass

import numpy as np

from pysft.errors import UsageError
from pysft.nn.arena import Arena
from pysft.nn.decode import Decoder

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
            raise UsageError(
                f"channels = {self.channels} cannot be split over heads = {self.heads}; "
                "choose a multiple"
            )


def parameter_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """Every parameter's shape, in the arena's order: the matrices, which decay, before the vectors,
    which do not, so that decay is one slice. Linear weights have a row for each output."""
    V, T, C = config.vocab, config.context, config.channels
    shapes = {"wte": (V, C), "wpe": (T, C)}
    for i in range(config.layers):
        shapes |= {
            f"h{i}.qkv.w": (3 * C, C),
            f"h{i}.attproj.w": (C, C),
            f"h{i}.fc.w": (4 * C, C),
            f"h{i}.fcproj.w": (C, 4 * C),
        }
    if not config.tied:
        shapes["head"] = (V, C)
    for i in range(config.layers):
        shapes |= {
            f"h{i}.ln1.w": (C,),
            f"h{i}.ln1.b": (C,),
            f"h{i}.qkv.b": (3 * C,),
            f"h{i}.attproj.b": (C,),
            f"h{i}.ln2.w": (C,),
            f"h{i}.ln2.b": (C,),
            f"h{i}.fc.b": (4 * C,),
            f"h{i}.fcproj.b": (C,),
        }
    return shapes | {"lnf.w": (C,), "lnf.b": (C,)}


def block_activation_shapes(config: GPTConfig, N: int) -> dict[str, tuple[int, ...]]:
    """What a block's forward leaves for its backward, for N rows. fc ends as GELU's derivative."""
    C, H = config.channels, config.heads
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


LOGITS_BYTES = (
    256 << 20
)  # of logits that are kept; more are made in chunks, and made again for the backward


def logits_rows(config: GPTConfig, rows: int, dtype=np.float32, limit: int = LOGITS_BYTES) -> int:
    """How many rows' logits are held at a time: all, or a multiple of the 256 rows in which
    matmul_backward sums, so that the chunks change no bit."""
    most = limit // (config.vocab * np.dtype(dtype).itemsize)
    return rows if rows <= most else min(rows, max(1, most // 256) * 256)


def activation_shapes(
    config: GPTConfig, N: int, dtype=np.float32, limit: int = LOGITS_BYTES
) -> dict[str, tuple[int, ...]]:
    """All activations of N rows, and the gradients that walk back through the blocks."""
    C, V = config.channels, config.vocab
    shapes = {
        f"h{i}.{name}": shape
        for i in range(config.layers)
        for name, shape in block_activation_shapes(config, N).items()
    }
    return shapes | {
        "x": (N, C),
        "meanf": (N,),
        "rstdf": (N,),
        "lnf": (N, C),
        "logits": (logits_rows(config, N, dtype, limit), V),
        "nll": (N,),
        "logits_lse": (N,),
        "dx": (N, C),
        "dx_wanted": (N, C),
        "dbranch": (N, C),
        "dwide": (N, 4 * C),
    }


def sizes(config: GPTConfig, rows: int, dtype=np.float32) -> dict[str, int]:
    """Bytes that training holds for batches of up to `rows` rows, and the number of weights."""

    def count(shapes):
        return sum(math.prod(s) for s in shapes.values())

    weights, item = count(parameter_shapes(config)), np.dtype(dtype).itemsize
    return {
        "params": weights,
        "weights": weights * item,
        "gradients": weights * item,
        "moments": 2 * weights * item,
        "activations": count(activation_shapes(config, rows, dtype)) * item,
    }


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


# Read each second function bottom-up: each line undoes the line of the first at the same height.


def block_forward(ops, p, a, out, cu_seqlens):
    """One block: a["x"] (N,C) to out (N,C); p holds its parameters, a its activations."""
    ops.layernorm_forward(a["ln1"], a["mean1"], a["rstd1"], a["x"], p["ln1.w"], p["ln1.b"])
    ops.matmul_forward(a["qkv"], a["ln1"], p["qkv.w"], p["qkv.b"])
    ops.attention_forward(a["att"], a["lse"], a["qkv"], cu_seqlens)
    block_rest_forward(ops, p, a, a["x"], out)


def block_backward(ops, p, d, a, dx, dbranch, dwide, cu_seqlens):
    """dx (N,C) holds the gradient at the block's output and ends as the gradient at its input. It
    is the residual stream's: what bypasses a branch just stays in it, and the layer norm at the
    branch's start adds the branch's own share. d takes the parameters' gradients."""
    dqkv = _piece(dwide, 0, 3, dx.shape[1])
    block_rest_backward(ops, p, d, a, dx, dbranch, dwide)
    ops.attention_backward(dqkv, dbranch, a["qkv"], a["att"], a["lse"], cu_seqlens)
    ops.matmul_backward(dbranch, d["qkv.w"], d["qkv.b"], dqkv, a["ln1"], p["qkv.w"])
    ops.layernorm_backward(
        dx, d["ln1.w"], d["ln1.b"], dbranch, a["x"], p["ln1.w"], a["mean1"], a["rstd1"]
    )


def block_rest_forward(ops, p, a, x, out):
    """What follows the attention of a block whose input was x: every row by itself."""
    ops.matmul_forward(a["mid"], a["att"], p["attproj.w"], p["attproj.b"], x)
    ops.layernorm_forward(a["ln2"], a["mean2"], a["rstd2"], a["mid"], p["ln2.w"], p["ln2.b"])
    ops.matmul_forward(a["fc"], a["ln2"], p["fc.w"], p["fc.b"])
    ops.gelu_forward(a["gelu"], a["fc"], a["fc"])
    ops.matmul_forward(out, a["gelu"], p["fcproj.w"], p["fcproj.b"], a["mid"])


def block_rest_backward(ops, p, d, a, dx, dbranch, dwide):
    """dx is at the block's output and ends at its middle; dbranch ends as the gradient at
    a["att"]."""
    ops.matmul_backward(dwide, d["fcproj.w"], d["fcproj.b"], dx, a["gelu"], p["fcproj.w"])
    ops.gelu_backward(dwide, dwide, None, a["fc"])
    ops.matmul_backward(dbranch, d["fc.w"], d["fc.b"], dwide, a["ln2"], p["fc.w"])
    ops.layernorm_backward(
        dx, d["ln2.w"], d["ln2.b"], dbranch, a["mid"], p["ln2.w"], a["mean2"], a["rstd2"]
    )
    ops.matmul_backward(dbranch, d["attproj.w"], d["attproj.b"], dx, a["att"], p["attproj.w"])


def last_block_forward(every, wanted, p, a, out, cu_seqlens, rows, spare):
    """The last block where only the rows `rows` (M) are wanted of the N: keys and values of every
    row, all else of the wanted ones. out (M,C), and a's arrays behind the attention have M rows.
    every and wanted are the ops for N and for M rows; spare (N,4C) is working memory."""
    C = a["x"].shape[1]
    a = a | {name: _few(a[name], rows) for name in BEHIND_ATTENTION}
    kv, q = _piece(a["qkv"], 0, 2, C), _few(_piece(a["qkv"], 2, 1, C), rows)
    x, ln1 = _few(_piece(spare, 0, 1, C), rows), _few(_piece(spare, 1, 1, C), rows)
    every.layernorm_forward(a["ln1"], a["mean1"], a["rstd1"], a["x"], p["ln1.w"], p["ln1.b"])
    every.matmul_forward(kv, a["ln1"], p["qkv.w"][C:], p["qkv.b"][C:])
    every.take_rows_forward(x, a["x"], rows)
    every.take_rows_forward(ln1, a["ln1"], rows)
    wanted.matmul_forward(q, ln1, p["qkv.w"][:C], p["qkv.b"][:C])
    every.attention_forward(a["att"], a["lse"], kv, cu_seqlens, q, rows)
    block_rest_forward(wanted, p, a, x, out)


def last_block_backward(every, wanted, p, d, a, dx, dx_wanted, dbranch, dwide, cu_seqlens, rows):
    """dx_wanted (M,C) holds the gradient at the block's output; dx (N,C), which holds zeros, ends
    as the gradient at its input."""
    C = dx.shape[1]
    a = a | {name: _few(a[name], rows) for name in BEHIND_ATTENTION}
    kv, q = _piece(a["qkv"], 0, 2, C), _few(_piece(a["qkv"], 2, 1, C), rows)
    dkv, dq, ln1 = (
        _piece(dwide, 0, 2, C),
        _few(_piece(dwide, 2, 1, C), rows),
        _few(_piece(dwide, 3, 1, C), rows),
    )
    dln1 = _few(dwide.reshape(-1, C), rows)  # where dkv was
    block_rest_backward(wanted, p, d, a, dx_wanted, _few(dbranch, rows), _few(dwide, rows))
    every.attention_backward(
        dkv, _few(dbranch, rows), kv, a["att"], a["lse"], cu_seqlens, dq, q, rows
    )
    every.matmul_backward(dbranch, d["qkv.w"][C:], d["qkv.b"][C:], dkv, a["ln1"], p["qkv.w"][C:])
    every.take_rows_forward(ln1, a["ln1"], rows)
    wanted.matmul_backward(dln1, d["qkv.w"][:C], d["qkv.b"][:C], dq, ln1, p["qkv.w"][:C])
    every.take_rows_backward(dbranch, dln1, rows)
    every.take_rows_backward(dx, dx_wanted, rows)
    every.layernorm_backward(
        dx, d["ln1.w"], d["ln1.b"], dbranch, a["x"], p["ln1.w"], a["mean1"], a["rstd1"]
    )


BEHIND_ATTENTION = ("att", "lse", "mid", "mean2", "rstd2", "ln2", "fc", "gelu")


def _few(x, rows):
    """Room for the wanted rows, at the start of x."""
    return x[: len(rows)]


def _piece(wide, first: int, count: int, C: int):
    """Of the memory of `wide` (N,kC), seen as k stretches of N C elements, `count` from number
    `first`, as an array (N, count C)."""
    N = len(wide)
    return wide.reshape(-1)[first * N * C : (first + count) * N * C].reshape(N, count * C)


class GPT:
    """Parameters, gradients and activations of one model, and the two walks through it.

    ops: the functions to compute with: `kernels` (ops.on_threads(n), the default) or the module
    `reference`. rng: initialises the weights; without one they are zero, to be loaded.
    logits_bytes: how much of logits is kept (see logits_rows). clock: None, or a dict to which each
    kernel's seconds are added by name (benchmarks)."""

    def __init__(
        self,
        config: GPTConfig,
        ops=None,
        rng: np.random.Generator | None = None,
        dtype=np.float32,
        logits_bytes: int = LOGITS_BYTES,
    ):
        if ops is None:
            from pysft.nn import ops as kernels  # not at the top: the reference needs no compiler

            ops = kernels.on_threads()
        self.config, self.ops, self.dtype = config, ops, np.dtype(dtype)
        self.params = Arena(parameter_shapes(config), dtype)
        self.logits_bytes, self.clock = logits_bytes, None
        self._grads = None
        self.release()
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
            self._activations, self._calls = (
                None,
                {},
            )  # let go of the old arena before asking for a larger one
            shapes = activation_shapes(self.config, rows, self.dtype, self.logits_bytes)
            self._activations, self._rows = Arena(shapes, self.dtype), rows
            self._index = {
                "tokens": np.zeros(rows, np.int32),
                "cu_seqlens": np.zeros(rows + 1, np.int32),
                "rows": np.zeros(rows, np.int32),
            }

    def release(self) -> None:
        """Let go of gradients and activations; they are made again when they are needed."""
        self._grads = self._activations = self._index = self._last = None
        self._rows, self._calls = 0, {}  # the walks' kernel calls, each checked once

    def _head(self) -> str:
        return "wte" if self.config.tied else "head"

    def _walk(self, direction, N: int, S: int, M: int) -> None:
        """Walk `direction` (_hidden_forward or _hidden_backward) over the arena's arrays for the
        tokens, offsets and rows that stand in self._index. The kernels' calls are noted the first
        time, with all the arrays' room, and made again from then on; the reference is simply
        called."""
        few = M < N
        if not hasattr(self.ops, "calls"):
            a = {name: x[:N] for name, x in self._activations.items()}
            return direction(
                self.ops,
                self.ops,
                a,
                self._index["tokens"][:N],
                self._index["cu_seqlens"][: S + 1],
                self._index["rows"][:M] if few else None,
            )
        key = direction.__name__, few
        if key not in self._calls:
            calls = self.ops.calls(min(self.config.context, self._rows))
            direction(
                calls.on("N"),
                calls.on("M"),
                self._activations,
                self._index["tokens"],
                self._index["cu_seqlens"],
                self._index["rows"] if few else None,
            )
            self._calls[key] = calls
        self._calls[key].run(N, S, M, self.clock)

    def _hidden_forward(self, every, wanted, a, tokens, cu_seqlens, rows):
        """From tokens (N,) to a["lnf"]: (N,C), or (M,C) of the rows wanted, if `rows` names
        them."""
        p, last = self.params, self.config.layers - 1
        blocks = [_block(a, i) for i in range(last + 1)]
        every.embedding_forward(blocks[0]["x"], tokens, cu_seqlens, p["wte"], p["wpe"])
        for i in range(last):
            block_forward(every, _block(p, i), blocks[i], blocks[i + 1]["x"], cu_seqlens)
        if rows is None:
            block_forward(every, _block(p, last), blocks[last], a["x"], cu_seqlens)
        else:
            a = a | {name: _few(a[name], rows) for name in ("x", "lnf", "meanf", "rstdf")}
            last_block_forward(
                every, wanted, _block(p, last), blocks[last], a["x"], cu_seqlens, rows, a["dwide"]
            )
        wanted.layernorm_forward(a["lnf"], a["meanf"], a["rstdf"], a["x"], p["lnf.w"], p["lnf.b"])

    def _hidden_backward(self, every, wanted, a, tokens, cu_seqlens, rows):
        """From dbranch, the gradient at a["lnf"], to the embeddings. dx and dx_wanted hold
        zeros."""
        p, d, last = self.params, self.grads, self.config.layers - 1
        dx, dbranch, dwide = a["dx"], a["dbranch"], a["dwide"]
        blocks = [_block(a, i) for i in range(last + 1)]
        if rows is not None:
            a = a | {
                name: _few(a[name], rows)
                for name in ("x", "meanf", "rstdf", "dbranch", "dx_wanted")
            }
        dtop = dx if rows is None else a["dx_wanted"]
        wanted.layernorm_backward(
            dtop, d["lnf.w"], d["lnf.b"], a["dbranch"], a["x"], p["lnf.w"], a["meanf"], a["rstdf"]
        )
        if rows is None:
            block_backward(
                every,
                _block(p, last),
                _block(d, last),
                blocks[last],
                dx,
                dbranch,
                dwide,
                cu_seqlens,
            )
        else:
            last_block_backward(
                every,
                wanted,
                _block(p, last),
                _block(d, last),
                blocks[last],
                dx,
                dtop,
                dbranch,
                dwide,
                cu_seqlens,
                rows,
            )
        for i in reversed(range(last)):
            block_backward(
                every, _block(p, i), _block(d, i), blocks[i], dx, dbranch, dwide, cu_seqlens
            )
        every.embedding_backward(d["wte"], d["wpe"], dx, tokens, cu_seqlens)

    def _run(self, kernel: str, *arrays) -> None:
        """One kernel by itself, on the clock if there is one."""
        began = time.perf_counter()
        getattr(self.ops, kernel)(*arrays)
        if self.clock is not None:
            self.clock[kernel] = self.clock.get(kernel, 0.0) + time.perf_counter() - began

    def _enter(self, tokens, cu_seqlens, rows) -> dict[str, np.ndarray]:
        """Take in a batch, run the blocks on it, and return the arrays; "lnf" has a row for each of
        `rows`, which rise."""
        N = len(tokens)
        self._last = None
        self.reserve(N)
        for name, values in (("tokens", tokens), ("cu_seqlens", cu_seqlens), ("rows", rows)):
            if len(values) > len(self._index[name]):
                raise UsageError(f"{name} has {len(values)} entries, too many for {N} tokens")
            self._index[name][: len(values)] = values
        if rows[0] < 0 or rows[-1] >= N:
            raise UsageError(
                f"row {rows[0] if rows[0] < 0 else rows[-1]} is wanted of {N} rows, which are"
                " numbered from 0"
            )
        self._walk(self._hidden_forward, N, len(cu_seqlens) - 1, len(rows))
        return self._activations

    def forward(self, batch):
        """(nll, value): nll (N,) nats a row, 0 where the label is -100 or nobody wants it; value is
        None (no head)."""
        rows = np.flatnonzero(batch.wanted)
        N, M = len(batch.tokens), len(rows)
        if not M:
            raise UsageError("GPT.forward: no row of this batch is wanted")
        a = self._enter(batch.tokens, batch.cu_seqlens, rows)
        labels = np.ascontiguousarray(batch.labels[rows])
        for some, logits in self._chunks(M):
            self._run("matmul_forward", logits, a["lnf"][some], self.params[self._head()])
            self._run(
                "cross_entropy_forward", a["nll"][some], a["logits_lse"][some], logits, labels[some]
            )
        self._last = batch, rows, labels
        nll = np.zeros(N, self.dtype)
        nll[rows] = a["nll"][:M]
        return nll, None

    def _chunks(self, M: int):
        """(rows, their logits) of each part of M rows whose logits are held at a time."""
        logits = self._activations["logits"]
        return [
            (slice(i, min(i + len(logits), M)), logits[: min(len(logits), M - i)])
            for i in range(0, M, len(logits))
        ]

    def backward(self, dnll, dvalue=None):
        """Add to self.grads what dnll (N,) = dL/dnll makes of the batch of the last forward."""
        if self._last is None:
            raise UsageError(
                "GPT.backward: no forward(batch) came before it (each forward serves one backward, "
                "which overwrites the logits)"
            )
        (batch, rows, labels), self._last = self._last, None
        a, head, dhead = self._activations, self.params[self._head()], self.grads[self._head()]
        N, M = len(batch.tokens), len(rows)
        dnll = np.ascontiguousarray(dnll[rows])
        chunks = self._chunks(M)
        for some, logits in chunks:
            if len(chunks) > 1:  # the forward left only the last chunk's
                self._run("matmul_forward", logits, a["lnf"][some], head)
            self._run(
                "cross_entropy_backward",
                logits,
                dnll[some],
                logits,
                a["logits_lse"][some],
                labels[some],
            )
            self._run(
                "matmul_backward", a["dbranch"][some], dhead, None, logits, a["lnf"][some], head
            )
        a["dx"][:N] = (
            0  # nothing bypasses the last layer norm, nor the last block where rows are missing
        )
        if M < N:
            a["dx_wanted"][:M] = 0
        self._walk(self._hidden_backward, N, len(batch.cu_seqlens) - 1, M)

    def decoder(self, sequences: int = 1):
        """A Decoder of the weights as they are now: one token at a time, with a cache
        (nn/decode.py)."""
        return Decoder(self, sequences)

    def logits(self, tokens, cu_seqlens, rows=None):
        """The logits (R,V) of the given rows (all if None): a new array, for talking and tests."""
        every = np.arange(len(tokens)) if rows is None else np.asarray(rows)
        wanted = np.unique(every)
        hidden = self._enter(tokens, cu_seqlens, wanted)["lnf"][np.searchsorted(wanted, every)]
        result = np.empty((len(hidden), self.config.vocab), self.dtype)
        self.ops.matmul_forward(result, hidden, self.params[self._head()])
        return result


def _block(arrays, i: int) -> dict[str, np.ndarray]:
    """Block i's arrays, by their names inside it."""
    prefix = f"h{i}."
    return {name[len(prefix) :]: a for name, a in arrays.items() if name.startswith(prefix)}


def expand_vocab(
    model: GPT, vocab: int, rows: str = "random", rng: np.random.Generator | None = None
) -> GPT:
    """A new model with `vocab` symbols: every old weight copied exactly, the rows of the new
    symbols (in the embedding and, if it has its own, the head) random as at initialisation, or the
    mean of the old rows. The logits of the old symbols keep their bits.

    rows: "random" (needs rng) or "mean"."""
    old = model.config
    if vocab <= old.vocab:
        raise UsageError(
            f"the vocabulary has {old.vocab} symbols already; growing it to {vocab} "
            "would not add any"
        )
    if rows not in ("random", "mean"):
        raise UsageError(f"rows = {rows!r}: new rows are 'random' or 'mean'")
    if rows == "random" and rng is None:
        raise UsageError("random rows need a random generator")
    grown = GPT(GPTConfig(**{**asdict(old), "vocab": vocab}), model.ops, dtype=model.dtype)
    for name, w in grown.params.items():
        source = model.params[name]
        w[: len(source)] = source
        if len(source) < len(w):
            new = (len(w) - len(source), w.shape[1])
            w[len(source) :] = (
                rng.normal(0, INIT_STD, new) if rows == "random" else source.mean(axis=0)
            )
    return grown
