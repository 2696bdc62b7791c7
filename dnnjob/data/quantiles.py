"""Quantiles of a stream of numbers, in bounded memory.

sketch = QuantileSketch().added(values) + other
sketch.quantile(0.5)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dnnjob.data.raw_columns import FloatArray

# Numbers a level keeps. Ranks err by less than levels / (2 * 4096), mostly by a tenth of that.
_ROOM = 4096
# Of tables up to here all numbers are held.
_MAX_EXACT_ROWS = 2**17


def sketch_room(num_rows: int) -> int:
    """What sketches of a table of so many rows keep a level: of a small one all."""
    return max(_ROOM, num_rows) if num_rows <= _MAX_EXACT_ROWS else _ROOM


@dataclass(frozen=True, eq=False)
class QuantileSketch:
    """Sorted samples of a stream; one of level `n` stands for `2**n` numbers.

    Up to twice its room it holds them all. A level that grows beyond that is halved: every other
    number, in turn the even and the odd ones, moves up. After Manku, Rajagopalan and Lindsay,
    doi:10.1145/304181.304204, and Karnin, Lang and Liberty, doi:10.1109/FOCS.2016.17.

    Attributes:
        levels: Samples by level, each ascending.
        turns: How often each level was halved.
        room: Numbers a level keeps at least.
    """

    levels: tuple[FloatArray, ...] = ()
    turns: tuple[int, ...] = ()
    room: int = _ROOM

    def added(self, values: FloatArray) -> "QuantileSketch":
        """The sketch of these numbers, too; none of them NaN."""
        level = 0
        while len(values) >> level > 2 * self.room:
            level += 1
        step = 1 << level
        whole = len(values) // step * step
        # The middle of each run of a sorted block stands for the run; a view would hold the block.
        sample = np.sort(values[:whole])[step // 2 :: step].copy()
        levels = [np.empty(0)] * level + [sample]
        if whole < len(values):
            # As they came, or the rest would be the largest.
            levels[0] = np.sort(np.concatenate([levels[0], values[whole:]]))
        added = QuantileSketch(tuple(levels), (0,) * len(levels), self.room)
        return self + added if self.levels else added

    def added_each(self, columns: FloatArray) -> list["QuantileSketch"]:
        """A sketch for each of some columns of numbers, `(num_columns, num_rows)`."""
        if columns.shape[1] > 2 * self.room or self.levels:
            return [self.added(values) for values in columns]
        return [QuantileSketch((held,), (0,), self.room) for held in np.sort(columns, axis=1)]

    def __add__(self, other: "QuantileSketch") -> "QuantileSketch":
        """The sketch of both streams."""
        num_levels = max(len(self.levels), len(other.levels))
        mine, theirs = self._padded(num_levels), other._padded(num_levels)
        levels = [_merged(*pair) for pair in zip(mine.levels, theirs.levels, strict=True)]
        room = max(self.room, other.room)
        turns = [sum(pair) for pair in zip(mine.turns, theirs.turns, strict=True)]
        level = 0
        while level < len(levels):
            full = levels[level]
            if len(full) > 2 * room:
                even = len(full) // 2 * 2
                moved = full[turns[level] % 2 : even : 2].copy()
                levels[level] = full[even:].copy()
                turns[level] += 1
                if level + 1 == len(levels):
                    levels.append(np.empty(0))
                    turns.append(0)
                levels[level + 1] = _merged(levels[level + 1], moved)
            level += 1
        return QuantileSketch(tuple(levels), tuple(turns), room)

    def quantile(self, share: float) -> float:
        """The number that `share` of the stream lies below; NaN of an empty stream.

        Between two numbers it lies on the line through both, as `numpy.quantile` has it.
        """
        (quantile,) = self.quantiles([share])
        return quantile

    def quantiles(self, shares: Sequence[float]) -> tuple[float, ...]:
        """The numbers that these shares of the stream lie below, as `quantile` has each."""
        values, weights = self.samples()
        if not len(values):
            return (math.nan,) * len(shares)
        ranks = np.asarray(shares) * (int(weights.sum()) - 1)
        wholes = (np.floor(ranks), np.ceil(ranks))
        if len(self.levels) == 1:
            # Of a small table each number stands for itself, in its place.
            below, above = (values[whole.astype(np.int64)] for whole in wholes)
        else:
            order = np.argsort(values, kind="stable")
            ends, ordered = np.cumsum(weights[order]), values[order]
            below, above = (ordered[np.searchsorted(ends, whole, side="right")] for whole in wholes)
        part = ranks - wholes[0]
        # To the bit what `numpy.median` gives.
        middle = (below + above) / 2
        return tuple(np.where(part == 0.5, middle, below + (above - below) * part).tolist())

    def samples(self) -> tuple[FloatArray, npt.NDArray[np.int64]]:
        """The numbers held, and how many of the stream each stands for."""
        if len(self.levels) == 1:
            return self.levels[0], np.ones(len(self.levels[0]), dtype=np.int64)
        weights = [
            np.full(len(held), 1 << level, dtype=np.int64) for level, held in enumerate(self.levels)
        ]
        return (
            np.concatenate([*self.levels, np.empty(0)]),
            np.concatenate([*weights, np.empty(0, dtype=np.int64)]),
        )

    def _padded(self, num_levels: int) -> "QuantileSketch":
        missing = num_levels - len(self.levels)
        levels = self.levels + (np.empty(0),) * missing
        return QuantileSketch(levels, self.turns + (0,) * missing, self.room)


def _merged(one: FloatArray, other: FloatArray) -> FloatArray:
    """The numbers of both, each ascending, in order."""
    if not len(one) or not len(other):
        return one if len(one) else other
    return np.sort(np.concatenate([one, other]), kind="stable")
