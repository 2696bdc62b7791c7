"""What the columns of text hold: narrowed by every value that passes by.

evidence = {name: Evidence(missing=data.missing) for name in file.names}
for table in read_strings(file):
    add_rows(evidence, table, data.missing)
found = settle([evidence], TextFormat.of(data), {})      # of text_settling: marks and dates
type_of_text("price", evidence["price"], None, found)
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dnnjob.data.dates import ISO_FORMAT, parse_date
from dnnjob.data.encoding import FeatureKind
from dnnjob.data.plain_numbers import PlainNumbers, find_plain
from dnnjob.data.raw_columns import FloatArray
from dnnjob.data.text_format import (
    ASKED_MARKS,
    GUESSED_MARKS,
    PLAIN,
    Marks,
    TextFormat,
    may_be_left_out,
)
from dnnjob.data.text_values import (
    BOOLEANS,
    ArrowArray,
    all_match,
    cast_or_none,
    cast_untidied,
    has_unit,
    is_all,
    strip_unit,
    tidy,
    to_booleans,
    to_dates,
    to_numbers,
)

GUESSED_DATES = (
    *(ISO_FORMAT, "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d"),
    *("%Y.%m.%d", "%H:%M", "%H:%M:%S"),
)
# Texts have no dates of these formats unless a job names them: what looks so is told.
TOLD_DATES = (
    *("%d %b %Y", "%d-%b-%Y", "%d-%b-%y", "%b %d, %Y", "%d %B %Y", "%B %d, %Y"),
    *("%d.%m.%y", "%m/%d/%y", "%d/%m/%y", "%m/%d/%Y %I:%M %p", "%d/%m/%Y %I:%M %p"),
    *("%m/%d/%Y %I:%M:%S %p", "%Y-%m", "%m/%Y", "%b %Y", "%b-%y", *GUESSED_DATES[1:8]),
    *("%I:%M %p", "%I:%M:%S %p", "%I:%M%p"),
)
_DAY_NUMBERS = (19_000_101, 21_001_231)
UNITS = tuple("$€£¥%")
_UNIT = re.compile(
    r"([+-]?[$€£¥])?\s*[+-]?[\d.,][\d.,]*\s*([A-Za-z%°$€£¥µ²³][\w%°²³/^*]*)?", re.ASCII
)
# Of numbers with a point: more or fewer digits after it than a group of thousands has.
_DECIMALS = re.compile(r"[+-]?\d*\.(\d{0,2}|\d{4,})", re.ASCII)
_ODD_SIGN = "^(?:\\(([\\d.,'\u2019 ]*\\d)\\)|[\u2212\u2013\ufe63\uff0d](\\d.*))$"
_INT64_END = 2.0**63
_SMALL = r"^\(?[+-]?\d{1,2}\)?$"
# What Arrow holds beside the letters of a text.
_OFFSET_BYTES = 4


@dataclass
class Evidence:
    """What a column of text may be, by all of its values so far.

    Attributes:
        missing: Texts that stand for a missing value, beside the empty one.
        marks: With which all values are numbers, their unit apart.
        dates: Formats with which all values are dates.
        told_dates: Formats with which, beside ISO 8601, all values are dates that nobody guesses.
        are_day_numbers: Whether all values are such as 20240131.
        unit: What all values carry beside a number; "" for none; None before the first value.
        is_unit_known: Whether the job says so, and a plain number is one of that unit.
        is_boolean: Whether all values are words of truth.
        is_whole: Whether all are digits alone.
        fits_int64: Whether these are integers of 64 bits.
        has_long: Whether a number of four digits or more has no mark between its thousands.
        num_rows: Rows so far.
        num_values: Those with a value.
        num_numbers: Those that are numbers without marks, where some are not: at a guess.
        example: The first value.
        marked: The first number that is not digits alone.
        signed: With which all values are numbers once `odd_sign` is a minus.
        odd_sign: The first number in brackets, as bookkeeping has negative ones, or with another
            letter for its minus.
        are_small: Whether these and all others are whole numbers below 100, as footnotes are.
        zeros: The first number with zeros before it.
        width: Bytes of a value, at a guess.
    """

    missing: tuple[str, ...] = ()
    marks: tuple[Marks, ...] = (*GUESSED_MARKS, *ASKED_MARKS)
    dates: tuple[str, ...] = GUESSED_DATES
    told_dates: tuple[str, ...] = TOLD_DATES
    are_day_numbers: bool = True
    unit: str | None = None
    is_unit_known: bool = False
    is_boolean: bool = True
    is_whole: bool = True
    fits_int64: bool = True
    has_long: bool = False
    num_rows: int = 0
    num_values: int = 0
    example: str | None = None
    marked: str | None = None
    signed: tuple[Marks, ...] = (*GUESSED_MARKS, *ASKED_MARKS)
    odd_sign: str | None = None
    are_small: bool = True
    zeros: str | None = None
    width: float = 0.0

    def add(self, texts: ArrowArray, plain: PlainNumbers | None = None) -> None:
        """Narrows it by further rows; `plain` are the same where all are plain numbers."""
        self.num_rows += len(texts)
        if not len(texts):
            return
        self.width = max(self.width, texts.nbytes / len(texts) - _OFFSET_BYTES)
        present = (tidy(texts, self.missing) if plain is None else plain.texts).drop_null()
        if not len(present):
            return
        self.num_values += len(present)
        self.example = self.example or present[0].as_py()
        if plain is None:
            self._add_others(pc.unique(present))
        else:
            self._add_plain(present, plain)

    def _add_plain(self, texts: ArrowArray, plain: PlainNumbers) -> None:
        """Values that are numbers without marks of thousands or units."""
        values = plain.values
        self.is_boolean, self.dates, self.told_dates = False, (), ()
        self.are_day_numbers = self.are_day_numbers and _are_day_numbers(values)
        if self.unit and not self.is_unit_known:
            self.marks = ()
        self.unit = self.unit or ""
        largest = float(np.fmax.reduce(np.abs(values)))
        self.are_small = self.are_small and largest < 100 and plain.wholes is not None
        if not self.is_whole or plain.wholes is None:
            is_huge = largest >= _INT64_END and self.is_whole
            self.is_whole = is_huge and all_match(texts, r"^[+-]?\d+$")
            self.fits_int64 = False
        if not self.is_whole:
            self._narrow(texts, is_plain=True)
            return
        self.has_long |= largest >= 1000
        self.zeros = self.zeros or plain.zeros

    def _add_others(self, texts: ArrowArray) -> None:
        """Distinct values of which some are no plain numbers."""
        self.is_boolean = self.is_boolean and is_all(pc.is_in(texts, pa.array(BOOLEANS)))
        self.is_whole = self.are_day_numbers = False
        if self.dates or self.told_dates:
            words = texts.to_pylist()
            self.dates = tuple(one for one in self.dates if _are_dates(words, one))
            self.told_dates = self._told_of(words)
        if self.signed:
            self._look_for_odd_signs(texts)
        if self.marks:
            self._narrow(self._without_unit(texts))

    def _look_for_odd_signs(self, texts: ArrowArray) -> None:
        self.are_small = self.are_small and all_match(texts, _SMALL)
        odd = texts.filter(pc.match_substring_regex(texts, _ODD_SIGN))
        if not len(odd) and self.odd_sign is None:
            return
        self.odd_sign = self.odd_sign or odd[0].as_py()
        texts = pc.replace_substring_regex(texts, _ODD_SIGN, r"-\1\2")
        self.signed = tuple(one for one in self.signed if all_match(texts, one.pattern))

    def _told_of(self, words: Sequence[str]) -> tuple[str, ...]:
        """The told formats with which these are dates, too; those found already cost nothing."""
        if ISO_FORMAT in self.dates:
            return self.told_dates
        others = tuple(one for one in self.told_dates if one not in self.dates)
        fitting = {*self.dates, *_fitting_beside_iso(words, others)}
        return tuple(one for one in self.told_dates if one in fitting)

    def _without_unit(self, texts: ArrowArray) -> ArrowArray:
        if self.unit is None:
            found = _UNIT.fullmatch(texts[0].as_py())
            before, after = found.groups() if found else (None, None)
            self.unit = "" if before and after else (before or after or "").lstrip("+-")
        if not self.unit:
            return texts
        if not (self.is_unit_known or is_all(has_unit(texts, self.unit))):
            self.marks = ()
        return strip_unit(texts, self.unit)

    def _narrow(self, numbers: ArrowArray, *, is_plain: bool = False) -> None:
        """Keeps the marks with which all of these are numbers."""
        if is_plain and self.marks and _DECIMALS.fullmatch(numbers[0].as_py()):
            # Most columns: no number has such a point between thousands.
            self.marks = tuple(one for one in self.marks if one.decimal == ".")
        if is_plain and all(one.decimal == "." for one in self.marks):
            return
        self.marks = tuple(
            one
            for one in self.marks
            if (is_plain and one.decimal == ".") or all_match(numbers, one.pattern)
        )
        if not any(one.decimal == "," for one in self.marks) and is_plain:
            return
        if self.marks and self.marked is None:
            is_whole = pc.match_substring_regex(numbers, r"^[+-]?\d+$")
            marked = numbers.filter(pc.invert(is_whole))
            self.marked = marked[0].as_py() if len(marked) else None
        if self.marks and not self.has_long:
            self.has_long = bool(pc.any(pc.match_substring_regex(numbers, r"^[+-]?\d{4}")).as_py())

    @property
    def is_empty(self) -> bool:
        """Whether no row has a value."""
        return not self.num_values

    def likely_marks(self, name: str, known: "TextFormat") -> tuple[Marks, ...]:
        """With which these are numbers, as far as a job allows; none if they are no numbers."""
        is_guessed = self.unit in UNITS and not known.is_settled
        if self.unit and not is_guessed and name not in known.units:
            return ()
        allowed = [one for one in self.marks if known.allows(one)]
        # Whoever marks thousands marks all of them.
        likely = [one for one in allowed if Marks(one.decimal, "") in self.marks]
        return tuple(likely if self.has_long and likely else allowed)

    @classmethod
    def joined(cls, parts: Sequence["Evidence"]) -> "Evidence":
        """What the column of several files may be, together."""
        parts = [part for part in parts if part.num_values] or list(parts[:1])
        first = parts[0]
        if len(parts) == 1:
            return first
        return replace(
            first,
            marks=_common([part.marks for part in parts])
            if len({part.unit for part in parts}) == 1
            else (),
            dates=_common([part.dates for part in parts]),
            told_dates=_common([part.told_dates for part in parts]),
            are_day_numbers=all(part.are_day_numbers for part in parts),
            is_whole=all(part.is_whole for part in parts),
            has_long=any(part.has_long for part in parts),
            num_values=sum(part.num_values for part in parts),
            signed=_common([part.signed for part in parts]),
            odd_sign=next((part.odd_sign for part in parts if part.odd_sign), None),
            are_small=all(part.are_small for part in parts),
            marked=next((part.marked for part in parts if part.marked), None),
            zeros=next((part.zeros for part in parts if part.zeros), None),
        )


def find_unit(texts: Collection[str]) -> str | None:
    """The unit that all of these numbers carry; None if they are none, or carry none."""
    one = Evidence()
    one.add(pa.chunked_array([list(texts)], pa.string()))
    return one.unit if one.unit and one.marks else None


def add_rows(
    evidence: Mapping[str, Evidence], table: pa.Table, missing: Collection[str]
) -> dict[str, PlainNumbers | None]:
    """Narrows what columns may be by rows of all; returns those that hold plain numbers."""
    columns = [table.column(name) for name in evidence]
    plain = dict(zip(evidence, find_plain(columns, missing), strict=True))
    for (name, one), texts in zip(evidence.items(), columns, strict=True):
        one.add(texts, plain[name])
    return plain


def _common(parts: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
    return tuple(one for one in parts[0] if all(one in part for part in parts))


def _are_day_numbers(values: FloatArray) -> bool:
    """Whether all are days, written as year, month and day in one."""
    if not _DAY_NUMBERS[0] <= values[0] <= _DAY_NUMBERS[1]:
        return False
    month, day = values // 100 % 100, values % 100
    is_day = (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31) & (values % 1 == 0)
    return bool((is_day & (values >= _DAY_NUMBERS[0]) & (values <= _DAY_NUMBERS[1])).all())


def _are_dates(words: Sequence[str], pattern: str) -> bool:
    """Whether all are dates of one format."""
    is_iso = pattern == ISO_FORMAT
    return all(_is_date(one, [] if is_iso else [pattern], also_iso=is_iso) for one in words)


def _fitting_beside_iso(words: Sequence[str], formats: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the formats that all words have that are no dates of ISO 8601."""
    for word in words:
        if not formats:
            break
        if not _is_date(word, []):
            formats = tuple(one for one in formats if _is_date(word, [one], also_iso=False))
    return formats


