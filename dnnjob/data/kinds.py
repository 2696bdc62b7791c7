"""Kinds of columns: what a file's values are, and the same values as the kind that a job names.

data = infer_arrow("age", table.column("age"))
data = as_kind(data, "codes", source="t.csv")
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal, assert_never

import numpy as np

from dnnjob.config.data_section import MISSING_MARKERS, DataConfig
from dnnjob.data.dates import parse_date
from dnnjob.data.encoding import MISSING, FeatureKind
from dnnjob.data.raw_columns import FloatArray, Texts
from dnnjob.data.schema import (
    Column,
    ColumnData,
    Kind,
    make_column,
    make_text_column,
    parse_number,
)
from dnnjob.data.text_format import NO_FORMAT, PLAIN, Marks, TextFormat, may_be_left_out
from dnnjob.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

# pandas writes integers beside gaps as 2.0.
WHOLE_NUMBER = re.compile(r"\s*[+-]?\d+(?:\.0*)?\s*", re.ASCII)
# float64 holds every integer up to here.
LARGEST_EXACT = 2**53
TRUE_WORDS = ("true", "t", "yes", "y", "1", "1.0")
FALSE_WORDS = ("false", "f", "no", "n", "0", "0.0")
# Whoever needs these as texts reads them so: numbers lose leading zeros.
TEXT_KINDS: tuple[FeatureKind, ...] = ("text", "codes", "datetime", "boolean")


@dataclass(frozen=True)
class ReadAs:
    """How a table is read, where that is not left to its values.

    Attributes:
        kinds: What single columns shall hold.
        missing: Texts that stand for a missing value, beside the empty one.
        ids: Columns that are kept as the files have them, too.
        also: Further columns whose values are wanted.
        keys: Columns whose values are told apart digit by digit.
        format: How text writes numbers and dates.
    """

    kinds: Mapping[str, FeatureKind] = field(default_factory=dict)
    missing: tuple[str, ...] = MISSING_MARKERS
    ids: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    format: TextFormat = NO_FORMAT

    @classmethod
    def of(cls, data: DataConfig) -> "ReadAs":
        """What a job says."""
        kinds = {name: column.kind for name, column in data.columns.items() if column.kind}
        also = tuple(name for name in (data.weight_column, data.split_column) if name is not None)
        is_key = data.split == "group" and data.split_column not in (data.features or ())
        keys = (data.split_column,) if is_key and data.split_column is not None else ()
        return cls(kinds, data.missing, data.id_columns, also, keys, TextFormat.of(data))

    def kind_of(self, name: str) -> FeatureKind | None:
        """What a column shall hold; None where its values say so."""
        kind = self.kinds.get(name)
        return "numeric" if kind is None and name in self.format.units else kind

    def as_text(self, name: str) -> bool:
        """Whether a column is read as it is written."""
        return self.kinds.get(name, "numeric") in TEXT_KINDS


def infer_arrow(
    name: str,
    array: "pa.ChunkedArray[Any]",
    *,
    missing: Collection[str] = (),
    as_text: bool = False,
) -> ColumnData:
    """A column of Arrow as what its type says.

    Args:
        name: Of the column.
        array: Its values.
        missing: Texts that stand for a missing value.
        as_text: Take integers for texts: float64 has not all beyond 2**53.
    """
    import pyarrow as pa

    kind = arrow_kind(array.type)
    if pa.types.is_dictionary(array.type) and kind != "text":
        array = array.cast(array.type.value_type)
    if as_text and pa.types.is_integer(array.type):
        return make_text_column(name, "text", _texts_of_arrow(array).without(missing))
    match kind:
        case "numeric" | "boolean":
            return make_column(name, kind, floats_of_arrow(array))
        case "text":
            return make_text_column(name, kind, _texts_of_arrow(array).without(missing))
        case "datetime":
            present = array.drop_null()
            example = str(present[0].as_py()).removesuffix(" 00:00:00") if len(present) else None
            return make_column(name, kind, _seconds_of_arrow(array), example=example)
        case "codes" | "other":
            present = array.drop_null()
            column = Column(
                name=name,
                kind="other",
                num_missing=array.null_count,
                num_text=len(present),
                example=str(present[0].as_py()) if len(present) else None,
            )
            return ColumnData(column, num_rows=len(array))
        case _:
            assert_never(kind)


def floats_of_arrow(array: "pa.ChunkedArray[Any]") -> FloatArray:
    """Numbers or booleans as float64, NaN where null; integers beyond 2**53 round."""
    import pyarrow as pa

    if not (pa.types.is_integer(array.type) or pa.types.is_floating(array.type)):
        array = array.cast(pa.float64(), safe=False)
    return np.asarray(array.to_numpy(), dtype=np.float64)


def large_wholes(array: "pa.ChunkedArray[Any]", missing: Collection[str] = ()) -> Texts | None:
    """Numbers digit by digit, where some are integers that float64 does not tell apart.

    Args:
        array: Numbers, or texts of them.
        missing: Texts that stand for a missing value.

    Returns:
        The numbers as `write_number` has them, None where float64 holds them all.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if pa.types.is_integer(array.type):
        ends = [end for end in pc.min_max(array).as_py().values() if end is not None]
        if max(map(abs, ends), default=0) <= LARGEST_EXACT:
            return None
    elif not (pa.types.is_decimal(array.type) or arrow_kind(array.type) == "text"):
        return None
    texts = _texts_of_arrow(array).without(missing)
    if not any(_is_whole(text) and abs(_whole(text)) > LARGEST_EXACT for text in texts.values):
        return None
    try:
        return texts.renamed(_write_exactly)
    except ValueError:
        return None


