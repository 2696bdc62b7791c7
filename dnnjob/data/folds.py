"""Folds of the training rows: which member of a model leaves which rows out.

folds = deal_folds(table, count=5, seed=0)     # of each training row its fold, 0 to 4
"""

import heapq
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from dnnjob.config import JobConfig
from dnnjob.data.order import fold_stream, window_rows
from dnnjob.data.raw_columns import FloatArray, RawColumn
from dnnjob.data.split import TRAIN
from dnnjob.data.splitter import hash_keys, times_of
from dnnjob.data.table import Table
from dnnjob.errors import JobError

Folds = npt.NDArray[np.int32]

_PIECE_ROWS = 2**16


def deal_folds(table: Table, *, count: int, seed: int) -> Folds:
    """The fold of each training row, in the order of the table, int32 `(num_rows,)`.

    Rows are dealt by a permutation, and sizes differ by one at most. Where the job splits by
    groups, all rows of a group go into the fold that has the fewest rows yet, in the order of a
    permutation of the groups. Where it splits by time, folds are consecutive stretches of time:
    neighbours in time are too much alike to judge each other.

    Args:
        table: The table, resident.
        count: Folds, one a member.
        seed: Seed of the splits.

    Raises:
        JobError: If a fold would be empty or without weight, or the table is trained window by
            window.
    """
    if table.by_windows:
        raise _by_windows(table.data.source)
    folds = _deal(table, count=count, seed=seed)
    _refuse_weightless(table, folds, count=count)
    return folds


def _deal(table: Table, *, count: int, seed: int) -> Folds:
    num_rows, what = table.num_split_rows(TRAIN), "training rows"
    stream = fold_stream(seed)
    match table.data.split:
        case "group":
            groups = _read_groups(table)
            num_groups = int(groups.max(initial=-1)) + 1
            _refuse_too_few(num_groups, f"groups of {table.data.split_column!r}", count)
            return _deal_groups(groups, stream.permutation(num_groups), count=count)
        case "time":
            order = np.argsort(_read_times(table), kind="stable")
        case _:
            order = stream.permutation(num_rows)
    _refuse_too_few(num_rows, what, count)
    folds = np.empty(num_rows, np.int32)
    for fold, rows in enumerate(np.array_split(order, count)):
        folds[rows] = fold
    return folds


def choose_folds(folds: Folds, members: Sequence[int]) -> Folds:
    """Of each training row the place among some members of that which left it out; else -1.

    Args:
        folds: Of each training row the member, `(num_rows,)`.
        members: Their numbers.
    """
    places = np.full(int(folds.max()) + 1, -1, np.int32)
    places[list(members)] = np.arange(len(members))
    chosen: Folds = places[folds]
    return chosen


def check_folds(job: JobConfig, table: Table, *, num_train_rows: int, is_sample: bool) -> None:
    """Refuses folds that a run of the job would refuse, before it begins.

    Args:
        job: The job.
        table: Its rows.
        num_train_rows: Training rows of the whole table.
        is_sample: Whether the rows are some of a table that a run reads in pieces.

    Raises:
        JobError: If a fold would be empty or without weight, or the table is trained window by
            window.
    """
    if job.model.bagging == "none":
        return
    if not is_sample:
        deal_folds(table, count=job.model.members, seed=job.split_seed)
    elif num_train_rows > window_rows(job.data, table.kinds):
        raise _by_windows(job.data.source)


def _by_windows(source: str) -> JobError:
    return JobError(
        f'model.bagging = "folds" needs training rows that stay in memory, but {source} is trained '
        "window by window. Leave bagging out and set data.validation_fraction, or raise "
        "data.window_rows."
    )


def _refuse_too_few(found: int, what: str, count: int) -> None:
    if found < count:
        raise JobError(
            f'model.bagging = "folds" needs a fold for each of the {count} members, but there are '
            f"{found} {what}. Lower model.members, or leave bagging out."
        )


def _refuse_weightless(table: Table, folds: Folds, *, count: int) -> None:
    column = table.data.weight_column
    if column is None:
        return
    weights = np.concatenate(
        [
            np.asarray(piece.weights)[piece.labels == TRAIN]
            for piece in table.pieces(size=_PIECE_ROWS)
        ]
    )
    weightless = count - np.count_nonzero(np.bincount(folds, weights, minlength=count))
    if weightless:
        # Without errors to judge it by, a member would stop at its first epoch.
        raise JobError(
            'model.bagging = "folds" needs a row of a weight above 0 in each fold, but '
            f"{weightless} of {count} have none by {column!r}. Lower model.members, leave bagging "
            "out, or leave out the rows without weight."
        )


def _deal_groups(
    groups: npt.NDArray[np.int64], order: npt.NDArray[np.int64], *, count: int
) -> Folds:
    sizes = np.bincount(groups)
    fold_of = np.empty(len(sizes), np.int32)
    emptiest = [(0, fold) for fold in range(count)]
    for group in order.tolist():
        num_rows, fold = emptiest[0]
        fold_of[group] = fold
        heapq.heapreplace(emptiest, (num_rows + int(sizes[group]), fold))
    folds: Folds = fold_of[groups]
    return folds


def _read_groups(table: Table) -> npt.NDArray[np.int64]:
    """A number of the group of each training row."""
    hashes = []
    for start, rows, keys in _training_keys(table):
        numbers = np.arange(start, start + len(rows), dtype=np.uint64)
        hashes.append(hash_keys(keys, numbers)[rows])
    _, groups = np.unique(np.concatenate(hashes), return_inverse=True)
    return np.asarray(groups, np.int64)


def _read_times(table: Table) -> FloatArray:
    return np.concatenate([times_of(keys)[rows] for _, rows, keys in _training_keys(table)])


def _training_keys(
    table: Table,
) -> Iterator[tuple[int, npt.NDArray[np.bool_], RawColumn | None]]:
    """Of each piece its first row, which of its rows train, and what the split of all goes by."""
    for start, piece in table.rows.batches(size=_PIECE_ROWS):
        keys, labels = table.split_keys(start, piece)
        yield start, labels == TRAIN, keys
