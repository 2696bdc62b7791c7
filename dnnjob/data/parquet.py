"""Parquet files as one table of row groups, read piece by piece and never whole.

rows = ParquetRows.open([Path("a.parquet"), Path("b.parquet")])
rows = rows.wanting(CommonColumns.of(data, kinds, rows.schemas.values()))
for first, table in rows.batches(size=65_536): ...   # in order, cut at will
table = rows.read(range(12, 15))                      # some row groups, any thread
write_parquet(path, table)
"""

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dnnjob.data.partitions import add_folder_fields, add_folder_values
from dnnjob.data.schema_merge import CommonColumns
from dnnjob.errors import DataError, first_line
from dnnjob.runs import write_file

# Open files hold their footers in memory.
_MAX_OPEN_FILES = 16
# Pages are read as they come: a row group of a gigabyte takes a megabyte a column, of many columns
# less.
_BUFFER_BYTES, _LEAST_BUFFER_BYTES = 2**20, 2**14
_ALL_BUFFERS_BYTES = 2**26
_BATCH_ROWS = 2**16
# What a broken file makes pyarrow raise.
_REPLACE = "Replace the file, or leave it out of data.source."
_BROKEN = (OSError, ValueError, RuntimeError, pa.ArrowException)


@dataclass(frozen=True)
class RowGroup:
    """Rows of a file that are read together.

    Attributes:
        path: The file.
        number: Place in the file.
        num_rows: Its rows.
        offset: Where in the file it begins, bytes.
        num_bytes: What it takes in the file.
    """

    path: Path
    number: int
    num_rows: int
    offset: int
    num_bytes: int

    @property
    def place(self) -> str:
        """Where it stands, for messages."""
        return f"row group {self.number} at byte {self.offset}"