def _write_exactly(text: str) -> str:
    return str(_whole(text)) if _is_whole(text) else write_number(parse_number(text))


def are_integers(types: "Iterable[pa.DataType]") -> bool:
    """Whether values of all these types are integers of 64 bits with a sign."""
    import pyarrow as pa

    return all(pa.types.is_integer(one) and not pa.types.is_uint64(one) for one in types)


@cache
def arrow_kind(dtype: "pa.DataType") -> Kind:
    """Kind of a Parquet column; one that is null throughout counts as numbers, as in pandas."""
    from pyarrow import types

    if types.is_dictionary(dtype):
        return arrow_kind(dtype.value_type)
    kinds: dict[Kind, tuple[Callable[[Any], bool], ...]] = {
        "boolean": (types.is_boolean,),
        "numeric": (types.is_integer, types.is_floating, types.is_decimal, types.is_null),
        "datetime": (types.is_date, types.is_timestamp),
        "text": (types.is_string, types.is_large_string, types.is_string_view, types.is_binary),
    }
    for kind, tests in kinds.items():
        if any(test(dtype) for test in tests):
            return kind
    return "other"


def as_kind(
    data: ColumnData, kind: FeatureKind, *, source: str, text_format: TextFormat = NO_FORMAT
) -> ColumnData:
    """The column as a job wants it read.

    Args:
        data: What the file holds.
        kind: What it shall be.
        source: Of the table, for messages.
        text_format: How texts write numbers and dates.

    Raises:
        DataError: If a value is none of that kind.
    """
    column, values = data.column, data.values
    if column.kind == kind:
        return data
    if values is None:
        raise _refusal(data, kind, source=source, example=column.example)
    if isinstance(values, Texts):
        return _texts_as(data, values, kind, source=source, text_format=text_format)
    is_plain = column.kind in ("numeric", "boolean")
    match kind:
        case "numeric" if is_plain:
            return make_column(column.name, kind, values)
        case "boolean" if is_plain and not column.num_infinite:
            return _texts_as(data, _texts_of_numbers(values), kind, source=source)
        case "codes" | "text" if is_plain:
            return _texts_as(data, _texts_of_numbers(values), kind, source=source)
        case _ if column.num_missing == data.num_rows:
            if kind in ("text", "codes"):
                return make_text_column(column.name, kind, Texts.of([None] * data.num_rows))
            return make_column(column.name, kind, values)
        case _:
            example = column.example or f"{column.minimum:g}"
            raise _refusal(data, kind, source=source, example=example)


def _texts_as(
    data: ColumnData,
    texts: Texts,
    kind: FeatureKind,
    *,
    source: str,
    text_format: TextFormat = NO_FORMAT,
) -> ColumnData:
    name = data.column.name
    match kind:
        case "text":
            return make_text_column(name, kind, texts)
        case "codes":
            # However large: a value that no training row can have is another one.
            wrong = next((text for text in texts.values if not _is_whole(text)), None)
            if wrong is not None:
                raise _refusal(data, kind, source=source, example=wrong)
            return make_text_column(name, kind, texts.renamed(lambda text: str(_whole(text))))
        case "numeric" | "boolean" | "datetime":
            parse = _parser(kind, name, text_format)
            values = parse_texts(texts, parse)
            if values is None:
                raise refuse_value(
                    name,
                    kind,
                    source=source,
                    example=_first_fault(texts, parse),
                    found=text_format,
                )
            example = texts.first_of(texts.values) if kind == "datetime" else None
            return make_column(name, kind, values, example=example)
        case _:
            assert_never(kind)


def _refusal(data: ColumnData, kind: FeatureKind, *, source: str, example: str | None) -> DataError:
    return refuse_value(data.column.name, kind, source=source, example=example)


