"""The graph of one training step: its nodes, each with the arrays that go through it forward and
backward, and the lines that compute them.

The step is that of walk.py, a model so small that every array of it can be shown, computed by the
NumPy reference in float64. A backward makes the calls of the forward in reverse order. So the first
call of the forward belongs to the last call of the backward, the second to the last but one, and so
on."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from sys import _getframe

import numpy as np

from pysft.lessons import walk
from pysft.nn import model, reference
from pysft.training.objectives import Sft

BLOCK = ("ln1", "qkv", "attention", "attproj", "ln2", "fc", "gelu", "fcproj")  # calls of a block
SUMS = {"attproj": "add1", "fcproj": "add2"}  # nodes that have no call of their own
TITLES = {"add1": "+ attention", "add2": "+ MLP", "loss": "cross-entropy"}
# What happens in a node, forward and backward.
NOTES = {
    "embedding": (
        "Each row is a row of wte, for its token, plus a row of wpe, for its position.",
        "The gradient of a row is added to the rows of wte and wpe that it was made of. Token 1"
        " occurs twice, so its row of wte gets the sum. dwte held the head's share before.",
    ),
    "ln1": (
        "Each row gets mean 0 and variance 1. Then w scales it, and b shifts it.",
        "dx holds the gradient that bypassed attention. The share that came through it is added,"
        " and then dx is the gradient at x.",
    ),
    "qkv": (
        "One product gives the queries, keys and values of both heads.",
        "dx is the gradient at ln1.",
    ),
    "attention": (
        "Each row gets a mean of the values of the rows up to itself, in each head. P has the"
        " weights. Above its diagonal it is 0: no row sees a later one.",
        "dqkv is the gradient of queries, keys and values. dscore is that of the scores. Row 0 sees"
        " one key, so its weight is always 1, and its score has no gradient.",
    ),
    "attproj": (
        "A product mixes the heads, and adds the stream x (residual).",
        "dy is the gradient of the stream at mid. dx is the gradient at att.",
    ),
    "add1": (
        "The stream goes on as mid: what it was, plus the branch. The product adds both.",
        "A sum hands its gradient to both summands, unchanged. So no call is needed. Where the"
        " branch left the stream, x has two readers, and their gradients add up.",
    ),
    "ln2": (
        "Each row gets mean 0 and variance 1. Then w scales it, and b shifts it.",
        "dx holds the gradient that bypassed the MLP. The share that came through it is added, and"
        " then dx is the gradient at mid.",
    ),
    "fc": ("A product with four times as many outputs.", "dx is the gradient at ln2."),
    "gelu": (
        "Each number is multiplied by a gate that depends on it. fc is overwritten by the slope,"
        " which the backward needs.",
        "The gradient of each number is multiplied by its slope.",
    ),
    "fcproj": (
        "A product back to 4 channels, which adds the stream mid (residual).",
        "dy is the gradient of the stream at the block's output. dx is the gradient at gelu.",
    ),
    "add2": (
        "The stream goes on as the block's output: what it was, plus the branch.",
        "A sum hands its gradient to both summands, unchanged. Where the branch left the stream,"
        " mid has two readers, and their gradients add up.",
    ),
    "lnf": (
        "The last layer norm, of the stream that leaves the last block.",
        "dx was 0 before, because nothing bypasses this layer norm. Then it is the gradient of the"
        " stream.",
    ),
    "head": (
        "A logit for each symbol. The head is tied: its weights are those of wte.",
        "dx is the gradient at lnf. dw is the head's share of the gradient of wte.",
    ),
    "loss": (
        "The nll of a row is the negative logarithm of the probability of its label. Row 0 is not"
        " graded, so its nll is 0.",
        "The loss is the mean of three nll, so dnll is 1/3 in each graded row. dlogits is written"
        " over the logits.",
    ),
}
# Arguments that a backward adds to. All other arguments that walk.WRITES names are written.
ADDED = {
    "layernorm_backward": ("dx", "dw", "db"),
    "matmul_backward": ("dw", "db"),
    "embedding_backward": ("dwte", "dwpe"),
}
# The lesson that derives the backward of a function, by its number.
LESSON = {"embedding": 9, "layernorm": 6, "matmul": 5, "attention": 8, "gelu": 7}
LESSON |= {"cross_entropy": 4, "sum": 9}


@dataclass(frozen=True)
class Array:
    """An array of a call. name: that of the argument. source: what the model passes for it."""

    name: str
    source: str
    values: np.ndarray


@dataclass(frozen=True)
class Call:
    """A call of one function, as a node shows it.

    text     as it stands in the source; "" for none
    reads    arrays before the call. One that is added to is among them if it was not zero
    writes   arrays after it
    arrays   all arguments, by name: those that are read before it, the others after it
    worded   the function whose docstring is shown
    lined    the one whose lines are shown
    kernel   the one of csrc/ whose lines are shown beside them"""

    text: str
    reads: list[Array]
    writes: list[Array]
    arrays: dict[str, np.ndarray]
    worded: Callable
    lined: Callable
    kernel: str


@dataclass(frozen=True)
class Node:
    """A node of the graph. name: "ln1.0" in block 0, or "embedding", "lnf", "head", "loss"."""

    name: str
    forward: Call
    backward: Call

    @property
    def part(self) -> str:
        """Its name without the number of the block."""
        return self.name.partition(".")[0]

    @property
    def block(self) -> int | None:
        number = self.name.partition(".")[2]
        return int(number) if number else None

    @property
    def is_sum(self) -> bool:
        return self.part in SUMS.values()

    @property
    def label(self) -> str:
        return TITLES.get(self.part, self.part)

    @property
    def notes(self) -> tuple[str, str]:
        """What happens in it, forward and backward."""
        return NOTES[self.part]

    @property
    def lesson(self) -> int:
        """The number of the lesson that derives its backward."""
        return LESSON["sum" if self.is_sum else self.forward.kernel.removesuffix("_forward")]


@dataclass(frozen=True)
class Step:
    """One training step. nodes: in the order of the forward. loss: the mean nll. dnll (N,)."""

    nodes: list[Node]
    loss: float
    dnll: np.ndarray

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)


@cache
def small_step() -> Step:
    """The step of walk.py, up to the gradients of all parameters."""
    ops = _Noted()
    gpt, batch, objective = walk.small_model(ops), walk.small_batch(), Sft()
    out = gpt.forward(batch)
    forward, ops.noted = ops.noted, []
    loss, dnll, *_ = objective(batch, out, objective.counts(batch))
    gpt.backward(dnll)
    blocks = [f"{part}.{i}" for i in range(gpt.config.layers) for part in BLOCK]
    names = ["embedding", *blocks, "lnf", "head", "loss"]
    nodes = []
    for name, *calls in zip(names, forward, reversed(ops.noted), strict=True):
        nodes.append(Node(name, *calls))
        if nodes[-1].part in SUMS:
            nodes.append(_sum(nodes[-1], nodes[-len(BLOCK) // 2]))
    return Step(nodes, float(loss), dnll)


# ------------------------------------------------------------------------------------ the calls


_source_of = cache(walk.source_of)  # the calls of all blocks stand in the same lines


class _Noted:
    """The functions of the reference, which note each call of theirs. There is no `calls`, so a
    model makes each call by itself."""

    def __init__(self):
        self.noted = []

    def __getattr__(self, name: str):
        if name not in walk.WRITES:
            raise AttributeError(name)
        function = getattr(reference, name)

        def call(*arguments):
            before = [None if a is None else a.copy() for a in arguments]
            function(*arguments)
            frame = _getframe(1)
            frame = frame.f_back if frame.f_code.co_name == "_run" else frame
            self.noted.append(_noted(function, arguments, before, frame))

        return call


def _noted(function, arguments, before, frame) -> Call:
    """A call that was made in a frame, with copies of its arguments before it."""
    name = function.__name__
    text, sources = _source_of(name, frame.f_code.co_filename, frame.f_lineno)
    parameters = list(inspect.signature(function).parameters)
    written = [parameters[i] for i in walk.WRITES[name]]
    arrays, reads, writes = {}, [], []
    for parameter, source, now, old in zip(parameters, sources, arguments, before):
        if now is None:
            continue
        arrays[parameter] = now.copy()
        if parameter in written:
            writes.append(Array(parameter, source, now.copy()))
        if parameter in ADDED.get(name, ()) and old.any():
            reads.append(Array(f"{parameter} before", source, old))
        elif parameter not in written:
            arrays[parameter] = old  # gelu_forward writes over its x
            reads.append(Array(parameter, source, old))
    writes += _shown_too(name, arrays)
    return Call(text, reads, writes, arrays, function, function, name)


def _shown_too(function: str, a: dict[str, np.ndarray]) -> list[Array]:
    """Arrays that a function makes on the way and does not keep."""
    if function == "cross_entropy_forward":
        softmax = np.exp(a["logits"] - a["lse"][:, None])
        softmax[a["labels"] == reference.IGNORE] = 0
        return [Array("softmax", "of graded rows, not kept", softmax)]
    if function not in ("attention_forward", "attention_backward"):
        return []
    found = []
    for seq, h, q, k, v in reference._heads_of(a["qkv"], a["cu_seqlens"], a["lse"].shape[1]):
        T, D = a["qkv"][seq, q].shape
        score = a["qkv"][seq, q] @ a["qkv"][seq, k].T / np.sqrt(D)
        P = np.where(np.tri(T, dtype=bool), np.exp(score - a["lse"][seq, h, None]), 0)
        found.append(Array("P", f"of head {h}, not kept", P))
        if function == "attention_backward":
            dP = a["dy"][seq, q] @ a["qkv"][seq, v].T
            dscore = P * (dP - (a["y"][seq, q] * a["dy"][seq, q]).sum(axis=1, keepdims=True))
            found.append(Array("dscore", f"of head {h}, not kept", dscore))
    return found


# ------------------------------------------------------------------------------------- the sums


def _sum(node: Node, start: Node) -> Node:
    """The node where a branch is added to the stream. `start` is the layer norm where the branch
    begins, and `node` the product that adds it."""
    forward, backward = node.forward, node.backward
    x, y, dy = forward.arrays["residual"], forward.arrays["y"], backward.arrays["dy"]
    names = {a.name: a.source for a in forward.reads + forward.writes}
    return Node(
        f"{SUMS[node.part]}.{node.block}",
        Call(
            forward.text,
            [
                Array("residual", names["residual"], x),
                Array("the branch", f"of {node.part}, not kept", y - x),
            ],
            [Array("y", names["y"], y)],
            {},
            model.rest_forward,
            model.rest_forward,
            forward.kernel,
        ),
        Call(
            "",
            [Array("dy", "dx", dy)],
            [
                Array("at the branch", f"dy of {node.part}", dy),
                Array("bypass", "stays in dx", dy),
                Array("dx", f"bypass + share of {start.part}", start.backward.arrays["dx"]),
            ],
            {},
            model.block_backward,
            model.rest_backward,
            start.backward.kernel,
        ),
    )
