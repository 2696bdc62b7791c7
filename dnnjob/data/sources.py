"""Tables from CSV or Parquet files, folders and globs of them, and the built-in ones.

typed = hold_table(job.data)                  # in memory, each column of one kind
typed.rows, typed.kinds, typed.columns, typed.fingerprint
rows = read_columns("new.parquet", table.kinds)
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dnnjob.config.data_section import MISSING_MARKERS, DataConfig
from dnnjob.data.builtin import builtin_names, is_builtin, load_builtin
from dnnjob.data.csv_reader import TableFile
from dnnjob.data.encoding import FeatureKind
from dnnjob.data.fingerprint import Fingerprint, fingerprint_files
from dnnjob.data.kinds import ReadAs, as_kind, infer_arrow
from dnnjob.data.partitions import add_folder_values
from dnnjob.data.raw_columns import RawColumn
from dnnjob.data.reading import READ_ERRORS, reading_file
from dnnjob.data.rows import TypedTable, hold_columns
from dnnjob.data.schema import (
    ColumnData,
    check_features,
    check_names,
    check_present,
    make_column,
)
from dnnjob.data.source_files import find_files, folder_keys, peek_alike, peek_source
from dnnjob.data.text_format import NO_FORMAT, TextFormat
from dnnjob.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from dnnjob.data.csv_files import TypedText

COLUMNS_AT_ONCE = 64


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


def hold_table(data: DataConfig) -> TypedTable:
    """The table of a job, read into memory.

    Raises:
        DataError: If it cannot be read, or a column is of a kind that the job has no use for.
    """
    if is_builtin(data.source):
        return _hold_builtin(data)
    found = peek_job(data)
    wanted = ReadAs.of(data)
    keep = {*found.features, data.target, *wanted.also}
    parts, text_format = _read_parts(found.files, keep=keep, wanted=wanted)
    columns = _join_whole(found.files, parts, source=data.source)
    _release_texts()
    return hold_columns(
        data,
        found.features,
        columns,
        fingerprint_files(found.paths),
        part_rows=found.part_rows([_num_rows(part) for part in parts]),
        text_format=text_format,
    )


def _release_texts() -> None:
    """Gives back what texts took: three times the table, which Arrow would keep."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()


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
    files = peek_alike(
        data.source,
        [path for part in parts for path in part],
        encoding=data.encoding,
        folders=[
            key
            for source, part in zip(sources, parts, strict=True)
            for key in ([] if source is None else folder_keys(source, part))
        ],
    )
    there = {file.path for file in files}
    counts = [sum(path in there for path in part) for part in parts]
    for source, part, count in zip(sources, parts, counts, strict=True):
        if source is not None and not count:
            raise DataError(
                f"A table needs rows, but no file of {source} has one ({len(part)} without). Add "
                "rows, or name other files."
            )
    first, second, third = counts
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
    text_format: TextFormat = NO_FORMAT,
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
        text_format: How text writes numbers and dates.

    Raises:
        DataError: If the files cannot be read, or a column is missing or holds other values.
    """
    files = peek_source(source, encoding=text_format.encoding, folders="all")
    names = builtin_names(source) if files is None else files[0].names
    check_present(source, kinds, names, way_out="Add it to the table: the model needs it.")
    there = [name for name in (*optional, *ids) if name in names]
    wanted = ReadAs(
        kinds=dict(kinds),
        missing=tuple(missing),
        ids=tuple(set(ids) & set(there)),
        format=text_format,
    )
    found = read_all(source, keep=[*kinds, *there], wanted=wanted, files=files)
    check_features(
        source, [found[name] for name in kinds], way_out="Repair these rows of the table."
    )
    rows = {name: found[name].raw for name in kinds}
    rows |= {
        name: found[name].raw for name in optional if name in there and found[name].column.is_number
    }
    return rows, {name: found[name].original for name in ids if name in there}


def read_all(
    source: str,
    *,
    keep: Collection[str] | None = None,
    wanted: ReadAs | None = None,
    files: Sequence[TableFile] | None = None,
) -> dict[str, ColumnData]:
    """Every column of a source, unchecked, in its order.

    Args:
        source: Files as in `data.source`.
        keep: The columns whose values are wanted; all, if None.
        wanted: How columns are read; as their values show, if None.
        files: The source's, where they are known.

    Raises:
        DataError: If it cannot be read, or a column is not what is wanted.
    """
    wanted = wanted or ReadAs()
    if not is_builtin(source):
        files = files or peek_source(source, encoding=wanted.format.encoding) or ()
        parts, _ = _read_parts(files, keep=keep, wanted=wanted)
        return _join_whole(files, parts, source=source)
    table = load_builtin(source)
    values = np.ascontiguousarray(table.values.T)
    return {
        name: finish_column(make_column(name, "numeric", row), wanted, source=source, original=row)
        for name, row in zip(table.names, values, strict=True)
    }


def _hold_builtin(data: DataConfig) -> TypedTable:
    features = check_names(data, builtin_names(data.source))
    columns = read_all(data.source, wanted=ReadAs.of(data))
    fingerprint = fingerprint_builtin(data.source)
    return hold_columns(data, features, columns, fingerprint, part_rows=(_num_rows(columns), 0, 0))


def fingerprint_builtin(source: str) -> Fingerprint:
    """What tells a built-in table from others."""
    content = load_builtin(source).content
    method: Literal["sha256-bytes", "sha256-values"]
    method = "sha256-bytes" if content.startswith(b"PK") else "sha256-values"
    return Fingerprint(method, hashlib.sha256(content).hexdigest())


def _read_parts(
    files: Sequence[TableFile], *, keep: Collection[str] | None, wanted: ReadAs
) -> tuple[list[dict[str, ColumnData]], TextFormat | None]:
    """All columns of each file, and how those of text write numbers and dates."""
    text = [file for file in files if file.kind == "csv"]
    parts: dict[Path, Iterator[ColumnData]] = {}
    found = None
    if text:
        from dnnjob.data.csv_files import read_texts

        typed, found = read_texts(text, wanted)
        parts = {
            file.path: text_columns(one, wanted, source=str(file.path))
            for file, one in zip(text, typed, strict=True)
        }
        # Texts of Parquet beside are written alike.
        wanted = replace(wanted, format=found)
    return [
        _keep(file, parts.get(file.path) or _read_parquet(file, wanted), keep) for file in files
    ], found


def _keep(
    file: TableFile, columns: Iterable[ColumnData], keep: Collection[str] | None
) -> dict[str, ColumnData]:
    kept = set(file.names if keep is None else keep)
    with reading_file(file.path):
        return {
            data.column.name: data if data.column.name in kept else data.without_values()
            for data in columns
        }


def text_columns(typed: "TypedText", wanted: ReadAs, *, source: str) -> Iterator[ColumnData]:
    """The columns of a file of text.

    Args:
        typed: The file.
        wanted: How columns are read.
        source: Of the file, for messages.

    Raises:
        DataError: If a column is not what is wanted.
    """
    for name, array in zip(typed.table.column_names, typed.table.columns, strict=True):
        data = infer_arrow(name, array)
        yield finish_column(data, wanted, source=source, original=typed.ids.get(name))


def _join_whole(
    files: Sequence[TableFile], parts: Sequence[dict[str, ColumnData]], *, source: str
) -> dict[str, ColumnData]:
    # Of text only headers are looked at by whoever need not wait for Arrow.
    from dnnjob.data.schema_merge import join_files

    paths = [file.path for file in files]
    columns = join_files(parts, files[0].names, source=source, files=paths)
    if not _num_rows(columns):
        raise DataError(f"A table needs rows, but {source} has only a header. Add rows.")
    return columns


def _num_rows(columns: Mapping[str, ColumnData]) -> int:
    return next(iter(columns.values())).num_rows


def finish_column(
    data: ColumnData, wanted: ReadAs, *, source: str, original: object = None
) -> ColumnData:
    """The column as it is wanted, with what the file holds where that is an id."""
    name = data.column.name
    if name in wanted.kinds:
        data = as_kind(data, wanted.kinds[name], source=source, text_format=wanted.format)
    return data.with_original(original) if name in {*wanted.ids, *wanted.keys} else data


def _read_parquet(file: TableFile, wanted: ReadAs) -> Iterator[ColumnData]:
    from dnnjob.data.parquet import open_parquet

    with open_parquet(file.path) as parquet:
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
        return add_folder_values(parquet.read(columns=list(names)), path, names)
    except READ_ERRORS:
        from dnnjob.data.parquet import check_groups

        # Read together they do not say which of them failed.
        check_groups(path, names)
        raise
