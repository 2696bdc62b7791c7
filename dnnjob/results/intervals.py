"""Prediction intervals from errors on rows that neither trained nor stopped the network.

intervals = calibrate(y, y_pred, level=0.9, method="split", transform="none")
lower, upper = intervals.bounds(y_pred)
intervals = intervals.judged(y_test, y_pred_test)      # with coverage and mean width
"""

import math
from typing import Literal

import numpy as np

from dnnjob.data.encoding import transform_target
from dnnjob.data.raw_columns import FloatArray
from dnnjob.runs import Record

Transform = Literal["none", "log1p"]


class Intervals(Record):
    """Around each prediction the bounds that hold a new row's target with a known frequency.

    They promise it of rows drawn as the calibrating ones were, for all rows together: not for each
    kind of row, and not where new rows differ. Inductive conformal prediction, Lei et al. 2018,
    https://doi.org/10.1080/01621459.2017.1307116; cross: from rows that a member left out.
    """

    level: float
    """Share of new rows whose target they hold."""
    method: Literal["split", "cross"]
    """By what: the validation rows, or the rows that each member of the model left out."""
    half_width: float
    """From a prediction to either bound: target units, or those of log(1 + target)."""
    transform: Transform = "none"
    """What the half-width is measured in: the target, or log(1 + target)."""
    num_rows: int
    """Rows that calibrated them."""
    coverage_test: float | None = None
    """Share of the test rows whose target they hold; None without test rows."""
    mean_width: float | None = None
    """Mean distance of the bounds of the test rows, target units."""

    def bounds(self, y_pred: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Lower and upper bounds, `(num_rows,)` each, target units."""
        scores = _score(y_pred, self.transform)
        lower, upper = scores - self.half_width, scores + self.half_width
        if self.transform == "log1p":
            lower, upper = np.expm1(lower), np.expm1(upper)
        return lower, upper

    def judged(self, y: FloatArray, y_pred: FloatArray) -> "Intervals":
        """The same with what they are worth on test rows; arguments as `calibrate` has them."""
        if not len(y):
            return self
        lower, upper = self.bounds(y_pred)
        holds = (lower <= y) & (y <= upper)
        return self.model_copy(
            update={
                "coverage_test": float(holds.mean()),
                "mean_width": float((upper - lower).mean()),
            }
        )


def calibrate(
    y: FloatArray,
    y_pred: FloatArray,
    *,
    level: float,
    method: Literal["split", "cross"],
    transform: Transform,
) -> Intervals | None:
    """Intervals that hold `level` of new rows, from rows that the network has not seen.

    The half-width is the `ceil((n + 1) * level)`-th smallest of the `n` absolute errors.

    Args:
        y: Observed targets, `(num_rows,)`, target units.
        y_pred: Predictions, same shape and units.
        level: Above 0 and below 1.
        method: Where the rows come from.
        transform: What errors are measured in; bounds in log(1 + target) grow with the prediction.

    Returns:
        None where fewer than `least_rows(level)` rows are known.
    """
    errors = np.abs(_score(y, transform) - _score(y_pred, transform))
    if len(errors) < least_rows(level):
        return None
    return Intervals(
        level=level,
        method=method,
        half_width=float(np.sort(errors)[_rank(len(errors), level) - 1]),
        transform=transform,
        num_rows=len(errors),
    )


def least_rows(level: float) -> int:
    """The fewest rows that can calibrate intervals of a level."""
    num_rows = max(1, math.floor(level / (1 - level)) - 1)
    while _rank(num_rows, level) > num_rows:
        num_rows += 1
    return num_rows


def describe_too_few(level: float, num_rows: int) -> str:
    """Why so few rows calibrate no intervals of a level, and the way out."""
    return (
        f"No intervals: those of level {level:g} need at least {least_rows(level)} rows that "
        f"trained and stopped no network, but there are {num_rows}. Hold more rows out, or lower "
        "output.interval_level."
    )


def _rank(num_rows: int, level: float) -> int:
    # 0.9 * 10 is 9: what rounding adds is no further row.
    return math.ceil((num_rows + 1) * level - 1e-9)


def _score(values: FloatArray, transform: Transform) -> FloatArray:
    if transform == "log1p":
        # A prediction of -1 has no logarithm; the least float above has.
        values = np.maximum(values, np.nextafter(-1.0, 0.0))
    return transform_target(values, transform)
