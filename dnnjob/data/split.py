"""Which rows train, validate and test: the splits that scikit-learn makes, and a hash of the row.

split = split_rows(506, test_fraction=0.3, validation_fraction=0.0, seed=0)
split.train, split.test            # int64 row numbers, ascending
uniform(rows, seed=0, stream=0)    # of each row number a number in [0, 1)
"""

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from dnnjob.data.raw_columns import FloatArray
from dnnjob.errors import DataError

if TYPE_CHECKING:
    from dnnjob.config.data_section import SplitKind

IndexArray = NDArray[np.int64]
Labels = NDArray[np.int8]
Hashes = NDArray[np.uint64]
ChosenSplit = Literal["shuffle", "hash", "group", "time", "column", "files"]

SPLITS = ("train", "validation", "test", "unlabelled")
TRAIN, VALIDATION, TEST, UNLABELLED = range(4)
# What SplitMix64 goes on by from one number to the next.
STEP = np.uint64(0x9E3779B97F4A7C15)
# Beyond it the permutation that scikit-learn splits by takes seconds and gigabytes.
MAX_SHUFFLED_ROWS = 10_000_000


@dataclass(frozen=True, eq=False)
class Split:
    """Rows with a target of each split, int64 numbers in ascending order."""

    train: IndexArray
    validation: IndexArray
    test: IndexArray


def split_rows(
    num_rows: int,
    *,
    test_fraction: float,
    validation_fraction: float,
    seed: int,
    folds: int | None = None,
    fold: int = 0,
) -> Split:
    """The same rows as scikit-learn's `train_test_split(rows, test_size=..., random_state=seed)`.

    Or, with `folds`, as its `KFold(folds, shuffle=True, random_state=seed)`. The validation rows
    are a second split of the first sort, of the training rows in the order scikit-learn gives
    them, with the same seed.

    Args:
        num_rows: Rows with a target.
        test_fraction: Share of all rows held out for test, in [0, 1).
        validation_fraction: Share of the training rows held out for validation, in [0, 1).
        seed: Seed of both splits, in [0, 2**32).
        folds: Parts of the rows, one of which is the test split; None for a share.
        fold: Which of them.

    Raises:
        DataError: If a split would be empty.
    """
    rows = np.arange(num_rows, dtype=np.int64)
    if folds is not None:
        train, test = _hold_out_fold(rows, folds, fold, seed=seed)
    elif test_fraction > 0:
        train, test = _hold_out(rows, test_fraction, seed=seed)
    else:
        train, test = rows, rows[:0]
    if not len(train) or (test_fraction > 0 and not len(test)):
        raise DataError(
            f"Training and test need at least one row each, but data.test_fraction = "
            f"{test_fraction} of {num_rows} rows leaves {len(train)} and {len(test)}. "
            "Set data.test_fraction, or add rows."
        )
    validation = rows[:0]
    if validation_fraction > 0:
        num_held_in = len(train)
        train, validation = _hold_out(train, validation_fraction, seed=seed)
        if not (len(train) and len(validation)):
            raise DataError(
                "Training and validation need at least one row each, but "
                f"data.validation_fraction = {validation_fraction} of {num_held_in} training rows "
                f"leaves {len(train)} and {len(validation)}. Set data.validation_fraction, or add "
                "rows."
            )
    return Split(train=np.sort(train), validation=np.sort(validation), test=np.sort(test))


def _hold_out_fold(
    rows: IndexArray, folds: int, fold: int, *, seed: int
) -> tuple[IndexArray, IndexArray]:
    """The rest and one of the folds of `rows`, both ascending."""
    if folds > len(rows):
        raise DataError(
            f"Each fold needs a row, but data.folds = {folds} and the table has {len(rows)}. "
            "Lower data.folds, or add rows."
        )
    shuffled = np.array_split(np.random.RandomState(seed).permutation(len(rows)), folds)
    held_out = np.sort(shuffled[fold])
    return np.delete(rows, held_out), rows[held_out]


def _hold_out(rows: IndexArray, fraction: float, *, seed: int) -> tuple[IndexArray, IndexArray]:
    """The rest and the held-out part of `rows`, both in the order of the permutation.

    The rounding, and the held-out part coming first in the permutation, are those of
    https://github.com/scikit-learn/scikit-learn/blob/main/sklearn/model_selection/_split.py.
    """
    num_held_out = math.ceil(fraction * len(rows))
    shuffled = rows[np.random.RandomState(seed).permutation(len(rows))]
    return shuffled[num_held_out:], shuffled[:num_held_out]


def choose_split(split: "SplitKind", num_rows: int) -> "ChosenSplit":
    """What "auto" is for a table of so many rows."""
    if split != "auto":
        return split
    return "shuffle" if num_rows <= MAX_SHUFFLED_ROWS else "hash"


def uniform(rows: Hashes, *, seed: int, stream: int) -> FloatArray:
    """A number in [0, 1) for each row: SplitMix64 of the row, seed and stream.

    Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
    doi:10.1145/2660193.2660195.
    """
    start = np.uint64((seed * 2 + stream + 1) * 0xD1342543DE82EF95 % 2**64)
    return (mix(rows + start) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def mix(numbers: Hashes) -> Hashes:
    """The SplitMix64 of each number, no two of which have the same."""
    mixed = numbers * STEP
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed ^= mixed >> np.uint64(shift)
        mixed *= np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def hash_text(text: str) -> int:
    """A number of 64 bits that tells a text from others."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
