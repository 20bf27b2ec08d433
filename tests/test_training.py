"""Learning: the objective, one step of training, learning rates, the loop, and steps that are not
finite."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_plans import CORPUS, TINY, VOCAB, conversations
from texts import one_line, steady

from pysft import IGNORE
from pysft.batch import BASE, CONVERSATION, Batch, Example, Output
from pysft.errors import Diverged
from pysft.nn import kernels
from pysft.nn.model import GPT
from pysft.nn.optim import AdamW
from pysft.nn.shapes import GPTConfig
from pysft.rng import rng
from pysft.text.examples import prepare_sft_example
from pysft.training.loop import Learner, schedule, train, train_step
from pysft.training.objectives import Sft
from pysft.training.stages import finetune, pretrain

SYMBOLS = 11
CONFIG = GPTConfig(SYMBOLS, context=12, layers=2, heads=2, channels=16)


def examples(lengths, seed=0, masked=0.3, source=CONVERSATION):
    """Random examples, with this share of their rows not graded, but for the last."""
    g = np.random.default_rng(seed)
    made = []
    for i, n in enumerate(lengths):
        labels = np.where(g.random(n) < masked, IGNORE, g.integers(0, SYMBOLS, n)).astype(np.int32)
        labels[-1] = 1
        tokens = g.integers(0, SYMBOLS, n).astype(np.int32)
        made.append(Example(tokens, labels, f"{source} {i}", source))
    return made


def batch_of(lengths=(5, 3, 8, 2, 6, 4, 7, 5), seed=0, weight=None):
    return Batch.of(examples(lengths, seed), SYMBOLS, CONFIG.context, weight)


def model_of(seed=1, dtype=np.float32):
    return GPT(CONFIG, rng=np.random.default_rng(seed), dtype=dtype)


def step(model, adam=None, batches=None, lr=1e-3, **options):
    """One step of training; by default of a new optimiser, on one batch."""
    return train_step(model, adam or AdamW(model), batches or [batch_of()], Sft(), lr, **options)


def steps(model, adam, count, draw=lambda step: [batch_of()], lr=1e-3, **options):
    """The reports of a training up to step `count`, at a constant rate."""
    limit = options.pop("limit", 0.0)
    return train(Learner(model, adam, draw, Sft(), lambda step: lr, limit), count, **options)


def follow(plan, model, adam, count, limit):
    """Train a model along a plan."""
    for _ in train(Learner(model, adam, plan.draw, plan.objective, plan.rate, limit), count):
        pass


def state(adam):
    """Copies of the weights and both moments."""
    return [arena.flat.copy() for arena in (adam.model.params, adam.m, adam.v)]


def same(a, b) -> bool:
    return all(np.array_equal(x, y, equal_nan=True) for x, y in zip(a, b))


# ---------------------------------------------------------------------------------- the objective


@steady
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 99))
def test_the_loss_is_the_weighted_mean_over_graded_tokens(lengths, seed):
    weight = np.random.default_rng(seed).random(len(lengths)) + 0.5
    batch = batch_of(lengths, seed, weight)
    nll = np.random.default_rng(seed).random(len(batch.tokens))
    rows = batch.per_row(weight) * (batch.labels != IGNORE)
    totals = Sft().counts(batch)
    loss, dnll, dvalue, _ = Sft()(batch, Output(nll), totals)
    assert totals["graded"] == pytest.approx(rows.sum(), rel=1e-12)
    assert loss == pytest.approx((rows * nll).sum() / rows.sum(), rel=1e-12)
    assert np.allclose(dnll, rows / rows.sum(), rtol=1e-12, atol=0)
    assert (dnll[batch.labels == IGNORE] == 0).all()
    assert dvalue is None


def test_rows_that_are_not_graded_do_not_move_the_loss():
    batch = batch_of()
    nll = np.ones(len(batch.tokens), np.float32)
    nll[batch.labels == IGNORE] = 7
    loss, dnll, *_ = Sft()(batch, Output(nll), Sft().counts(batch))
    assert loss == pytest.approx(1, rel=1e-6)
    assert dnll.dtype == np.float32


# --------------------------------------------------------------------------------------- one step


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 1e-6)])
@pytest.mark.parametrize("pieces", [1, 2, 4, 8])
def test_a_step_is_the_same_however_it_is_split_into_micro_batches(dtype, tolerance, pieces):
    batch = batch_of(weight=[1, 0.5, 1, 2, 1, 1, 0.25, 1])
    whole, split = model_of(dtype=dtype), model_of(dtype=dtype)
    # eps is of the gradients' own size. With none, Adam would turn their last bit into a whole
    # step.
    adams = [AdamW(model, decay=0.1, eps=1e-2) for model in (whole, split)]
    one = step(whole, adams[0], [batch], lr=1e-2)
    size = 8 // pieces
    many = step(split, adams[1], [batch.slice(i, i + size) for i in range(0, 8, size)], lr=1e-2)
    for mine, other in ((split.grads, whole.grads), (split.params, whole.params)):
        scale = np.abs(other.flat).max()
        assert np.abs(mine.flat - other.flat).max() <= tolerance * scale
    assert many.loss == pytest.approx(one.loss, rel=tolerance)
    assert many.figures == pytest.approx(one.figures, rel=tolerance)
    assert (many.graded, many.tokens) == (one.graded, one.tokens)


def test_a_step_begins_with_cleared_gradients():
    clean, dirty = model_of(), model_of()
    dirty.grads.flat[:] = 7
    step(clean)
    step(dirty)
    assert np.array_equal(clean.grads.flat, dirty.grads.flat)
    assert np.array_equal(clean.params.flat, dirty.params.flat)


def test_a_step_reports_the_loss_of_each_source_without_its_weight():
    made = examples((5, 4)) + examples((6, 3), seed=3, masked=0, source=BASE)
    weight = [1, 1, 0.25, 0.25]
    batch, model = Batch.of(made, SYMBOLS, CONFIG.context, weight), model_of()
    nll = model.forward(batch)[0].copy()
    graded, base = batch.labels != IGNORE, batch.per_row(batch.source) == BASE
    report = step(model, batches=[batch])
    expected = {
        CONVERSATION: nll[graded & ~base].mean(dtype=np.float64),
        BASE: nll[graded & base].mean(dtype=np.float64),
    }
    assert report.figures == pytest.approx(expected, rel=1e-6)
    rows = batch.per_row(np.array(weight)) * graded
    assert report.loss == pytest.approx((rows * nll).sum() / rows.sum(), rel=1e-6)
    assert (report.graded, report.tokens) == (graded.sum(), len(nll))


def test_a_training_example_of_the_default_vocabulary_trains():
    ids, labels = (np.array(a, np.int32) for a in prepare_sft_example("Hi", "Yes"))
    model = GPT(GPTConfig(68, 16, 1, 2, 16), rng=np.random.default_rng(0))
    report = step(model, batches=[Batch.of([Example(ids, labels)], 68, 16)])
    assert report.graded == 4
    assert report.loss == pytest.approx(math.log(68), rel=0.1)


# --------------------------------------------------------------------------------- learning rates


def test_a_constant_schedule_is_constant():
    assert {schedule(i, 10, 0.5) for i in (0, 1, 9, 500)} == {0.5}


@pytest.mark.parametrize("kind", ["constant", "cosine", "linear"])
def test_the_warm_up_rises_in_equal_steps_to_the_full_rate(kind):
    assert [schedule(i, 10, 1.0, 4, kind) for i in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_a_falling_schedule_ends_one_step_above_its_floor(kind):
    rates = [schedule(i, 100, 2.0, 0, kind) for i in range(100)]
    assert rates[0] == 2.0
    assert rates[50] == pytest.approx(1.0)
    assert all(a > b > 0 for a, b in zip(rates, rates[1:]))
    assert rates[-1] <= 2.0 / 99
    floored = [schedule(i, 100, 2.0, 0, kind, floor=0.1) for i in range(100)]
    assert floored[0] == 2.0
    assert 0.2 <= floored[-1] <= 0.2 + 1.8 / 99
    assert schedule(100, 100, 2.0, 0, kind, floor=0.1) == pytest.approx(0.2)


def test_a_warm_up_as_long_as_the_training_does_not_divide_by_zero():
    assert schedule(9, 10, 1.0, 10, "cosine") == 1.0
    assert schedule(3, 4, 1.0, 50, "linear") == 0.08


# ---------------------------------------------------------------------------------------- the loop


def test_a_model_learns_a_cycle_by_heart():
    cycle = np.arange(13, dtype=np.int32) % SYMBOLS
    batch = Batch.of([Example(cycle[:12], cycle[1:])], SYMBOLS, 12)
    model = model_of()
    reports = list(steps(model, AdamW(model), 60, lambda step: [batch], lr=1e-2, limit=1.0))
    assert [r.step for r in reports] == list(range(1, 61))
    assert reports[0].loss == pytest.approx(math.log(SYMBOLS), rel=0.1)
    assert reports[-1].loss < 0.05
    assert all(r.seconds > 0 and r.lr == 1e-2 and r.graded == r.tokens == 12 for r in reports)


def test_an_optimiser_that_has_taken_steps_goes_on_after_them():
    model, drawn = model_of(), []
    adam = AdamW(model)

    def draw(step):
        drawn.append(step)
        return [batch_of()]

    assert [r.step for r in steps(model, adam, 2, draw)] == [1, 2]
    assert [r.step for r in steps(model, adam, 4, draw)] == [3, 4]
    assert drawn == [0, 1, 2, 3]
    assert not list(steps(model, adam, 4, draw))


def test_pretraining_moves_every_parameter():
    model = GPT(GPTConfig(VOCAB, 12, 2, 2, 16), rng=np.random.default_rng(1))
    before = {name: w.copy() for name, w in model.params.items()}
    corpus = np.random.default_rng(0).integers(0, VOCAB, 3000).astype(np.int32)
    settings = TINY.changed({"base": {"windows": ((12, 40),), "warmup": 0}})
    adam = AdamW(model)
    follow(pretrain(settings, "base", corpus, VOCAB), model, adam, 3, limit=1.0)
    unmoved = {name: int((w == before[name]).sum()) for name, w in model.params.items()}
    # Only key biases may stand still: the softmax does not see them, so their gradient is zero but
    # for rounding.
    for i in range(2):
        assert unmoved.pop(f"h{i}.qkv.b") <= 16
    assert not any(unmoved.values()), unmoved
    assert adam.steps == 3


def test_the_same_seed_gives_the_same_weights_bit_for_bit():
    def weights(seed):
        settings = TINY.changed({"seed": seed, "base": {"warmup": 0}})
        stage = settings.stages["base"]
        model = GPT(GPTConfig(VOCAB, 12, 1, 2, 16), rng=rng(seed, "base", "init"))
        adam = AdamW(model, **stage.adam())
        follow(pretrain(settings, "base", CORPUS, VOCAB), model, adam, 5, stage.clip)
        return model.params.flat

    assert np.array_equal(weights(1), weights(1))
    assert not np.array_equal(weights(1), weights(2))


def test_the_number_of_threads_changes_no_bit_in_either_stage():
    settings = TINY.changed(
        {
            "model": {"context": 64},
            "base": {"windows": ((64, 12),), "warmup": 0},
            "sft": {"windows": ((64, 8),), "warmup": 0, "tokens": 240},
        }
    )
    corpus = np.random.default_rng(0).integers(0, VOCAB, 3000).astype(np.int32)
    talks, pairs = conversations(7, size=60), conversations(4, size=50)
    config, weights = GPTConfig(VOCAB, 64, 1, 2, 32), set()
    for threads in (1, 2, 3):
        model = GPT(config, kernels.on_threads(threads), rng(1, "base", "init"))
        tuning = finetune(settings, "sft", talks, pairs, corpus, VOCAB)
        for plan in (pretrain(settings, "base", corpus, VOCAB), tuning):
            follow(plan, model, AdamW(model), 5, settings.stages["base"].clip)
        weights.add(model.params.flat.tobytes())
    assert len(weights) == 1


# ------------------------------------------------------------------------ steps that are not finite


@pytest.fixture
def poisoned(monkeypatch):
    """A function: the model's gradient is not finite in these steps, counted from 0."""

    def poison(model, steps, value=np.inf):
        backward, count = model.backward, itertools.count()

        def overflow(*arguments):
            backward(*arguments)
            if next(count) in steps:
                model.grads["h0.ln2.b"][1] = value

        monkeypatch.setattr(model, "backward", overflow)

    return poison


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_a_bad_weight_stops_the_training_before_a_weight_or_moment_moves(value):
    model = model_of()
    adam = AdamW(model, decay=0.1)
    step(model, adam)
    model.params["h1.fc.w"][3, 2] = value
    if value == 1e30:  # finite, but its product with this one is not
        model.params["h1.fcproj.w"][:] = 1e30
    before = state(adam)
    with pytest.raises(Diverged, match="no weight was changed") as error:
        step(model, adam, limit=1.0)
    assert error.value.exit_code == 3
    assert one_line(error)
    assert same(state(adam), before)
    assert adam.steps == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("limit", [0, 1.0])
