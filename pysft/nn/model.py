"""GPT-2's architecture, its forward and backward written out by hand.

    x = wte[token] + wpe[position]
    each block:  x = x + attproj(attention(qkv(ln1(x))))
                 x = x + fcproj(gelu(fc(ln2(x))))
    logits = head(lnf(x))

Radford et al. 2019: a layer norm before each part, learned positions, GELU in its tanh form, biases
in the linear layers and none in the head. Their head is `tied`: it has the weights of wte. Here it
has its own unless the config says so.

The model knows nothing of losses. forward(batch) gives the negative log-likelihood of each row's
label; backward(dnll) takes the derivative of the loss with respect to each of them.

Only what the loss can see is computed. In every block, a row that is not wanted (batch.wanted)
gives keys and values to the rows after it. In the last block nothing else of it is used, so its
query, its part of the MLP and its logits are left out there (last_block_forward)."""

import time
from dataclasses import replace

import numpy as np

from pysft.errors import UsageError
from pysft.nn.arena import Arena
from pysft.nn.computing import computing_ops
from pysft.nn.decode import Decoder
from pysft.nn.shapes import (
    FROM_ATTENTION_ON,
    INIT_STD,
    LOGITS_BYTES,
    GPTConfig,
    activation_shapes,
    head_name,
    initialise,
    parameter_shapes,
)

# ------------------------------------------------------------------------------------ one block
# Read each backward from the bottom up: its last line undoes the first line of the forward above
# it, the line before the second, and so on. `ops` are the functions to compute with, p a block's
# parameters, d their gradients and a its activations, each by the names in shapes.py.


def block_forward(ops, p, a, out, cu_seqlens):
    """From a["x"] (N,C), the block's input, to out (N,C)."""
    ops.layernorm_forward(a["ln1"], a["mean1"], a["rstd1"], a["x"], p["ln1.w"], p["ln1.b"])
    ops.matmul_forward(a["qkv"], a["ln1"], p["qkv.w"], p["qkv.b"])
    ops.attention_forward(a["att"], a["lse"], a["qkv"], cu_seqlens)
    block_rest_forward(ops, p, a, a["x"], out)


def block_backward(ops, p, d, a, dx, dbranch, dwide, cu_seqlens):
    """dx (N,C) holds the gradient at the block's output, and in the end the one at its input.

    It is the gradient of the residual stream. What bypasses a branch stays in dx, and the layer
    norm at the start of the branch adds the branch's share. dbranch (N,C) and dwide (N,4C) hold the
    gradients inside a branch."""
    dqkv = _part(dwide, 0, 3, dx.shape[1])
    block_rest_backward(ops, p, d, a, dx, dbranch, dwide)
    ops.attention_backward(dqkv, dbranch, a["qkv"], a["att"], a["lse"], cu_seqlens)
    ops.matmul_backward(dbranch, d["qkv.w"], d["qkv.b"], dqkv, a["ln1"], p["qkv.w"])
    ops.layernorm_backward(
        dx, d["ln1.w"], d["ln1.b"], dbranch, a["x"], p["ln1.w"], a["mean1"], a["rstd1"]
    )


def block_rest_forward(ops, p, a, x, out):
    """The rest of a block, each row by itself: from a["att"] and the block's input x to out."""
    ops.matmul_forward(a["mid"], a["att"], p["attproj.w"], p["attproj.b"], x)
    ops.layernorm_forward(a["ln2"], a["mean2"], a["rstd2"], a["mid"], p["ln2.w"], p["ln2.b"])
    ops.matmul_forward(a["fc"], a["ln2"], p["fc.w"], p["fc.b"])
    ops.gelu_forward(a["gelu"], a["fc"], a["fc"])
    ops.matmul_forward(out, a["gelu"], p["fcproj.w"], p["fcproj.b"], a["mid"])


