"""What training on a table can live with and a person should know, from one pass over it.

facts = facts_of_totals(column, totals, is_target=False)
for warning in find_weaknesses(job.data, [facts, ...], target_facts): ...
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dnnjob.config.data_section import DataConfig, name_missing
from dnnjob.data.resemblance import TwinCount
from dnnjob.data.running_statistics import NumberTotals, Totals
from dnnjob.data.schema import FLOAT32_TINY, Column, is_a_number, listed

# Of four numbers in a row one in twelve rises or falls throughout, of six one in 360.
_MOST_CHANCE_STEPS = 4
# A float32 keeps 24 bits: below this spread a column would keep fewer than about 100 levels.
NARROW_SPREAD = 1e-5
# Of fewer rows many a column counts upwards.
LEAST_NUMBERED_ROWS = 20
_NINES = re.compile(r"-9+|99+")
_LEAST_SENTINELS = 3
_FRACTION = re.compile(r"[+-]?(\d+[ -]?)?(\d+\s*[/\u2044]\s*\d+|[\u00bc-\u00be\u2150-\u215e])")
# Where the middle half of the others takes less of their range, large values thin out, and the
# largest may be far out: what seldom is beyond so many of those ranges.
_LONG_TAIL, _TAIL_RANGES = 1 / 20, 20
ID_NAME = re.compile(r"(^|[^a-z])(id|key|index|nr|no|row|number|uuid)s?($|[^a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class Sentinel:
    """A number that stands far outside the others of a column, again and again.

    Attributes:
        value: The number.
        num_rows: Rows that hold it, of a long table about.
        minimum: Of the others.
        maximum: Of the others.
    """

    value: float
    num_rows: int
    minimum: float
    maximum: float


@dataclass(frozen=True)
class ColumnFacts:
    """A column, and what its values tell.

    Attributes:
        column: What it holds.
        num_rows: Its length.
        most_frequent: Rows of its most frequent text; 0 for numbers.
        is_target: Whether it equals the target wherever both are known.
        is_near_target: Whether it is nearly a linear function of the target.
        is_id: Whether another value is in each row, as in one that numbers or names the rows.
        is_narrow: Whether a varying column's standard deviation is lost in float32.
        is_told: Whether it has been told that its values may be no texts.
        sentinel: A number that may stand for a gap.
    """

    column: Column
    num_rows: int
    most_frequent: int = 0
    is_target: bool = False
    is_near_target: bool = False
    is_id: bool = False
    is_narrow: bool = False
    is_told: bool = False
    sentinel: Sentinel | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no row has a value."""
        return self.column.num_missing == self.num_rows

    @property
    def is_nearly_numeric(self) -> bool:
        """Whether most of its texts are numbers."""
        num_present = self.num_rows - self.column.num_missing
        is_text = self.column.kind == "text" and not self.is_told
        return is_text and 0 < self.column.num_text <= num_present / 2

    @property
    def is_numeric_text(self) -> bool:
        """Whether all of its texts are numbers, as in Parquet files."""
        return self.column.kind == "text" and not (self.is_empty or self.column.num_text)


def facts_of_totals(
    column: Column,
    found: Totals,
    *,
    is_target: bool,
    is_near_target: bool = False,
    are_different: bool = False,
) -> ColumnFacts:
    """Of a column.

    Args:
        column: What it holds.
        found: Of all its rows.
        is_target: Whether it differs from the target in no row.
        is_near_target: Whether it is nearly a linear function of the target.
        are_different: Whether no value of a column named as an id has been seen twice.
    """
    if not isinstance(found, NumberTotals):
        return ColumnFacts(
            column,
            found.num_rows,
            most_frequent=max(found.counts.values(), default=0),
            is_id=_differ_all(found.num_rows, column.num_values),
        )
    is_target = is_target and column.is_number and found.num_finite > 0
    return ColumnFacts(
        column,
        found.num_rows,
        is_target=is_target,
        is_near_target=is_near_target and not is_target,
        is_id=column.kind == "numeric"
        and _tells_rows_apart(column.name, found, are_different=are_different),
        is_narrow=column.is_number and _is_narrow(found),
        sentinel=find_sentinel(found) if column.kind == "numeric" else None,
    )


