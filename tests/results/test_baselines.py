"""Baselines against scikit-learn."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_squared_error
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits

from dnnjob.errors import DataError
from dnnjob.results import baselines
from dnnjob.results.baselines import Baselines, LinearSums

HOUSING = Path(__file__).parents[2].parent / "shared" / "data" / "housing.csv"


def _make_table(num_rows: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(num_rows, 5)) * [1, 1e-6, 1e6, 3, 1] + [0, 0, 1e9, 5, 2]
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    return x, z @ [1, -2, 3, 0, 0.5] + 7 + rng.normal(size=num_rows)


def baseline_mse(
    x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray, y_test: np.ndarray
) -> Baselines:
    """Errors of the baselines from rows that come in two pieces, tests among the others."""
    x, y = np.concatenate([x_train, x_test]), np.concatenate([y_train, y_test])
    is_test = np.arange(len(y)) >= len(y_train)
    sums = LinearSums.of(num_rows=len(y), num_inputs=x.shape[1])
    for rows in np.array_split(np.arange(len(y)), 2):
        sums = sums.added(x[rows], y[rows], is_test=is_test[rows])
    return sums.solve()


def test_the_mean_baseline_is_the_training_mean_by_hand() -> None:
    x = np.zeros((2, 1))

    found = baseline_mse(x, np.array([1.0, 3.0]), x, np.array([2.0, 5.0]))

    assert found.mean.mse == pytest.approx((0 + 9) / 2)


def test_the_linear_baseline_agrees_with_scikit_learn() -> None:
    x, y = _make_table()
    x_mean, x_std = x[:200].mean(axis=0), x[:200].std(axis=0)
    z = (x - x_mean) / x_std

    found = baseline_mse(x[:200], y[:200], x[200:], y[200:])

    model = LinearRegression().fit(z[:200], y[:200])
    expected = mean_squared_error(y[200:], model.predict(z[200:]))
    assert found.linear.mse == pytest.approx(expected, rel=1e-9)


def test_sums_of_products_give_the_fit_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = _make_table()
    x = x - x[:200].mean(axis=0)
    whole = baseline_mse(x[:200], y[:200], x[200:], y[200:])

    monkeypatch.setattr(baselines, "MAX_HELD_VALUES", 35)
    found = baseline_mse(x[:200], y[:200], x[200:], y[200:])

    assert found.linear.mse == pytest.approx(whole.linear.mse, rel=1e-9)
    assert found.mean.mse == pytest.approx(whole.mean.mse, rel=1e-12)


@pytest.mark.parametrize("held_values", [35, 2**20])
def test_repeated_and_constant_features_change_nothing(
    monkeypatch: pytest.MonkeyPatch, held_values: int
) -> None:
    monkeypatch.setattr(baselines, "MAX_HELD_VALUES", held_values)
    x, y = _make_table()
    x = x - x[:200].mean(axis=0)
    padded = np.column_stack([x, x[:, 0], 2 * x[:, 3] - 1, np.full(len(x), 0.1)])
    plain = baseline_mse(x[:200], y[:200], x[200:], y[200:])

    found = baseline_mse(padded[:200], y[:200], padded[200:], y[200:])

    assert found.linear.mse == pytest.approx(plain.linear.mse, rel=1e-6)


def test_a_feature_constant_in_training_alone_is_left_out() -> None:
    x, y = _make_table()
    odd = np.column_stack([x, np.where(np.arange(len(x)) < 200, 3.0, 1e6)])
    plain = baseline_mse(x[:200], y[:200], x[200:], y[200:])

    found = baseline_mse(odd[:200], y[:200], odd[200:], y[200:])

    assert found.linear.mse == pytest.approx(plain.linear.mse, rel=1e-9)


def test_a_table_wider_than_long_is_solved_by_its_rows() -> None:
    assert LinearSums.of(num_rows=300, num_inputs=10_000).holds_rows
    assert not LinearSums.of(num_rows=30_000, num_inputs=100).holds_rows


def test_the_threads_of_this_machine_move_no_bit_of_a_wide_table() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(240, 700)), rng.normal(size=240)
    sums = LinearSums.of(num_rows=240, num_inputs=700).added(x, y, is_test=np.arange(240) >= 200)
    found = []
    for threads in (1, 2):
        with threadpool_limits(limits=threads, user_api="blas"):
            found.append(sums.solve().linear.mse)
    assert found[0] == found[1]


def test_more_features_than_rows_give_the_shortest_solution() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(30, 20)), rng.normal(size=30)
    z = (x - x[:10].mean(axis=0)) / x[:10].std(axis=0)
    weights = np.linalg.lstsq(z[:10], y[:10] - y[:10].mean(), rcond=None)[0]
    expected = mean_squared_error(y[10:], z[10:] @ weights + y[:10].mean())

    found = baseline_mse(x[:10], y[:10], x[10:], y[10:])

    assert found.linear.mse == pytest.approx(expected, rel=1e-9)


@pytest.mark.skipif(not HOUSING.is_file(), reason="needs shared/data/housing.csv")
def test_housing_has_the_linear_error_scikit_learn_finds() -> None:
    table = pd.read_csv(HOUSING)
    x, y = table.drop(columns="MEDV").to_numpy(float), table["MEDV"].to_numpy(float)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.3, random_state=0)

    found = baseline_mse(x_train, y_train, x_test, y_test)

    model = LinearRegression().fit(x_train, y_train)
    expected = mean_squared_error(y_test, model.predict(x_test))
    assert found.linear.mse == pytest.approx(expected, rel=1e-9)
    assert found.mean.mse == pytest.approx(np.mean((y_test - y_train.mean()) ** 2), rel=1e-12)


@pytest.mark.parametrize(("num_train", "num_test"), [(0, 3), (3, 0)])
def test_a_side_without_rows_is_refused(num_train: int, num_test: int) -> None:
    with pytest.raises(DataError, match=f"got {num_train} and {num_test}.*test_fraction"):
        baseline_mse(
            np.zeros((num_train, 1)),
            np.zeros(num_train),
            np.zeros((num_test, 1)),
            np.zeros(num_test),
        )