def block_rest_backward(ops, p, d, a, dx, dbranch, dwide):
    """dx goes from the gradient at out to the one at x past the attention's branch; dbranch ends as
    the gradient at a["att"]."""
    ops.matmul_backward(dwide, d["fcproj.w"], d["fcproj.b"], dx, a["gelu"], p["fcproj.w"])
    ops.gelu_backward(dwide, dwide, None, a["fc"])
    ops.matmul_backward(dbranch, d["fc.w"], d["fc.b"], dwide, a["ln2"], p["fc.w"])
    ops.layernorm_backward(
        dx, d["ln2.w"], d["ln2.b"], dbranch, a["mid"], p["ln2.w"], a["mean2"], a["rstd2"]
    )
    ops.matmul_backward(dbranch, d["attproj.w"], d["attproj.b"], dx, a["att"], p["attproj.w"])


# ------------------------------------------------------------------------------- the last block


def last_block_forward(every, wanted, p, a, out, cu_seqlens, rows, spare):
    """block_forward where only `rows` (M) of the N rows are wanted: out is (M,C).

    Keys and values are computed for every row, the rest for the wanted rows alone: those arrays of
    `a` have M rows from the attention on. every and wanted are the functions to compute with on N
    and on M rows. spare (N,4C) is working memory."""
    C = a["x"].shape[1]
    a = a | {name: _first(a[name], rows) for name in FROM_ATTENTION_ON}
    kv, q = _part(a["qkv"], 0, 2, C), _first(_part(a["qkv"], 2, 1, C), rows)
    x, ln1 = _first(_part(spare, 0, 1, C), rows), _first(_part(spare, 1, 1, C), rows)
    every.layernorm_forward(a["ln1"], a["mean1"], a["rstd1"], a["x"], p["ln1.w"], p["ln1.b"])
    every.matmul_forward(kv, a["ln1"], p["qkv.w"][C:], p["qkv.b"][C:])
    every.take_rows_forward(x, a["x"], rows)
    every.take_rows_forward(ln1, a["ln1"], rows)
    wanted.matmul_forward(q, ln1, p["qkv.w"][:C], p["qkv.b"][:C])
    every.attention_forward(a["att"], a["lse"], kv, cu_seqlens, q, rows)
    block_rest_forward(wanted, p, a, x, out)


def last_block_backward(every, wanted, p, d, a, dx, dx_wanted, dbranch, dwide, cu_seqlens, rows):
    """dx_wanted (M,C) holds the gradient at the block's output.

    dx (N,C) holds zeros, and in the end the gradient at the block's input."""
    C = dx.shape[1]
    a = a | {name: _first(a[name], rows) for name in FROM_ATTENTION_ON}
    kv, q = _part(a["qkv"], 0, 2, C), _first(_part(a["qkv"], 2, 1, C), rows)
    dkv, dq = _part(dwide, 0, 2, C), _first(_part(dwide, 2, 1, C), rows)
    ln1 = _first(_part(dwide, 3, 1, C), rows)
    datt = _first(dbranch, rows)
    block_rest_backward(wanted, p, d, a, dx_wanted, datt, _first(dwide, rows))
    every.attention_backward(dkv, datt, kv, a["att"], a["lse"], cu_seqlens, dq, q, rows)
    every.matmul_backward(dbranch, d["qkv.w"][C:], d["qkv.b"][C:], dkv, a["ln1"], p["qkv.w"][C:])
    dln1 = _first(dwide.reshape(-1, C), rows)  # in the memory of dkv, which has been used by now
    every.take_rows_forward(ln1, a["ln1"], rows)
    wanted.matmul_backward(dln1, d["qkv.w"][:C], d["qkv.b"][:C], dq, ln1, p["qkv.w"][:C])
    every.take_rows_backward(dbranch, dln1, rows)
    every.take_rows_backward(dx, dx_wanted, rows)
    every.layernorm_backward(
        dx, d["ln1.w"], d["ln1.b"], dbranch, a["x"], p["ln1.w"], a["mean1"], a["rstd1"]
    )


