"""How Slurm writes durations, memory, times, ids and records.

parse_duration("1-02:03:04")                      # 93784
list(parse_elements("5_[1-3,7%2]"))               # 5_1, 5_2, 5_3, 5_7
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime

ENDED_STATES = frozenset(
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "REVOKED",
        "TIMEOUT",
    }
)
"""States of a job that Slurm will not run again by itself."""


_KEY = re.compile(r"(?:^|\s)([A-Z][A-Za-z/:]*)=")
_ELEMENTS = re.compile(r"^(\d+)_\[([0-9,\-:]+)(?:%\d+)?\]$")
_MEMORY = re.compile(r"^([\d.]+)([KMGTP]?)[nc]?$")
_UNITS = {"": 1.0, "K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0**2, "P": 1024.0**3}


def parse_duration(text: str) -> int | None:
    """Seconds of `1-02:03:04`, `03:04` or `90`, the latter minutes; None for any other word."""
    days, dash, rest = text.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdecimal() for part in (*parts, *([days] if dash else []))):
        return None
    numbers = [int(part) for part in parts]
    if dash:
        # Hours come first behind days.
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
    elif len(numbers) == 1:
        hours, minutes, seconds = 0, numbers[0], 0
    else:
        hours, minutes, seconds = (0, *numbers)[-3:]
    return ((int(days) if dash else 0) * 24 + hours) * 3600 + minutes * 60 + seconds


def parse_elements(job_id: str) -> Iterator[str]:
    """The elements that a line stands for: `5_[1-3,7%2]` is `5_1`, `5_2`, `5_3` and `5_7`."""
    found = _ELEMENTS.match(job_id)
    if found is None:
        yield job_id
        return
    for part in found[2].split(","):
        span, _, step = part.partition(":")
        first, _, last = span.partition("-")
        for number in range(int(first), int(last or first) + 1, int(step or 1)):
            yield f"{found[1]}_{number}"


def base_ids(job_ids: Iterable[str]) -> list[str]:
    """Each job once: an element is asked for by its array."""
    return list(dict.fromkeys(job_id.partition("_")[0] for job_id in job_ids))


def is_wanted(job_id: str, job_ids: Collection[str]) -> bool:
    """Whether a job or array element is among those asked for."""
    return job_id in job_ids or job_id.partition("_")[0] in job_ids


def own_id(fields: Mapping[str, str]) -> str:
    """The id of a job's record: `123`, or `123_4` for an array element."""
    if "ArrayTaskId" in fields:
        return f"{fields['ArrayJobId']}_{fields['ArrayTaskId']}"
    return fields.get("JobId", "")


def parse_fields(line: str) -> dict[str, str]:
    """Keys and values of a line whose values may hold blanks; a key's first value counts."""
    found = list(_KEY.finditer(line))
    ends = [*(one.start() for one in found[1:]), len(line)]
    pairs = [(one[1], line[one.end() : end].strip()) for one, end in zip(found, ends, strict=True)]
    return dict(reversed(pairs))


def parse_names(text: str) -> tuple[str, ...]:
    """The names of a list; none of `(null)`."""
    return () if text in ("", "(null)") else tuple(text.split(","))


def parse_number(text: str) -> int | None:
    """The number, None for a word such as `UNLIMITED`."""
    return int(text) if text.isdecimal() else None


def parse_memory_mb(text: str) -> float | None:
    """MiB of `4G`, `512Mn` or `12345K`; a number alone is bytes in no column read here."""
    found = _MEMORY.match(text)
    return float(found[1]) * _UNITS[found[2]] if found else None


def parse_time(text: str) -> datetime | None:
    """Slurm's local time; None for `N/A` and `Unknown`."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        return None
