"""What a table's columns hold, and whether a job can train on them.

check_names(data, names)                           # before anything is read
columns = [infer_series(name, series), ...]        # or infer_arrow of a Parquet column
check_values(data, features, target, others)
"""

import difflib
import json
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from dnnjob.errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from dnnjob.config.job import DataConfig

FloatArray = NDArray[np.float64]
Kind = Literal["numeric", "boolean", "text", "datetime", "other"]

FLOAT32_MAX = float(np.finfo(np.float32).max)
FLOAT32_TINY = float(np.finfo(np.float32).tiny)
# A float32 keeps 24 bits: below this spread a column would keep fewer than about 100 levels.
NARROW_SPREAD = 1e-5
MAX_LISTED = 20
ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([ T]\d{2}:\d{2}.*)?$")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Column:
    """What one column of the source holds.

    Attributes:
        name: As the header has it.
        kind: What its values are.
        num_missing: Rows without a value.
        num_infinite: Rows with an infinite number.
        minimum: Of the finite numbers; None without any.
        maximum: Of the finite numbers; None without any.
        num_text: Rows whose value is no number.
        example: The first value that is no number.
    """

    name: str
    kind: Kind
    num_missing: int = 0
    num_infinite: int = 0
    minimum: float | None = None
    maximum: float | None = None
    num_text: int = 0
    example: str | None = None

    @property
    def is_number(self) -> bool:
        """Whether its values enter arithmetic: numbers, or booleans as 0 and 1."""
        return self.kind in ("numeric", "boolean")

    @property
    def is_usable(self) -> bool:
        """Whether it can be a feature: finite numbers that float32 reaches, and no gaps."""
        return (
            self.is_number
            and not self.num_missing
            and not self.num_infinite
            and self.minimum is not None
            and self.maximum is not None
            and max(-self.minimum, self.maximum) <= FLOAT32_MAX
        )

    @property
    def is_constant(self) -> bool:
        """Whether all its finite numbers are one number."""
        return self.minimum is not None and self.minimum == self.maximum


@dataclass(frozen=True, eq=False)
class ColumnData:
    """A column with its values.

    Attributes:
        column: What it holds.
        num_rows: Its length.
        values: float64 `(num_rows,)`, NaN where missing; None where they are no numbers, or were
            not asked for.
    """

    column: Column
    num_rows: int
    values: FloatArray | None = None

    @property
    def numbers(self) -> FloatArray:
        """The values of a column that holds numbers."""
        if self.values is None:
            raise TypeError(f"The values of {self.column.name!r} were not read as numbers.")
        return self.values

    def without_values(self) -> "ColumnData":
        """The column alone."""
        return replace(self, values=None)


def make_column(name: str, kind: Kind, values: FloatArray) -> ColumnData:
    """A column of numbers or booleans from its float64 values, NaN where missing."""
    finite = values[np.isfinite(values)]
    num_missing = int(np.isnan(values).sum())
    column = Column(
        name=name,
        kind=kind,
        num_missing=num_missing,
        num_infinite=len(values) - len(finite) - num_missing,
        minimum=float(finite.min()) if len(finite) else None,
        maximum=float(finite.max()) if len(finite) else None,
    )
    return ColumnData(column, num_rows=len(values), values=values)


def infer_series(name: str, series: "pd.Series[Any]") -> ColumnData:
    """The column that pandas read from a CSV file."""
    import pandas as pd

    if pd.api.types.is_bool_dtype(series.dtype) or _holds_booleans(series):
        return make_column(name, "boolean", _float64(series))
    if pd.api.types.is_numeric_dtype(series.dtype):
        return make_column(name, "numeric", _float64(series))
    present = series.dropna().astype(str)
    numbers = pd.to_numeric(present, errors="coerce")
    texts = present[numbers.isna()]
    if texts.empty:
        # Integers beyond 64 bits, which pandas leaves as text.
        return make_column(name, "numeric", _float64(numbers.reindex(series.index)))
    column = Column(
        name=name,
        # pandas leaves dates of a CSV file as text.
        kind="datetime" if all(map(ISO_DATE.match, present.head(100))) else "text",
        num_missing=len(series) - len(present),
        num_text=len(texts),
        example=str(texts.iloc[0]),
    )
    return ColumnData(column, num_rows=len(series))


def _float64(series: "pd.Series[Any]") -> FloatArray:
    return np.asarray(series.astype("float64"), dtype=np.float64)


def _holds_booleans(series: "pd.Series[Any]") -> bool:
    """Whether these are booleans with gaps, which pandas keeps as objects."""
    import pandas as pd

    return series.dtype == object and pd.api.types.infer_dtype(series, skipna=True) == "boolean"


