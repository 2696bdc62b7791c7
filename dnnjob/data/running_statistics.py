"""Statistics of a table that passes by in blocks: totals that add up, in float64.

totals = measure_column(values) + measure_column(more)
totals.statistics().mean
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce

import numpy as np

from dnnjob.data.encoding import QUANTILE_SHARES, ColumnStatistics
from dnnjob.data.quantiles import QuantileSketch
from dnnjob.data.raw_columns import FloatArray, RawColumn, Texts
from dnnjob.data.schema import FLOAT32_MAX

# Distinct texts that are counted; of more, those seen once so far are forgotten.
_MAX_COUNTED = 2**20


@dataclass(frozen=True, eq=False)
class NumberTotals:
    """Of a column of numbers, NaN where missing; `+` joins those of disjoint rows."""

    num_rows: int = 0
    num_missing: int = 0
    num_infinite: int = 0
    mean: float = 0.0
    """Of the finite numbers, like all that follows."""
    squared_deviation: float = 0.0
    """Sum of the squared deviations from the mean."""
    minimum: float = float("inf")
    maximum: float = float("-inf")
    num_beyond: int = 0
    """Finite numbers that float32 has not."""
    sketch: QuantileSketch = field(default_factory=QuantileSketch)

    @property
    def num_finite(self) -> int:
        """Rows with a finite number."""
        return self.num_rows - self.num_missing - self.num_infinite

    def __add__(self, other: "NumberTotals") -> "NumberTotals":
        """Totals of both, deviations joined as Chan, Golub and LeVeque do.

        See https://doi.org/10.1080/00031305.1983.10483115.
        """
        num_finite = self.num_finite + other.num_finite
        share = other.num_finite / num_finite if num_finite else 0.0
        shift = other.mean - self.mean if self.num_finite else 0.0
        return NumberTotals(
            num_rows=self.num_rows + other.num_rows,
            num_missing=self.num_missing + other.num_missing,
            num_infinite=self.num_infinite + other.num_infinite,
            mean=self.mean + shift * share if self.num_finite else other.mean,
            squared_deviation=self.squared_deviation
            + other.squared_deviation
            + shift**2 * share * self.num_finite,
            minimum=min(self.minimum, other.minimum),
            maximum=max(self.maximum, other.maximum),
            num_beyond=self.num_beyond + other.num_beyond,
            sketch=self.sketch + other.sketch,
        )

    def statistics(self) -> ColumnStatistics:
        """As encodings take them."""
        if not self.num_finite:
            return ColumnStatistics(num_rows=self.num_rows, num_missing=self.num_missing)
        median, *quantiles = self.sketch.quantiles((0.5, *QUANTILE_SHARES))
        return ColumnStatistics(
            num_rows=self.num_rows,
            num_missing=self.num_missing,
            mean=self.mean,
            variance=self.squared_deviation / self.num_finite,
            minimum=self.minimum,
            maximum=self.maximum,
            median=median,
            quantiles=tuple(quantiles),
        )


@dataclass(frozen=True)
class TextTotals:
    """Of a column of texts; `+` joins those of disjoint rows."""

    num_rows: int = 0
    num_missing: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    num_uncounted: int = 0

    def __add__(self, other: "TextTotals") -> "TextTotals":
        """Totals of both."""
        counts = dict(self.counts)
        for text, count in other.counts.items():
            counts[text] = counts.get(text, 0) + count
        forgotten = 0
        if len(counts) > _MAX_COUNTED:
            kept = {text: count for text, count in counts.items() if count > 1}
            forgotten, counts = len(counts) - len(kept), kept
        return TextTotals(
            num_rows=self.num_rows + other.num_rows,
            num_missing=self.num_missing + other.num_missing,
            counts=counts,
            num_uncounted=self.num_uncounted + other.num_uncounted + forgotten,
        )

    def statistics(self) -> ColumnStatistics:
        """As encodings take them."""
        return ColumnStatistics(
            num_rows=self.num_rows,
            num_missing=self.num_missing,
            counts=self.counts,
            num_uncounted=self.num_uncounted,
        )


Totals = NumberTotals | TextTotals


def measure_column(column: RawColumn, *, room: int = QuantileSketch.room) -> Totals:
    """Totals of some rows of a column; `room` is that of the sketch of numbers."""
    if isinstance(column, Texts):
        return TextTotals(len(column), column.num_missing, column.counts())
    return _measure_numbers(column, room=room)


def add_totals(one: Totals, other: Totals) -> Totals:
    """Totals of both.

    Raises:
        TypeError: If one is of numbers and the other of texts.
    """
    if isinstance(one, NumberTotals) and isinstance(other, NumberTotals):
        return one + other
    if isinstance(one, TextTotals) and isinstance(other, TextTotals):
        return one + other
    raise TypeError("Totals of numbers and of texts do not add up.")


def join_totals(parts: list[dict[str, Totals]]) -> dict[str, Totals]:
    """Totals by column of all parts, in their order."""
    return reduce(
        lambda one, other: {name: add_totals(one[name], other[name]) for name in one}, parts
    )


def _measure_numbers(values: FloatArray, *, room: int) -> NumberTotals:
    values = np.asarray(values, dtype=np.float64)
    finite = values[np.isfinite(values)]
    num_missing = 0 if len(finite) == len(values) else int(np.isnan(values).sum())
    num_infinite = len(values) - len(finite) - num_missing
    if not len(finite):
        return NumberTotals(len(values), num_missing, num_infinite)
    # Seen from its first value a constant column deviates by exactly zero.
    shifted = finite - finite[0]
    shift = float(shifted.mean())
    shifted -= shift
    return NumberTotals(
        num_rows=len(values),
        num_missing=num_missing,
        num_infinite=num_infinite,
        mean=float(finite[0]) + shift,
        squared_deviation=float(np.square(shifted).sum()),
        minimum=float(finite.min()),
        maximum=float(finite.max()),
        num_beyond=int((np.abs(finite) > FLOAT32_MAX).sum()),
        sketch=QuantileSketch(room=room).added(finite),
    )
