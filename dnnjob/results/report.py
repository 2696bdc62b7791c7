"""`report.json` as frozen records, and the two Parquet tables beside it.

table = make_predictions(row_id=ids, split=places, y_true=y, y_pred=y_pred)
write_history(paths, History(loss=loss, val_loss=None, learning_rate=rate, seconds=seconds))
write_report(paths, report)  # last: its presence means complete
report = read_report(paths.report)
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from dnnjob.data.parquet import write_parquet
from dnnjob.data.split import SPLITS
from dnnjob.errors import DataError, JobError
from dnnjob.results.baselines import Baselines
from dnnjob.results.importance import Importance
from dnnjob.results.intervals import Intervals
from dnnjob.results.metrics import Metrics
from dnnjob.runs import Attempt, Record, RunPaths, State, write_json
from dnnjob.text import quote_command
from dnnjob.training.history import History

FORMAT_VERSION = 1
PlotName = Literal["regplot", "boxplot", "loss", "residuals", "intervals", "importance"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Array = npt.NDArray[Any]

PREDICTIONS_SCHEMA = pa.schema(
    [
        pa.field("row_id", pa.int64(), nullable=False),
        pa.field("split", pa.dictionary(pa.int8(), pa.string()), nullable=False),
        pa.field("y_true", pa.float64()),
        pa.field("y_pred", pa.float64(), nullable=False),
    ]
)
# Behind `y_pred` and `y_std`, where a run has intervals.
BOUNDS = ("y_lower", "y_upper")
HISTORY_SCHEMA = pa.schema(
    [
        pa.field("epoch", pa.int64(), nullable=False),
        pa.field("loss", pa.float64(), nullable=False),
        pa.field("val_loss", pa.float64()),
        pa.field("learning_rate", pa.float64(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
    ]
)


class SplitMetrics(Record):
    """Metrics of each split; an absent one is None."""

    train: Metrics | None = None
    validation: Metrics | None = None
    test: Metrics | None = None


class SplitBaselines(Record):
    """Baselines of the splits that have them."""

    test: Baselines | None = None


class Training(Record):
    """How training went."""

    epochs: int
    """Whole epochs trained."""
    steps: int
    """Optimizer steps."""
    final_loss: Finite
    """Mean squared error of the epoch whose weights are kept, on the trained scale."""
    best_epoch: int | None
    """Epoch, counted from 1, with the least validation loss; None without validation rows."""
    stop_reason: str
    """Why training ended: `epochs` were done, `patience` ran out, or a search `halved` it."""
    warnings: tuple[str, ...] = ()
    """What its user should know, such as of members that diverged."""


class Member(Record):
    """A network of several that make up the model."""

    seed: int
    """Of its first weights, order of rows and dropout masks."""
    best_epoch: int | None
    """Epoch, counted from 1, with its least validation loss; None without validation rows."""
    validation_mse: Finite | None
    """Mean squared error of the rows that validated it, target units squared."""
    test_mse: Finite | None
    """Of the test rows."""


class Model(Record):
    """What was trained."""

    num_trainable_params: int
    summary: str
    """Keras's own summary, and the columns that became several inputs."""
    inputs: dict[str, str]
    """Columns the exported model takes, with their types."""
    num_inputs: dict[str, int] = Field(default_factory=dict)
    """Inputs of the network that each column became; an embedding takes one, its code."""
    file_mb: Finite | None = None
    """Size of `model/model.keras`, in MiB; None without one."""
    load_s: Finite | None = None
    """Seconds that it took to load, measured where it holds several networks and few columns."""


class Fingerprint(Record):
    """What tells one table from another."""

    method: str
    value: str


class TrainedColumn(Record):
    """What the rows that trained hold in a feature, for those who ask of other rows."""

    num_missing: int
    """Rows without a value."""
    minimum: Finite | None = None
    """The least number; dates are seconds since 1970. None of categories."""
    maximum: Finite | None = None
    """The largest."""
    categories: tuple[str, ...] | None = None
    """Those that the model tells apart; None of numbers and dates."""


class Data(Record):
    """The table."""

    source: str
    num_rows: int
    """Rows of the source, unlabelled ones too."""
    num_features: int
    columns: tuple[str, ...]
    """The features, in the model's order, then the target."""
    trained: dict[str, TrainedColumn] = Field(default_factory=dict)
    """What training saw of each feature."""
    fingerprint: Fingerprint
    warnings: tuple[str, ...] = ()
    """What training could live with and a person should know."""


