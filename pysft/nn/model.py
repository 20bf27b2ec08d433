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

Rows that are not wanted (batch.wanted) give keys and values to the rows after them. After the last
attention nothing reads them, so the rest of the last block and the heads compute the wanted rows
alone. So a walk has two parts, which meet after the last attention: hidden (all N rows) and top
(the M wanted rows). If the top computed all rows, fine-tuning steps would take 2 to 5 % longer, and
those of a reward model, which wants one row of each sequence, 10 to 16 %."""

import time

import numpy as np

from pysft.batch import Batch, Output
from pysft.errors import UsageError
from pysft.nn.arena import Arena
from pysft.nn.computing import computing_ops, in_precision
from pysft.nn.decode import Decoder
from pysft.nn.heads import nll_backward, nll_forward, value_backward, value_forward
from pysft.nn.shapes import (
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
    attend_forward(ops, p, a, cu_seqlens)
    rest_forward(ops, p, a, a["x"], a["att"], out)


def block_backward(ops, p, d, a, dx, dbranch, dwide, cu_seqlens):
    """On entry dx (N,C) is the gradient at the block's output, on return the one at its input.

    dx is the gradient of the residual stream. What bypasses a branch stays in dx, and the layer
    norm at the start of the branch adds the branch's share. The gradients of the parameters are
    added to d. dbranch (N,C) and dwide (N,4C) are working memory for gradients inside a branch."""
    rest_backward(ops, p, d, a, a["att"], dx, dbranch, dwide)
    attend_backward(ops, p, d, a, dx, dbranch, dwide, cu_seqlens)


def attend_forward(ops, p, a, cu_seqlens):
    """Compute a["att"] (N,C), the attention's output, from a["x"] (N,C)."""
    ops.layernorm_forward(a["ln1"], a["mean1"], a["rstd1"], a["x"], p["ln1.w"], p["ln1.b"])
    ops.matmul_forward(a["qkv"], a["ln1"], p["qkv.w"], p["qkv.b"])
    ops.attention_forward(a["att"], a["lse"], a["qkv"], cu_seqlens)


def attend_backward(ops, p, d, a, dx, dbranch, dwide, cu_seqlens):
    """On entry dbranch (N,C) is the gradient at a["att"]. Its share of the gradient at a["x"] is
    added to dx."""
    dqkv = dwide.reshape(-1)[: a["qkv"].size].reshape(a["qkv"].shape)  # contiguous, in its memory
    ops.attention_backward(dqkv, dbranch, a["qkv"], a["att"], a["lse"], cu_seqlens)
    ops.matmul_backward(dbranch, d["qkv.w"], d["qkv.b"], dqkv, a["ln1"], p["qkv.w"])
    ops.layernorm_backward(
        dx, d["ln1.w"], d["ln1.b"], dbranch, a["x"], p["ln1.w"], a["mean1"], a["rstd1"]
    )


def rest_forward(ops, p, a, x, att, out):
    """Compute out, the block's output, from its input x and the attention's output att. Each row is
    computed by itself."""
    ops.matmul_forward(a["mid"], att, p["attproj.w"], p["attproj.b"], x)
    ops.layernorm_forward(a["ln2"], a["mean2"], a["rstd2"], a["mid"], p["ln2.w"], p["ln2.b"])
    ops.matmul_forward(a["fc"], a["ln2"], p["fc.w"], p["fc.b"])
    ops.gelu_forward(a["gelu"], a["fc"], a["fc"])
    ops.matmul_forward(out, a["gelu"], p["fcproj.w"], p["fcproj.b"], a["mid"])


