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
