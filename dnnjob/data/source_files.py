"""Which files a source names, what their first bytes say, and which of them are refused.

files = peek_source("houses/*.csv")              # None of a built-in table
find_files("houses/")
"""

import glob
import hashlib
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Literal, NoReturn

from dnnjob.alike import ALIKE
from dnnjob.data.builtin import is_builtin
from dnnjob.data.csv_reader import UTF8, TableFile, open_bytes, peek_csv
from dnnjob.data.partitions import folder_values, is_partition, keys_below
from dnnjob.data.reading import reading_file
from dnnjob.data.schema import check_alike, check_unique, listed
from dnnjob.errors import DataError
from dnnjob.image import mount_hint

logger = logging.getLogger(__name__)

TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".pq")
COMPRESSED_SUFFIXES = (".gz", ".bz2", ".xz", ".zip", ".zst")
# What other kinds of files begin with.
_OTHERS = {
    b"\xd0\xcf\x11\xe0": "a spreadsheet or document of old Office",
    b"ARROW1": "an Arrow or Feather file",
    b"FEA1": "a Feather file",
    b"ORC": "an ORC file",
    b"Obj\x01": "an Avro file",
    b"\x89HDF": "an HDF5 file",
    b"SQLite format 3": "an SQLite database",
    b"%PDF": "a PDF document",
}
_OTHER_SUFFIXES = {
    (".json", ".jsonl", ".ndjson"): "JSON",
    (".xlsx", ".xlsm", ".xls", ".ods"): "a spreadsheet",
    (".pkl", ".pickle"): "a pickle",
}
# What keeps a log of which files of a folder count.
_LOGS = {"_delta_log": "Delta", ".hoodie": "Hudi"}
# Of larger files ends and sizes have to do.
_COMPARED_BYTES = 2**26
# No header alone is longer.
_HEADER_BYTES = 2**22


def peek_source(
    source: str, *, encoding: str | None = None, folders: Literal["below", "all"] = "below"
) -> tuple[TableFile, ...] | None:
    """The files of a source, all with the same columns; None of a built-in table.

    Args:
        source: Files as in `data.source`.
        encoding: Of text; UTF-8, if None.
        folders: Which folders' names hold columns: those below what the source names, or, of a
            table to predict, any on the way to the files.

    Raises:
        DataError: If there are none, one cannot be read, or they differ.
    """
    if is_builtin(source):
        return None
    paths = find_files(source)
    keys = folder_keys(source, paths) if folders == "below" else None
    return peek_alike(source, paths, encoding=encoding, folders=keys)


def folder_keys(source: str, paths: Iterable[Path]) -> list[str]:
    """The columns that names of folders hold, below what a source names in full."""
    return keys_below(_fixed_part(Path(source)), paths)


def peek_alike(
    source: str, paths: Iterable[Path], *, encoding: str | None, folders: Collection[str] | None
) -> tuple[TableFile, ...]:
    """These files, all with the same columns, the order of which may differ.

    Those without rows are passed over with a warning.

    Args:
        source: Files as in `data.source`.
        paths: The files.
        encoding: Of text; UTF-8, if None.
        folders: Columns that are read from the names of folders; None takes those that all files
            have there alone.

    Raises:
        DataError: If one cannot be read, they differ, or none has rows.
    """
    found = [_peek_file(path, encoding=encoding or UTF8) for path in paths]
    files = tuple(file for file in found if file.has_rows)
    if not files:
        refuse_no_rows(source, found)
    if empty := [str(file.path) for file in found if not file.has_rows]:
        _warn_once(
            f"{source}: {len(empty)} of {len(found)} files without rows passed over: "
            f"{listed(empty)}."
        )
    _warn_of_two_kinds(source, files)
    files = _take_folders(files, folders)
    for file in files:
        check_unique(str(file.path), file.names)
    check_alike(source, [(str(file.path), file.names) for file in files])
    return files


def _take_folders(
    files: Sequence[TableFile], keys: Collection[str] | None
) -> tuple[TableFile, ...]:
    """The files with the columns that their folders hold.

    Raises:
        DataError: If a file has such a column as well.
    """
    values = [folder_values(file.path) for file in files]
    if keys is None:
        own = {name for file in files for name in file.names}
        keys = [key for key in values[0] if key not in own and all(key in one for one in values)]
    taken = []
    for file, named in zip(files, values, strict=True):
        found = tuple(key for key in dict.fromkeys(keys) if key in named)
        if twice := [key for key in found if key in file.names]:
            raise DataError(
                f"A column stands in one place, but {file.path} has {listed(twice)} both in the "
                "name of a folder and in itself. Drop it from the files, or rename it there."
            )
        taken.append(replace(file, names=(*file.names, *found), folders=found))
    return tuple(taken)


