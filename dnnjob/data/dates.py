"""Dates in text, as seconds since 1970.

parse_date("31.12.2020 14:30", ["%d.%m.%Y"])
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

ISO_FORMAT = "%Y-%m-%d"
# What follows the seconds, fractions and a zone, is left out: a date counts as it is written.
ISO_DATE = re.compile(
    r"(\d{4}-\d{2}-\d{2})(?:[ T](\d{2}:\d{2})(?:(:\d{2})(?:\.\d*)?)?(?:Z|[+-]\d{2}:?\d{2})?)?",
    re.ASCII,
)
_TIME = re.compile(r"\d{1,2}:\d{2}(:\d{2})?", re.ASCII)
_HALF_DAY_TIME = re.compile(rf"{_TIME.pattern} ?[AP]M", re.ASCII | re.IGNORECASE)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_date(text: str, formats: Sequence[str] = (), *, also_iso: bool = True) -> float:
    """Seconds since 1970 of a date, as its clock shows it, without its zone.

    Args:
        text: ISO 8601, or in one of the formats; a time of day may follow any of them.
        formats: As `datetime.strptime` has them; a time alone is of the first of January 1970.
        also_iso: Whether ISO 8601 is one of them.

    Raises:
        ValueError: If it is none.
    """
    if also_iso and (found := ISO_DATE.fullmatch(text)) is not None:
        day, minutes, seconds = found.groups()
        time = f"{minutes or '00:00'}{seconds or ':00'}"
        return float(np.datetime64(f"{day}T{time}", "s").astype(int))
    for one in formats:
        if (date := _parse(text, one)) is not None:
            return date
    raise ValueError(text)


def _parse(text: str, pattern: str) -> float | None:
    """Seconds of a date in one format; None if it is none."""
    time = text.partition(" ")[2]
    has_day = any(part in pattern for part in ("%Y", "%y"))
    if has_day and "%H" not in pattern and "%I" not in pattern and _TIME.fullmatch(time):
        pattern = f"{pattern} {'%H:%M:%S' if time.count(':') == 2 else '%H:%M'}"
    if not has_day and not (_HALF_DAY_TIME if "%I" in pattern else _TIME).fullmatch(text):
        return None
    try:
        date = datetime.strptime(text, pattern).replace(tzinfo=UTC)
    except ValueError:
        return None
    if not has_day:
        date = date.replace(year=1970, month=1, day=1)
    return float((date - _EPOCH) // (_EPOCH.replace(second=1) - _EPOCH))
