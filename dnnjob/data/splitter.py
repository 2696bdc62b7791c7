"""The split of rows that pass by, as a job deals them: by number, group, time, a column or files.

facts = scan_rows(job.data, num_rows, blocks)       # looks at all rows, where a split needs it
splitter = make_splitter(job.data, part_rows, facts, seed=0)
splitter(first_row, y, keys)                        # of consecutive rows: a place in SPLITS each
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, assert_never

import numpy as np
from numpy.typing import NDArray

from dnnjob.data.kinds import as_kind, write_number
from dnnjob.data.quantiles import QuantileSketch
from dnnjob.data.raw_columns import FloatArray, RawColumn, Texts
from dnnjob.data.schema import ColumnData, listed
from dnnjob.data.split import (
    MAX_SHUFFLED_ROWS,
    SPLITS,
    TEST,
    TRAIN,
    UNLABELLED,
    VALIDATION,
    IndexArray,
    Labels,
    choose_split,
    hash_text,
    split_rows,
    uniform,
)
from dnnjob.errors import DataError

if TYPE_CHECKING:
    from dnnjob.config.data_section import DataConfig
    from dnnjob.config.job import JobConfig

PartRows = tuple[int, int, int]
"""Rows of data.source, data.validation_source and data.test_source, which follow each other."""

Splitter = Callable[[int, FloatArray, RawColumn | None], Labels]
"""From the number of a first row, and targets and keys of the rows from there on, to the split of
each, a place in `SPLITS`. Rows without a target are unlabelled."""

Blocks = Iterable[tuple[FloatArray, RawColumn | None]]
"""Targets and keys of all rows, `SCAN_ROWS` at a time."""

# Quantile sketches are equal where they saw equal blocks.
SCAN_ROWS = 2**16
_MAX_TOLD = 5


@dataclass(frozen=True, eq=False)
class SplitFacts:
    """What a split must know of all rows before it can tell that of one.

    Attributes:
        unlabelled: Numbers of the rows without a target, where the others are shuffled.
        cuts: Where time splits: from the first on rows validate, from the second on they test.
    """

    unlabelled: IndexArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    cuts: tuple[float, float] = (math.inf, math.inf)


def scan_rows(data: "DataConfig", num_rows: int, blocks: Blocks) -> SplitFacts:
    """What the job's split must know of all rows; most need not look at them.

    Raises:
        DataError: If a row with a target has no time.
    """
    match choose_split(data.split, num_rows):
        case "shuffle":
            missing = [np.isnan(y) for y, _ in blocks]
            return SplitFacts(unlabelled=np.flatnonzero(np.concatenate(missing or [np.zeros(0)])))
        case "time":
            return SplitFacts(cuts=_find_cuts(data, num_rows, blocks))
        case _:
            return SplitFacts()


def make_splitter(
    data: "DataConfig", part_rows: PartRows, facts: SplitFacts, *, seed: int
) -> Splitter:
    """What tells the split of any rows of a table, as the job asks.

    Raises:
        DataError: If shuffling would leave a split empty.
    """
    match choose_split(data.split, sum(part_rows)):
        case "shuffle":
            splitter = _shuffle_splitter(data, sum(part_rows), facts, seed=seed)
        case "hash":
            splitter = _hash_splitter(data, seed=seed)
        case "group":
            splitter = _group_splitter(data, seed=seed)
        case "time":
            splitter = _time_splitter(facts)
        case "column":
            splitter = _column_splitter(data)
        case "files":
            splitter = _files_splitter(data, part_rows, seed=seed)
        case kind:
            assert_never(kind)

    def label(first: int, y: FloatArray, keys: RawColumn | None) -> Labels:
        labels, missing = splitter(first, y, keys), np.isnan(y)
        return np.where(missing, np.int8(UNLABELLED), labels) if missing.any() else labels

    return label


def read_keys(column: ColumnData, data: "DataConfig") -> RawColumn:
    """What a split goes by: the values of data.split_column, of all rows or some.

    Raises:
        DataError: If the column holds what cannot be split by.
    """
    name, kind = column.column.name, column.column.kind
    if data.split == "column" and kind != "text":
        column = as_kind(column, "text", source=data.source)
    elif data.split == "time" and kind == "boolean":
        raise DataError(
            f'data.split = "time" needs a column of dates or numbers, but {name!r} in '
            f"{data.source} is boolean. Name another in data.split_column."
        )
    elif data.split == "time" and kind in ("text", "codes"):
        column = as_kind(column, "numeric" if kind == "codes" else "datetime", source=data.source)
    return column.raw


def expected_train_rows(data: "DataConfig", part_rows: PartRows) -> float:
    """The training rows that a table is expected to have, before a row of it is read.

    As many as it has at most, where only reading tells.
    """
    if data.split == "column":
        return float(sum(part_rows))
    held_out = data.test_fraction if data.folds is None else 1 / data.folds
    num_rows = part_rows[0] if data.split == "files" else sum(part_rows) * (1 - held_out)
    return num_rows * (1 - data.validation_fraction)


def refuse_empty_splits(job: "JobConfig", counts: Sequence[int] | IndexArray) -> None:
    """Refuses splits without the rows that the job needs.

    Args:
        job: What it asks for.
        counts: Rows of each of `SPLITS`.

    Raises:
        DataError: If there are no training rows, or no test or validation rows where the job asks
            for some.
    """
    data = job.data
    validates = data.validation_fraction > 0 or data.validation_source is not None
    wanted = [TRAIN, TEST] if data.needs_test_rows else [TRAIN]
    stops_on_rows = job.train.patience is not None and job.model.bagging == "none"
    wanted += [VALIDATION] if validates or stops_on_rows else []
    if all(counts[place] for place in wanted):
        return
    told = ", ".join(f"{counts[place]} {SPLITS[place]}" for place in (TRAIN, VALIDATION, TEST))
    empty = " and ".join(SPLITS[place] for place in wanted if not counts[place])
    raise DataError(
        f"A job needs {empty} rows with a target, but {_setting(data)} leaves {told} rows of "
        f"{data.source}. {_way_out(data)}"
    )


def _setting(data: "DataConfig") -> str:
    """The keys that dealt the rows, as a job file has them."""
    told = [f'data.split = "{data.split}"']
    match data.split:
        case "column":
            told += [f"data.split_column = {data.split_column!r}"]
        case "files":
            told += [f"data.test_source = {data.test_source!r}"]
            told += [f"data.validation_source = {data.validation_source!r}"] * bool(
                data.validation_source
            )
        case _:
            by = None if data.split_column is None else f"data.split_column = {data.split_column!r}"
            told += [] if by is None else [by]
            told += [
                f"data.test_fraction = {data.test_fraction}"
                if data.folds is None
                else f"data.folds = {data.folds}"
            ]
    told += [f"data.validation_fraction = {data.validation_fraction}"] * bool(
        data.validation_fraction
    )
    return f"{', '.join(told[:-1])} and {told[-1]}"


def _way_out(data: "DataConfig") -> str:
    match data.split:
        case "column":
            return f"Write the missing words into {data.split_column!r}, or set data.split."
        case "files":
            return "Name files whose rows have a target."
        case "group":
            return "Set the shares, or data.split_column to a column of more values."
        case "time":
            return "Set the shares, or data.split_column to a column with fewer equal times."
        case _:
            return "Set data.test_fraction and data.validation_fraction, or add rows."


def _shuffle_splitter(
    data: "DataConfig", num_rows: int, facts: SplitFacts, *, seed: int
) -> Splitter:
    rows = np.delete(np.arange(num_rows), facts.unlabelled)
    split = split_rows(
        len(rows),
        test_fraction=data.test_fraction,
        validation_fraction=data.validation_fraction,
        seed=seed,
        folds=data.folds,
        fold=data.fold,
    )
    labels = np.full(num_rows, TRAIN, dtype=np.int8)
    labels[rows[split.validation]] = VALIDATION
    labels[rows[split.test]] = TEST
    return lambda first, y, _: labels[first : first + len(y)]


def _hash_splitter(data: "DataConfig", *, seed: int) -> Splitter:
    return lambda first, y, _: _deal(data, _row_numbers(first, len(y)), seed=seed)


def _group_splitter(data: "DataConfig", *, seed: int) -> Splitter:
    def label(first: int, y: FloatArray, keys: RawColumn | None) -> Labels:
        return _deal(data, hash_keys(keys, _row_numbers(first, len(y))), seed=seed)

    return label


def _deal(data: "DataConfig", numbers: NDArray[np.uint64], *, seed: int) -> Labels:
    """The split of each number, by a hash of it."""
    drawn = uniform(numbers, seed=seed, stream=0)
    if data.folds is None:
        is_test = drawn < data.test_fraction
    else:
        is_test = np.floor(drawn * data.folds) == data.fold
    is_validation = uniform(numbers, seed=seed, stream=1) < data.validation_fraction
    return np.where(is_test, TEST, np.where(is_validation, VALIDATION, TRAIN)).astype(np.int8)


def _row_numbers(first: int, count: int) -> NDArray[np.uint64]:
    return np.arange(first, first + count, dtype=np.uint64)


def hash_keys(keys: RawColumn | None, rows: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A number of each key, the same for 7 and "7"; a row without a key is a group of its own."""
    keys = _given(keys)
    if isinstance(keys, Texts):
        hashes = np.array([*map(_hash_key, keys.values), 0], dtype=np.uint64)[keys.codes]
        return np.where(keys.codes < 0, rows, hashes)
    # Zero has two signs.
    numbers = np.asarray(keys, dtype=np.float64) + 0.0
    return np.where(np.isnan(numbers), rows, numbers.view(np.uint64))


