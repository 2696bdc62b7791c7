"""Encodings of a table, against scipy, scikit-learn and pandas."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from sklearn.preprocessing import StandardScaler

from dnnjob.config import DataConfig, JobConfig
from dnnjob.data.encoding import Encoding
from dnnjob.data.measurement import measure_table
from dnnjob.data.raw_columns import Block, Texts
from dnnjob.data.schema import make_column
from dnnjob.data.split import TRAIN, Split, split_rows
from dnnjob.data.table import Table, piece_rows
from dnnjob.errors import DataError
from tests.data.opened import hold, measure_block

DATA = DataConfig(source="made", target="y", test_fraction=0.3, validation_fraction=0.1)


def make_table(x: np.ndarray, y: np.ndarray, **changes: object) -> Table:
    data = DATA.model_copy(update=changes)
    columns = [make_column(f"f{number}", "numeric", values) for number, values in enumerate(x.T)]
    typed = hold(data, [*columns, make_column("y", "numeric", y)])
    return measure_table(JobConfig(name="t", data=data), typed)


def fit(x: np.ndarray, y: np.ndarray, mode: str, **changes: object) -> Encoding:
    table = make_table(x, y, **changes)
    return table.fit_encoding(table.data.model_copy(update={"standardize": mode}))


def scale(encoding: Encoding, x: np.ndarray) -> np.ndarray:
    columns = encoding.number_columns
    return (x - [column.mean for column in columns]) / [column.std for column in columns]


@pytest.fixture
def x() -> np.ndarray:
    random = np.random.default_rng(1)
    return random.lognormal(size=(200, 5)) * [1, 1e-6, 1e6, 1, 3] + [0, 0, 1e9, -5, 0]


@pytest.fixture
def y() -> np.ndarray:
    return np.random.default_rng(2).normal(20, 9, size=200)


@pytest.fixture
def split() -> Split:
    return split_rows(200, test_fraction=0.3, validation_fraction=0.1, seed=0)


def test_table_mode_gives_the_z_scores_of_scipy(x: np.ndarray, y: np.ndarray) -> None:
    encoding = fit(x, y, "table")

    np.testing.assert_allclose(scale(encoding, x), scipy.stats.zscore(x), rtol=1e-9)
    np.testing.assert_allclose(encoding.target.scale(y), scipy.stats.zscore(y), rtol=1e-4)


def test_train_mode_is_scikit_learns_scaler_fitted_on_the_training_rows(
    x: np.ndarray, y: np.ndarray, split: Split
) -> None:
    encoding = fit(x, y, "train")

    scaler = StandardScaler().fit(x[split.train])
    columns, target = encoding.number_columns, encoding.target
    np.testing.assert_allclose([column.mean for column in columns], scaler.mean_, rtol=1e-12)
    np.testing.assert_allclose([column.std for column in columns], scaler.scale_, rtol=1e-9)
    medians = np.median(x[split.train], axis=0)
    np.testing.assert_array_equal([column.fill for column in columns], medians)
    assert target.mean == pytest.approx(y[split.train].mean(), rel=1e-12)
    assert target.raw_std == pytest.approx(y[split.train].std(), rel=1e-12)


@pytest.mark.parametrize("mode", ["train", "table"])
def test_medians_of_tables_of_tens_of_thousands_of_rows_are_exact(mode: str) -> None:
    x = np.random.default_rng(0).normal(size=(50_001, 2))
    rows = slice(None)
    if mode == "train":
        rows = split_rows(len(x), test_fraction=0.3, validation_fraction=0.1, seed=0).train

    encoding = fit(x, x[:, 0], mode)

    fills = [column.fill for column in encoding.number_columns]
    np.testing.assert_array_equal(fills, np.median(x[rows], axis=0))


def test_train_mode_does_not_see_the_other_rows(x: np.ndarray, y: np.ndarray, split: Split) -> None:
    before = fit(x, y, "train")
    x[split.test], y[split.validation] = 1e6, -1e6

    assert fit(x, y, "train") == before


def test_no_standardization_leaves_numbers_as_they_are(x: np.ndarray, y: np.ndarray) -> None:
    encoding = fit(x, y, "none")

    np.testing.assert_array_equal(scale(encoding, x), x)
    np.testing.assert_array_equal(encoding.target.scale(y), y.astype(np.float32))
    assert encoding.target.raw_std is None


@pytest.mark.parametrize("value", [0.1, 0.0, -7.3, 1e30])
def test_a_constant_feature_becomes_zero_with_deviation_one(value: float) -> None:
    x = np.stack([np.full(10, value), np.arange(10.0)], axis=1)

    encoding = fit(x, np.arange(10.0), "train")

    assert encoding.number_columns[0].std == 1.0
    np.testing.assert_array_equal(scale(encoding, x)[:, 0], np.zeros(10))


def test_a_target_that_is_constant_in_the_training_rows_gets_deviation_one() -> None:
    split = split_rows(10, test_fraction=0.3, validation_fraction=0.0, seed=0)
    y = np.full(10, 0.3)
    y[split.test] = 5.0

    target = fit(np.arange(10.0)[:, None], y, "train", validation_fraction=0.0).target

    assert (target.mean, target.std) == (0.3, 1.0)


def test_unlabelled_rows_take_part_in_the_features_of_a_whole_table_alone() -> None:
    x, y = np.array([[1.0], [2.0], [3.0], [10.0]]), np.array([1.0, 2.0, 3.0, np.nan])

    encoding = fit(x, y, "table", validation_fraction=0.0)

    assert (encoding.number_columns[0].mean, encoding.target.mean) == (4.0, 2.0)


@pytest.mark.parametrize("mode", ["train", "table"])
def test_predictions_stay_in_the_range_of_the_training_rows_whatever_scales_them(
    x: np.ndarray, y: np.ndarray, split: Split, mode: str
) -> None:
    y[split.test[0]], y[split.validation[0]] = -500.0, 500.0

    target = fit(x, y, mode, target_range="trained").target

    assert target.bounds == (y[split.train].min(), y[split.train].max())


def test_a_transformed_target_is_scaled_after_and_errors_before(
    x: np.ndarray, y: np.ndarray, split: Split
) -> None:
    y = np.exp(y / 9)

    target = fit(x, y, "train", target_transform="log1p").target

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


# What is wrong


def test_a_target_without_any_value_is_told_before_its_split_is() -> None:
    with pytest.raises(DataError, match="of 'y' in made it is missing in all 9 rows"):
        make_table(np.arange(9.0)[:, None], np.full(9, np.nan))


def test_a_split_of_zero_weights_is_refused() -> None:
    data = DATA.model_copy(update={"weight_column": "w", "validation_fraction": 0.0})
    split = split_rows(10, test_fraction=0.3, validation_fraction=0.0, seed=0)
    weights = np.ones(10)
    weights[split.train] = 0.0
    columns = {"x": np.arange(10.0), "w": weights, "y": np.arange(10.0)}
    made = [make_column(name, "numeric", values) for name, values in columns.items()]
    table = measure_table(JobConfig(name="t", data=data), hold(data, made))

    with pytest.raises(DataError, match="none of the 7 training rows has one"):
        table.mean_weight(TRAIN)


# Pieces


def test_rows_of_many_inputs_are_read_fewer_at_a_time() -> None:
    assert piece_rows(20) == piece_rows(256) == 2**16
    assert piece_rows(2560) == 2**26 // (4 * 2560)
    assert piece_rows(10**9) == 1
