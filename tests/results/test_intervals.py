"""Intervals: what conformal prediction promises, on rows whose truth is known."""

import numpy as np
import pytest

from dnnjob.results.intervals import Intervals, calibrate, least_rows


def make_rows(num_rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Targets and predictions whose errors are skewed."""
    rng = np.random.default_rng(seed)
    y_pred = rng.normal(20, 5, num_rows)
    return y_pred + rng.exponential(2, num_rows) - 1, y_pred


def calibrate_split(y: np.ndarray, y_pred: np.ndarray, level: float = 0.9) -> Intervals | None:
    return calibrate(y, y_pred, level=level, method="split", transform="none")


@pytest.mark.parametrize(("num_rows", "rank"), [(9, 9), (10, 10), (18, 18), (19, 18), (99, 90)])
def test_the_half_width_is_the_error_of_the_next_rank(num_rows: int, rank: int) -> None:
    y_pred = np.zeros(num_rows)
    y = np.random.default_rng(0).permutation(np.arange(1.0, num_rows + 1))

    found = calibrate_split(y, y_pred)

    assert found is not None
    assert (found.half_width, found.num_rows) == (float(rank), num_rows)


@pytest.mark.parametrize(("level", "least"), [(0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99)])
def test_too_few_rows_calibrate_nothing(level: float, least: int) -> None:
    y, y_pred = make_rows(least)

    assert least_rows(level) == least
    assert calibrate_split(y, y_pred, level) is not None
    assert calibrate_split(y[1:], y_pred[1:], level) is None


def test_new_rows_are_held_as_often_as_promised() -> None:
    shares = []
    for seed in range(400):
        y, y_pred = make_rows(40, seed)
        found = calibrate_split(y[:20], y_pred[:20])
        assert found is not None
        shares.append(found.judged(y[20:], y_pred[20:]).coverage_test)

    # Of 20 rows the 19th smallest error: exactly 19 of 21 new rows in the mean.
    assert np.mean(shares) == pytest.approx(19 / 21, abs=0.012)


def test_bounds_lie_evenly_around_the_prediction() -> None:
    y, y_pred = make_rows(100)
    found = calibrate_split(y, y_pred)
    assert found is not None

    lower, upper = found.bounds(y_pred)

    np.testing.assert_allclose(upper - y_pred, found.half_width)
    np.testing.assert_allclose(y_pred - lower, found.half_width)
    assert found.judged(y, y_pred).mean_width == pytest.approx(2 * found.half_width)


def test_intervals_of_a_logarithm_grow_with_the_prediction_and_hold_as_many() -> None:
    rng = np.random.default_rng(1)
    y_pred = np.expm1(rng.uniform(0, 5, 2000))
    y = np.expm1(np.log1p(y_pred) + rng.normal(0, 0.1, 2000))
    known = {"level": 0.9, "method": "split", "transform": "log1p"}

    found = calibrate(y[:1000], y_pred[:1000], **known)

    assert found is not None
    lower, upper = found.bounds(np.array([-1.0, 0.0, 100.0]))
    assert np.isfinite(lower).all()
    assert upper[2] - lower[2] > 50 * (upper[1] - lower[1])
    judged = found.judged(y[1000:], y_pred[1000:])
    assert judged.coverage_test == pytest.approx(0.9, abs=0.03)


def test_without_test_rows_nothing_judges_them() -> None:
    found = calibrate_split(*make_rows(50))
    assert found is not None

    judged = found.judged(np.empty(0), np.empty(0))

    assert (judged.coverage_test, judged.mean_width) == (None, None)
