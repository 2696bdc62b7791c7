"""What a job would do, found out without doing it: before a run, and before a submission.

check = check_job(Path("jobs/housing.toml"), ["seed=7"])
print(render_check(check))
"""

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dnnjob.config import DataConfig, JobConfig, Point, load_job, make_points
from dnnjob.data.schema import Column, listed
from dnnjob.data.sources import Table, open_table
from dnnjob.data.split import split_rows
from dnnjob.machine import memory_limit_bytes
from dnnjob.runs import Record
from dnnjob.text import align

logger = logging.getLogger(__name__)

MIB = 2**20
# Measured: TensorFlow with XLA, pandas and the plots take this before any table.
PROCESS_BYTES = 850 * MIB
# Measured with tables of 1 and 3 million rows: 44 to 48 bytes a value at the peak, for the file's
# columns, the float64 and float32 tables and the copy that trains.
BYTES_A_VALUE = 48
# Variables beside weight and gradient that an optimizer keeps for each parameter.
OPTIMIZER_SLOTS = {"sgd": 1, "adam": 2, "adamw": 2, "rmsprop": 2}
MAX_COLUMNS_SHOWN = 40


class ColumnCheck(Record):
    """A column of the table."""

    name: str
    kind: str
    role: str
    """`target`, `feature` or `unused`."""
    num_missing: int
    minimum: float | None
    maximum: float | None


class PointCheck(Record):
    """A run that the job would make."""

    values: dict[str, Any]
    """What sets it apart from the other points of the sweep; empty without a sweep."""
    source: str
    num_rows: int
    num_train_rows: int
    num_validation_rows: int
    num_test_rows: int
    layers: tuple[int, ...]
    """Width of the inputs, of every hidden layer, and of the output."""
    num_trainable_params: int
    epochs: int
    steps_per_epoch: int
    steps: int
    memory_mb: float
    """Estimate of the peak."""


class JobCheck(Record):
    """A job that is fit to run."""

    name: str
    job_file: str
    target: str
    columns: tuple[ColumnCheck, ...]
    """Those of the first point's table."""
    points: tuple[PointCheck, ...]
    """One, or the points of the sweep."""
    memory_limit_mb: float
    """What this machine and its cgroup allow."""
    warnings: tuple[str, ...]


class TableFacts(Record):
    """What a table is, without its values."""

    features: tuple[str, ...]
    target: str
    num_rows: int
    columns: tuple[ColumnCheck, ...]
    warnings: tuple[str, ...]


def check_job(job_file: Path, overrides: Sequence[str] = ()) -> JobCheck:
    """Everything about a job that its file, its tables and this machine tell; warnings are logged.

    Raises:
        JobError: If the job file or an override is wrong.
        DataError: If a table cannot be trained on as the job asks.
    """
    job = load_job(job_file, overrides=overrides)
    points = make_points(job)
    tables = read_tables([point.job.data for point in points])
    checks = tuple(check_point(point, tables[table_key(point.job.data)]) for point in points)
    limit_mb = memory_limit_bytes() / MIB
    told = [warning for table in tables.values() for warning in table.warnings]
    return JobCheck(
        name=job.name,
        job_file=str(job_file),
        target=job.data.target,
        columns=tables[table_key(points[0].job.data)].columns,
        points=checks,
        memory_limit_mb=limit_mb,
        warnings=(*told, *_warn_of_memory(checks, limit_mb)),
    )


def read_tables(configs: Sequence[DataConfig]) -> dict[tuple[Any, ...], TableFacts]:
    """Each table once: most sweeps have one."""
    facts: dict[tuple[Any, ...], TableFacts] = {}
    for data in configs:
        if table_key(data) not in facts:
            facts[table_key(data)] = _read_facts(data)
    return facts


def table_key(data: DataConfig) -> tuple[Any, ...]:
    """What jobs with the same table and the same columns share."""
    return data.source, data.target, data.features


def _read_facts(data: DataConfig) -> TableFacts:
    table = open_table(data)
    return TableFacts(
        features=table.features,
        target=table.target,
        num_rows=table.num_rows,
        columns=tuple(_check_column(column, table) for column in table.columns),
        warnings=table.warnings,
    )


def _check_column(column: Column, table: Table) -> ColumnCheck:
    role = "feature" if column.name in table.features else "unused"
    return ColumnCheck(
        name=column.name,
        kind=column.kind,
        role="target" if column.name == table.target else role,
        num_missing=column.num_missing,
        minimum=column.minimum,
        maximum=column.maximum,
    )


