"""A training step of a model so small that every array of it can be printed.

walk() takes a real step, forward, loss, backward and AdamW, with the project's own code. The model
computes with a Recorder in place of its functions. The Recorder takes the text of each call from
the source. So the walk shows the calls as they stand there, in the order in which they are made."""

import ast
from functools import cache
from pathlib import Path
from sys import _getframe

import numpy as np

from pysft import IGNORE
from pysft.batch import Batch, Example
from pysft.nn.model import GPT
from pysft.nn.optim import AdamW
from pysft.nn.shapes import GPTConfig
from pysft.training.objectives import Sft

CONFIG = GPTConfig(vocab=6, context=4, layers=2, heads=2, channels=4, tied=True)
TOKENS, LABELS = [3, 1, 4, 1], [IGNORE, 4, 1, 5]
RATE, DECAY = 0.1, 0.01
LARGER = 25  # times the initial weights of a real model, so that two decimals show something
WIDTH = 113  # columns: those of 16 numbers with a name before them
NAMES = 15  # columns for the name of an array

INTRODUCTION = f"""One training step of a GPT with two blocks, 4 channels, 2 heads and 6 symbols.
The batch is one sequence of 4 rows: tokens {TOKENS}, labels {LABELS}.
Each call stands as in the source. Below it is each array that it writes or adds to. a, p and d are
activations, parameters and gradients by the names of shapes.py. dx is the gradient of the residual
stream. dbranch and dwide are gradients inside of a branch. Tall matrices are transposed: .T"""

# Which arguments a function writes or adds to.
WRITES = {
    "embedding_forward": (0,),
    "layernorm_forward": (0, 1, 2),
    "matmul_forward": (0,),
    "attention_forward": (0, 1),
    "gelu_forward": (0, 2),
    "cross_entropy_forward": (0, 1),
    "cross_entropy_backward": (0,),
    "matmul_backward": (0, 1, 2),
    "gelu_backward": (0,),
    "layernorm_backward": (0, 1, 2),
    "attention_backward": (0,),
    "embedding_backward": (0, 1),
    "adamw": (),  # its vectors hold all parameters, of which walk() prints a part
}

# What a call is for, by the function and one argument: the gradient of its weights if it has one,
# or else the first.
WORDS = {
    "embedding_forward inputs[0]": "a row of wte + a row of wpe",
    'layernorm_forward a["ln1"]': "mean 0, variance 1",
    'matmul_forward a["qkv"]': "queries, keys and values of two heads",
    'attention_forward a["att"]': "means of the values up to each row",
    'matmul_forward a["mid"]': "added to the stream x",
    'layernorm_forward a["ln2"]': "mean 0, variance 1",
    'matmul_forward a["fc"]': "four times as wide",
    'gelu_forward a["gelu"]': "a gate for each number; fc becomes the slope",
    "matmul_forward out": "added to the stream mid",
    'layernorm_forward a["lnf"]': "below the head",
    "matmul_forward logits": "the head is tied: p[head] is wte",
    'cross_entropy_forward a["nll"][part]': "row 0: not graded",
    "cross_entropy_backward logits": "dnll (softmax - onehot)",
    "matmul_backward d[head]": "dlnf: at lnf; the head's share of wte",
    'layernorm_backward d["lnf.w"]': "dx was 0: nothing bypasses this layer norm",
    'matmul_backward d["fcproj.w"]': "dwide: at gelu",
    "gelu_backward dwide": "times the slope; dwide: at fc",
    'matmul_backward d["fc.w"]': "dbranch: at ln2",
    'layernorm_backward d["ln2.w"]': "the MLP's share is added; dx: at mid",
    'matmul_backward d["attproj.w"]': "dbranch: at att",
    "attention_backward dqkv": "at qkv",
    'matmul_backward d["qkv.w"]': "dbranch: at ln1",
    'layernorm_backward d["ln1.w"]': "attention's share is added; dx: at x",
    'embedding_backward d["wte"]': "added to the head's share of wte",
    "adamw w": "all matrices, then all vectors",
}


class Recorder:
    """Functions to compute with (computing.py), which write down each call of theirs into `lines`.

    There is no `calls`, so a model makes each call by itself. params: the model's parameters, by
    which a block is known."""

    def __init__(self, ops, lines: list[str]):
        self._ops, self._place = ops, None
        self.lines, self.params = lines, {}

    def __getattr__(self, name: str):
        if name not in WRITES:
            raise AttributeError(name)

        def call(*arguments):
            getattr(self._ops, name)(*arguments)
            frame = _getframe(1)
            self._note(name, arguments, frame.f_back if frame.f_code.co_name == "_run" else frame)

        return call

    def _note(self, function: str, arguments: tuple, frame) -> None:
        """Write down a call that is made in a frame."""
        place = self._place_of(frame)
        if place != self._place:
            self._place = place
            self.lines.append(f"---- {place}")
        text, names = source_of(function, frame.f_code.co_filename, frame.f_lineno)
        words = f"# {WORDS[f'{function} {key_of(names)}']}"
        written = [i for i in WRITES[function] if i < len(arguments) and arguments[i] is not None]
        arrays = [cell(names[i], arguments[i]) for i in written]
        if len(text) + 2 + len(words) <= WIDTH:
            text = f"{text}  {words}"
        else:
            arrays.append([words])
        self.lines += [text, *side_by_side(arrays)]

    def _place_of(self, frame) -> str:
        """The file and the function of a frame, and the number of the block that it works on."""
        place = f"{Path(frame.f_code.co_filename).name}, {frame.f_code.co_name}"
        p = frame.f_locals.get("p", ())
        if "ln1.w" in p:  # a block's own parameters, by their names in the block
            name = next(name for name, w in self.params.items() if w is p["ln1.w"])
            place += f", block {name.removeprefix('h').removesuffix('.ln1.w')}"
        return place


