"""Learning: the objective, the one loop, schedules, draws, settings."""

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysft import IGNORE
from pysft.errors import DataError, Diverged, MissingInput, PysftError, UsageError
from pysft.nn import ops
from pysft.nn.model import GPT, GPTConfig
from pysft.nn.optim import AdamW, clip
from pysft.rng import rng
from pysft.text.dataset import BASE, CONVERSATION, Batch, Example, prepare_sft_example
from pysft.training.loop import SKIPS, Outliers, schedule, train, train_step
from pysft.training.objectives import sft
from pysft.training.stages import PRESETS, Settings, by_tokens, finetune, pretrain, resolve, widths

steady = settings(max_examples=60, deadline=None, derandomize=True, database=None)
VOCAB = 11
CONFIG = GPTConfig(VOCAB, context=12, layers=2, heads=2, channels=16)


def examples(lengths, seed=0, masked=0.3, source=CONVERSATION):
    g = np.random.default_rng(seed)
    made = []
    for i, n in enumerate(lengths):
        labels = np.where(g.random(n) < masked, IGNORE, g.integers(0, VOCAB, n)).astype(np.int32)
        labels[-1] = 1
        made.append(
            Example(g.integers(0, VOCAB, n).astype(np.int32), labels, f"{source} {i}", source)
        )
    return made


def batch_of(lengths=(5, 3, 8, 2, 6, 4, 7, 5), seed=0, weight=None, **more):
    return Batch.of(examples(lengths, seed, **more), VOCAB, CONFIG.context, weight)


def model_of(seed=1, dtype=np.float32):
    return GPT(CONFIG, rng=np.random.default_rng(seed), dtype=dtype)


# --------------------------------------------------------------------------------- the objective


@steady
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 99))
def test_the_loss_is_the_weighted_mean_over_graded_tokens(lengths, seed):
    weight = np.random.default_rng(seed).random(len(lengths)) + 0.5
    batch = batch_of(lengths, seed, weight)
    nll = np.random.default_rng(seed).random(len(batch.tokens))
    rows = batch.per_row(weight) * (batch.labels != IGNORE)
    total = sft.count(batch)
    loss, dnll, dvalue = sft(batch, nll, None, total)
    assert total == pytest.approx(rows.sum(), rel=1e-12)
    assert loss == pytest.approx((rows * nll).sum() / rows.sum(), rel=1e-12)
    assert np.allclose(dnll, rows / rows.sum(), rtol=1e-12, atol=0) and dvalue is None
    assert (dnll[batch.labels == IGNORE] == 0).all()


