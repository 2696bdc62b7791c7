"""Rows of another table, to be predicted: in pieces where it is long.

for rows in read_rows("new.parquet", kinds, job.data):
    rows.block, rows.y_true, rows.ids
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dnnjob.config.data_section import DataConfig
from dnnjob.data.csv_reader import TableFile
from dnnjob.data.encoding import FeatureKind
from dnnjob.data.kinds import ReadAs
from dnnjob.data.raw_columns import Block, FloatArray, Texts
from dnnjob.data.schema import check_features, check_present, make_column
from dnnjob.data.source_files import peek_source
from dnnjob.data.sources import read_columns
from dnnjob.data.text_format import TextFormat
from dnnjob.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

    from dnnjob.data.schema_merge import CommonColumns

# A multiple of what a model predicts at once, so that its blocks are those of a table in memory.
PIECE_ROWS = 2**16
_REPAIR = "Repair these rows of the table."


@dataclass(frozen=True, eq=False)
class IncomingRows:
    """Consecutive rows of a table.

    Attributes:
        block: Raw values of the model's columns.
        y_true: Targets, NaN where missing; None if the table has no such column of numbers.
        ids: The job's id columns, those that the table has, each of one type throughout.
    """

    block: Block
    y_true: FloatArray | None
    ids: Mapping[str, "pa.ChunkedArray[Any]"] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        """How many."""
        return len(next(iter(self.block.values())))


def read_rows(
    source: str, kinds: Mapping[str, FeatureKind], data: DataConfig
) -> Iterator[IncomingRows]:
    """The rows of a table in order; what headers and footers tell is checked at once.

    Further columns are left alone, and their order is free.

    Args:
        source: Files as in `data.source`.
        kinds: The columns that must be there, with what they hold.
        data: Of the job that trained: names of target and ids, and what stands for a gap.

    Raises:
        DataError: If the files cannot be read, or a column is missing or holds other values.
    """
    files = peek_source(source, encoding=data.encoding, folders="all")
    if files is None or _are_read_whole(files):
        return iter([_read_whole(source, kinds, data)])
    names = files[0].names
    check_present(source, kinds, names, way_out="Add it to the table: the model needs it.")
    opened: _ParquetFiles | _TextFiles
    opened = _ParquetFiles(files) if files[0].kind == "parquet" else _TextFiles(files, kinds, data)
    return _Pieces(source, names, opened, kinds, data).read()


def _are_read_whole(files: Sequence[TableFile]) -> bool:
    """Whether files are text of one piece, or text beside Parquet."""
    if any(file.kind == "parquet" for file in files):
        return any(file.kind != "parquet" for file in files)
    from dnnjob.data.csv_files import most_rows

    return most_rows(files, enough=PIECE_ROWS) <= PIECE_ROWS


def _read_whole(source: str, kinds: Mapping[str, FeatureKind], data: DataConfig) -> IncomingRows:
    rows, ids = read_columns(
        source,
        kinds,
        optional=[data.target],
        ids=data.id_columns,
        missing=data.missing,
        text_format=TextFormat.of(data),
    )
    y_true = rows.pop(data.target, None)
    return IncomingRows(rows, None if isinstance(y_true, Texts) else y_true, ids)


class _ParquetFiles:
    """Of Parquet."""

    def __init__(self, files: Sequence[TableFile]) -> None:
        from dnnjob.data.parquet import ParquetRows

        self._rows = ParquetRows.open([file.path for file in files])
        self.num_rows = self._rows.num_rows
        self.schemas = list(self._rows.schemas.values())

    def batches(self, columns: "CommonColumns") -> Iterator[tuple[int, "pa.Table"]]:
        """First row and rows of each piece."""
        return self._rows.wanting(columns).batches(size=PIECE_ROWS)


class _TextFiles:
    """Of text, looked over once for what the columns are, since a piece does not tell."""

    def __init__(
        self, files: Sequence[TableFile], kinds: Mapping[str, FeatureKind], data: DataConfig
    ) -> None:
        from dnnjob.data.csv_files import look_over

        there = [name for name in (data.target, *data.id_columns) if name in files[0].names]
        wanted = ReadAs(
            kinds=dict(kinds),
            missing=data.missing,
            ids=tuple(name for name in there if name != data.target),
            format=TextFormat.of(data),
        )
        self._files, self._missing = files, data.missing
        self._names = list(dict.fromkeys([*kinds, *there]))
        self._look = look_over(files, wanted, check=lambda: None)
        self.num_rows = sum(self._look.file_rows)
        self.schemas = [outline.schema(self._names) for outline in self._look.outlines]

    def batches(self, columns: "CommonColumns") -> Iterator[tuple[int, "pa.Table"]]:
        """First row and rows of each piece."""
        from dnnjob.data.csv_files import read_typed
        from dnnjob.data.parquet import cut_pieces

        tables = (
            columns.convert(table, file.path)
            for file, outline in zip(self._files, self._look.outlines, strict=True)
            for table in read_typed(file, outline, self._look.format, self._names, self._missing)
        )
        return cut_pieces(tables, size=PIECE_ROWS)


class _Pieces:
    """A table of files, piece by piece."""

    def __init__(
        self,
        source: str,
        names: Sequence[str],
        files: _ParquetFiles | _TextFiles,
        kinds: Mapping[str, FeatureKind],
        data: DataConfig,
    ) -> None:
        from dnnjob.data.kinds import arrow_kind
        from dnnjob.data.schema_merge import CommonColumns

        self._source, self._kinds, self._data = source, kinds, data
        if not files.num_rows:
            raise DataError(f"A table needs rows, but {source} has only a header. Add rows.")
        self._ids = [name for name in data.id_columns if name in names]
        self._has_target = data.target in names and all(
            arrow_kind(schema.field(data.target).type) in ("numeric", "boolean")
            for schema in files.schemas
        )
        reads: dict[str, FeatureKind] = dict(kinds)
        if self._has_target:
            reads[data.target] = "numeric"
        wanted = list(dict.fromkeys([*reads, *self._ids]))
        self._files = files
        self._columns = CommonColumns.of(
            files.schemas, wanted, reads, missing=data.missing, text_format=TextFormat.of(data)
        )

    def read(self) -> Iterator[IncomingRows]:
        """All rows, the next piece read while one is at work."""
        batches = self._files.batches(self._columns)
        with ThreadPoolExecutor(1) as ahead:
            waiting = ahead.submit(next, batches, None)
            while (found := waiting.result()) is not None:
                waiting = ahead.submit(next, batches, None)
                yield self._make_rows(*found)

    def _make_rows(self, first: int, table: "pa.Table") -> IncomingRows:
        from dnnjob.data.statistics_pass import raw_block

        place = f"{self._source} (rows {first} to {first + table.num_rows - 1})"
        block = raw_block(table, self._kinds, self._data, source=place)
        columns = [
            make_column(name, self._kinds[name], np.asarray(values, np.float64))
            for name, values in block.items()
            if not isinstance(values, Texts)
        ]
        check_features(place, columns, way_out=_REPAIR)
        y_true = None
        if self._has_target:
            wanted: dict[str, FeatureKind] = {self._data.target: "numeric"}
            target = raw_block(table, wanted, self._data, source=place)[self._data.target]
            y_true = np.asarray(target, np.float64)
        ids = {name: table.column(name) for name in self._ids}
        return IncomingRows(block, y_true, ids)
