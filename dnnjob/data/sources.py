"""Tables from CSV or Parquet files, folders and globs of them, and the built-in ones.

table = open_table(job.data)                  # checked, with raw float64 values
table.block, table.y, table.columns, table.fingerprint
rows = read_columns("new.parquet", table.kinds)
"""

import bz2
import csv
import glob
import gzip
import hashlib
import io
import lzma
import os
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate, islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, cast

import numpy as np

from dnnjob.config.job import MISSING_MARKERS, DataConfig
from dnnjob.data.block import Block, FloatArray, RawColumn, Texts
from dnnjob.data.builtin import builtin_names, is_builtin, load_builtin
from dnnjob.data.checks import check_values
from dnnjob.data.encoding import FeatureKind
from dnnjob.data.fingerprint import Fingerprint, fingerprint_files
from dnnjob.data.kinds import ReadAs, as_kind, infer_arrow, infer_series
from dnnjob.data.reading import READ_ERRORS, reading_file
from dnnjob.data.schema import (
    Column,
    ColumnData,
    check_alike,
    check_features,
    check_names,
    check_present,
    check_unique,
    check_weights,
    join_columns,
    make_column,
)
from dnnjob.errors import DataError
from dnnjob.image import mount_hint

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".pq")
COMPRESSED_SUFFIXES = (".gz", ".bz2", ".xz", ".zip", ".zst")
DELIMITERS = (",", ";", "\t", "|")
SAMPLE_LINES = 20
COLUMNS_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Table:
    """A table that passed every check, with the raw values the job asks for.

    Attributes:
        source: Where it came from, as the job says it.
        features: Names of the columns that are predicted from.
        target: Name of `y`.
        block: Raw values of the features.
        y: Shape `(num_rows,)`, NaN where unlabelled.
        columns: All columns of the source, in its order.
        fingerprint: What tells it from another table.
        warnings: What training can live with and a person should know; logged too.
        weights: Of the rows in the loss, >= 0, shape `(num_rows,)`; None where all weigh the same.
        ids: Columns carried into the predictions, as the files have them.
        part_rows: Rows of data.source, data.validation_source and data.test_source.
        split_column: What the split goes by, where it goes by a column.
    """

    source: str
    features: tuple[str, ...]
    target: str
    block: Block
    y: FloatArray
    columns: tuple[Column, ...]
    fingerprint: Fingerprint
    warnings: tuple[str, ...] = ()
    weights: FloatArray | None = None
    ids: Mapping[str, "pa.ChunkedArray[Any]"] = field(default_factory=dict)
    part_rows: tuple[int, int, int] = (0, 0, 0)
    split_column: ColumnData | None = None

    @property
    def num_rows(self) -> int:
        """Rows of the source."""
        return len(self.y)

    @property
    def x(self) -> FloatArray:
        """Features that are all numbers or dates side by side, `(num_rows, num_features)`."""
        return np.stack([self.number(name) for name in self.features], axis=1)

    def number(self, name: str) -> FloatArray:
        """A feature of numbers or dates, shape `(num_rows,)`."""
        column = self.block[name]
        if isinstance(column, Texts):
            raise TypeError(f"{name!r} holds texts.")
        return column

    @property
    def kinds(self) -> dict[str, FeatureKind]:
        """What the features hold, in their order."""
        by_name = {column.name: column for column in self.columns}
        return {name: feature_kind(by_name[name]) for name in self.features}


@dataclass(frozen=True)
class JobFiles:
    """The files of a job's table, all with the same columns.

    Attributes:
        files: Those of data.source, then of data.validation_source and of data.test_source.
        part_files: How many each of them has.
        features: The columns to predict from.
    """

    files: "tuple[TableFile, ...]"
    part_files: tuple[int, int, int]
    features: tuple[str, ...]

    @property
    def are_text(self) -> bool:
        """Whether they are text."""
        return all(file.kind == "csv" for file in self.files)

    @property
    def paths(self) -> list[Path]:
        """Where they are, in order."""
        return [file.path for file in self.files]

    def part_rows(self, file_rows: Sequence[int]) -> tuple[int, int, int]:
        """Rows of each of the three sources, from those of each file."""
        first, second, third = accumulate(self.part_files)
        return sum(file_rows[:first]), sum(file_rows[first:second]), sum(file_rows[second:third])


@dataclass(frozen=True)
class TableFile:
    """A file and what its first lines or its footer say."""

    path: Path
    kind: Literal["csv", "parquet"]
    names: tuple[str, ...]
    delimiter: str = ","