def find_sentinel(found: NumberTotals) -> Sentinel | None:
    """The least or the largest number, if all its digits are nines and a gap may be meant by it."""
    for end in (found.minimum, found.maximum):
        if not _NINES.fullmatch(f"{end:.15g}"):
            continue
        values, weights = found.sketch.samples()
        is_end = values == end
        others, num_rows = values[~is_end], int(weights[is_end].sum())
        if not len(others) or not _LEAST_SENTINELS <= num_rows <= found.num_finite / 2:
            continue
        minimum, maximum = float(others.min()), float(others.max())
        # Farther from the others than these are from each other.
        reach = maximum - minimum
        if end > maximum:
            low, high = np.quantile(others, [0.25, 0.75])
            reach *= _TAIL_RANGES if high - low < _LONG_TAIL * reach else 1
        if min(abs(end - minimum), abs(end - maximum)) > reach:
            return Sentinel(end, num_rows, minimum, maximum)
    return None


def _differ_all(num_rows: int, num_values: int) -> bool:
    return num_rows == num_values and num_rows >= LEAST_NUMBERED_ROWS


def _tells_rows_apart(name: str, found: NumberTotals, *, are_different: bool) -> bool:
    """Whether another whole number is in each row, by its name an id, or 1 and on."""
    num_rows = float(found.num_rows)
    counts_up = found.maximum - found.minimum == num_rows - 1
    if found.num_finite < max(found.num_rows, LEAST_NUMBERED_ROWS) or not (
        counts_up or ID_NAME.search(name)
    ):
        return False
    if are_different:
        return True
    values, weights = found.sketch.samples()
    differ = len(np.unique(values)) == len(values)
    if not (differ and np.equal(np.mod(values, 1), 0).all()):
        return False
    # Of more rows a sample alone is known; numbers from 1 on tell by their spread as well.
    deviation = num_rows * (num_rows**2 - 1) / 12
    return not (weights > 1).any() or (
        counts_up and math.isclose(found.squared_deviation, deviation, rel_tol=1e-9)
    )


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
    if ids := [f.column.name for f in features if f.is_id]:
        yield (
            f"{listed(ids)} {_each(ids, 'has', 'have')} another value in each of "
            f"{target.num_rows} rows, as ids, which tells nothing of new rows. "
            f"{_name_ids(ids)}"
        )
    if rare := [
        f.column.name
        for f in features
        if 0 < f.most_frequent < data.min_category_rows and not f.is_id
    ]:
        yield (
            f"every text of {listed(rare)} is in fewer than {data.min_category_rows} rows, which "
            f"tells nothing. Leave {_each(rare, 'it', 'them')} out of data.features, or lower "
            "data.min_category_rows."
        )
    yield from _odd_values(data, features, target)
    if leaks := [f.column.name for f in features if f.is_target]:
        yield (
            f"{listed(leaks)} {_each(leaks, 'equals', 'equal')} the target {target.column.name} in "
            f"every row: {_leak(leaks)}"
        )
    if near := [f.column.name for f in features if f.is_near_target]:
        yield (
            f"{listed(near)} {_each(near, 'is', 'are')} nearly the target {target.column.name}, up "
            f"to scale and offset: {_leak(near)}"
        )
    yield from _weak_forms(features, target)


