"""Tables larger than memory: passed over once, then read in pieces.

with open_stream(job, paths, kinds, folder=scratch) as table:
    table.num_split_rows, table.statistics("train"), table.columns
    rows = table.read_split(TRAIN, 50_000, 100_000)     # training rows by their number
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dnnjob.config.job import DataConfig, JobConfig
from dnnjob.data.block import Block, FloatArray, RawColumn, Texts, take_rows
from dnnjob.data.encoding import (
    Encoding,
    FeatureKind,
    fit_columns,
    fit_target,
    transform_target,
)
from dnnjob.data.kinds import TEXT_KINDS, arrow_kind, as_kind, infer_arrow
from dnnjob.data.parquet import ParquetRows
from dnnjob.data.schema import (
    FLOAT32_MAX,
    FLOAT32_TINY,
    NARROW_SPREAD,
    Column,
    ColumnData,
    check_features,
    check_target,
    check_weights,
    listed,
)
from dnnjob.data.sources import Fingerprint, JobFiles, fingerprint_files
from dnnjob.data.split import SPLITS, Labels
from dnnjob.data.splitter import (
    SCAN_ROWS,
    PartRows,
    SplitFacts,
    Splitter,
    expected_train_rows,
    make_splitter,
    read_keys,
    refuse_empty_splits,
    scan_rows,
)
from dnnjob.data.totals import NumberTotals, Totals, join_totals, measure_column
from dnnjob.errors import DataError, JobError

logger = logging.getLogger(__name__)

# Statistics add up over blocks of so many rows of the table, wherever its files end.
_PASS_ROWS = 2**16
# Blocks that are measured while the next are read.
_BLOCKS_AHEAD = 4
# A row group of the copy takes about this many bytes, and its files so many row groups.
_GROUP_BYTES = 2**19
_GROUPS_A_FILE = 128
_LEAST_GROUP_ROWS, _MOST_GROUP_ROWS = 64, 2**14
# What the copy may take beyond the plain size of its values.
_ROOM = 1.1
_TRANSFORMED = "transformed target"


@dataclass(frozen=True, eq=False)
class Piece:
    """Rows of a table, one after the other.

    Attributes:
        row_ids: Their numbers in the source, int64 `(num_rows,)`.
        labels: Their splits, places in `SPLITS`.
        block: Raw values of the features.
        y: Targets, NaN where unlabelled.
        weights: Of the rows in the loss; None where all weigh the same.
        ids: Columns carried into the predictions, as the files have them.
    """

    row_ids: np.ndarray
    labels: Labels
    block: Block
    y: FloatArray
    weights: FloatArray | None
    ids: Mapping[str, "pa.ChunkedArray[Any]"]


@dataclass(frozen=True, eq=False)
class StreamedTable:
    """A table that passed every check and is read in pieces.

    Attributes:
        source: Where it came from, as the job says it.
        features: Names of the columns that are predicted from.
        target: Name of what is predicted.
        kinds: What the features hold, in their order.
        columns: All columns that the job uses.
        fingerprint: What tells it from another table.
        warnings: What training can live with and a person should know; logged too.
        rows: The files it is read from: the source's, or a copy in small row groups.
        splitter: The split of each row that has a target.
        totals: Of each split's columns, by the name of the split.
        group_counts: Rows of each split in each row group, int64 `(num_groups, 4)`.
        data: What the job says.
    """

    source: str
    features: tuple[str, ...]
    target: str
    kinds: Mapping[str, FeatureKind]
    columns: tuple[Column, ...]
    fingerprint: Fingerprint
    warnings: tuple[str, ...]
    rows: ParquetRows
    splitter: Splitter
    totals: Mapping[str, Mapping[str, Totals]]
    group_counts: np.ndarray
    data: DataConfig

    @property
    def num_rows(self) -> int:
        """Rows of the source."""
        return self.rows.num_rows

    def num_split_rows(self, split: int) -> int:
        """Rows of a split, a place in `SPLITS`."""
        return int(self.group_counts[:, split].sum())

    def fit_encoding(self) -> Encoding:
        """How the columns become inputs, from the rows that `data.standardize` names."""
        names = ("train", "validation", "test", "unlabelled")
        parts = [self.totals[name] for name in (names if self._uses_all else names[:1])]
        features = join_totals([dict(part) for part in parts if part])
        found = {name: features[name].statistics() for name in self.features}
        labelled = join_totals([dict(part) for part in parts[:3] if part])
        target = fit_target(
            self.data,
            raw=labelled[self.target].statistics(),
            transformed=labelled[_TRANSFORMED].statistics(),
        )
        return Encoding(fit_columns(self.data, self.kinds, found), target, self.data.standardize)

    @property
    def _uses_all(self) -> bool:
        return self.data.standardize == "table"

    def mean_weight(self, split: int) -> float:
        """Mean weight of the rows of a split; 1 without weights.

        Raises:
            DataError: If all are zero.
        """
        if self.data.weight_column is None:
            return 1.0
        found = self.totals[SPLITS[split]][self.data.weight_column]
        mean = found.mean if isinstance(found, NumberTotals) else 0.0
        if not mean:
            raise DataError(
                f"Each split needs a row of a weight above 0, but no {SPLITS[split]} row has one. "
                "Set data.weight_column, or split the rows otherwise."
            )
        return mean

    def read_split(self, split: int, first: int, stop: int) -> Piece:
        """Rows `first` to `stop` of a split, counted in the order of the table."""
        ends = self._split_ends[split]
        groups = range(
            int(np.searchsorted(ends, first, side="right")),
            int(np.searchsorted(ends, stop, side="left")) + 1,
        )
        before = int(ends[groups.start - 1]) if groups.start else 0
        piece = self._read_groups(groups)
        rows = np.flatnonzero(piece.labels == split)[first - before : stop - before]
        return take_piece(piece, rows)

    @cached_property
    def _split_ends(self) -> list[np.ndarray]:
        """For each split, its rows up to the end of each row group."""
        return list(np.cumsum(self.group_counts, axis=0).T)

    def _read_groups(self, groups: range) -> Piece:
        table = self.rows.read(groups, self._names)
        return self._make_piece(int(self.rows.starts[groups.start]), table)

    def pieces(self, *, size: int, first: int = 0) -> Iterator[Piece]:
        """All rows from `first` on in their order, `size` at a time."""
        for start, table in self.rows.batches(self._names, size=size, first=first):
            yield self._make_piece(start, table)

    @cached_property
    def _names(self) -> list[str]:
        return wanted_columns(self.data, self.features)

    def _make_piece(self, first: int, table: pa.Table) -> Piece:
        block = raw_block(table, self._raw_kinds, self.data, source=self.source)
        y = np.asarray(block[self.target], dtype=np.float64)
        weight_column = self.data.weight_column
        return Piece(
            row_ids=np.arange(first, first + len(y), dtype=np.int64),
            labels=self.splitter(first, y, key_block(table, self.data)),
            block={name: block[name] for name in self.features},
            y=y,
            weights=None if weight_column is None else np.asarray(block[weight_column]),
            ids={name: table.column(name) for name in self.data.id_columns},
        )

    @cached_property
    def _raw_kinds(self) -> dict[str, FeatureKind]:
        return raw_kinds(self.data, self.kinds)


def take_piece(piece: Piece, rows: Any) -> Piece:
    """Some rows of a piece, by number."""
    return Piece(
        row_ids=piece.row_ids[rows],
        labels=piece.labels[rows],
        block=take_rows(piece.block, rows),
        y=piece.y[rows],
        weights=None if piece.weights is None else piece.weights[rows],
        ids={name: column.take(pa.array(rows)) for name, column in piece.ids.items()},
    )


def wanted_columns(data: DataConfig, features: Sequence[str]) -> list[str]:
    """The columns that a job reads, each once."""
    weights = [] if data.weight_column is None else [data.weight_column]
    keys = [] if data.split_column is None else [data.split_column]
    return list(dict.fromkeys([*features, data.target, *weights, *data.id_columns, *keys]))


def raw_kinds(data: DataConfig, kinds: Mapping[str, FeatureKind]) -> dict[str, FeatureKind]:
    """What is read of a job's columns, its target and weights among them, and as what."""
    wanted = data.columns[data.target].kind if data.target in data.columns else None
    found = {**kinds, data.target: wanted or "numeric"}
    if data.weight_column is not None:
        found[data.weight_column] = "numeric"
    return found


