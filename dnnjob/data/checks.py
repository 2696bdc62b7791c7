"""Whether a job can train on a table's columns, from their values or from one pass over them.

warnings = check_values(job.data, features, target)         # of a table in memory
warnings = check_totals(job.data, kinds, totals, differing)
"""

import logging
from collections.abc import Iterable, Mapping, Sequence

from dnnjob.alike import ALIKE
from dnnjob.config.job import DataConfig
from dnnjob.data.encoding import FeatureKind
from dnnjob.data.schema import (
    FLOAT32_MAX,
    Column,
    ColumnData,
    check_features,
    check_target,
    check_weights,
    is_a_number,
    lack_of_target,
    listed,
)
from dnnjob.data.totals import NumberTotals, Totals
from dnnjob.data.weaknesses import (
    facts_of_totals,
    facts_of_values,
    find_weaknesses,
)
from dnnjob.errors import DataError

logger = logging.getLogger(__name__)


def check_values(
    data: DataConfig,
    features: Sequence[ColumnData],
    target: ColumnData,
    *,
    is_sample: bool = False,
    doubts: Iterable[str] = (),
) -> tuple[str, ...]:
    """Checks that a job can train on these columns; its warnings, also logged.

    Args:
        data: What the job says.
        features: The columns to predict from.
        target: The column to predict.
        is_sample: Whether the table has further rows: what these may cure is warned about.
        doubts: Warnings of how the columns were read.

    Raises:
        DataError: If there are too few rows, or the target or features cannot be used.
    """
    doubts = list(doubts)
    _check_columns(data, features, target, is_sample=is_sample)
    lack = lack_of_target(target) if is_sample else None
    doubts += [] if lack is None else [_doubt(data, target.num_rows, lack)]
    facts = [facts_of_values(feature, target.numbers) for feature in features]
    weaknesses = find_weaknesses(data, facts, facts_of_values(target, target.numbers))
    return _warn(data, [*doubts, *weaknesses])


def check_totals(
    data: DataConfig,
    kinds: Mapping[str, FeatureKind],
    totals: Mapping[str, Totals],
    differing: frozenset[str],
    doubts: Iterable[str] = (),
) -> tuple[str, ...]:
    """The same from the totals of the columns.

    Args:
        data: What the job says.
        kinds: What the features hold.
        totals: Of all rows of each column.
        differing: Features that differ from the target somewhere.
        doubts: Warnings of how the columns were read.

    Raises:
        DataError: If there are too few rows, or target, features or weights cannot be used.
    """
    columns = {
        name: ColumnData(describe_totals(name, kinds.get(name, "numeric"), found), found.num_rows)
        for name, found in totals.items()
    }
    features, target = [columns[name] for name in kinds], columns[data.target]
    _refuse_beyond_float32(data, [*features, target])
    _check_columns(data, features, target)
    if data.weight_column is not None:
        check_weights(data.source, columns[data.weight_column])
    facts = {
        name: facts_of_totals(columns[name].column, found, is_target=name not in differing)
        for name, found in totals.items()
    }
    weaknesses = find_weaknesses(data, [facts[name] for name in kinds], facts[data.target])
    return _warn(data, [*doubts, *weaknesses])


def describe_totals(name: str, kind: FeatureKind, found: Totals) -> Column:
    """What a column holds that passed by."""
    if not isinstance(found, NumberTotals):
        words = {text: count for text, count in found.counts.items() if not is_a_number(text)}
        return Column(
            name,
            kind,
            num_missing=found.num_missing,
            num_text=sum(words.values()),
            num_values=len(found.counts) + found.num_uncounted,
            example=next(iter(words), None),
        )
    return Column(
        name,
        kind,
        num_missing=found.num_missing,
        num_infinite=found.num_infinite,
        minimum=found.minimum if found.num_finite else None,
        maximum=found.maximum if found.num_finite else None,
    )


def _check_columns(
    data: DataConfig,
    features: Sequence[ColumnData],
    target: ColumnData,
    *,
    is_sample: bool = False,
) -> None:
    if target.num_rows < 2:
        raise DataError(
            f"A split needs at least 2 rows, but {data.source} has {target.num_rows}. "
            "Add rows, or point data.source elsewhere."
        )
    check_target(data.source, target, is_sample=is_sample)
    minimum = target.column.minimum
    if data.target_transform == "log1p" and minimum is not None and minimum <= -1:
        raise DataError(
            f"log(1 + target) needs targets above -1, but {data.target!r} in {data.source} goes "
            f'down to {minimum:g}. Set data.target_transform = "none", or shift the target.'
        )
    check_features(data.source, features)


def _refuse_beyond_float32(data: DataConfig, columns: Sequence[ColumnData]) -> None:
    beyond = [
        one.column.name
        for one in columns
        if one.column.is_number
        and max(abs(one.column.minimum or 0.0), abs(one.column.maximum or 0.0)) > FLOAT32_MAX
    ]
    if beyond:
        raise DataError(
            f"Numbers must be within the range of float32 (3.4e38), but {listed(beyond)} in "
            f"{data.source} go beyond. Change their unit, or set data.features to others."
        )


def _doubt(data: DataConfig, num_rows: int, lack: str) -> str:
    return (
        f"the target must be numbers that vary, but of {data.target!r} in the {num_rows} rows "
        f"looked at {lack}. If the others are alike, a run will refuse the table."
    )


def _warn(data: DataConfig, found: Iterable[str]) -> tuple[str, ...]:
    warnings = tuple(found)
    for warning in warnings:
        logger.warning("%s: %s", data.source, warning, extra=ALIKE)
    return warnings