def test_a_bad_gradient_stops_the_training_before_a_weight_or_moment_moves(poisoned, value, limit):
    model = model_of()
    adam = AdamW(model)
    poisoned(model, {0}, value)
    before = state(adam)
    with pytest.raises(Diverged, match="gradient"):
        step(model, adam, limit=limit)
    assert same(state(adam), before)
    assert adam.steps == 0


def test_a_divergence_names_the_step_that_failed():
    model = model_of()
    reports = steps(model, AdamW(model), 9)
    assert [next(reports).step, next(reports).step] == [1, 2]
    model.params["wte"][:] = np.nan
    with pytest.raises(Diverged, match="step 3:"):
        next(reports)


def test_a_divergence_names_the_gradient_and_holds_the_batch(poisoned):
    model, batch = model_of(), batch_of()
    poisoned(model, {0})
    expected = "step 1: .*norm is inf, .* the gradient of 'h0.ln2.b'"
    with pytest.raises(Diverged, match=expected) as error:
        step(model, batches=[batch])
    assert error.value.batches == [batch]
    assert not error.value.lasting


def test_a_divergence_by_a_bad_weight_names_it_and_is_lasting():
    model = model_of()
    model.params["lnf.w"][0] = np.nan
    with pytest.raises(Diverged, match="the loss is nan, weight 'lnf.w' is not finite") as error:
        step(model)
    assert error.value.lasting


