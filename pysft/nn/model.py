"""GPT-2's architecture, its forward and backward written out by hand.

    x = wte[token] + wpe[position]
    each block:  x = x + attproj(attention(qkv(ln1(x))))
                 x = x + fcproj(gelu(fc(ln2(x))))
    logits = head(lnf(x))
    value  = lnf(x) . value.w + value.b        if the model has a value head

Radford et al. 2019: a layer norm before each part, learned positions, GELU in its tanh form, biases
in the linear layers and none in the head. Their head is `tied`: it uses the weights of wte. Here
the head has its own weights, unless the config says tied.

The model knows nothing of losses. forward(batch) gives the negative log-likelihood of each row's
label, or a value for each row, or both (GPTConfig.outputs). backward(dnll, dvalue) takes the
derivatives of the loss by these numbers.

Rows that are not wanted (batch.wanted) cost less. In every block they give keys and values to the
rows after them. In the last block nothing else of them is used. So the last block leaves out their
queries and their MLP, and the head their logits (last_block_forward)."""

import time

import numpy as np

from pysft.batch import Batch, Output
from pysft.errors import UsageError
from pysft.nn.arena import Arena
from pysft.nn.computing import computing_ops
from pysft.nn.decode import Decoder
from pysft.nn.heads import nll_backward, nll_forward, value_backward, value_forward
from pysft.nn.shapes import (
    FROM_ATTENTION_ON,
    LOGITS_BYTES,
    GPTConfig,
    activation_shapes,
    head_name,
    initialise,
    parameter_shapes,
)

# ------------------------------------------------------------------------------------ one block
# Read each backward from the bottom up. Its last call belongs to the first call of the forward
# above it, the last but one to the second, and so on. `ops` are the functions to compute with
# (computing.py). p is a dict of a block's parameters, d of their gradients and a of the block's
# activations, each with the names in shapes.py.


def block_forward(ops, p, a, out, cu_seqlens):
    """Compute out (N,C), the block's output, from its input a["x"] (N,C). The activations `a` are
    written."""
    ops.layernorm_forward(a["ln1"], a["mean1"], a["rstd1"], a["x"], p["ln1.w"], p["ln1.b"])
    ops.matmul_forward(a["qkv"], a["ln1"], p["qkv.w"], p["qkv.b"])
    ops.attention_forward(a["att"], a["lse"], a["qkv"], cu_seqlens)
    block_rest_forward(ops, p, a, a["x"], out)


def block_backward(ops, p, d, a, dx, dbranch, dwide, cu_seqlens):
    """On entry dx (N,C) is the gradient at the block's output, on return the one at its input.

    dx is the gradient of the residual stream. What bypasses a branch stays in dx, and the layer
    norm at the start of the branch adds the branch's share. The gradients of the parameters are
    added to d. dbranch (N,C) and dwide (N,4C) are working memory for gradients inside a branch."""
    dqkv = _part(dwide, 0, 3, dx.shape[1])
    block_rest_backward(ops, p, d, a, dx, dbranch, dwide)
    ops.attention_backward(dqkv, dbranch, a["qkv"], a["att"], a["lse"], cu_seqlens)
    ops.matmul_backward(dbranch, d["qkv.w"], d["qkv.b"], dqkv, a["ln1"], p["qkv.w"])
    ops.layernorm_backward(
        dx, d["ln1.w"], d["ln1.b"], dbranch, a["x"], p["ln1.w"], a["mean1"], a["rstd1"]
    )


def block_rest_forward(ops, p, a, x, out):
    """The rest of a block, after attention: compute out from a["att"] and the block's input x. Each
    row is computed by itself."""
    ops.matmul_forward(a["mid"], a["att"], p["attproj.w"], p["attproj.b"], x)
    ops.layernorm_forward(a["ln2"], a["mean2"], a["rstd2"], a["mid"], p["ln2.w"], p["ln2.b"])
    ops.matmul_forward(a["fc"], a["ln2"], p["fc.w"], p["fc.b"])
    ops.gelu_forward(a["gelu"], a["fc"], a["fc"])
    ops.matmul_forward(out, a["gelu"], p["fcproj.w"], p["fcproj.b"], a["mid"])


