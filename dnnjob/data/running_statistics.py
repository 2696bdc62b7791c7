"""Statistics of a table that passes by in blocks: totals that add up, in float64.

totals = measure_column(values) + measure_column(more)
totals.statistics().mean
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import reduce

import numpy as np

from dnnjob.data.encoding import QUANTILE_SHARES, ColumnStatistics
from dnnjob.data.quantiles import QuantileSketch
from dnnjob.data.raw_columns import Block, FloatArray, RawColumn, Texts
from dnnjob.data.schema import count_beyond

# Distinct texts that are counted; of more, those seen once so far are forgotten.
_MAX_COUNTED = 2**20
_NUMBERS_AT_ONCE = 2**16


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


def measure_block(block: Block, *, room: int = QuantileSketch.room) -> dict[str, Totals]:
    """Totals of some rows of each column; `room` is that of the sketches of numbers."""
    whole: dict[str, FloatArray] = {}
    found: dict[str, Totals] = {}
    for name, column in block.items():
        if isinstance(column, Texts):
            found[name] = TextTotals(len(column), column.num_missing, column.counts())
        elif np.isfinite(column).all() and len(column):
            whole[name] = column
        else:
            found[name] = _measure_numbers(column, room=room)
    found |= _measure_together(whole, room=room)
    return {name: found[name] for name in block}


def measure_column(column: RawColumn, *, room: int = QuantileSketch.room) -> Totals:
    """Totals of some rows of a column; `room` is that of the sketch of numbers."""
    return measure_block({"": column}, room=room)[""]


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
    """Totals of a column of which some rows have no finite number."""
    finite = values[np.isfinite(values)]
    num_missing = int(np.isnan(values).sum())
    num_infinite = len(values) - len(finite) - num_missing
    if not len(finite):
        return NumberTotals(len(values), num_missing, num_infinite)
    (found,) = _measure_finite(np.asarray(finite, np.float64)[np.newaxis], room=room)
    return replace(found, num_rows=len(values), num_missing=num_missing, num_infinite=num_infinite)


def _measure_together(columns: Mapping[str, FloatArray], *, room: int) -> dict[str, NumberTotals]:
    """Totals of columns of finite numbers, as many at once as a few megabytes hold.

    A call of NumPy takes as long as a hundred numbers, of which a wide table has few in a column.
    """
    found: dict[str, NumberTotals] = {}
    names = list(columns)
    at_once = max(1, _NUMBERS_AT_ONCE // len(columns[names[0]])) if names else 1
    for first in range(0, len(names), at_once):
        some = names[first : first + at_once]
        values = np.asarray([columns[name] for name in some], dtype=np.float64)
        found |= zip(some, _measure_finite(values, room=room), strict=True)
    return found


def _measure_finite(columns: FloatArray, *, room: int) -> list[NumberTotals]:
    """Totals of finite numbers, `(num_columns, num_rows)`."""
    # Seen from its first value a constant column deviates by exactly zero.
    shifted = columns - columns[:, :1]
    shifts = shifted.mean(axis=1)
    shifted -= shifts[:, np.newaxis]
    ends = columns.min(axis=1).tolist(), columns.max(axis=1).tolist()
    sketches = QuantileSketch(room=room).added_each(columns)
    return [
        NumberTotals(
            num_rows=len(values),
            mean=mean,
            squared_deviation=squares,
            minimum=minimum,
            maximum=maximum,
            num_beyond=count_beyond(values, minimum, maximum),
            sketch=sketch,
        )
        for values, mean, squares, minimum, maximum, sketch in zip(
            columns,
            (columns[:, 0] + shifts).tolist(),
            np.square(shifted).sum(axis=1).tolist(),
            *ends,
            sketches,
            strict=True,
        )
    ]