def open_table(data: DataConfig) -> Table:
    """The table of a job, read and checked.

    Raises:
        DataError: If it cannot be read, or not be trained on as the job asks.
    """
    if is_builtin(data.source):
        return _open_builtin(data)
    found = peek_job(data)
    wanted = ReadAs.of(data)
    keep = {*found.features, data.target, *wanted.also}
    parts = [_read_file(file, keep=keep, wanted=wanted) for file in found.files]
    columns = _join_files(found.files, parts, source=data.source)
    return make_table(
        data,
        found.features,
        columns,
        fingerprint_files(found.paths),
        part_rows=found.part_rows([_num_rows(part) for part in parts]),
    )


def find_pieces(data: DataConfig) -> JobFiles | None:
    """The files of a job's table, where it can be read in pieces: all are Parquet, or all text.

    Raises:
        DataError: If a file cannot be read, files differ, or target or features are not there.
    """
    if is_builtin(data.source):
        return None
    found = peek_job(data)
    return found if len({file.kind for file in found.files}) == 1 else None


def peek_job(data: DataConfig) -> JobFiles:
    """The files of a job's table, after the checks that headers and footers allow.

    Raises:
        DataError: If a file cannot be read, files differ, or target or features are not there.
    """
    sources = (data.source, data.validation_source, data.test_source)
    if taken := [one for one in sources[1:] if one is not None and is_builtin(one)]:
        raise DataError(
            f"Validation and test rows come from files, but {taken[0]} is none. Set "
            "data.validation_source and data.test_source to files."
        )
    parts = [[] if one is None else find_files(one) for one in sources]
    _refuse_shared(parts)
    files = _peek_alike(data.source, [path for part in parts for path in part])
    first, second, third = map(len, parts)
    return JobFiles(files, (first, second, third), check_names(data, files[0].names))


def _refuse_shared(parts: Sequence[Sequence[Path]]) -> None:
    """Refuses a file whose rows would train and test."""
    owner: dict[Path, int] = {}
    names = ("data.source", "data.validation_source", "data.test_source")
    for number, part in enumerate(parts):
        for path in part:
            first = owner.setdefault(path.resolve(), number)
            if first != number:
                raise DataError(
                    f"A file has one split, but {path} is in {names[first]} and in "
                    f"{names[number]}. Leave it out of one of them."
                )


def peek_columns(data: DataConfig) -> tuple[str, ...]:
    """The column names of a job's table, after the checks that headers and footers allow.

    Raises:
        DataError: If a file cannot be read, files differ, or target or features are not there.
    """
    if is_builtin(data.source):
        names = builtin_names(data.source)
        check_names(data, names)
        return names
    return peek_job(data).files[0].names


def read_columns(
    source: str,
    kinds: Mapping[str, FeatureKind],
    *,
    optional: Collection[str] = (),
    ids: Collection[str] = (),
    missing: Collection[str] = MISSING_MARKERS,
) -> tuple[dict[str, RawColumn], dict[str, "pa.ChunkedArray[Any]"]]:
    """Raw rows of a table to predict, and of its id columns those that it has.

    Further columns are left alone, and their order is free.

    Args:
        source: Files as in `data.source`.
        kinds: The columns that must be there, with what they hold.
        optional: Columns that may be there, such as the target: given, with NaN for missing, if
            they hold numbers.
        ids: Columns that may be there, given as the files have them.
        missing: Texts that stand for a missing value.

    Raises:
        DataError: If the files cannot be read, or a column is missing or holds other values.
    """
    names = _peek_names(source)
    check_present(source, kinds, names, way_out="Add it to the table: the model needs it.")
    there = [name for name in (*optional, *ids) if name in names]
    wanted = ReadAs(kinds=dict(kinds), missing=tuple(missing), ids=tuple(set(ids) & set(there)))
    found = read_all(source, keep=[*kinds, *there], wanted=wanted)
    check_features(
        source, [found[name] for name in kinds], way_out="Repair these rows of the table."
    )
    rows = {name: found[name].raw for name in kinds}
    rows |= {
        name: found[name].raw for name in optional if name in there and found[name].column.is_number
    }
    return rows, {name: found[name].original for name in ids if name in there}


