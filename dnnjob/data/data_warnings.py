"""What training on a table can live with and a person should know, from one pass over it.

facts = facts_of_totals(column, totals, is_target=False)
for warning in find_weaknesses(job.data, [facts, ...], target_facts): ...
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dnnjob.config.job import DataConfig
from dnnjob.data.running_statistics import NumberTotals, Totals
from dnnjob.data.schema import FLOAT32_TINY, Column, listed

# A float32 keeps 24 bits: below this spread a column would keep fewer than about 100 levels.
NARROW_SPREAD = 1e-5


@dataclass(frozen=True)
class ColumnFacts:
    """A column, and what its values tell.

    Attributes:
        column: What it holds.
        num_rows: Its length.
        most_frequent: Rows of its most frequent text; 0 for numbers.
        is_target: Whether it equals the target wherever both are known.
        is_narrow: Whether a varying column's standard deviation is lost in float32.
    """

    column: Column
    num_rows: int
    most_frequent: int = 0
    is_target: bool = False
    is_narrow: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether no row has a value."""
        return self.column.num_missing == self.num_rows

    @property
    def is_nearly_numeric(self) -> bool:
        """Whether most of its texts are numbers."""
        num_present = self.num_rows - self.column.num_missing
        return self.column.kind == "text" and 0 < self.column.num_text <= num_present / 2

    @property
    def is_numeric_text(self) -> bool:
        """Whether all of its texts are numbers, as in Parquet files."""
        return self.column.kind == "text" and not (self.is_empty or self.column.num_text)


def facts_of_totals(column: Column, found: Totals, *, is_target: bool) -> ColumnFacts:
    """Of a column; `is_target` if it differs from the target in no row."""
    if not isinstance(found, NumberTotals):
        return ColumnFacts(
            column, found.num_rows, most_frequent=max(found.counts.values(), default=0)
        )
    is_target = is_target and column.is_number and found.num_finite > 0
    is_narrow = column.is_number and _is_narrow(found)
    return ColumnFacts(column, found.num_rows, is_target=is_target, is_narrow=is_narrow)


def find_weaknesses(
    data: DataConfig, features: Sequence[ColumnFacts], target: ColumnFacts
) -> Iterator[str]:
    """Each of them, as a sentence."""
    if unlabelled := target.column.num_missing:
        yield (
            f"{target.column.name} is missing in {unlabelled} of {target.num_rows} rows: they are "
            "predicted, not trained on."
        )
    if empty := [f.column.name for f in features if f.is_empty]:
        yield f"features without any value tell nothing: {listed(empty)}."
    if constant := [f.column.name for f in features if f.column.is_constant]:
        yield f"constant features tell nothing: {listed(constant)}."
    if rare := [f.column.name for f in features if 0 < f.most_frequent < data.min_category_rows]:
        yield (
            f"every text of {listed(rare)} is in fewer than {data.min_category_rows} rows, which "
            "tells nothing. Leave it out of data.features, or lower data.min_category_rows."
        )
    said = {name for name, column in data.columns.items() if column.kind is not None}
    for feature in (feature for feature in features if feature.column.name not in said):
        if feature.is_numeric_text:
            name = feature.column.name
            yield (
                f"{name} is taken for text, as the file has it, but all of its texts are numbers. "
                f'If it is one, set data.columns.{name}.kind = "numeric"; if not, "text".'
            )
        if feature.is_nearly_numeric:
            column = feature.column
            yield (
                f"{column.name} is taken for text, since {column.num_text} of {feature.num_rows} "
                f"rows hold no number, such as {str(column.example)[:40]!r}. If that stands for a "
                "gap, name it in data.missing."
            )
    if leaks := [f.column.name for f in features if f.is_target]:
        yield (
            f"{listed(leaks)} equals the target {target.column.name} in every row: a leak, unless "
            "it is known before the target is. Leave it out of data.features."
        )
    yield from _weak_forms(features, target)


def _weak_forms(features: Sequence[ColumnFacts], target: ColumnFacts) -> Iterator[str]:
    if narrow := [f.column.name for f in (*features, target) if f.is_narrow]:
        yield (
            f"float32 cannot hold the differences within {listed(narrow)}: they are below "
            f"{NARROW_SPREAD:g} of the magnitude, or below {FLOAT32_TINY:.1g}. Subtract an offset, "
            "or change the unit."
        )
    if unnamed := [f.column.name for f in features if f.column.name.startswith("Unnamed: ")]:
        yield (
            f"the header leaves columns without a name: {listed(unnamed)}. If they number the "
            "rows, leave them out of data.features."
        )


def _is_narrow(found: NumberTotals) -> bool:
    if found.minimum >= found.maximum:
        return False
    spread = float(np.sqrt(found.squared_deviation / found.num_finite))
    return spread < NARROW_SPREAD * max(-found.minimum, found.maximum) or spread < FLOAT32_TINY