def test_a_skipped_step_changes_nothing_and_the_training_goes_on(poisoned, monkeypatch):
    model, errors, unchanged = model_of(), [], []
    adam = AdamW(model)
    poisoned(model, {1})

    def draw(step):
        return [batch_of(seed=step)]

    reports = steps(model, adam, 4, draw, skip=errors.append)
    assert next(reports).step == 1
    before, backward = state(adam), model.backward

    def checking(*arguments):
        if adam.steps == 2:  # in step 3, after the skipped one
            unchanged.append(same(state(adam), before))
        backward(*arguments)

    monkeypatch.setattr(model, "backward", checking)
    assert [(r.step, r.skipped) for r in reports] == [(2, True), (3, False), (4, False)]
    assert unchanged == [True]
    [error] = errors
    assert "step 2:" in str(error)


def test_ten_steps_in_a_row_may_be_skipped_and_one_more_stops_the_training(poisoned):
    for bad in (range(10), [*range(10), *range(11, 21)]):  # a good step begins the count anew
        model, errors = model_of(), []
        poisoned(model, bad)
        reports = list(steps(model, AdamW(model), 22, skip=errors.append))
        assert [r.step - 1 for r in reports if r.skipped] == [*bad] and len(errors) == len(bad)
    model, errors = model_of(), []
    poisoned(model, range(100))
    with pytest.raises(Diverged, match="step 11:"):
        list(steps(model, AdamW(model), 99, skip=errors.append))
    assert len(errors) == 10


def test_a_step_is_not_skipped_if_a_weight_is_not_finite():
    model, errors = model_of(), []
    model.params["wte"][:] = np.nan
    with pytest.raises(Diverged, match="step 1:"):
        list(steps(model, AdamW(model), 9, skip=errors.append))
    assert not errors