def block_rest_backward(ops, p, d, a, dx, dbranch, dwide):
    """On entry dx is the gradient at out. On return it is the part of the gradient at x that
    bypasses attention, and dbranch is the gradient at a["att"]."""
    ops.matmul_backward(dwide, d["fcproj.w"], d["fcproj.b"], dx, a["gelu"], p["fcproj.w"])
    ops.gelu_backward(dwide, dwide, None, a["fc"])
    ops.matmul_backward(dbranch, d["fc.w"], d["fc.b"], dwide, a["ln2"], p["fc.w"])
    ops.layernorm_backward(
        dx, d["ln2.w"], d["ln2.b"], dbranch, a["mid"], p["ln2.w"], a["mean2"], a["rstd2"]
    )
    ops.matmul_backward(dbranch, d["attproj.w"], d["attproj.b"], dx, a["att"], p["attproj.w"])


# ------------------------------------------------------------------------------- the last block


def last_block_forward(every, wanted, p, a, out, cu_seqlens, rows, spare):
    """block_forward if only the rows `rows` (M) are wanted. out is (M,C).

    Keys and values are computed for all N rows, and everything after them for the wanted rows
    alone. So the arrays of `a` from a["att"] on are used with M rows. `every` and `wanted` are the
    functions to compute with on N rows and on M rows. spare (N,4C) is working memory."""
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
    """On entry dx_wanted (M,C) is the gradient at the block's output, and dx (N,C) is zero. On
    return dx is the gradient at the block's input. Other arguments as in last_block_forward and
    block_backward."""
    C = dx.shape[1]
    a = a | {name: _first(a[name], rows) for name in FROM_ATTENTION_ON}
    kv, q = _part(a["qkv"], 0, 2, C), _first(_part(a["qkv"], 2, 1, C), rows)
    dkv, dq = _part(dwide, 0, 2, C), _first(_part(dwide, 2, 1, C), rows)
    ln1 = _first(_part(dwide, 3, 1, C), rows)
    datt = _first(dbranch, rows)
    block_rest_backward(wanted, p, d, a, dx_wanted, datt, _first(dwide, rows))
    every.attention_backward(dkv, datt, kv, a["att"], a["lse"], cu_seqlens, dq, q, rows)
    every.matmul_backward(dbranch, d["qkv.w"][C:], d["qkv.b"][C:], dkv, a["ln1"], p["qkv.w"][C:])
    dln1 = _first(dwide.reshape(-1, C), rows)  # in the memory of dkv, which is no longer needed
    every.take_rows_forward(ln1, a["ln1"], rows)
    wanted.matmul_backward(dln1, d["qkv.w"][:C], d["qkv.b"][:C], dq, ln1, p["qkv.w"][:C])
    every.take_rows_backward(dbranch, dln1, rows)
    every.take_rows_backward(dx, dx_wanted, rows)
    every.layernorm_backward(
        dx, d["ln1.w"], d["ln1.b"], dbranch, a["x"], p["ln1.w"], a["mean1"], a["rstd1"]
    )


def _first(x, rows):
    """The first M rows of x, for the M wanted rows."""
    return x[: len(rows)]


def _part(wide, first: int, count: int, C: int):
    """Return an array (N, count C) in the memory of `wide` (N,kC).

    The memory of `wide` is divided into k pieces of N C elements. The array takes `count` of them,
    from number `first` on. So it is contiguous, which some columns of `wide` would not be."""
    N = len(wide)
    return wide.reshape(-1)[first * N * C : (first + count) * N * C].reshape(N, count * C)


# ------------------------------------------------------------------------------- the whole model


