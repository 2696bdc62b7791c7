"""How a table writes numbers and dates, settled over all of its columns, and what is in doubt.

found = settle([evidence], TextFormat.of(data), {})
found.marks, found.dates, found.units, found.warnings
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import pyarrow as pa

from dnnjob.data.dates import ISO_FORMAT
from dnnjob.data.encoding import FeatureKind
from dnnjob.data.text_format import Marks, TextFormat
from dnnjob.data.text_types import GUESSED_DATES, UNITS, Evidence, type_of_text

_CONFLICTS = ({"%d/%m/%Y", "%m/%d/%Y"}, {"%d-%m-%Y", "%m-%d-%Y"})


def settle(
    files: Sequence[Mapping[str, Evidence]], known: TextFormat, kinds: Mapping[str, FeatureKind]
) -> TextFormat:
    """How a table writes numbers and dates: what the job says, else what fits most of its columns.

    Args:
        files: What each file's columns may be.
        known: What the job says.
        kinds: What the job says of single columns.
    """
    columns = {name: Evidence.joined([file[name] for file in files]) for name in files[0]}
    columns = {name: one for name, one in columns.items() if one.num_values}
    numbers = {
        name: marks for name, one in columns.items() if (marks := one.likely_marks(name, known))
    }
    decimal = known.decimal or _find_decimal(numbers.values())
    thousands = known.thousands
    if thousands is None:
        thousands = _find_thousands(numbers.values(), decimal)
    dates = known.dates
    if dates is None:
        dates = _find_dates(one.dates for name, one in columns.items() if name not in numbers)
    units = {} if known.is_settled else _find_units(columns)
    found = TextFormat(decimal, thousands, dates, {**units, **known.units}, known.encoding)
    is_sure = known.decimal is not None or any(_is_sure(marks) for marks in numbers.values())
    warnings = [
        (name, warning)
        for name, one in columns.items()
        for warning in _doubts(name, one, kinds.get(name), found, known, is_sure=is_sure)
    ]
    return replace(found, warnings=tuple(warnings))


def _is_sure(marks: Sequence[Marks]) -> bool:
    """Whether a column tells what stands before a fraction."""
    return len({one.decimal for one in marks}) == 1


def _find_decimal(columns: Iterable[Sequence[Marks]]) -> str:
    sure = Counter(marks[0].decimal for marks in columns if _is_sure(marks))
    return "," if sure[","] > sure["."] else "."


def _find_thousands(columns: Iterable[Sequence[Marks]], decimal: str) -> str:
    needed: Counter[str] = Counter()
    for marks in columns:
        fitting = {one.thousands for one in marks if one.decimal == decimal}
        if "" not in fitting:
            needed.update(fitting)
    return needed.most_common(1)[0][0] if needed else ""


def _find_units(columns: Mapping[str, Evidence]) -> dict[str, str]:
    return {name: one.unit for name, one in columns.items() if one.unit in UNITS and one.marks}


def _find_dates(columns: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """The formats that some column has and no other."""
    sure = {dates[0] for dates in columns if len(dates) == 1} - {ISO_FORMAT}
    for pair in _CONFLICTS:
        # Of two orders of day and month neither can be told for all columns.
        sure -= pair if pair <= sure else set()
    return tuple(one for one in GUESSED_DATES if one in sure)


def _doubts(
    name: str,
    one: Evidence,
    kind: FeatureKind | None,
    found: TextFormat,
    known: TextFormat,
    *,
    is_sure: bool,
) -> Iterator[str]:
    """What a person should know of how a column was read, unless the job says its kind."""
    dtype = type_of_text(name, one, kind, found)
    likely = one.likely_marks(name, known)
    example = repr((one.marked or one.example or "")[:40])
    if pa.types.is_floating(dtype) and not is_sure and one.marked and not _is_sure(likely):
        other = next(mark for mark in one.marks if mark.decimal != found.decimal)
        yield (
            f"{name} holds numbers such as {example}, which may be read in two ways; they are read "
            f"with {found.marks}. If that is wrong, set {other}."
        )
    if pa.types.is_integer(dtype) and one.zeros:
        yield (
            f"{name} holds numbers such as {one.zeros!r} and is read without their zeros. If they "
            f'are codes, set data.columns.{name}.kind = "text".'
        )
    if pa.types.is_integer(dtype) and one.are_day_numbers and not (kind or known.is_settled):
        yield (
            f"{name} holds whole numbers such as {one.example}. If these are dates, name "
            f'"%Y%m%d" in data.date_format and set data.columns.{name}.kind = "datetime".'
        )
    if not kind and pa.types.is_string(dtype):
        yield from _doubts_of_text(name, one, found, known, example=example)


def _doubts_of_text(
    name: str, one: Evidence, found: TextFormat, known: TextFormat, *, example: str
) -> Iterator[str]:
    """What else a column may be that is taken for text."""
    if one.unit and one.marks and name not in found.units:
        yield (
            f"{name} is taken for text, such as {(one.example or '')[:40]!r}. If these are "
            f'numbers, set data.columns.{name}.unit = "{one.unit}".'
        )
    elif one.marks and (others := [mark for mark in one.marks if mark != found.marks]):
        yield (
            f"{name} is taken for text: {example} is no number with {found.marks}, as the table "
            f"has it elsewhere. If it is one, set {others[0]}."
        )
    elif one.dates:
        formats = [pattern for pattern in GUESSED_DATES if pattern in one.dates]
        yield (
            f"{name} is taken for text: {example} may be a date as {' or as '.join(formats)}. "
            f'Set data.date_format = "{formats[0]}" or another.'
        )
    elif one.odd_sign and one.signed and not one.are_small:
        yield (
            f"{name} is taken for text, such as {one.odd_sign[:40]!r}. If these are negative "
            f"numbers, write them with '-' before them in the file; data.columns.{name}.kind = "
            '"text" keeps them as they are.'
        )
    elif one.told_dates and not known.is_settled:
        named = " or ".join(f'"{pattern}"' for pattern in one.told_dates)
        # Where a format that is guessed has not been found, some of the values are ISO 8601.
        also = (
            f' and set data.columns.{name}.kind = "datetime"'
            if set(one.told_dates) & {*GUESSED_DATES}
            else ""
        )
        yield (
            f"{name} is taken for text, such as {example}. If these are dates, name {named} in "
            f"data.date_format{also}."
        )