def test_what_is_not_graded_cannot_move_the_loss():
    batch = batch_of()
    nll = np.ones(len(batch.tokens), np.float32)
    nll[batch.labels == IGNORE] = 7
    loss, dnll, _ = sft(batch, nll, None, sft.count(batch))
    assert loss == pytest.approx(1, rel=1e-6) and dnll.dtype == np.float32


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 1e-6)])
@pytest.mark.parametrize("pieces", [1, 2, 4, 8])
def test_micro_batches_give_the_same_update_however_they_are_split(dtype, tolerance, pieces):
    batch = batch_of(weight=[1, 0.5, 1, 2, 1, 1, 0.25, 1])
    whole, split = model_of(dtype=dtype), model_of(dtype=dtype)
    # An eps of the gradients' own size: with none, Adam would turn their last bit into a whole
    # step.
    adams = [AdamW(m, decay=0.1, eps=1e-2) for m in (whole, split)]
    one = train_step(whole, adams[0], [batch], sft, 1e-2)
    parts = [batch.slice(i, i + 8 // pieces) for i in range(0, 8, 8 // pieces)]
    many = train_step(split, adams[1], parts, sft, 1e-2)
    for mine, other in ((split.grads, whole.grads), (split.params, whole.params)):
        scale = np.abs(other.flat).max()
        assert np.abs(mine.flat - other.flat).max() <= tolerance * scale
    assert many.loss == pytest.approx(one.loss, rel=tolerance) and many.graded == one.graded
    assert many.losses == pytest.approx(one.losses, rel=tolerance) and many.tokens == one.tokens


def test_a_step_begins_with_cleared_gradients():
    clean, dirty = model_of(), model_of()
    dirty.grads.flat[:] = 7
    for model in (clean, dirty):
        train_step(model, AdamW(model), [batch_of()], sft, 1e-3)
    assert np.array_equal(clean.grads.flat, dirty.grads.flat) and np.array_equal(
        clean.params.flat, dirty.params.flat
    )


def test_losses_are_reported_for_each_source_alone():
    made = examples((5, 4)) + examples((6, 3), seed=3, masked=0, source=BASE)
    weight = [1, 1, 0.25, 0.25]
    batch = Batch.of(made, VOCAB, CONFIG.context, weight)
    model = model_of()
    nll = model.forward(batch)[0].copy()
    graded, base = batch.labels != IGNORE, batch.per_row(batch.source) == BASE
    report = train_step(model, AdamW(model), [batch], sft, 1e-3)
    assert report.losses == pytest.approx(
        {
            CONVERSATION: nll[graded & ~base].mean(dtype=np.float64),
            BASE: nll[graded & base].mean(dtype=np.float64),
        },
        rel=1e-6,
    )
    rows = batch.per_row(np.array(weight)) * graded
    assert report.loss == pytest.approx((rows * nll).sum() / rows.sum(), rel=1e-6)
    assert report.graded == graded.sum() and report.tokens == len(nll)


# ------------------------------------------------------------------------------------- the rates


def test_a_constant_schedule_is_constant():
    assert {schedule(i, 10, 0.5) for i in (0, 1, 9, 500)} == {0.5}


@pytest.mark.parametrize("kind", ["constant", "cosine", "linear"])
def test_the_warm_up_rises_in_equal_steps_to_the_full_rate(kind):
    assert [schedule(i, 10, 1.0, 4, kind) for i in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize("kind, middle", [("cosine", 0.5), ("linear", 0.5)])
def test_a_falling_schedule_ends_a_steps_share_above_its_floor(kind, middle):
    rates = [schedule(i, 100, 2.0, 0, kind) for i in range(100)]
    assert rates[0] == 2.0 and rates[50] == pytest.approx(2 * middle)
    assert all(a > b > 0 for a, b in zip(rates, rates[1:])) and rates[-1] <= 2.0 / 99
    floored = [schedule(i, 100, 2.0, 0, kind, floor=0.1) for i in range(100)]
    assert floored[0] == 2.0 and 0.2 <= floored[-1] <= 0.2 + 1.8 / 99
    assert schedule(100, 100, 2.0, 0, kind, floor=0.1) == pytest.approx(0.2)


def test_a_warm_up_as_long_as_the_training_is_no_division_by_zero():
    assert schedule(9, 10, 1.0, 10, "cosine") == 1.0
    assert schedule(3, 4, 1.0, 50, "linear") == 0.08


# ------------------------------------------------------------------------------------- the draws


def talk(count, size=6):
    return [
        Example(np.full(size, i % 60, np.int32), np.full(size, 1, np.int32), f"line {i}")
        for i in range(count)
    ]


TINY = Settings(
    context=12,
    channels=16,
    layers=1,
    heads=2,
    base_windows=((8, 2),),
    sft_windows=((4, 2),),
    sft_tokens=24,
    sft_pairs=2,
    base_steps=5,
    sft_steps=5,
)
CORPUS = np.random.default_rng(0).integers(0, 60, 200).astype(np.int32)


def picked(plan, step, count):
    """The first token of each of the step's conversations: which ones were drawn."""
    (batch,) = plan.draw(step)
    return batch.tokens[batch.cu_seqlens[:-1]][:count].tolist()


def test_draws_depend_on_seed_and_step_alone():
    plans = [
        finetune(dataclasses.replace(TINY, seed=s), talk(7), talk(4), CORPUS, 68) for s in (1, 1, 2)
    ]
    for step in (3, 0, 3, 100):
        one, same, other = (p.draw(step)[0].tokens.tolist() for p in plans)
        assert one == same and one != other
    bases = [pretrain(dataclasses.replace(TINY, seed=s), CORPUS, 68) for s in (1, 1, 2)]
    one, same, other = (p.draw(4)[0].tokens.tolist() for p in bases)
    assert one == same and one != other
    assert bases[0].draw(5)[0].tokens.tolist() != one


def test_the_windows_of_both_stages_are_drawn_anew_each_step():
    for plan in (pretrain(TINY, CORPUS, 68), finetune(TINY, talk(7), [], CORPUS, 68)):
        starts = {tuple(batch.tokens[-4:].tolist()) for (batch,) in map(plan.draw, range(8))}
        assert len(starts) > 4


def test_purposes_stages_and_steps_draw_independently():
    draws = {
        tuple(rng(*key).integers(0, 1 << 30, 4))
        for key in [
            (1, "base", "windows", 0),
            (1, "sft", "windows", 0),
            (1, "sft", "pairs", 0),
            (1, "sft", "pairs", 1),
            (2, "sft", "pairs", 0),
        ]
    }
    assert len(draws) == 5
    assert (rng(1, "sft", "pairs", 1).random(3) == rng(1, "sft", "pairs", 1).random(3)).all()


@pytest.mark.parametrize("count, pairs", [(7, 3), (6, 3), (3, 3), (2, 5)])
def test_each_pair_comes_exactly_once_an_epoch(count, pairs):
    s = dataclasses.replace(TINY, sft_tokens=0, sft_pairs=pairs)
    plan = finetune(s, [], talk(count), CORPUS, 68)
    drawn = sum((picked(plan, step, pairs) for step in range(4 * count)), [])
    epochs = [drawn[i : i + count] for i in range(0, len(drawn), count)]
    assert all(sorted(e) == list(range(count)) for e in epochs)
    if count > 3:
        assert len(set(map(tuple, epochs))) > 1  # in a new order


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(0, 300), st.integers(0, 9)
)
def test_batches_by_tokens_hold_every_sequence_once_an_epoch_and_never_more_than_the_budget(
    lengths, more, seed
):
    lengths = np.array(lengths)
    longest, n = int(lengths.max()), len(lengths)
    budget = 2 * longest + more
    (width,) = widths(budget, [longest], [1.0])
    pick, steps = by_tokens(seed, "conversations", lengths, width)
    taken = [pick(step) for step in range(math.ceil(3 * steps) + 1)]
    assert all(len(p) and lengths[p].sum() <= budget for p in taken)
    drawn = np.concatenate(taken)
    for epoch in range(3):
        assert sorted(drawn[epoch * n : (epoch + 1) * n].tolist()) == list(range(n))
    again, _ = by_tokens(seed, "conversations", lengths, width)
    assert np.array_equal(
        again(len(taken) - 1), taken[-1]
    )  # of the step alone: nothing before it was asked for


def test_epochs_come_in_new_orders_and_depend_on_the_seed():
    def orders(seed):
        pick, steps = by_tokens(seed, "conversations", np.full(40, 5), 50)
        return [
            np.concatenate([pick(e * int(steps) + i) for i in range(int(steps))]).tolist()
            for e in range(2)
        ]

    one, two = orders(1)
    assert one != two and orders(2)[0] != one and orders(1) == [one, two]


@pytest.mark.parametrize(
    "longest, shares, least",
    [([6], [1.0], 12), ([100, 167], [3.0, 1.0], 401), ([10, 10], [1.0, 1.0], 40)],
)
def test_a_budget_of_tokens_that_is_too_small_is_refused_with_the_least_one(longest, shares, least):
    with pytest.raises(UsageError, match=f"at least {least} are needed: --sft-tokens {least}"):
        widths(least - 1, longest, shares)
    assert sum(widths(least, longest, shares)) + sum(longest) <= least


@pytest.mark.parametrize("sizes", [(200, 200), (19, 12), (10, 10), (3, 400)])
def test_a_mixture_gives_files_of_any_size_their_shares(sizes):
    s = dataclasses.replace(
        TINY, sft_tokens=200, sft_pairs=0, sft_windows=(), mix=(3.0, 1.0), sft_steps=50
    )
    plan = finetune(s, talk(sum(sizes)), [], CORPUS, 68, [0] * sizes[0] + [1] * sizes[1])
    tokens = {
        "file 1": plan.epochs["file 1"] * 6 * sizes[0],
        "file 2": plan.epochs["file 2"] * 6 * sizes[1],
    }
    assert tokens["file 1"] / tokens["file 2"] == pytest.approx(3, rel=0.02)
    assert max(len(plan.draw(step)[0].tokens) for step in range(50)) <= 200


def test_a_mixture_gives_each_file_its_share_and_its_own_epochs():
    s = dataclasses.replace(TINY, sft_tokens=80, sft_pairs=0, sft_windows=(), mix=(3.0, 1.0))
    many, files = talk(40), [0] * 30 + [1] * 10
    plan = finetune(s, many, [], CORPUS, 68, files)
    first = [picked(plan, step, 99) for step in range(60)]
    shares = [sum(t < 30 for t in step) / len(step) for step in first]
    assert 0.6 < np.mean(shares) < 0.9
    for file, size, name in ((range(30), 30, "file 1"), (range(30, 40), 10, "file 2")):
        drawn = [t for step in first for t in step if t in file]
        assert all(
            sorted(drawn[i : i + size]) == list(file) for i in range(0, len(drawn) - size, size)
        )
        assert plan.epochs[name] == pytest.approx(s.sft_steps * len(drawn) / 60 / size, rel=0.1)


def test_a_step_holds_no_conversation_twice_where_files_are_not_mixed():
    s = dataclasses.replace(TINY, sft_tokens=500, sft_pairs=0, sft_windows=())
    plan = finetune(s, talk(7), [], CORPUS, 68)
    assert (
        all(sorted(picked(plan, step, 99)) == list(range(7)) for step in range(5))
        and plan.epochs["conversations"] == 5
    )


def test_pairs_drawn_with_replacement_repeat_within_an_epoch():
    plan = finetune(
        dataclasses.replace(TINY, replacement=True, sft_tokens=0, sft_pairs=3),
        [],
        talk(7),
        CORPUS,
        68,
    )
    drawn = sum((picked(plan, step, 3) for step in range(70)), [])
    assert set(drawn) == set(range(7))
    assert any(len(set(drawn[i : i + 7])) < 7 for i in range(0, len(drawn), 7))


def test_a_fine_tuning_step_holds_conversations_pairs_and_weighted_windows():
    s = dataclasses.replace(TINY, sft_window_weight=0.25)
    plan = finetune(s, talk(7), talk(4, size=5), CORPUS, 68)
    (batch,) = plan.draw(0)
    talks = len(batch.source) - 4
    assert 1 <= talks <= 4 and batch.source.tolist() == [CONVERSATION] * (talks + 2) + [BASE] * 2
    assert batch.weight.tolist() == [1] * (talks + 2) + [0.25] * 2
    assert batch.lengths.tolist() == [6] * talks + [5, 5, 4, 4]
    assert len(batch.tokens) <= plan.rows and plan.steps == 5
    assert plan.objective is sft and plan.rate(0) == pytest.approx(s.sft_lr / s.sft_warmup)


def test_a_pretraining_step_grades_every_row_of_its_windows():
    plan = pretrain(dataclasses.replace(TINY, base_windows=((4, 3), (12, 1))), CORPUS, 68)
    (batch,) = plan.draw(0)
    assert batch.lengths.tolist() == [4, 4, 4, 12] and batch.wanted.all() and plan.rows == 24
    assert set(batch.source.tolist()) == {BASE}


def test_a_stage_without_material_is_refused():
    with pytest.raises(UsageError, match="no conversation"):
        finetune(dataclasses.replace(TINY, sft_tokens=0), talk(7), [], CORPUS, 68)
    with pytest.raises(DataError, match="8 characters"):
        pretrain(TINY, CORPUS[:8], 68)


def test_a_corpus_too_short_to_replay_is_refused_in_words():
    with pytest.raises(PysftError) as error:
        finetune(TINY, talk(7), [], CORPUS[:4], 68).draw(0)
    assert "\n" not in str(error.value)


# ----------------------------------------------------------------------------------- the optimiser


@pytest.mark.parametrize("decay_all", [False, True])
def test_decay_pulls_at_matrices_alone_unless_told_otherwise(decay_all):
    model = model_of()
    for _, w in model.params.items():
        w[:] = 1
    adam = AdamW(model, decay=0.5, decay_all=decay_all)
    model.grads.clear()
    adam.step(0.1)
    for name, w in model.params.items():
        decays = w.ndim == 2 or decay_all
        assert np.allclose(w, 0.95 if decays else 1.0, atol=1e-6), name
    assert adam.steps == 1


def test_clipping_scales_to_the_limit_and_leaves_smaller_gradients_alone():
    model = model_of(dtype=np.float64)
    for name, g in model.grads.items():
        g[:] = np.random.default_rng(len(name)).standard_normal(g.shape)
    before = model.grads.flat.copy()
    norm = np.linalg.norm(before)
    assert clip(model, 0) == pytest.approx(norm) and (model.grads.flat == before).all()
    assert clip(model, 2 * norm) == pytest.approx(norm) and (model.grads.flat == before).all()
    assert clip(model, 1.0) == pytest.approx(norm)
    assert np.allclose(model.grads.flat, before / norm, rtol=1e-12)


def test_the_reported_norm_is_the_one_before_clipping():
    plain, clipped = model_of(), model_of()
    norm = train_step(plain, AdamW(plain), [batch_of()], sft, 1e-3).norm
    assert (
        train_step(clipped, AdamW(clipped), [batch_of()], sft, 1e-3, limit=norm / 10).norm == norm
    )
    assert np.linalg.norm(clipped.grads.flat) == pytest.approx(norm / 10, rel=1e-5)


# ---------------------------------------------------------------------------------------- the loop


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e30])
def test_what_is_not_finite_stops_before_a_weight_or_moment_moves(poison):
    model = model_of()
    adam = AdamW(model, decay=0.1)
    train_step(model, adam, [batch_of()], sft, 1e-3)
    model.params["h1.fc.w"][3, 2] = poison
    if poison == 1e30:
        model.params["h1.fcproj.w"][:] = 1e30
    before = [a.flat.copy() for a in (model.params, adam.m, adam.v)]
    with pytest.raises(Diverged, match="no weight was changed") as error:
        train_step(model, adam, [batch_of()], sft, 1e-3, limit=1.0)
    assert error.value.exit_code == 3 and "\n" not in str(error.value)
    assert all(
        np.array_equal(a.flat, b, equal_nan=True)
        for a, b in zip((model.params, adam.m, adam.v), before)
    )
    assert adam.steps == 1


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_stops_too(poison, monkeypatch):
    model = model_of()
    adam, backward = AdamW(model), model.backward

    def overflow(*arguments):
        backward(*arguments)
        model.grads["h0.ln2.b"][1] = poison

    monkeypatch.setattr(model, "backward", overflow)
    before = model.params.flat.copy()
    for limit in (0, 1.0):
        with pytest.raises(Diverged, match="gradient"):
            train_step(model, adam, [batch_of()], sft, 1e-3, limit)
    assert np.array_equal(model.params.flat, before) and adam.steps == 0 and not adam.m.flat.any()


