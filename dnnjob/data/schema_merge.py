"""What the columns of several files are together.

check_alike("houses/", [("a.csv", names), ("b.csv", others)])
columns = join_files([first, second], names, source="houses/", files=["a.csv", "b.csv"])
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dnnjob.data.kinds import are_integers
from dnnjob.data.raw_columns import Texts, join_texts
from dnnjob.data.schema import Column, ColumnData, Kind, listed, make_text_column
from dnnjob.errors import DataError


def join_files(
    parts: Sequence[Mapping[str, ColumnData]],
    names: Iterable[str],
    *,
    source: str,
    files: Sequence[object],
) -> dict[str, ColumnData]:
    """Some columns of several files, one below the other.

    Raises:
        DataError: If the kind of one differs between files.
    """
    told = [str(file) for file in files]
    return {
        name: join_columns([part[name] for part in parts], source=source, files=told)
        for name in names
    }


def join_columns(parts: Sequence[ColumnData], *, source: str, files: Sequence[str]) -> ColumnData:
    """One column from the same column of several files, in their order.

    Raises:
        DataError: If its kind differs between files.
    """
    if len(parts) == 1:
        return parts[0]
    joined = _join_values(parts, source=source, files=files)
    if parts[0].original is None:
        return joined
    return replace(joined, original=_join_originals([part.original for part in parts]))


def _join_originals(parts: Sequence[Any]) -> Any:
    import pyarrow as pa

    # A file without any id says nothing of what ids are.
    types = {part.type for part in parts if not pa.types.is_null(part.type)} or {pa.null()}
    # Ids that are numbers in one file and texts in another are texts.
    wanted = pa.int64() if are_integers(types) else pa.string()
    wanted = next(iter(types)) if len(types) == 1 else wanted
    return pa.chunked_array([chunk for part in parts for chunk in part.cast(wanted).chunks], wanted)


def _join_values(parts: Sequence[ColumnData], *, source: str, files: Sequence[str]) -> ColumnData:
    columns = [part.column for part in parts]
    if all(part.values is None for part in parts) and len({column.kind for column in columns}) > 1:
        # No feature and no target: ids, and what nobody asked for.
        kind: Kind = "other"
    else:
        kind = common_kind(parts, source=source, files=files)
    values = [part.values for part in parts if part.values is not None]
    if kind in ("text", "codes") and len(values) == len(parts):
        texts = [
            part if isinstance(part, Texts) else Texts.of([None] * len(part)) for part in values
        ]
        return make_text_column(columns[0].name, kind, join_texts(texts))
    joined = Column(
        name=columns[0].name,
        kind=kind,
        num_missing=sum(column.num_missing for column in columns),
        num_infinite=sum(column.num_infinite for column in columns),
        minimum=min((c.minimum for c in columns if c.minimum is not None), default=None),
        maximum=max((c.maximum for c in columns if c.maximum is not None), default=None),
        num_text=sum(column.num_text for column in columns),
        # Without the values nobody knows how many the files share.
        num_values=max(column.num_values for column in columns),
        example=next((c.example for c in columns if c.example is not None), None),
        num_beyond=sum(column.num_beyond for column in columns),
    )
    numbers = [
        # A file of gaps alone may have been taken for texts.
        np.full(len(part), np.nan) if isinstance(part, Texts) else part
        for part in values
    ]
    return ColumnData(
        joined,
        num_rows=sum(part.num_rows for part in parts),
        values=np.concatenate(numbers) if len(values) == len(parts) else None,
    )


def common_kind(parts: Sequence[ColumnData], *, source: str, files: Sequence[str]) -> Kind:
    """Kind that the files agree on; booleans beside numbers are numbers, gaps fit anything.

    Raises:
        DataError: If they do not.
    """
    first: dict[Kind, str] = {}
    for part, file in zip(parts, files, strict=True):
        if part.column.num_missing < part.num_rows:
            first.setdefault(part.column.kind, file)
    if not first:
        return parts[0].column.kind
    if len(first) == 1:
        return next(iter(first))
    if set(first) == {"numeric", "boolean"}:
        return "numeric"
    found = ", ".join(f"{kind} in {file}" for kind, file in first.items())
    raise DataError(
        f"The files of {source} must agree on their columns, but {parts[0].column.name!r} is "
        f"{found}. Set data.columns.{parts[0].column.name}.kind to one of them, or name files that "
        "agree in data.source."
    )


def check_alike(source: str, files: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Refuses files, as (name, columns), whose columns differ by more than their order.

    Raises:
        DataError: If they do.
    """
    (first, expected), *others = files
    for name, names in others:
        there, before = set(names), set(expected)
        lacks = [column for column in expected if column not in there]
        adds = [column for column in names if column not in before]
        if lacks or adds:
            told = [f"{name} lacks {listed(lacks)}"] * bool(lacks)
            told += [f"{name} has {listed(adds)} besides"] * bool(adds)
            raise DataError(
                f"The files of {source} must have the same columns, but compared with {first}, "
                f"{' and '.join(told)}. Name files that agree in data.source."
            )