def raw_block(
    table: pa.Table, kinds: Mapping[str, FeatureKind], data: DataConfig, *, source: str
) -> dict[str, RawColumn]:
    """The raw values of a table's columns, of those in `kinds`.

    Raises:
        DataError: If a value is none of its column's kind.
    """
    return {
        name: raw_column(name, table.column(name), kind, data, source=source)
        for name, kind in kinds.items()
    }


def raw_column(
    name: str,
    array: "pa.ChunkedArray[Any]",
    kind: FeatureKind,
    data: DataConfig,
    *,
    source: str,
) -> RawColumn:
    """The raw values of a column; numbers that the file has as float32 stay so."""
    if kind in ("numeric", "boolean") and arrow_kind(array.type) == kind:
        if not pa.types.is_float32(array.type):
            # safe=False: integers beyond 2**53 round, as they do in pandas.
            array = array.cast(pa.float64(), safe=False)
        return np.asarray(array.to_numpy())
    found = infer_arrow(name, array, missing=data.missing, as_text=kind in TEXT_KINDS)
    return as_kind(found, kind, source=source).raw


def key_block(table: pa.Table, data: DataConfig) -> RawColumn | None:
    """What the split of these rows goes by, where it goes by a column."""
    if data.split_column is None:
        return None
    name = data.split_column
    wanted = data.columns[name].kind if name in data.columns else None
    as_text = wanted in TEXT_KINDS
    found = infer_arrow(name, table.column(name), missing=data.missing, as_text=as_text)
    return read_keys(found if wanted is None else as_kind(found, wanted, source=data.source), data)


