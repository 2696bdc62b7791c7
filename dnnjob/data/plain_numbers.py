"""Columns of text that hold plain numbers, many of them read by one call of Arrow.

A call costs as much as reading 300 values, which is what a column of a wide table has.

plain = find_plain(columns, missing=data.missing)          # None for each that holds something else
plain[0].numbers, plain[0].wholes, plain[0].zeros
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dnnjob.data.raw_columns import FloatArray
from dnnjob.data.text_values import ArrowArray, cast_all_or_none, cast_untidied, tidy

_VALUES_AT_ONCE = 2**15
# What Arrow takes for a number, and more; blanks are those of Unicode, as `tidy` has them.
_LIKELY = re.compile(r"\s*[+-]?([0-9]|\.[0-9]|inf|nan)", re.IGNORECASE)
_ZEROS = r"^[+-]?0\d"


@dataclass(frozen=True, eq=False)
class PlainNumbers:
    """A column of text in which every value is a number without unit or marks of thousands.

    Attributes:
        texts: Its rows without blanks around them, null where a gap.
        numbers: The same as float64.
        wholes: The same as int64; None unless all are digits alone, and of so many bits.
        zeros: The first of digits alone that begins with zeros that a number loses.
    """

    texts: ArrowArray
    numbers: ArrowArray
    wholes: ArrowArray | None = None
    zeros: str | None = None

    @property
    def values(self) -> FloatArray:
        """The numbers without the gaps."""
        numbers = self.numbers
        if numbers.null_count:
            numbers = numbers.drop_null()
        return np.asarray(numbers.to_numpy(), np.float64)

    def as_type(self, dtype: pa.DataType) -> ArrowArray | None:
        """Its rows as numbers of a type; None if they are none."""
        if pa.types.is_integer(dtype):
            return self.wholes
        return self.numbers if pa.types.is_floating(dtype) else None


def find_plain(
    columns: Sequence[ArrowArray], missing: Collection[str]
) -> list[PlainNumbers | None]:
    """Those of the columns, chunked arrays of as many texts, that hold plain numbers.

    Args:
        columns: The columns.
        missing: Texts that stand for a missing value, beside the empty one.
    """
    found: list[PlainNumbers | None] = [None] * len(columns)
    gaps = {"", *missing}
    likely = [place for place, texts in enumerate(columns) if _may_be_numbers(texts, gaps)]
    at_once = max(1, _VALUES_AT_ONCE // max(1, len(columns[0]) if columns else 1))
    for first in range(0, len(likely), at_once):
        places = likely[first : first + at_once]
        for place, one in zip(places, _find([columns[p] for p in places], missing), strict=True):
            found[place] = one
    return found


def _may_be_numbers(texts: ArrowArray, gaps: Collection[str]) -> bool:
    """Whether the first value is a number or a gap."""
    first = texts[0].as_py() if len(texts) else ""
    return _LIKELY.match(first) is not None or first.strip() in gaps


def _find(columns: list[ArrowArray], missing: Collection[str]) -> list[PlainNumbers | None]:
    joined = _joined(columns)
    numbers = cast_untidied(joined, pa.float64(), missing)
    if numbers is None:
        columns = _parted(tidy(joined, missing), columns)
        parts = _cast_each(columns, pa.float64())
    else:
        parts = [*_parted(numbers, columns)]
    found = [
        None if one is None else PlainNumbers(texts, one)
        for texts, one in zip(columns, parts, strict=True)
    ]
    _add_wholes(found)
    return found


def _cast_each(columns: list[ArrowArray], dtype: pa.DataType) -> list[ArrowArray | None]:
    """Each as numbers, None where one of its values is none: by halves where not all are."""
    if not columns:
        return []
    numbers = cast_all_or_none(_joined(columns), dtype)
    if numbers is not None:
        return _parted(numbers, columns)
    if len(columns) == 1:
        return [None]
    half = len(columns) // 2
    return [*_cast_each(columns[:half], dtype), *_cast_each(columns[half:], dtype)]


def _add_wholes(found: list[PlainNumbers | None]) -> None:
    """Adds, in place, which of them hold digits alone."""
    maybe = [
        (place, one) for place, one in enumerate(found) if one is not None and _may_be_wholes(one)
    ]
    wholes = _cast_each([one.texts for _, one in maybe], pa.int64())
    are_whole = [
        (place, one, whole)
        for (place, one), whole in zip(maybe, wholes, strict=True)
        if whole is not None
    ]
    zeros = _first_with_zeros([one.texts for _, one, _ in are_whole])
    for (place, one, whole), text in zip(are_whole, zeros, strict=True):
        found[place] = replace(one, wholes=whole, zeros=text)


def _may_be_wholes(one: PlainNumbers) -> bool:
    values = one.values
    if not len(values):
        return False
    with np.errstate(invalid="ignore"):
        return bool((np.floor(values) == values).all())


def _first_with_zeros(columns: list[ArrowArray]) -> Iterator[str | None]:
    if not columns:
        return
    start = pc.match_substring_regex(_joined(columns), _ZEROS)
    if not pc.any(start, min_count=0).as_py():
        yield from (None for _ in columns)
        return
    for texts, ones in zip(columns, _parted(start, columns), strict=True):
        starting = texts.filter(ones)
        yield starting[0].as_py() if len(starting) else None


def _joined(columns: Sequence[ArrowArray]) -> ArrowArray:
    """All values one below the other, of which nothing is copied."""
    return pa.chunked_array(
        [chunk for column in columns for chunk in column.chunks], type=columns[0].type
    )


def _parted(joined: ArrowArray, columns: Sequence[ArrowArray]) -> list[ArrowArray]:
    """The parts of joined columns that belong to each, all of one length."""
    length = len(columns[0])
    return [joined.slice(place * length, length) for place in range(len(columns))]
