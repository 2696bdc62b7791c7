"""Tables of Python as files that jobs and commands read.

table = to_arrow(frame)
held = hold_tables({"data": {"source": frame, "target": "y"}}, root=Path("runs"))
held.values["data"]["source"]                # a file below the root, once held.write() is done
"""

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnnjob.errors import DataError, JobError, MissingError
from dnnjob.runs import tables_folder

if TYPE_CHECKING:
    import pyarrow as pa

_SOURCES = ("source", "validation_source", "test_source")


@dataclass(frozen=True)
class Held:
    """A job whose tables in memory have files."""

    values: dict[str, Any]
    """As TOML has them."""
    tables: "dict[Path, pa.Table]"

    def write(self) -> None:
        """Writes the files that are not there.

        Raises:
            MissingError: If one cannot be written.
        """
        for path, table in self.tables.items():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                if path.exists():
                    # `clean` takes for old what nobody has asked for; it may be another user's.
                    with suppress(PermissionError):
                        path.touch()
                else:
                    # Who names files need not wait for pyarrow.
                    from dnnjob.data.parquet import write_parquet

                    write_parquet(path, table)
            except OSError as error:
                raise MissingError(
                    f"A table in memory is written below the root, but {path.parent} cannot be "
                    f"written ({error.strerror}). Set --root to a folder you can write, with room "
                    "on its disk."
                ) from error


def hold_tables(values: Mapping[str, Any], *, root: Path) -> Held:
    """A job with files in the place of tables in memory.

    Each is below the root, named by its content: runs and sweeps share it.

    Raises:
        JobError: If a source is neither a table nor a path.
        DataError: If a table holds what no column can.
    """
    tables: dict[Path, pa.Table] = {}
    kept = {
        name: dict(part) if isinstance(part, Mapping) else part for name, part in values.items()
    }
    data = kept.get("data")
    if not isinstance(data, dict):
        return Held(kept, tables)
    for key in _SOURCES:
        source = data.get(key)
        if isinstance(source, os.PathLike):
            data[key] = os.fspath(source)
        elif source is not None and not isinstance(source, str):
            table = to_arrow(source, name=f"data.{key}")
            path = tables_folder(root.absolute()) / f"{_digest(table)}.parquet"
            tables[path], data[key] = table, str(path)
    return Held(kept, tables)


def to_arrow(table: Any, *, name: str) -> "pa.Table":
    """A table of pandas, Arrow, or another library that speaks Arrow's protocol.

    Args:
        table: It; the index of a frame of pandas is no column.
        name: What it is, for messages.

    Raises:
        JobError: If it is no table.
        DataError: If a column mixes types, or has no text for a name.
    """
    import pandas as pd
    import pyarrow as pa

    if isinstance(table, pd.DataFrame):
        if odd := [column for column in table.columns if not isinstance(column, str)]:
            raise DataError(
                f"Columns are named by text, but {name} has a column {odd[0]!r}. Rename it."
            )
        try:
            return pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata()
        except (pa.ArrowException, ValueError, TypeError) as error:
            raise DataError(
                f"A column holds values of one type, but one of {name} does not: {error}. "
                "Convert it."
            ) from error
    if isinstance(table, pa.Table) or hasattr(table, "__arrow_c_stream__"):
        return pa.table(table).replace_schema_metadata()
    raise JobError(
        f"{name} is a path or a table, of pandas or Arrow, but got {type(table).__name__}. "
        "Give one of these."
    )


def _digest(table: "pa.Table") -> str:
    """What tells one table from another: names, types and values, however they are chunked."""
    import pyarrow as pa

    digest = hashlib.sha256()

    class Sink:
        """Takes the bytes of Arrow's own format."""

        closed = False

        def write(self, content: Any) -> int:
            """Adds them."""
            digest.update(content)
            return len(content)

        def flush(self) -> None:
            """Nothing waits."""

        def close(self) -> None:
            """Nothing is open."""

    whole = table.combine_chunks()
    with pa.ipc.new_stream(pa.PythonFile(Sink(), mode="w"), whole.schema) as stream:
        stream.write_table(whole)
    return digest.hexdigest()[:16]
