"""Columns and target of an encoding, fitted to statistics of the rows that scale the inputs.

columns = fit_columns(job.data, kinds, statistics)           # from ColumnStatistics by name
target = fit_target(job.data, raw=raw, transformed=transformed, trained=trained)
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, assert_never

from dnnjob.config.data_section import ColumnConfig, DataConfig
from dnnjob.data.encoding import (
    MISSING,
    QUANTILE_SHARES,
    ROBUST_MODES,
    SECONDS_A_DAY,
    CategoryColumn,
    ColumnEncoding,
    ColumnStatistics,
    DateColumn,
    FeatureKind,
    NumberColumn,
    TargetEncoding,
)
from dnnjob.errors import DataError

# A float32 holds every integer up to here.
MAX_CODE = 2**24
# sqrt of the number of categories, up to here.
MAX_EMBEDDING_UNITS = 32


def fit_columns(
    data: DataConfig,
    kinds: Mapping[str, FeatureKind],
    statistics: Mapping[str, ColumnStatistics],
) -> tuple[ColumnEncoding, ...]:
    """How each column becomes inputs, in the order of `kinds`.

    Args:
        data: What the job says of columns and categories.
        kinds: What the features hold.
        statistics: Of the rows that `data.standardize` names; of the training rows for "none".

    Raises:
        DataError: If integer codes are no integers, or too large.
    """
    return tuple(_fit_column(data, name, kind, statistics[name]) for name, kind in kinds.items())


def fit_target(
    data: DataConfig,
    *,
    raw: ColumnStatistics,
    transformed: ColumnStatistics,
    trained: ColumnStatistics,
) -> TargetEncoding:
    """What the network learns of the target.

    Args:
        data: What the job says of it.
        raw: Of the target in its own units, of the rows that scale it.
        transformed: Of the same rows after `transform_target`.
        trained: As `raw`, of the training rows alone.
    """
    scaled = data.standardize != "none"
    return TargetEncoding(
        name=data.target,
        transform=data.target_transform,
        mean=_mean(transformed) if scaled else 0.0,
        std=_std(transformed) if scaled else 1.0,
        raw_std=_std(raw) if scaled else None,
        bounds=(trained.minimum, trained.maximum) if data.target_range == "trained" else None,
    )


def _fit_column(
    data: DataConfig, name: str, kind: FeatureKind, found: ColumnStatistics
) -> ColumnEncoding:
    wanted = data.column(name)
    scaled = data.standardize != "none"
    match kind:
        case "numeric" | "boolean":
            return NumberColumn(
                name=name,
                fill=_fill(wanted, found),
                indicator=0 < found.num_missing < found.num_rows,
                mean=_centre(data, found) if scaled else 0.0,
                std=_spread(data, found) if scaled else 1.0,
                quantiles=() if wanted.encoding == "plain" else found.quantiles,
                beside=_beside(data, found),
            )
        case "datetime":
            middle = 0.0 if found.is_empty else found.median
            day = math.floor(middle / SECONDS_A_DAY)
            fill = _mean(found) if wanted.fill == "mean" else middle
            return DateColumn(
                name=name,
                reference_day=day,
                fill=fill / SECONDS_A_DAY - day,
                indicator=0 < found.num_missing < found.num_rows,
                mean=_mean(found) / SECONDS_A_DAY - day if scaled and not found.is_empty else 0.0,
                std=_std(found) / SECONDS_A_DAY if scaled and not is_constant(found) else 1.0,
                cycles=wanted.cycles,
            )
        case "text" | "codes":
            return _fit_categories(data, name, kind, found)
        case _:
            assert_never(kind)


def _fill(wanted: ColumnConfig, found: ColumnStatistics) -> float:
    if isinstance(wanted.fill, float):
        return wanted.fill
    if found.is_empty:
        return 0.0
    return found.mean if wanted.fill == "mean" else found.median


def _mean(found: ColumnStatistics) -> float:
    if found.is_empty:
        return 0.0
    # Rounding of the mean leaves a constant 0.1 with a z-score of 1e-17 otherwise.
    return found.minimum if is_constant(found) else found.mean


def _std(found: ColumnStatistics) -> float:
    return 1.0 if is_constant(found) else math.sqrt(found.variance)


def _centre(data: DataConfig, found: ColumnStatistics) -> float:
    """What is subtracted of a number."""
    return found.median if _is_robust(data, found) else _mean(found)


def _spread(data: DataConfig, found: ColumnStatistics) -> float:
    """What a number is divided by: without a distance of its quartiles, half its range."""
    if not _is_robust(data, found):
        return _std(found)
    lower, upper = (found.quantiles[QUANTILE_SHARES.index(share)] for share in (0.25, 0.75))
    return upper - lower or (found.maximum - found.minimum) / 2


def _is_robust(data: DataConfig, found: ColumnStatistics) -> bool:
    return data.standardize in ROBUST_MODES and not is_constant(found)


def _beside(data: DataConfig, found: ColumnStatistics) -> tuple[float, float] | None:
    """What makes the z-score beside a robust score; None where it would tell nothing more."""
    # Of two values one score is the other's line.
    if data.standardize != "both" or len(set(found.quantiles)) <= 2:
        return None
    return _mean(found), _std(found)


def is_constant(found: ColumnStatistics) -> bool:
    """Whether the rows hold one value at most, gaps apart."""
    if found.counts or found.num_uncounted:
        return len(found.counts) == 1 and not found.num_uncounted
    return found.is_empty or found.minimum == found.maximum


def _fit_categories(
    data: DataConfig, name: str, kind: Literal["text", "codes"], found: ColumnStatistics
) -> CategoryColumn:
    counts = dict(found.counts)
    if found.num_missing:
        counts[MISSING] = found.num_missing
    if kind == "codes":
        _check_codes(name, [value for value in counts if value != MISSING])
    kept = [value for value, count in counts.items() if count >= data.min_category_rows]
    # The most frequent first, ties by their text, so that the order of rows does not show.
    kept.sort(key=lambda value: (-counts[value], value))
    del kept[data.max_categories :]
    return CategoryColumn(
        name=name,
        kind=kind,
        values=tuple(kept),
        others_trained=len(kept) < len(counts) or found.num_uncounted > 0,
        units=_embedding_units(data, name, num_values=len(kept)),
    )


def most_inputs(data: DataConfig, name: str, kind: FeatureKind) -> int:
    """Inputs that a column may become, known before a row is read.

    Numbers count as where they have no gaps.
    """
    config = data.column(name)
    match kind:
        case "numeric" | "boolean":
            return 2 if data.standardize == "both" else 1
        case "datetime":
            return 2 + 2 * len(config.cycles)
        case "codes" | "text":
            one_hot = data.max_categories if config.encoding == "one_hot" else data.max_one_hot
            return 1 if config.encoding == "embedding" else 1 + min(one_hot, data.max_categories)
        case _:
            assert_never(kind)


def _embedding_units(data: DataConfig, name: str, *, num_values: int) -> int | None:
    encoding = data.column(name).encoding
    if encoding == "plain":
        raise DataError(
            f"Plain is for numbers, but {name!r} holds categories. Set "
            f'data.columns.{name}.encoding = "one_hot" or "embedding", or leave it out.'
        )
    if encoding == "one_hot" or (encoding == "auto" and num_values <= data.max_one_hot):
        return None
    return min(MAX_EMBEDDING_UNITS, math.ceil(math.sqrt(num_values + 1)))


def _check_codes(name: str, values: Sequence[str]) -> None:
    wrong = [value for value in values if not is_code(value)]
    if wrong:
        raise DataError(
            f"Integer codes must be whole numbers of at most {MAX_CODE:,}, but {name!r} holds "
            f'{wrong[0][:40]!r}. Set data.columns.{name}.kind = "text", which takes any value.'
        )


def is_code(text: str) -> bool:
    """Whether a text is an integer that float32 holds exactly."""
    try:
        return abs(int(text)) <= MAX_CODE
    except ValueError:
        return False
