"""Means and standard deviations, against scipy and scikit-learn."""

import numpy as np
import pytest
import scipy.stats
from sklearn.preprocessing import StandardScaler

from dnnjob.data.sources import Fingerprint, Table
from dnnjob.data.split import Split, split_rows
from dnnjob.data.statistics import fit_standardization


def make_table(x: np.ndarray, y: np.ndarray) -> Table:
    return Table(
        source="made",
        features=tuple(f"f{number}" for number in range(x.shape[1])),
        target="y",
        x=x,
        y=y,
        columns=(),
        fingerprint=Fingerprint("sha256-values", ""),
    )


@pytest.fixture
def table() -> Table:
    random = np.random.default_rng(1)
    return make_table(
        random.lognormal(size=(200, 5)) * [1, 1e-6, 1e6, 1, 3] + [0, 0, 1e9, -5, 0],
        random.normal(20, 9, size=200),
    )


@pytest.fixture
def split() -> Split:
    return split_rows(200, test_fraction=0.3, validation_fraction=0.1, seed=0)


def test_table_mode_gives_the_z_scores_of_scipy(table: Table, split: Split) -> None:
    scale = fit_standardization(table, split, "table")
    z = (table.x - scale.mean) / scale.std
    np.testing.assert_allclose(z, scipy.stats.zscore(table.x), rtol=1e-12)
    z_target = (table.y - scale.target_mean) / scale.target_std
    np.testing.assert_allclose(z_target, scipy.stats.zscore(table.y), rtol=1e-12)


def test_train_mode_is_scikit_learns_scaler_fitted_on_the_training_rows(
    table: Table, split: Split
) -> None:
    scale = fit_standardization(table, split, "train")
    scaler = StandardScaler().fit(table.x[split.train])
    np.testing.assert_allclose(scale.mean, scaler.mean_, rtol=1e-12)
    np.testing.assert_allclose(scale.std, scaler.scale_, rtol=1e-9)
    assert scale.target_mean == pytest.approx(table.y[split.train].mean(), rel=1e-12)
    assert scale.reported_target_std == pytest.approx(table.y[split.train].std(), rel=1e-12)
    assert scale.mean.dtype == scale.std.dtype == np.float64


def test_train_mode_does_not_see_the_other_rows(table: Table, split: Split) -> None:
    expected = fit_standardization(table, split, "train")
    x, y = table.x.copy(), table.y.copy()
    x[split.test], y[split.validation] = 1e6, -1e6
    scale = fit_standardization(make_table(x, y), split, "train")
    np.testing.assert_array_equal(scale.mean, expected.mean)
    assert scale.target_std == expected.target_std


def test_no_standardization_leaves_numbers_as_they_are(table: Table, split: Split) -> None:
    scale = fit_standardization(table, split, "none")
    np.testing.assert_array_equal((table.x - scale.mean) / scale.std, table.x)
    assert (scale.target_mean, scale.target_std) == (0.0, 1.0)
    assert scale.reported_target_std is None


@pytest.mark.parametrize("value", [0.1, 0.0, -7.3, 1e30])
def test_a_constant_feature_becomes_zero_with_deviation_one(value: float) -> None:
    x = np.stack([np.full(10, value), np.arange(10.0)], axis=1)
    table = make_table(x, np.arange(10.0))
    split = split_rows(10, test_fraction=0.3, validation_fraction=0.0, seed=0)
    scale = fit_standardization(table, split, "train")
    assert scale.std[0] == 1.0
    np.testing.assert_array_equal((x[:, 0] - scale.mean[0]) / scale.std[0], np.zeros(10))


def test_a_target_that_is_constant_in_the_training_rows_gets_deviation_one() -> None:
    split = split_rows(10, test_fraction=0.3, validation_fraction=0.0, seed=0)
    y = np.full(10, 0.3)
    y[split.test] = 5.0
    scale = fit_standardization(make_table(np.arange(10.0)[:, None], y), split, "train")
    assert (scale.target_mean, scale.target_std) == (0.3, 1.0)
