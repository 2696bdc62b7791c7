"""Tables from CSV or Parquet files, folders and globs of them, and the built-in ones.

table = open_table(job.data)                  # checked, with raw float64 values
table.x, table.y, table.columns, table.fingerprint
rows = read_columns("new.parquet", table.features)
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
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Literal, cast

import numpy as np

from dnnjob.config.job import DataConfig
from dnnjob.data.builtin import builtin_names, is_builtin, load_builtin
from dnnjob.data.schema import (
    Column,
    ColumnData,
    FloatArray,
    check_alike,
    check_features,
    check_names,
    check_present,
    check_unique,
    check_values,
    infer_arrow,
    infer_series,
    join_columns,
    make_column,
)
from dnnjob.errors import DataError
from dnnjob.image import mount_hint

TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".pq")
COMPRESSED_SUFFIXES = (".gz", ".bz2", ".xz", ".zip", ".zst")
DELIMITERS = (",", ";", "\t", "|")
SAMPLE_LINES = 20
COLUMNS_AT_ONCE = 64
# Hashing a GiB takes about a second; beyond it the sizes and footers must do.
MAX_HASHED_BYTES = 2**30
# What a broken, truncated, locked or foreign file makes its reader raise; the errors of pandas,
# pyarrow and text decoding are ValueErrors, OSErrors and RuntimeErrors.
READ_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    csv.Error,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
)


@dataclass(frozen=True)
class Fingerprint:
    """What tells one table from another: `method` says what the SHA-256 `value` covers.

    `sha256-bytes`: the bytes of all files one after the other; `sha256-footers`: their names,
    sizes and Parquet footers; `sha256-values`: the numbers of a table that has no file.
    """

    method: Literal["sha256-bytes", "sha256-footers", "sha256-values"]
    value: str


@dataclass(frozen=True, eq=False)
class Table:
    """A table that passed every check, with the raw values the job asks for.

    Attributes:
        source: Where it came from, as the job says it.
        features: Names of the columns of `x`.
        target: Name of `y`.
        x: Shape `(num_rows, num_features)`.
        y: Shape `(num_rows,)`.
        columns: All columns of the source, in its order.
        fingerprint: What tells it from another table.
        warnings: What training can live with and a person should know; logged too.
    """

    source: str
    features: tuple[str, ...]
    target: str
    x: FloatArray
    y: FloatArray
    columns: tuple[Column, ...]
    fingerprint: Fingerprint
    warnings: tuple[str, ...] = ()

    @property
    def num_rows(self) -> int:
        """Rows of the source."""
        return len(self.y)


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
    files = _peek_files(data.source)
    features = check_names(data, files[0].names)
    columns = _read_files(files, source=data.source, keep={*features, data.target})
    fingerprint = fingerprint_files([file.path for file in files])
    return _make_table(data, features, columns, fingerprint)


def peek_columns(data: DataConfig) -> tuple[str, ...]:
    """The column names of a job's table, after the checks that headers and footers allow.

    Raises:
        DataError: If a file cannot be read, files differ, or target or features are not there.
    """
    names = _peek_names(data.source)
    check_names(data, names)
    return names


def read_columns(
    source: str, columns: Sequence[str], *, optional: Collection[str] = ()
) -> dict[str, FloatArray]:
    """Raw rows of a table to predict: float64 `(num_rows,)` of each of `columns`.

    Further columns are left alone, and their order is free.

    Args:
        source: Files as in `data.source`.
        columns: The columns that must be there, with finite numbers.
        optional: Columns that may be there, such as the target: given, with NaN for missing, if
            they hold numbers.

    Raises:
        DataError: If the files cannot be read, or a column is missing or has no finite numbers.
    """
    names = _peek_names(source)
    check_present(source, columns, names, way_out="Add it to the table: the model needs it.")
    wanted = [*columns, *(name for name in optional if name in names)]
    found = read_all(source, keep=wanted)
    check_features(
        source, [found[name] for name in columns], way_out="Repair these rows of the table."
    )
    return {name: found[name].numbers for name in wanted if found[name].column.is_number}


def read_all(source: str, *, keep: Collection[str] | None = None) -> dict[str, ColumnData]:
    """Every column of a source, unchecked, in its order.

    Args:
        source: Files as in `data.source`.
        keep: The columns whose values are wanted; all, if None.

    Raises:
        DataError: If it cannot be read.
    """
    if not is_builtin(source):
        return _read_files(_peek_files(source), source=source, keep=keep)
    table = load_builtin(source)
    values = np.ascontiguousarray(table.values.T)
    return {
        name: make_column(name, "numeric", row)
        for name, row in zip(table.names, values, strict=True)
    }


def _open_builtin(data: DataConfig) -> Table:
    features = check_names(data, builtin_names(data.source))
    content = load_builtin(data.source).content
    method: Literal["sha256-bytes", "sha256-values"]
    method = "sha256-bytes" if content.startswith(b"PK") else "sha256-values"
    fingerprint = Fingerprint(method, hashlib.sha256(content).hexdigest())
    return _make_table(data, features, read_all(data.source), fingerprint)


def _make_table(
    data: DataConfig,
    features: tuple[str, ...],
    columns: dict[str, ColumnData],
    fingerprint: Fingerprint,
) -> Table:
    chosen = [columns[name] for name in features]
    warnings = check_values(data, chosen, columns[data.target])
    return Table(
        source=data.source,
        features=features,
        target=data.target,
        x=np.stack([column.numbers for column in chosen], axis=1),
        y=columns[data.target].numbers,
        columns=tuple(column.column for column in columns.values()),
        fingerprint=fingerprint,
        warnings=warnings,
    )


def _peek_names(source: str) -> tuple[str, ...]:
    return builtin_names(source) if is_builtin(source) else _peek_files(source)[0].names


def _peek_files(source: str) -> list[TableFile]:
    """The files of a source, all with the same columns."""
    files = [_peek_file(path) for path in find_files(source)]
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
    with _reading(path):
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
    with _reading(path):
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
    with _open_text(path) as text:
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
    files: Sequence[TableFile], *, source: str, keep: Collection[str] | None
) -> dict[str, ColumnData]:
    """All columns of the files, one below the other, in the order of the first file."""
    parts = [_read_file(file, keep=keep) for file in files]
    paths = [str(file.path) for file in files]
    columns = {
        name: join_columns([part[name] for part in parts], source=source, files=paths)
        for name in files[0].names
    }
    if not next(iter(columns.values())).num_rows:
        raise DataError(f"A table needs rows, but {source} has only a header. Add rows.")
    return columns


def _read_file(file: TableFile, *, keep: Collection[str] | None) -> dict[str, ColumnData]:
    kept = set(file.names if keep is None else keep)
    with _reading(file.path):
        columns = _read_csv(file) if file.kind == "csv" else _read_parquet(file)
        return {
            data.column.name: data if data.column.name in kept else data.without_values()
            for data in columns
        }


def _read_csv(file: TableFile) -> Iterator[ColumnData]:
    import pandas as pd

    with _open_text(file.path) as text:
        frame = pd.read_csv(
            text,
            sep=file.delimiter,
            names=list(file.names),
            header=0,
            # pandas would take the first column for row names where rows are longer.
            index_col=False,
            # One kind a column, whatever the size of the file.
            low_memory=False,
        )
    for name in file.names:
        yield infer_series(name, frame.pop(name))


def _read_parquet(file: TableFile) -> Iterator[ColumnData]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(file.path) as parquet:
        # By groups: of most columns of a wide table only counts stay.
        for first in range(0, len(file.names), COLUMNS_AT_ONCE):
            names = file.names[first : first + COLUMNS_AT_ONCE]
            table = parquet.read(columns=list(names))
            for name in names:
                yield infer_arrow(name, table.column(name))


@contextmanager
def _open_text(path: Path) -> Iterator[IO[str]]:
    """The text of a file, decompressed by its first bytes, without a byte order mark."""
    with _open_bytes(path) as content, io.TextIOWrapper(content, "utf-8-sig", newline="") as text:
        yield text


def _open_bytes(path: Path) -> IO[bytes]:
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


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns whatever a broken file makes its reader raise into one error that names it."""
    try:
        yield
    except READ_ERRORS as error:
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(
            f"A table is a readable CSV (UTF-8) or Parquet file, but reading {path} failed: "
            f"{told[0].rstrip('.')}. Replace the file, or point data.source elsewhere."
        ) from error


def fingerprint_files(paths: Sequence[Path]) -> Fingerprint:
    """What tells these files from others.

    Raises:
        DataError: If one cannot be read.
    """
    digest = hashlib.sha256()
    if sum(path.stat().st_size for path in paths) <= MAX_HASHED_BYTES:
        for path in paths:
            with _reading(path), path.open("rb") as file:
                while block := file.read(2**20):
                    digest.update(block)
        return Fingerprint("sha256-bytes", digest.hexdigest())
    for path in paths:
        with _reading(path):
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            digest.update(_parquet_footer(path))
    return Fingerprint("sha256-footers", digest.hexdigest())


def _parquet_footer(path: Path) -> bytes:
    """The metadata at the end of a Parquet file; nothing of another file."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 8, 0))
        tail = file.read(8)
        if tail[4:] != b"PAR1":
            return b""
        length = int.from_bytes(tail[:4], "little")
        file.seek(max(size - 8 - length, 0))
        return file.read(length)