class ParquetRows:
    """The row groups of some files, in order; several threads may read."""

    def __init__(
        self,
        groups: Sequence[RowGroup],
        schemas: dict[Path, pa.Schema],
        columns: CommonColumns | None = None,
        *,
        way_out: str = _REPLACE,
    ) -> None:
        self.groups = tuple(groups)
        self.schemas = schemas
        self._way_out = way_out
        self._columns = columns
        self._files = threading.local()
        self._counting = threading.Lock()
        self.num_read_bytes = 0
        """Bytes of the files that were asked for so far."""

    @classmethod
    def open(cls, paths: Sequence[Path], *, way_out: str = _REPLACE) -> "ParquetRows":
        """The row groups that the files' footers name.

        Args:
            paths: The files.
            way_out: What can be done where one cannot be read, in a sentence.

        Raises:
            DataError: If a footer cannot be read.
        """
        groups: list[RowGroup] = []
        schemas = {}
        for path in paths:
            with reading(path, "its footer", way_out), open_parquet(path) as file:
                schemas[path] = add_folder_fields(file.schema_arrow, path)
                groups += _groups_of(path, file.metadata)
        return cls(groups, schemas, way_out=way_out)

    @property
    def num_rows(self) -> int:
        """Rows of all files."""
        return int(self.starts[-1])

    def file_rows(self, paths: Sequence[Path]) -> list[int]:
        """Rows of each of these files."""
        rows = dict.fromkeys(paths, 0)
        for group in self.groups:
            rows[group.path] += group.num_rows
        return [rows[path] for path in paths]

    @cached_property
    def starts(self) -> np.ndarray:
        """First row of each row group, and the number of rows, int64 `(num_groups + 1,)`."""
        return np.cumsum([0, *(group.num_rows for group in self.groups)], dtype=np.int64)

    def wanting(self, columns: CommonColumns) -> "ParquetRows":
        """The same rows, of which these columns are read."""
        return ParquetRows(self.groups, self.schemas, columns, way_out=self._way_out)

    def select(self, names: Sequence[str]) -> "ParquetRows":
        """The same rows, of which these columns are read."""
        mine = self.columns
        schema = pa.schema([mine.schema.field(name) for name in names])
        return self.wanting(replace(mine, schema=schema))

    @property
    def schema(self) -> pa.Schema:
        """Columns that are read, and their types."""
        return self.columns.schema

    @property
    def columns(self) -> CommonColumns:
        """What is read of each file."""
        if self._columns is None:
            raise TypeError("Rows are read once it is said which columns are wanted.")
        return self._columns

    def is_empty(self, path: Path, name: str) -> bool:
        """Whether a file's footer says that no row has a value in a column."""
        if pa.types.is_null(self.schemas[path].field(name).type):
            return True
        with reading(path, "its footer", self._way_out), open_parquet(path) as file:
            footer = file.metadata
            place = [one.path for one in map(footer.schema.column, range(footer.num_columns))]
            if name not in place:
                return False
            found = [
                footer.row_group(group).column(place.index(name))
                for group in range(footer.num_row_groups)
            ]
        return all(
            one.is_stats_set
            and one.statistics.has_null_count
            and one.statistics.null_count == one.num_values
            for one in found
        )

    def widths(self) -> dict[str, float]:
        """Bytes that a value of each column takes in the files, before compression."""
        totals: dict[str, float] = {}
        for path in self.schemas:
            with reading(path, "its footer", self._way_out), open_parquet(path) as file:
                footer = file.metadata
                for group in map(footer.row_group, range(footer.num_row_groups)):
                    for one in map(group.column, range(group.num_columns)):
                        name = one.path_in_schema
                        totals[name] = totals.get(name, 0) + one.total_uncompressed_size
        return {name: total / max(1, self.num_rows) for name, total in totals.items()}

    def read(self, groups: range) -> pa.Table:
        """The columns wanted of consecutive row groups.

        Raises:
            DataError: If one cannot be read; the file and the place in it are named.
        """
        wanted = self.groups[groups.start : groups.stop]
        runs = [(path, list(run)) for path, run in groupby(wanted, key=lambda one: one.path)]
        tables = [self._convert(self._read_run(path, run), path) for path, run in runs]
        with self._counting:
            self.num_read_bytes += sum(group.num_bytes for group in wanted)
        return pa.concat_tables(tables)

    def _read_run(self, path: Path, run: Sequence[RowGroup]) -> pa.Table:
        """Row groups of one file at once: half the time of one by one, and columns of one piece."""
        try:
            return self._file(path).read_row_groups(
                [group.number for group in run], columns=self.schema.names, use_threads=False
            )
        except _BROKEN:
            # One by one, to name the one that cannot be read.
            return pa.concat_tables([self._read_group(group) for group in run])

    def _read_group(self, group: RowGroup) -> pa.Table:
        with reading(group.path, group.place, self._way_out):
            return self._file(group.path).read_row_group(
                group.number, columns=self.schema.names, use_threads=False
            )

    def batches(self, *, size: int, first: int = 0) -> Iterator[tuple[int, pa.Table]]:
        """First row and rows of consecutive pieces of `size` rows, the last one shorter.

        Where files and row groups end does not show.

        Args:
            size: Rows of a piece.
            first: The row to begin with.

        Raises:
            DataError: As `read` has it.
        """
        return cut_pieces(self._stream(first, size=min(size, _BATCH_ROWS)), size=size, first=first)

    def _convert(self, table: pa.Table, path: Path) -> pa.Table:
        names = self.schema.names
        return self.columns.convert(add_folder_values(table, path, names).select(names), path)

    def _stream(self, first: int, *, size: int) -> Iterator[pa.Table]:
        if first >= self.num_rows:
            return
        start = bisect_right(self.starts.tolist(), first) - 1
        skip = first - int(self.starts[start])
        for group in self.groups[start:]:
            with reading(group.path, group.place, self._way_out):
                batches = self._file(group.path).iter_batches(
                    size, row_groups=[group.number], columns=self.schema.names, use_threads=False
                )
                batch = next(batches, None)
            while batch is not None:
                if skip < batch.num_rows:
                    table = pa.Table.from_batches([batch.slice(skip)])
                    yield self._convert(table, group.path)
                skip = max(0, skip - batch.num_rows)
                with reading(group.path, group.place, self._way_out):
                    batch = next(batches, None)
            with self._counting:
                self.num_read_bytes += group.num_bytes

    def _file(self, path: Path) -> pq.ParquetFile:
        files: OrderedDict[Path, pq.ParquetFile] | None = getattr(self._files, "open", None)
        if files is None:
            files = self._files.open = OrderedDict()
        if path not in files:
            buffer = _ALL_BUFFERS_BYTES // max(1, len(self.schema.names))
            buffer = min(max(buffer, _LEAST_BUFFER_BYTES), _BUFFER_BYTES)
            files[path] = open_parquet(path, buffer_size=buffer, pre_buffer=False)
            if len(files) > _MAX_OPEN_FILES:
                files.popitem(last=False)[1].close()
        files.move_to_end(path)
        return files[path]


