"""The collected table: a line for every run, typed columns, filters, order.

table = make_table(runs)
table = filter_lines(table, ["state=COMPLETED", "job.train.learning_rate<0.1"])
table = sort_lines(table, "-started_at")
table = pick_columns(table, "run_id,test_mse")
"""

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from types import UnionType
from typing import Literal, Union, get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from dnnjob.collect.record import Line, Run, Scalar
from dnnjob.config import JobConfig
from dnnjob.errors import JobError

JOB = "job."
CONDITION = re.compile(r"(?P<column>[^=<>]+)(?P<sign>[=<>])(?P<value>.*)", re.DOTALL)
TIME = pa.timestamp("us", tz="UTC")
ARROW_TYPES: dict[type, pa.DataType] = {
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    str: pa.string(),
    datetime: TIME,
}
LINE_SCHEMA = pa.schema(
    [
        pa.field(name, ARROW_TYPES.get(next(iter(get_args(kind)), kind), pa.string()))
        for name, kind in get_type_hints(Line).items()
    ]
)
# What a run fills in by itself: varied only where someone named it in a command or a sweep.
DERIVED = frozenset(
    f"job.{key}"
    for key in (
        "data.window_rows", "data.split", "data.decimal", "data.thousands", "data.date_format",
        "data.encoding", "train.weight_decay", "devices.threads", "devices.xla", "devices.stack",
    )
)  # fmt: skip
# What comes from the table where nobody chose it: varied only between runs on one table.
FROM_TABLE = re.compile(r"job\.data\.(features|columns\..*)", re.DOTALL)
# Test MSE against a baseline's, as a share: columns that are computed where they are asked for.
GAINS = {"vs_linear": "baseline_linear_mse", "vs_trees": "baseline_trees_mse"}
CHOSEN = b"dnnjob.chosen"
SEEDS = ("job.seed", "job.data.split_seed", "job.data.fold")


def make_table(runs: Sequence[Run]) -> pa.Table:
    """A line for every run, the columns of `Line`, then `job.<key>` for every key of a job."""
    fixed = [
        pa.array([getattr(run.line, column.name) for run in runs], LINE_SCHEMA.field(i).type)
        for i, column in enumerate(fields(Line))
    ]
    keys = _job_keys(runs)
    jobs = [_make_array([run.job.get(key) for run in runs], kind) for key, kind in keys.items()]
    table = pa.Table.from_arrays(
        [*fixed, *jobs], names=[*LINE_SCHEMA.names, *(JOB + key for key in keys)]
    )
    chosen = sorted({JOB + key for run in runs for key in run.chosen})
    return table.replace_schema_metadata({CHOSEN: json.dumps(chosen)})


def add_gains(table: pa.Table) -> pa.Table:
    """The table with `vs_linear` and `vs_trees`: test MSE over the baseline's, less one."""
    errors = table["test_mse"].to_pylist()
    for name, baseline in GAINS.items():
        pairs = zip(errors, table[baseline].to_pylist(), strict=True)
        gains = [mse / other - 1 if mse is not None and other else None for mse, other in pairs]
        table = table.append_column(name, pa.array(gains, pa.float64()))
    return table


def filter_lines(table: pa.Table, where: Iterable[str]) -> pa.Table:
    """The lines that meet every condition `COLUMN=VALUE`, `COLUMN<VALUE` or `COLUMN>VALUE`.

    `COLUMN=` without a value finds the lines that have none; a line without a value meets no
    other condition.

    Raises:
        JobError: If a condition, its column or its value is no such thing.
    """
    for condition in where:
        table = table.filter(_make_mask(table, condition))
    return table


def sort_lines(table: pa.Table, column: str) -> pa.Table:
    """The lines by `column`, largest first with a leading `-`; those without a value last.

    Raises:
        JobError: If there is no such column.
    """
    name = resolve_column(table, column.removeprefix("-"))
    order = "descending" if column.startswith("-") else "ascending"
    # Arrow puts what has no value last, in either order.
    keys = [(name, order)]
    if "path" in table.column_names and name != "path":
        keys.append(("path", "ascending"))
    return table.take(pc.sort_indices(table, sort_keys=keys))


def pick_columns(table: pa.Table, columns: str) -> pa.Table:
    """The columns of a comma-separated list, in its order.

    Raises:
        JobError: If there is no such column, or none is named.
    """
    names = [name.strip() for name in columns.split(",") if name.strip()]
    if not names:
        raise JobError(f"--columns takes names as in run_id,test_mse, but got {columns!r}.")
    return table.select(list(dict.fromkeys(resolve_column(table, name) for name in names)))


