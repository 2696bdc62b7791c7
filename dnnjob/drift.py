"""Where rows to be predicted differ from those that trained.

drift = Drift(report.data.trained)
drift.add(rows.block)
drift.findings(), describe_findings(drift.findings())
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from dnnjob.data.encoding import MISSING
from dnnjob.data.raw_columns import Block, FloatArray, Texts
from dnnjob.results.report import TrainedColumn
from dnnjob.text import counted

MAX_TOLD = 8


@dataclass(frozen=True)
class Finding:
    """What one column holds that training did not.

    Attributes:
        column: Its name.
        kind: Categories that the model does not tell apart; no value at all, where training rows
            all had one; numbers or dates further outside the range of training than that is wide.
        num_rows: Rows that hold it.
        example: The first such value; None where it is none.
        range: Least and largest value of training, of numbers and dates.
    """

    column: str
    kind: Literal["unknown_category", "missing_throughout", "far_outside"]
    num_rows: int
    example: str | float | None = None
    range: tuple[float, float] | None = None


@dataclass
class _Count:
    num_rows: int = 0
    num_missing: int = 0
    num_odd: int = 0
    example: str | float | None = None


@dataclass
class Drift:
    """Counts what training did not see, piece by piece.

    Attributes:
        trained: What it saw of each feature; a run of an earlier version has not written it down.
    """

    trained: Mapping[str, TrainedColumn]
    _counts: dict[str, _Count] = field(default_factory=dict)

    def add(self, block: Block) -> None:
        """Counts some rows in."""
        for name, seen in self.trained.items():
            count = self._counts.setdefault(name, _Count())
            column = block[name]
            count.num_rows += len(column)
            if isinstance(column, Texts):
                count.num_missing += column.num_missing
                _count_unknown(count, column, {*(seen.categories or ()), MISSING})
            else:
                missing = np.isnan(column)
                count.num_missing += int(missing.sum())
                _count_far(count, column[~missing], seen)

    def findings(self) -> list[Finding]:
        """What differs, in the order of the columns."""
        found = []
        for name, count in self._counts.items():
            seen = self.trained[name]
            if count.num_rows == count.num_missing and not seen.num_missing:
                found.append(Finding(name, "missing_throughout", count.num_rows))
            if not count.num_odd:
                continue
            if seen.minimum is None or seen.maximum is None:
                found.append(Finding(name, "unknown_category", count.num_odd, count.example))
            else:
                limits = seen.minimum, seen.maximum
                found.append(Finding(name, "far_outside", count.num_odd, count.example, limits))
        return found


def describe_findings(findings: Sequence[Finding], *, dates: Collection[str]) -> str:
    """One sentence of all findings.

    Args:
        findings: At least one.
        dates: Columns of dates, whose values are seconds since 1970.
    """
    told = [_describe(finding, is_date=finding.column in dates) for finding in findings]
    more = len(told) - MAX_TOLD
    rest = [f"and {counted(more, 'more column')}"] if more > 0 else []
    return (
        f"Training saw nothing like this: {'; '.join([*told[:MAX_TOLD], *rest])}. "
        "Predictions for such rows are guesses."
    )


def _describe(finding: Finding, *, is_date: bool) -> str:
    rows = counted(finding.num_rows, "row")
    match finding.kind:
        case "missing_throughout":
            return f"{finding.column!r} is missing in all {rows}, and in none of training"
        case "unknown_category":
            return (
                f"{finding.column!r} holds categories that the model does not know in {rows}, "
                f"such as {finding.example!r}"
            )
        case "far_outside":
            least, largest = finding.range or (0.0, 0.0)
            example = float(finding.example or 0.0)
            low, high, odd = (_show(value, is_date=is_date) for value in (least, largest, example))
            return (
                f"{finding.column!r} is far outside the {low} to {high} of training in {rows}, "
                f"such as {odd}"
            )


def _show(value: float, *, is_date: bool) -> str:
    from dnnjob.data.schema import show_date

    return show_date(value) if is_date else f"{value:g}"


def _count_unknown(count: _Count, column: Texts, known: set[str]) -> None:
    unknown = np.array([text not in known for text in column.values] + [False])[column.codes]
    count.num_odd += int(unknown.sum())
    if count.example is None and unknown.any():
        count.example = column.values[column.codes[unknown.argmax()]]


def _count_far(count: _Count, values: FloatArray, seen: TrainedColumn) -> None:
    if seen.minimum is None or seen.maximum is None:
        return
    width = (seen.maximum - seen.minimum) or abs(seen.maximum) or 1.0
    far = (values < seen.minimum - width) | (values > seen.maximum + width)
    count.num_odd += int(far.sum())
    if count.example is None and far.any():
        count.example = float(values[far.argmax()])