def _first(x, rows):
    """The start of x, with room for the wanted rows."""
    return x[: len(rows)]


def _part(wide, first: int, count: int, C: int):
    """An array (N, count C) in the memory of `wide` (N,kC).

    The memory is divided into k stretches of N C elements; the array has `count` of them, from
    number `first` on."""
    N = len(wide)
    return wide.reshape(-1)[first * N * C : (first + count) * N * C].reshape(N, count * C)


# ------------------------------------------------------------------------------- the whole model


class GPT:
    """Parameters, gradients and activations of one model, and the two walks through it.

    ops: the functions to compute with (computing.py); None is the C kernels on as many threads as
    gate.default_threads() says. rng: draws the initial weights; without it they are zero, to be
    loaded. logits_bytes: how much memory the logits may take (shapes.logits_rows).

    params and grads are arenas. clock is None, or a dict to which each kernel's seconds are added
    by name (for benchmarks)."""

    def __init__(
        self,
        config: GPTConfig,
        ops=None,
        rng: np.random.Generator | None = None,
        dtype=np.float32,
        logits_bytes: int = LOGITS_BYTES,
    ):
        self.ops = computing_ops("kernels", None) if ops is None else ops
        self.config, self.dtype = config, np.dtype(dtype)
        self.params = Arena(parameter_shapes(config), dtype)
        self.logits_bytes, self.clock = logits_bytes, None
        self._grads = None
        self.release()
        if rng is not None:
            initialise(self.params, config, rng)

    @property
    def grads(self) -> Arena:
        """The gradients of the parameters. Made at the first use: generating text needs none."""
        if self._grads is None:
            self._grads = Arena(self.params.shapes, self.dtype)
        return self._grads

    def decaying(self) -> int:
        """The number of elements at the start of the arena that decay: all before the vectors."""
        return min(self.params.offsets[name] for name, w in self.params.items() if w.ndim == 1)

    def reserve(self, rows: int) -> None:
        """Make room for batches of up to `rows` rows. Without it, room is made when needed."""
        if rows > self._rows:
            self._activations, self._calls = None, {}  # frees the old arena before the new is made
            shapes = activation_shapes(self.config, rows, self.dtype, self.logits_bytes)
            self._activations, self._rows = Arena(shapes, self.dtype), rows
            self._index = {
                "tokens": np.zeros(rows, np.int32),
                "cu_seqlens": np.zeros(rows + 1, np.int32),
                "rows": np.zeros(rows, np.int32),
            }

    def release(self) -> None:
        """Free gradients and activations. They are made again when needed."""
        self._grads = self._activations = self._index = self._last = None
        self._rows, self._calls = 0, {}  # _calls: the noted kernel calls of each walk

    # -------------------------------------------------- from a batch to its losses, and back

    def forward(self, batch):
        """(nll, value) of a batch: nll (N,) in nats, 0 where the label is -100 or the row is not
        wanted; value is None, as this model has no value head."""
        rows = np.flatnonzero(batch.wanted)
        N, M = len(batch.tokens), len(rows)
        if not M:
            raise UsageError("GPT.forward: no row of this batch is wanted")
        a = self._run_blocks(batch.tokens, batch.cu_seqlens, rows)
        head = self.params[head_name(self.config)]
        labels = np.ascontiguousarray(batch.labels[rows])
        for part, logits in self._logits_parts(M):
            nll, lse = a["nll"][part], a["logits_lse"][part]
            self._run("matmul_forward", logits, a["lnf"][part], head)
            self._run("cross_entropy_forward", nll, lse, logits, labels[part])
        self._last = batch, rows, labels
        nll = np.zeros(N, self.dtype)
        nll[rows] = a["nll"][:M]
        return nll, None

    def backward(self, dnll, dvalue=None):
        """Add to self.grads the gradients of a loss, from dnll (N,) = dloss/dnll of the last
        forward's batch. It overwrites the logits, so each forward serves one backward."""
        if self._last is None:
            raise UsageError(
                "GPT.backward: no forward(batch) came before it (each forward serves one backward, "
                "which overwrites the logits)"
            )
        (batch, rows, labels), self._last = self._last, None
        name = head_name(self.config)
        a, head, dhead = self._activations, self.params[name], self.grads[name]
        N, M = len(batch.tokens), len(rows)
        dnll = np.ascontiguousarray(dnll[rows])
        parts = self._logits_parts(M)
        for part, logits in parts:
            lnf, dlnf, lse = a["lnf"][part], a["dbranch"][part], a["logits_lse"][part]
            if len(parts) > 1:  # the forward left only the logits of the last part
                self._run("matmul_forward", logits, lnf, head)
            self._run("cross_entropy_backward", logits, dnll[part], logits, lse, labels[part])
            self._run("matmul_backward", dlnf, dhead, None, logits, lnf, head)
        # Layer norms add to these. They start with 0: nothing bypasses the last layer norm and, if
        # some rows are not wanted, nothing bypasses the last block.
        a["dx"][:N] = 0
        if M < N:
            a["dx_wanted"][:M] = 0
        self._walk(self._hidden_backward, N, len(batch.cu_seqlens) - 1, M)

    def logits(self, tokens, cu_seqlens, rows=None):
        """The logits (R,V) of the given rows, or of all rows: a new array, without gradients."""
        asked = np.arange(len(tokens)) if rows is None else np.asarray(rows)
        wanted = np.unique(asked)
        lnf = self._run_blocks(tokens, cu_seqlens, wanted)["lnf"]
        hidden = lnf[np.searchsorted(wanted, asked)]
        result = np.empty((len(hidden), self.config.vocab), self.dtype)
        self.ops.matmul_forward(result, hidden, self.params[head_name(self.config)])
        return result

    def decoder(self, sequences: int = 1):
        """A Decoder of the weights as they are now, for `sequences` sequences (decode.py)."""
        return Decoder(self, sequences)

    def _logits_parts(self, M: int):
        """[(slice of the M wanted rows, their logits)]: what is in memory at a time."""
        logits = self._activations["logits"]
        most = len(logits)
        return [(slice(i, min(i + most, M)), logits[: min(most, M - i)]) for i in range(0, M, most)]

    def _run(self, kernel: str, *arrays) -> None:
        """Call one kernel through the gate, and add its time to the clock if there is one."""
        began = time.perf_counter()
        getattr(self.ops, kernel)(*arrays)
        if self.clock is not None:
            self.clock[kernel] = self.clock.get(kernel, 0.0) + time.perf_counter() - began

    # ------------------------------------------------------------- the walks through the blocks

    def _run_blocks(self, tokens, cu_seqlens, rows) -> Arena:
        """Copy a batch into the model's index arrays and walk forward to lnf.

        Returns the activations, where "lnf" has a row for each of `rows`, which rise."""
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

    def _walk(self, direction, N: int, S: int, M: int) -> None:
        """Do `direction` (_hidden_forward or _hidden_backward) for the batch in self._index.

        With the kernels, the calls of a walk are noted once, with all the room that the arrays
        have, and then made (calls.py). The functions of the reference are called directly."""
        few, index = M < N, self._index
        if not hasattr(self.ops, "calls"):
            a = {name: x[:N] for name, x in self._activations.items()}
            tokens, cu_seqlens = index["tokens"][:N], index["cu_seqlens"][: S + 1]
            rows = index["rows"][:M] if few else None
            direction(self.ops, self.ops, a, tokens, cu_seqlens, rows)
            return
        key = direction.__name__, few
        if key not in self._calls:
            calls = self.ops.calls(min(self.config.context, self._rows))
            rows = index["rows"] if few else None
            every, wanted = calls.on("N"), calls.on("M")
            direction(every, wanted, self._activations, index["tokens"], index["cu_seqlens"], rows)
            self._calls[key] = calls
        self._calls[key].run(N, S, M, self.clock)

    def _hidden_forward(self, every, wanted, a, tokens, cu_seqlens, rows):
        """From tokens (N,) to a["lnf"]: (N,C), or, where `rows` (M) names the wanted rows, (M,C).

        every and wanted: the functions to compute with on all rows, and on the wanted ones."""
        p = self.params
        blocks = [(_block(p, i), _block(a, i)) for i in range(self.config.layers)]
        inputs = [activations["x"] for _, activations in blocks]
        every.embedding_forward(inputs[0], tokens, cu_seqlens, p["wte"], p["wpe"])
        for block, out in zip(blocks[:-1], inputs[1:]):
            block_forward(every, *block, out, cu_seqlens)
        if rows is None:
            block_forward(every, *blocks[-1], a["x"], cu_seqlens)
        else:
            a = a | {name: _first(a[name], rows) for name in ("x", "lnf", "meanf", "rstdf")}
            last_block_forward(every, wanted, *blocks[-1], a["x"], cu_seqlens, rows, a["dwide"])
        wanted.layernorm_forward(a["lnf"], a["meanf"], a["rstdf"], a["x"], p["lnf.w"], p["lnf.b"])

    def _hidden_backward(self, every, wanted, a, tokens, cu_seqlens, rows):
        """From a["dbranch"], the gradient at a["lnf"], to the embeddings; arguments as above.

        a["dx"] and a["dx_wanted"] hold zeros."""
        p, d = self.params, self.grads
        dx, dbranch, dwide = a["dx"], a["dbranch"], a["dwide"]
        blocks = [(_block(p, i), _block(d, i), _block(a, i)) for i in range(self.config.layers)]
        dtop, dlnf, x, mean, rstd = dx, dbranch, a["x"], a["meanf"], a["rstdf"]
        if rows is not None:
            few = a["dx_wanted"], dbranch, x, mean, rstd
            dtop, dlnf, x, mean, rstd = (_first(array, rows) for array in few)
        wanted.layernorm_backward(dtop, d["lnf.w"], d["lnf.b"], dlnf, x, p["lnf.w"], mean, rstd)
        if rows is None:
            block_backward(every, *blocks[-1], dx, dbranch, dwide, cu_seqlens)
        else:
            last_block_backward(
                every, wanted, *blocks[-1], dx, dtop, dbranch, dwide, cu_seqlens, rows
            )
        for block in reversed(blocks[:-1]):
            block_backward(every, *block, dx, dbranch, dwide, cu_seqlens)
        every.embedding_backward(d["wte"], d["wpe"], dx, tokens, cu_seqlens)


def _block(arrays, i: int) -> dict[str, np.ndarray]:
    """The arrays of block i, by their names inside it."""
    prefix = f"h{i}."
    return {name[len(prefix) :]: a for name, a in arrays.items() if name.startswith(prefix)}


def expand_vocab(
    model: GPT, vocab: int, rows: str = "random", rng: np.random.Generator | None = None
) -> GPT:
    """A new model with `vocab` symbols. Every old weight is copied exactly, so the logits of the
    old symbols keep their bits.

    rows: the new symbols' rows in the embedding and, unless it is tied, the head. "random" (needs
    rng) draws them as at initialisation; "mean" takes the mean of the old rows."""
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
    grown = GPT(replace(old, vocab=vocab), model.ops, dtype=model.dtype)
    for name, w in grown.params.items():
        source = model.params[name]
        w[: len(source)] = source
        if len(source) < len(w):
            new = (len(w) - len(source), w.shape[1])
            drawn = rng.normal(0, INIT_STD, new) if rows == "random" else source.mean(axis=0)
            w[len(source) :] = drawn
    return grown
