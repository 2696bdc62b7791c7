"""The rows of a job's table, each column of one kind, before a row of them is counted.

typed = hold_columns(job.data, features, columns, fingerprint, part_rows=(506, 0, 0))
typed.kinds, typed.rows.schema
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dnnjob.config.data_section import DataConfig
from dnnjob.data.encoding import FeatureKind
from dnnjob.data.fingerprint import Fingerprint
from dnnjob.data.raw_columns import FloatArray, RawColumn
from dnnjob.data.schema import Column, ColumnData, check_features, check_target, check_weights
from dnnjob.data.text_format import TextFormat
from dnnjob.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

    from dnnjob.data.rows import Rows

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
    rows: "Rows"
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

    from dnnjob.data.rows import ArrowRows
    from dnnjob.data.unify import wanted_columns

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
    from dnnjob.data.unify import as_arrow

    if data.column.kind != "numeric" or not isinstance(data.original, pa.ChunkedArray | pa.Array):
        return {}
    texts = large_wholes(data.original, missing)
    return {} if texts is None else {data.column.name: as_arrow(texts, pa.string())}


def _as_arrow(data: ColumnData) -> "pa.Array[Any]":
    import pyarrow as pa

    from dnnjob.data.unify import as_arrow

    types: dict[FeatureKind, pa.DataType] = {
        "numeric": pa.float64(),
        "boolean": pa.bool_(),
        "codes": pa.string(),
        "text": pa.string(),
        "datetime": pa.timestamp("s"),
    }
    return as_arrow(data.raw, types[feature_kind(data.column)])