def _is_date(word: str, formats: Sequence[str], *, also_iso: bool = True) -> bool:
    try:
        parse_date(word, formats, also_iso=also_iso)
    except ValueError:
        return False
    return True


def type_of_text(
    name: str, one: Evidence, kind: FeatureKind | None, found: TextFormat
) -> pa.DataType:
    """What a column of text becomes; text where a value is none of the kind that a job says."""
    if kind in ("text", "codes", "boolean"):
        return pa.string()
    if one.is_empty:
        return pa.null()
    if one.is_boolean and kind is None:
        return pa.bool_()
    is_unit_known = not one.unit or name in found.units
    if kind != "datetime" and is_unit_known and found.marks in one.marks:
        return pa.int64() if one.is_whole and one.fits_int64 else pa.float64()
    if kind != "numeric" and set(one.dates) & {ISO_FORMAT, *(found.dates or ())}:
        return pa.timestamp("s")
    return pa.string()


def convert(
    name: str,
    texts: ArrowArray,
    dtype: pa.DataType,
    missing: Collection[str],
    found: TextFormat,
    plain: PlainNumbers | None = None,
) -> ArrowArray:
    """Values of a column as the type that all of it has.

    Args:
        name: Of the column.
        texts: The values.
        dtype: The type.
        missing: Texts that stand for a missing value.
        found: How the table writes numbers and dates.
        plain: The same values, where all are plain numbers.

    Raises:
        ValueError: If a value is none of that type.
    """
    if pa.types.is_null(dtype):
        return pa.nulls(len(texts))
    is_plain = pa.types.is_integer(dtype) or (found.marks == PLAIN and name not in found.units)
    if is_plain and (pa.types.is_integer(dtype) or pa.types.is_floating(dtype)):
        values = cast_untidied(texts, dtype, missing) if plain is None else plain.as_type(dtype)
        if values is not None:
            return values
    texts, values = tidy(texts, missing), None
    if pa.types.is_string(dtype):
        return texts
    if pa.types.is_boolean(dtype):
        return to_booleans(texts)
    if pa.types.is_integer(dtype):
        values = cast_or_none(texts, dtype)
    elif pa.types.is_floating(dtype):
        values = to_numbers(texts, found.marks, unit=found.units.get(name, ""))
    else:
        values = to_dates(texts, found.dates or ())
    if values is None:
        raise ValueError(f"the values of {name!r} have changed")
    return values


