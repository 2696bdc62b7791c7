"""Paired differences against scipy's own t-test."""

import numpy as np
import pytest
from scipy import stats

from dnnjob.collect.paired import measure_difference


def test_the_interval_is_that_of_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(1.0, 1.0, 30), rng.normal(1.2, 1.0, 30)
    found = measure_difference(first - second)
    truth = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert found is not None
    assert found.num_pairs == 30
    assert found.mean == pytest.approx(np.mean(first - second))
    assert (found.low, found.high) == pytest.approx((truth.low, truth.high))


def test_a_single_pair_has_no_interval() -> None:
    found = measure_difference(np.array([2.0]))
    assert found is not None
    assert (found.mean, found.low, found.high) == (2.0, None, None)


def test_no_pairs_have_no_difference() -> None:
    assert measure_difference(np.array([])) is None