def open_parquet(path: Path, **options: Any) -> pq.ParquetFile:
    """A Parquet file whose pages are checked, where their checksums are written.

    Dates of 96 bits, as Spark writes them, would overflow as nanoseconds.
    """
    return pq.ParquetFile(
        path, coerce_int96_timestamp_unit="us", page_checksum_verification=True, **options
    )


def write_parquet(path: Path, table: pa.Table) -> None:
    """Replaces a file by a table in one step."""
    write_file(path, lambda file: pq.write_table(table, file, compression="zstd"))


def fill_parquet(file: BinaryIO, tables: Iterator[pa.Table]) -> None:
    """Writes tables of one schema, at least one, one below the other."""
    table = next(tables)
    with pq.ParquetWriter(file, table.schema, compression="zstd") as writer:
        writer.write_table(table)
        # No more than the one written and the one to come are held.
        for table in tables:
            writer.write_table(table)


def check_groups(path: Path, columns: Sequence[str]) -> None:
    """Reads some columns of every row group of a file, to tell which cannot be read.

    Raises:
        DataError: If one cannot; its place in the file is named.
    """
    with reading(path, "its footer"), open_parquet(path) as file:
        groups = list(_groups_of(path, file.metadata))
    for group in groups:
        with reading(path, group.place), open_parquet(path) as file:
            file.read_row_group(group.number, columns=list(columns), use_threads=False)


def cut_pieces(
    tables: Iterable[pa.Table], *, size: int, first: int = 0
) -> Iterator[tuple[int, pa.Table]]:
    """First row and rows of pieces of `size` rows of tables that follow one another.

    Args:
        tables: The tables, of the same columns.
        size: Rows of a piece; the last may be shorter.
        first: Number of their first row.
    """
    waiting: list[pa.Table] = []
    num_waiting, at = 0, first
    for table in tables:
        waiting.append(table)
        num_waiting += table.num_rows
        if num_waiting < size:
            continue
        joined = pa.concat_tables(waiting)
        while num_waiting >= size:
            yield at, joined.slice(0, size)
            joined = joined.slice(size)
            at, num_waiting = at + size, num_waiting - size
        waiting = [joined] if num_waiting else []
    if num_waiting:
        yield at, pa.concat_tables(waiting)


def _groups_of(path: Path, metadata: Any) -> Iterator[RowGroup]:
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        if not group.num_rows:
            continue
        columns = [group.column(place) for place in range(group.num_columns)]
        starts = [
            min(column.data_page_offset, column.dictionary_page_offset or column.data_page_offset)
            for column in columns
        ]
        yield RowGroup(
            path=path,
            number=number,
            num_rows=group.num_rows,
            offset=min(starts, default=0),
            num_bytes=sum(column.total_compressed_size for column in columns),
        )


@contextmanager
def reading(path: Path, place: str, way_out: str = _REPLACE) -> Iterator[None]:
    """Turns what a broken file makes pyarrow raise into one error that names it and the place."""
    try:
        yield
    except _BROKEN as error:
        raise DataError(
            f"A Parquet file must be readable throughout, but of {path} {place} is not: "
            f"{first_line(error).rstrip('.')}. {way_out}"
        ) from error
