"""Whether a job can train on a table's columns, from one pass over them.

warnings = check_totals(job.data, kinds, totals, survey)
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from dnnjob.config.data_section import DataConfig
from dnnjob.data.data_warnings import facts_of_totals, find_weaknesses, tell_twins
from dnnjob.data.encoding import FeatureKind
from dnnjob.data.running_statistics import NumberTotals, Totals
from dnnjob.data.schema import (
    Column,
    ColumnData,
    check_features,
    check_target,
    check_weights,
    is_a_number,
    lack_of_target,
)
from dnnjob.data.statistics_pass import Survey
from dnnjob.errors import DataError


def check_totals(
    data: DataConfig,
    kinds: Mapping[str, FeatureKind],
    totals: Mapping[str, Totals],
    survey: Survey,
    *,
    is_sample: bool = False,
    doubts: Iterable[tuple[str, str]] = (),
) -> tuple[str, ...]:
    """Checks that a job can train on columns of these totals; returns its warnings.

    Args:
        data: What the job says.
        kinds: What the features hold.
        totals: Of all rows of each column.
        survey: What else the pass found.
        is_sample: Whether the table has further rows: what these may cure is warned about.
        doubts: Columns, and warnings of how they were read.

    Raises:
        DataError: If there are too few rows, or target, features or weights cannot be used.
    """
    columns = {
        name: ColumnData(describe_totals(name, kinds.get(name, "numeric"), found), found.num_rows)
        for name, found in totals.items()
    }
    target = columns[data.target]
    # Of a column that tells nothing nobody needs to know how it was read.
    doubts = [(name, told) for name, told in doubts if not columns[name].column.is_constant]
    _check_columns(data, [columns[name] for name in kinds], target, is_sample=is_sample)
    if data.weight_column is not None:
        check_weights(data.source, columns[data.weight_column], is_sample=is_sample)
    lack = lack_of_target(target) if is_sample else None
    lacks = [] if lack is None else [_doubt(data, target.num_rows, lack)]
    facts = {
        name: facts_of_totals(
            columns[name].column,
            found,
            is_target=name not in survey.differing,
            is_near_target=name in survey.near_copies,
            are_different=name in survey.different,
        )
        for name, found in totals.items()
    }
    for name, _ in doubts:
        # What cures how it was read cures these as well.
        is_id = facts[name].is_id and facts[name].column.kind != "text"
        facts[name] = replace(
            facts[name], most_frequent=0, is_id=is_id, is_narrow=False, is_told=True
        )
    weaknesses = find_weaknesses(data, [facts[name] for name in kinds], facts[data.target])
    return (*(told for _, told in doubts), *lacks, *weaknesses, *tell_twins(survey.twins))


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
        num_beyond=found.num_beyond,
    )


def _check_columns(
    data: DataConfig,
    features: Sequence[ColumnData],
    target: ColumnData,
    *,
    is_sample: bool,
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


def _doubt(data: DataConfig, num_rows: int, lack: str) -> str:
    return (
        f"the target must be numbers that vary, but of {data.target!r} in the {num_rows} rows "
        f"looked at {lack}. If the others are alike, a run will refuse the table."
    )