def first_other(
    name: str,
    texts: ArrowArray,
    kind: FeatureKind,
    missing: Collection[str],
    found: TextFormat,
) -> str | None:
    """The first value that is no number or date as the table writes them; None if all are."""
    texts = tidy(texts, missing).drop_null()
    if kind == "datetime":
        formats = found.dates or ()
        words = pc.unique(texts).to_pylist()
        return next((one for one in words if not _is_date(one, formats)), None)
    unit = found.units.get(name, "")
    needs_unit = unit and not may_be_left_out(unit)
    others = pc.invert(has_unit(texts, unit)) if needs_unit else pa.scalar(False)
    numbers = strip_unit(texts, unit) if unit else texts
    is_number = pc.match_substring_regex(numbers, found.marks.pattern)
    rest = texts.filter(pc.or_(pc.invert(is_number), others))
    return rest[0].as_py() if len(rest) else None


def type_of_ids(one: Evidence) -> pa.DataType:
    """What a column becomes that is carried into the predictions: as it is written, or integers."""
    if one.is_empty:
        return pa.null()
    if one.is_boolean:
        return pa.bool_()
    if PLAIN not in one.marks or one.unit or one.zeros:
        return pa.string()
    if one.is_whole:
        return pa.int64() if one.fits_int64 else pa.string()
    return pa.float64()