class Strategy(Record):
    """What it was computed on."""

    kind: str
    """Name of the `tf.distribute` strategy."""
    num_replicas: int
    num_tasks: int
    devices: tuple[str, ...]
    """Those of all tasks, by rank."""
    threads: int
    """Of a task; of members side by side of each."""
    xla: Literal["on", "off"]
    stack: int = 1
    """Networks that trained at the same moment: members of the model, or it and other runs."""
    stacked: Literal["axis", "lanes"] | None = None
    """How: one call over a leading axis, or lanes with calls of their own; null of one alone."""


class Timing(Record):
    """Seconds of wall time by phase."""

    import_: Finite = Field(alias="import")
    """`import` in the file and as a key; Python keeps the word for itself."""
    load: Finite
    compile: Finite
    """Tracing and compiling."""
    train: Finite
    """The steps."""
    evaluate: Finite
    predict: Finite
    report: Finite
    total: Finite
    """This attempt, from the start of the process."""
    total_all_attempts: Finite


class Throughput(Record):
    """Speed of the steps, compilation apart."""

    steps_per_s: Finite
    rows_per_s: Finite


class Resources(Record):
    """What the run took."""

    peak_rss_mb: Finite
    cpu_s: Finite
    gpu_peak_mb: Finite | None = None


class Image(Record):
    """The container image it was computed in."""

    target: str
    version: str
    commit: str | None = None
    """Commit of dnnjob that the image was built from."""
    base: str | None = None
    python: str
    packages: dict[str, str]
    """Python packages with their versions."""
    system: dict[str, str]
    """Packages of the system with their versions."""


class Provenance(Record):
    """Who computed it, where, and from what."""

    dnnjob: str
    python: str
    tensorflow: str
    keras: str
    host: str
    cpu: str
    gpus: tuple[str, ...] = ()
    git_commit: str | None = None
    git_dirty: bool | None = None
    image: Image | None = None
    """None outside of a container."""
    slurm: dict[str, Any] | None = None
    command: str
    started_at: datetime
    ended_at: datetime
    attempts: tuple[Attempt, ...] = ()
    bit_exact: bool = True
    """Whether the weights are bit for bit those of a run never interrupted."""
    bit_exact_reason: str | None = None
    """Why they may not be."""


class Report(Record):
    """All of `report.json`."""

    format_version: int = FORMAT_VERSION
    run_id: str
    name: str
    state: State
    job: dict[str, Any]
    """The resolved job, as `JobConfig.model_dump(mode="json")` gives it."""
    metrics: SplitMetrics
    baselines: SplitBaselines
    importance: tuple[Importance, ...] = ()
    """What the test error gains where a column is shuffled, the most important column first."""
    members: tuple[Member, ...] = ()
    """The networks whose mean the model is; empty where it is a single one."""
    intervals: Intervals | None = None
    """How far targets lie from predictions; None where no rows tell."""
    training: Training
    model: Model
    data: Data
    strategy: Strategy
    timing_s: Timing
    throughput: Throughput
    resources: Resources
    provenance: Provenance


def write_report(paths: RunPaths, report: Report) -> None:
    """Replaces `report.json`."""
    write_json(paths.report, report.model_dump(mode="json", by_alias=True))


