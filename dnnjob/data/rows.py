"""Typed rows behind one interface, wherever they are, and the rows of a job's table.

rows = ArrowRows(pa.table({"x": [1.0, 2.0], "y": [3.0, 4.0]}))
for first, table in rows.batches(size=65_536): ...    # in order, cut at will
table = rows.read(range(0, 1))                        # some row groups, any thread
typed = hold_columns(job.data, features, columns, fingerprint, part_rows=(506, 0, 0))
typed.kinds, typed.rows.schema
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from dnnjob.config.data_section import DataConfig
from dnnjob.data.encoding import FeatureKind
from dnnjob.data.fingerprint import Fingerprint
from dnnjob.data.raw_columns import FloatArray, RawColumn
from dnnjob.data.schema import Column, ColumnData, check_features, check_target, check_weights
from dnnjob.data.text_format import TextFormat
from dnnjob.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

# Of a table in memory, which could be cut anywhere.
_GROUP_ROWS = 2**14


class Rows(Protocol):
    """Typed columns in row groups; several threads may read."""

    @property
    def schema(self) -> "pa.Schema":
        """The columns and their types."""
        ...

    @property
    def num_rows(self) -> int:
        """How many there are."""
        ...

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """First row of each row group, and the number of rows, `(num_groups + 1,)`."""
        ...

    @property
    def num_read_bytes(self) -> int:
        """Bytes of files that were asked for so far."""
        ...

    def select(self, names: Sequence[str]) -> "Rows":
        """The same rows, of which these columns are read."""
        ...

    def read(self, groups: range) -> "pa.Table":
        """Consecutive row groups.

        Raises:
            DataError: If one cannot be read.
        """
        ...

    def batches(self, *, size: int, first: int = 0) -> "Iterator[tuple[int, pa.Table]]":
        """First row and rows of consecutive pieces of `size` rows, the last one shorter.

        Args:
            size: Rows of a piece.
            first: The row to begin with.

        Raises:
            DataError: If rows cannot be read.
        """
        ...


@dataclass(frozen=True, eq=False)
class ArrowRows:
    """Rows in memory."""

    table: "pa.Table"

    num_read_bytes = 0

    @property
    def schema(self) -> "pa.Schema":
        """As `Rows` has it, like all that follows."""
        return self.table.schema

    @property
    def num_rows(self) -> int:
        """See there."""
        return int(self.table.num_rows)

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """See there."""
        return np.append(np.arange(0, self.num_rows, _GROUP_ROWS, dtype=np.int64), self.num_rows)

    def select(self, names: Sequence[str]) -> "ArrowRows":
        """See there."""
        return ArrowRows(self.table.select(list(names)))

    def read(self, groups: range) -> "pa.Table":
        """See there."""
        first, stop = self.starts[groups.start], self.starts[groups.stop]
        return self.table.slice(first, stop - first)

    def batches(self, *, size: int, first: int = 0) -> "Iterator[tuple[int, pa.Table]]":
        """See there."""
        for start in range(first, self.num_rows, size):
            yield start, self.table.slice(start, size)


# No file has a column of such a name.
_CARRIED = "\0carried "


@dataclass(frozen=True, eq=False)
class TypedTable:
    """The rows of a table and what its columns hold.

    Attributes:
        data: What the job says.
        features: Names of the columns that are predicted from.
        kinds: What the features hold, in their order.
        key_kind: What the split column holds, where the split goes by one.
        rows: The columns that the job uses.
        part_rows: Rows of data.source, data.validation_source and data.test_source.
        fingerprint: What tells it from another table.
        columns: Of a table that was read whole, what each of its columns holds, in its order.
        is_sample: Whether the table has further rows: what these may cure is warned about.
        text_format: How its text writes numbers and dates; None without text.
    """

    data: DataConfig
    features: tuple[str, ...]
    kinds: Mapping[str, FeatureKind]
    key_kind: FeatureKind | None
    rows: Rows
    part_rows: tuple[int, int, int]
    fingerprint: Fingerprint
    columns: tuple[Column, ...] = ()
    is_sample: bool = False
    text_format: TextFormat | None = None

    @property
    def doubts(self) -> tuple[tuple[str, str], ...]:
        """What a person should know of how the text of some columns was read."""
        found = self.text_format
        if found is None:
            return ()
        return found.doubts_of([*self.features, self.data.target])

    @property
    def num_rows(self) -> int:
        """Rows at hand."""
        return self.rows.num_rows

    def targets_and_keys(self) -> tuple[FloatArray, RawColumn | None]:
        """Targets of all rows, and what the split goes by, where it goes by a column."""
        from dnnjob.data.statistics_pass import key_block, read_target

        table = self.rows.read(range(len(self.rows.starts) - 1))
        return read_target(table, self.data), key_block(table, self.data, self.key_kind)


def hold_columns(
    data: DataConfig,
    features: tuple[str, ...],
    columns: Mapping[str, ColumnData],
    fingerprint: Fingerprint,
    *,
    part_rows: tuple[int, int, int],
    is_sample: bool = False,
    text_format: TextFormat | None = None,
) -> TypedTable:
    """A table of columns that were read whole.

    Args:
        data: What the job says.
        features: The columns to predict from.
        columns: All columns.
        fingerprint: What tells it from another table.
        part_rows: Rows of data.source, data.validation_source and data.test_source.
        is_sample: Whether the table has further rows.
        text_format: How its text writes numbers and dates.

    Raises:
        DataError: If a column is of a kind that the job has no use for.
    """
    import pyarrow as pa

    from dnnjob.data.schema_merge import wanted_columns

    _refuse_kinds(data, [columns[name] for name in features], columns, text_format)
    arrays = {
        name: _as_arrow(columns[name])
        for name in wanted_columns(data, features)
        # Of what is an id alone only the original is there.
        if columns[name].values is not None
    }
    if data.split == "group" and data.split_column is not None:
        arrays |= _exact_keys(columns[data.split_column], data.missing)
    arrays |= {_CARRIED + name: columns[name].original for name in data.id_columns}
    return TypedTable(
        data=data,
        features=features,
        kinds={name: feature_kind(columns[name].column) for name in features},
        key_kind=None
        if data.split_column is None
        else feature_kind(columns[data.split_column].column),
        rows=ArrowRows(pa.table(arrays)),
        part_rows=part_rows,
        fingerprint=fingerprint,
        columns=tuple(column.column for column in columns.values()),
        is_sample=is_sample,
        text_format=text_format,
    )


def carried_columns(table: "pa.Table", data: DataConfig) -> dict[str, "pa.ChunkedArray[Any]"]:
    """The id columns of some rows, as the files have them."""
    there = set(table.column_names)
    names = {name: _CARRIED + name for name in data.id_columns}
    return {
        name: table.column(carried if carried in there else name) for name, carried in names.items()
    }


def feature_kind(column: Column) -> FeatureKind:
    """The kind of a column that can be a feature."""
    if column.kind == "other":
        raise TypeError(f"{column.name!r} can be no feature.")
    return column.kind


def _refuse_kinds(
    data: DataConfig,
    features: list[ColumnData],
    columns: Mapping[str, ColumnData],
    text_format: TextFormat | None,
) -> None:
    target = columns[data.target]
    if not target.column.is_number:
        doubts = () if text_format is None else text_format.doubts_of([data.target])
        check_target(data.source, target, doubt=next((told for _, told in doubts), None))
    if any(feature.column.kind == "other" for feature in features):
        check_features(data.source, features)
    if data.weight_column is not None and not columns[data.weight_column].column.is_number:
        check_weights(data.source, columns[data.weight_column])
    if data.split_column is not None and columns[data.split_column].column.kind == "other":
        raise DataError(
            f"data.split_column must hold numbers, booleans, texts or dates, but "
            f"{data.split_column!r} in {data.source} holds others. Name another column."
        )


def _exact_keys(data: ColumnData, missing: Collection[str]) -> "dict[str, pa.Array[Any]]":
    """The column by its name, where its numbers are integers that float64 does not hold."""
    import pyarrow as pa

    from dnnjob.data.kinds import large_wholes
    from dnnjob.data.schema_merge import as_arrow

    if data.column.kind != "numeric" or data.original is None:
        return {}
    texts = large_wholes(data.original, missing)
    return {} if texts is None else {data.column.name: as_arrow(texts, pa.string())}


def _as_arrow(data: ColumnData) -> "pa.Array[Any]":
    import pyarrow as pa

    from dnnjob.data.schema_merge import as_arrow

    types: dict[FeatureKind, pa.DataType] = {
        "numeric": pa.float64(),
        "boolean": pa.bool_(),
        "codes": pa.string(),
        "text": pa.string(),
        "datetime": pa.timestamp("s"),
    }
    return as_arrow(data.raw, types[feature_kind(data.column)])
