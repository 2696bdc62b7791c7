"""What a job would do, found out without doing it: before a run, and before a submission.

check = check_job(Path("jobs/housing.toml"), ["seed=7"])
print(render_check(check))
"""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnnjob.config import JobConfig, Point, load_job, make_points
from dnnjob.data.encoding import Encoding
from dnnjob.data.folds import check_folds
from dnnjob.data.order import refuse_short_window, window_rows
from dnnjob.data.rows import TypedTable
from dnnjob.data.schema import listed, log_warnings, show_date
from dnnjob.data.sources import find_pieces
from dnnjob.launch.point_tables import AnyTable, PointTables, measure_rows
from dnnjob.machine import memory_limit_bytes, memory_share_bytes
from dnnjob.results.intervals import describe_too_few, least_rows
from dnnjob.runs import Record
from dnnjob.text import align, counted, shown

if TYPE_CHECKING:
    from dnnjob.data.table import Table

logger = logging.getLogger(__name__)

MIB = 2**20
# Measured: TensorFlow with XLA, pandas and the plots take this before any table.
PROCESS_BYTES = 850 * MIB
# Measured with tables of 1 and 3 million rows: 44 to 48 bytes a value at the peak, for the file's
# columns, the float64 and float32 tables and the copy that trains.
BYTES_A_VALUE = 48
# Measured with 20 million rows of 20 features: what reading a table in pieces takes beside its
# windows.
STREAM_BYTES = 420 * MIB
# Variables beside weight and gradient that an optimizer keeps for each parameter.
OPTIMIZER_SLOTS = {"sgd": 1, "adam": 2, "adamw": 2, "rmsprop": 2}
MAX_COLUMNS_SHOWN = 40
COLUMN_HEADING = ("column", "kind", "role", "inputs", "minimum", "maximum")


class ColumnCheck(Record):
    """A column of the table."""

    name: str
    kind: str
    role: str
    """`target`, `feature`, `id`, `weight`, `split` or `unused`."""
    num_inputs: int | None = None
    """Inputs of the network that a feature becomes; an embedding takes one, its code."""
    num_missing: int
    minimum: float | None
    maximum: float | None


class PointCheck(Record):
    """A run that the job would make."""

    values: dict[str, Any]
    """What sets it apart from the other points of the sweep, None where it leaves a key out; empty
    without a sweep."""
    source: str
    num_rows: int
    num_train_rows: int
    num_validation_rows: int
    num_test_rows: int
    num_unlabelled_rows: int
    """Rows without a target, which are predicted only."""
    num_sampled_rows: int | None = None
    """Rows that were looked at, where the table is too large for all: what is said of its values is
    about right then."""
    num_rows_is_estimated: bool = False
    """Whether the rows were told by the bytes of the files: counting them would read all."""
    layers: tuple[int, ...]
    """Width of the inputs, of every hidden layer, and of the output of each network."""
    num_members: int = 1
    """Networks whose mean the model is."""
    num_trainable_params: int
    """Of all networks."""
    epochs: int
    steps_per_epoch: int
    """Of a network; with folds of one that leaves an equal part of the rows out."""
    steps: int
    """Of all networks, where none stops early."""
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


def check_job(job_file: Path, overrides: Sequence[str] = ()) -> JobCheck:
    """Everything about a job that its file, its tables and this machine tell; warnings are logged.

    Raises:
        JobError: If the job file or an override is wrong.
        DataError: If a table cannot be trained on as the job asks.
    """
    job = load_job(job_file, overrides=overrides)
    points, tables = make_points(job), PointTables()
    checked = [check_point(point, tables.read(point.job.data)) for point in points]
    checks, limit_mb = tuple(one.check for one in checked), memory_limit_bytes() / MIB
    warnings = log_point_warnings(checked)
    return JobCheck(
        name=job.name,
        job_file=str(job_file),
        target=job.data.target,
        columns=_check_columns(points[0], checked[0]),
        points=checks,
        memory_limit_mb=limit_mb,
        warnings=(*warnings, *_warn_of_memory(checks, limit_mb), *_warn_of_warmup(points, checks)),
    )


@dataclass(frozen=True, eq=False)
class CheckedPoint:
    """What one run would do, and the rows that tell it.

    Attributes:
        check: What it would do.
        rows: Those at hand.
        encoding: How their columns become inputs.
        warnings: What training can live with, with the source that it is said of.
    """

    check: PointCheck
    rows: TypedTable
    encoding: Encoding
    warnings: tuple[tuple[str, str], ...]