def read_all(
    source: str, *, keep: Collection[str] | None = None, wanted: ReadAs | None = None
) -> dict[str, ColumnData]:
    """Every column of a source, unchecked, in its order.

    Args:
        source: Files as in `data.source`.
        keep: The columns whose values are wanted; all, if None.
        wanted: How columns are read; as their values show, if None.

    Raises:
        DataError: If it cannot be read, or a column is not what is wanted.
    """
    wanted = wanted or ReadAs()
    if not is_builtin(source):
        return _read_files(_peek_files(source), source=source, keep=keep, wanted=wanted)
    table = load_builtin(source)
    values = np.ascontiguousarray(table.values.T)
    return {
        name: finish_column(make_column(name, "numeric", row), wanted, source=source, original=row)
        for name, row in zip(table.names, values, strict=True)
    }


def _open_builtin(data: DataConfig) -> Table:
    features = check_names(data, builtin_names(data.source))
    content = load_builtin(data.source).content
    method: Literal["sha256-bytes", "sha256-values"]
    method = "sha256-bytes" if content.startswith(b"PK") else "sha256-values"
    fingerprint = Fingerprint(method, hashlib.sha256(content).hexdigest())
    columns = read_all(data.source, wanted=ReadAs.of(data))
    return make_table(data, features, columns, fingerprint, part_rows=(_num_rows(columns), 0, 0))


def make_table(
    data: DataConfig,
    features: tuple[str, ...],
    columns: dict[str, ColumnData],
    fingerprint: Fingerprint,
    *,
    part_rows: tuple[int, int, int],
    is_sample: bool = False,
) -> Table:
    """A table of columns that were read, checked.

    Args:
        data: What the job says.
        features: The columns to predict from.
        columns: All columns.
        fingerprint: What tells it from another table.
        part_rows: Rows of data.source, data.validation_source and data.test_source.
        is_sample: Whether the table has further rows: what these may cure is warned about.

    Raises:
        DataError: If it cannot be trained on as the job asks.
    """
    chosen = [columns[name] for name in features]
    warnings = check_values(data, chosen, columns[data.target], is_sample=is_sample)
    weights = None
    if data.weight_column is not None:
        check_weights(data.source, columns[data.weight_column], is_sample=is_sample)
        weights = columns[data.weight_column].numbers
    return Table(
        source=data.source,
        features=features,
        target=data.target,
        block={name: columns[name].raw for name in features},
        y=columns[data.target].numbers,
        columns=tuple(column.column for column in columns.values()),
        fingerprint=fingerprint,
        warnings=warnings,
        weights=weights,
        ids={name: columns[name].original for name in data.id_columns},
        part_rows=part_rows,
        split_column=None if data.split_column is None else columns[data.split_column],
    )


def feature_kind(column: Column) -> FeatureKind:
    """The kind of a column that can be a feature."""
    if column.kind == "other":
        raise TypeError(f"{column.name!r} can be no feature.")
    return column.kind


def peek_source(source: str) -> tuple[TableFile, ...] | None:
    """The files of a source, all with the same columns; None of a built-in table.

    Raises:
        DataError: If there are none, one cannot be read, or they differ.
    """
    return None if is_builtin(source) else _peek_files(source)


def _peek_names(source: str) -> tuple[str, ...]:
    return builtin_names(source) if is_builtin(source) else _peek_files(source)[0].names


def _peek_files(source: str) -> tuple[TableFile, ...]:
    """The files of a source, all with the same columns."""
    return _peek_alike(source, find_files(source))


def _peek_alike(source: str, paths: Iterable[Path]) -> tuple[TableFile, ...]:
    files = tuple(_peek_file(path) for path in paths)
    for file in files:
        check_unique(str(file.path), file.names)
    check_alike(source, [(str(file.path), file.names) for file in files])
    return files


def find_files(source: str) -> list[Path]:
    """The files of a file, folder or glob, in bytewise order.

    Raises:
        DataError: If there are none.
    """
    path = Path(source)
    with reading_file(path):
        if path.is_dir():
            return _tables_in(path)
        # A file first, since its name may look like a glob.
        names = [source] if path.exists() else glob.glob(source, recursive=True)  # noqa: PTH207
        found = [Path(name) for name in names if not Path(name).is_dir()]
    if not found:
        raise DataError(
            f"There is no file {source} (seen from {Path.cwd()}). Set data.source to a CSV or "
            "Parquet file, a folder or a glob of them; a job file's paths start at that file."
            f"{mount_hint(path, to='read')}"
        )
    return _sorted(found)


