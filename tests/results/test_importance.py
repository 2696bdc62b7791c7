"""Permutation importance, against what it is for a linear model."""

import logging

import numpy as np
import pytest

from dnnjob.results import importance
from dnnjob.results.importance import REPEATS, measure_importance

WEIGHTS = np.array([3.0, 0.0, -1.0, 0.5], np.float32)


def predict(x: np.ndarray) -> np.ndarray:
    return (x @ WEIGHTS).astype(np.float64)


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(5000, 4)).astype(np.float32)


def test_shuffling_a_column_costs_twice_the_variance_of_its_part(x: np.ndarray) -> None:
    places = {"a": (0,), "b": (1,), "c": (2,), "d": (3,)}
    found = measure_importance(predict, x, predict(x), places=places, num_params=1, seed=0)
    assert [one.column for one in found] == ["a", "c", "d", "b"]
    expected = 2 * np.square(WEIGHTS[[0, 2, 3, 1]])
    np.testing.assert_allclose([one.mse_increase for one in found], expected, rtol=0.06)
    assert found[0].mse_increase_std > 0


def test_the_inputs_of_one_column_are_shuffled_together(x: np.ndarray) -> None:
    # Where two inputs cancel each other, shuffling them together changes nothing.
    x[:, 1] = x[:, 0]
    weights = np.array([1.0, -1.0, 1.0, 0.0], np.float32)

    def cancel(rows: np.ndarray) -> np.ndarray:
        return (rows @ weights).astype(np.float64)

    places = {"pair": (0, 1), "one": (2,)}
    found = measure_importance(cancel, x, cancel(x), places=places, num_params=1, seed=0)
    by_name = {one.column: one.mse_increase for one in found}
    assert by_name["pair"] == pytest.approx(0, abs=1e-9)
    assert by_name["one"] == pytest.approx(2, rel=0.06)


def test_a_useless_column_may_have_a_negative_worth(x: np.ndarray) -> None:
    y = -x[:, 3].astype(np.float64)
    (worst,) = measure_importance(predict, x, y, places={"d": (3,)}, num_params=1, seed=0)
    assert worst.mse_increase < 0


def test_equal_seeds_give_equal_numbers(x: np.ndarray) -> None:
    first, again = (
        measure_importance(predict, x, predict(x), places={"a": (0,)}, num_params=1, seed=7)
        for _ in range(2)
    )
    assert first == again


def test_a_huge_table_is_sampled(x: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def count(rows: np.ndarray) -> np.ndarray:
        sizes.append(len(rows))
        return predict(rows)

    monkeypatch.setattr(importance, "MAX_PRODUCTS", 100 * 200 * REPEATS * 2)
    places = {"a": (0,), "b": (1,)}
    (first, _) = measure_importance(count, x, predict(x), places=places, num_params=100, seed=0)
    assert sizes == [200, 200 * REPEATS, 200 * REPEATS]
    assert first.mse_increase == pytest.approx(18, rel=0.3)


def test_of_a_wide_table_the_columns_that_matter_are_shuffled_in_bounded_work(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="dnnjob")
    x = np.random.default_rng(1).normal(size=(100, 2000)).astype(np.float32)
    num_predicted = 0

    def predict_wide(rows: np.ndarray) -> np.ndarray:
        nonlocal num_predicted
        num_predicted += len(rows)
        return (3 * rows[:, 7] + 2 * np.square(rows[:, 1500])).astype(np.float64)

    monkeypatch.setattr(importance, "MAX_PRODUCTS", 2000 * 100 * REPEATS * 200)
    places = {f"x{i}": (i,) for i in range(2000)}
    found = measure_importance(
        predict_wide, x, predict_wide(x), places=places, num_params=2000, seed=0
    )
    assert {one.column for one in found[:2]} == {"x7", "x1500"}
    assert len(found) == 50
    assert num_predicted <= 2 * 100 + 50 * REPEATS * 100
    assert "Of 2000 columns the 50 that go most with the prediction are shuffled." in caplog.text


def test_the_number_of_columns_shuffled_does_not_grow_with_a_wide_table() -> None:
    shuffled = []
    for num_columns in (1000, 4000):
        x = np.random.default_rng(2).normal(size=(100, num_columns)).astype(np.float32)
        places = {f"x{i}": (i,) for i in range(num_columns)}
        found = measure_importance(
            lambda rows: rows[:, 0].astype(np.float64), x, x[:, 0].astype(np.float64),
            places=places, num_params=400 * num_columns, seed=0,
        )  # fmt: skip
        shuffled.append(len(found))
    assert shuffled[1] <= max(shuffled[0] / 2, importance.MIN_COLUMNS)


def test_of_a_wide_table_few_rows_let_no_more_columns_be_shuffled_than_a_hundred() -> None:
    shuffled = []
    for num_rows in (6, 100):
        x = np.random.default_rng(2).normal(size=(num_rows, 2000)).astype(np.float32)
        places = {f"x{i}": (i,) for i in range(2000)}
        found = measure_importance(
            lambda rows: rows[:, 0].astype(np.float64), x, x[:, 0].astype(np.float64),
            places=places, num_params=601_000, seed=0,
        )  # fmt: skip
        shuffled.append(len(found))
    assert shuffled[0] == shuffled[1]


def test_long_shuffling_tells_how_far_it_is(
    x: np.ndarray, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="dnnjob")
    monkeypatch.setattr(importance, "PROGRESS_S", -1.0)
    places = {"a": (0,), "b": (1,)}
    measure_importance(predict, x, predict(x), places=places, num_params=1, seed=0)
    assert caplog.messages == ["Shuffled 1 of 2 columns.", "Shuffled 2 of 2 columns."]
