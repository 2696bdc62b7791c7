"""Parquet files as one table of row groups, read piece by piece and never whole.

rows = ParquetRows.open([Path("a.parquet"), Path("b.parquet")])
for first, table in rows.batches(["x", "y"], size=65_536): ...   # in order, cut at will
table = rows.read(range(12, 15), ["x", "y"])                      # some row groups, any thread
"""

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dnnjob.errors import DataError

# Open files hold their footers in memory.
_MAX_OPEN_FILES = 16
# Pages are read as they come: a row group of a gigabyte takes a megabyte a column.
_BUFFER_BYTES = 2**20
_BATCH_ROWS = 2**16


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


class ParquetRows:
    """The row groups of some files, in order; several threads may read."""

    def __init__(self, groups: Sequence[RowGroup], schemas: dict[Path, pa.Schema]) -> None:
        self.groups = tuple(groups)
        self.schemas = schemas
        self._files = threading.local()
        self._counting = threading.Lock()
        self.num_read_bytes = 0
        """Bytes of the files that were asked for so far."""

    @classmethod
    def open(cls, paths: Sequence[Path]) -> "ParquetRows":
        """The row groups that the files' footers name.

        Raises:
            DataError: If a footer cannot be read.
        """
        groups: list[RowGroup] = []
        schemas = {}
        for path in paths:
            with _reading(path, "its footer"), pq.ParquetFile(path) as file:
                schemas[path] = file.schema_arrow
                groups += _groups_of(path, file.metadata)
        return cls(groups, schemas)

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

    @property
    def schema(self) -> pa.Schema:
        """Columns and types of the first file."""
        return next(iter(self.schemas.values()))

    def groups_of_rows(self, first: int, stop: int) -> range:
        """The row groups that hold some of the rows `first` to `stop`."""
        starts = self.starts
        begin = int(np.searchsorted(starts, first, side="right")) - 1
        return range(begin, int(np.searchsorted(starts, stop, side="left")))

    def read(self, groups: range, columns: Sequence[str]) -> pa.Table:
        """Columns of consecutive row groups.

        Raises:
            DataError: If one cannot be read; the file and the place in it are named.
        """
        tables = []
        for group in (self.groups[number] for number in groups):
            with _reading(group.path, f"row group {group.number} at byte {group.offset}"):
                file = self._file(group.path)
                tables.append(
                    file.read_row_group(group.number, columns=list(columns), use_threads=False)
                )
            with self._counting:
                self.num_read_bytes += group.num_bytes
        return join_tables([self._alike(table.select(list(columns))) for table in tables])

    def batches(
        self, columns: Sequence[str], *, size: int, first: int = 0
    ) -> Iterator[tuple[int, pa.Table]]:
        """First row and rows of consecutive pieces of `size` rows, the last one shorter.

        Where files and row groups end does not show.

        Args:
            columns: The columns wanted.
            size: Rows of a piece.
            first: The row to begin with.

        Raises:
            DataError: As `read` has it.
        """
        waiting: list[pa.Table] = []
        num_waiting, at = 0, first
        for table in self._stream(columns, first):
            waiting.append(table)
            num_waiting += table.num_rows
            if num_waiting < size:
                continue
            joined = join_tables(waiting)
            while num_waiting >= size:
                yield at, joined.slice(0, size)
                joined = joined.slice(size)
                at, num_waiting = at + size, num_waiting - size
            waiting = [joined] if num_waiting else []
        if num_waiting:
            yield at, join_tables(waiting)

    def _stream(self, columns: Sequence[str], first: int) -> Iterator[pa.Table]:
        if first >= self.num_rows:
            return
        start = bisect_right(self.starts.tolist(), first) - 1
        skip = first - int(self.starts[start])
        for group in self.groups[start:]:
            place = f"row group {group.number} at byte {group.offset}"
            with _reading(group.path, place):
                batches = self._file(group.path).iter_batches(
                    _BATCH_ROWS, row_groups=[group.number], columns=list(columns), use_threads=False
                )
                batch = next(batches, None)
            while batch is not None:
                if skip < batch.num_rows:
                    table = pa.Table.from_batches([batch.slice(skip)])
                    yield self._alike(table.select(list(columns)))
                skip = max(0, skip - batch.num_rows)
                with _reading(group.path, place):
                    batch = next(batches, None)
            with self._counting:
                self.num_read_bytes += group.num_bytes

    def _alike(self, table: pa.Table) -> pa.Table:
        """The table with texts where its files agree on nothing else."""
        for place, name in enumerate(table.column_names):
            if name in self._mixed:
                table = table.set_column(place, name, table.column(name).cast(pa.large_string()))
        return table

    @cached_property
    def _mixed(self) -> frozenset[str]:
        """Columns whose types in different files do not join, such as numbers and texts."""
        return frozenset(name for name in self.schema.names if self.joined_type(name) is None)

    def joined_type(self, name: str) -> pa.DataType | None:
        """The type that a column of all files takes; None where there is none but text."""
        parts = {schema.field(name).type for schema in self.schemas.values()}
        try:
            fields = [pa.schema([(name, one)]) for one in parts]
            return pa.unify_schemas(fields, promote_options="permissive").field(name).type
        except pa.ArrowException:
            return None

    def _file(self, path: Path) -> pq.ParquetFile:
        files: OrderedDict[Path, pq.ParquetFile] | None = getattr(self._files, "open", None)
        if files is None:
            files = self._files.open = OrderedDict()
        if path not in files:
            files[path] = pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False)
            if len(files) > _MAX_OPEN_FILES:
                files.popitem(last=False)[1].close()
        files.move_to_end(path)
        return files[path]


def join_tables(tables: Sequence[pa.Table]) -> pa.Table:
    """One table below the other; a column's types may differ between files."""
    if len(tables) == 1:
        return tables[0]
    return pa.concat_tables(tables, promote_options="permissive")


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
def _reading(path: Path, place: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError, pa.ArrowException) as error:
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(
            f"A Parquet file must be readable throughout, but of {path} {place} is not: "
            f"{told[0].rstrip('.')}. Replace the file, or leave it out of data.source."
        ) from error
