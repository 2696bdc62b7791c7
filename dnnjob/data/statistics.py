"""Means and standard deviations of a table, in float64, for its z-scores.

scale = fit_standardization(table, split, mode="train")
z = (table.x - scale.mean) / scale.std
"""

from dataclasses import dataclass
from typing import Literal, assert_never

import numpy as np

from dnnjob.data.schema import FloatArray
from dnnjob.data.sources import Table
from dnnjob.data.split import Split

Mode = Literal["train", "table", "none"]


@dataclass(frozen=True, eq=False)
class Standardization:
    """What features and target are scaled by; means 0 and deviations 1 where nothing is.

    Attributes:
        mode: The rows it comes from.
        mean: Shape `(num_features,)`, the features' units.
        std: Same shape and units, > 0; 1 for a feature that is constant in these rows.
        target_mean: Target units.
        target_std: Target units, > 0; 1 for a target that is constant in these rows.
    """

    mode: Mode
    mean: FloatArray
    std: FloatArray
    target_mean: float
    target_std: float

    @property
    def reported_target_std(self) -> float | None:
        """What `mse_standardized` divides by (squared): None where the target is not scaled."""
        return None if self.mode == "none" else self.target_std


def fit_standardization(table: Table, split: Split, mode: Mode) -> Standardization:
    """Means and population standard deviations (ddof=0) of the rows that `mode` names.

    Args:
        table: The raw values.
        split: Its rows.
        mode: The training rows, all rows of the table, or nothing: means 0 and deviations 1.
    """
    match mode:
        case "train":
            return _fit(table.x[split.train], table.y[split.train], mode)
        case "table":
            return _fit(table.x, table.y, mode)
        case "none":
            num_features = len(table.features)
            return Standardization(mode, np.zeros(num_features), np.ones(num_features), 0.0, 1.0)
        case _:
            assert_never(mode)


def _fit(x: FloatArray, y: FloatArray, mode: Mode) -> Standardization:
    mean, std = _mean_and_std(x)
    target_mean, target_std = _mean_and_std(y[:, None])
    return Standardization(mode, mean, std, float(target_mean[0]), float(target_std[0]))


def _mean_and_std(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Per column of `(num_rows, num_columns)`; a constant one has std 1."""
    mean, std = values.mean(axis=0), values.std(axis=0)
    # Not std == 0: rounding of the mean leaves a constant 0.1 with a deviation of 1e-17.
    constant = values.min(axis=0) == values.max(axis=0)
    return np.where(constant, values[0], mean), np.where(constant, 1.0, std)