def rest_backward(ops, p, d, a, att, dx, dbranch, dwide):
    """On entry dx is the gradient at out. On return it is the part of the gradient at x that
    bypasses attention, and dbranch is the gradient at att."""
    ops.matmul_backward(dwide, d["fcproj.w"], d["fcproj.b"], dx, a["gelu"], p["fcproj.w"])
    ops.gelu_backward(dwide, dwide, None, a["fc"])
    ops.matmul_backward(dbranch, d["fc.w"], d["fc.b"], dwide, a["ln2"], p["fc.w"])
    ops.layernorm_backward(
        dx, d["ln2.w"], d["ln2.b"], dbranch, a["mid"], p["ln2.w"], a["mean2"], a["rstd2"]
    )
    ops.matmul_backward(dbranch, d["attproj.w"], d["attproj.b"], dx, att, p["attproj.w"])


def _spread(x, rows, N: int) -> None:
    """Move the first M rows of x to `rows` (M), and set the others of its first N rows to 0."""
    few = x[: len(rows)].copy()
    x[:N] = 0
    x[rows] = few


# ------------------------------------------------------------------------------- the whole model


class GPT:
    """One model: its parameters, gradients and activations, and the walks forward and backward.

    ops: the functions to compute with (computing.py), in the precision of the config; None is the C
    kernels on as many threads as gate.default_threads() says. rng: draws the initial weights;
    without it they are zero, to be loaded. logits_bytes: how much memory the logits may take
    (shapes.logits_rows).

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
        ops = computing_ops("kernels", None) if ops is None else ops
        self.ops = in_precision(ops, config.precision)
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
            self._scratch = {}
            shapes = activation_shapes(self.config, rows, self.dtype, self.logits_bytes)
            self._activations, self._rows = Arena(shapes, self.dtype), rows
            self._index = {
                "tokens": np.zeros(rows, np.int32),
                "cu_seqlens": np.zeros(rows + 1, np.int32),
            }

    def release(self) -> None:
        """Free gradients and activations. They are made again when they are needed."""
        self._grads = self._activations = self._index = self._last = None
        self._rows, self._calls = 0, {}  # _calls: the noted kernel calls of each walk
        self._scratch = {}  # the working memory of these calls

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
        S = len(batch.cu_seqlens) - 1
        a["dx"][:M] = 0  # the last layer norm adds to it, and nothing bypasses this layer norm
        self._walk(self._top_backward, M, S, M < N)
        if M < N:  # rows that are not wanted get no gradient from the top
            _spread(a["dx"], rows, N)
            _spread(a["dbranch"], rows, N)
        self._walk(self._hidden_backward, N, S)

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

    def read(self, tokens, cu_seqlens, rows):
        """Return (lnf (R,C), [qkv (N,3C) of each block]): what the head reads at the R rows `rows`,
        which rise, and the queries, keys and values of all rows.

        tokens (N,) and cu_seqlens (S+1,) as in a Batch. The arrays are the model's own, valid until
        its next forward, and there is no backward for them."""
        a = self._run_blocks(tokens, cu_seqlens, rows)
        qkvs = [a[f"h{i}.qkv"][: len(tokens)] for i in range(self.config.layers)]
        return a["lnf"][: len(rows)], qkvs

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
        those of the wanted rows. A UsageError if cu_seqlens has more entries than fit, or if a
        wanted row is not a row of the batch."""
        N, S, M = len(tokens), len(cu_seqlens) - 1, len(rows)
        self._last = None
        self.reserve(N)
        for name, values in (("tokens", tokens), ("cu_seqlens", cu_seqlens)):
            if len(values) > len(self._index[name]):
                raise UsageError(f"{name} has {len(values)} entries, too many for {N} tokens")
            self._index[name][: len(values)] = values
        if rows[0] < 0 or rows[-1] >= N:
            row = rows[0] if rows[0] < 0 else rows[-1]
            raise UsageError(f"row {row} is wanted from a batch of {N} rows, numbered 0 to {N - 1}")
        a, last = self._activations, f"h{self.config.layers - 1}"
        self._walk(self._hidden_forward, N, S)
        if M < N:
            a["dbranch"][:M] = a[f"{last}.x"][rows]
            a["att_wanted"][:M] = a[f"{last}.att"][rows]
        self._walk(self._top_forward, M, S, M < N)
        return a

    def _walk(self, direction, N: int, S: int, few: bool = False) -> None:
        """Run `direction` (_hidden_forward, _top_forward or a backward) on N rows, for the batch in
        self._index. The top's rows are the wanted ones; few: whether some rows are not wanted.

        With the kernels, the calls of a walk are noted once, for all rows that the arrays have room
        for, and then made for N and S (calls.py). Functions of the reference are called
        directly."""
        index = self._index
        if not hasattr(self.ops, "calls"):
            a = {name: x[:N] for name, x in self._activations.items()}
            direction(self.ops, a, index["tokens"][:N], index["cu_seqlens"][: S + 1], few)
            return
        key = direction.__name__, few
        if key not in self._calls:
            calls = self.ops.calls(min(self.config.context, self._rows), self._scratch)
            a = self._activations
            direction(calls.noting(), a, index["tokens"], index["cu_seqlens"], few)
            self._calls[key] = calls
        self._calls[key].run(N, S, self.clock)

    def _hidden_forward(self, ops, a, tokens, cu_seqlens, few):
        """Compute all up to the last block's attention from tokens (N,)."""
        p = self.params
        blocks = [(_block(p, i), _block(a, i)) for i in range(self.config.layers)]
        inputs = [activations["x"] for _, activations in blocks]
        ops.embedding_forward(inputs[0], tokens, cu_seqlens, p["wte"], p["wpe"])
        for block, out in zip(blocks, inputs[1:]):
            block_forward(ops, *block, out, cu_seqlens)
        attend_forward(ops, *blocks[-1], cu_seqlens)

    def _hidden_backward(self, ops, a, tokens, cu_seqlens, few):
        """Add the gradients of all parameters below the top, from a["dbranch"] (N,C), the gradient
        at the last block's attention, and a["dx"] (N,C), the one that bypasses it."""
        d, grads = self.grads, (a["dx"], a["dbranch"], a["dwide"])
        *blocks, last = [
            (_block(self.params, i), _block(d, i), _block(a, i)) for i in range(self.config.layers)
        ]
        attend_backward(ops, *last, *grads, cu_seqlens)
        for block in reversed(blocks):
            block_backward(ops, *block, *grads, cu_seqlens)
        ops.embedding_backward(d["wte"], d["wpe"], a["dx"], tokens, cu_seqlens)

    def _top_forward(self, ops, a, tokens, cu_seqlens, few):
        """Compute a["lnf"] from the last block's attention and input. If `few`, both have been
        gathered for the wanted rows, into a["att_wanted"] and a["dbranch"]."""
        p, i = self.params, self.config.layers - 1
        last = _block(a, i)
        x, att = (a["dbranch"], a["att_wanted"]) if few else (last["x"], last["att"])
        rest_forward(ops, _block(p, i), last, x, att, a["x"])
        ops.layernorm_forward(a["lnf"], a["meanf"], a["rstdf"], a["x"], p["lnf.w"], p["lnf.b"])

    def _top_backward(self, ops, a, tokens, cu_seqlens, few):
        """Add the gradients of the top's parameters, from a["dbranch"], the gradient at a["lnf"].
        On entry a["dx"] is zero. On return a["dx"] and a["dbranch"] are what _hidden_backward
        needs. If `few`, their first M rows belong to the M wanted rows."""
        p, d, i = self.params, self.grads, self.config.layers - 1
        dx, dbranch, last = a["dx"], a["dbranch"], _block(a, i)
        att = a["att_wanted"] if few else last["att"]
        ops.layernorm_backward(
            dx, d["lnf.w"], d["lnf.b"], dbranch, a["x"], p["lnf.w"], a["meanf"], a["rstdf"]
        )
        rest_backward(ops, _block(p, i), _block(d, i), last, att, dx, dbranch, a["dwide"])


def _block(arrays, i: int) -> dict[str, np.ndarray]:
    """Return the arrays of block i by their names inside the block, without "h{i}."."""
    prefix = f"h{i}."
    return {name[len(prefix) :]: a for name, a in arrays.items() if name.startswith(prefix)}