def _warn_of_two_kinds(source: str, files: Sequence[TableFile]) -> None:
    """Says of CSV beside Parquet that all of it is read: it may be one table, written twice."""
    text = [str(file.path) for file in files if file.kind == "csv"]
    if text and len(text) < len(files):
        other = [str(file.path) for file in files if file.kind != "csv"]
        _warn_once(
            f"{source}: files of text ({listed(text)}) and of Parquet ({listed(other)}) are read "
            "as one table. Where they hold the same rows, these train and test: leave one kind out."
        )


def refuse_no_rows(source: str, files: Sequence[TableFile]) -> NoReturn:
    """Refuses files of which none has rows.

    Raises:
        DataError: Always.
    """
    if len(files) > 1:
        raise DataError(f"A table needs rows, but none of the {len(files)} files of {source} has.")
    if not files[0].names:
        raise DataError(f"A table needs a header and rows, but {source} is empty.")
    raise DataError(f"A table needs rows, but {source} has only a header. Add rows.")


def find_files(source: str) -> list[Path]:
    """The files of a file, folder or glob, in bytewise order.

    Raises:
        DataError: If there are none.
    """
    path = Path(source)
    with reading_file(path):
        if path.is_dir():
            # A log says more of a folder than what lies twice in it, or what it lacks.
            _refuse_logs(path, [])
            return _refuse_logs(path, _tables_in(path))
        # A file first, since its name may look like a glob.
        if path.exists():
            _warn_of_logs(path)
            return [path]
        names = glob.glob(source, recursive=True)  # noqa: PTH207
        found = _refuse_twice(
            _refuse_logs(path, [Path(name) for name in names if not Path(name).is_dir()])
        )
    if not found:
        raise DataError(
            f"There is no file {source} (seen from {Path.cwd()}). Set data.source to a CSV or "
            "Parquet file, a folder or a glob of them; a job file's paths start at that file."
            f"{mount_hint(path, to='read')}"
        )
    return _sorted(found)


def _tables_in(folder: Path) -> list[Path]:
    """The tables of a folder, those of its partitions among them."""
    found = [entry for entry in folder.iterdir() if _is_table(entry)]
    parts = [entry for entry in folder.iterdir() if is_partition(entry.name) and entry.is_dir()]
    if found and parts:
        raise DataError(
            f"A folder has tables or partitions in it, but {folder} has {found[0].name} beside "
            f"{parts[0].name}. Name the files in data.source, or move those that are not meant."
        )
    found += [table for part in parts for table in _tables_of_partition(part)]
    if not found:
        raise DataError(
            f"A folder needs tables ({' '.join(TABLE_SUFFIXES)}) directly in it, but {folder} has "
            f"none. Point data.source elsewhere; '{folder}/**/*.csv' reaches deeper."
        )
    return _sorted(_refuse_twice(found))


def _tables_of_partition(folder: Path) -> Iterator[Path]:
    for entry in folder.iterdir():
        if is_partition(entry.name) and entry.is_dir():
            yield from _tables_of_partition(entry)
        elif _is_table(entry):
            yield entry


def _sorted(paths: Iterable[Path]) -> list[Path]:
    """Bytewise, since the order of rows must not depend on a locale."""
    return sorted(paths, key=os.fsencode)


def _is_table(path: Path) -> bool:
    """Whether a folder's entry is meant: Spark and others leave `_SUCCESS` and `.crc` beside."""
    name = path.name.lower()
    for suffix in COMPRESSED_SUFFIXES:
        name = name.removesuffix(suffix)
    return name.endswith(TABLE_SUFFIXES) and name[0] not in "._" and path.is_file()


def _peek_file(path: Path, *, encoding: str) -> TableFile:
    with reading_file(path):
        with path.open("rb") as file:
            magic = file.read(16)
        if not magic:
            return TableFile(path, "csv", (), has_rows=False)
        _refuse_others(path, magic)
        if magic.startswith(b"PAR1") or path.suffix.lower() in (".parquet", ".pq"):
            return _peek_parquet(path)
        return peek_csv(path, encoding=encoding)


def _peek_parquet(path: Path) -> TableFile:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        # pandas hides the index that it stores under these names, and so do we.
        names = [name for name in file.schema_arrow.names if not name.startswith("__index_level_")]
        return TableFile(path, "parquet", tuple(names), has_rows=file.metadata.num_rows > 0)