def _tables_in(folder: Path) -> list[Path]:
    found = [entry for entry in folder.iterdir() if _is_table(entry)]
    if not found:
        raise DataError(
            f"A folder needs tables ({' '.join(TABLE_SUFFIXES)}) directly in it, but {folder} has "
            f"none. Point data.source elsewhere; '{folder}/**/*.csv' reaches deeper."
        )
    return _sorted(found)


def _sorted(paths: Iterable[Path]) -> list[Path]:
    """Bytewise, since the order of rows must not depend on a locale."""
    return sorted(paths, key=os.fsencode)


def _is_table(path: Path) -> bool:
    """Whether a folder's entry is meant: Spark and others leave `_SUCCESS` and `.crc` beside."""
    name = path.name.lower()
    for suffix in COMPRESSED_SUFFIXES:
        name = name.removesuffix(suffix)
    return name.endswith(TABLE_SUFFIXES) and name[0] not in "._" and path.is_file()


def _peek_file(path: Path) -> TableFile:
    with reading_file(path):
        with path.open("rb") as file:
            magic = file.read(4)
        if not magic:
            raise DataError(f"A table needs a header and rows, but {path} is empty.")
        if magic == b"PAR1" or path.suffix.lower() in (".parquet", ".pq"):
            return TableFile(path, "parquet", _parquet_names(path))
        return _peek_csv(path)


def _parquet_names(path: Path) -> tuple[str, ...]:
    import pyarrow.parquet as pq

    names = pq.read_schema(path).names
    # pandas hides the index that it stores under these names, and so do we.
    return tuple(name for name in names if not name.startswith("__index_level_"))


def _peek_csv(path: Path) -> TableFile:
    with open_text(path) as text:
        lines = list(islice((line for line in text if line.strip()), SAMPLE_LINES))
    if not lines:
        raise DataError(f"A table needs a header and rows, but {path} is empty.")
    delimiter = _sniff_delimiter(lines)
    header, *rows = _split_lines(lines, delimiter)
    if too_long := [row for row in rows if len(row) > len(header)]:
        raise DataError(
            f"A row must not be longer than the header, but {path} names {len(header)} columns and "
            f"has a row of {len(too_long[0])}: {delimiter.join(too_long[0])[:80]!r}. Name all "
            "columns in the first line."
        )
    # As pandas calls them.
    names = tuple(name or f"Unnamed: {number}" for number, name in enumerate(header))
    return TableFile(path, "csv", names, delimiter)


def _sniff_delimiter(lines: Sequence[str]) -> str:
    """The delimiter that splits all lines alike; else the one that splits the header most."""
    widths = {}
    for delimiter in (*DELIMITERS, r"\s+"):
        rows = _split_lines(lines, delimiter)
        widths[delimiter] = len(rows[0])
        if len(rows[0]) > 1 and len(rows) > 1 and len({len(row) for row in rows}) == 1:
            return delimiter
    # A header of words would count as many columns.
    widths.pop(r"\s+")
    return max(widths, key=lambda delimiter: widths[delimiter])


