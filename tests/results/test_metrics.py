"""Metrics against sums by hand and scikit-learn."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import (
    mean_absolute_error,
    mean_absolute_percentage_error,
    mean_squared_error,
    median_absolute_error,
    r2_score,
)

from dnnjob.errors import DataError, NonFiniteError
from dnnjob.results import metrics
from dnnjob.results.metrics import Metrics, Totals, add_up, pack_totals, unpack_totals

Doubles = npt.NDArray[np.float64]


def measure(y_true: Doubles, y_pred: Doubles, *, target_std: float | None) -> Metrics | None:
    return add_up(y_true, y_pred).metrics(target_std=target_std)


def test_four_rows_give_the_errors_computed_by_hand() -> None:
    y_true = np.array([1.0, 2.0, 3.0, 4.0])
    y_pred = np.array([1.0, 2.0, 5.0, 3.0])

    found = measure(y_true, y_pred, target_std=2.0)

    assert found is not None
    assert found.num_rows == 4
    assert found.mse == pytest.approx(5 / 4)
    assert found.rmse == pytest.approx((5 / 4) ** 0.5)
    assert found.mae == pytest.approx(3 / 4)
    assert found.r2 == pytest.approx(1 - 5 / 5)
    assert found.mse_standardized == pytest.approx(5 / 16)


def test_metrics_agree_with_scikit_learn_far_from_zero() -> None:
    rng = np.random.default_rng(0)
    y_true = 1e9 + rng.normal(size=1000)
    y_pred = y_true + rng.normal(scale=0.3, size=1000)

    found = measure(y_true, y_pred, target_std=None)

    assert found is not None
    assert found.mse == pytest.approx(mean_squared_error(y_true, y_pred), rel=1e-9)
    assert found.mae == pytest.approx(mean_absolute_error(y_true, y_pred), rel=1e-9)
    assert found.r2 == pytest.approx(r2_score(y_true, y_pred), rel=1e-6)
    assert found.mse_standardized is None
    assert found.median_absolute_error == median_absolute_error(y_true, y_pred)
    assert found.mape == pytest.approx(mean_absolute_percentage_error(y_true, y_pred), rel=1e-9)
    assert found.mape_num_rows == 1000


def test_rows_with_a_target_of_zero_have_no_share_in_the_mape() -> None:
    found = measure(np.array([0.0, 2.0, -4.0]), np.array([5.0, 3.0, -3.0]), target_std=None)
    none = measure(np.zeros(3), np.ones(3), target_std=None)

    assert found is not None
    assert none is not None
    assert (found.mape, found.mape_num_rows) == (pytest.approx((1 / 2 + 1 / 4) / 2), 2)
    assert (none.mape, none.mape_num_rows) == (None, 0)


def test_a_mape_beyond_all_bounds_is_none() -> None:
    found = measure(np.array([1e-300, 1.0]), np.array([1e10, 1.0]), target_std=None)
    assert found is not None
    assert found.mape is None


def test_the_median_of_many_rows_is_close_to_the_exact_one() -> None:
    y_pred = np.random.default_rng(3).normal(size=100_000)
    found = measure(np.zeros(100_000), y_pred, target_std=None)
    assert found is not None
    assert found.median_absolute_error == pytest.approx(float(np.median(np.abs(y_pred))), rel=2e-3)


def test_packed_totals_come_back_as_they_were() -> None:
    y_true, y_pred = np.random.default_rng(4).normal(size=(2, 20_000))
    totals = [add_up(y_true, y_pred), Totals(), add_up(y_true[:3], y_pred[:3])]

    found = unpack_totals(pack_totals(totals))

    assert [one.metrics(target_std=2.0) for one in found] == [
        one.metrics(target_std=2.0) for one in totals
    ]


def test_totals_of_parts_add_up_to_those_of_all_rows() -> None:
    rng = np.random.default_rng(1)
    y_true = 1e6 + rng.normal(size=997)
    y_pred = y_true + rng.normal(size=997)
    cuts = [0, 1, 400, 400, 997]

    parts = [add_up(y_true[a:b], y_pred[a:b]) for a, b in pairwise(cuts)]
    found = sum(parts, start=Totals()).metrics(target_std=3.0)
    whole = measure(y_true, y_pred, target_std=3.0)

    assert found is not None
    assert whole is not None
    assert found.model_dump() == pytest.approx(whole.model_dump(), rel=1e-9)


def test_a_table_of_many_blocks_is_measured_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    y_true, y_pred = rng.normal(size=(2, 1001))
    whole = measure(y_true, y_pred, target_std=None)

    monkeypatch.setattr(metrics, "BLOCK_ROWS", 100)
    found = measure(y_true, y_pred, target_std=None)

    assert whole is not None
    assert found is not None
    assert found.mse == pytest.approx(whole.mse, rel=1e-12)
    assert found.r2 == pytest.approx(whole.r2, rel=1e-9)


@pytest.mark.parametrize("num_rows", [1, 7, 1000])
def test_a_constant_target_has_no_r2(num_rows: int) -> None:
    y_true = np.full(num_rows, 0.1)

    totals = add_up(y_true, y_true + 1) + add_up(y_true, y_true + 1)
    found = totals.metrics(target_std=None)

    assert found is not None
    assert found.r2 is None
    assert found.mse == pytest.approx(1)


def test_float32_predictions_are_summed_in_float64() -> None:
    y_true = np.zeros(100_000)
    y_pred = np.full(100_000, 0.1, np.float32)

    found = measure(y_true, y_pred, target_std=None)

    assert found is not None
    assert found.mse == pytest.approx(float(np.float32(0.1)) ** 2, rel=1e-12)


def test_no_rows_have_no_metrics() -> None:
    assert measure(np.empty(0), np.empty(0), target_std=1.0) is None


def test_different_shapes_are_refused() -> None:
    with pytest.raises(DataError, match=r"\(3,\) and predictions of shape \(3, 1\).*Flatten"):
        measure(np.zeros(3), np.zeros((3, 1)), target_std=None)


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(DataError, match="1 of 3 are not"):
        measure(np.array([0, np.nan, 1]), np.zeros(3), target_std=None)


def test_a_non_finite_prediction_is_refused() -> None:
    with pytest.raises(NonFiniteError, match="2 of 3 are NaN or infinite"):
        measure(np.zeros(3), np.array([0, np.nan, np.inf]), target_std=None)
