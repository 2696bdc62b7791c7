"""Errors of predictions, from float64 totals that several blocks or tasks can add up.

totals = add_up(*first_block) + add_up(*second_block)
metrics = totals.metrics(target_std=9.2)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dnnjob.data.quantiles import QuantileSketch
from dnnjob.errors import DataError, NonFiniteError
from dnnjob.runs import Record

BLOCK_ROWS = 1 << 20
# What a row of packed totals begins with.
_PLAIN = (
    "num_rows",
    "squared_error",
    "absolute_error",
    "mean",
    "squared_deviation",
    "num_nonzero",
    "relative_error",
)
Array = npt.NDArray[np.floating]


class Metrics(Record):
    """Errors of the predictions of one split."""

    num_rows: int
    """Rows with a known target."""
    mse: float
    """Mean squared error, target units squared."""
    rmse: float
    """Its square root, target units."""
    mae: float
    """Mean absolute error, target units."""
    r2: float | None
    """Share of the target's variance explained; None where the target does not vary."""
    mse_standardized: float | None
    """`mse` over the squared standard deviation the target was scaled by; None unscaled."""
    median_absolute_error: float | None = None
    """Median of the absolute errors, target units; of more than 8192 rows to about a thousandth
    of their number. None in reports of earlier versions."""
    mape: float | None = None
    """Mean of the absolute errors over the absolute targets, a share, of the rows whose target is
    not zero: small targets rule it. None without such rows or beyond all bounds."""
    mape_num_rows: int | None = None
    """Rows whose target is not zero."""


@dataclass(frozen=True, eq=False)
class Totals:
    """Sums over rows from which every metric follows; `+` joins those of disjoint rows."""

    num_rows: int = 0
    squared_error: float = 0.0
    absolute_error: float = 0.0
    mean: float = 0.0
    """Mean of the observed targets."""
    squared_deviation: float = 0.0
    """Sum of the observed targets' squared deviations from `mean`."""
    num_nonzero: int = 0
    """Rows whose observed target is not zero."""
    relative_error: float = 0.0
    """Sum over these of the absolute error over the absolute target."""
    absolute_errors: QuantileSketch = field(default_factory=QuantileSketch)

    def __add__(self, other: "Totals") -> "Totals":
        """Totals of both, deviations joined as Chan, Golub and LeVeque do.

        See https://doi.org/10.1080/00031305.1983.10483115.
        """
        num_rows = self.num_rows + other.num_rows
        if not num_rows:
            return self
        share = other.num_rows / num_rows
        shift = other.mean - self.mean
        # Without rows of its own a side has no mean to shift from.
        mean = self.mean + shift * share if self.num_rows else other.mean
        return Totals(
            num_rows=num_rows,
            squared_error=self.squared_error + other.squared_error,
            absolute_error=self.absolute_error + other.absolute_error,
            mean=mean,
            squared_deviation=self.squared_deviation
            + other.squared_deviation
            + shift**2 * share * self.num_rows,
            num_nonzero=self.num_nonzero + other.num_nonzero,
            relative_error=self.relative_error + other.relative_error,
            absolute_errors=self.absolute_errors + other.absolute_errors,
        )

    def metrics(self, *, target_std: float | None) -> Metrics | None:
        """The metrics of these rows, None without rows.

        Args:
            target_std: Standard deviation the target was scaled by, target units, > 0; None
                where it was not scaled.
        """
        if not self.num_rows:
            return None
        mse = self.squared_error / self.num_rows
        mape = self.relative_error / self.num_nonzero if self.num_nonzero else math.inf
        return Metrics(
            num_rows=self.num_rows,
            mse=mse,
            rmse=math.sqrt(mse),
            mae=self.absolute_error / self.num_rows,
            r2=1 - self.squared_error / self.squared_deviation if self.squared_deviation else None,
            mse_standardized=None if target_std is None else mse / target_std**2,
            median_absolute_error=self.absolute_errors.quantile(0.5),
            mape=mape if math.isfinite(mape) else None,
            mape_num_rows=self.num_nonzero,
        )