def _split_lines(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    """The fields of a sample; its last row is left out where the sample may have cut it."""
    if delimiter == r"\s+":
        rows = [line.split() for line in lines]
    else:
        rows = list(csv.reader(lines, delimiter=delimiter))
    return rows[:-1] if len(lines) == SAMPLE_LINES and len(rows) > 1 else rows


def _read_files(
    files: Sequence[TableFile], *, source: str, keep: Collection[str] | None, wanted: ReadAs
) -> dict[str, ColumnData]:
    """All columns of the files, one below the other, in the order of the first file."""
    parts = [_read_file(file, keep=keep, wanted=wanted) for file in files]
    return _join_files(files, parts, source=source)


def _join_files(
    files: Sequence[TableFile], parts: Sequence[dict[str, ColumnData]], *, source: str
) -> dict[str, ColumnData]:
    paths = [str(file.path) for file in files]
    columns = {
        name: join_columns([part[name] for part in parts], source=source, files=paths)
        for name in files[0].names
    }
    if not _num_rows(columns):
        raise DataError(f"A table needs rows, but {source} has only a header. Add rows.")
    return columns


def _num_rows(columns: Mapping[str, ColumnData]) -> int:
    return next(iter(columns.values())).num_rows


def _read_file(
    file: TableFile, *, keep: Collection[str] | None, wanted: ReadAs
) -> dict[str, ColumnData]:
    kept = set(file.names if keep is None else keep)
    with reading_file(file.path):
        columns = _read_csv(file, wanted) if file.kind == "csv" else _read_parquet(file, wanted)
        return {
            data.column.name: data if data.column.name in kept else data.without_values()
            for data in columns
        }


def finish_column(
    data: ColumnData, wanted: ReadAs, *, source: str, original: object = None
) -> ColumnData:
    """The column as it is wanted, with what the file holds where that is an id."""
    name = data.column.name
    if name in wanted.kinds:
        data = as_kind(data, wanted.kinds[name], source=source)
    return data.with_original(original) if name in wanted.ids else data


def _read_csv(file: TableFile, wanted: ReadAs) -> Iterator[ColumnData]:
    with open_text(file.path) as text:
        yield from parse_text(text, file, wanted)


def parse_text(text: IO[str], file: TableFile, wanted: ReadAs) -> Iterator[ColumnData]:
    """The columns of a file of text.

    Args:
        text: Its header and rows, all or the first.
        file: The file.
        wanted: How columns are read.

    Raises:
        DataError: If a column is not what is wanted.
    """
    import pandas as pd

    frame = pd.read_csv(
        text,
        **csv_options(file, wanted.missing),
        # As written: numbers would lose leading zeros.
        dtype={name: str for name in file.names if wanted.as_text(name)},
    )
    for name in file.names:
        series = frame.pop(name)
        data = infer_series(
            name,
            series,
            missing=wanted.missing,
            as_text=wanted.as_text(name),
            decimal_comma=file.delimiter != ",",
        )
        yield finish_column(data, wanted, source=str(file.path), original=series)


def csv_options(file: TableFile, missing: Collection[str]) -> dict[str, Any]:
    """How pandas reads a file of text.

    Args:
        file: The file.
        missing: Texts that stand for a missing value, beside the empty one.
    """
    return {
        "sep": file.delimiter,
        "names": list(file.names),
        "header": 0,
        # pandas would take the first column for row names where rows are longer.
        "index_col": False,
        # One kind a column, whatever the size of the file.
        "low_memory": False,
        "keep_default_na": False,
        "na_values": ["", *missing],
    }


def _read_parquet(file: TableFile, wanted: ReadAs) -> Iterator[ColumnData]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(file.path) as parquet:
        # By groups: of most columns of a wide table only counts stay.
        for first in range(0, len(file.names), COLUMNS_AT_ONCE):
            names = file.names[first : first + COLUMNS_AT_ONCE]
            table = _read_parquet_columns(parquet, names, file.path)
            for name in names:
                array = table.column(name)
                as_text = wanted.as_text(name)
                data = infer_arrow(name, array, missing=wanted.missing, as_text=as_text)
                yield finish_column(data, wanted, source=str(file.path), original=array)


def _read_parquet_columns(
    parquet: "pq.ParquetFile", names: Sequence[str], path: Path
) -> "pa.Table":
    try:
        return parquet.read(columns=list(names))
    except READ_ERRORS:
        from dnnjob.data.parquet import check_groups

        # Read together they do not say which of them failed.
        check_groups(path, names)
        raise


@contextmanager
def open_text(path: Path) -> Iterator[IO[str]]:
    """The text of a file, decompressed by its first bytes, without a byte order mark."""
    with open_bytes(path) as content, io.TextIOWrapper(content, "utf-8-sig", newline="") as text:
        yield text


def open_bytes(path: Path) -> IO[bytes]:
    """The bytes of a file of text, decompressed by its first bytes."""
    with path.open("rb") as file:
        magic = file.read(6)
    match magic:
        case _ if magic.startswith(b"\x1f\x8b"):
            return cast("IO[bytes]", gzip.open(path))
        case _ if magic.startswith(b"BZh"):
            return bz2.open(path)
        case _ if magic.startswith(b"\xfd7zXZ"):
            return lzma.open(path)
        case _ if magic.startswith(b"\x28\xb5\x2f\xfd"):
            return _open_zstandard(path)
        case _ if magic.startswith(b"PK\x03\x04"):
            return _open_zip(path)
        case _:
            return path.open("rb")


def _open_zstandard(path: Path) -> IO[bytes]:
    import pyarrow as pa

    stream: IO[bytes] = pa.input_stream(str(path), compression="zstd")
    return stream


def _open_zip(path: Path) -> IO[bytes]:
    archive = zipfile.ZipFile(path)
    members = archive.namelist()
    if len(members) != 1:
        raise DataError(
            f"A ZIP file must hold one CSV file, but {path} holds {len(members)} files. Unpack it, "
            "or save a spreadsheet as CSV."
        )
    return archive.open(members[0])
