"""Differences of pairs: their mean, and the interval that holds it 95 times in 100.

found = measure_difference(squared_errors_a - squared_errors_b)
found.mean, found.low, found.high
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
Array = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class PairedDifference:
    """Mean difference of pairs with Student's interval of 95 % confidence."""

    num_pairs: int
    mean: float
    low: float | None
    """Lower end of the interval; None for a single pair."""
    high: float | None
    """Upper end; None for a single pair."""


def measure_difference(differences: Array) -> PairedDifference | None:
    """The mean of differences, shape `(num_pairs,)`, and its interval; None without pairs."""
    num_pairs = len(differences)
    if not num_pairs:
        return None
    mean = float(np.mean(differences, dtype=np.float64))
    if num_pairs == 1:
        return PairedDifference(1, mean, None, None)
    spread = float(np.std(differences, ddof=1, dtype=np.float64))
    reach = _student_quantile(num_pairs - 1) * spread / float(np.sqrt(num_pairs))
    return PairedDifference(num_pairs, mean, mean - reach, mean + reach)


def _student_quantile(degrees: int) -> float:
    # scipy comes with scikit-learn; scipy.stats would take a second to import.
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    return float(stdtrit(degrees, 0.5 + CONFIDENCE / 2))
