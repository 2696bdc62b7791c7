"""One pass over a table: what its columns hold in each split, and the rows of each row group.

survey = survey_rows(rows, data, kinds, splitter, starts=rows.starts, copy=None, threads=2)
survey.totals["train"]["x"], survey.group_counts
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dnnjob.config.data_section import DataConfig
from dnnjob.data.data_warnings import ID_NAME
from dnnjob.data.encoding import FeatureKind, transform_target
from dnnjob.data.kinds import TEXT_KINDS, as_kind, infer_arrow, large_wholes
from dnnjob.data.quantiles import sketch_room
from dnnjob.data.raw_columns import Block, FloatArray, RawColumn, Texts, take_rows
from dnnjob.data.resemblance import (
    NO_TWINS,
    CoMoments,
    TwinCount,
    Twins,
    co_moments,
    hash_rows,
    hash_wholes,
)
from dnnjob.data.rows import Rows
from dnnjob.data.running_statistics import Totals, join_totals, measure_block, measure_column
from dnnjob.data.schema_merge import raw_kinds, read_column
from dnnjob.data.split import SPLITS, Labels
from dnnjob.data.splitter import read_keys
from dnnjob.data.spool import Copy
from dnnjob.data.text_format import TextFormat

# Statistics add up over blocks of so many rows of the table, wherever its files end; of wide tables
# of fewer.
_PASS_ROWS = 2**16
_PASS_BYTES = 2**26
# Blocks that are measured while the next are read, as far as their bytes allow.
_BLOCKS_AHEAD = 4
_WAITING_BYTES = 2**27
RowSplitter = Callable[[int, FloatArray, pa.Table], Labels]
"""As a `Splitter`, which finds the keys among the columns of the rows itself."""
# Of fewer rows many a column goes with the target by chance.
_LEAST_ROWS = 20
NEAR_COPY = 0.9999
"""Correlation from which on a feature is nearly the target."""
TRANSFORMED = "transformed target"
"""What the totals of the transformed target are called."""


@dataclass(frozen=True, eq=False)
class Survey:
    """What the pass found.

    Attributes:
        totals: Of each split's columns, by the name of the split; absent splits have none.
        differing: Features that differ from the target somewhere, and all texts.
        group_counts: Rows of each split in each row group, int64 `(num_groups, 4)`.
        near_copies: Features that are nearly a linear function of the target.
        twins: Held-out rows that equal a training row in features and target.
        different: Columns named as ids whose values are whole numbers that differ in all rows, of
            a long table in those of a sample.
    """

    totals: Mapping[str, Mapping[str, Totals]]
    differing: frozenset[str]
    group_counts: np.ndarray
    near_copies: frozenset[str] = frozenset()
    twins: TwinCount = NO_TWINS
    different: frozenset[str] = frozenset()


@dataclass(frozen=True, eq=False)
class _Measured:
    """What one block tells.

    Attributes:
        first: Number of its first row.
        totals: Of each split's columns, by its name; absent splits have none.
        labels: Splits of its rows.
        differing: As `Survey` has it.
        moments: How features vary with the target.
        twins: Rows by their hash.
        ids: Values of columns named as ids by their hash; None where some are no whole numbers.
    """

    first: int
    totals: dict[str, dict[str, Totals]]
    labels: Labels
    differing: frozenset[str]
    moments: CoMoments
    twins: Twins
    ids: dict[str, Twins | None]


class _Sums:
    """What adds up over the blocks, in their order."""

    def __init__(self, starts: np.ndarray) -> None:
        self.totals: dict[str, dict[str, Totals]] = {}
        self.differing: frozenset[str] = frozenset()
        self.moments: CoMoments | None = None
        self.twins = Twins()
        self.ids: dict[str, Twins | None] = {}
        self.counts = np.zeros((len(starts) - 1, len(SPLITS)), dtype=np.int64)
        self._starts = starts

    def add(self, one: _Measured) -> None:
        """Adds the next block."""
        for name, found in one.totals.items():
            parts = [self.totals[name]] if name in self.totals else []
            self.totals[name] = join_totals([*parts, found])
        self.differing |= one.differing
        self.moments = one.moments if self.moments is None else self.moments + one.moments
        self.twins += one.twins
        for name, more in one.ids.items():
            before = self.ids.get(name, Twins())
            # What is no id by some of its rows is none.
            if before is None or more is None or not before.are_different:
                self.ids[name] = None
            else:
                self.ids[name] = before + more
        self._count(one.first, one.labels)

    def survey(self) -> Survey:
        """What all blocks tell."""
        found = {} if self.moments is None else self.moments.correlations(least_rows=_LEAST_ROWS)
        near = {name for name, value in found.items() if abs(value) >= NEAR_COPY}
        different = {
            name for name, one in self.ids.items() if one is not None and one.are_different
        }
        return Survey(
            self.totals,
            self.differing,
            self.counts,
            frozenset(near),
            self.twins.count(),
            frozenset(different),
        )

    def _count(self, first: int, labels: Labels) -> None:
        begin = int(np.searchsorted(self._starts, first, side="right")) - 1
        stop = int(np.searchsorted(self._starts, first + len(labels), side="left"))
        cuts = np.maximum(self._starts[begin:stop] - first, 0)
        for place in range(len(SPLITS)):
            counts = np.add.reduceat(labels == place, cuts, dtype=np.int64)
            self.counts[begin:stop, place] += counts


def survey_rows(
    rows: Rows,
    data: DataConfig,
    kinds: Mapping[str, FeatureKind],
    splitter: RowSplitter,
    *,
    starts: npt.NDArray[np.int64],
    copy: Copy | None,
    threads: int,
    check: Callable[[], object],
) -> Survey:
    """All blocks measured and added up in order; the copy written beside.

    Args:
        rows: The table.
        data: What the job says.
        kinds: What its features hold.
        splitter: The split of each row.
        starts: First rows of the row groups that are counted, and the number of rows.
        copy: What takes the rows, too.
        threads: Threads to measure with.
        check: Called between blocks; raises where the run shall stop.

    Raises:
        DataError: If the table cannot be read.
        JobError: If there is no room for the copy.
    """
    reads = raw_kinds(data, kinds)
    waiting: list[tuple[int, Future[_Measured]]] = []
    sums, room = _Sums(starts), sketch_room(rows.num_rows)

    def measure(first: int, table: pa.Table) -> _Measured:
        block = raw_block(table, reads, data, source=data.source)
        y = np.asarray(block[data.target], dtype=np.float64)
        # What the sums leave out by now need not be looked at.
        level = sums.twins.level
        return _measure(data, block, first, splitter(first, y, table), room=room, level=level)

    with ThreadPoolExecutor(threads) as pool:
        for first, table in rows.batches(size=_pass_rows(len(rows.schema))):
            check()
            waiting.append((table.nbytes, pool.submit(measure, first, table)))
            if copy is not None:
                copy.write(table)
            while _are_enough(waiting, threads):
                sums.add(waiting.pop(0)[1].result())
        for _, one in waiting:
            sums.add(one.result())
    if copy is not None:
        copy.close()
    return sums.survey()


def copy_rows(rows: Rows, copy: Copy, *, check: Callable[[], object]) -> None:
    """Copies a table of which everything else is known.

    Args:
        rows: The table.
        copy: What takes the rows.
        check: Called between blocks; raises where the run shall stop.

    Raises:
        DataError: If the table cannot be read.
        JobError: If there is no room for the copy.
    """
    for _, table in rows.batches(size=_pass_rows(len(rows.schema))):
        check()
        copy.write(table)
    copy.close()


def _pass_rows(num_columns: int) -> int:
    return max(1, min(_PASS_ROWS, _PASS_BYTES // (8 * num_columns)))


def _are_enough(waiting: Sequence[tuple[int, Any]], threads: int) -> bool:
    if len(waiting) > threads + _BLOCKS_AHEAD:
        return True
    return len(waiting) > 1 and sum(size for size, _ in waiting) > _WAITING_BYTES


def raw_block(
    table: pa.Table, kinds: Mapping[str, FeatureKind], data: DataConfig, *, source: str
) -> dict[str, RawColumn]:
    """The raw values of a table's columns, of those in `kinds`; `source` is for messages.

    Raises:
        DataError: If a value is none of its column's kind.
    """
    read = partial(
        read_column, missing=data.missing, source=source, text_format=TextFormat.of(data)
    )
    return {name: read(name, table.column(name), kind) for name, kind in kinds.items()}


def read_target(table: pa.Table, data: DataConfig) -> FloatArray:
    """The targets of these rows, NaN where missing.

    Raises:
        DataError: If a value is no number.
    """
    kinds = {data.target: raw_kinds(data, {})[data.target]}
    return np.asarray(raw_block(table, kinds, data, source=data.source)[data.target], np.float64)


def key_block(table: pa.Table, data: DataConfig, kind: FeatureKind | None) -> RawColumn | None:
    """What the split of these rows goes by, where it goes by a column.

    Args:
        table: The rows.
        data: What the job says.
        kind: What the column holds in all files: one that is carried into the predictions, too,
            may stand here as text.

    Raises:
        DataError: If a value is none of that kind.
    """
    if data.split_column is None or kind is None:
        return None
    name, as_text = data.split_column, kind in TEXT_KINDS
    if data.split == "group" and kind == "numeric":
        exact = large_wholes(table.column(name), data.missing)
        if exact is not None:
            return exact
    found = infer_arrow(name, table.column(name), missing=data.missing, as_text=as_text)
    return read_keys(
        as_kind(found, kind, source=data.source, text_format=TextFormat.of(data)), data
    )


def _measure(
    data: DataConfig, block: Block, first: int, labels: Labels, *, room: int, level: int
) -> _Measured:
    y = np.asarray(block[data.target], dtype=np.float64)
    totals = {}
    for place in np.unique(labels):
        rows = np.flatnonzero(labels == place)
        part = block if len(rows) == len(labels) else take_rows(block, rows)
        found = measure_block(part, room=room)
        if data.target_transform != "none":
            # What has no logarithm is refused by its minimum.
            with np.errstate(divide="ignore", invalid="ignore"):
                transformed = transform_target(y[rows], data.target_transform)
            found[TRANSFORMED] = measure_column(transformed, room=room)
        else:
            found[TRANSFORMED] = found[data.target]
        totals[SPLITS[place]] = found
    differing = frozenset(
        name for name, column in block.items() if isinstance(column, Texts) or _differs(column, y)
    )
    compared = {name: block[name] for name in block if name != data.weight_column}
    return _Measured(
        first,
        totals,
        labels,
        differing,
        co_moments(compared, data.target),
        Twins.of(hash_rows(compared), labels, level=level),
        {name: hash_wholes(column) for name, column in block.items() if ID_NAME.search(name)},
    )


def _differs(column: FloatArray, y: FloatArray) -> bool:
    if len(y) and column[0] != y[0] and np.isfinite(column[0]) and np.isfinite(y[0]):
        return True
    both = np.isfinite(column) & np.isfinite(y)
    return not np.array_equal(column[both], y[both])
