"""Columns that names of folders hold, as Hive and Spark write them: `year=2021/part-0.parquet`.

folder_values(Path("t/year=2021/part-0.parquet"))                   # {"year": "2021"}
table = add_folder_values(table, path, ["price", "year"])           # a constant for each of these
"""

import re
from collections.abc import Collection, Iterable
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    import pyarrow as pa

# What Hive and Spark write for a gap.
_GAP = "__HIVE_DEFAULT_PARTITION__"


def is_partition(name: str) -> bool:
    """Whether a folder's name says the value of a column."""
    key, mark, _ = name.partition("=")
    return bool(mark) and key.isidentifier()


def keys_below(base: Path, paths: Iterable[Path]) -> list[str]:
    """The columns that folders below `base` name, in their order."""
    parts = (part for path in paths for part in _parts_below(base, path) if is_partition(part))
    return list(dict.fromkeys(part.partition("=")[0] for part in parts))


def _parts_below(base: Path, path: Path) -> tuple[str, ...]:
    folder = path.parent
    return folder.parts[len(base.parts) :] if folder.is_relative_to(base) else ()


def folder_values(path: Path) -> dict[str, str | None]:
    """What a file's folders hold, whole numbers without leading zeros; None is a gap."""
    found: dict[str, str | None] = {}
    for part in filter(is_partition, path.parent.parts):
        key, _, text = part.partition("=")
        text = unquote(text)
        whole = re.fullmatch(r"(-?)0*(\d+)", text)
        found[key] = None if text in ("", _GAP) else "".join(whole.groups()) if whole else text
    return found


def add_folder_values(table: "pa.Table", path: Path, names: Collection[str]) -> "pa.Table":
    """A file's rows with those of the columns wanted that its folders alone hold.

    Args:
        table: Columns of the file, all that are wanted of it.
        path: The file.
        names: The columns wanted.
    """
    for name, array in _arrays(path, table.num_rows).items():
        if name in names and name not in table.column_names:
            table = table.append_column(name, array)
    return table


def add_folder_fields(schema: "pa.Schema", path: Path) -> "pa.Schema":
    """The columns of a file, and those that its folders alone hold."""
    for name, array in _arrays(path, 0).items():
        if name not in schema.names:
            schema = schema.append(_field(name, array))
    return schema


def _field(name: str, array: "pa.Array") -> "pa.Field":
    import pyarrow as pa

    return pa.field(name, array.type)


def _arrays(path: Path, num_rows: int) -> "dict[str, pa.Array]":
    """Whole numbers, numbers, days or texts."""
    import pyarrow as pa

    return {name: pa.repeat(_scalar(text), num_rows) for name, text in folder_values(path).items()}


def _scalar(text: str | None) -> "pa.Scalar":
    import pyarrow as pa

    if text is None:
        return pa.scalar(None, pa.null())
    if re.fullmatch(r"-?\d{1,18}", text):
        return pa.scalar(int(text), pa.int64())
    if re.fullmatch(r"-?\d+\.\d+", text):
        return pa.scalar(float(text), pa.float64())
    try:
        is_day = re.fullmatch(r"\d{4}-\d\d-\d\d", text) is not None
        return pa.scalar(date.fromisoformat(text) if is_day else text)
    except ValueError:
        return pa.scalar(text)
