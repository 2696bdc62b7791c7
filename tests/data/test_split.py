"""Splits, against scikit-learn's."""

import numpy as np
import pytest
from sklearn.model_selection import KFold, train_test_split

from dnnjob.data.split import split_rows
from dnnjob.errors import DataError

SIZES = [*range(2, 41), 100, 101, 354, 506, 1000, 4177, 20641]
FRACTIONS = [0.01, 0.1, 0.2, 0.25, 0.3, 1 / 3, 0.5, 0.7, 0.9, 0.99]


@pytest.mark.parametrize("seed", [0, 1, 42, 2**32 - 1])
def test_the_test_rows_are_those_of_scikit_learn(seed: int) -> None:
    compared = 0
    for num_rows in SIZES:
        for fraction in FRACTIONS:
            try:
                train, test = train_test_split(
                    np.arange(num_rows), test_size=fraction, random_state=seed
                )
            except ValueError:
                with pytest.raises(DataError):
                    split_rows(num_rows, test_fraction=fraction, validation_fraction=0.0, seed=seed)
                continue
            split = split_rows(num_rows, test_fraction=fraction, validation_fraction=0.0, seed=seed)
            np.testing.assert_array_equal(split.train, np.sort(train))
            np.testing.assert_array_equal(split.test, np.sort(test))
            assert len(split.validation) == 0
            compared += 1
    assert compared > 0.8 * len(SIZES) * len(FRACTIONS)


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.3, 1 / 3, 0.5])
def test_the_validation_rows_are_a_second_split_of_the_training_rows(
    seed: int, fraction: float
) -> None:
    for num_rows in [5, 6, 7, 10, 33, 100, 506, 4177]:
        train, test = train_test_split(np.arange(num_rows), test_size=0.3, random_state=seed)
        train, validation = train_test_split(train, test_size=fraction, random_state=seed)
        split = split_rows(num_rows, test_fraction=0.3, validation_fraction=fraction, seed=seed)
        np.testing.assert_array_equal(split.train, np.sort(train))
        np.testing.assert_array_equal(split.validation, np.sort(validation))
        np.testing.assert_array_equal(split.test, np.sort(test))


def test_every_row_is_in_one_split() -> None:
    split = split_rows(506, test_fraction=0.3, validation_fraction=0.1, seed=0)
    rows = np.concatenate([split.train, split.validation, split.test])
    np.testing.assert_array_equal(np.sort(rows), np.arange(506))
    assert rows.dtype == np.int64


def test_making_a_split_leaves_the_global_random_state_alone() -> None:
    np.random.seed(3)
    expected = np.random.rand()
    np.random.seed(3)
    split_rows(100, test_fraction=0.3, validation_fraction=0.1, seed=0)
    assert np.random.rand() == expected


def test_without_a_test_fraction_all_rows_train_and_validate() -> None:
    split = split_rows(100, test_fraction=0.0, validation_fraction=0.25, seed=3)
    train, validation = train_test_split(np.arange(100), test_size=0.25, random_state=3)

    assert len(split.test) == 0
    np.testing.assert_array_equal(split.train, np.sort(train))
    np.testing.assert_array_equal(split.validation, np.sort(validation))


@pytest.mark.parametrize(("num_rows", "fraction"), [(1, 0.3), (3, 0.9), (2, 0.6)])
def test_a_fraction_that_leaves_no_training_row_is_refused(num_rows: int, fraction: float) -> None:
    with pytest.raises(DataError, match=rf"test_fraction = {fraction} of {num_rows} rows leaves 0"):
        split_rows(num_rows, test_fraction=fraction, validation_fraction=0.0, seed=0)


def test_no_rows_at_all_are_refused() -> None:
    with pytest.raises(DataError, match="of 0 rows leaves 0 and 0"):
        split_rows(0, test_fraction=0.3, validation_fraction=0.0, seed=0)


def test_a_validation_fraction_that_leaves_no_training_row_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"validation_fraction = 0.5 of 1 training rows leaves 0 and 1"
    ):
        split_rows(2, test_fraction=0.5, validation_fraction=0.5, seed=0)


# Folds


@pytest.mark.parametrize(("num_rows", "folds"), [(2, 2), (5, 2), (5, 5), (11, 3), (506, 10)])
def test_folds_are_those_of_scikit_learn(num_rows: int, folds: int) -> None:
    expected = KFold(folds, shuffle=True, random_state=7).split(np.arange(num_rows))
    for fold, (train, test) in enumerate(expected):
        split = split_rows(
            num_rows, test_fraction=0.3, validation_fraction=0.0, seed=7, folds=folds, fold=fold
        )
        np.testing.assert_array_equal(split.train, train)
        np.testing.assert_array_equal(split.test, test)


def test_folds_leave_rows_for_validation() -> None:
    split = split_rows(100, test_fraction=0.3, validation_fraction=0.25, seed=0, folds=5, fold=4)
    assert [len(rows) for rows in (split.train, split.validation, split.test)] == [60, 20, 20]
    assert len({*split.train, *split.validation, *split.test}) == 100


def test_more_folds_than_rows_are_refused() -> None:
    with pytest.raises(DataError, match=r"data\.folds = 4 and the table has 3"):
        split_rows(3, test_fraction=0.3, validation_fraction=0.0, seed=0, folds=4)