def test_the_message_of_a_divergence_names_the_step_that_failed():
    model = model_of()
    reports = train(model, AdamW(model), lambda step: [batch_of()], sft, lambda step: 1e-3, 9)
    assert [next(reports).step, next(reports).step] == [1, 2]
    model.params["wte"][:] = np.nan
    with pytest.raises(Diverged, match="step 3:"):
        next(reports)


def test_a_model_learns_a_cycle_by_heart():
    model = model_of()
    cycle = np.arange(13, dtype=np.int32) % VOCAB
    batch = Batch.of([Example(cycle[:12], cycle[1:])], VOCAB, 12)
    reports = list(
        train(model, AdamW(model), lambda step: [batch], sft, lambda step: 1e-2, 60, limit=1.0)
    )
    assert [r.step for r in reports] == list(range(1, 61))
    assert reports[0].loss == pytest.approx(math.log(VOCAB), rel=0.1) and reports[-1].loss < 0.05
    assert all(r.seconds > 0 and r.lr == 1e-2 and r.graded == r.tokens == 12 for r in reports)


def test_pretraining_moves_every_parameter():
    model = GPT(GPTConfig(68, 12, 2, 2, 16), rng=np.random.default_rng(1))
    before = {name: w.copy() for name, w in model.params.items()}
    corpus = np.random.default_rng(0).integers(0, 68, 3000).astype(np.int32)
    plan = pretrain(dataclasses.replace(TINY, base_windows=((12, 40),), base_warmup=0), corpus, 68)
    adam = AdamW(model)
    list(train(model, adam, plan.draw, plan.objective, plan.rate, 3, limit=1.0))
    still = {name: int((w == before[name]).sum()) for name, w in model.params.items()}
    # Only key biases may stand still: the softmax does not see them, so their gradient is zero but
    # for rounding.
    for i in range(2):
        assert still.pop(f"h{i}.qkv.b") <= 16
    assert not any(still.values()), still
    assert adam.steps == 3


