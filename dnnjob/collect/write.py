"""A collected table as a file for programs; its suffix says which kind.

write_table(Path("table.parquet"), table)
"""

import io
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from dnnjob.errors import JobError, MissingError
from dnnjob.image import is_lost, lost_reason, mount_hint
from dnnjob.runs import write_bytes

SUFFIXES = (".parquet", ".csv", ".json", ".html")


def check_suffix(path: Path) -> None:
    """Makes sure that `path` names a kind of file that can be written.

    Raises:
        JobError: If it does not.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise JobError(
            f"--out takes a file that ends in {', '.join(SUFFIXES)}, but got {path.name!r}."
        )


def check_place(path: Path) -> None:
    """Makes sure that `path` outlives the container, if this is one.

    Raises:
        MissingError: If it does not.
    """
    if is_lost(path):
        raise MissingError(
            f"A table is written to stay, but {lost_reason(path.absolute())}. Mount a folder for "
            f"it.{mount_hint(path, to='write')}"
        )


def write_table(path: Path, table: pa.Table) -> None:
    """Replaces `path` by the table, as Parquet, CSV or JSON after its suffix.

    Raises:
        MissingError: If it cannot be written.
    """
    publish(path, _ENCODERS[path.suffix.lower()](table))


def publish(path: Path, content: bytes) -> None:
    """Replaces `path` by `content` in one step.

    Raises:
        MissingError: If it cannot be written.
    """
    try:
        write_bytes(path, content)
    except OSError as error:
        raise MissingError(
            f"{path} cannot be written ({error.strerror}). Choose a place you can write."
            f"{mount_hint(path, to='write')}"
        ) from error


def to_json(table: pa.Table) -> str:
    """The table as a JSON list with one object a line; times in ISO 8601."""
    lines = ",\n".join(
        json.dumps(line, ensure_ascii=False, allow_nan=False, default=_encode_time)
        for line in table.to_pylist()
    )
    return f"[\n{lines}\n]\n" if lines else "[]\n"


def to_parquet(table: pa.Table) -> bytes:
    """The table as a Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _to_csv(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pyarrow.csv.write_csv(table, buffer)
    return buffer.getvalue()


def _encode_time(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"A table holds plain values and times, but got {type(value).__name__}.")


_ENCODERS: dict[str, Callable[[pa.Table], bytes]] = {
    ".parquet": to_parquet,
    ".csv": _to_csv,
    ".json": lambda table: to_json(table).encode(),
}
