"""Tables larger than memory: passed over once, then read in pieces.

table = open_stream(job, found, block_rows=50_000, get_scratch=get_scratch, threads=2)
table.num_split_rows, table.statistics("train"), table.columns
rows = table.read_split(TRAIN, 50_000, 100_000)     # training rows by their number
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dnnjob.config.job import DataConfig, JobConfig
from dnnjob.data.block import Block, FloatArray, RawColumn, take_rows
from dnnjob.data.checks import check_totals, describe_totals
from dnnjob.data.encoding import Encoding, FeatureKind, fit_columns, fit_target
from dnnjob.data.fingerprint import Fingerprint, fingerprint_files
from dnnjob.data.keep import KeptPass, PassKeeper, key_of_pass
from dnnjob.data.kinds import arrow_kind
from dnnjob.data.order import default_window_rows
from dnnjob.data.parquet import ParquetRows
from dnnjob.data.schema import Column
from dnnjob.data.scratch import LEAST_GROUP_ROWS, Copy, CopyPlan, Scratch, copied_schema
from dnnjob.data.sources import JobFiles
from dnnjob.data.split import SPLITS, Labels
from dnnjob.data.splitter import (
    SCAN_ROWS,
    PartRows,
    SplitFacts,
    expected_train_rows,
    make_splitter,
    refuse_empty_splits,
    scan_rows,
)
from dnnjob.data.survey import (
    TRANSFORMED,
    RowSplitter,
    copy_rows,
    key_block,
    raw_block,
    survey_rows,
)
from dnnjob.data.text_format import TextFormat
from dnnjob.data.totals import NumberTotals, Totals, join_totals
from dnnjob.data.unify import (
    CommonColumns,
    agree_on_kinds,
    raw_kinds,
    wanted_columns,
)
from dnnjob.errors import DataError
from dnnjob.tasks import Crew, StopFlag

logger = logging.getLogger(__name__)

# A table in memory takes some fifty bytes a number for a while: of more rows than this share of a
# default window, it would take more than one that is read in pieces.
_SHARE_IN_MEMORY = 1 / 4
_PIECE_ROWS, _PIECE_BYTES = 2**16, 2**26


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
        by_windows: Whether it is trained window by window; else its training rows are read once.
        text_format: How its text writes numbers and dates; None without text.
    """

    source: str
    features: tuple[str, ...]
    target: str
    kinds: Mapping[str, FeatureKind]
    columns: tuple[Column, ...]
    fingerprint: Fingerprint
    warnings: tuple[str, ...]
    rows: ParquetRows
    splitter: RowSplitter
    totals: Mapping[str, Mapping[str, Totals]]
    group_counts: np.ndarray
    data: DataConfig
    by_windows: bool
    text_format: TextFormat | None = None

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
            transformed=labelled[TRANSFORMED].statistics(),
        )
        columns = fit_columns(self.data, self.kinds, found)
        return Encoding(columns, target, self.data.standardize, found)

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
        table = self.rows.read(groups)
        return self._make_piece(int(self.rows.starts[groups.start]), table)

    def pieces(self, *, size: int, first: int = 0) -> Iterator[Piece]:
        """All rows from `first` on in their order, `size` at a time."""
        for start, table in self.rows.batches(size=size, first=first):
            yield self._make_piece(start, table)

    def _make_piece(self, first: int, table: pa.Table) -> Piece:
        block = raw_block(table, self._raw_kinds, self.data, source=self.source)
        y = np.asarray(block[self.target], dtype=np.float64)
        weight_column = self.data.weight_column
        return Piece(
            row_ids=np.arange(first, first + len(y), dtype=np.int64),
            labels=self.splitter(first, y, table),
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


def piece_rows(num_inputs: int) -> int:
    """Rows that are read and encoded together: of many inputs fewer."""
    return max(1, min(_PIECE_ROWS, _PIECE_BYTES // (4 * num_inputs)))


def goes_by_windows(data: DataConfig, part_rows: PartRows, *, window_rows: int) -> bool:
    """Whether a table of files is trained window by window: by the rows it is expected to train."""
    return expected_train_rows(data, part_rows) > window_rows


def streams(
    data: DataConfig,
    part_rows: PartRows,
    *,
    window_rows: int,
    kinds: Mapping[str, FeatureKind],
) -> bool:
    """Whether a table of Parquet files is read in pieces, whatever the memory.

    Args:
        data: What the job says.
        part_rows: Rows of the table, trained on or not.
        window_rows: Rows of a window, as the job has them.
        kinds: What the features hold.
    """
    share = _SHARE_IN_MEMORY * default_window_rows(data, kinds)
    return sum(part_rows) > share or goes_by_windows(data, part_rows, window_rows=window_rows)


def open_stream(
    job: JobConfig,
    found: JobFiles,
    *,
    block_rows: int | None,
    get_scratch: Callable[[], Scratch],
    threads: int,
    crew: Crew | None = None,
    kept: Path | None = None,
    originals: Sequence[Path] | None = None,
    key_kind: FeatureKind | None = None,
    text_format: TextFormat | None = None,
) -> StreamedTable:
    """A table of Parquet files, after one pass over it, which is kept for whoever needs it again.

    Args:
        job: The job.
        found: Its files and features.
        block_rows: Training rows that are read together, in any order; None where all are read
            once, in theirs.
        get_scratch: Gives the place of a copy, where the files cannot be read in small pieces.
        threads: Threads to measure with.
        crew: The tasks of the run: the chief passes over the table, and those that make a copy;
            the others take what it found.
        kept: Folder of what passes found; None keeps nothing.
        originals: What these files were made from, in place of themselves for the fingerprint.
        key_kind: What the split column held in the originals; None where these files show it.
        text_format: How the originals write numbers and dates, where they are text.

    Raises:
        DataError: If the table cannot be read, or not be trained on as the job asks.
        JobError: If there is no room for a copy.
        StoppedError: If a signal asked for it.
    """
    data, features, crew = job.data, found.features, crew or Crew(StopFlag())
    files = ParquetRows.open(found.paths)
    agreed = agree_on_kinds(data, files, features)
    if data.split_column is not None and key_kind is not None:
        agreed[data.split_column] = key_kind
    kinds = {name: agreed[name] for name in features}
    source = files.wanting(_columns_of(data, files, wanted_columns(data, features), agreed))
    part_rows = found.part_rows(source.file_rows(found.paths))
    fingerprint = fingerprint_files(originals or found.paths)
    scratch = plan = None
    if block_rows is not None and _has_large_groups(source, block_rows):
        scratch = get_scratch()
        plan = _plan_copy(source, data, kinds, scratch.folder, block_rows=block_rows)
    starts = source.starts if plan is None else plan.starts
    key = key_of_pass(
        data,
        kinds,
        np.diff(starts),
        fingerprint,
        part_rows=part_rows,
        seed=job.split_seed,
    )
    made = _Pass(
        job,
        source,
        kinds,
        part_rows,
        partial(_scan, data, files, agreed),
        starts,
        copy=_make_copy(plan, scratch),
        awaits_copy=scratch is not None and not scratch.is_mine,
        key_kind=_key_kind(data, agreed),
        threads=threads,
    )
    passed = made.find(PassKeeper(kept, key), crew)
    survey = passed.kept.survey
    columns = join_totals([dict(part) for part in survey.totals.values()])
    doubts = () if text_format is None else text_format.doubts_of([*features, data.target])
    warnings = check_totals(data, kinds, columns, survey.differing, doubts)
    refuse_empty_splits(job, survey.group_counts.sum(axis=0))
    return StreamedTable(
        source=data.source,
        features=features,
        target=data.target,
        kinds=kinds,
        columns=tuple(
            describe_totals(name, kinds.get(name, "numeric"), found)
            for name, found in columns.items()
            if name != TRANSFORMED
        ),
        fingerprint=fingerprint,
        warnings=warnings,
        rows=source if plan is None else _open_copy(plan, source.columns),
        splitter=passed.splitter,
        totals=survey.totals,
        group_counts=survey.group_counts,
        data=data,
        by_windows=block_rows is not None,
        text_format=text_format,
    )


@dataclass(frozen=True, eq=False)
class _Passed:
    """What a pass found, and the split of each row that follows from it."""

    kept: KeptPass
    splitter: RowSplitter


@dataclass(frozen=True, eq=False)
class _Pass:
    """The pass over a table: made, or one that was kept.

    Attributes:
        job: The job.
        source: The table.
        kinds: What the features hold.
        part_rows: Rows of the sources of each split.
        scan: Looks for what the split must know; calls in between what it is given.
        starts: First rows of the row groups that are counted, and the number of rows.
        copy: What takes the rows, too.
        awaits_copy: Whether another task makes the copy that this one will read.
        key_kind: What the split column holds, where the split goes by one.
        threads: Threads to measure with.
    """

    job: JobConfig
    source: ParquetRows
    kinds: Mapping[str, FeatureKind]
    part_rows: PartRows
    scan: Callable[[Callable[[], object]], SplitFacts]
    starts: npt.NDArray[np.int64]
    copy: Copy | None
    awaits_copy: bool
    key_kind: FeatureKind | None
    threads: int

    def find(self, keeper: PassKeeper, crew: Crew) -> _Passed:
        """What a pass finds, and the copy, if one is needed.

        The chief goes first, and whoever makes a copy: the other tasks need not read the table.
        """
        leads = crew.is_chief or self.copy is not None
        waits = self.awaits_copy or (not leads and keeper.folder is not None)
        if waits:
            crew.gather(None)
        kept = keeper.load()
        if kept is None:
            found = self._make(crew.check)
            if crew.is_chief:
                keeper.save(found.kept)
        else:
            found = _Passed(kept, self._make_splitter(kept.facts))
            if self.copy is not None:
                copy_rows(self.source, self.copy, check=crew.check)
        if not waits:
            crew.gather(None)
        return found

    def _make_splitter(self, facts: SplitFacts) -> RowSplitter:
        data, key_kind = self.job.data, self.key_kind
        deal = make_splitter(data, self.part_rows, facts, seed=self.job.split_seed)

        def label(first: int, y: FloatArray, table: pa.Table) -> Labels:
            return deal(first, y, key_block(table, data, key_kind))

        return label

    def _make(self, check: Callable[[], object]) -> _Passed:
        facts = self.scan(check)
        splitter = self._make_splitter(facts)
        survey = survey_rows(
            self.source,
            self.job.data,
            self.kinds,
            splitter,
            starts=self.starts,
            copy=self.copy,
            threads=self.threads,
            check=check,
        )
        return _Passed(KeptPass(survey, facts), splitter)


def _columns_of(
    data: DataConfig,
    files: ParquetRows,
    names: Sequence[str],
    agreed: Mapping[str, FeatureKind],
) -> CommonColumns:
    reads = raw_kinds(data, agreed)
    reads = {name: kind for name, kind in reads.items() if name not in data.id_columns}
    return CommonColumns.of(files.schemas.values(), names, reads, missing=data.missing)


def _key_kind(data: DataConfig, agreed: Mapping[str, FeatureKind]) -> FeatureKind | None:
    return None if data.split_column is None else agreed[data.split_column]


def _scan(
    data: DataConfig,
    files: ParquetRows,
    agreed: Mapping[str, FeatureKind],
    check: Callable[[], object],
) -> SplitFacts:
    """What the job's split must know of all rows of these files."""
    names = [data.target] if data.split_column is None else [data.target, data.split_column]
    source = files.wanting(_columns_of(data, files, names, agreed))
    wanted = {data.target: raw_kinds(data, {})[data.target]}
    key_kind = _key_kind(data, agreed)

    def blocks() -> Iterator[tuple[FloatArray, RawColumn | None]]:
        for _, table in source.batches(size=SCAN_ROWS):
            check()
            y = raw_block(table, wanted, data, source=data.source)[data.target]
            yield np.asarray(y, np.float64), key_block(table, data, key_kind)

    return scan_rows(data, source.num_rows, blocks())


def _has_large_groups(source: ParquetRows, block_rows: int) -> bool:
    most = max((group.num_rows for group in source.groups), default=0)
    return most > max(block_rows // 2, LEAST_GROUP_ROWS)


def _plan_copy(
    source: ParquetRows,
    data: DataConfig,
    kinds: Mapping[str, FeatureKind],
    folder: Path,
    *,
    block_rows: int,
) -> CopyPlan:
    numeric = {
        name
        for name, kind in kinds.items()
        # What splits the rows stays as it is, so that it splits them alike.
        if kind == arrow_kind(source.schema.field(name).type) == "numeric"
        and name != data.split_column
    }
    return CopyPlan.make(
        copied_schema(source.schema, frozenset(numeric)),
        folder,
        num_rows=source.num_rows,
        block_rows=block_rows,
        widths=source.widths(),
    )


def _make_copy(plan: CopyPlan | None, scratch: Scratch | None) -> Copy | None:
    if plan is None or scratch is None or not scratch.is_mine:
        return None
    return Copy(plan, copies=scratch.copies)


def _open_copy(plan: CopyPlan, columns: CommonColumns) -> ParquetRows:
    rows = ParquetRows.open(plan.paths)
    schema = next(iter(rows.schemas.values()))
    return rows.wanting(CommonColumns(schema, columns.kinds, columns.missing))
