"""What a table's columns hold, and whether a job can train on them.

check_names(data, names)                           # before anything is read
check_target(source, target)
"""

import difflib
import json
import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dnnjob.alike import ALIKE
from dnnjob.data.raw_columns import FloatArray, RawColumn, Texts
from dnnjob.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

    from dnnjob.config.data_section import DataConfig

logger = logging.getLogger(__name__)

Kind = Literal["numeric", "boolean", "codes", "text", "datetime", "other"]

FLOAT32_MAX = float(np.finfo(np.float32).max)
FLOAT32_TINY = float(np.finfo(np.float32).tiny)
MAX_LISTED = 20
_NUMBER = re.compile(
    r"\s*[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|nan|inf|infinity)\s*", re.ASCII | re.IGNORECASE
)


@dataclass(frozen=True)
class Column:
    """What one column of the source holds.

    Attributes:
        name: As the header has it.
        kind: What its values are.
        num_missing: Rows without a value.
        num_infinite: Rows with an infinite number.
        minimum: Of the finite numbers; None without any. Dates are seconds since 1970.
        maximum: Of the finite numbers; None without any.
        num_text: Rows whose value is no number.
        num_values: Distinct texts or codes; 0 for other kinds.
        example: The first value that is no number.
        num_beyond: Rows with a finite number that float32 has not.
    """

    name: str
    kind: Kind
    num_missing: int = 0
    num_infinite: int = 0
    minimum: float | None = None
    maximum: float | None = None
    num_text: int = 0
    num_values: int = 0
    example: str | None = None
    num_beyond: int = 0

    @property
    def is_number(self) -> bool:
        """Whether its values enter arithmetic: numbers, or booleans as 0 and 1."""
        return self.kind in ("numeric", "boolean")

    @property
    def is_constant(self) -> bool:
        """Whether all its values are one, gaps and infinities apart."""
        if self.kind in ("text", "codes"):
            return self.num_values == 1
        return self.minimum is not None and self.minimum == self.maximum


@dataclass(frozen=True, eq=False)
class ColumnData:
    """A column with its values.

    Attributes:
        column: What it holds.
        num_rows: Its length.
        values: As `RawColumn` says, of `num_rows` rows; None where the kind is another, or they
            were not asked for.
        original: The values as the file has them, where they are carried into the predictions.
    """

    column: Column
    num_rows: int
    values: RawColumn | None = None
    original: "pa.ChunkedArray[Any] | None" = None

    @property
    def numbers(self) -> FloatArray:
        """The values of a column that holds numbers or dates."""
        if self.values is None or isinstance(self.values, Texts):
            raise TypeError(f"The values of {self.column.name!r} were not read as numbers.")
        return self.values

    @property
    def raw(self) -> RawColumn:
        """The values of a column that can be a feature."""
        if self.values is None:
            raise TypeError(f"The values of {self.column.name!r} were not read.")
        return self.values

    @property
    def is_empty(self) -> bool:
        """Whether no row has a value."""
        return self.column.num_missing == self.num_rows

    def without_values(self) -> "ColumnData":
        """The column alone."""
        return replace(self, values=None)

    def with_original(self, values: object) -> "ColumnData":
        """The column with what the file holds, as numbers or an array of pyarrow."""
        import pyarrow as pa

        if not isinstance(values, pa.ChunkedArray):
            values = pa.chunked_array([pa.array(values, from_pandas=True)])
        return replace(self, original=values)


def make_column(
    name: str, kind: Kind, values: FloatArray, *, example: str | None = None
) -> ColumnData:
    """A column of numbers, booleans or dates from its float64 values, NaN where missing.

    Args:
        name: Of the column.
        kind: What the numbers are.
        values: Shape `(num_rows,)`.
        example: Of dates, how the file writes one.
    """
    finite = values[np.isfinite(values)]
    num_missing = 0 if len(finite) == len(values) else int(np.isnan(values).sum())
    minimum = float(finite.min()) if len(finite) else None
    maximum = float(finite.max()) if len(finite) else None
    column = Column(
        name=name,
        kind=kind,
        num_missing=num_missing,
        num_infinite=len(values) - len(finite) - num_missing,
        minimum=minimum,
        maximum=maximum,
        num_text=len(finite) if kind == "datetime" else 0,
        example=example,
        num_beyond=count_beyond(finite, minimum or 0.0, maximum or 0.0),
    )
    return ColumnData(column, num_rows=len(values), values=values)