@pytest.mark.parametrize("first, second, same", [(1, 1, True), (1, 2, False)])
def test_the_same_seed_gives_the_same_weights_bit_for_bit(first, second, same):
    weights = []
    for seed in (first, second):
        s = dataclasses.replace(TINY, seed=seed, base_warmup=0)
        model = GPT(GPTConfig(68, 12, 1, 2, 16), rng=rng(s.seed, "base", "init"))
        plan = pretrain(s, CORPUS, 68)
        list(
            train(
                model,
                AdamW(model, **s.adam("base")),
                plan.draw,
                plan.objective,
                plan.rate,
                5,
                s.clip,
            )
        )
        weights.append(model.params.flat.copy())
    assert np.array_equal(*weights) == same


def test_the_number_of_threads_moves_no_bit_in_either_stage():
    s = dataclasses.replace(
        TINY,
        context=64,
        base_windows=((64, 12),),
        sft_windows=((64, 8),),
        base_warmup=0,
        sft_warmup=0,
        sft_tokens=240,
    )
    corpus = np.random.default_rng(0).integers(0, 68, 3000).astype(np.int32)
    found = set()
    for threads in (1, 2, 3):
        model = GPT(GPTConfig(68, 64, 1, 2, 32), ops.on_threads(threads), rng(1, "base", "init"))
        for plan in (pretrain(s, corpus, 68), finetune(s, talk(7, 60), talk(4, 50), corpus, 68)):
            list(train(model, AdamW(model), plan.draw, plan.objective, plan.rate, 5, s.clip))
        found.add(model.params.flat.tobytes())
    assert len(found) == 1