@cache
def calls_in(path: str) -> tuple[str, list[ast.Call]]:
    """Return the text of a source file and every call in it."""
    source = Path(path).read_text(encoding="utf-8")
    return source, [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]


def source_of(function: str, path: str, line: int) -> tuple[str, list[str]]:
    """Return the text of the call of a function in a line of a file, and that of each argument.

    It is either OPS.function(...) or run("function", ...), as in heads.py. The name in the second
    form is not an argument."""
    source, calls = calls_in(path)
    for node in calls:
        is_named = bool(node.args) and getattr(node.args[0], "value", None) == function
        is_called = getattr(node.func, "attr", None) == function
        if node.lineno <= line <= node.end_lineno and (is_named or is_called):
            text = " ".join(ast.get_source_segment(source, node).split())
            names = [ast.get_source_segment(source, a) for a in node.args[is_named:]]
            return text.replace("( ", "(").replace(" )", ")"), names
    raise LookupError(f"{path}, line {line}: no call of {function}")


def key_of(names: list[str]) -> str:
    """Return the argument by which WORDS knows a call."""
    return next((name for name in names if name.startswith("d[")), names[0])


def cell(name: str, array: np.ndarray) -> list[str]:
    """Return the lines that show an array with its name and shape. A matrix of more rows than the
    batch has is shown transposed."""
    shape = str(array.shape).replace(" ", "")
    if array.ndim == 1:
        return [f"  {f'{name} {shape}':<{NAMES}}{numbers(array)}"]
    if len(array) > len(TOKENS):
        name, array = f"{name}.T", array.T
    labels = [name, shape] + [""] * len(array)
    return [f"  {label:<{NAMES}}{numbers(row)}" for label, row in zip(labels, array)]


def numbers(row) -> str:
    """Return a row of numbers with two decimals, none of them -0.00."""
    return "".join(f"{x:6.2f}" for x in np.round(row, 2) + 0.0)


def side_by_side(cells: list[list[str]]) -> list[str]:
    """Return the lines of the first cell with the other cells to the right of it, or below it if
    they are too wide."""
    first = cells[0] if cells else []
    right = [line for lines in cells[1:] for line in lines]
    margin = max(map(len, first), default=0) + 3
    if right and margin + max(map(len, right)) > WIDTH:
        return first + right
    height = max(len(first), len(right))
    first, right = (lines + [""] * (height - len(lines)) for lines in (first, right))
    return [f"{a:<{margin}}{b}".rstrip() for a, b in zip(first, right)]


def small_model(ops) -> GPT:
    """Return the model of the walk: that of CONFIG, in float64."""
    model = GPT(CONFIG, ops, np.random.default_rng(1), np.float64)
    for _, w in model.params.items():
        if w.ndim == 2:
            w *= LARGER
    return model


def small_batch() -> Batch:
    """Return the batch of the walk. All of its rows are wanted, so no row is left out at the
    top."""
    index = np.array(TOKENS, np.int32), np.array(LABELS, np.int32)
    example = Example(*index, wanted=np.ones(len(TOKENS), bool))
    return Batch.of([example], CONFIG.vocab, CONFIG.context)


def walk(ops) -> str:
    """Return the text of one training step of a small model that computes with `ops`
    (computing.py): every call of theirs in the order of the code, with what it writes."""
    lines = INTRODUCTION.split("\n")
    recorder = Recorder(ops, lines)
    model, batch, objective = small_model(recorder), small_batch(), Sft()
    recorder.params = model.params
    adam = AdamW(model, decay=DECAY)
    totals = objective.counts(batch)

    lines += ["", "==== out = model.forward(batch)"]
    out = model.forward(batch)
    lines += ["", "==== loss, dnll, ... = objective(batch, out, totals)  # mean over 3 graded rows"]
    loss, dnll, *_ = objective(batch, out, totals)
    lines += [f"  {'loss':<{NAMES}}{numbers([loss])}", *cell("dnll", dnll)]
    lines += ["", "==== model.backward(dnll)  # from the last call of the forward to the first"]
    model.backward(dnll)
    lines += ["", f"==== adam.step({RATE})  # shown for one of the parameters"]
    before = model.params["wte"].copy()
    adam.step(RATE)
    lines += side_by_side([cell("wte", before), cell("new wte", model.params["wte"])])

    recorder.lines = []  # of the next forward the loss alone is wanted
    after, *_ = objective(batch, model.forward(batch), totals)
    lines += ["", f"The loss of this batch was {loss:.2f}. It is now {after:.2f}."]
    return "\n".join(lines) + "\n"
