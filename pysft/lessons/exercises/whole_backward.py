"""The backward of a whole model of one block, whose head is tied: 26 gradients, each by its name.

The answer takes the steps of block_backward (nn/model.py) and of nll_backward (nn/heads.py). It
keeps each gradient in an array of its own, where the model overwrites dx, dbranch and dwide."""

import numpy as np

from pysft.lessons.problem import Problem
from pysft.nn import reference
from pysft.nn.shapes import GPTConfig, parameter_shapes

SIZES = ({"lengths": (4, 1), "H": 2, "C": 6, "V": 7, "T": 8},)

# The names of the gradients, in the order in which a backward reaches them. Those with a dot, wte
# and wpe are parameters; the others are arrays of the forward.
NAMES = (
    *("logits", "lnf", "out", "lnf.w", "lnf.b"),
    *("fcproj.w", "fcproj.b", "fc", "fc.w", "fc.b", "ln2", "mid", "ln2.w", "ln2.b"),
    *("attproj.w", "attproj.b", "att", "qkv", "qkv.w", "qkv.b", "ln1", "x", "ln1.w", "ln1.b"),
    *("wte", "wpe"),
)
# Those that a learner's check compares with finite differences too: the stream and both tables.
# All 26 would take it ten seconds; tests/test_whole_backward.py does it.
MEASURED = ("out", "mid", "x", "wte", "wpe")


def arguments(rng, sizes) -> dict:
    """The forward's arrays a, the parameters p, and the rest. "_NAME" is zeros, which loss() adds
    to the array of that name."""
    cu_seqlens = np.cumsum([0, *sizes["lengths"]]).astype(np.int32)
    N, V = int(cu_seqlens[-1]), sizes["V"]
    config = GPTConfig(V, sizes["T"], 1, sizes["H"], sizes["C"], tied=True)
    shapes = {n.removeprefix("h0."): shape for n, shape in parameter_shapes(config).items()}
    p = {n: 0.5 * rng.standard_normal(shape) for n, shape in shapes.items()}
    p["wpe"] *= 4  # no row of x is so flat that finite differences are not exact
    for name in ("ln1.w", "ln2.w", "lnf.w"):
        p[name] += 1
    tokens = rng.integers(0, V, N).astype(np.int32)
    tokens[1] = tokens[-1] = tokens[0]
    labels = rng.integers(0, V, N).astype(np.int32)
    labels[2] = reference.IGNORE
    index = {"tokens": tokens, "labels": labels, "cu_seqlens": cu_seqlens}
    a = forward(p, **index, H=sizes["H"])
    dnll = rng.standard_normal(N)
    moved = {f"_{name}": np.zeros_like((p | a)[name]) for name in NAMES}
    return {"a": a, "p": p, "dnll": dnll} | index | moved


def forward(p: dict, tokens, labels, cu_seqlens, H: int, moved: dict | None = None) -> dict:
    """Return the arrays of the forward by name, and nll. moved: what is added to the parameter or
    to the array of a name."""
    moved = moved or {}
    p = {name: w + moved.get(name, 0) for name, w in p.items()}
    N, C = len(tokens), p["wte"].shape[1]
    a = {}

    def write(kernel, shapes: dict, *given) -> None:
        for name, shape in shapes.items():
            a[name] = np.empty(shape)
        getattr(reference, kernel)(*(a[name] for name in shapes), *given)
        for name in shapes:
            a[name] += moved.get(name, 0)

    def norm(y, x, layer, at) -> None:
        shapes = {y: (N, C), f"mean{at}": (N,), f"rstd{at}": (N,)}
        write("layernorm_forward", shapes, a[x], p[f"{layer}.w"], p[f"{layer}.b"])

    def linear(y, x, layer, residual=None) -> None:
        w, b = p[f"{layer}.w"], p[f"{layer}.b"]
        write("matmul_forward", {y: (N, len(w))}, a[x], w, b, residual)

    write("embedding_forward", {"x": (N, C)}, tokens, cu_seqlens, p["wte"], p["wpe"])
    norm("ln1", "x", "ln1", "1")
    linear("qkv", "ln1", "qkv")
    write("attention_forward", {"att": (N, C), "lse": (N, H)}, a["qkv"], cu_seqlens)
    linear("mid", "att", "attproj", a["x"])
    norm("ln2", "mid", "ln2", "2")
    linear("fc", "ln2", "fc")
    write("gelu_forward", {"gelu": (N, 4 * C)}, a["fc"])
    linear("out", "gelu", "fcproj", a["mid"])
    norm("lnf", "out", "lnf", "f")
    write("matmul_forward", {"logits": (N, len(p["wte"]))}, a["lnf"], p["wte"])
    write("cross_entropy_forward", {"nll": (N,), "logits_lse": (N,)}, a["logits"], labels)
    return a


def loss(arguments: dict) -> float:
    """sum(dnll * nll), by a forward to whose arrays those named "_NAME" are added."""
    index = {name: arguments[name] for name in ("tokens", "labels", "cu_seqlens")}
    moved = {name: arguments[f"_{name}"] for name in NAMES}
    H = arguments["a"]["lse"].shape[1]
    a = forward(arguments["p"], **index, H=H, moved=moved)
    return float((arguments["dnll"] * a["nll"]).sum())