def _hash_key(text: str) -> int:
    try:
        number = float(text)
        if math.isfinite(number) and write_number(number) == text:
            return int(np.float64(number).view(np.uint64))
    except ValueError:
        pass
    return hash_text(text)


def _find_cuts(data: "DataConfig", num_rows: int, blocks: Blocks) -> tuple[float, float]:
    """From which time on rows validate and test, as the newest of those with a target."""
    kept: list[FloatArray] = []
    sketch, num_missing = QuantileSketch(), 0
    for y, keys in blocks:
        times = times_of(keys)[~np.isnan(y)]
        missing = np.isnan(times)
        num_missing += int(missing.sum())
        if num_rows <= MAX_SHUFFLED_ROWS:
            kept.append(times[~missing])
        else:
            sketch = sketch.added(times[~missing])
    if num_missing:
        raise DataError(
            f'data.split = "time" needs the time of every row with a target, but '
            f"{data.split_column!r} in {data.source} is missing in {num_missing} of them. Name "
            "another column in data.split_column, or repair the rows."
        )
    values, weights = sketch.samples()
    if kept:
        values = np.concatenate(kept)
        weights = np.ones(len(values), dtype=np.int64)
    test = _newest(values, weights, data.test_fraction)
    if data.validation_fraction == 0:
        return test, test
    rest = values < test
    return _newest(values[rest], weights[rest], data.validation_fraction), test