def count_beyond(finite: FloatArray, minimum: float, maximum: float) -> int:
    """How many numbers between these ends float32 has not."""
    if max(-minimum, maximum) <= FLOAT32_MAX:
        return 0
    return int((np.abs(finite) > FLOAT32_MAX).sum())


def make_text_column(name: str, kind: Kind, texts: Texts) -> ColumnData:
    """A column of texts, or of integer codes as texts."""
    counts = texts.counts()
    words = {text: count for text, count in counts.items() if not is_a_number(text)}
    column = Column(
        name=name,
        kind=kind,
        num_missing=texts.num_missing,
        num_text=sum(words.values()),
        num_values=len(counts),
        example=texts.first_of(words),
    )
    return ColumnData(column, num_rows=len(texts), values=texts)


def check_unique(source: str, names: Sequence[str]) -> None:
    """Refuses a header that names a column twice.

    Raises:
        DataError: If it does.
    """
    twice = [f"{name!r} ({count} times)" for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(
            f"Each column needs a name of its own, but {source} repeats {listed(twice)}."
            f"{_headless(names)} Rename the columns in the file."
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
        taken = {
            data.target,
            data.weight_column,
            data.split_column,
            *data.id_columns,
            *data.exclude,
        }
        features = tuple(name for name in names if name not in taken)
    else:
        features = data.features
        check_present(data.source, features, names, way_out="Set data.features.")
    parts = {
        "id_columns": data.id_columns,
        "weight_column": (data.weight_column,),
        "split_column": (data.split_column,),
        "exclude": data.exclude,
        "columns": data.columns,
    }
    for key, wanted in parts.items():
        named = [name for name in wanted if name is not None]
        check_present(data.source, named, names, way_out=f"Correct data.{key}.")
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


def check_target(
    source: str, target: ColumnData, *, is_sample: bool = False, doubt: str | None = None
) -> None:
    """Refuses a target that is no series of finite, varying numbers, gaps apart.

    Args:
        source: Of the table, for messages.
        target: The column.
        is_sample: Whether there are further rows, which may have what these lack.
        doubt: What cures how its text was read, if anything.

    Raises:
        DataError: If it is not.
    """
    column, lack = target.column, lack_of_target(target)
    if is_sample and lack is not None:
        return
    if problem := problem_of_target(target):
        found = f"it is {problem}"
    elif lack is not None:
        found = lack
    else:
        return
    raise DataError(
        f"The target must be numbers that vary, but of {column.name!r} in {source} {found}. "
        f"{doubt or 'Set data.target, or repair the rows.'}"
    )


def lack_of_target(target: ColumnData) -> str | None:
    """What a target of these rows lacks and further rows may have; None if nothing."""
    column = target.column
    if not column.is_number or problem_of(target):
        return None
    num_known = target.num_rows - column.num_missing
    if num_known < 2:
        return f"{num_known} of {target.num_rows} rows have one"
    if column.is_constant:
        return f"all {num_known} rows are {column.minimum:g}"
    spread = (column.maximum or 0.0) - (column.minimum or 0.0)
    if spread < FLOAT32_TINY:
        return (
            f"all {num_known} rows lie within {spread:.2g}, which is nothing to float32 (below "
            f"{FLOAT32_TINY:.2g}): multiply it"
        )
    return None


def check_weights(source: str, weights: ColumnData, *, is_sample: bool = False) -> None:
    """Refuses weights that are no finite numbers of at least zero, with one above it.

    Args:
        source: Of the table, for messages.
        weights: The column.
        is_sample: Whether there are further rows, of which one may weigh more than zero.

    Raises:
        DataError: If they are not.
    """
    column = weights.column
    if not column.is_number:
        found = f"is {column.kind}"
    elif column.num_missing or column.num_infinite:
        found = f"has {column.num_missing} missing and {column.num_infinite} infinite values"
    elif (column.minimum or 0.0) < 0:
        found = f"goes down to {column.minimum:g}"
    elif not (column.maximum or is_sample):
        found = "is zero throughout"
    else:
        return
    raise DataError(
        f"Weights must be finite numbers of at least 0, but {column.name!r} in {source} {found}. "
        "Set data.weight_column, or repair the rows."
    )


def check_features(source: str, features: Sequence[ColumnData], *, way_out: str = "") -> None:
    """Refuses features that the network cannot take, naming every one with its count.

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
    usable = [feature.column.name for feature in features if not problem_of(feature)]
    more = f" and {len(problems) - MAX_LISTED} more" if len(problems) > MAX_LISTED else ""
    raise DataError(
        "Features must be finite numbers, booleans, texts or dates, but in "
        f"{source} {'; '.join(problems[:MAX_LISTED])}{more}. {way_out or _usable_features(usable)}"
    )


def _usable_features(names: Sequence[str]) -> str:
    if not names:
        return "None of the features is usable: repair the table."
    if len(names) > MAX_LISTED:
        return (
            f"Set data.features to others; {len(names)} are usable, and `dnnjob init` "
            "writes a job file that leaves out the rest."
        )
    return f"Set data.features to others: {json.dumps(list(names), ensure_ascii=False)}."


def problem_of_target(data: ColumnData) -> str | None:
    """Why a column cannot be the target, with the count of rows; None if it can."""
    column, rows = data.column, f"of {data.num_rows} rows"
    if data.is_empty:
        return f"missing in all {data.num_rows} rows"
    if not column.is_number:
        if column.kind == "text" and not column.num_text:
            kind = f'data.columns.{column.name}.kind = "numeric"'
            return f"text, though all of its texts are numbers (to read it so, set {kind})"
        example = "" if column.example is None else f", such as {column.example[:40]!r}"
        return f"{column.kind} ({column.num_text} {rows} hold no number{example})"
    return problem_of(data)


def problem_of(data: ColumnData) -> str | None:
    """Why a column cannot be a feature, with the count of rows; None if it can."""
    column, rows = data.column, f"of {data.num_rows} rows"
    if column.kind == "other":
        example = "" if column.example is None else f", such as {column.example[:40]!r}"
        return f"neither numbers nor texts ({column.num_text} {rows}{example})"
    if not column.is_number:
        return None
    if column.num_infinite:
        return f"infinite in {column.num_infinite} {rows}"
    if column.num_beyond:
        return f"beyond the range of float32 (3.4e38) in {column.num_beyond} {rows}"
    return None


def log_warnings(source: str, warnings: Iterable[str]) -> None:
    """Says what a person should know of a table."""
    for warning in warnings:
        logger.warning("%s: %s", source, warning, extra=ALIKE)


def show_date(seconds: float) -> str:
    """A date as a person writes it, without a time that is midnight."""
    return str(np.datetime64(int(seconds), "s")).removesuffix("T00:00:00")


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
    """A hint where the first line of a file does not look like names."""
    if all(is_a_number(name) for name in names):
        return " Its first line holds only numbers: add a line with the column names."
    if names[0].lower().startswith("sep="):
        return " Its first line tells spreadsheets the delimiter: remove it."
    return ""


def parse_number(text: str) -> float:
    """The number that a text writes with a decimal point, as pandas takes it.

    Raises:
        ValueError: If it writes none; Python's own would take 1_0 and digits of all scripts.
    """
    if _NUMBER.fullmatch(text) is None:
        raise ValueError(text)
    return float(text)


def is_a_number(text: str) -> bool:
    """Whether a text is a number, infinite at most."""
    try:
        return not math.isnan(parse_number(text))
    except ValueError:
        return False
