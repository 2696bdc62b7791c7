"""What the columns of several files are together.

columns = join_files([first, second], names, source="houses/", files=["a.csv", "b.csv"])
kinds = agree_on_kinds(data, rows, features)  # of Parquet, before it is read
columns = CommonColumns.of(schemas, names, kinds, missing=data.missing)
table = columns.convert(table, path)                # the same types, whichever file it comes from
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from dnnjob.config.data_section import DataConfig
from dnnjob.data.encoding import FeatureKind
from dnnjob.data.kinds import (
    TEXT_KINDS,
    are_integers,
    arrow_kind,
    as_kind,
    floats_of_arrow,
    infer_arrow,
)
from dnnjob.data.raw_columns import RawColumn, Texts, join_texts
from dnnjob.data.schema import Column, ColumnData, Kind, make_text_column
from dnnjob.data.text_format import NO_FORMAT, TextFormat
from dnnjob.errors import DataError, first_line

if TYPE_CHECKING:
    from dnnjob.data.parquet import ParquetRows


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


@dataclass(frozen=True, eq=False)
class CommonColumns:
    """The columns that are read of every file.

    Attributes:
        schema: Their names, in the order wanted, and types.
        kinds: What all but the id columns are read as.
        missing: Texts that stand for a missing value.
        text_format: How texts write numbers and dates.
    """

    schema: pa.Schema
    kinds: Mapping[str, FeatureKind]
    missing: tuple[str, ...]
    text_format: TextFormat = NO_FORMAT

    @classmethod
    def of(
        cls,
        schemas: Iterable[pa.Schema],
        names: Sequence[str],
        kinds: Mapping[str, FeatureKind],
        *,
        missing: tuple[str, ...],
        text_format: TextFormat = NO_FORMAT,
    ) -> "CommonColumns":
        """The columns of these names: of the type that all files have, where they agree.

        Elsewhere numbers are float64, dates whole seconds, and all else texts.
        """
        schemas = list(schemas)
        fields = [
            pa.field(name, _common_type([one.field(name).type for one in schemas], kinds.get(name)))
            for name in names
        ]
        return cls(pa.schema(fields), kinds, missing, text_format)

    def convert(self, table: pa.Table, path: Path) -> pa.Table:
        """A file's rows with the common types.

        Raises:
            DataError: If a value is none of its column's kind.
        """
        if table.schema.equals(self.schema):
            return table
        columns = []
        for field in self.schema:
            with refusing_values(field.name, str(path)):
                columns.append(self._convert(field, table.column(field.name), path))
        return pa.Table.from_arrays(columns, schema=self.schema)

    def _convert(
        self, field: pa.Field, array: "pa.ChunkedArray[Any]", path: Path
    ) -> "pa.ChunkedArray[Any]":
        is_whole = pa.types.is_integer(array.type) and pa.types.is_integer(field.type)
        if array.type.equals(field.type) or is_whole or field.name not in self.kinds:
            return array.cast(field.type)
        raw = read_column(
            field.name,
            array,
            self.kinds[field.name],
            missing=self.missing,
            source=str(path),
            text_format=self.text_format,
        )
        return pa.chunked_array([as_arrow(raw, field.type)])


def wanted_columns(data: DataConfig, features: Sequence[str]) -> list[str]:
    """The columns that a job reads, each once."""
    weights = [] if data.weight_column is None else [data.weight_column]
    keys = [] if data.split_column is None else [data.split_column]
    return list(dict.fromkeys([*features, data.target, *weights, *data.id_columns, *keys]))


def raw_kinds(data: DataConfig, kinds: Mapping[str, FeatureKind]) -> dict[str, FeatureKind]:
    """What is read of a job's columns, its target and weights among them, and as what."""
    wanted = data.columns[data.target].kind if data.target in data.columns else None
    found = {**kinds, data.target: wanted or "numeric"}
    if data.weight_column is not None:
        found[data.weight_column] = "numeric"
    return found


def read_column(
    name: str,
    array: "pa.ChunkedArray[Any]",
    kind: FeatureKind,
    *,
    missing: Sequence[str],
    source: str,
    text_format: TextFormat = NO_FORMAT,
) -> RawColumn:
    """The raw values of a column; numbers that the file has as float32 stay so.

    Raises:
        DataError: If a value is none of that kind.
    """
    with refusing_values(name, source):
        if kind in ("numeric", "boolean") and arrow_kind(array.type) == kind:
            if pa.types.is_float32(array.type):
                return np.asarray(array.to_numpy())
            return floats_of_arrow(array)
        found = infer_arrow(name, array, missing=missing, as_text=kind in TEXT_KINDS)
        return as_kind(found, kind, source=source, text_format=text_format).raw


