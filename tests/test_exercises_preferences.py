"""The exercises on preferences, PPO and floating point: their right results are those of the
project's own functions. test_exercises_training.py has what holds for each of their problems."""

import numpy as np
import pytest
from test_exercises_training import cases, is_close

from pysft.batch import Batch, Example
from pysft.lessons.exercises import bradley_terry, dpo, floating_point, ppo
from pysft.lessons.problem import NONE
from pysft.nn import kernels, reference
from pysft.training import advantages
from pysft.training.objectives import BradleyTerry, Dpo, Ppo

# -------------------------------------------------------------------------------- objectives


def batch_of(labels, cu_seqlens, order=None, group=None, **columns) -> tuple[Batch, np.ndarray]:
    """The batch of the sequences in this order, and the numbers of their rows."""
    order = range(len(cu_seqlens) - 1) if order is None else order
    rows = [np.arange(cu_seqlens[s], cu_seqlens[s + 1]) for s in order]
    examples = [
        Example(
            np.zeros(len(r), np.int32),
            labels[r],
            wanted=np.ones(len(r), bool),
            group=None if group is None else int(group[i]),
            columns={name: x[r].astype(np.float64) for name, x in columns.items()},
        )
        for i, r in enumerate(rows)
    ]
    return Batch.of(examples, 9, 99), np.concatenate(rows)


def result(objective, batch, **out):
    """(loss, dnll or dvalue) of one batch."""
    given = type("Out", (), {"nll": None, "value": None} | out)
    loss, dnll, dvalue, _ = objective(batch, given, objective.counts(batch))
    return loss, dvalue if dnll is None else dnll


def test_the_loss_of_rankings_is_that_of_bradley_terry():
    for given in cases(bradley_terry.RANKINGS):
        value, cu_seqlens, group, rank = given.values()
        labels, ranks = np.zeros(len(value), np.int32), np.repeat(rank, np.diff(cu_seqlens))
        batch, _ = batch_of(labels, cu_seqlens, None, group, rank=ranks)
        loss, dvalue = result(BradleyTerry(), batch, value=value)
        right = bradley_terry.RANKINGS.answer(given, NONE)
        assert is_close(right["loss"], loss) and is_close(right["dvalue"], dvalue)


def test_the_loss_of_pairs_is_that_of_bradley_terry_with_a_ranking_for_each():
    for given in cases(bradley_terry.PAIRS):
        value, better, worse = given.values()
        replies, P = np.stack([better, worse], axis=1).ravel(), len(better)
        labels, ranks = np.zeros(2 * P, np.int32), np.tile([1.0, 2.0], P)
        batch, _ = batch_of(labels, np.arange(2 * P + 1), None, np.arange(2 * P) // 2, rank=ranks)
        loss, of_each = result(BradleyTerry(), batch, value=value[replies])
        dvalue = np.bincount(replies, of_each, len(value))
        right = bradley_terry.PAIRS.answer(given, NONE)
        assert is_close(right["loss"], loss) and is_close(right["dvalue"], dvalue)


def test_the_loss_of_pairs_of_texts_is_that_of_dpo():
    for given in cases(dpo.BACKWARD):
        nll, nll_ref, labels, cu_seqlens, chosen, rejected, beta = given.values()
        order, group = np.stack([chosen, rejected], axis=1).ravel(), np.arange(2 * len(chosen)) // 2
        batch, rows = batch_of(labels, cu_seqlens, order, group, reference=nll_ref)
        loss, of_rows = result(Dpo(beta, base=0.0), batch, nll=nll[rows])
        dnll = np.zeros(len(nll))
        dnll[rows] = of_rows
        right = dpo.BACKWARD.answer(given, NONE)
        assert is_close(right["loss"], loss) and is_close(right["dnll"], dnll)


@pytest.mark.parametrize("problem", dpo.PROBLEMS, ids=lambda p: p.function)
def test_the_derivation_of_dpo_gives_the_right_results(problem):
    for given in cases(problem):
        found = getattr(dpo, problem.function)(*given.values())
        found = found if isinstance(found, tuple) else (found,)
        for name, x in zip(problem.returns, found, strict=True):
            assert is_close(problem.answer(given, NONE)[name], x)


def test_the_gain_is_what_dpo_logs_for_each_reply():
    for given in cases(dpo.GAIN):
        nll, nll_ref, labels, cu_seqlens = given.values()
        gain = dpo.GAIN.answer(given, NONE)["gain"]
        for pair in ([0, 1], [3, 2]):
            batch, rows = batch_of(labels, cu_seqlens, pair, [0, 0], reference=nll_ref)
            out, objective = type("Out", (), {"nll": nll[rows]}), Dpo()
            figures = objective(batch, out, objective.counts(batch))[3]
            found = [figures[f"{name}_logp"][0] for name in ("chosen", "rejected")]
            assert is_close(gain[pair], found)


def test_rewards_and_advantages_are_those_of_ppo():
    for problem, function in (
        (ppo.REWARDS, advantages.token_rewards),
        (ppo.GAE, advantages.gae),
    ):
        for given in cases(problem):
            [found] = problem.answer(given, NONE).values()
            assert is_close(found, function(**given))


def test_the_loss_of_replies_is_that_of_ppo():
    for given in cases(ppo.LOSS):
        nll, nll_old, advantage, labels, cu_seqlens, clip = given.values()
        batch, _ = batch_of(labels, cu_seqlens, nll_old=nll_old, advantage=advantage)
        loss, dnll = result(Ppo(clip, base=0.0), batch, nll=nll)
        right = ppo.LOSS.answer(given, NONE)
        assert is_close(right["loss"], loss) and is_close(right["dnll"], dnll)


# ---------------------------------------------------------------------------- floating point


def test_blocks_of_64_rows_have_the_bits_of_layer_norms_db():
    x = np.random.default_rng(0).standard_normal((300, 24)).astype(np.float32)
    db, one, zero = np.zeros(24, np.float32), np.ones(24, np.float32), np.zeros(300, np.float32)
    kernels.layernorm_backward(None, None, db, x, x, one, zero, zero)
    total = floating_point.SUM.answer({"x": x, "block": 64}, NONE)["total"]
    assert total.dtype == np.float32 and np.array_equal(total, db)
    other = floating_point.SUM.answer({"x": x, "block": 64}, frozenset(["one-chain"]))["total"]
    assert not np.array_equal(other, db)


def test_the_bits_of_a_bf16_are_those_of_the_references_factor():
    for given in cases(floating_point.BITS):
        bits = floating_point.BITS.answer(given, NONE)["bits"]
        found = (bits.astype(np.uint32) << 16).view(np.float32)
        assert bits.dtype == np.uint16
        assert np.array_equal(found, reference.factor(given["x"], "bf16"), equal_nan=True)
        kept = ~np.isnan(given["x"])
        assert np.array_equal(np.signbit(found[kept]), np.signbit(given["x"][kept]))


def test_a_product_in_bf16_is_the_references_whatever_the_order_of_its_sums():
    for given in cases(floating_point.PRODUCT):
        x, w = given.values()
        y = np.empty((len(x), len(w)), np.float32)
        reference.matmul_forward(y, x, w, precision="bf16")
        found = floating_point.PRODUCT.answer(given, NONE)["y"]
        turned = {"x": x[:, ::-1], "w": w[:, ::-1]}
        for other in (y, floating_point.PRODUCT.answer(turned, NONE)["y"]):
            assert np.array_equal(found, other)
