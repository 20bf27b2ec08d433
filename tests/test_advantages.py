"""What a token is worth: closed forms by hand, and properties that hold for all numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from texts import steady

from pysft.training.advantages import (
    gae,
    k1,
    k3,
    leave_one_out,
    next_beta,
    token_rewards,
    whiten,
    within_group,
)

NUMBERS = st.floats(-100, 100, width=32)
FULL = st.floats(0, 1)
SPREAD = (3 / 2) ** 0.5  # of 1, 2, 3: 1 / their deviation


# ----------------------------------------------------------------------------------- of one reply


def test_the_score_is_the_reward_of_the_last_token_and_leaving_the_reference_costs_beta():
    nll, reference = [1.0, 2.0, 0.5], [1.5, 1.0, 0.5]  # ln pi - ln pi_ref: 0.5, -1, 0
    assert token_rewards(2.0, nll, reference, 0.1) == pytest.approx([-0.05, 0.1, 2.0])
    assert token_rewards(2.0, nll, reference, 0.0).tolist() == [0, 0, 2]
    assert token_rewards(2.0, [3.0], [4.0], 0.5).tolist() == [1.5]


def test_generalised_advantages_are_those_worked_out_by_hand():
    assert gae([0, 0, 1], [0.5, 0.5, 0.5], 1.0, 0.5).tolist() == [0.125, 0.25, 0.5]
    # deltas: 1 + 0.5 * 4 - 2, 3 - 4 = 1, -1; the first: 1 + 0.5 * 0.5 * -1
    assert gae([1, 3], [2, 4], 0.5, 0.5).tolist() == [0.75, -1]
    assert gae([3], [1], 0.9, 0.3).tolist() == [2]


@st.composite
def replies(draw):
    """(rewards (T,), values (T,))."""
    T = draw(st.integers(1, 8))
    return tuple(draw(arrays(np.float64, T, elements=NUMBERS)) for _ in range(2))


@steady
@given(replies(), FULL)
def test_with_lambda_1_an_advantage_is_the_discounted_return_minus_the_value(reply, gamma):
    rewards, values = reply
    T = len(rewards)
    returns = [sum(gamma ** (s - t) * rewards[s] for s in range(t, T)) for t in range(T)]
    assert gae(rewards, values, gamma, 1.0) == pytest.approx(returns - values, abs=1e-9)


@steady
@given(replies(), FULL)
def test_with_lambda_0_an_advantage_is_how_much_better_the_next_state_was(reply, gamma):
    rewards, values = reply
    later = [*values[1:], 0.0]
    deltas = [r + gamma * after - v for r, after, v in zip(rewards, later, values)]
    assert gae(rewards, values, gamma, 0.0) == pytest.approx(deltas, abs=1e-9)


@steady
@given(replies(), FULL, FULL)
def test_values_that_are_right_leave_no_advantage(reply, gamma, lam):
    rewards, _ = reply
    values, later = np.zeros(len(rewards)), 0.0
    for t in reversed(range(len(rewards))):
        values[t] = later = rewards[t] + gamma * later
    assert gae(rewards, values, gamma, lam) == pytest.approx(np.zeros(len(rewards)), abs=1e-9)


# ------------------------------------------------------------------------ of replies to one prompt


def test_leave_one_out_compares_with_the_mean_of_the_others():
    assert leave_one_out([[1, 0, 0]]).tolist() == [[1, -0.5, -0.5]]
    assert leave_one_out([[3, 1], [5, 5]]).tolist() == [[2, -2], [0, 0]]


GROUPS = arrays(np.float64, st.tuples(st.integers(1, 3), st.integers(2, 5)), elements=NUMBERS)


@steady
@given(GROUPS)
def test_leave_one_out_is_the_difference_from_the_mean_scaled_up(scores):
    """By K / (K - 1). So what one prompt's replies lose, its others gain."""
    K = scores.shape[1]
    expected = (scores - scores.mean(axis=1, keepdims=True)) * K / (K - 1)
    assert leave_one_out(scores) == pytest.approx(expected, abs=1e-9)


@steady
@given(GROUPS, NUMBERS)
def test_a_baseline_takes_away_what_all_replies_to_a_prompt_share(scores, shift):
    shifts = shift * np.arange(len(scores))[:, None]
    assert leave_one_out(scores + shifts) == pytest.approx(leave_one_out(scores), abs=1e-9)