class GPT:
    """One model: its parameters, gradients and activations, and the walks forward and backward.

    ops: the functions to compute with (computing.py); None is the C kernels on as many threads as
    gate.default_threads() says. rng: draws the initial weights; without it they are zero, to be
    loaded. logits_bytes: how much memory the logits may take (shapes.logits_rows).

    params and grads are arenas, by the names of shapes.parameter_shapes. clock is None, or a dict
    to which each kernel's seconds are added by name (for benchmarks)."""

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
        """The gradients of the parameters. The arena is made at its first use, because generating
        text needs none."""
        if self._grads is None:
            self._grads = Arena(self.params.shapes, self.dtype)
        return self._grads

    def decaying(self) -> int:
        """The number of elements that decay. They stand at the start of the arena: all matrices,
        before all vectors."""
        return min(self.params.offsets[name] for name, w in self.params.items() if w.ndim == 1)

    def reserve(self, rows: int) -> None:
        """Make room for batches of up to `rows` rows. forward() does so too if there is too little
        room."""
        if rows > self._rows:
            self._activations, self._calls = None, {}  # free the old arena before making the new
            shapes = activation_shapes(self.config, rows, self.dtype, self.logits_bytes)
            self._activations, self._rows = Arena(shapes, self.dtype), rows
            self._index = {
                "tokens": np.zeros(rows, np.int32),
                "cu_seqlens": np.zeros(rows + 1, np.int32),
                "rows": np.zeros(rows, np.int32),
            }

    def release(self) -> None:
        """Free gradients and activations. They are made again when they are needed."""
        self._grads = self._activations = self._index = self._last = None
        self._rows, self._calls = 0, {}  # _calls: the noted kernel calls of each walk

    # -------------------------------------------------- from a batch to its losses, and back

    def forward(self, batch: Batch) -> Output:
        """Return nll (N,) and value (N,) of a batch, each None if the model does not give it. nll
        is in nats, and 0 where the label is -100. Both are 0 where the row is not wanted.

        A UsageError if no row is wanted."""
        rows = np.flatnonzero(batch.wanted)
        N, M = len(batch.tokens), len(rows)
        if not M:
            raise UsageError("GPT.forward: no row of this batch is wanted")
        a = self._run_blocks(batch.tokens, batch.cu_seqlens, rows)
        labels = np.ascontiguousarray(batch.labels[rows])
        nll = value = None
        if self.config.has_nll:
            nll_forward(self._run, self.params, a, labels, head_name(self.config))
            nll = np.zeros(N, self.dtype)
            nll[rows] = a["nll"][:M]
        if self.config.has_value:
            value_forward(self._run, self.params, a, M)
            value = np.zeros(N, self.dtype)
            value[rows] = a["value"][:M, 0]
        self._last = batch, rows, labels
        return Output(nll, value)

    def backward(self, dnll=None, dvalue=None) -> None:
        """Add the gradients of a loss to self.grads. dnll (N,) and dvalue (N,) are the derivatives
        of the loss by the nll and the value that the last forward returned. None is a gradient of
        zero.

        It overwrites the logits, so each forward serves one backward: without a forward before it,
        it is a UsageError. So is a gradient of something that the model does not give."""
        if self._last is None:
            raise UsageError(
                "GPT.backward: no forward(batch) came before it (each forward serves one backward, "
                "which overwrites the logits)"
            )
        config = self.config
        for name, gradient, is_given in (
            ("dnll", dnll, config.has_nll),
            ("dvalue", dvalue, config.has_value),
        ):
            if gradient is not None and not is_given:
                raise UsageError(
                    f"GPT.backward: {name} must be None, because the model's outputs are"
                    f" {config.outputs!r}"
                )
        (batch, rows, labels), self._last = self._last, None
        if dnll is None and dvalue is None:
            return
        p, d, a, N, M = self.params, self.grads, self._activations, len(batch.tokens), len(rows)
        if dnll is not None:
            dnll = np.ascontiguousarray(dnll[rows])
            nll_backward(self._run, p, d, a, dnll, labels, head_name(config))
        if dvalue is not None:
            dvalue = np.ascontiguousarray(dvalue[rows])
            value_backward(self._run, p, d, a, dvalue, adds=dnll is not None)
        # Nothing bypasses the last layer norm, so what it adds to starts at 0. That is dx, or
        # dx_wanted if some rows are not wanted. In that case the last block adds to dx.
        a["dx"][:N] = 0
        if M < N:
            a["dx_wanted"][:M] = 0
        self._walk(self._hidden_backward, N, len(batch.cu_seqlens) - 1, M)

    def logits(self, tokens, cu_seqlens, rows=None):
        """Return the logits (R,V) of the R rows `rows`, in any order, or of all rows.

        tokens (N,) and cu_seqlens (S+1,) as in a Batch. The array is new. There is no backward for
        it, nor for an earlier forward. A UsageError if the model has no head."""
        self._refuse_without_logits("logits")
        asked = np.arange(len(tokens)) if rows is None else np.asarray(rows)
        wanted = np.unique(asked)
        lnf = self._run_blocks(tokens, cu_seqlens, wanted)["lnf"]
        hidden = lnf[np.searchsorted(wanted, asked)]
        result = np.empty((len(hidden), self.config.vocab), self.dtype)
        self.ops.matmul_forward(result, hidden, self.params[head_name(self.config)])
        return result

    def decoder(self, sequences: int = 1):
        """Return a Decoder (decode.py) for up to `sequences` sequences, with a copy of the
        weights as they are now. A UsageError if the model has no head."""
        self._refuse_without_logits("decoder")
        return Decoder(self, sequences)

    def _refuse_without_logits(self, name: str) -> None:
        if not self.config.has_nll:
            raise UsageError(
                f"GPT.{name}: a model whose outputs are 'value' has no logits; ask one that gives"
                " nll"
            )

    def _run(self, kernel: str, *arrays) -> None:
        """Call one function of self.ops, and add its time to the clock if there is one."""
        began = time.perf_counter()
        getattr(self.ops, kernel)(*arrays)
        if self.clock is not None:
            self.clock[kernel] = self.clock.get(kernel, 0.0) + time.perf_counter() - began

    # ------------------------------------------------------------- the walks through the blocks

    def _run_blocks(self, tokens, cu_seqlens, rows) -> Arena:
        """Copy a batch into the model's index arrays and walk forward to lnf.

        rows (M): the wanted rows, which rise. Return the activations; the first M rows of "lnf" are
        those of the wanted rows. A UsageError if an argument has more entries than fit, or if a
        wanted row is not a row of the batch."""
        N = len(tokens)
        self._last = None
        self.reserve(N)
        for name, values in (("tokens", tokens), ("cu_seqlens", cu_seqlens), ("rows", rows)):
            if len(values) > len(self._index[name]):
                raise UsageError(f"{name} has {len(values)} entries, too many for {N} tokens")
            self._index[name][: len(values)] = values
        if rows[0] < 0 or rows[-1] >= N:
            raise UsageError(
                f"row {rows[0] if rows[0] < 0 else rows[-1]} is wanted from a batch of {N} rows,"
                f" numbered 0 to {N - 1}"
            )
        self._walk(self._hidden_forward, N, len(cu_seqlens) - 1, len(rows))
        return self._activations

    def _walk(self, direction, N: int, S: int, M: int) -> None:
        """Run `direction` (_hidden_forward or _hidden_backward) for the batch in self._index.

        With the kernels, the calls of a walk are noted once, for all rows that the arrays have room
        for, and then made for N, S and M (calls.py). Functions of the reference are called
        directly."""
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
        """Compute a["lnf"] from tokens (N,). rows (M,): the wanted rows; a["lnf"] is then (M,C).
        rows is None if all rows are wanted; a["lnf"] is then (N,C).

        `every` and `wanted`: the functions to compute with on all rows and on the wanted rows."""
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
        """Add the gradients of all parameters but the heads, from a["dbranch"], the gradient at
        a["lnf"]. Arguments as in _hidden_forward.

        On entry a["dx"] is zero, and so is a["dx_wanted"] if it is used."""
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
    """Return the arrays of block i by their names inside the block, without "h{i}."."""
    prefix = f"h{i}."
    return {name[len(prefix) :]: a for name, a in arrays.items() if name.startswith(prefix)}