def _refuse_others(path: Path, magic: bytes) -> None:
    """Refuses a file of another kind, by its first bytes or its name."""
    kind = next((kind for first, kind in _OTHERS.items() if magic.startswith(first)), None)
    for suffixes, named in _OTHER_SUFFIXES.items():
        kind = kind or (named if path.name.lower().endswith(suffixes) else None)
    if kind is not None:
        raise DataError(
            f"A table is a CSV or Parquet file, but {path} is {kind}. Write it as one of them: "
            "pandas has to_csv and to_parquet, spreadsheets save as CSV."
        )


def _fixed_part(source: Path) -> Path:
    """What a source names in full: all of it, or what stands before the first sign of a glob."""
    if source.exists():
        return source
    parts = takewhile(lambda part: not glob.has_magic(part), source.parts)
    return Path(*parts)


def _table_format(folder: Path) -> str | None:
    """The format of a table whose log lies in a folder, None without one."""
    named = next((kind for log, kind in _LOGS.items() if (folder / log).is_dir()), None)
    if named is None and any((folder / "metadata").glob("*.metadata.json")):
        return "Iceberg"
    return named


def _warn_of_logs(file: Path) -> None:
    """Says of a file that a table format's log may have taken it out of its table."""
    for folder in file.absolute().parents:
        if (named := _table_format(folder)) is not None:
            _warn_once(
                f"{file} is a part of {folder}, a table of {named}: its log, which is not read, "
                "may say that these rows were deleted or replaced."
            )
            return
        if not is_partition(folder.name) and folder.name != "data":
            return


def _refuse_logs(source: Path, files: list[Path]) -> list[Path]:
    """The files, unless a table format's log says which of them count."""
    base = _fixed_part(source)
    folders = {folder for file in files for folder in (file.parent, *file.parent.parents)}
    within = {folder for folder in folders if folder.is_relative_to(base)} | {base, base.parent}
    for folder in sorted(within):
        named = _table_format(folder)
        is_part = named == "Iceberg" or is_partition(base.name)
        if named is not None and (folder != base.parent or is_part):
            raise DataError(
                f"{folder} is a table of {named}, whose log says which of its files count: read "
                "plainly, rows that were deleted or replaced would come back. Write the table as "
                "plain Parquet, and name that in data.source."
            )
    return files


@lru_cache(maxsize=256)
def _warn_once(message: str) -> None:
    """Says what a process finds anew each time that it looks at the files."""
    logger.warning("%s", message, extra=ALIKE)


def _refuse_twice(files: list[Path]) -> list[Path]:
    """The files, unless two of them are one table: its rows would be on both sides of a split."""
    by_stem: dict[Path, Path] = {}
    by_content: dict[tuple[int, str], Path] = {}
    sizes: dict[int, list[Path]] = {}
    for path in _sorted(files):
        first = by_stem.setdefault(path.parent / table_stem(path.name), path)
        _refuse_pair(first, path, "are one table by their names")
        sizes.setdefault(path.stat().st_size, []).append(path)
    for size, alike in sizes.items():
        for path in alike if len(alike) > 1 and size else ():
            first = by_content.setdefault((size, _digest(path, size)), path)
            if first.parent == path.parent and not _is_header(path, size):
                _refuse_pair(first, path, "have the same content")
    return files


def _is_header(path: Path, size: int) -> bool:
    """Whether a file has no rows: parts of a table may have the same header and nothing else."""
    if size > _HEADER_BYTES:
        return False
    with path.open("rb") as file:
        if file.read(4) == b"PAR1":
            return not _peek_parquet(path).has_rows
    with open_bytes(path) as content:
        return len([line for line in content if line.strip(b"\0 \t\r\n")]) < 2


def _refuse_pair(first: Path, second: Path, why: str) -> None:
    if first != second:
        raise DataError(
            f"A row must not train and test, but {first} and {second.name} {why}. Leave one of "
            "them out of data.source."
        )


def table_stem(name: str) -> str:
    """A name without the endings of tables."""
    for suffix in (*COMPRESSED_SUFFIXES, *TABLE_SUFFIXES):
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
    return name


def _digest(path: Path, size: int) -> str:
    with path.open("rb") as file:
        if size <= _COMPARED_BYTES:
            return hashlib.file_digest(file, "sha256").hexdigest()
        head = file.read(_COMPARED_BYTES // 2)
        file.seek(-_COMPARED_BYTES // 2, os.SEEK_END)
        return hashlib.sha256(head + file.read()).hexdigest()