def check_point(point: Point, table: TableFacts) -> PointCheck:
    """What one run would do.

    Raises:
        DataError: If the table is too small for its splits.
    """
    job, num_features = point.job, len(table.features)
    split = split_rows(
        table.num_rows,
        test_fraction=job.data.test_fraction,
        validation_fraction=job.data.validation_fraction,
        seed=job.split_seed,
    )
    steps_per_epoch = math.ceil(len(split.train) / job.train.global_batch_size)
    return PointCheck(
        values=point.values,
        source=job.data.source,
        num_rows=table.num_rows,
        num_train_rows=len(split.train),
        num_validation_rows=len(split.validation),
        num_test_rows=len(split.test),
        layers=(num_features, *job.model.hidden_units, 1),
        num_trainable_params=job.model.count_params(num_inputs=num_features),
        epochs=job.train.epochs,
        steps_per_epoch=steps_per_epoch,
        steps=job.train.epochs * steps_per_epoch,
        memory_mb=estimate_memory_bytes(job, table.num_rows, num_features) / MIB,
    )


def estimate_memory_bytes(job: JobConfig, num_rows: int, num_features: int) -> float:
    """Peak memory of a run on one device, roughly: libraries, table, weights, activations."""
    copies = 2 + OPTIMIZER_SLOTS[job.train.optimizer] + (job.train.patience is not None)
    weights = 4 * copies * job.model.count_params(num_inputs=num_features)
    widths = num_features + sum(job.model.hidden_units)
    # Each output is kept for its gradient.
    activations = 2 * 4 * widths * min(job.train.global_batch_size, num_rows)
    return PROCESS_BYTES + BYTES_A_VALUE * num_rows * (num_features + 1) + weights + activations


def _warn_of_memory(points: Sequence[PointCheck], limit_mb: float) -> list[str]:
    needed_mb = max(point.memory_mb for point in points)
    if needed_mb <= limit_mb:
        return []
    warning = (
        f"a run takes about {_size(needed_mb)} of memory, but this machine gives "
        f"{_size(limit_mb)}. Use a machine with more, fewer rows, or fewer features."
    )
    logger.warning("%s", warning)
    return [warning]


def render_check(check: JobCheck) -> str:
    """The check as lines for a terminal."""
    first, *more = check.points
    lines = [
        *align(list(_summary(check, first))),
        "",
        *align([("column", "kind", "role", "minimum", "maximum"), *_column_rows(check.columns)]),
    ]
    if hidden := len(check.columns) - MAX_COLUMNS_SHOWN:
        lines += [f"and {hidden} more columns (--json has all)"] if hidden > 0 else []
    if more or first.values:
        rows = list(_point_rows(check.points))
        lines += ["", *align(rows, right=range(len(rows[0])))]
    return "\n".join(lines)


def _summary(check: JobCheck, point: PointCheck) -> Iterator[tuple[str, str]]:
    features = [column.name for column in check.columns if column.role == "feature"]
    network = " -> ".join(map(str, point.layers))
    yield "job", f"{check.name} ({check.job_file})"
    yield "table", f"{point.source}: {point.num_rows:,} rows, {len(check.columns)} columns"
    yield "target", check.target
    yield "features", f"{len(features)}: {listed(features)}"
    yield (
        "split",
        f"{point.num_train_rows:,} train, {point.num_validation_rows:,} validation, "
        f"{point.num_test_rows:,} test",
    )
    yield "network", f"{network}, {point.num_trainable_params:,} parameters"
    yield (
        "training",
        f"{point.epochs:,} epochs of {point.steps_per_epoch:,} steps, {point.steps:,} steps in all",
    )
    yield "memory", f"about {_size(point.memory_mb)} of {_size(check.memory_limit_mb)}"
    if len(check.points) > 1:
        yield "sweep", f"{len(check.points)} runs; the lines above are the first one's"


def _column_rows(columns: Sequence[ColumnCheck]) -> Iterator[tuple[str, ...]]:
    for column in columns[:MAX_COLUMNS_SHOWN]:
        low, high = (
            "-" if number is None else f"{number:g}" for number in (column.minimum, column.maximum)
        )
        missing = f" ({column.num_missing} missing)" if column.num_missing else ""
        yield column.name, column.kind + missing, column.role, low, high


def _point_rows(points: Sequence[PointCheck]) -> Iterator[tuple[str, ...]]:
    yield (*points[0].values, "train rows", "parameters", "steps", "memory")
    for point in points:
        yield (
            *map(str, point.values.values()),
            f"{point.num_train_rows:,}",
            f"{point.num_trainable_params:,}",
            f"{point.steps:,}",
            _size(point.memory_mb),
        )


def _size(mib: float) -> str:
    return f"{mib / 1024:.1f} GiB"