def _newest(values: FloatArray, weights: IndexArray, share: float) -> float:
    """The oldest time of the newest share of rows; all that are as new belong to them."""
    if not len(values) or share == 0:
        return math.inf
    order = np.argsort(values, kind="stable")[::-1]
    ends = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(ends, math.ceil(share * int(ends[-1])))])


def _time_splitter(facts: SplitFacts) -> Splitter:
    validation, test = facts.cuts

    def label(first: int, y: FloatArray, keys: RawColumn | None) -> Labels:
        del first, y
        times = times_of(keys)
        is_validation = times >= validation
        labels = np.where(times >= test, TEST, np.where(is_validation, VALIDATION, TRAIN))
        return labels.astype(np.int8)

    return label


def _column_splitter(data: "DataConfig") -> Splitter:
    places = {name: float(SPLITS.index(name)) for name in ("train", "validation", "test")}

    def label(first: int, y: FloatArray, keys: RawColumn | None) -> Labels:
        texts = _given(keys)
        if not isinstance(texts, Texts):
            raise TypeError("The words of data.split_column were not read as texts.")
        folded = texts.renamed(lambda text: text.strip().lower())
        labels = folded.translated(places, other=-1, missing=-2)
        wrong = np.flatnonzero((labels == -1) | ((labels == -2) & ~np.isnan(y)))
        if len(wrong):
            raise _no_words(data, first, texts, wrong)
        return np.asarray(labels, dtype=np.int8)

    return label


def _no_words(data: "DataConfig", first: int, texts: Texts, wrong: IndexArray) -> DataError:
    values = [texts.values[code] if code >= 0 else None for code in texts.codes[wrong]]
    words = listed(dict.fromkeys("nothing" if one is None else repr(one[:40]) for one in values))
    rows = ", ".join(str(first + row) for row in wrong[:_MAX_TOLD])
    more = f" and {len(wrong) - _MAX_TOLD} more" if len(wrong) > _MAX_TOLD else ""
    return DataError(
        f"Every row with a target is train, validation or test in {data.split_column!r}, but "
        f"{data.source} has {words} there, in row {rows}{more} (from 0). Repair these rows, or set "
        "data.split_column."
    )


def _files_splitter(data: "DataConfig", part_rows: PartRows, *, seed: int) -> Splitter:
    ends = np.cumsum(part_rows)

    def label(first: int, y: FloatArray, keys: RawColumn | None) -> Labels:
        del keys
        rows = _row_numbers(first, len(y))
        labels = np.searchsorted(ends, rows, side="right").astype(np.int8)
        held = uniform(rows, seed=seed, stream=1) < data.validation_fraction
        return np.where((labels == TRAIN) & held, np.int8(VALIDATION), labels)

    return label


def _given(keys: RawColumn | None) -> RawColumn:
    if keys is None:
        raise TypeError("The split goes by a column, whose values were not read.")
    return keys


def times_of(keys: RawColumn | None) -> FloatArray:
    """The times that a split goes by, as numbers."""
    times = _given(keys)
    if isinstance(times, Texts):
        raise TypeError("The times of data.split_column were not read as such.")
    return times
