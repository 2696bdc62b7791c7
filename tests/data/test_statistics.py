"""Encodings of tables in memory, against scipy, scikit-learn and pandas."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from sklearn.preprocessing import StandardScaler

from dnnjob.config.job import DataConfig
from dnnjob.data.block import Block, Texts
from dnnjob.data.encoding import Encoding
from dnnjob.data.fingerprint import Fingerprint
from dnnjob.data.schema import Column
from dnnjob.data.sources import Table
from dnnjob.data.split import Split, split_rows
from dnnjob.data.statistics import fit_encoding, measure_block

DATA = DataConfig(source="made", target="y")


def make_table(x: np.ndarray, y: np.ndarray) -> Table:
    features = tuple(f"f{number}" for number in range(x.shape[1]))
    return Table(
        source="made",
        features=features,
        target="y",
        block=dict(zip(features, x.T, strict=True)),
        y=y,
        columns=tuple(Column(name, "numeric") for name in features),
        fingerprint=Fingerprint("sha256-values", ""),
    )


def fit(table: Table, split: Split, mode: str) -> Encoding:
    return fit_encoding(table, split, DATA.model_copy(update={"standardize": mode}))


def scale(encoding: Encoding, x: np.ndarray) -> np.ndarray:
    columns = encoding.number_columns
    return (x - [column.mean for column in columns]) / [column.std for column in columns]


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
    encoding = fit(table, split, "table")
    np.testing.assert_allclose(scale(encoding, table.x), scipy.stats.zscore(table.x), rtol=1e-12)
    np.testing.assert_allclose(
        encoding.target.scale(table.y), scipy.stats.zscore(table.y), rtol=1e-5
    )


def test_train_mode_is_scikit_learns_scaler_fitted_on_the_training_rows(
    table: Table, split: Split
) -> None:
    encoding = fit(table, split, "train")
    scaler = StandardScaler().fit(table.x[split.train])
    columns, target = encoding.number_columns, encoding.target
    np.testing.assert_allclose([column.mean for column in columns], scaler.mean_, rtol=1e-12)
    np.testing.assert_allclose([column.std for column in columns], scaler.scale_, rtol=1e-9)
    medians = np.median(table.x[split.train], axis=0)
    np.testing.assert_array_equal([column.fill for column in columns], medians)
    assert target.mean == pytest.approx(table.y[split.train].mean(), rel=1e-12)
    assert target.raw_std == pytest.approx(table.y[split.train].std(), rel=1e-12)


def test_train_mode_does_not_see_the_other_rows(table: Table, split: Split) -> None:
    x, y = table.x, table.y.copy()
    x[split.test], y[split.validation] = 1e6, -1e6
    assert fit(make_table(x, y), split, "train") == fit(table, split, "train")


def test_no_standardization_leaves_numbers_as_they_are(table: Table, split: Split) -> None:
    encoding = fit(table, split, "none")
    np.testing.assert_array_equal(scale(encoding, table.x), table.x)
    np.testing.assert_array_equal(encoding.target.scale(table.y), table.y.astype(np.float32))
    assert encoding.target.raw_std is None


@pytest.mark.parametrize("value", [0.1, 0.0, -7.3, 1e30])
def test_a_constant_feature_becomes_zero_with_deviation_one(value: float) -> None:
    x = np.stack([np.full(10, value), np.arange(10.0)], axis=1)
    split = split_rows(10, test_fraction=0.3, validation_fraction=0.0, seed=0)
    encoding = fit(make_table(x, np.arange(10.0)), split, "train")
    assert encoding.number_columns[0].std == 1.0
    np.testing.assert_array_equal(scale(encoding, x)[:, 0], np.zeros(10))


def test_a_target_that_is_constant_in_the_training_rows_gets_deviation_one() -> None:
    split = split_rows(10, test_fraction=0.3, validation_fraction=0.0, seed=0)
    y = np.full(10, 0.3)
    y[split.test] = 5.0
    target = fit(make_table(np.arange(10.0)[:, None], y), split, "train").target
    assert (target.mean, target.std) == (0.3, 1.0)


def test_unlabelled_rows_take_part_in_the_features_of_a_whole_table_alone() -> None:
    y = np.array([1.0, 2.0, 3.0, np.nan])
    split = Split(np.array([0, 1]), np.array([], dtype=int), np.array([2]), np.array([3]))
    encoding = fit(make_table(np.array([[1.0], [2.0], [3.0], [10.0]]), y), split, "table")
    assert (encoding.number_columns[0].mean, encoding.target.mean) == (4.0, 2.0)


def test_a_transformed_target_is_scaled_after_and_errors_before(table: Table, split: Split) -> None:
    data = DATA.model_copy(update={"target_transform": "log1p"})
    y = np.exp(table.y / 9)
    target = fit_encoding(make_table(table.x, y), split, data).target
    trained = np.log1p(y[split.train])
    assert (target.mean, target.std) == pytest.approx((trained.mean(), trained.std()), rel=1e-12)
    assert target.raw_std == pytest.approx(y[split.train].std(), rel=1e-12)
    restored = target.restore(target.scale(y).astype(np.float64))
    np.testing.assert_allclose(restored, y, rtol=1e-5)


def test_statistics_of_columns_with_gaps_are_those_of_pandas() -> None:
    random = np.random.default_rng(0)
    numbers = np.where(random.random(99) < 0.2, np.nan, random.normal(5, 3, 99))
    words = [None if number < 2 else "abc"[int(number) % 3] for number in random.normal(5, 3, 99)]
    block: Block = {"gaps": numbers, "words": Texts.of(words), "whole": np.nan_to_num(numbers)}
    found = measure_block(block)
    series = pd.Series(numbers)
    assert list(found) == list(block)
    assert found["gaps"].num_missing == series.isna().sum()
    assert (found["gaps"].mean, found["gaps"].variance, found["gaps"].median) == pytest.approx(
        (series.mean(), series.var(ddof=0), series.median()), rel=1e-12
    )
    assert (found["gaps"].minimum, found["gaps"].maximum) == (series.min(), series.max())
    assert found["words"].counts == pd.Series(words).value_counts().to_dict()
    assert found["words"].num_missing == words.count(None)
    assert found["whole"].num_missing == 0


def test_a_column_of_gaps_alone_is_empty() -> None:
    found = measure_block({"n": np.full(3, np.nan), "t": Texts.of([None, None, None])})
    assert found["n"].is_empty
    assert found["t"].is_empty
