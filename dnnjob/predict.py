"""Predictions for another table, with the model of a finished run.

predict_table(Path("runs/housing/20261123-101500-3f9a1c"), "new.parquet", out=Path("out.parquet"))
"""

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dnnjob.config import DevicesConfig, JobConfig, load_job
from dnnjob.data.block import Block, FloatArray, Texts
from dnnjob.data.encoding import FeatureKind
from dnnjob.data.sources import read_columns
from dnnjob.errors import JobError
from dnnjob.image import is_lost, lost_reason, mount_hint
from dnnjob.imports import importing_tensorflow
from dnnjob.runs import RunPaths, open_run, write_file
from dnnjob.tasks import configure_process

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predicted rows of a table, in its order.

    Attributes:
        y_pred: Target units, `(num_rows,)`.
        y_true: The table's own target, NaN where missing, same shape and units; None if it has
            no such column.
        ids: The job's id columns, those that the table has.
    """

    y_pred: FloatArray
    y_true: FloatArray | None
    ids: Mapping[str, "pa.ChunkedArray[Any]"] = field(default_factory=dict)


def predict_table(run: Path, data: str, *, out: Path) -> Predictions:
    """Predicts every row of a table and writes `row_id`, `y_true` where known, and `y_pred`.

    Args:
        run: Folder of a finished run.
        data: The table: files as in `data.source`, relative to the working directory.
        out: Parquet file to write or replace.

    Raises:
        JobError: If the run has no model, or `out` cannot be written; nothing is written.
        DataError: If the table lacks a column of the model, or holds no finite numbers there.
    """
    _check_out(out)
    paths = _open_finished(run)
    job = load_job(paths.job)
    kinds = feature_kinds(job)
    rows, ids = read_columns(
        data,
        kinds,
        optional=[job.data.target],
        ids=job.data.id_columns,
        missing=job.data.missing,
    )
    y_true = rows.pop(job.data.target, None)
    if isinstance(y_true, Texts):
        y_true = None
    predictions = Predictions(_predict(paths, job, kinds, rows), y_true, ids)
    _write(out, predictions)
    _announce(predictions, data)
    return predictions


def _check_out(out: Path) -> None:
    """Refuses an output file that could not be written once the work is done."""
    if out.suffix.lower() != ".parquet":
        raise JobError(f"Predictions are a .parquet file, but --out is {out}. Change its ending.")
    if out.is_dir():
        raise JobError(f"--out names a file, but {out} is a folder. Add a file name to it.")
    if is_lost(out):
        raise JobError(
            f"--out must outlive the container, but {lost_reason(out.absolute())}. Mount a folder "
            f"for it.{mount_hint(out, to='write')}"
        )
    try:
        with tempfile.TemporaryFile(dir=out.absolute().parent):
            pass
    except OSError as error:
        raise JobError(
            f"--out must be in a folder that can be written, but {out.absolute().parent} cannot "
            f"({error.strerror}). Make the folder, or choose another.{mount_hint(out, to='write')}"
        ) from error


def _open_finished(run: Path) -> RunPaths:
    paths = open_run(run)
    if not paths.report.is_file():
        raise JobError(
            f"Predicting needs a finished run, but {run} has no report.json. "
            f"Finish it with `dnnjob resume {run}`, or choose another run."
        )
    if not paths.model.is_file():
        raise JobError(
            f"Predicting needs the run's model, but {run} was told not to keep it. Run the job "
            f"again: `dnnjob run {paths.job} output.model=true`."
        )
    return paths


def feature_kinds(job: JobConfig) -> dict[str, FeatureKind]:
    """What the features of a run's resolved job hold, in their order."""
    said = {name: column.kind for name, column in job.data.columns.items()}
    return {name: said.get(name) or "numeric" for name in job.data.features or ()}


def _predict(
    paths: RunPaths, job: JobConfig, kinds: Mapping[str, FeatureKind], rows: Block
) -> FloatArray:
    # Threads and GPUs are those of this machine, whatever the run had.
    kind = "cpu" if job.devices.kind == "cpu" else "auto"
    configure_process(DevicesConfig(kind=kind))
    with importing_tensorflow():
        from dnnjob.training.export import load_predictor

    return load_predictor(paths.model, kinds, precision=job.devices.precision)(rows)


def _write(out: Path, predictions: Predictions) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"row_id": pa.array(np.arange(len(predictions.y_pred)), pa.int64())}
    if predictions.y_true is not None:
        columns["y_true"] = pa.array(predictions.y_true, pa.float64(), from_pandas=True)
    columns["y_pred"] = pa.array(predictions.y_pred, pa.float64())
    table = pa.table(columns)
    for name, column in predictions.ids.items():
        table = table.append_column(name, column)
    try:
        write_file(out, lambda file: pq.write_table(table, file, compression="zstd"))
    except OSError as error:
        raise JobError(
            f"The predictions could not be written to {out} ({error.strerror}). "
            "Make room, or choose another place with --out."
        ) from error


def _announce(predictions: Predictions, data: str) -> None:
    y_true, y_pred = predictions.y_true, predictions.y_pred
    logger.info("Predicted %d rows of %s.", len(y_pred), data)
    if strange := int((~np.isfinite(y_pred)).sum()):
        logger.warning("%d predictions are not finite: look for extreme values there.", strange)
    if y_true is not None and (known := ~np.isnan(y_true)).any():
        mse = np.mean(np.square(y_true[known] - y_pred[known]))
        logger.info("MSE %.4g on the %d rows whose target is known.", mse, known.sum())
