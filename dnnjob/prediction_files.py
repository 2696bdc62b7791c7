"""Predictions as a file or on stdout, piece by piece: what follows from the name given with --out.

check_out(Path("p.csv"))
write_tables(Path("p.csv"), tables)              # Path("-"): CSV to stdout
"""

import csv
import io
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from dnnjob.errors import NO_ROOM, DataError, JobError, MissingError
from dnnjob.image import is_lost, lost_reason, mount_hint
from dnnjob.runs import write_file
from dnnjob.streams import is_unread

if TYPE_CHECKING:
    import pyarrow as pa

STDOUT = Path("-")
SUFFIXES = (".parquet", ".csv")


def check_out(out: Path) -> None:
    """Refuses an output that could not be written once the work is done.

    Raises:
        JobError: If it could not.
        MissingError: If its folder is full or cannot be written.
    """
    if out == STDOUT:
        return
    if out.suffix.lower() not in SUFFIXES:
        raise JobError(
            f"Predictions are a .parquet or a .csv file, or - for stdout, but --out is {out}. "
            "Change its ending."
        )
    if out.is_dir():
        raise JobError(f"--out names a file, but {out} is a folder. Add a file name to it.")
    if is_lost(out):
        raise JobError(
            f"--out must outlive the container, but {lost_reason(out.absolute())}. Mount a folder "
            f"for it.{mount_hint(out, to='write')}"
        )
    try:
        with tempfile.TemporaryFile(dir=out.absolute().parent):
            pass
    except OSError as error:
        if error.errno in NO_ROOM:
            raise _no_room(out, error) from error
        folder, hint = out.absolute().parent, mount_hint(out, to="write")
        rule = f"--out must be in a folder that can be written, but {folder}"
        if not folder.is_dir():
            raise JobError(f"{rule} is no folder. Make it one, or choose another.{hint}") from error
        raise MissingError(
            f"{rule} cannot ({error.strerror}). Choose another, or have it opened to you.{hint}"
        ) from error


def write_tables(out: Path, tables: "Iterator[pa.Table]") -> None:
    """Writes tables of one schema one below the other, and replaces `out` once all are there.

    Args:
        out: A .parquet or .csv file, or `-`.
        tables: At least one.

    Raises:
        DataError: If a column cannot be written as CSV.
        MissingError: If there is no room.
    """
    if out == STDOUT:
        sys.stdout.flush()
        _fill_csv(sys.stdout.buffer, tables)
        return
    from dnnjob.data.parquet import fill_parquet

    fill = fill_parquet if out.suffix.lower() == ".parquet" else _fill_csv
    try:
        write_file(out, lambda file: fill(file, tables))
    except OSError as error:
        raise _no_room(out, error) from error


def _fill_csv(file: BinaryIO, tables: "Iterator[pa.Table]") -> None:
    import pyarrow as pa
    import pyarrow.csv

    options = pyarrow.csv.WriteOptions(include_header=False)
    header: tuple[str, ...] = ()
    for table in tables:
        if not header:
            header = tuple(table.column_names)
            # Arrow would quote every name.
            line = io.StringIO()
            csv.writer(line, lineterminator="\n").writerow(header)
            file.write(line.getvalue().encode())
        try:
            pyarrow.csv.write_csv(_plain(table), file, options)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise DataError(
                f"CSV holds plain values alone, but the columns are {table.schema.to_string()} "
                f"({error}). Leave those out of --keep, or write a .parquet file."
            ) from error
        if file is getattr(sys.stdout, "buffer", None) and is_unread():
            return


def _plain(table: "pa.Table") -> "pa.Table":
    """Categories as the texts they stand for."""
    import pyarrow as pa

    for place, column in enumerate(table.schema):
        if pa.types.is_dictionary(column.type):
            values = table.column(place).cast(column.type.value_type)
            table = table.set_column(place, column.name, values)
    return table


def _no_room(out: Path, error: OSError) -> MissingError:
    return MissingError(
        f"The predictions could not be written to {out} ({error.strerror}). "
        "Make room, or choose another place with --out."
    )