def as_arrow(raw: RawColumn, dtype: pa.DataType) -> "pa.Array[Any]":
    """Raw values as a column of numbers, booleans, dates or texts, null where missing."""
    if isinstance(raw, Texts):
        codes = pa.array(raw.codes, mask=raw.codes < 0)
        return pa.DictionaryArray.from_arrays(codes, pa.array(raw.values, pa.string())).cast(dtype)
    if pa.types.is_timestamp(dtype):
        gaps = np.isnan(raw)
        return pa.array(np.where(gaps, 0, raw).astype(np.int64), mask=gaps).cast(dtype)
    if pa.types.is_boolean(dtype):
        return pa.array(raw == 1, mask=np.isnan(raw))
    return pa.array(raw, dtype, from_pandas=True)


def agree_on_kinds(
    data: DataConfig,
    rows: "ParquetRows",
    features: Sequence[str],
    *,
    key_kind: FeatureKind | None = None,
) -> dict[str, FeatureKind]:
    """What features, target and split column hold: what the job says, or what all files agree on.

    Args:
        data: What the job says.
        rows: The files.
        features: The columns to predict from.
        key_kind: What the split column holds, where these files do not show it.

    Raises:
        DataError: If they do not, or if features or target can be none.
    """
    keys = [] if data.split_column is None else [data.split_column]
    names = [*features, data.target, *(keys if key_kind is None else [])]
    found = {name: _agreed_kind(data, rows, name) for name in dict.fromkeys(names)}
    if key_kind is not None:
        found |= dict.fromkeys(keys, key_kind)
    target = found[data.target]
    if target not in ("numeric", "boolean"):
        raise DataError(
            f"The target must be numbers that vary, but {data.target!r} in {data.source} is "
            f"{target}. Set data.target, or data.columns.{data.target}.kind where its texts are "
            "numbers."
        )
    return found


def _agreed_kind(data: DataConfig, rows: "ParquetRows", name: str) -> FeatureKind:
    wanted = data.columns[name].kind if name in data.columns else None
    if wanted is not None:
        return wanted
    kinds = {path: arrow_kind(schema.field(name).type) for path, schema in rows.schemas.items()}
    differ = len(set(kinds.values())) > 1
    parts = [
        # Whether a column is empty is asked where files differ alone: it takes all footers.
        _stand_in(name, kind, is_empty=differ and rows.is_empty(path, name))
        for path, kind in kinds.items()
    ]
    kind = common_kind(parts, source=data.source, files=[str(path) for path in kinds])
    if kind == "other":
        held = next(
            one.field(name).type
            for one in rows.schemas.values()
            if arrow_kind(one.field(name).type) == "other"
        )
        raise DataError(
            "Features and target must be numbers, booleans, texts or dates, but in "
            f"{data.source} {name!r} holds {held}. Set data.features to others."
        )
    return kind


def _stand_in(name: str, kind: Kind, *, is_empty: bool) -> ColumnData:
    """A column of one row."""
    return ColumnData(Column(name, kind, num_missing=int(is_empty)), num_rows=1)


def _common_type(types: Sequence[pa.DataType], kind: FeatureKind | None) -> pa.DataType:
    """The type that values of several types become; `kind` is None for ids."""
    known = [dtype for dtype in types if not pa.types.is_null(dtype)] or [pa.float64()]
    if kind is not None:
        # Bytes that are no text are told with their file.
        known = [pa.string() if pa.types.is_binary(dtype) else dtype for dtype in known]
    if all(dtype.equals(known[0]) for dtype in known):
        return known[0]
    if are_integers(known):
        return pa.int64()
    match kind:
        case "numeric" | "boolean":
            return pa.float64()
        case "datetime":
            return pa.timestamp("s")
        case _:
            return pa.string()


@contextmanager
def refusing_values(name: str, source: str) -> Iterator[None]:
    """Turns what pyarrow says of values that it cannot read into an error with column and file.

    Raises:
        DataError: In place of pyarrow's error.
    """
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(
            f"The values of a column must be of one kind and texts in UTF-8, but {name!r} in "
            f"{source} cannot be read: {first_line(error).rstrip('.')}. Repair the rows, or leave "
            "the column out of data.features."
        ) from error