def pack_totals(totals: Sequence[Totals]) -> npt.NDArray[np.float64]:
    """The totals as one row of numbers, for a file that `unpack_totals` reads."""
    rows = []
    for one in totals:
        levels, turns = one.absolute_errors.levels, one.absolute_errors.turns
        head = [getattr(one, name) for name in _PLAIN]
        head += [len(levels), *turns, *map(len, levels)]
        rows.append(np.concatenate([np.array(head, np.float64), *levels]))
    return np.concatenate([np.array([len(row), *row]) for row in rows])


def unpack_totals(packed: npt.NDArray[np.float64]) -> list[Totals]:
    """The totals that `pack_totals` packed."""
    totals = []
    while len(packed):
        row, packed = packed[1 : int(packed[0]) + 1], packed[int(packed[0]) + 1 :]
        plain = dict(zip(_PLAIN, row.tolist(), strict=False))
        counts = {name: int(plain[name]) for name in ("num_rows", "num_nonzero")}
        num_levels, rest = int(row[len(_PLAIN)]), row[len(_PLAIN) + 1 :]
        turns = tuple(rest[:num_levels].astype(int).tolist())
        ends = np.cumsum(rest[num_levels : 2 * num_levels].astype(int))
        levels = np.split(rest[2 * num_levels :], ends)[:num_levels]
        sketch = QuantileSketch(tuple(levels), turns)
        totals.append(Totals(**{**plain, **counts}, absolute_errors=sketch))
    return totals


def add_up(y_true: Array, y_pred: Array) -> Totals:
    """Totals of rows, in float64, block by block.

    Args:
        y_true: Observed targets, shape `(num_rows,)`, target units, all known.
        y_pred: Predicted targets, same shape and units.

    Raises:
        DataError: If the shapes differ or an observed target is not finite.
        NonFiniteError: If a prediction is not finite.
    """
    if y_true.shape != y_pred.shape or y_true.ndim != 1:
        raise DataError(
            f"Metrics need one prediction a row, but got targets of shape {y_true.shape} and "
            f"predictions of shape {y_pred.shape}. Flatten both to (num_rows,)."
        )
    _refuse_non_finite(y_true, y_pred)
    blocks = range(0, len(y_true), BLOCK_ROWS)
    return sum(
        (_add_up_block(y_true[i : i + BLOCK_ROWS], y_pred[i : i + BLOCK_ROWS]) for i in blocks),
        start=Totals(),
    )


def _add_up_block(y_true: Array, y_pred: Array) -> Totals:
    observed = y_true.astype(np.float64)
    error = y_pred.astype(np.float64) - observed
    # Seen from its first value a constant target deviates by exactly zero, whatever its mean
    # rounds to, so that its R² is None instead of a quotient of rounding errors.
    shifted = observed - observed[0]
    shift = float(shifted.mean())
    absolute, nonzero = np.abs(error), observed != 0
    # A target of 1e-300 makes a quotient of any size, which no one need be warned of.
    with np.errstate(over="ignore"):
        relative = absolute[nonzero] / np.abs(observed[nonzero])
    return Totals(
        num_rows=len(observed),
        squared_error=float(np.square(error).sum()),
        absolute_error=float(absolute.sum()),
        mean=float(observed[0]) + shift,
        squared_deviation=float(np.square(shifted - shift).sum()),
        num_nonzero=int(nonzero.sum()),
        relative_error=float(relative.sum()),
        absolute_errors=QuantileSketch().added(absolute),
    )


def _refuse_non_finite(y_true: Array, y_pred: Array) -> None:
    if num_bad := int((~np.isfinite(y_true)).sum()):
        raise DataError(
            f"Metrics need known, finite targets, but {num_bad} of {len(y_true)} are not. "
            "Leave unlabelled rows out."
        )
    if num_bad := int((~np.isfinite(y_pred)).sum()):
        raise NonFiniteError(
            f"Metrics need finite predictions, but {num_bad} of {len(y_pred)} are NaN or infinite. "
            "Lower train.learning_rate, or set train.clip_norm."
        )
