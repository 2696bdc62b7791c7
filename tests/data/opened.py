"""Tables opened without a run around them, and what they hold."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dnnjob.config import DataConfig, JobConfig
from dnnjob.data.encoding import ColumnStatistics, FeatureKind
from dnnjob.data.fingerprint import Fingerprint
from dnnjob.data.measurement import measure_sample, measure_table
from dnnjob.data.parquet import ParquetRows
from dnnjob.data.raw_columns import Block, FloatArray, Texts
from dnnjob.data.rows import TypedTable, hold_columns
from dnnjob.data.running_statistics import measure_column
from dnnjob.data.schema import Column, ColumnData
from dnnjob.data.schema_merge import agree_on_kinds
from dnnjob.data.sources import hold_table, peek_job
from dnnjob.data.split import Split
from dnnjob.data.spool import Scratch
from dnnjob.data.table import Piece, Table
from dnnjob.data.table_loading import type_parquet
from dnnjob.data.text_format import TextFormat
from dnnjob.tasks import Crew


@dataclass(frozen=True, eq=False)
class OpenedTable:
    """A table, and all of its rows at once."""

    table: Table

    @cached_property
    def piece(self) -> Piece:
        return next(self.table.pieces(size=self.table.num_rows))

    @property
    def num_rows(self) -> int:
        return self.table.num_rows

    @property
    def features(self) -> tuple[str, ...]:
        return self.table.features

    @property
    def kinds(self) -> Mapping[str, FeatureKind]:
        return self.table.kinds

    @property
    def columns(self) -> tuple[Column, ...]:
        return self.table.typed.columns

    @property
    def fingerprint(self) -> Fingerprint:
        return self.table.fingerprint

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.table.warnings

    @property
    def text_format(self) -> TextFormat | None:
        return self.table.typed.text_format

    @property
    def block(self) -> Block:
        return self.piece.block

    @property
    def y(self) -> FloatArray:
        return self.piece.y

    @property
    def ids(self) -> Mapping[str, Any]:
        return self.piece.ids

    @property
    def weights(self) -> FloatArray | None:
        return self.piece.weights

    def number(self, name: str) -> FloatArray:
        column = self.block[name]
        assert not isinstance(column, Texts)
        return np.asarray(column, np.float64)

    @property
    def x(self) -> FloatArray:
        return np.stack([self.number(name) for name in self.features], axis=1)

    @property
    def split(self) -> Split:
        return Split(*(np.flatnonzero(self.piece.labels == place) for place in range(3)))


def open_table(data: DataConfig) -> OpenedTable:
    """A table in memory that is not split: all rows with a target train."""
    return OpenedTable(measure_sample(hold_table(data)))


def split_table(job: JobConfig) -> OpenedTable:
    """A table in memory, split as a job says."""
    return OpenedTable(measure_table(job, hold_table(job.data)))


def open_files(
    job: JobConfig,
    *,
    block_rows: int | None,
    get_scratch: Callable[[], Scratch],
    threads: int = 1,
    crew: Crew | None = None,
    kept: Path | None = None,
) -> Table:
    """A table of Parquet files that is read from them, or from a copy in small row groups."""
    found = peek_job(job.data)
    files = ParquetRows.open(found.paths)
    agreed = agree_on_kinds(job.data, files, found.features)
    return measure_table(
        job,
        type_parquet(job.data, found, files=files, agreed=agreed),
        block_rows=block_rows,
        get_scratch=get_scratch,
        threads=threads,
        crew=crew,
        kept=kept,
    )


def hold(data: DataConfig, columns: Sequence[ColumnData]) -> TypedTable:
    """A table in memory of these columns, the features in their order and the target."""
    by_name = {column.column.name: column for column in columns}
    return hold_columns(
        data,
        tuple(name for name in by_name if name not in (data.target, data.weight_column)),
        by_name,
        Fingerprint("sha256-values", ""),
        part_rows=(columns[0].num_rows, 0, 0),
    )


def measure_block(block: Block) -> dict[str, ColumnStatistics]:
    """Statistics of every column of some rows."""
    return {name: measure_column(column).statistics() for name, column in block.items()}
