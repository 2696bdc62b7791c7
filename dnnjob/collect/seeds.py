"""Seeds together: one line for each setting of a job, over its seeds and splits.

settings = make_settings(table, keys=["job.train.learning_rate"])
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dnnjob.collect.collected_table import resolve_column, varying_keys
from dnnjob.collect.paired import PairedDifference, measure_difference
from dnnjob.collect.ranking import HELD_OUT, RANKINGS, choose_ranking
from dnnjob.errors import JobError

Values = tuple[Any, ...]
UNFINISHED = ("CREATED", "RUNNING", "REQUEUED")
MEASURES = pa.schema(
    [
        pa.field("best", pa.bool_()),
        pa.field("test_mse_mean", pa.float64()),
        pa.field("test_mse_std", pa.float64()),
        pa.field("test_mse_min", pa.float64()),
        pa.field("num_runs", pa.int64()),
        pa.field("num_scored", pa.int64()),
        pa.field("num_failed", pa.int64()),
        pa.field("num_unfinished", pa.int64()),
        pa.field("next_difference", pa.float64()),
        pa.field("next_difference_low", pa.float64()),
        pa.field("next_difference_high", pa.float64()),
        pa.field("next_num_pairs", pa.int64()),
        pa.field("validation_mse_mean", pa.float64()),
        pa.field("validation_mse_std", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Setting:
    """The runs that share the values of the keys."""

    values: Values
    lines: tuple[dict[str, Any], ...]

    def errors(self, metric: str) -> list[float]:
        """The metric of the runs that have it."""
        return [line[metric] for line in self.lines if line[metric] is not None]

    def mean(self, metric: str) -> float | None:
        """Mean of the metric, None if no run has it."""
        errors = self.errors(metric)
        return float(np.mean(errors)) if errors else None

    def std(self, metric: str) -> float | None:
        """Standard deviation of the metric over the runs, None of fewer than two."""
        errors = self.errors(metric)
        return float(np.std(errors, ddof=1)) if len(errors) > 1 else None

    def errors_by_split(self, metric: str) -> dict[Values, float]:
        """Mean of the metric on each split."""
        groups = defaultdict(list)
        for line in self.lines:
            if line[metric] is not None:
                groups[tuple(line.get(name) for name in HELD_OUT)].append(line[metric])
        return {split: float(np.mean(errors)) for split, errors in groups.items()}


def setting_keys(table: pa.Table, by: str = "") -> list[str]:
    """The columns of a comma-separated list; without any, all that vary but the seeds.

    Raises:
        JobError: If there is no such column.
    """
    if by.strip():
        names = [name.strip() for name in by.split(",") if name.strip()]
        return list(dict.fromkeys(resolve_column(table, name) for name in names))
    names = pc.drop_null(pc.unique(table["name"]))
    return [*(["name"] if len(names) > 1 else []), *varying_keys(table)]


def make_settings(table: pa.Table, keys: Sequence[str]) -> pa.Table:
    """A line for each setting, least mean error first, each set against the next.

    The error is the validation MSE where runs have it, else the test MSE, as for runs.
    `next_difference` is the mean of it minus the next one's over the splits that both
    have runs on, negative where it is better, with the interval of 95 % confidence that
    independent splits would give; random splits of one table overlap, which makes it optimistic.

    Raises:
        JobError: If a key is one of the table's measures.
    """
    if taken := set(keys) & set(MEASURES.names):
        raise JobError(f"--by takes columns that tell runs apart, but got {', '.join(taken)}.")
    metric = choose_ranking(table)
    settings = sorted(_group(table, keys), key=partial(_rank, metric))
    measures = [_measure(*pair, metric=metric) for pair in zip_longest(settings, settings[1:])]
    if measures and measures[0][f"{metric}_mean"] is not None:
        measures[0]["best"] = True
    columns = [
        pa.array([setting.values[i] for setting in settings], table.schema.field(key).type)
        for i, key in enumerate(keys)
    ]
    measured = pa.Table.from_pylist(measures, schema=MEASURES)
    return pa.Table.from_arrays(
        [*columns, *measured.columns], names=[*keys, *measured.column_names]
    )


def _group(table: pa.Table, keys: Sequence[str]) -> list[Setting]:
    needed = dict.fromkeys([*keys, *RANKINGS, "state", "path", *HELD_OUT])
    groups: dict[Values, list[dict[str, Any]]] = defaultdict(list)
    # Of a folder without a state no setting is known.
    known = table.filter(pc.is_valid(table["state"]))
    for line in known.select(list(needed)).to_pylist():
        groups[tuple(line[key] for key in keys)].append(line)
    return [Setting(values, tuple(lines)) for values, lines in groups.items()]


def _rank(metric: str, setting: Setting) -> tuple[bool, float, str]:
    mean = setting.mean(metric)
    return mean is None, mean or 0.0, str(setting.values)


def _measure(mine: Setting, rival: Setting | None, *, metric: str) -> dict[str, Any]:
    errors, states = mine.errors("test_mse"), [line["state"] for line in mine.lines]
    paired = None if rival is None else _compare(mine, rival, metric)
    return {
        "best": False,
        "test_mse_mean": mine.mean("test_mse"),
        "test_mse_std": mine.std("test_mse"),
        "test_mse_min": min(errors, default=None),
        "num_runs": len(mine.lines),
        "num_scored": len(errors),
        "num_failed": states.count("FAILED"),
        "num_unfinished": sum(states.count(state) for state in UNFINISHED),
        "next_difference": paired and paired.mean,
        "next_difference_low": paired and paired.low,
        "next_difference_high": paired and paired.high,
        "next_num_pairs": paired and paired.num_pairs,
        "validation_mse_mean": mine.mean("validation_mse"),
        "validation_mse_std": mine.std("validation_mse"),
    }


def _compare(mine: Setting, rival: Setting, metric: str) -> PairedDifference | None:
    ours, theirs = mine.errors_by_split(metric), rival.errors_by_split(metric)
    common = sorted(ours.keys() & theirs.keys(), key=str)
    return measure_difference(np.array([ours[split] - theirs[split] for split in common]))
