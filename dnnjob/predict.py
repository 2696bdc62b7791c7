"""Predictions for another table, with the model of a finished run.

predict_table(Path("runs/housing/20261123-101500-3f9a1c"), "new.parquet", out=Path("out.parquet"))
"""

import logging
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from dnnjob.config import DevicesConfig, JobConfig, load_job
from dnnjob.data.block import FloatArray
from dnnjob.data.encoding import FeatureKind
from dnnjob.data.incoming import IncomingRows, read_rows
from dnnjob.errors import JobError
from dnnjob.image import is_lost, lost_reason, mount_hint
from dnnjob.imports import importing_tensorflow
from dnnjob.runs import RunPaths, open_run, write_file
from dnnjob.tasks import configure_process

if TYPE_CHECKING:
    import pyarrow as pa

    from dnnjob.training.export import Predictor

logger = logging.getLogger(__name__)


@dataclass
class Predicted:
    """What is told of a table once it is predicted.

    Attributes:
        num_rows: Its rows.
        num_strange: Rows whose prediction is not finite.
        num_known: Rows whose target the table has.
        squared_error: Sum over those, squared target units.
    """

    num_rows: int = 0
    num_strange: int = 0
    num_known: int = 0
    squared_error: float = 0.0

    def add(self, y_true: FloatArray | None, y_pred: FloatArray) -> None:
        """Counts some rows in."""
        self.num_rows += len(y_pred)
        self.num_strange += int((~np.isfinite(y_pred)).sum())
        if y_true is not None:
            known = ~np.isnan(y_true)
            self.num_known += int(known.sum())
            self.squared_error += float(np.square(y_true[known] - y_pred[known]).sum())


def predict_table(run: Path, data: str, *, out: Path) -> Predicted:
    """Predicts every row of a table and writes `row_id`, `y_true` where known, and `y_pred`.

    A table of files passes by in pieces, so that its size does not matter; only text beside Parquet
    files is read whole.

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
    pieces = read_rows(data, kinds, job.data)
    predict = _load(paths, job, kinds)
    predicted = Predicted()

    def tables() -> "Iterator[pa.Table]":
        for rows in pieces:
            y_pred = predict(rows.block)
            yield _make_table(predicted.num_rows, rows, y_pred)
            predicted.add(rows.y_true, y_pred)

    _write(out, tables())
    _announce(predicted, data)
    return predicted


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


def _load(paths: RunPaths, job: JobConfig, kinds: Mapping[str, FeatureKind]) -> "Predictor":
    # Threads and GPUs are those of this machine, whatever the run had.
    kind = "cpu" if job.devices.kind == "cpu" else "auto"
    configure_process(DevicesConfig(kind=kind))
    with importing_tensorflow():
        from dnnjob.training.export import load_predictor

    return load_predictor(paths.model, kinds, precision=job.devices.precision)


def _make_table(first: int, rows: IncomingRows, y_pred: FloatArray) -> "pa.Table":
    import pyarrow as pa

    columns: dict[str, Any] = {"row_id": np.arange(first, first + len(y_pred), dtype=np.int64)}
    if rows.y_true is not None:
        columns["y_true"] = pa.array(rows.y_true, pa.float64(), from_pandas=True)
    columns["y_pred"] = pa.array(y_pred, pa.float64())
    table = pa.table(columns)
    for name, column in rows.ids.items():
        table = table.append_column(name, column)
    return table


def _write(out: Path, tables: "Iterator[pa.Table]") -> None:
    import pyarrow.parquet as pq

    def fill(file: BinaryIO) -> None:
        first = next(tables)
        with pq.ParquetWriter(file, first.schema, compression="zstd") as writer:
            writer.write_table(first)
            for table in tables:
                writer.write_table(table)

    try:
        write_file(out, fill)
    except OSError as error:
        raise JobError(
            f"The predictions could not be written to {out} ({error.strerror}). "
            "Make room, or choose another place with --out."
        ) from error


def _announce(predicted: Predicted, data: str) -> None:
    logger.info("Predicted %d rows of %s.", predicted.num_rows, data)
    if predicted.num_strange:
        logger.warning(
            "%d predictions are not finite: look for extreme values there.", predicted.num_strange
        )
    if predicted.num_known:
        mse = predicted.squared_error / predicted.num_known
        logger.info("MSE %.4g on the %d rows whose target is known.", mse, predicted.num_known)