def resolve_column(table: pa.Table, name: str) -> str:
    """The full name of a column; of a job's key its end does, where no other ends so.

    Raises:
        JobError: If there is no such column.
    """
    for candidate in (name, JOB + name):
        if candidate in table.column_names:
            return candidate
    ends = [known for known in table.column_names if known.endswith(f".{name}")]
    if len(ends) == 1:
        return str(ends[0])
    if ends:
        raise JobError(
            f"A column is named by its name or the end of one, but {name!r} ends "
            f"{' and '.join(ends)}. Name one of them."
        )
    near = difflib.get_close_matches(name, table.column_names, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]}? " if near else ""
    raise JobError(
        f"The table has no column {name!r}. {hint}It has: {', '.join(table.column_names)}."
    )


def varying_keys(table: pa.Table) -> list[str]:
    """The `job.` columns with more than one value; seeds and what runs fill in are apart."""
    chosen = json.loads((table.schema.metadata or {}).get(CHOSEN, b"[]"))
    names = [name for name in table.column_names if name.startswith(JOB) and name not in SEEDS]
    derived = DERIVED.difference(chosen)
    # What a run leaves beside its report changes no figure.
    names = [name for name in names if not name.startswith(("job.name", "job.output."))]
    names = [name for name in names if name not in derived]
    return [name for name in names if _varies(table, name)]


def _varies(table: pa.Table, name: str) -> bool:
    if len(pc.unique(pc.drop_null(table[name]))) < 2:
        return False
    if not FROM_TABLE.fullmatch(name):
        return True
    known = table.filter(pc.is_valid(table[name])).group_by("data_fingerprint")
    counts = known.aggregate([(name, "count_distinct")])
    return (pc.max(counts[f"{name}_count_distinct"]).as_py() or 0) > 1


def _job_keys(runs: Sequence[Run]) -> dict[str, pa.DataType | None]:
    """Every key of a job with its type, then keys of other versions, whose type shows itself."""
    known: dict[str, pa.DataType | None] = dict(_config_types(JobConfig))
    seen = {key for run in runs for key in run.job}
    return known | dict.fromkeys(sorted(seen - known.keys()))


def _config_types(record: type[BaseModel], prefix: str = "") -> Iterable[tuple[str, pa.DataType]]:
    for name, item in record.model_fields.items():
        kind = item.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _config_types(kind, f"{prefix}{name}.")
        elif name != "sweep":
            yield prefix + name, _arrow_type(kind)


def _arrow_type(kind: object) -> pa.DataType:
    """The column's type for a job's annotation; text for lists and choices."""
    if get_origin(kind) in (Union, UnionType):
        kind = next(choice for choice in get_args(kind) if choice is not type(None))
    if hasattr(kind, "__metadata__"):
        kind = get_args(kind)[0]
    if get_origin(kind) is Literal:
        return pa.string()
    return ARROW_TYPES.get(kind, pa.string()) if isinstance(kind, type) else pa.string()


def _make_array(values: Sequence[Scalar], kind: pa.DataType | None) -> pa.Array:
    """The values as `kind`, or as the type they share, or as JSON text."""
    try:
        return pa.array(values, kind or _shared_type(values))
    except (pa.ArrowException, TypeError, OverflowError):
        return pa.array([_to_text(value) for value in values], pa.string())


def _shared_type(values: Iterable[Scalar]) -> pa.DataType:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        return pa.float64()
    return ARROW_TYPES[kinds.pop()] if len(kinds) == 1 else pa.string()


def _to_text(value: Scalar) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _make_mask(table: pa.Table, condition: str) -> pa.ChunkedArray:
    if (parts := CONDITION.fullmatch(condition)) is None:
        raise JobError(
            "--where reads COLUMN=VALUE, COLUMN<VALUE or COLUMN>VALUE, as in state=COMPLETED, "
            f"but got {condition!r}."
        )
    name = resolve_column(table, parts["column"].strip())
    text = parts["value"].strip()
    if not text and parts["sign"] == "=":
        return pc.is_null(table[name])
    value = _parse_value(text, table.schema.field(name))
    match parts["sign"]:
        case "=":
            return pc.equal(table[name], value)
        case "<":
            return pc.less(table[name], value)
        case _:
            return pc.greater(table[name], value)


def _parse_value(text: str, column: pa.Field) -> pa.Scalar:
    try:
        return _parse_as(text, column.type)
    except (ValueError, KeyError) as error:
        raise JobError(
            f"--where compares {column.name} with a value of type {column.type}, but got {text!r}."
        ) from error


def _parse_as(text: str, kind: pa.DataType) -> pa.Scalar:
    if kind == TIME:
        time = datetime.fromisoformat(text)
        return pa.scalar(time if time.tzinfo else time.replace(tzinfo=UTC), TIME)
    if kind == pa.bool_():
        return pa.scalar({"true": True, "false": False}[text.lower()])
    if kind in (pa.int64(), pa.float64()):
        return pa.scalar(float(text))
    # Lists are kept as JSON text with its usual spaces.
    is_list = text.startswith("[")
    return pa.scalar(json.dumps(json.loads(text), ensure_ascii=False) if is_list else text)