def infer_arrow(name: str, array: "pa.ChunkedArray[Any]") -> ColumnData:
    """The column that pyarrow read from a Parquet file."""
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    kind = arrow_kind(array.type)
    if kind in ("numeric", "boolean"):
        # safe=False: integers beyond 2**53 round, as they do in pandas.
        values = array.cast(pa.float64(), safe=False).to_numpy()
        return make_column(name, kind, np.asarray(values, dtype=np.float64))
    present = array.drop_null()
    column = Column(
        name=name,
        kind=kind,
        num_missing=array.null_count,
        num_text=len(present),
        example=str(present[0].as_py()) if len(present) else None,
    )
    return ColumnData(column, num_rows=len(array))


def arrow_kind(dtype: "pa.DataType") -> Kind:
    """Kind of a Parquet column; one that is null throughout counts as numbers, as in pandas."""
    from pyarrow import types

    kinds: dict[Kind, tuple[Callable[[Any], bool], ...]] = {
        "boolean": (types.is_boolean,),
        "numeric": (types.is_integer, types.is_floating, types.is_decimal, types.is_null),
        "datetime": (types.is_temporal,),
        "text": (types.is_string, types.is_large_string, types.is_string_view, types.is_binary),
    }
    for kind, tests in kinds.items():
        if any(test(dtype) for test in tests):
            return kind
    return "other"


def join_columns(parts: Sequence[ColumnData], *, source: str, files: Sequence[str]) -> ColumnData:
    """One column from the same column of several files, in their order.

    Raises:
        DataError: If its kind differs between files.
    """
    if len(parts) == 1:
        return parts[0]
    columns = [part.column for part in parts]
    kind = _common_kind(parts, source=source, files=files)
    joined = Column(
        name=columns[0].name,
        kind=kind,
        num_missing=sum(column.num_missing for column in columns),
        num_infinite=sum(column.num_infinite for column in columns),
        minimum=min((c.minimum for c in columns if c.minimum is not None), default=None),
        maximum=max((c.maximum for c in columns if c.maximum is not None), default=None),
        num_text=sum(column.num_text for column in columns),
        example=next((c.example for c in columns if c.example is not None), None),
    )
    values = [part.values for part in parts if part.values is not None]
    return ColumnData(
        joined,
        num_rows=sum(part.num_rows for part in parts),
        values=np.concatenate(values) if len(values) == len(parts) else None,
    )


def _common_kind(parts: Sequence[ColumnData], *, source: str, files: Sequence[str]) -> Kind:
    """Kind that the files agree on; booleans beside numbers are numbers, gaps fit anything."""
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
        f"{found}. Convert it to one kind, or name files that agree in data.source."
    )