def log_point_warnings(points: Sequence[CheckedPoint]) -> list[str]:
    """Logs what there is to know of the points' tables, each thing once."""
    warnings = dict.fromkeys(warning for point in points for warning in point.warnings)
    for source, warning in warnings:
        log_warnings(source, [warning])
    return [warning for _, warning in warnings]


def _check_columns(point: Point, checked: CheckedPoint) -> tuple[ColumnCheck, ...]:
    data = point.job.data
    roles = {} if data.split_column is None else {data.split_column: "split"}
    roles |= {name: "id" for name in data.id_columns} | {data.target: "target"}
    roles |= {} if data.weight_column is None else {data.weight_column: "weight"}
    num_inputs = {column.name: column.num_inputs for column in checked.encoding.columns}
    return tuple(
        ColumnCheck(
            name=column.name,
            kind=column.kind,
            role="feature" if column.name in num_inputs else roles.get(column.name, "unused"),
            num_inputs=num_inputs.get(column.name),
            num_missing=column.num_missing,
            minimum=column.minimum,
            maximum=column.maximum,
        )
        for column in checked.rows.columns
    )


def check_point(point: Point, found: AnyTable) -> CheckedPoint:
    """What one run would do.

    Raises:
        JobError: If a window holds less than the training rows of a table in memory.
        DataError: If the table cannot be trained on as the job asks.
    """
    job, table = point.job, measure_rows(point.job, found)
    counts = _count_rows(job, found, table)
    train, validation, test, unlabelled = counts
    is_asked = job.data.window_rows is not None
    if is_asked and isinstance(found, TypedTable) and find_pieces(job.data) is None:
        refuse_short_window(job.data, train)
    encoding = table.fit_encoding(job.data)
    num_inputs = encoding.count_network_inputs(job.model)
    is_sample = not isinstance(found, TypedTable)
    check_folds(job, table, num_train_rows=train, is_sample=is_sample)
    members = job.model.members
    num_params = encoding.count_params(job.model) * members
    trained = train - train // members if job.model.bagging == "folds" else train
    steps_per_epoch = math.ceil(trained / job.train.global_batch_size)
    memory = _estimate_memory(job, found, encoding, num_inputs=num_inputs, num_params=num_params)
    check = PointCheck(
        values=point.values,
        source=job.data.source,
        num_rows=found.num_rows,
        num_train_rows=train,
        num_validation_rows=validation,
        num_test_rows=test,
        num_unlabelled_rows=unlabelled,
        num_sampled_rows=table.num_rows if is_sample else None,
        num_rows_is_estimated=not (isinstance(found, TypedTable) or found.is_counted),
        layers=(num_inputs, *job.model.hidden_units, 1),
        num_members=members,
        num_trainable_params=num_params,
        epochs=job.train.epochs,
        steps_per_epoch=steps_per_epoch,
        steps=members * job.train.epochs * steps_per_epoch,
        memory_mb=memory / MIB,
    )
    told = [*table.warnings, *_warn_of_intervals(job, train=train, validation=validation)]
    warnings = tuple((job.data.source, warning) for warning in told)
    return CheckedPoint(check, table.typed, encoding, warnings)


def _warn_of_intervals(job: JobConfig, *, train: int, validation: int) -> Iterator[str]:
    """What a run would say of intervals that its job asks for, once it has trained."""
    level, num_rows = job.output.interval_level, validation
    if not validation and job.model.bagging == "folds" and job.train.patience is None:
        num_rows = train
    if level and num_rows < least_rows(level):
        yield describe_too_few(level, num_rows)


def _count_rows(job: JobConfig, found: AnyTable, table: "Table") -> list[int]:
    """Rows of each of `SPLITS` in the whole table."""
    if isinstance(found, TypedTable):
        return [int(count) for count in table.group_counts.sum(axis=0)]
    from dnnjob.data.sample import estimate_splits

    return estimate_splits(job.data, found, seed=job.split_seed)


def _estimate_memory(
    job: JobConfig,
    found: AnyTable,
    encoding: Encoding,
    *,
    num_inputs: int,
    num_params: int,
) -> float:
    sizes = {"num_inputs": num_inputs, "num_params": num_params}
    if isinstance(found, TypedTable):
        return estimate_memory_bytes(job, found.num_rows, **sizes)
    rows = window_rows(job.data, found.table.kinds)
    windows = 2 * 4 * rows * (encoding.num_inputs + 1)
    budget = job.data.memory_budget_gb
    kept = memory_share_bytes(job.devices.tasks) if budget is None else budget * 1e9
    return estimate_memory_bytes(job, 0, **sizes) + STREAM_BYTES + max(windows, kept)