class Backward:
    """The steps of a backward, each with its mistakes. d: the gradients by name."""

    def __init__(self, a: dict, p: dict, wrong: frozenset):
        self.a, self.p, self.wrong = a, p, wrong
        self.d = {name: np.zeros_like(w) for name, w in p.items()}

    def linear(self, dy, x: str, layer: str):
        """Return the gradient at the layer's input, the array x."""
        dx, dw = np.empty_like(self.a[x]), self.d[f"{layer}.w"]
        db = None if "biases-forgotten" in self.wrong else self.d[f"{layer}.b"]
        read = "fc" if x == "gelu" and "fc-for-gelu-in-fcproj" in self.wrong else x
        reference.matmul_backward(dx, dw, db, dy, self.a[read], self.p[f"{layer}.w"])
        return dx

    def norm(self, dy, x: str, layer: str, at: str):
        """Return the gradient at the layer's input, the array x."""
        a, d, share = self.a, self.d, np.zeros_like(dy)
        dw, db, w = d[f"{layer}.w"], d[f"{layer}.b"], self.p[f"{layer}.w"]
        reference.layernorm_backward(share, dw, db, dy, a[x], w, a[f"mean{at}"], a[f"rstd{at}"])
        return dy if "layer-norms-skipped" in self.wrong and at != "f" else share

    def mlp(self, dy):
        """Return the branch's share of the gradient at mid, from the gradient at its output."""
        self.d["fc"] = np.empty_like(self.a["fc"])
        reference.gelu_backward(self.d["fc"], self.linear(dy, "gelu", "fcproj"), self.a["fc"])
        self.d["ln2"] = self.linear(self.d["fc"], "ln2", "fc")
        return self.norm(self.d["ln2"], "mid", "ln2", "2")

    def attention(self, dy, cu_seqlens):
        """Return the branch's share of the gradient at x, from the gradient at its output."""
        a, self.d["qkv"] = self.a, np.empty_like(self.a["qkv"])
        self.d["att"] = self.linear(dy, "att", "attproj")
        reference.attention_backward(
            self.d["qkv"], self.d["att"], a["qkv"], a["att"], a["lse"], cu_seqlens
        )
        self.d["ln1"] = self.linear(self.d["qkv"], "ln1", "qkv")
        return self.norm(self.d["ln1"], "x", "ln1", "1")

    def joined(self, dy, share, branch: str):
        """Return the gradient where a branch leaves the stream: what bypasses it, and its share."""
        bypasses = 2 * dy if "bypass-counted-twice" in self.wrong else dy
        if f"{branch}-bypass-forgotten" in self.wrong:
            bypasses = 0 * dy
        return bypasses + (0 if f"{branch}-share-left-out" in self.wrong else share)


def answer(arguments: dict, wrong: frozenset) -> dict:
    """whole_backward, with these mistakes."""
    a, p, dnll, tokens, labels, cu_seqlens = list(arguments.values())[:6]
    back = Backward(a, p, wrong)
    d = back.d
    if "mean-over-rows" in wrong:
        dnll = np.full(len(dnll), 1 / (labels != reference.IGNORE).sum())
    d["logits"], d["lnf"] = np.empty_like(a["logits"]), np.empty_like(a["lnf"])
    reference.cross_entropy_backward(d["logits"], dnll, a["logits"], a["logits_lse"], labels)
    dhead = None if "head-share-forgotten" in wrong else d["wte"]
    reference.matmul_backward(d["lnf"], dhead, None, d["logits"], a["lnf"], p["wte"])
    d["out"] = back.norm(d["lnf"], "out", "lnf", "f")
    if "branches-swapped" in wrong:
        d["mid"] = back.joined(d["out"], back.attention(d["out"], cu_seqlens), "attention")
        d["x"] = back.joined(d["mid"], back.mlp(d["mid"]), "mlp")
    else:
        d["mid"] = back.joined(d["out"], back.mlp(d["out"]), "mlp")
        entering = d["out"] if "attention-branch-from-out" in wrong else d["mid"]
        bypassing = d["out"] if "attention-bypass-from-out" in wrong else d["mid"]
        d["x"] = back.joined(bypassing, back.attention(entering, cu_seqlens), "attention")
    if "repeated-tokens-lost" in wrong:
        d["wte"][tokens] += d["x"]
    elif "embedded-share-forgotten" not in wrong:
        np.add.at(d["wte"], tokens, d["x"])
    positions = np.arange(len(tokens)) - np.repeat(cu_seqlens[:-1], np.diff(cu_seqlens))
    if "positions-not-summed" in wrong:
        d["wpe"][positions] += d["x"]
    else:
        np.add.at(d["wpe"], positions, d["x"])
    if "stream-not-copied" in wrong:
        d["out"] = d["mid"] = d["x"]
    return {name: d[name] for name in NAMES}


WHOLE = Problem(
    function="whole_backward",
    skeleton='''def whole_backward(a, p, dnll, tokens, labels, cu_seqlens):
    """Return a dict of 26 gradients, each of the shape of the array of its name in a or p:

    logits lnf out lnf.w lnf.b
    fcproj.w fcproj.b fc fc.w fc.b ln2 mid ln2.w ln2.b
    attproj.w attproj.b att qkv qkv.w qkv.b ln1 x ln1.w ln1.b
    wte wpe
    """
''',
    arguments=arguments,
    answer=answer,
    sizes=SIZES,
    returns=NAMES,
    loss=loss,
    of={name: f"_{name}" for name in MEASURED},
    mistakes=(
        "mean-over-rows",
        "head-share-forgotten",
        "embedded-share-forgotten",
        "mlp-bypass-forgotten",
        "mlp-share-left-out",
        "attention-bypass-forgotten",
        "attention-share-left-out",
        "bypass-counted-twice",
        "attention-branch-from-out",
        "attention-bypass-from-out",
        "branches-swapped",
        "layer-norms-skipped",
        "fc-for-gelu-in-fcproj",
        "biases-forgotten",
        "repeated-tokens-lost",
        "positions-not-summed",
        "stream-not-copied",
    ),
)

PROBLEMS = (WHOLE,)
