"""A bounded part of a large table, for what must not read all of it.

columns = sample_columns(ParquetRows.open(paths), names, ReadAs.of(job.data), source="big/")
columns["age"].column.kind
table = sample_table(job.data, found, rows)        # the sample's rows, and the size of the whole
table = sample_text(job.data, plan_text(job.data, found))
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from dnnjob.config.data_section import DataConfig
from dnnjob.data.fingerprint import Fingerprint
from dnnjob.data.heads import TextPlan, read_head_columns
from dnnjob.data.kinds import ReadAs, infer_arrow
from dnnjob.data.parquet import ParquetRows, RowGroup, open_parquet, reading
from dnnjob.data.partitions import add_folder_values
from dnnjob.data.rows import TypedTable, hold_columns
from dnnjob.data.schema import ColumnData
from dnnjob.data.schema_merge import join_files
from dnnjob.data.sources import JobFiles, finish_column
from dnnjob.data.split import SPLITS, TEST, TRAIN, UNLABELLED, VALIDATION
from dnnjob.data.splitter import (
    PartRows,
    SplitFacts,
    expected_train_rows,
    make_splitter,
)
from dnnjob.data.text_format import TextFormat

# Row groups, spread over the table, and rows of each.
_NUM_GROUPS = 32
_GROUP_ROWS = 1024
# Rows come from all over a group as far as this allows; so many values take about a second.
_NUM_VALUES = 2**24
# Rows of a sample tell no table from another.
NO_FINGERPRINT = Fingerprint("sha256-values", "")


@dataclass(frozen=True, eq=False)
class SampledTable:
    """Some rows of a table, and how many it has.

    Attributes:
        table: The rows.
        part_rows: Rows of data.source, data.validation_source and data.test_source.
        is_counted: Whether these are exact; else they are told by the bytes of the files.
    """

    table: TypedTable
    part_rows: PartRows
    is_counted: bool

    @property
    def num_rows(self) -> int:
        """Rows of the whole table."""
        return sum(self.part_rows)


def sample_table(data: DataConfig, found: JobFiles, rows: ParquetRows) -> SampledTable:
    """Some rows of a job's table of Parquet files.

    Args:
        data: What the job says.
        found: Its files.
        rows: The same, opened.

    Raises:
        DataError: If the table cannot be read, or holds what cannot be trained on.
    """
    columns = sample_columns(rows, found.files[0].names, ReadAs.of(data), source=data.source)
    part_rows = found.part_rows(rows.file_rows(found.paths))
    return SampledTable(_make_table(data, found, columns), part_rows, is_counted=True)


def sample_text(data: DataConfig, plan: TextPlan) -> SampledTable:
    """The first rows of the files of a job's table of text.

    Raises:
        DataError: If the table cannot be read, or holds what cannot be trained on.
    """
    columns, text_format = read_head_columns(plan.heads, ReadAs.of(data), source=data.source)
    table = _make_table(data, plan.found, columns, text_format)
    return SampledTable(table, plan.part_rows, is_counted=False)


def _make_table(
    data: DataConfig,
    found: JobFiles,
    columns: dict[str, ColumnData],
    text_format: TextFormat | None = None,
) -> TypedTable:
    num_rows = next(iter(columns.values())).num_rows
    return hold_columns(
        data,
        found.features,
        columns,
        NO_FINGERPRINT,
        part_rows=(num_rows, 0, 0),
        is_sample=True,
        text_format=text_format,
    )


def sample_columns(
    rows: ParquetRows, names: Sequence[str], wanted: ReadAs, *, source: str
) -> dict[str, ColumnData]:
    """Columns of rows from all over a table: of row groups at equal distances.

    Args:
        rows: The table.
        names: The columns wanted.
        wanted: How they are read.
        source: Of the table, for messages.

    Raises:
        DataError: If the files cannot be read, or disagree on a column.
    """
    groups = rows.groups
    chosen = np.unique(np.linspace(0, len(groups) - 1, _NUM_GROUPS).round().astype(int))
    depth = max(_GROUP_ROWS, _NUM_VALUES // (len(chosen) * len(names)))
    by_file: dict[Path, list[pa.Table]] = {}
    for group in (groups[place] for place in chosen):
        by_file.setdefault(group.path, []).append(_read_some(group, names, depth=depth))
    parts = [
        {
            name: _read_column(name, table, wanted, source=str(path))
            for table in [pa.concat_tables(tables)]
            for name in names
        }
        for path, tables in by_file.items()
    ]
    return join_files(parts, names, source=source, files=list(by_file))


def _read_some(group: RowGroup, names: Sequence[str], *, depth: int) -> pa.Table:
    """Rows at random places of the first `depth` rows of a group, in order."""
    with reading(group.path, group.place), open_parquet(group.path, pre_buffer=False) as file:
        batches = file.iter_batches(
            depth, row_groups=[group.number], columns=list(names), use_threads=False
        )
        table = pa.Table.from_batches([next(batches)])
    table = add_folder_values(table, group.path, names).select(list(names))
    if table.num_rows <= _GROUP_ROWS:
        return table
    rows = np.random.default_rng(0).choice(table.num_rows, _GROUP_ROWS, replace=False)
    return table.take(np.sort(rows))


def _read_column(name: str, table: pa.Table, wanted: ReadAs, *, source: str) -> ColumnData:
    array = table.column(name)
    found = infer_arrow(name, array, missing=wanted.missing, as_text=wanted.as_text(name))
    return finish_column(found, wanted, source=source, original=array)


def estimate_splits(data: DataConfig, sampled: SampledTable, *, seed: int) -> list[int]:
    """About how many rows each of `SPLITS` has; exact where shares or files alone decide.

    Raises:
        DataError: If a row of the sample has no place in any.
    """
    y, keys = sampled.table.targets_and_keys()
    labelled = ~np.isnan(y)
    # Where no row of a sample has a target, others may.
    share = float(labelled.mean()) or 1.0
    counts = np.zeros(len(SPLITS))
    if data.split == "column":
        splitter = make_splitter(data, sampled.part_rows, SplitFacts(), seed=seed)
        counts = np.bincount(splitter(0, y, keys), minlength=len(SPLITS)) / len(y)
        return [round(count) for count in counts * sampled.num_rows]
    train = expected_train_rows(data, sampled.part_rows)
    held_in = train / (1 - data.validation_fraction)
    counts[TRAIN], counts[VALIDATION] = train, held_in - train
    counts[TEST] = sampled.num_rows - held_in
    if data.split == "files":
        counts[VALIDATION] += sampled.part_rows[1]
        counts[TEST] = sampled.part_rows[2]
    counts *= share
    counts[UNLABELLED] = sampled.num_rows * (1 - share)
    return [round(count) for count in counts]