def test_an_optimiser_that_has_taken_steps_goes_on_from_there():
    model = model_of()
    adam = AdamW(model)
    asked = []

    def draw(step):
        asked.append(step)
        return [batch_of()]

    list(train(model, adam, draw, sft, lambda step: 1e-3, 2))
    assert [r.step for r in train(model, adam, draw, sft, lambda step: 1e-3, 4)] == [3, 4]
    assert asked == [0, 1, 2, 3] and not list(train(model, adam, draw, sft, lambda step: 1e-3, 4))


# -------------------------------------------------------------------------------------- settings


def test_the_seed_preset_is_the_source_text_to_the_letter():
    s = PRESETS["seed"]
    assert (s.context, s.layers, s.channels, s.heads) == (64, 4, 64, 4)
    assert (s.base_lr, s.sft_lr, s.base_schedule, s.sft_schedule) == (
        3e-4,
        1e-4,
        "constant",
        "constant",
    )
    assert (s.base_warmup, s.sft_warmup, s.base_steps, s.sft_steps) == (0, 0, 5000, 1000)
    assert (s.base_windows, s.sft_pairs, s.replacement, s.data) == (((64, 32),), 16, True, "pairs")
    assert (s.beta1, s.beta2, s.eps, s.base_decay, s.sft_decay, s.decay_all, s.clip) == (
        0.9,
        0.999,
        1e-8,
        0.01,
        0.01,
        True,
        0.0,
    )
    assert (s.data, s.new_rows, s.sft_windows) == ("pairs", "random", ())