def refuse_value(
    name: str,
    kind: FeatureKind,
    *,
    source: str,
    example: str | None,
    found: TextFormat | None = None,
) -> DataError:
    """The error of a column that holds a value of another kind.

    Args:
        name: Of the column.
        kind: What it shall hold.
        source: Of the table, for messages.
        example: The value.
        found: How text is read, where it is text.
    """
    rules: dict[FeatureKind, str] = {
        "numeric": "numbers",
        "boolean": f"{', '.join(TRUE_WORDS[:5])} or {', '.join(FALSE_WORDS[:5])}",
        "codes": "whole numbers",
        "text": "texts, numbers or booleans",
        "datetime": "dates as in 2026-01-31 or 2026-01-31 12:30:00",
    }
    rule, keys = rules[kind], ""
    if found is not None and kind == "numeric":
        unit = found.units.get(name)
        rule += f" with {found.marks.described}" + (f" and the unit {unit!r}" if unit else "")
        keys = f", data.decimal, data.thousands or data.columns.{name}.unit"
    if found is not None and kind == "datetime":
        rule += "".join(f" or as {one}" for one in found.dates or ())
        keys = " or data.date_format"
    held = "other values" if example is None else repr(example[:40])
    return DataError(
        f"{name!r} must be {kind}, that is {rule}, but in {source} it holds {held}. "
        f"Change data.columns.{name}.kind{keys}, name in data.missing what stands for a gap, or "
        "repair the rows."
    )


def parse_boolean(text: str) -> float:
    """1 or 0 of a word.

    Raises:
        ValueError: If it is no such word.
    """
    word = text.strip().lower()
    if word in TRUE_WORDS:
        return 1.0
    if word in FALSE_WORDS:
        return 0.0
    raise ValueError(text)


def _parser(
    kind: Literal["numeric", "boolean", "datetime"], name: str, text_format: TextFormat
) -> Callable[[str], float]:
    """What reads the texts of a column."""
    match kind:
        case "numeric":
            return partial(
                parse_written, marks=text_format.marks, unit=text_format.units.get(name, "")
            )
        case "boolean":
            return parse_boolean
        case "datetime":
            return partial(parse_date, formats=text_format.dates or ())
        case _:
            assert_never(kind)


def parse_written(text: str, *, marks: Marks, unit: str) -> float:
    """The number that a text writes with these marks and unit.

    Raises:
        ValueError: If it writes none.
    """
    text = text.strip()
    if unit:
        bare = text.removeprefix(unit) if text.startswith(unit) else text.removesuffix(unit)
        if bare == text and not may_be_left_out(unit):
            raise ValueError(text)
        text = bare.strip()
    if marks != PLAIN:
        if re.search(marks.pattern, text) is None:
            raise ValueError(text)
        text = re.sub(marks.group, "", text) if marks.group else text
        text = text.replace(marks.decimal, ".")
    return parse_number(text)


def parse_texts(texts: Texts, parse: Callable[[str], float]) -> FloatArray | None:
    """Every row's number, NaN where missing; None if a text is no number."""
    try:
        numbers = [parse(text) for text in texts.values]
    except ValueError:
        return None
    # Missing rows have the code -1, which is the last place.
    return np.array([*numbers, np.nan])[texts.codes]


def _is_whole(text: str) -> bool:
    return WHOLE_NUMBER.fullmatch(text) is not None


def _whole(text: str) -> int:
    """The integer that a text of `WHOLE_NUMBER` writes."""
    return int(text.partition(".")[0])


def _first_fault(texts: Texts, parse: Callable[[str], float]) -> str | None:
    for text in texts.values:
        try:
            parse(text)
        except ValueError:
            return text
    return None


def _texts_of_numbers(values: FloatArray) -> Texts:
    """Numbers as they are written: 7, not 7.0."""
    present = ~np.isnan(values)
    distinct, places = np.unique(values[present], return_inverse=True)
    codes = np.full(len(values), -1, dtype=np.int32)
    codes[present] = places
    return Texts(codes, tuple(write_number(float(number)) for number in distinct))


def write_number(number: float) -> str:
    """A finite number as people write it: 7, not 7.0."""
    return str(int(number)) if number.is_integer() else repr(number)


def _texts_of_arrow(array: "pa.ChunkedArray[Any]") -> Texts:
    import pyarrow as pa

    if not pa.types.is_dictionary(array.type):
        array = array.cast(pa.large_string()).dictionary_encode()
    chunks = array.unify_dictionaries().chunks
    if not chunks:
        return Texts.of([])
    codes = [chunk.indices.cast(pa.int32()).fill_null(-1).to_numpy() for chunk in chunks]
    values = chunks[0].dictionary.cast(pa.large_string()).to_pylist()
    return Texts(np.concatenate(codes), tuple(text or MISSING for text in values))


def _seconds_of_arrow(array: "pa.ChunkedArray[Any]") -> FloatArray:
    """Whole seconds since 1970, as the clock of their zone shows them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_timestamp(array.type):
        array = array.cast(pa.timestamp("s"))
    elif array.type.tz is not None:
        array = pc.local_timestamp(array)
    gaps = np.asarray(array.is_null())
    ticks = np.asarray(array.cast(pa.int64()).fill_null(0).to_numpy())
    # Integers: a float64 of nanoseconds may lie below its second.
    whole = ticks // {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[array.type.unit]
    return np.where(gaps, np.nan, whole.astype(np.float64))