def read_report(path: Path) -> Report:
    """The report at `path`.

    Raises:
        JobError: If there is none.
        DataError: If it cannot be read, is no report, or comes from a later format.
    """
    try:
        return _check_version(Report.model_validate_json(path.read_bytes()), path)
    except FileNotFoundError:
        raise JobError(
            f"A finished run holds a report.json, but there is no {path}. "
            f"See {quote_command('status', path.parent)} for how far the run has come."
        ) from None
    except OSError as error:
        raise DataError(f"The report {path} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        _refuse_later_version(path)
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"]) or "the file"
        raise DataError(
            f"{path} is not a report of dnnjob: {place}: {fault['msg']}. "
            "Restore the file, or run the job again."
        ) from error


def make_predictions(
    *,
    row_id: Array,
    split: Array,
    y_true: Array,
    y_pred: Array,
    y_std: Array | None = None,
    ids: Mapping[str, pa.ChunkedArray] | None = None,
) -> pa.Table:
    """Rows of `predictions.parquet`.

    Args:
        row_id: 0-based rows of the source, shape `(num_rows,)`, ascending.
        split: Places of the splits in `SPLITS`, same shape.
        y_true: Observed targets, target units, NaN where unlabelled.
        y_pred: Predicted targets, target units.
        y_std: Standard deviation of the members' predictions, target units; None of a single one.
        ids: Further columns of the same rows, after the others.
    """
    table = pa.Table.from_arrays(
        [
            pa.array(row_id, pa.int64()),
            pa.DictionaryArray.from_arrays(pa.array(split, pa.int8()), pa.array(SPLITS)),
            pa.array(y_true.astype(np.float64, copy=False), from_pandas=True),
            pa.array(y_pred.astype(np.float64, copy=False)),
        ],
        schema=PREDICTIONS_SCHEMA,
    )
    if y_std is not None:
        table = table.append_column(
            pa.field("y_std", pa.float64(), nullable=False), pa.array(y_std)
        )
    for name, column in (ids or {}).items():
        table = table.append_column(name, column)
    return table


def add_bounds(predictions: pa.Table, intervals: Intervals | None) -> pa.Table:
    """Predictions with `y_lower` and `y_upper` behind those; as they are without intervals."""
    if intervals is None:
        return predictions
    names = predictions.schema.names
    place = 1 + names.index("y_std" if "y_std" in names else "y_pred")
    bounds = intervals.bounds(predictions["y_pred"].to_numpy())
    for offset, (name, values) in enumerate(zip(BOUNDS, bounds, strict=True)):
        field = pa.field(name, pa.float64(), nullable=False)
        predictions = predictions.add_column(place + offset, field, pa.array(values))
    return predictions


def read_predictions(path: Path) -> pa.Table:
    """The predictions at `path`, with `PREDICTIONS_SCHEMA`; errors as `read_history` has them."""
    return read_all_predictions(path).select(PREDICTIONS_SCHEMA.names)


def read_all_predictions(path: Path) -> pa.Table:
    """The same with whatever stands behind: the members' spread, bounds, columns of ids."""
    return _read_table(path, PREDICTIONS_SCHEMA)


def write_history(paths: RunPaths, history: History) -> None:
    """Replaces `history.parquet`; epochs are counted from 1."""
    num_epochs = len(history.loss)
    val_loss = np.full(num_epochs, np.nan) if history.val_loss is None else history.val_loss
    columns = [
        pa.array(np.arange(1, num_epochs + 1, dtype=np.int64)),
        *(
            pa.array(np.asarray(values, np.float64), from_pandas=nullable)
            for values, nullable in (
                (history.loss, False),
                (val_loss, True),
                (history.learning_rate, False),
                (history.seconds, False),
            )
        ),
    ]
    write_parquet(paths.history, pa.Table.from_arrays(columns, schema=HISTORY_SCHEMA))


def read_history(path: Path) -> History:
    """The history at `path`.

    Raises:
        DataError: If it cannot be read or has other columns.
    """
    table = _read_table(path, HISTORY_SCHEMA)
    columns = {name: table[name].to_numpy() for name in table.column_names}
    unknown = table["val_loss"].null_count == table.num_rows
    return History(
        loss=columns["loss"],
        val_loss=None if unknown else columns["val_loss"],
        learning_rate=columns["learning_rate"],
        seconds=columns["seconds"],
    )


def _check_version(report: Report, path: Path) -> Report:
    if report.format_version > FORMAT_VERSION:
        raise _make_version_error(report.format_version, path)
    return report


def _refuse_later_version(path: Path) -> None:
    """Refuses what is no report of this format because it is one of a later."""
    with suppress(ValueError, OSError):
        values = json.loads(path.read_bytes())
        version = values.get("format_version") if isinstance(values, dict) else None
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise _make_version_error(version, path)


def _make_version_error(version: int, path: Path) -> DataError:
    return DataError(
        f"This dnnjob reads reports up to format {FORMAT_VERSION}, but {path} has format "
        f"{version}. Update dnnjob."
    )


def _read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """The columns of a schema, and behind them all others of the file."""
    try:
        everything = pq.read_table(path)
        table = everything.select(schema.names).cast(schema)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise DataError(
            f"{path} is not a Parquet file with the columns {', '.join(schema.names)}: {error}. "
            "Restore the file, or run the job again."
        ) from error
    for name in everything.column_names:
        if name not in schema.names:
            table = table.append_column(everything.schema.field(name), everything[name])
    return table