def test_the_other_presets_have_their_shapes():
    assert (PRESETS["tiny"].context, PRESETS["tiny"].layers, PRESETS["tiny"].channels) == (
        256,
        4,
        64,
    )
    assert PRESETS["mini"].context == PRESETS["small"].context == 256
    small = PRESETS["small"]
    assert (small.layers, small.heads, small.channels) == (6, 6, 384)
    assert all(
        name == s.preset and not s.decay_all and not s.replacement
        for name, s in PRESETS.items()
        if name != "seed"
    )


def toml(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return str(path)


def test_flags_win_over_the_file_and_the_file_over_the_preset(tmp_path):
    path = toml(tmp_path, "seed = 5\nsft_lr = 2\nbase_windows = [[32, 2]]\n")
    s = resolve("tiny", path, seed=7, base_steps=None)
    assert (s.seed, s.sft_lr, s.base_windows) == (7, 2.0, ((32, 2),))
    assert isinstance(s.sft_lr, float)
    assert s.base_steps == PRESETS["tiny"].base_steps


def test_a_file_can_name_its_preset(tmp_path):
    assert resolve(None, toml(tmp_path, 'preset = "seed"\nsft_steps = 3')) == dataclasses.replace(
        PRESETS["seed"], sft_steps=3
    )


def test_saved_settings_can_be_read_back():
    for s in PRESETS.values():
        assert Settings(**json.loads(json.dumps(dataclasses.asdict(s)))) == s


@pytest.mark.parametrize(
    "text",
    [
        "colour = 1",
        "channels = 'many'",
        "channels = 16.5",
        "channels = true",
        "channels = -1",
        "base_lr = 'x'",
        "base_lr = -0.1",
        "base_lr = nan",
        "base_lr = inf",
        "decay_all = 1",
        "sft_schedule = 'square'",
        "sft_schedule = 3",
        "new_rows = 'zero'",
        "data = 'all'",
        "base_windows = [[300, 2]]",
        "base_windows = []",
        "base_windows = [[32]]",
        "base_windows = [[0, 4]]",
        "base_windows = [['a', 1]]",
        "base_windows = 5",
        "base_windows = [32, 4]",
        "sft_windows = [[32, true]]",
        "preset = 'huge'",
        "preset = 3",
        "preset = ['tiny']",
        "beta1 = 1.0",
        "beta2 = 1.5",
        "channels = 0",
        "heads = 0",
        "context = 0\nbase_windows = []",
        "channels = 6",
        "not toml",
    ],
)
def test_a_setting_that_cannot_be_is_one_usage_error(tmp_path, text):
    with pytest.raises(UsageError) as error:
        resolve(None, toml(tmp_path, text))
    message = str(error.value)
    assert message and "\n" not in message
    assert text == "not toml" or text.split(" ")[0] in message


def test_a_settings_file_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(MissingInput, match="none.toml: no such file"):
        resolve("tiny", str(tmp_path / "none.toml"))
    with pytest.raises(UsageError, match="preset 'huge' is not one of seed, tiny, mini, small"):
        resolve("huge")


def test_a_training_example_of_the_default_vocabulary_trains():
    ids, labels = prepare_sft_example("Hi", "Yes")
    model = GPT(GPTConfig(68, 16, 1, 2, 16), rng=np.random.default_rng(0))
    batch = Batch.of([Example(np.array(ids, np.int32), np.array(labels, np.int32))], 68, 16)
    report = train_step(model, AdamW(model), [batch], sft, 1e-3)
    assert report.graded == 4 and report.loss == pytest.approx(math.log(68), rel=0.1)


def test_micro_batches_as_a_setting_split_the_same_step():
    whole, split = TINY, dataclasses.replace(TINY, micro_batches=2)
    for make in (lambda s: pretrain(s, CORPUS, 68), lambda s: finetune(s, talk(7), [], CORPUS, 68)):
        one, many = make(whole).draw(4), make(split).draw(4)
        assert len(one) == 1 and len(many) == 2
        assert np.array_equal(one[0].tokens, np.concatenate([b.tokens for b in many]))
        assert max(len(b.tokens) for b in many) <= make(split).rows


# ------------------------------------------------------------------------- what is not finite or od


def poisoned(monkeypatch, model, steps, name="h0.ln2.b"):
    """The gradient of a tensor is not finite in these steps, counted from 0."""
    backward, taken = model.backward, iter(range(10**6))

    def overflow(*arguments):
        backward(*arguments)
        if next(taken) in steps:
            model.grads[name].flat[1] = np.inf

    monkeypatch.setattr(model, "backward", overflow)


def test_a_divergence_names_the_tensor_and_holds_the_batch(monkeypatch):
    model, batch = model_of(), batch_of()
    poisoned(monkeypatch, model, {0})
    with pytest.raises(
        Diverged, match="step 1: the gradient's norm is inf, first in the gradient of 'h0.ln2.b'"
    ) as error:
        train_step(model, AdamW(model), [batch], sft, 1e-3)
    assert error.value.batches == [batch] and not error.value.lasting
    model.params["lnf.w"][0] = np.nan
    with pytest.raises(Diverged, match="the loss is nan, weight 'lnf.w' is not finite") as error:
        train_step(model, AdamW(model), [batch], sft, 1e-3)
    assert error.value.lasting


def test_a_step_that_is_skipped_changes_nothing_and_the_others_go_on(monkeypatch):
    model, told = model_of(), []
    adam = AdamW(model)
    poisoned(monkeypatch, model, {1})
    reports = train(
        model, adam, lambda step: [batch_of(seed=step)], sft, lambda step: 1e-3, 4, skip=told.append
    )
    assert next(reports).step == 1
    before = [a.flat.copy() for a in (model.params, adam.m, adam.v)]
    backward = model.backward

    def seen(*arguments):
        if adam.steps == 2:
            assert all(
                np.array_equal(a.flat, b) for a, b in zip((model.params, adam.m, adam.v), before)
            )
        backward(*arguments)

    monkeypatch.setattr(model, "backward", seen)
    assert (
        [(r.step, r.skipped) for r in reports] == [(2, True), (3, False), (4, False)]
        and len(told) == 1
        and "step 2:" in str(told[0])
    )


def test_a_bad_weight_or_too_many_steps_in_a_row_are_not_skipped(monkeypatch):
    model, told = model_of(), []
    poisoned(monkeypatch, model, set(range(100)))
    with pytest.raises(Diverged, match=f"step {SKIPS + 1}:"):
        list(
            train(
                model,
                AdamW(model),
                lambda step: [batch_of()],
                sft,
                lambda step: 1e-3,
                99,
                skip=told.append,
            )
        )
    assert len(told) == SKIPS
    model = model_of()
    model.params["wte"][:] = np.nan
    with pytest.raises(Diverged, match="step 1:"):
        list(
            train(
                model,
                AdamW(model),
                lambda step: [batch_of()],
                sft,
                lambda step: 1e-3,
                9,
                skip=told.append,
            )
        )
    assert len(told) == SKIPS


def test_an_outlier_is_far_above_the_last_hundred_and_a_trend_is_none():
    g = np.random.default_rng(0)
    outliers = Outliers()
    for i in range(400):  # falling, and noisy
        assert (
            outliers(
                loss=3 - i / 400 + 0.05 * g.standard_normal(),
                norm=float(np.exp(0.5 * g.standard_normal())),
            )
            == {}
        )
    found = outliers(loss=4.0, norm=1.0)
    assert found.keys() == {"loss"} and 15 < found["loss"] < 60
    assert (
        outliers(loss=2.0, norm=1e9).keys() == {"norm"} and outliers(loss=0.1, norm=0.0) == {}
    )  # below is none
    still = Outliers()
    assert [still(loss=1.0, norm=1.0) for _ in range(40)] == [{}] * 40 and still(
        loss=1.1, norm=1.0
    ) == {"loss": pytest.approx(100)}
    assert Outliers()(loss=1e30, norm=1e30) == {}  # nothing to compare with yet


def test_an_outliers_score_is_its_distance_in_normal_deviations():
    """By hand: of 0, 1, ..., 98 the median is 49 and the median distance from it 25 (49 - 24, 49 +
    25: 49 of 99 lie nearer)."""
    outliers = Outliers()
    for x in np.random.default_rng(0).permutation(99):
        outliers(loss=float(x), norm=float(x))
    assert outliers(loss=49 + 9 * 1.4826 * 25, norm=0.0) == {"loss": pytest.approx(9)}


def test_the_first_moment_is_of_the_gradient_and_the_second_of_its_square():
    model = GPT(GPTConfig(5, 4, 1, 1, 4), rng=np.random.default_rng(0))
    adam = AdamW(model, betas=(0.9, 0.99))
    g = np.random.default_rng(1).standard_normal(len(model.grads.flat)).astype(np.float32)
    model.grads.flat[:] = g
    adam.step(1e-3)
    assert np.allclose(adam.m.flat, 0.1 * g, rtol=1e-5) and np.allclose(
        adam.v.flat, 0.01 * g * g, rtol=1e-4
    )


def test_each_stage_decays_by_its_own_setting():
    settings = Settings(base_decay=0.25, sft_decay=0.125)
    assert settings.adam("base")["decay"] == 0.25 and settings.adam("sft")["decay"] == 0.125