def _odd_values(
    data: DataConfig, features: Sequence[ColumnFacts], target: ColumnFacts
) -> Iterator[str]:
    """Texts that may be numbers, and numbers that may be gaps."""
    said = {name for name, column in data.columns.items() if column.kind is not None}
    for feature in (feature for feature in features if feature.column.name not in said):
        if feature.is_numeric_text:
            name = feature.column.name
            yield (
                f"{name} is taken for text, as the file has it, but all of its texts are numbers. "
                f'If it is one, set data.columns.{name}.kind = "numeric"; if not, "text".'
            )
        if feature.is_nearly_numeric:
            column, example = feature.column, str(feature.column.example)
            yield (
                f"{column.name} is taken for text, since {column.num_text} of {feature.num_rows} "
                f"rows hold no number, such as {example[:40]!r}. {_cure(example, data)}"
            )
    for feature in (*features, target):
        if (sentinel := feature.sentinel) is not None:
            yield (
                f"{feature.column.name} holds {sentinel.value:.15g} in {sentinel.num_rows:,} of "
                f"{feature.num_rows:,} rows, far outside its other values ({sentinel.minimum:g} to "
                f"{sentinel.maximum:g}). If that stands for a gap, leave these cells empty in "
                f"the file, or name it, as the file writes it, in {name_missing(data.missing)}."
            )


def _cure(example: str, data: DataConfig) -> str:
    """What to do about a text among numbers."""
    if _FRACTION.fullmatch(example):
        return "If these are numbers, write them with a decimal mark in the file."
    return (
        f"If that stands for a gap, name it in {name_missing(data.missing)}; if for a number, "
        "write it as one in the file."
    )


def _each(names: Sequence[str], one: str, several: str) -> str:
    return one if len(names) == 1 else several


def _name_ids(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"If it is one, set data.id_columns = {json.dumps(names)}."
    return "Those that are belong in data.id_columns."


def _leak(names: Sequence[str]) -> str:
    it, they = _each(names, "it is", "they are"), _each(names, "it", "them")
    what = _each(names, "a leak", "leaks")
    return f"{what}, unless {it} known before the target is. Leave {they} out of data.features."


def tell_twins(found: TwinCount) -> Iterator[str]:
    """That held-out rows equal training rows."""
    told = [
        f"{shared:,} of {held_out:,} {name} rows"
        for name, shared, held_out in zip(
            ("validation", "test"), found.shared, found.held_out, strict=True
        )
        if shared
    ]
    if not told:
        return
    sampled = "" if found.one_of == 1 else f" in a sample of one row in {found.one_of:,}"
    yield (
        f"{' and '.join(told)} equal a training row in all features and the target{sampled}, which "
        "makes their errors too small. If rows were recorded twice, drop one of each; if not, keep "
        'what belongs together on one side: data.split = "group".'
    )


def _weak_forms(features: Sequence[ColumnFacts], target: ColumnFacts) -> Iterator[str]:
    if narrow := [f.column.name for f in (*features, target) if f.is_narrow]:
        yield (
            f"float32 cannot hold the differences within {listed(narrow)}: they are below "
            f"{NARROW_SPREAD:g} of the magnitude, or below {FLOAT32_TINY:.1g}. Subtract an offset, "
            "or change the unit."
        )
    names = [f.column.name for f in (*features, target)]
    if all(is_a_number(name) for name in names) and not (_are_places(names) or _rise(names[:-1])):
        yield (
            f"the names of the columns are numbers: {listed(names)}. If the first line is a row, "
            "add a line with names above it."
        )
    if unnamed := [f.column.name for f in features if f.column.name.startswith("Unnamed: ")]:
        yield (
            f"the header leaves columns without a name: {listed(unnamed)}. If they number the "
            "rows, leave them out of data.features."
        )


def _are_places(names: Sequence[str]) -> bool:
    """Whether the names count the columns, as pandas writes where none are given."""
    return all(name.isdecimal() for name in names) and (
        max(map(int, names)) - min(map(int, names)) <= 2 * len(names)
    )


def _rise(names: Sequence[str]) -> bool:
    """Whether the names are a scale, such as years or wavelengths: a row of so many hardly is."""
    steps = np.diff([float(name) for name in names])
    return len(steps) > _MOST_CHANCE_STEPS and bool((steps > 0).all() or (steps < 0).all())


def _is_narrow(found: NumberTotals) -> bool:
    if found.minimum >= found.maximum:
        return False
    spread = float(np.sqrt(found.squared_deviation / found.num_finite))
    return spread < NARROW_SPREAD * max(-found.minimum, found.maximum) or spread < FLOAT32_TINY