def estimate_memory_bytes(
    job: JobConfig, num_rows: int, *, num_inputs: int, num_params: int
) -> float:
    """Peak memory of a run on one device, roughly: libraries, table, weights, activations."""
    copies = 2 + OPTIMIZER_SLOTS[job.train.optimizer] + (job.train.patience is not None)
    weights = 4 * copies * num_params
    widths = num_inputs + sum(job.model.hidden_units)
    # Each output is kept for its gradient.
    activations = 2 * 4 * widths * min(job.train.global_batch_size, num_rows or math.inf)
    return PROCESS_BYTES + BYTES_A_VALUE * num_rows * (num_inputs + 1) + weights + activations


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


def _warn_of_warmup(points: Sequence[Point], checks: Sequence[PointCheck]) -> list[str]:
    steps = [
        (point.job.train.warmup_steps, num_steps)
        for point, check in zip(points, checks, strict=True)
        if point.job.train.warmup_steps >= (num_steps := check.epochs * check.steps_per_epoch)
    ]
    if not steps:
        return []
    warning = (
        f"train.warmup_steps = {steps[0][0]}, but the training has {steps[0][1]} steps in all: the "
        "learning rate never reaches its peak. Lower it, or train for more epochs."
    )
    logger.warning("%s", warning)
    return [warning]


def render_check(check: JobCheck) -> str:
    """The check as lines for a terminal."""
    first, *more = check.points
    lines = [
        *align(list(_summary(check, first))),
        "",
        *align([COLUMN_HEADING, *_column_rows(check.columns)]),
    ]
    if (hidden := len(check.columns) - MAX_COLUMNS_SHOWN) > 0:
        lines.append(f"and {counted(hidden, 'more column')} (--json has all)")
    if more or first.values:
        rows = list(_point_rows(check.points))
        lines += ["", *align(rows, right=range(len(rows[0])))]
    return "\n".join(lines)


def _summary(check: JobCheck, point: PointCheck) -> Iterator[tuple[str, str]]:
    features = [column.name for column in check.columns if column.role == "feature"]
    network = " -> ".join(map(str, point.layers))
    yield "job", f"{check.name} ({check.job_file})"
    sampled = ""
    if point.num_sampled_rows is not None:
        sampled = f", of which {point.num_sampled_rows:,} were looked at"
    columns = counted(len(check.columns), "column")
    about = "about " if point.num_rows_is_estimated else ""
    yield "table", f"{point.source}: {about}{counted(point.num_rows, 'row')}{sampled}, {columns}"
    yield "target", check.target
    yield "features", f"{len(features)}: {listed(features)}"
    yield (
        "split",
        f"{point.num_train_rows:,} train, {point.num_validation_rows:,} validation, "
        f"{point.num_test_rows:,} test"
        + (f", {point.num_unlabelled_rows:,} without a target" if point.num_unlabelled_rows else "")
        + ("" if point.num_test_rows else "; without test rows nothing will judge the run"),
    )
    several = point.num_members > 1
    network = f"{point.num_members} networks of {network}" if several else network
    together = " together" if several else ""
    yield "network", f"{network}, {point.num_trainable_params:,} parameters{together}"
    yield (
        "training",
        f"{counted(point.epochs, 'epoch')} of {counted(point.steps_per_epoch, 'step')}, "
        f"{counted(point.steps, 'step')} in all",
    )
    yield "memory", f"about {_size(point.memory_mb)} of {_size(check.memory_limit_mb)}"
    if len(check.points) > 1:
        yield "sweep", f"{len(check.points)} runs; the lines above are the first one's"


def _column_rows(columns: Sequence[ColumnCheck]) -> Iterator[tuple[str, ...]]:
    for column in columns[:MAX_COLUMNS_SHOWN]:
        low, high = (_shown(number, column.kind) for number in (column.minimum, column.maximum))
        missing = f" ({column.num_missing} missing)" if column.num_missing else ""
        inputs = "-" if column.num_inputs is None else str(column.num_inputs)
        yield column.name, column.kind + missing, column.role, inputs, low, high


def _shown(number: float | None, kind: str) -> str:
    if number is None:
        return "-"
    return show_date(number) if kind == "datetime" else f"{number:g}"


def _point_rows(points: Sequence[PointCheck]) -> Iterator[tuple[str, ...]]:
    yield (*points[0].values, "train rows", "parameters", "steps", "memory")
    for point in points:
        yield (
            *map(shown, point.values.values()),
            f"{point.num_train_rows:,}",
            f"{point.num_trainable_params:,}",
            f"{point.steps:,}",
            _size(point.memory_mb),
        )


def _size(mib: float) -> str:
    return f"{mib / 1024:.1f} GiB"
