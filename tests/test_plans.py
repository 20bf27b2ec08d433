"""What each step of a stage trains on: draws, epochs, budgets of tokens, mixtures of files."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from texts import one_line

from pysft.batch import BASE, CONVERSATION, Example
from pysft.errors import DataError, PysftError, UsageError
from pysft.rng import rng
from pysft.training.draws import by_tokens, widths
from pysft.training.kinds import FineTuning, Pretraining
from pysft.training.objectives import Sft
from pysft.training.settings import Model, Settings
from pysft.training.stages import finetune, pretrain

VOCAB = 68
CORPUS = np.random.default_rng(0).integers(0, 60, 200).astype(np.int32)
TINY = Settings(
    model=Model(context=12, channels=16, layers=1, heads=2),
    stages={
        "base": Pretraining(windows=((8, 2),), steps=5),
        "sft": FineTuning(windows=((4, 2),), tokens=24, pairs=2, steps=5),
    },
)


def tiny(**sft) -> Settings:
    """TINY with these settings of fine-tuning."""
    return TINY.changed({"sft": sft})


ALONE = {"pairs": 0, "windows": ()}  # conversations alone


def conversations(count, size=6):
    """Examples of `size` rows. All tokens of the one numbered i are i, modulo 60."""
    return [
        Example(np.full(size, i % 60, np.int32), np.full(size, 1, np.int32), f"line {i}")
        for i in range(count)
    ]


def tuning(settings, talks=(), pairs=(), files=None):
    """The plan of a fine-tuning."""
    return finetune(settings, "sft", talks, pairs, CORPUS, VOCAB, files)


def drawn_tokens(plan, step) -> list[int]:
    [batch] = plan.draw(step)
    return batch.tokens.tolist()


def drawn_numbers(plan, step, count=None) -> list[int]:
    """The numbers of the first conversations() of a step; of all without a count."""
    [batch] = plan.draw(step)
    return batch.tokens[batch.cu_seqlens[:-1]][:count].tolist()


# ------------------------------------------------------------------------------------------ draws


@pytest.mark.parametrize("step", [0, 3, 100])
def test_fine_tuning_draws_depend_on_seed_and_step_alone(step):
    plans = [tuning(replace(TINY, seed=n), conversations(7), conversations(4)) for n in (1, 1, 2)]
    drawn_tokens(plans[0], 5)
    one, same, other = (drawn_tokens(plan, step) for plan in plans)
    assert one == same
    assert one != other


def test_pretraining_draws_depend_on_seed_and_step_alone():
    plans = [pretrain(replace(TINY, seed=n), "base", CORPUS, VOCAB) for n in (1, 1, 2)]
    one, same, other = (drawn_tokens(plan, 4) for plan in plans)
    assert one == same
    assert one != other
    assert drawn_tokens(plans[0], 5) != one


@pytest.mark.parametrize(
    "plan",
    [pretrain(TINY, "base", CORPUS, VOCAB), tuning(TINY, conversations(7))],
    ids=["pretrain", "finetune"],
)
def test_the_windows_of_base_text_are_drawn_anew_each_step(plan):
    assert len({tuple(drawn_tokens(plan, step)[-4:]) for step in range(8)}) > 4


def test_seeds_stages_purposes_and_steps_draw_independently():
    keys = [
        (1, "base", "windows", 0),
        (1, "sft", "windows", 0),
        (1, "sft", "pairs", 0),
        (1, "sft", "pairs", 1),
        (2, "sft", "pairs", 0),
    ]
    assert len({tuple(rng(*key).integers(0, 1 << 30, 4)) for key in keys}) == len(keys)


def test_the_same_key_draws_the_same_numbers():
    key = (1, "sft", "pairs", 1)
    assert (rng(*key).random(3) == rng(*key).random(3)).all()


# ----------------------------------------------------------------------------------------- epochs


@pytest.mark.parametrize("count, pairs", [(7, 3), (6, 3), (3, 3), (2, 5)])
def test_each_pair_comes_exactly_once_an_epoch(count, pairs):
    plan = tuning(tiny(tokens=0, pairs=pairs), pairs=conversations(count))
    drawn = sum((drawn_numbers(plan, step, pairs) for step in range(4 * count)), [])
    epochs = [drawn[i : i + count] for i in range(0, len(drawn), count)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    if count > 3:
        assert len(set(map(tuple, epochs))) > 1  # in a new order


def test_pairs_drawn_with_replacement_repeat_within_an_epoch():
    settings = tiny(replacement=True, tokens=0, pairs=3)
    plan = tuning(settings, pairs=conversations(7))
    drawn = sum((drawn_numbers(plan, step, 3) for step in range(70)), [])
    assert set(drawn) == set(range(7))
    assert any(len(set(drawn[i : i + 7])) < 7 for i in range(0, len(drawn), 7))


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(0, 300), st.integers(0, 9)
)
def test_batches_by_tokens_keep_the_budget_and_hold_every_sequence_once_an_epoch(
    lengths, more, seed
):
    lengths = np.array(lengths)
    longest, n = int(lengths.max()), len(lengths)
    budget = 2 * longest + more
    [width] = widths(budget, [longest], [1.0])
    pick, steps = by_tokens(seed, "sft", "conversations", lengths, width)
    picked = [pick(step) for step in range(math.ceil(3 * steps) + 1)]
    assert all(len(indices) and lengths[indices].sum() <= budget for indices in picked)
    drawn = np.concatenate(picked)
    for epoch in range(3):
        assert sorted(drawn[epoch * n : (epoch + 1) * n].tolist()) == list(range(n))
    # A draw depends on its step alone, not on the draws before it.
    pick_again, _ = by_tokens(seed, "sft", "conversations", lengths, width)
    assert np.array_equal(pick_again(len(picked) - 1), picked[-1])


def test_epochs_come_in_new_orders_and_depend_on_the_seed():
    def orders(seed):
        """The orders of two epochs of 40 sequences."""
        pick, steps = by_tokens(seed, "sft", "conversations", np.full(40, 5), 50)
        steps = int(steps)
        drawn = [pick(step).tolist() for step in range(2 * steps)]
        return [sum(drawn[:steps], []), sum(drawn[steps:], [])]

    first, second = orders(1)
    assert first != second
    assert orders(2)[0] != first
    assert orders(1) == [first, second]


def test_a_step_holds_no_conversation_twice_if_files_are_not_mixed():
    plan = tuning(tiny(**ALONE, tokens=500), conversations(7))
    assert all(sorted(drawn_numbers(plan, step)) == list(range(7)) for step in range(5))
    assert plan.epochs["conversations"] == 5


# ---------------------------------------------------------------------- budgets and mixtures


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
    settings = tiny(**ALONE, tokens=200, steps=50).changed({"data": {"mix": (3.0, 1.0)}})
    plan = tuning(settings, conversations(sum(sizes)), files=[0] * sizes[0] + [1] * sizes[1])
    first, second = (plan.epochs[f"file {n}"] * 6 * size for n, size in enumerate(sizes, 1))
    assert first / second == pytest.approx(3, rel=0.02)  # tokens
    assert max(len(drawn_tokens(plan, step)) for step in range(50)) <= 200


def test_a_mixture_draws_each_file_by_its_share_and_in_its_own_epochs():
    settings = tiny(**ALONE, tokens=80).changed({"data": {"mix": (3.0, 1.0)}})
    plan = tuning(settings, conversations(40), files=[0] * 30 + [1] * 10)
    steps = [drawn_numbers(plan, step) for step in range(60)]
    shares = [sum(number < 30 for number in step) / len(step) for step in steps]
    assert 0.6 < np.mean(shares) < 0.9
    for name, file in (("file 1", range(30)), ("file 2", range(30, 40))):
        drawn, size = [number for step in steps for number in step if number in file], len(file)
        epochs = [drawn[i : i + size] for i in range(0, len(drawn) - size, size)]
        assert all(sorted(epoch) == list(file) for epoch in epochs)
        expected = settings.stages["sft"].steps * len(drawn) / 60 / size
        assert plan.epochs[name] == pytest.approx(expected, rel=0.1)


# -------------------------------------------------------------------------------------- the steps


def test_a_fine_tuning_step_holds_conversations_pairs_and_weighted_windows():
    settings = tiny(window_weight=0.25)
    plan = tuning(settings, conversations(7), conversations(4, size=5))
    [batch] = plan.draw(0)
    count = len(batch.source) - 4  # of conversations, beside two pairs and two windows
    assert 1 <= count <= 4
    assert batch.source.tolist() == [CONVERSATION] * (count + 2) + [BASE] * 2
    assert batch.weight.tolist() == [1] * (count + 2) + [0.25] * 2
    assert batch.lengths.tolist() == [6] * count + [5, 5, 4, 4]
    assert len(batch.tokens) <= plan.rows
    assert plan.steps == 5
    assert plan.objective == Sft()
    stage = settings.stages["sft"]
    assert plan.rate(0) == pytest.approx(stage.lr / stage.warmup)


def test_a_pretraining_step_grades_every_row_of_its_windows():
    plan = pretrain(TINY.changed({"base": {"windows": ((4, 3), (12, 1))}}), "base", CORPUS, VOCAB)
    [batch] = plan.draw(0)
    assert batch.lengths.tolist() == [4, 4, 4, 12]
    assert batch.wanted.all()
    assert plan.rows == 24
    assert set(batch.source.tolist()) == {BASE}


@pytest.mark.parametrize(
    "make",
    [lambda s: pretrain(s, "base", CORPUS, VOCAB), lambda s: tuning(s, conversations(7))],
    ids=["pretrain", "finetune"],
)
def test_the_setting_micro_batches_splits_the_same_step(make):
    two = {"micro_batches": 2}
    whole, split = make(TINY), make(TINY.changed({"base": two, "sft": two}))
    [one], parts = whole.draw(4), split.draw(4)
    assert len(parts) == 2
    assert np.array_equal(one.tokens, np.concatenate([part.tokens for part in parts]))
    assert max(len(part.tokens) for part in parts) <= split.rows


# ------------------------------------------------------------------------------- what is refused


def test_a_fine_tuning_without_a_conversation_is_refused():
    with pytest.raises(UsageError, match="no conversation"):
        tuning(tiny(tokens=0), conversations(7))


def test_a_corpus_too_short_to_train_on_is_refused():
    with pytest.raises(DataError, match="8 tokens"):
        pretrain(TINY, "base", CORPUS[:8], VOCAB)


def test_a_corpus_too_short_to_replay_is_refused():
    with pytest.raises(PysftError) as error:
        finetune(TINY, "sft", conversations(7), [], CORPUS[:4], VOCAB).draw(0)
    assert one_line(error)