def check_unique(source: str, names: Sequence[str]) -> None:
    """Refuses a header that names a column twice.

    Raises:
        DataError: If it does.
    """
    twice = [f"{name!r} ({count} times)" for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(
            f"Each column needs a name of its own, but {source} repeats {listed(twice)}. "
            "Rename the columns in the file."
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


def check_names(data: "DataConfig", names: Sequence[str]) -> tuple[str, ...]:
    """The job's features among a table's column names, in the job's or else the table's order.

    Raises:
        DataError: If the target or a feature is none of them, or no feature is left.
    """
    if data.target not in names:
        raise DataError(
            f"{data.source} has no column {data.target!r}{_nearest(data.target, names)}. "
            f"It has: {listed(names)}.{_headless(names)} "
            "Set data.target, or point data.source elsewhere."
        )
    if data.features is None:
        features = tuple(name for name in names if name != data.target)
    else:
        features = data.features
        check_present(data.source, features, names, way_out="Set data.features.")
    if not features:
        raise DataError(
            f"A table needs a feature beside its target, but {data.source} has only the column "
            f"{data.target!r}. Point data.source elsewhere."
        )
    return features


def check_present(
    source: str, wanted: Iterable[str], names: Sequence[str], *, way_out: str
) -> None:
    """Refuses a table without all the `wanted` columns.

    Raises:
        DataError: If one is not there, with its nearest match.
    """
    there = set(names)
    absent = [f"{name!r}{_nearest(name, names)}" for name in wanted if name not in there]
    if absent:
        raise DataError(
            f"{source} has no column {listed(absent)}. It has: {listed(names)}."
            f"{_headless(names)} {way_out}"
        )


def check_values(
    data: "DataConfig", features: Sequence[ColumnData], target: ColumnData
) -> tuple[str, ...]:
    """Checks that a job can train on these columns; its warnings, also logged.

    Raises:
        DataError: If there are too few rows, or the target or features cannot be used.
    """
    if target.num_rows < 2:
        raise DataError(
            f"A split needs at least 2 rows, but {data.source} has {target.num_rows}. "
            "Add rows, or point data.source elsewhere."
        )
    check_target(data.source, target)
    check_features(data.source, features)
    warnings = tuple(_weaknesses(features, target))
    for warning in warnings:
        log.warning("%s: %s", data.source, warning)
    return warnings


def check_target(source: str, target: ColumnData) -> None:
    """Refuses a target that is no series of finite, varying numbers.

    Raises:
        DataError: If it is not.
    """
    column = target.column
    if problem := problem_of(target):
        found = f"it is {problem}"
    elif column.is_constant:
        found = f"all {target.num_rows} rows are {column.minimum:g}"
    else:
        return
    raise DataError(
        f"The target must be numbers that vary, without gaps, but of {column.name!r} in {source} "
        f"{found}. Set data.target, or repair the rows."
    )


def check_features(source: str, features: Sequence[ColumnData], *, way_out: str = "") -> None:
    """Refuses features that are no finite numbers, naming every one with its count.

    Raises:
        DataError: If there are any.
    """
    problems = [
        f"{feature.column.name!r} is {problem}"
        for feature in features
        if (problem := problem_of(feature))
    ]
    if not problems:
        return
    usable = [feature.column.name for feature in features if feature.column.is_usable]
    more = f" and {len(problems) - MAX_LISTED} more" if len(problems) > MAX_LISTED else ""
    raise DataError(
        "Features must be finite numbers or booleans without gaps, for now, but in "
        f"{source} {'; '.join(problems[:MAX_LISTED])}{more}. {way_out or _usable_features(usable)}"
    )


def _usable_features(names: Sequence[str]) -> str:
    if not names:
        return "None of the features is usable: repair the table."
    if len(names) > MAX_LISTED:
        return (
            f"Set data.features to numeric ones; {len(names)} are usable, and `dnnjob init` "
            "writes a job file that lists them."
        )
    return f"Set data.features to numeric ones: {json.dumps(list(names), ensure_ascii=False)}."


def problem_of(data: ColumnData) -> str | None:
    """Why a column cannot be used, with the count of rows; None if it can."""
    column, rows = data.column, f"of {data.num_rows} rows"
    if column.num_missing == data.num_rows:
        return f"missing in all {data.num_rows} rows"
    if not column.is_number:
        example = "" if column.example is None else f", such as {column.example[:40]!r}"
        return f"{column.kind} ({column.num_text} {rows} hold no number{example})"
    if column.num_missing:
        return f"missing in {column.num_missing} {rows}"
    if column.num_infinite:
        return f"infinite in {column.num_infinite} {rows}"
    if not column.is_usable:
        count = int((np.abs(data.numbers) > FLOAT32_MAX).sum())
        return f"beyond the range of float32 (3.4e38) in {count} {rows}"
    return None


def _weaknesses(features: Sequence[ColumnData], target: ColumnData) -> Iterable[str]:
    """What training can live with, and a person should know."""
    constant = [f.column.name for f in features if f.column.is_constant]
    if constant:
        yield f"constant features tell nothing: {listed(constant)}."
    narrow = [c.column.name for c in (*features, target) if _is_narrow(c)]
    if narrow:
        yield (
            f"float32 cannot hold the differences within {listed(narrow)}: they are below "
            f"{NARROW_SPREAD:g} of the magnitude, or below {FLOAT32_TINY:.1g}. Subtract an offset, "
            "or change the unit."
        )
    unnamed = [f.column.name for f in features if f.column.name.startswith("Unnamed: ")]
    if unnamed:
        yield (
            f"the header leaves columns without a name: {listed(unnamed)}. If they number the "
            "rows, leave them out of data.features."
        )


def _is_narrow(data: ColumnData) -> bool:
    """Whether a varying column's standard deviation is lost in float32."""
    column = data.column
    if column.is_constant or column.minimum is None or column.maximum is None:
        return False
    magnitude = max(-column.minimum, column.maximum)
    # Divided first, since squares of numbers near either limit leave the range of float64.
    spread = float((data.numbers / magnitude).std())
    return spread < NARROW_SPREAD or spread * magnitude < FLOAT32_TINY


def listed(names: Iterable[str]) -> str:
    """The names in one line, abbreviated beyond 20."""
    names = list(names)
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more


def _nearest(name: str, names: Sequence[str]) -> str:
    by_folded = {other.strip().casefold(): other for other in reversed(names)}
    found = difflib.get_close_matches(name.strip().casefold(), by_folded, n=1)
    return f" (did you mean {by_folded[found[0]]!r}?)" if found else ""


def _headless(names: Sequence[str]) -> str:
    """A hint where the first line of a file looks like numbers instead of names."""
    if all(_is_a_number(name) for name in names):
        return " Its first line holds only numbers: add a line with the column names."
    return ""


def _is_a_number(text: str) -> bool:
    try:
        return not math.isnan(float(text))
    except ValueError:
        return False
