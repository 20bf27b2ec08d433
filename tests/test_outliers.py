"""Steps whose loss or gradient norm is far above those before."""

import numpy as np
import pytest

from pysft.training.loop import Outliers


@pytest.fixture
def outliers():
    """Outliers after 400 steps of noise, whose loss falls from 3 to 2. None of them is one."""
    g, outliers = np.random.default_rng(0), Outliers()
    for i in range(400):
        loss = 3 - i / 400 + 0.05 * g.standard_normal()
        assert outliers(loss=loss, norm=float(np.exp(0.5 * g.standard_normal()))) == {}
    return outliers


def test_a_value_far_above_the_last_hundred_is_an_outlier(outliers):
    found = outliers(loss=4.0, norm=1.0)
    assert found.keys() == {"loss"}
    assert 15 < found["loss"] < 60
    assert outliers(loss=2.0, norm=1e9).keys() == {"norm"}


def test_a_value_far_below_is_no_outlier(outliers):
    assert outliers(loss=0.1, norm=0.0) == {}


def test_values_that_did_not_vary_have_a_spread_of_a_thousandth():
    outliers = Outliers()
    assert [outliers(loss=1.0, norm=1.0) for _ in range(40)] == [{}] * 40
    assert outliers(loss=1.1, norm=1.0) == {"loss": pytest.approx(100)}


def test_the_first_step_is_no_outlier():
    assert Outliers()(loss=1e30, norm=1e30) == {}  # nothing to compare with yet


def test_an_outliers_score_is_its_distance_in_standard_deviations_of_a_normal_distribution():
    """By hand: of 0, 1, ..., 98 the median is 49, and the median distance from it 25 (49 - 24, 49 +
    25: 49 of 99 lie nearer)."""
    outliers = Outliers()
    for x in np.random.default_rng(0).permutation(99):
        outliers(loss=float(x), norm=float(x))
    assert outliers(loss=49 + 9 * 1.4826 * 25, norm=0.0) == {"loss": pytest.approx(9)}


@pytest.mark.parametrize("name, limit", [("loss", 8), ("norm", 20)])
def test_a_loss_is_an_outlier_above_8_spreads_and_a_norm_above_20(name, limit):
    for score, expected in ((limit - 0.01, {}), (limit + 0.01, {name: limit + 0.01})):
        outliers = Outliers()
        for x in np.random.default_rng(0).permutation(99):
            outliers(loss=float(x), norm=float(x))
        step = {"loss": 49.0, "norm": 49.0} | {name: 49 + score * 1.4826 * 25}
        assert outliers(**step) == pytest.approx(expected)


def test_nothing_is_an_outlier_before_thirty_steps():
    for steps in (29, 30):
        outliers = Outliers()
        for _ in range(steps):
            outliers(loss=1.0, norm=1.0)
        assert set(outliers(loss=9.0, norm=9.0)) == ({"loss", "norm"} if steps == 30 else set())


def test_a_value_is_compared_with_the_last_hundred_alone():
    """By hand: of fifty 0 and fifty 2 the median is 1, and so is the median distance from it. With
    one value more or one less the median would be 2."""
    outliers = Outliers()
    for x in [7.0] + [0.0] * 50 + [2.0] * 50:
        outliers(loss=x, norm=x)
    assert outliers(loss=1 + 10 * 1.4826, norm=1.0) == {"loss": pytest.approx(10)}
    fewer = Outliers(window=4, least=2)
    for x in (9.0, 9.0, 9.0, 1.0, 1.0, 1.0, 1.0):
        fewer(loss=x, norm=x)
    assert fewer(loss=1.1, norm=1.0) == {"loss": pytest.approx(100)}


def test_the_spread_of_values_at_zero_is_a_millionth():
    outliers = Outliers()
    for _ in range(40):
        outliers(loss=0.0, norm=0.0)
    assert outliers(loss=2e-5, norm=0.0) == {"loss": pytest.approx(20)}