def test_within_a_group_each_prompt_has_its_own_mean_and_deviation():
    found = within_group([[1, 2, 3], [30, 20, 10], [5, 5, 5], [0.1, 0.1, 0.1]])
    assert found == pytest.approx(np.outer([1, -1, 0, 0], [-SPREAD, 0, SPREAD]))
    assert not found[2:].any()


# ---------------------------------------------------------------------------------- of an iteration


def test_whitened_1_2_3_are_minus_and_plus_1_2247_and_0():
    assert whiten([1, 2, 3]) == pytest.approx([-1.2247, 0, 1.2247], abs=1e-4)
    assert whiten([1, 2, 3]) == pytest.approx([-SPREAD, 0, SPREAD], rel=1e-15)


@steady
@given(arrays(np.float64, st.integers(1, 20), elements=NUMBERS), st.floats(0.5, 50), NUMBERS)
def test_whitened_numbers_have_mean_0_and_deviation_1_and_know_no_unit(x, unit, shift):
    x = np.round(x, 2)
    found = whiten(x)
    if x.min() == x.max():
        assert not found.any()
    else:
        assert found.mean() == pytest.approx(0, abs=1e-9)
        assert found.std() == pytest.approx(1)
        assert whiten(unit * x + shift) == pytest.approx(found, abs=1e-6)


@pytest.mark.parametrize("x", [0.0, 0.1, -1e6, 1e-30])
@pytest.mark.parametrize("n", [1, 3, 1000])
def test_equal_numbers_are_whitened_to_zeros_and_not_to_their_rounding(x, n):
    assert whiten(np.full(n, x)).tolist() == [0] * n


def test_the_price_of_kl_rises_above_the_target_and_falls_below_it_by_a_bounded_share():
    assert next_beta(0.1, 12, 6, 512, 10_000) == pytest.approx(0.1 * 1.01024, rel=1e-12)
    assert next_beta(0.1, 6, 6, 512, 10_000) == 0.1
    assert next_beta(0.1, 6.6, 6, 512, 10_000) == pytest.approx(0.1 * (1 + 0.1 * 0.0512))
    assert next_beta(0.1, 0, 6, 512, 10_000) == pytest.approx(0.1 * (1 - 0.2 * 0.0512))


# ------------------------------------------------------------------------- estimates of the KL


def test_k3_of_a_ratio_near_1_does_not_cancel():
    """u^2 / 2 - u^3 / 6: e^-u - 1 + u computed naively has no right digit at 1e-8."""
    for u in (1e-4, -1e-4, 1e-6):
        assert k3(0.0, u) == pytest.approx(u**2 / 2 - u**3 / 6, rel=1e-6)
    assert k3(1.0, 1.0) == 0
    assert k3(0.0, 1e-4) == pytest.approx(5e-9, rel=1e-4)


@steady
@given(st.integers(2, 6), st.integers(0, 99))
def test_the_means_of_k1_and_k3_over_a_whole_distribution_are_its_exact_kl(n, seed):
    logits, others = np.random.default_rng(seed).standard_normal((2, n))
    p, q = (np.exp(x) / np.exp(x).sum() for x in (logits, others))
    exact = float((p * np.log(p / q)).sum())
    assert p @ k1(-np.log(p), -np.log(q)) == pytest.approx(exact, abs=1e-14)
    assert p @ k3(-np.log(p), -np.log(q)) == pytest.approx(exact, abs=1e-14)


@steady
@given(arrays(np.float64, 5, elements=st.floats(0, 30)), arrays(np.float64, 5, elements=FULL))
def test_k3_is_never_negative_and_k1_changes_sign_with_the_two_models(nll, reference):
    assert (k3(nll, reference) >= 0).all()
    assert k1(nll, reference).tolist() == (-k1(reference, nll)).tolist()


def test_estimates_of_float32_are_made_in_float64():
    nll, reference = np.float32([1.1]), np.float32([1.1000001])
    assert k1(nll, reference).dtype == k3(nll, reference).dtype == np.float64
    assert k1(nll, reference)[0] == float(reference[0]) - float(nll[0]) != 0
