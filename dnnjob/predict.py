"""Predictions for another table, with the model of a finished run.

predict_table(Path("runs/housing/20261123-101500-3f9a1c"), "new.parquet", out=Path("out.parquet"))
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dnnjob.config import DevicesConfig, JobConfig, load_job, without_keys
from dnnjob.data.builtin import builtin_names, is_builtin
from dnnjob.data.encoding import FeatureKind
from dnnjob.data.fingerprint import fingerprint_files
from dnnjob.data.inference_rows import IncomingRows, read_rows
from dnnjob.data.raw_columns import FloatArray
from dnnjob.data.schema import check_present
from dnnjob.data.source_files import find_files, peek_source
from dnnjob.drift import Drift, Finding, describe_findings
from dnnjob.errors import DataError, JobError, MissingError
from dnnjob.imports import importing_tensorflow
from dnnjob.outputs import refuse_overwriting
from dnnjob.prediction_files import STDOUT, check_out, write_tables
from dnnjob.results.report import BOUNDS, Report, add_bounds, read_report
from dnnjob.runs import RunPaths, open_run
from dnnjob.tasks import configure_process
from dnnjob.text import counted, quote_command

if TYPE_CHECKING:
    import pyarrow as pa

    from dnnjob.training.export import Prediction, Predictor

logger = logging.getLogger(__name__)

_WAY_OUT = "Predicting reads columns as training did: repair the table."
_OWN_COLUMNS = ("row_id", "y_true", "y_pred", "y_std", *BOUNDS)


@dataclass
class Predicted:
    """What is told of a table once it is predicted.

    Attributes:
        num_rows: Its rows.
        num_not_finite: Rows whose prediction is not finite.
        num_known: Rows whose target the table has.
        squared_error: Sum over those, squared target units.
        holds_training_rows: Whether the table, or one of its files, is what trained the run.
        drift: What its columns hold that training did not.
    """

    num_rows: int = 0
    num_not_finite: int = 0
    num_known: int = 0
    squared_error: float = 0.0
    holds_training_rows: bool = False
    drift: list[Finding] = field(default_factory=list)

    def add(self, y_true: FloatArray | None, y_pred: FloatArray) -> None:
        """Counts some rows in."""
        self.num_rows += len(y_pred)
        self.num_not_finite += int((~np.isfinite(y_pred)).sum())
        if y_true is not None:
            known = ~np.isnan(y_true)
            self.num_known += int(known.sum())
            self.squared_error += float(np.square(y_true[known] - y_pred[known]).sum())

    @property
    def mse(self) -> float | None:
        """Mean squared error, squared target units; None where no target is known."""
        error = self.squared_error / self.num_known if self.num_known else None
        return error if error is not None and np.isfinite(error) else None

    def to_json(self, out: Path) -> dict[str, Any]:
        """The same for programs."""
        return {
            "predictions": str(out),
            "num_rows": self.num_rows,
            "num_not_finite": self.num_not_finite,
            "num_known": self.num_known,
            "mse": self.mse,
            "holds_training_rows": self.holds_training_rows,
            "drift": [asdict(finding) for finding in self.drift],
        }


def predict_table(run: Path, data: str, *, out: Path, keep: Sequence[str] = ()) -> Predicted:
    """Predicts every row of a table and writes `row_id`, `y_true` where known, and `y_pred`.

    With a run of several members also `y_std`, with one that has intervals `y_lower` and `y_upper`,
    as its own predictions have them. A table of files passes by in
    pieces, so that its size does not matter; only text beside Parquet files is read whole.

    Args:
        run: Folder of a finished run.
        data: The table: files as in `data.source`, relative to the working directory.
        out: .parquet or .csv file to write or replace; `-` is stdout, as CSV.
        keep: Columns of the table that are written beside the predictions, as the table has them.

    Raises:
        JobError: If the run has no model of its own, or `out` cannot be; nothing is written.
        DataError: If the table lacks a column of the model, or holds no finite numbers there.
        MissingError: If there is no room for `out`.
    """
    check_out(out)
    paths = open_finished(run)
    with _without_keys("Give a CSV or Parquet file, a folder or a glob of them."):
        files = [] if is_builtin(data) else find_files(data)
    if out != STDOUT:
        refuse_overwriting(out, option="--out", inputs=files, runs=[paths.root])
        _refuse_joining(out, data)
    job, report = load_job(paths.job), read_report(paths.report)
    kinds = feature_kinds(job)
    drift = Drift(
        {name: report.data.trained[name] for name in kinds if name in report.data.trained}
    )
    pieces = _read(data, kinds, _carrying(job, data, keep))
    predict = _load(paths, job, kinds)
    predicted = Predicted(holds_training_rows=_trained_on(files, data, job, report))

    def tables() -> "Iterator[pa.Table]":
        for rows in pieces:
            found = predict(rows.block)
            yield add_bounds(_make_table(predicted.num_rows, rows, found), report.intervals)
            predicted.add(rows.y_true, found.y_pred)
            drift.add(rows.block)

    write_tables(out, tables())
    predicted.drift = drift.findings()
    _announce(predicted, data, kinds)
    return predicted


def _refuse_joining(out: Path, data: str) -> None:
    """Refuses an output that would be part of the table the next time it is read."""
    folder = out.absolute().parent
    if Path(data).is_dir() and folder.resolve() == Path(data).resolve():
        raise JobError(
            f"--out {out} would be part of the table {data} from now on, whose files are all those "
            "in that folder. Choose another folder."
        )


def _carrying(job: JobConfig, data: str, keep: Sequence[str]) -> JobConfig:
    """The job with further columns of the table that go into the predictions."""
    if not keep:
        return job
    files = peek_source(data, encoding=job.data.encoding)
    names = builtin_names(data) if files is None else files[0].names
    check_present(data, keep, names, way_out="--keep takes names of columns, with commas between.")
    if taken := [name for name in keep if name in _OWN_COLUMNS]:
        raise JobError(
            f"--keep names {taken[0]!r}, which predictions have a column for. Rename the column of "
            "the table."
        )
    carried = tuple(dict.fromkeys([*job.data.id_columns, *keep]))
    # A copy, unchecked: what is carried may be a feature as well.
    carrying = job.data.model_copy(update={"id_columns": carried})
    return job.model_copy(update={"data": carrying})


def _read(data: str, kinds: Mapping[str, FeatureKind], job: JobConfig) -> Iterator[IncomingRows]:
    """The rows; errors without the keys of a job, which predicting cannot take."""
    with _without_keys():
        # What headers and footers tell is checked before TensorFlow is imported.
        pieces = read_rows(data, kinds, job.data)

    def read() -> Iterator[IncomingRows]:
        with _without_keys():
            yield from pieces

    return read()


@contextmanager
def _without_keys(instead: str = _WAY_OUT) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise DataError(without_keys(str(error), instead=instead)) from error


def _trained_on(files: Sequence[Path], data: str, job: JobConfig, report: Report) -> bool:
    """Whether rows that trained may be among those of these files."""
    if not files:
        return data == job.data.source
    try:
        own = [] if is_builtin(job.data.source) else find_files(job.data.source)
    except DataError:
        own = []
    if any(file.samefile(other) for file in files for other in own):
        return True
    found, kept = fingerprint_files(files), report.data.fingerprint
    return (found.method, found.value) == (kept.method, kept.value)


def open_finished(run: Path) -> RunPaths:
    """The folder of a finished run that has its model.

    Raises:
        JobError: If it is none, or has none.
    """
    paths = open_run(run)
    if not paths.report.is_file():
        raise JobError(
            f"Predicting needs a finished run, but {run} has no report.json. "
            f"Finish it with {quote_command('resume', run)}, or choose another run."
        )
    if not paths.model.is_file():
        again = quote_command("run", paths.job, "output.model=true")
        keeps = load_job(paths.job).output.model
        why = f"{paths.model} is gone" if keeps else f"{run} was told not to keep it"
        raise JobError(f"Predicting needs the run's model, but {why}. Run the job again: {again}.")
    return paths


def load_model(run: Path) -> Any:
    """The Keras model of a finished run, loaded into this process as it is.

    Raises:
        JobError: If the run has none, or the file is damaged.
        MissingError: If Keras cannot be imported.
    """
    paths = open_finished(run)
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    try:
        with importing_tensorflow():
            from dnnjob.training.export import load_keras
    except ImportError as error:
        raise MissingError(
            f"A model is loaded by Keras and TensorFlow, but they cannot be imported ({error}). "
            "Install dnnjob[cpu] or dnnjob[gpu]."
        ) from error
    return load_keras(paths.model)


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


def _make_table(first: int, rows: IncomingRows, found: "Prediction") -> "pa.Table":
    import pyarrow as pa

    row_id = np.arange(first, first + len(found.y_pred), dtype=np.int64)
    columns: dict[str, Any] = {"row_id": row_id}
    if rows.y_true is not None:
        columns["y_true"] = pa.array(rows.y_true, pa.float64(), from_pandas=True)
    columns["y_pred"] = pa.array(found.y_pred, pa.float64())
    if found.y_std is not None:
        columns["y_std"] = pa.array(found.y_std, pa.float64())
    table = pa.table(columns)
    for name, column in rows.ids.items():
        table = table.append_column(name, column)
    return table


def _announce(predicted: Predicted, data: str, kinds: Mapping[str, FeatureKind]) -> None:
    logger.info("Predicted %s of %s.", counted(predicted.num_rows, "row"), data)
    if predicted.num_not_finite:
        logger.warning(
            "%s not finite: look for extreme values there.",
            counted(predicted.num_not_finite, "prediction"),
        )
    if predicted.drift:
        dates = [name for name, kind in kinds.items() if kind == "datetime"]
        logger.warning("%s", describe_findings(predicted.drift, dates=dates))
    if predicted.num_known:
        whose = (
            "rows that trained the run are among them, so this is no error on new rows"
            if predicted.holds_training_rows
            else "the run was trained on other files, which may hold rows of these"
        )
        logger.info(
            "MSE %.4g on the %s whose target is known; %s.",
            predicted.squared_error / predicted.num_known, counted(predicted.num_known, "row"),
            whose,
        )  # fmt: skip