def scan_stream(data: DataConfig, source: ParquetRows) -> SplitFacts:
    """What the job's split must know of all rows of these files.

    Raises:
        DataError: If a file cannot be read, or the split does not suit it.
    """
    names = [data.target] if data.split_column is None else [data.target, data.split_column]
    wanted = raw_kinds(data, {})

    def blocks() -> Iterator[tuple[FloatArray, RawColumn | None]]:
        for _, table in source.batches(names, size=SCAN_ROWS):
            target = {data.target: wanted[data.target]}
            y = raw_block(table, target, data, source=data.source)[data.target]
            yield np.asarray(y, np.float64), key_block(table, data)

    return scan_rows(data, source.num_rows, blocks())


@dataclass(frozen=True, eq=False)
class _Measured:
    """What one block tells.

    Attributes:
        totals: Of each split's columns, by its name; absent splits have none.
        labels: Splits of its rows.
        differing: Numeric features that differ from the target somewhere.
    """

    totals: dict[str, dict[str, Totals]]
    labels: Labels
    differing: frozenset[str]


@contextmanager
def scratch_folder(data: DataConfig, run_id: str) -> Iterator[Path]:
    """A folder for a copy of the table, gone at the end; what a killed attempt left goes now.

    Raises:
        JobError: If `data.scratch` cannot be written.
    """
    parent = Path(data.scratch or tempfile.gettempdir())
    prefix = f"dnnjob-{run_id}-"
    try:
        for left in parent.glob(f"{prefix}*"):
            if not _is_alive(left.name.removeprefix(prefix).split("-")[0]):
                shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=parent))
    except OSError as error:
        raise JobError(
            f"data.scratch must be a folder that can be written, but {parent} cannot "
            f"({error.strerror}). Make it, or set data.scratch to another."
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_alive(pid: str) -> bool:
    return pid.isdecimal() and Path(f"/proc/{pid}").exists()


def streams(data: DataConfig, part_rows: PartRows, *, window_rows: int) -> bool:
    """Whether a table of files is trained window by window: by the rows it is expected to train."""
    return expected_train_rows(data, part_rows) > window_rows


def open_stream(
    job: JobConfig,
    found: JobFiles,
    *,
    block_rows: int,
    scratch: Path,
    threads: int,
    check: Callable[[], object] = lambda: None,
) -> StreamedTable:
    """A table of Parquet files, after one pass over it.

    Args:
        job: The job.
        found: Its files and features.
        block_rows: Training rows that are read together.
        scratch: A folder of this run, for a copy where the files cannot be read in small pieces.
        threads: Threads to measure with.
        check: Called between pieces; raises where the run shall stop.

    Raises:
        DataError: If the table cannot be read, or not be trained on as the job asks.
        JobError: If there is no room for a copy.
    """
    data, features = job.data, found.features
    source = ParquetRows.open(found.paths)
    kinds = _find_kinds(data, source, features)
    part_rows = found.part_rows(source.file_rows(found.paths))
    splitter = make_splitter(data, part_rows, scan_stream(data, source), seed=job.split_seed)
    copy = None
    if max(group.num_rows for group in source.groups) > max(block_rows // 2, _LEAST_GROUP_ROWS):
        copy = _Copy(source, data, kinds, scratch, block_rows=block_rows)
    measured = _pass_over(source, data, kinds, splitter, copy=copy, threads=threads, check=check)
    columns = join_totals(list(measured.totals.values()))
    warnings = _check(data, kinds, columns, measured.differing)
    rows = source if copy is None else ParquetRows.open(copy.paths)
    group_counts = _count_groups(rows, measured.labels)
    refuse_empty_splits(job, group_counts.sum(axis=0))
    return StreamedTable(
        source=data.source,
        features=features,
        target=data.target,
        kinds=kinds,
        columns=tuple(
            _describe(name, kinds.get(name, "numeric"), found)
            for name, found in columns.items()
            if name != _TRANSFORMED
        ),
        fingerprint=fingerprint_files(found.paths),
        warnings=warnings,
        rows=rows,
        splitter=splitter,
        totals=measured.totals,
        group_counts=group_counts,
        data=data,
    )


def _find_kinds(
    data: DataConfig, source: ParquetRows, features: Sequence[str]
) -> dict[str, FeatureKind]:
    """What the features hold: what the job says, or what all files agree on."""
    found: dict[str, FeatureKind] = {}
    keys = [] if data.split_column is None else [data.split_column]
    for name in dict.fromkeys([*features, data.target, *keys]):
        first: dict[str, Path] = {}
        for path, schema in source.schemas.items():
            dtype = schema.field(name).type
            if not pa.types.is_null(dtype):
                first.setdefault(arrow_kind(dtype), path)
        if set(first) == {"numeric", "boolean"}:
            first.pop("boolean")
        if len(first) > 1:
            told = ", ".join(f"{kind} in {path}" for kind, path in first.items())
            raise DataError(
                f"The files of {data.source} must agree on their columns, but {name!r} is {told}. "
                "Convert it to one kind, or name files that agree in data.source."
            )
        kind = next(iter(first), "numeric")
        if kind == "other":
            raise DataError(
                "Features and target must be numbers, booleans, texts or dates, but in "
                f"{data.source} {name!r} holds {source.schema.field(name).type}. Set data.features "
                "to others."
            )
        wanted = data.columns[name].kind if name in data.columns else None
        found[name] = wanted or kind  # type: ignore[assignment]
    target = found.pop(data.target)
    found = {name: found[name] for name in features}
    if target not in ("numeric", "boolean"):
        raise DataError(
            f"The target must be numbers that vary, but {data.target!r} in {data.source} is "
            f"{target}. Set data.target."
        )
    return found


def _pass_over(
    source: ParquetRows,
    data: DataConfig,
    kinds: Mapping[str, FeatureKind],
    splitter: Splitter,
    *,
    copy: "_Copy | None",
    threads: int,
    check: Callable[[], object],
) -> _Measured:
    """All blocks measured and added up in order; the copy written beside."""
    names = wanted_columns(data, tuple(kinds))
    reads = raw_kinds(data, kinds)
    waiting: list[Future[_Measured]] = []
    total: _Measured | None = None
    labels: list[Labels] = []

    def measure(first: int, table: pa.Table) -> _Measured:
        block = raw_block(table, reads, data, source=data.source)
        y = np.asarray(block[data.target], dtype=np.float64)
        return _measure(data, block, splitter(first, y, key_block(table, data)))

    def join_oldest(total: _Measured | None) -> _Measured:
        one = waiting.pop(0).result()
        labels.append(one.labels)
        return one if total is None else _join(total, one)

    with ThreadPoolExecutor(threads) as pool:
        for first, table in source.batches(names, size=_PASS_ROWS):
            check()
            waiting.append(pool.submit(measure, first, table))
            if copy is not None:
                copy.write(table)
            while len(waiting) > threads + _BLOCKS_AHEAD:
                total = join_oldest(total)
        while waiting:
            total = join_oldest(total)
    if copy is not None:
        copy.close()
    if total is None:
        raise DataError(f"A table needs rows, but {data.source} has only a header. Add rows.")
    return replace(total, labels=np.concatenate(labels))


def _join(one: _Measured, other: _Measured) -> _Measured:
    names = [name for name in SPLITS if name in one.totals or name in other.totals]
    return _Measured(
        totals={
            name: join_totals([part.totals[name] for part in (one, other) if name in part.totals])
            for name in names
        },
        labels=other.labels,
        differing=one.differing | other.differing,
    )


def _measure(data: DataConfig, block: Block, labels: Labels) -> _Measured:
    y = np.asarray(block[data.target], dtype=np.float64)
    totals = {}
    for place in np.unique(labels):
        rows = np.flatnonzero(labels == place)
        part = block if len(rows) == len(labels) else take_rows(block, rows)
        found = {name: measure_column(column) for name, column in part.items()}
        if data.target_transform != "none":
            transformed = transform_target(y[rows], data.target_transform)
            found[_TRANSFORMED] = measure_column(transformed)
        else:
            found[_TRANSFORMED] = found[data.target]
        totals[SPLITS[place]] = found
    differing = frozenset(
        name for name, column in block.items() if isinstance(column, Texts) or _differs(column, y)
    )
    return _Measured(totals, labels, differing)


def _differs(column: FloatArray, y: FloatArray) -> bool:
    if len(y) and column[0] != y[0] and np.isfinite(column[0]) and np.isfinite(y[0]):
        return True
    both = np.isfinite(column) & np.isfinite(y)
    return not np.array_equal(column[both], y[both])


def _check(
    data: DataConfig,
    kinds: Mapping[str, FeatureKind],
    totals: Mapping[str, Totals],
    differing: frozenset[str],
) -> tuple[str, ...]:
    """Checks that a job can train on these columns; its warnings, also logged."""
    target = ColumnData(
        _describe(data.target, "numeric", totals[data.target]), totals[data.target].num_rows
    )
    features = [
        ColumnData(_describe(name, kind, totals[name]), totals[name].num_rows)
        for name, kind in kinds.items()
    ]
    _refuse_beyond_float32(data, [*features, target])
    check_target(data.source, target)
    minimum = target.column.minimum
    if data.target_transform == "log1p" and minimum is not None and minimum <= -1:
        raise DataError(
            f"log(1 + target) needs targets above -1, but {data.target!r} in {data.source} goes "
            f'down to {minimum:g}. Set data.target_transform = "none", or shift the target.'
        )
    check_features(data.source, features)
    if data.weight_column is not None:
        found = totals[data.weight_column]
        column = _describe(data.weight_column, "numeric", found)
        check_weights(data.source, ColumnData(column, found.num_rows))
    warnings = tuple(_weaknesses(data, features, target, totals, differing))
    for warning in warnings:
        logger.warning("%s: %s", data.source, warning)
    return warnings


def _refuse_beyond_float32(data: DataConfig, columns: Sequence[ColumnData]) -> None:
    beyond = [
        one.column.name
        for one in columns
        if max(abs(one.column.minimum or 0.0), abs(one.column.maximum or 0.0)) > FLOAT32_MAX
    ]
    if beyond:
        raise DataError(
            f"Numbers must be within the range of float32 (3.4e38), but {listed(beyond)} in "
            f"{data.source} go beyond. Change their unit, or set data.features to others."
        )


def _weaknesses(
    data: DataConfig,
    features: Sequence[ColumnData],
    target: ColumnData,
    totals: Mapping[str, Totals],
    differing: frozenset[str],
) -> Iterator[str]:
    if unlabelled := target.column.num_missing:
        yield (
            f"{data.target} is missing in {unlabelled} of {target.num_rows} rows: they are "
            "predicted, not trained on."
        )
    if empty := [one.column.name for one in features if one.is_empty]:
        yield f"features without any value tell nothing: {listed(empty)}."
    if constant := [one.column.name for one in features if one.column.is_constant]:
        yield f"constant features tell nothing: {listed(constant)}."
    numbers = [one.column.name for one in features if one.column.is_number and not one.is_empty]
    if leaks := [name for name in numbers if name not in differing]:
        yield (
            f"{listed(leaks)} equals the target {data.target} in every row: a leak, unless it is "
            "known before the target is. Leave it out of data.features."
        )
    if narrow := [name for name in (*numbers, data.target) if _is_narrow(totals[name])]:
        yield (
            f"float32 cannot hold the differences within {listed(narrow)}: they are below "
            f"{NARROW_SPREAD:g} of the magnitude, or below {FLOAT32_TINY:.1g}. Subtract an offset, "
            "or change the unit."
        )


def _is_narrow(found: Totals) -> bool:
    if not isinstance(found, NumberTotals) or found.minimum >= found.maximum:
        return False
    spread = float(np.sqrt(found.squared_deviation / found.num_finite))
    return spread < NARROW_SPREAD * max(-found.minimum, found.maximum) or spread < FLOAT32_TINY


def _describe(name: str, kind: FeatureKind, found: Totals) -> Column:
    if not isinstance(found, NumberTotals):
        return Column(name, kind, num_missing=found.num_missing, num_values=len(found.counts) or 0)
    return Column(
        name,
        kind,
        num_missing=found.num_missing,
        num_infinite=found.num_infinite,
        minimum=found.minimum if found.num_finite else None,
        maximum=found.maximum if found.num_finite else None,
    )


def _count_groups(rows: ParquetRows, labels: Labels) -> np.ndarray:
    counts = np.zeros((len(rows.groups), len(SPLITS)), dtype=np.int64)
    for place in range(len(SPLITS)):
        counts[:, place] = np.add.reduceat(labels == place, rows.starts[:-1], dtype=np.int64)
    return counts


class _Copy:
    """A copy of a table's columns in small row groups, over a few files."""

    def __init__(
        self,
        source: ParquetRows,
        data: DataConfig,
        kinds: Mapping[str, FeatureKind],
        folder: Path,
        *,
        block_rows: int,
    ) -> None:
        self.paths: list[Path] = []
        self._folder = folder
        self._writer: pq.ParquetWriter | None = None
        self._schema = _copied_schema(source, data, kinds)
        width = sum(_width(field.type) for field in self._schema)
        _refuse_full_disk(folder, round(_ROOM * width * source.num_rows))
        rows = min(_GROUP_BYTES // max(width, 1), block_rows // 4, _MOST_GROUP_ROWS)
        self._group_rows = max(_LEAST_GROUP_ROWS, rows)
        self._waiting: list[pa.Table] = []
        self._num_groups = 0
        logger.info(
            "Copying %s in row groups of %d rows to %s: its own are too large to be read in any "
            "order.",
            data.source,
            self._group_rows,
            folder,
        )

    def write(self, table: pa.Table) -> None:
        """Adds rows."""
        waiting = pa.concat_tables([*self._waiting, self._cast(table)])
        while waiting.num_rows >= self._group_rows:
            self._write_group(waiting.slice(0, self._group_rows))
            waiting = waiting.slice(self._group_rows)
        self._waiting = [waiting]

    def close(self) -> None:
        """Writes what is left."""
        rest = pa.concat_tables(self._waiting) if self._waiting else None
        if rest is not None and rest.num_rows:
            self._write_group(rest)
        if self._writer is not None:
            self._writer.close()

    def _write_group(self, table: pa.Table) -> None:
        if self._writer is None or self._num_groups % _GROUPS_A_FILE == 0:
            if self._writer is not None:
                self._writer.close()
            self.paths.append(self._folder / f"part-{len(self.paths):06d}.parquet")
            texts = [one.name for one in self._schema if not _is_plain(one.type)]
            self._writer = pq.ParquetWriter(
                self.paths[-1],
                self._schema,
                compression="none",
                use_dictionary=texts or False,
                write_statistics=False,
            )
        self._num_groups += 1
        self._writer.write_table(table, row_group_size=table.num_rows)

    def _cast(self, table: pa.Table) -> pa.Table:
        columns = []
        for field_ in self._schema:
            column = table.column(field_.name)
            if pa.types.is_float32(field_.type) and not pa.types.is_float32(column.type):
                # Through float64, as columns are read.
                column = column.cast(pa.float64(), safe=False)
            columns.append(column.cast(field_.type, safe=False))
        return pa.Table.from_arrays(columns, schema=self._schema)


def _copied_schema(
    source: ParquetRows, data: DataConfig, kinds: Mapping[str, FeatureKind]
) -> pa.Schema:
    """Numeric features as the float32 in which they enter; all else as it is."""
    fields = []
    for name in wanted_columns(data, tuple(kinds)):
        dtype = source.joined_type(name) or pa.large_string()
        plain = name in kinds and kinds[name] == arrow_kind(dtype) == "numeric"
        # What splits the rows stays as it is, so that it splits them alike.
        plain = plain and name != data.split_column
        fields.append(pa.field(name, pa.float32() if plain else dtype))
    return pa.schema(fields)


def _is_plain(dtype: pa.DataType) -> bool:
    return bool(pa.types.is_primitive(dtype))


def _width(dtype: pa.DataType) -> int:
    """Bytes of a value, roughly for texts."""
    return dtype.bit_width // 8 or 1 if _is_plain(dtype) else 16


def _refuse_full_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise JobError(
            f"The copy of the table needs {needed / 2**30:.1f} GiB, but {folder} has "
            f"{free / 2**30:.1f} GiB left. Set data.scratch to a folder with room, or write the "
            "table with row groups of a few thousand rows."
        )
