"""Which rows of a table are alike on both sides of its split, and which columns its target.

twins = Twins.of(hash_rows(block), labels) + Twins.of(hash_rows(later), others)
twins.count().shared
moments = co_moments(block, "y") + co_moments(later, "y")
moments.correlations()
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dnnjob.data.raw_columns import Block, FloatArray, RawColumn, Texts
from dnnjob.data.split import STEP, UNLABELLED, Hashes, Labels, hash_text, mix

# Different rows that are held; of more, those whose hash ends in zeros.
_MAX_HELD = 2**17
# A call of NumPy takes as long as a hundred numbers, of which a wide table has few in a column.
_NUMBERS_AT_ONCE = 2**16
# What stays in a core's cache while one column is mixed in after the other.
_ROWS_AT_ONCE = 2**13
_GAP = np.uint64(0x7FF8000000000000)


def hash_rows(block: Block) -> Hashes:
    """A number of each row, equal where all its values are; each bit of it is as good as another.

    SplitMix64 of one column after the other, doi:10.1145/2660193.2660195.
    """
    columns = [_hashes_of(column) for column in block.values()]
    total = np.zeros(len(next(iter(block.values()))), np.uint64)
    for first in range(0, len(total), _ROWS_AT_ONCE):
        rows = slice(first, first + _ROWS_AT_ONCE)
        for hashes_of in columns:
            total[rows] = mix(total[rows] + hashes_of(rows) + STEP)
    return total


def _hashes_of(column: RawColumn) -> Callable[[slice], Hashes]:
    """What tells a number of each of some rows of a column."""
    if not isinstance(column, Texts):
        return lambda rows: _hash_numbers(column[rows])
    codes, hashes = column.codes, np.full(len(column.values) + 1, _GAP)
    for place in np.unique(codes[codes >= 0]):
        hashes[place] = hash_text(column.values[place])
    # Missing rows have the code -1, which is the last place.
    return lambda rows: hashes[codes[rows]]


def _hash_numbers(numbers: FloatArray) -> Hashes:
    # Zero has two signs, and a gap many bits.
    values = np.asarray(numbers, np.float64) + 0.0
    return np.where(np.isnan(values), _GAP, values.view(np.uint64))


@dataclass(frozen=True)
class TwinCount:
    """Rows that equal a training row.

    Attributes:
        shared: Validation and test rows that do.
        held_out: Validation and test rows that were compared.
        one_of: Rows for each that was compared: 1 where all were.
    """

    shared: tuple[int, int] = (0, 0)
    held_out: tuple[int, int] = (0, 0)
    one_of: int = 1


NO_TWINS = TwinCount()


@dataclass(frozen=True, eq=False)
class Twins:
    """Rows of each split by their hash; `+` joins those of disjoint rows.

    Attributes:
        hashes: Different ones, ascending, `(num_hashes,)`.
        counts: Rows of training, validation and test of each, int64 `(num_hashes, 3)`.
        level: So many bits of each hash are zero, which makes them one of `2**level`.
    """

    hashes: Hashes = field(default_factory=lambda: np.zeros(0, np.uint64))
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 3), np.int64))
    level: int = 0

    @classmethod
    def of(cls, hashes: Hashes, labels: Labels, *, level: int = 0) -> "Twins":
        """Of some rows; those without a target do not count, nor those that `level` leaves out."""
        held = (labels != UNLABELLED) & _ends_in_zeros(hashes, level)
        counts = np.eye(3, dtype=np.int64)[labels[held]]
        return _thinned(*_joined(hashes[held], counts), level=level)

    def __add__(self, other: "Twins") -> "Twins":
        """Those of both."""
        hashes = np.concatenate([self.hashes, other.hashes])
        counts = np.concatenate([self.counts, other.counts])
        return _thinned(*_joined(hashes, counts), level=max(self.level, other.level))

    @property
    def are_different(self) -> bool:
        """Whether no hash of those held has two rows."""
        return bool((self.counts.sum(axis=1) <= 1).all())

    def count(self) -> TwinCount:
        """How many held-out rows there are, and how many of them equal a training row."""
        total = self.counts.sum(axis=0)
        shared = self.counts[self.counts[:, 0] > 0].sum(axis=0)
        return TwinCount(
            (int(shared[1]), int(shared[2])), (int(total[1]), int(total[2])), 1 << self.level
        )


def hash_wholes(column: RawColumn) -> Twins | None:
    """The values of a column, each a whole number; None if some are none.

    Those held are chosen by the value, so that a value that is there twice is held twice.
    """
    if isinstance(column, Texts) or not np.isfinite(column).all():
        return None
    if not np.equal(np.floor(column), column).all():
        return None
    return Twins.of(mix(_hash_numbers(column) + STEP), np.zeros(len(column), np.int8))


def _joined(hashes: Hashes, counts: npt.NDArray[np.int64]) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """Each hash once."""
    # Two ascending parts are merged, which a stable sort does in one go.
    order = np.argsort(hashes, kind="stable")
    ordered, counts = hashes[order], counts.take(order, axis=0)
    is_first = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=is_first[1:])
    starts = np.flatnonzero(is_first)
    if len(starts) < len(ordered):
        counts = np.add.reduceat(counts, starts, axis=0)
    return ordered[starts], counts


def _ends_in_zeros(hashes: Hashes, level: int) -> npt.NDArray[np.bool_]:
    ends: Hashes = hashes & np.uint64((1 << level) - 1)
    return np.equal(ends, 0)


def _thinned(hashes: Hashes, counts: npt.NDArray[np.int64], *, level: int) -> Twins:
    while True:
        kept = _ends_in_zeros(hashes, level)
        if kept.sum() <= _MAX_HELD:
            # Most often all are kept, and need no copy.
            places = slice(None) if kept.all() else kept
            return Twins(hashes[places], counts[places], level)
        level += 1


@dataclass(frozen=True, eq=False)
class CoMoments:
    """How columns of numbers vary with the target; `+` joins those of disjoint rows.

    Attributes:
        names: Of the columns.
        sums: Of each column, over rows with both: their number, the means of column and target,
            the sums of squared deviations of both and of their products, `(6, num_columns)`.
    """

    names: tuple[str, ...]
    sums: FloatArray

    def __add__(self, other: "CoMoments") -> "CoMoments":
        """Those of both, as Chan, Golub and LeVeque join them."""
        many, mean_x, mean_y, *deviations = self.sums
        more, other_x, other_y, *others = other.sums
        total = many + more
        share = np.divide(more, total, out=np.zeros_like(total), where=total > 0)
        with np.errstate(over="ignore", invalid="ignore"):
            shift_x, shift_y = other_x - mean_x, other_y - mean_y
            products = (shift_x * shift_x, shift_y * shift_y, shift_x * shift_y)
            joined = [
                one + two + product * share * many
                for one, two, product in zip(deviations, others, products, strict=True)
            ]
            means = (mean_x + shift_x * share, mean_y + shift_y * share)
        return CoMoments(self.names, np.stack([total, *means, *joined]))

    def correlations(self, *, least_rows: int) -> Mapping[str, float]:
        """Of each column that varies with the target, where both are known in so many rows."""
        many, _, _, squares_x, squares_y, products = self.sums
        with np.errstate(all="ignore"):
            found = products / (np.sqrt(squares_x) * np.sqrt(squares_y))
        known = np.isfinite(found) & (many >= least_rows)
        return {
            name: float(value)
            for name, value, is_known in zip(self.names, found, known, strict=True)
            if is_known
        }


def co_moments(block: Block, target: str) -> CoMoments:
    """How the columns of numbers of some rows vary with the target."""
    y = np.asarray(block[target], np.float64)
    known = np.isfinite(y)
    names = [name for name in block if name != target and not isinstance(block[name], Texts)]
    sums = np.zeros((6, len(names)))
    at_once = max(1, _NUMBERS_AT_ONCE // max(1, len(y)))
    with np.errstate(over="ignore", invalid="ignore"):
        for first in range(0, len(names), at_once):
            stop = min(first + at_once, len(names))
            columns = np.asarray([block[name] for name in names[first:stop]], np.float64)
            both = known & np.isfinite(columns)
            if both.all() and len(y):
                sums[:, first:stop] = _co_moments(columns, y)
                continue
            for place, x, rows in zip(range(first, stop), columns, both, strict=True):
                if rows.any():
                    sums[:, place] = _co_moments(x[rows], y[rows])
    return CoMoments(tuple(names), sums)


def _co_moments(x: FloatArray, y: FloatArray) -> FloatArray:
    """Those of columns `(..., num_rows)` with a target of as many rows, none of them empty."""
    mean_x, mean_y = x.mean(axis=-1), y.mean()
    x, y = x - mean_x[..., np.newaxis], y - mean_y
    # Not as products of vectors: BLAS would wake threads for each.
    products = [(one * two).sum(axis=-1) for one, two in ((x, x), (y, y), (x, y))]
    sums = [np.float64(len(y)), mean_x, mean_y, *products]
    return np.stack(np.broadcast_arrays(*sums))
