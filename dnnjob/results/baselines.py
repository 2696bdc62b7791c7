"""What a constant and a linear model reach on the test rows: the bars a network has to beat.

sums = LinearSums.of(num_rows=506, num_inputs=12)
sums = sums.added(x, y, is_test=is_test)            # some rows, then others
sums.solve().linear.mse
"""

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dnnjob.data.encoding import Encoding
from dnnjob.errors import DataError
from dnnjob.runs import Record

# Inputs of all rows, up to which the rows are held.
MAX_HELD_VALUES = 2**20
# Values of training rows, up to which one thread solves for them in seconds. Several wait for each
# other by spinning: beside the trees 40 times the time was seen, and their number moves last bits.
_MAX_VALUES_OF_A_THREAD = 2**22
# Categories of a column that a linear model is given.
_MAX_LINEAR_CATEGORIES = 64
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


class Baseline(Record):
    """How well a simple model does."""

    mse: float
    """Mean squared error, target units squared."""


class TreesBaseline(Baseline):
    """How well gradient-boosted trees do."""

    num_rows: int
    """Training rows that they were fitted to: all, or a sample of so many."""


class Baselines(Record):
    """The other models of one split."""

    mean: Baseline
    """The mean of the training targets, for every row."""
    linear: Baseline
    """Least squares with an intercept on the training rows."""
    trees: TreesBaseline | None = None
    """scikit-learn's `HistGradientBoostingRegressor` on the same columns; None where left out."""


@dataclass(frozen=True, eq=False)
class LinearSums:
    """What least squares takes of training and test rows: of few the rows, else sums of products.

    Both are float64 and have a column for each input, a one, and the target. From the rows the
    solution is as exact as float64 allows. Sums of products square the condition number, and what
    depends on other inputs up to its rounding is cut off; for 1,000,000 x 100 they take an eighth
    of the time of QR block by block.

    Attributes:
        holds_rows: Which of the two it is.
        train: Of the training rows: `(num_rows, num_inputs + 2)`, or a square of products.
        test: Of the test rows, likewise.
    """

    holds_rows: bool
    train: Doubles
    test: Doubles

    @classmethod
    def of(cls, *, num_rows: int, num_inputs: int) -> "LinearSums":
        """Of no rows yet, for a table of so many training and test rows together."""
        size = num_inputs + 2
        # Of a table wider than long the rows are the smaller of the two, and solving them takes
        # time that grows with the inputs, where products take its third power.
        holds_rows = num_rows * num_inputs <= MAX_HELD_VALUES or num_rows <= num_inputs
        none = np.zeros((0, size) if holds_rows else (size, size))
        return cls(holds_rows, none, none)

    def added(self, x: Doubles, y: Doubles, *, is_test: npt.NDArray[np.bool_]) -> "LinearSums":
        """With further rows.

        Args:
            x: Inputs, finite, any units, `(num_rows, num_inputs)`; of large ones deviations.
            y: Targets, finite, `(num_rows,)`; of large ones deviations.
            is_test: Which are test rows, the others are training rows, `(num_rows,)`.
        """
        rows = np.column_stack([x, np.ones(len(y)), y])
        train, test = rows[~is_test], rows[is_test]
        if self.holds_rows:
            return replace(
                self,
                train=np.concatenate([self.train, train]),
                test=np.concatenate([self.test, test]),
            )
        return replace(self, train=self.train + train.T @ train, test=self.test + test.T @ test)

    def solve(self) -> Baselines:
        """Test errors of the models fitted to the training rows.

        Raises:
            DataError: If there are no training or no test rows.
        """
        num_train, num_test = (
            len(one) if self.holds_rows else int(one[-2, -2]) for one in (self.train, self.test)
        )
        if not (num_train and num_test):
            raise DataError(
                f"Baselines need training and test rows, but got {num_train} and {num_test}. "
                "Change data.test_fraction, or add rows."
            )
        squared = self._solve_rows() if self.holds_rows else self._solve_products()
        mean, linear = (Baseline(mse=max(0.0, one) / num_test) for one in squared)
        return Baselines(mean=mean, linear=linear)

    def _solve_rows(self) -> tuple[float, float]:
        """Sums of squared errors of the mean and of the linear model."""
        # Seen from its first value a constant column deviates by exactly zero.
        origin = self.train[0]
        train, test = self.train - origin, self.test - origin
        means = train.mean(axis=0)
        train, test = np.delete(train - means, -2, axis=1), np.delete(test - means, -2, axis=1)
        # A constant column becomes zeros.
        std = np.sqrt(np.square(train[:, :-1]).mean(axis=0))
        std[std == 0] = math.inf
        # Of centred columns, so that the intercept is the mean.
        with _limit_threads(train.size):
            weights, *_ = np.linalg.lstsq(train[:, :-1] / std, train[:, -1])
            errors = test[:, :-1] / std @ weights - test[:, -1]
        return float(np.square(test[:, -1]).sum()), float(np.square(errors).sum())

    def _solve_products(self) -> tuple[float, float]:
        """The same of sums of products."""
        # Around the training means, so that the intercept is the mean of the target.
        means = self.train[-2] / self.train[-2, -2]
        train, test = (_centred(one, means) for one in (self.train, self.test))
        gram, products = train[:-1, :-1], train[:-1, -1]
        scale = np.sqrt(np.diag(gram))
        scale[scale == 0] = math.inf
        cutoff = 100 * len(gram) * np.finfo(np.float64).eps
        weights, *_ = np.linalg.lstsq(gram / np.outer(scale, scale), products / scale, rcond=cutoff)
        error = np.append(-weights / scale, 1.0)
        return float(test[-1, -1]), float(error @ test @ error)


def _limit_threads(num_values: int) -> AbstractContextManager[Any]:
    """One thread inside for linear algebra of so few values."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    is_small = num_values <= _MAX_VALUES_OF_A_THREAD
    limits: AbstractContextManager[Any] = threadpool_limits(
        limits=1 if is_small else None, user_api="blas"
    )
    return limits


def _centred(products: Doubles, means: Doubles) -> Doubles:
    """Sums of products of the same rows' deviations from these means, without the ones."""
    sums, count = products[-2], products[-2, -2]
    shifted = products - np.outer(means, sums) - np.outer(sums, means)
    centred = shifted + count * np.outer(means, means)
    return np.asarray(np.delete(np.delete(centred, -2, axis=0), -2, axis=1), np.float64)


def linear_inputs(encoding: Encoding, inputs: Floats) -> Floats:
    """What a linear model takes instead of the network's inputs.

    It has no embeddings: the most frequent categories as one-hot inputs instead.
    """
    embedded = len(encoding.embedded_columns)
    if not embedded:
        return inputs
    codes = inputs[:, -embedded:]
    shown = [
        codes[:, [place]] == np.arange(1, min(len(column.values), _MAX_LINEAR_CATEGORIES) + 1)
        for place, column in enumerate(encoding.embedded_columns)
    ]
    return np.concatenate([inputs[:, :-embedded], *shown], axis=1, dtype=np.float32)


def count_linear_inputs(encoding: Encoding) -> int:
    """How many columns `linear_inputs` gives."""
    inputs = np.zeros((1, encoding.num_inputs), np.float32)
    return int(linear_inputs(encoding, inputs).shape[1])
