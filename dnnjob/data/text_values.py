"""Values of text as numbers and dates, by the marks in which they are written.

texts = tidy(column, missing=data.missing)                  # trimmed, null where a gap
to_numbers(texts, Marks(",", "."), unit="€")                 # float64; None if one is no number
to_dates(texts, ["%d.%m.%Y"])
"""

import re
from collections.abc import Collection, Sequence
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dnnjob.data.dates import parse_date
from dnnjob.data.text_format import PLAIN, Marks, may_be_left_out

ArrowArray = Any
"""An array or a chunked array of pyarrow."""

# What a column cannot be shows in its first values, most often.
_FIRST = 64
BOOLEANS = ("True", "TRUE", "true", "False", "FALSE", "false")


def tidy(texts: ArrowArray, missing: Collection[str]) -> ArrowArray:
    """The same texts without blanks around them, null where they stand for a missing value."""
    texts = pc.utf8_trim_whitespace(texts)
    gaps = pc.is_in(texts, pa.array(["", *missing], texts.type))
    return pc.if_else(gaps, pa.scalar(None, texts.type), texts)


def cast_or_none(texts: ArrowArray, dtype: pa.DataType) -> ArrowArray | None:
    """The texts as numbers; None if one is none."""
    try:
        return texts.cast(dtype)
    except pa.ArrowInvalid:
        return None


def cast_all_or_none(texts: ArrowArray, dtype: pa.DataType) -> ArrowArray | None:
    """As `cast_or_none`, which takes twenty times as long where many are none."""
    first = cast_or_none(texts.slice(0, _FIRST), dtype)
    return None if first is None else cast_or_none(texts, dtype)


def cast_untidied(
    texts: ArrowArray, dtype: pa.DataType, missing: Collection[str]
) -> ArrowArray | None:
    """The texts as numbers where none has a gap or blanks, as most columns; else None."""
    if _stand_numbers_for_gaps(tuple(missing)):
        return None
    numbers = cast_all_or_none(texts, dtype)
    if numbers is None or not pa.types.is_floating(dtype):
        return numbers
    return None if pc.any(pc.is_nan(numbers)).as_py() else numbers


@cache
def _stand_numbers_for_gaps(missing: tuple[str, ...]) -> bool:
    numbers = (cast_or_none(pa.array([text.strip()]), pa.float64()) for text in missing)
    return any(one is not None and not np.isnan(one[0].as_py()) for one in numbers)


def all_match(texts: ArrowArray, pattern: str) -> bool:
    """Whether all of these match a pattern of RE2."""
    return all(
        is_all(pc.match_substring_regex(part, pattern))
        for part in (texts.slice(0, _FIRST), texts.slice(_FIRST))
    )


def is_all(truths: ArrowArray) -> bool:
    """Whether all are true, gaps apart."""
    return bool(pc.all(truths, min_count=0).as_py())


def has_unit(texts: ArrowArray, unit: str) -> ArrowArray:
    """Whether each carries a unit, before or after its number."""
    escaped = re.escape(unit)
    return pc.match_substring_regex(texts, rf"^[+-]?{escaped}\s*[+-]?[\d.,]|[\d.,]\s*{escaped}$")


def strip_unit(texts: ArrowArray, unit: str) -> ArrowArray:
    """The same texts without a unit."""
    escaped = re.escape(unit)
    texts = pc.replace_substring_regex(texts, rf"^([+-]?){escaped}\s*", r"\1")
    return pc.replace_substring_regex(texts, rf"\s*{escaped}$", "")


def to_numbers(texts: ArrowArray, marks: Marks, *, unit: str = "") -> ArrowArray | None:
    """Tidy texts as float64; None if one of them is no number so written."""
    if unit:
        if not (may_be_left_out(unit) or is_all(has_unit(texts, unit))):
            return None
        texts = strip_unit(texts, unit)
    if marks == PLAIN:
        # Most columns; digits in hexadecimal are none of them.
        return cast_or_none(texts, pa.float64())
    if not all_match(texts, marks.pattern):
        return None
    if group := marks.group:
        texts = pc.replace_substring_regex(texts, group, "")
    return pc.replace_substring(texts, marks.decimal, ".").cast(pa.float64())


def to_booleans(texts: ArrowArray) -> ArrowArray:
    """Words of truth as booleans."""
    return pc.equal(pc.utf8_lower(texts), "true")


def to_dates(texts: ArrowArray, formats: Sequence[str]) -> ArrowArray | None:
    """Tidy texts as seconds since 1970; None if one is no date in any of these formats."""
    if isinstance(texts, pa.Array):
        texts = pa.chunked_array([texts])
    words = texts.combine_chunks().dictionary_encode()
    try:
        seconds = [parse_date(text, formats) for text in words.dictionary.to_pylist()]
    except ValueError:
        return None
    stamps = pa.array(np.asarray(seconds, np.float64).astype(np.int64)).cast(pa.timestamp("s"))
    return stamps.take(words.indices)
