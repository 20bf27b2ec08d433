"""The contract of objectives: three that no stage has yet, each with another part of it.

A regression reads a column and the value of rows without a label. A pairwise loss reads two
sequences of a group at once. A sum of two losses has two terms with totals of their own."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from texts import one_line

from pysft.batch import BASE, CONVERSATION, Batch, Example
from pysft.errors import DataError, Diverged
from pysft.nn import gradcheck, kernels
from pysft.nn.gradcases import check_objective
from pysft.nn.lora import LoRA
from pysft.nn.model import GPT
from pysft.nn.optim import AdamW
from pysft.nn.shapes import GPTConfig
from pysft.training.loop import Learner, train, train_step
from pysft.training.objectives import Sft, nll_by_source

KERNELS = kernels.on_threads(2)
V = 11


@dataclass(frozen=True)
class Regression:
    """Half the mean squared distance of the wanted values from the column "target"."""

    def counts(self, batch):
        return {"wanted": int(batch.wanted.sum())}

    def __call__(self, batch, out, totals):
        off = np.where(batch.wanted, out.value - batch.columns["target"], 0.0)
        total, squares = totals["wanted"], float(off @ off)
        figures = {"squared error": (squares, int(batch.wanted.sum()))}
        return squares / 2 / total, None, (off / total).astype(out.value.dtype), figures


@dataclass(frozen=True)
class Pairs:
    """Mean of -log sigmoid(d / scale) over pairs. d is the value at the end of a pair's first
    sequence minus that at the end of its second. A sequence without a pair counts nothing."""

    scale: float = 1.0

    def counts(self, batch):
        return {"pairs": len(pairs_of(batch))}

    def __call__(self, batch, out, totals):
        first = pairs_of(batch)
        ends = batch.cu_seqlens[1:] - 1
        better, worse = ends[first], ends[first + 1]
        d = (out.value[better] - out.value[worse]).astype(np.float64) / self.scale
        dvalue = np.zeros_like(out.value)
        slope = -1 / (1 + np.exp(d)) / self.scale / totals["pairs"]
        dvalue[better], dvalue[worse] = slope, -slope
        figures = {"accuracy": (int((d > 0).sum()), len(d))}
        return float(np.logaddexp(0, -d).sum()) / totals["pairs"], None, dvalue, figures


def pairs_of(batch):
    """The number of the first sequence of each pair."""
    return np.flatnonzero(batch.group[1:] == batch.group[:-1])


@dataclass(frozen=True)
class Both:
    """Sft and Pairs in one step, each divided by its own total. Micro-batches may lack either."""

    def counts(self, batch):
        return Sft().counts(batch) | Pairs().counts(batch)

    def __call__(self, batch, out, totals):
        loss, dnll, dvalue, figures = 0.0, None, None, {}
        if batch.graded.any():
            loss, dnll, _, figures = Sft()(batch, out, totals)
        if len(pairs_of(batch)):
            more, _, dvalue, others = Pairs()(batch, out, totals)
            loss, figures = loss + more, figures | others
        return loss, dnll, dvalue, figures


def normal(rng, n):
    return rng.standard_normal(n)


# name: (objective, the model's outputs, more arguments of check_objective)
OBJECTIVES = {
    "Sft": (Sft(), "nll", dict()),
    "Sft, with values": (Sft(), "nll+value", dict()),
    "Regression": (Regression(), "value", dict(wanted=0.5, columns={"target": normal})),
    "Pairs": (Pairs(0.7), "value", dict(wanted=1.0, groups=[0, 0, 1, 1])),
    "Both": (Both(), "nll+value", dict(wanted=1.0, groups=[0, 0, 1, 2])),
}
EVERY = pytest.mark.parametrize("name", OBJECTIVES)


def batch_of(name, seed=0) -> Batch:
    """Eight sequences that the objective can learn from: four pairs for Pairs, and for Both two
    pairs without labels and four sequences with labels."""
    g, examples = np.random.default_rng(seed), []
    for i in range(8):
        n = int(g.integers(2, 9))
        tokens, labels = g.integers(0, V, (2, n)).astype(np.int32)
        wanted, group, columns = None, None, {}
        if name == "Regression":
            labels[:] = -100
            wanted = np.arange(n) >= n // 2
            columns = {"target": g.standard_normal(n)}
        elif name == "Pairs" or name == "Both" and i < 4:
            labels[:] = -100
            wanted, group = np.arange(n) == n - 1, i // 2
        elif name == "Both":
            labels[0] = -100
            wanted = labels != -100
        examples.append(Example(tokens, labels, f"line {i}", BASE, wanted, group, columns))
    return Batch.of(examples, V, 12)


def model_of(name, dtype=np.float64, seed=0):
    config = GPTConfig(V, 12, 2, 2, 16, outputs=OBJECTIVES[name][1])
    return GPT(config, KERNELS, np.random.default_rng(seed), dtype)


# --------------------------------------------------------------------------------- derivatives


@EVERY
@pytest.mark.parametrize("pieces", [1, 3])
def test_the_derivatives_through_the_whole_model_are_finite_differences(name, pieces):
    objective, outputs, batch = OBJECTIVES[name]
    channels = 6 if name == "Both" else 4  # the sums of two losses need the larger derivatives
    case = dict(objective=objective, outputs=outputs, lengths=[3, 2, 4, 1], pieces=pieces)
    case |= batch | {"C": channels}
    rows = gradcheck.run(KERNELS, cases={name: (check_objective, case)})
    assert rows and all(row.passed for row in rows), [row for row in rows if not row.passed]


@dataclass(frozen=True)
class Halved(Pairs):
    def __call__(self, batch, out, totals):
        loss, dnll, dvalue, figures = super().__call__(batch, out, totals)
        return loss, dnll, dvalue / 2, figures


@dataclass(frozen=True)
class DividedByItsOwnCount(Pairs):
    def __call__(self, batch, out, totals):
        _, _, dvalue, _ = super().__call__(batch, out, self.counts(batch))
        loss, _, _, figures = super().__call__(batch, out, totals)
        return loss, None, dvalue, figures


@pytest.mark.parametrize("wrong", [Halved(), DividedByItsOwnCount()])
def test_a_wrong_derivative_of_an_objective_is_caught(wrong):
    case = dict(objective=wrong, outputs="value", lengths=[2, 1, 1, 2], pieces=2, C=4)
    case |= dict(wanted=1.0, groups=[0, 0, 1, 1])
    rows = gradcheck.run(KERNELS, cases={"wrong": (check_objective, case)})
    assert not all(row.passed for row in rows)


# ------------------------------------------------------------------------------------- a step


@EVERY
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])
def test_a_step_lowers_the_loss(name, dtype):
    model, batch, losses = model_of(name, dtype), batch_of(name), []
    adam = AdamW(model)
    for _ in range(30):
        losses.append(train_step(model, adam, [batch], OBJECTIVES[name][0], 3e-3).loss)
    assert losses[1] < losses[0] and losses[-1] < 0.7 * losses[0]


@EVERY
@pytest.mark.parametrize("pieces", [2, 3, 8])
def test_a_step_is_the_same_however_it_is_split(name, pieces):
    objective, batch = OBJECTIVES[name][0], batch_of(name)
    whole, split = model_of(name), model_of(name)
    one = train_step(whole, AdamW(whole), [batch], objective, 0.0)
    parts = batch.split(pieces)
    assert len(parts) == min(pieces, len(set(batch.group))) > 1
    many = train_step(split, AdamW(split), parts, objective, 0.0)
    scale = np.abs(whole.grads.flat).max()
    assert np.abs(split.grads.flat - whole.grads.flat).max() <= 1e-13 * scale
    assert many.loss == pytest.approx(one.loss, rel=1e-13)
    assert many.figures == pytest.approx(one.figures, rel=1e-13)
    assert (many.graded, many.tokens) == (one.graded, one.tokens)


def test_each_term_is_divided_by_its_own_total():
    batch, model = batch_of("Both"), model_of("Both")
    out, objective = model.forward(batch), Both()
    graded, pairs = int(batch.graded.sum()), 2
    assert objective.counts(batch) == {"graded": graded, "pairs": pairs}
    report = train_step(model, AdamW(model), batch.split(3), objective, 0.0)
    ends = out.value[batch.cu_seqlens[1:] - 1]
    lost = [np.logaddexp(0, ends[i + 1] - ends[i]) for i in (0, 2)]
    assert report.loss == pytest.approx(out.nll.sum() / graded + np.mean(lost), rel=1e-12)
    assert report.graded == graded
    assert report.figures["base"] == pytest.approx(out.nll.sum() / graded, rel=1e-12)
    assert report.figures["accuracy"] == np.mean([ends[0] > ends[1], ends[2] > ends[3]])


def test_a_lora_with_a_value_head_learns_from_pairs():
    model, batch = model_of("Pairs", np.float32), batch_of("Pairs")
    lora = LoRA(model, 2, old_vocab=V, rng=np.random.default_rng(1))
    adam = AdamW(lora)
    losses = [train_step(lora, adam, [batch], Pairs(), 1e-2).loss for _ in range(40)]
    assert losses[0] == pytest.approx(math.log(2), rel=0.1) and losses[-1] < 0.5 * losses[0]


# ------------------------------------------------------------------------------------ figures


@dataclass(frozen=True)
class Shown(Sft):
    """Sft with one more figure: each call takes the next pair (sum, count) from `figures`."""

    figures: tuple

    def __call__(self, batch, out, totals):
        *rest, _ = super().__call__(batch, out, totals)
        return *rest, {"shown": self.figures[int(batch.group[0])]}


def shown(*figures):
    """One step whose micro-batches give these figures, one each."""
    model, batch = model_of("Sft"), batch_of("Sft")
    adam = AdamW(model)
    batches = [batch.slice(i, i + 1) for i in range(len(figures))]
    return model, adam, batches, Shown(figures)


def test_a_figure_is_averaged_over_the_whole_step_and_left_out_if_it_counted_nothing():
    assert train_step(*shown((6.0, 2), (0.0, 0), (1.0, 5)), 1e-3).figures == {"shown": 1.0}
    assert train_step(*shown((0.0, 0), (0.0, 0)), 1e-3).figures == {}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_figure_that_is_not_finite_stops_before_a_weight_moves_and_is_never_skipped(bad):
    model, adam, batches, objective = shown((1.0, 1), (bad, 1))
    before = model.params.flat.copy()
    with pytest.raises(Diverged) as error:
        train_step(model, adam, batches, objective, 1e-3)
    text = one_line(error)
    assert "step 1" in text and "'shown' of Shown" in text and "no weight was changed" in text
    assert error.value.lasting and error.value.batches == batches
    assert np.array_equal(model.params.flat, before) and adam.steps == 0
    skipped = []
    with pytest.raises(Diverged):
        learner = Learner(model, adam, lambda i: batches, objective, lambda i: 1e-3)
        list(train(learner, 3, skipped.append))
    assert not skipped


def test_the_figures_of_sft_are_the_sums_and_counts_of_each_source():
    g, examples = np.random.default_rng(0), []
    for source in (CONVERSATION, BASE, CONVERSATION):
        tokens, labels = g.integers(0, V, (2, 5)).astype(np.int32)
        labels[:2] = -100
        examples.append(Example(tokens, labels, source=source))
    batch = Batch.of(examples, V, 12, weight=[1, 0.5, 2])
    nll = np.where(batch.graded, np.arange(15.0), 0).astype(np.float32)
    conversation = sum([2, 3, 4, 12, 13, 14])
    assert nll_by_source(batch, nll) == {BASE: (7 + 8 + 9, 3), CONVERSATION: (conversation, 6)}


# ------------------------------------------------------------------------------------- batches


def rows(n, group=None, where="line 3", labels=None, **more):
    tokens = np.arange(n, dtype=np.int32)
    return Example(tokens, tokens if labels is None else labels, where, BASE, group=group, **more)


def test_the_last_token_of_a_text_can_be_a_wanted_row():
    tokens = np.array([4, 2, 9], np.int32)
    labels = np.array([-100, 9, -100], np.int32)
    wanted = np.array([False, True, True])
    batch = Batch.of([Example(tokens, labels, wanted=wanted)], V, 3)
    assert batch.wanted.tolist() == wanted.tolist() and batch.counts.tolist() == [0, 1, 0]
    out = model_of("Both").forward(batch)
    assert out.nll[2] == 0 != out.nll[1] and out.value[0] == 0 != out.value[2]
    with pytest.raises(DataError, match="3 tokens, the context holds 2"):
        Batch.of([Example(tokens, labels, wanted=wanted)], V, 2)


NONE, SOME = np.zeros(2, bool), np.array([True, False])
ALL_MASKED = np.full(2, -100, np.int32)
REFUSED = {
    "nothing wanted": (
        [rows(2, labels=ALL_MASKED, wanted=NONE)],
        "line 3: no row is wanted, so there is nothing to learn",
    ),
    "no label": ([rows(2, labels=ALL_MASKED)], "line 3: every label is -100"),
    "graded, not wanted": (
        [rows(2, wanted=SOME)],
        "line 3: position 1 is graded and not wanted, so its label would be ignored",
    ),
    "wanted of another length": (
        [rows(3, wanted=SOME)],
        "line 3: wanted is bool (2,); expected bool, one for each of its 3 rows",
    ),
    "wanted as numbers": ([rows(2, wanted=np.ones(2))], "line 3: wanted is float64 (2,)"),
    "a group in two places": (
        [rows(2, 7, "line 1"), rows(2, 8, "line 2"), rows(2, 7)],
        "line 3: group 7 has sequences before and after those of another",
    ),
    "a group around a single": (
        [rows(2, 7, "line 1"), rows(2, None, "line 2"), rows(2, 7)],
        "line 3: group 7 has sequences",
    ),
    "a column too short": (
        [rows(2, columns={"a": np.zeros(1)})],
        "line 3: column 'a' is float64 (1,); expected float32 or float64, one for each of its 2",
    ),
    "a column of integers": ([rows(2, columns={"a": np.arange(2)})], "column 'a' is int64"),
    "a column that is not finite": (
        [rows(2, columns={"a": np.array([0, np.inf])})],
        "line 3: column 'a' is inf at position 1",
    ),
    "other columns": (
        [rows(2, where="line 1", columns={"a": np.zeros(2)}), rows(2)],
        "line 3: its columns are [], those of line 1 are ['a']",
    ),
    "other names": (
        [
            rows(2, where="line 1", columns={"a": np.zeros(2)}),
            rows(2, columns={"b": np.zeros(2)}),
        ],
        "line 3: its columns are ['b'], those of line 1 are ['a']",
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_batch_refuses_what_an_objective_could_not_use(fault):
    examples, words = REFUSED[fault]
    with pytest.raises(DataError) as error:
        Batch.of(examples, V, 12)
    assert words in one_line(error)


def test_columns_keep_their_precision_and_follow_their_rows():
    single = [rows(n, columns={"a": np.full(n, n, np.float32)}) for n in (3, 1, 2)]
    batch = Batch.of(single, V, 12)
    assert batch.columns["a"].dtype == np.float32
    assert batch.slice(1, 3).columns["a"].tolist() == [1, 2, 2]
    mixed = Batch.of([rows(2, columns={"a": np.ones(2)}), single[0]], V, 12)
    assert mixed.columns["a"].dtype == np.float64


def test_groups_are_numbered_and_never_split():
    groups = [5, 5, None, 2, 2, 2, None, None]
    batch = Batch.of([rows(3, group) for group in groups], V, 12)
    assert batch.group.tolist() == [0, 0, 1, 2, 2, 2, 3, 4]
    for pieces in range(1, 10):
        parts = batch.split(pieces)
        assert len(parts) == min(pieces, 5)
        found = [set(part.group.tolist()) for part in parts]
        assert sum(map(len, found)) == 5 and set().union(*found) == set(range(5))
    assert [len(part.weight) for part in batch.split(2)] == [6, 2]
    parts = [part for half in batch.split(2) for part in half.split(9)]  # numbers from above 0 too
    assert [part.group.tolist() for part in parts] == [[0, 0], [1], [2, 2, 2], [3], [4]]
