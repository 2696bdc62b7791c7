"""What Python holds of runs and sweeps: their folders, and what can be done with them.

run = Run(Path("runs/housing/20261123-101500-3f9a1c"))
run.report.metrics.test.mse, run.predict(frame)
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dnnjob.config import JobConfig, load_job
from dnnjob.errors import ExitCode, JobError, NonFiniteError, PeerLostError
from dnnjob.frames import Where, best_folder, collect_frame, to_frame
from dnnjob.in_memory import to_arrow
from dnnjob.launch.apart import Ended, do_apart
from dnnjob.launch.watch.run_views import RunView, look
from dnnjob.python_talk import Talk, in_python, speaking_python
from dnnjob.runs import RunPaths, State, SweepPaths, read_sweep

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from dnnjob.results.report import PlotName, Report

Path_ = str | os.PathLike[str]

_REASONS = {"nan": NonFiniteError, "peer_lost": PeerLostError}


@dataclass(frozen=True, repr=False)
class Run:
    """One execution of a job, wherever it is: its files, how it stands, and what it can do."""

    path: Path
    """The run folder."""

    @property
    def run_id(self) -> str:
        """The folder's own name."""
        return self.path.name

    @property
    def job(self) -> JobConfig:
        """The resolved job, every default filled in.

        Raises:
            JobError: If the file is damaged, or of a later version of dnnjob.
        """
        with speaking_python():
            try:
                return load_job(self._paths.job)
            except JobError:
                if self._paths.report.is_file():
                    # One of a later format says so.
                    self._read_report()
                raise

    @property
    def state(self) -> State | None:
        """How it stands now, as `status()` judges it; None if its files cannot be read."""
        return self.status().state

    @property
    def report(self) -> "Report":
        """All of `report.json`, typed.

        Raises:
            JobError: If the run is not complete.
            DataError: If the report cannot be read, or is of a later format.
        """
        with speaking_python():
            return self._read_report()

    @property
    def plots(self) -> "dict[PlotName, Path]":
        """The plots that were drawn, by name, as PNG files."""
        from dnnjob.results.report_page import CAPTIONS

        files = {name: self._paths.plots / f"{name}.png" for name in CAPTIONS}
        return {name: file for name, file in files.items() if file.is_file()}

    def status(self) -> RunView:
        """What it is doing: state, epoch, loss, time left, and why it waits or ended.

        Files and processes are asked, and Slurm for a run that was sent there.
        """
        (view,) = _look([self])
        return view

    def predictions(self) -> "pd.DataFrame":
        """`row_id`, `split`, `y_true`, `y_pred` in target units, by row, as the run has them.

        Of several members also `y_std`, of calibrated runs `y_lower` and `y_upper`; then ids.

        Raises:
            JobError: If the run has none.
        """
        from dnnjob.results.report import read_all_predictions

        with speaking_python():
            return to_frame(read_all_predictions(self._paths.predictions))

    def history(self) -> "pd.DataFrame":
        """`epoch`, `loss`, `val_loss`, `learning_rate`, `seconds`, a line an epoch.

        Raises:
            JobError: If the run is not complete.
        """
        import pandas as pd

        from dnnjob.results.report import read_history

        with speaking_python():
            history = read_history(self._paths.history)
        columns = {"epoch": range(1, len(history.loss) + 1), **vars(history)}
        return pd.DataFrame(columns).astype({"val_loss": "float64"})

    def model(self) -> Any:
        """The Keras model: a dictionary of raw columns in, target units out.

        It is loaded into this process, by Keras alone; `predict` needs none of that.

        Raises:
            JobError: If the run has none.
            MissingError: If Keras cannot be imported.
        """
        from dnnjob.predict import load_model

        with speaking_python():
            return load_model(self.path)

    def predict(
        self, table: "pd.DataFrame | pa.Table | Path_", *, keep: Sequence[str] = ()
    ) -> "pd.DataFrame":
        """Predicts every row of a table as the command does, in a process of its own.

        Args:
            table: A table, or files as in `data.source`; further columns are left alone.
            keep: Its columns that stand beside the predictions.

        Returns:
            `row_id` (0-based), `y_true` where the table has the target, and `y_pred`; of several
            members also `y_std`, of a run with intervals `y_lower` and `y_upper`; with the index
            of the table if it has one.

        Raises:
            JobError: If the run has no model.
            DataError: If the table lacks a column of the model, or holds other values there.
        """
        import pyarrow.parquet as pq

        from dnnjob.data.parquet import write_parquet
        from dnnjob.predict import open_finished

        with speaking_python(aloud=True) as talk, tempfile.TemporaryDirectory() as folder:
            open_finished(self.path)
            data, out = Path(folder) / "table.parquet", Path(folder) / "predictions.parquet"
            if isinstance(table, (str, os.PathLike)):
                data = Path(table)
            else:
                write_parquet(data, to_arrow(table, name="The table"))
            ended = do_apart(
                "predict",
                command=["predict", str(self.path), str(data)],
                listener=talk.without_info(),
                run=str(self.path),
                data=os.fspath(data),
                out=str(out),
                keep=list(keep),
            )
            # A file of an hour is none that the caller knows.
            ended.error = ended.error.replace(str(Path(folder) / "table.parquet"), "the table")
            ended.error = ended.error[:1].upper() + ended.error[1:]
            raise_fault(ended)
            frame = to_frame(pq.read_table(out))
        index = getattr(table, "index", None)
        return frame if index is None or callable(index) else frame.set_axis(index)

    def export(self, to: Literal["saved-model", "keras"], out: Path_) -> Path:
        """Writes the model for programs that know nothing of dnnjob; where.

        Args:
            to: `saved-model`, which takes raw columns by name and gives `y_pred`, or `keras`.
            out: A new folder for a SavedModel, or a `.keras` file.

        Raises:
            JobError: If the run has no model, or `out` cannot be.
            MissingError: If it cannot be written.
        """
        with speaking_python(aloud=True) as talk:
            ended = do_apart(
                "export",
                command=["export", str(self.path), "--to", to, "--out", str(out)],
                listener=talk,
                run=str(self.path),
                to=to,
                out=str(out),
            )
            raise_fault(ended)
        return Path(out)

    def wait(self) -> ExitCode:
        """Waits until it has ended; DONE, FAILED or, of a cancelled one, TERMINATED."""
        return _wait(self.path)

    def cancel(self) -> None:
        """Ends it, waiting or at work; one at work writes a checkpoint first."""
        _cancel(self.path)

    def logs(self, *, task: int = 0) -> str:
        """What a task of it has said, in all its attempts; empty where it kept no log."""
        from dnnjob.launch.watch.logs import read_logs

        with speaking_python():
            return read_logs(self._paths, rank=task)

    def resume(self, *overrides: str, here: bool = False) -> "Run":
        """Goes on with a run that has ended, from its newest checkpoint.

        Args:
            overrides: `KEY=VALUE` for its devices, `profile.KEY=VALUE` for its profile; for a
                complete one `train.epochs=NUMBER`.
            here: Whether to go on in the foreground, wherever it ran before.

        Raises:
            JobError: If it is alive, or a word would make it another job.
        """
        with speaking_python(aloud=True) as talk:
            ended = do_apart(
                "resume",
                command=["resume", str(self.path), *overrides, *(["--here"] if here else [])],
                listener=talk,
                run=str(self.path),
                words=list(overrides),
                here=here,
            )
            raise_fault(ended, self._paths)
        return self

    @property
    def _paths(self) -> RunPaths:
        return RunPaths(self.path)

    def _read_report(self) -> "Report":
        from dnnjob.results.report import read_report

        return read_report(self._paths.report)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def _repr_html_(self) -> str:
        from dnnjob.launch.watch.status import describe_view
        from dnnjob.results.report_page import render_head

        view = self.status()
        is_complete = view.state == "COMPLETED" and self._paths.report.is_file()
        return render_head(
            "COMPLETED" if is_complete else describe_view(view),
            name=view.name,
            run_id=self.run_id,
            path=str(self.path),
            report=self.report if is_complete else None,
            plots=self._paths.plots,
        )


@dataclass(frozen=True, repr=False)
class Sweep:
    """Many runs from one job."""

    path: Path
    """The folder of the sweep."""

    @property
    def runs(self) -> tuple[Run, ...]:
        """Its runs, in the order of its points.

        Raises:
            JobError: If the sweep cannot be read.
        """
        paths = SweepPaths(self.path)
        with speaking_python():
            return tuple(Run(paths.run(point).root) for point in read_sweep(paths).points)

    def status(self) -> "pd.DataFrame":
        """What its runs are doing, a line a run."""
        import pandas as pd

        views = _look(self.runs)
        rows = [
            {**view.model_dump(exclude={"progress"}), **view.progress.model_dump()}
            for view in views
        ]
        return pd.DataFrame(rows)

    def wait(self) -> ExitCode:
        """Waits until all have ended; the exit code is the worst."""
        return _wait(self.path)

    def cancel(self) -> None:
        """Ends all that wait or are at work."""
        _cancel(self.path)

    def logs(self, *, task: int = 0) -> str:
        """What a task of each run has said, one run below the other."""
        return "\n".join(filter(None, (run.logs(task=task) for run in self.runs)))

    def resume(self, *, here: bool = False) -> "Sweep":
        """Goes on with all that have not completed, together as they were.

        Args:
            here: Whether to go on in the foreground, wherever they ran before.

        Raises:
            JobError: If one is alive.
        """
        with speaking_python(aloud=True) as talk:
            ended = do_apart(
                "resume",
                command=["resume", str(self.path), *(["--here"] if here else [])],
                listener=talk,
                run=str(self.path),
                words=[],
                here=here,
            )
            judge_sweep(ended, talk)
        return self

    def collect(
        self, *, where: Where = (), by: str | Sequence[str] | None = None
    ) -> "pd.DataFrame":
        """Its runs in one table, as `dnnjob.collect` gives it."""
        with speaking_python():
            return collect_frame(self.path, where=where, by=by, sort=None)

    def best(self, *, metric: str = "validation_mse", where: Where = ()) -> Run:
        """Its best run, as `dnnjob.best` finds it."""
        with speaking_python():
            return Run(best_folder(self.path, metric=metric, where=where))

    def __repr__(self) -> str:
        return f"Sweep({str(self.path)!r})"

    def _repr_html_(self) -> str:
        return self.collect(by="auto").to_html(index=False, max_rows=20)


def raise_fault(ended: Ended, paths: RunPaths | None = None) -> None:
    """Raises what a process ended with, if that was an error.

    Args:
        ended: The process.
        paths: The run that it was at, which the error's notes name.

    Raises:
        DnnJobError: If it was.
    """
    if ended.code is ExitCode.DONE:
        return
    error = ended.make_error()
    if paths is not None:
        (view,) = look([paths])
        if view.reason in _REASONS and not ended.kind:
            error = _REASONS[view.reason](ended.error)
        error.add_note(f"Run folder: {paths.root}")
    raise error


def judge_sweep(ended: Ended, talk: Talk) -> None:
    """Warns of points that did not complete.

    Raises:
        DnnJobError: If the sweep itself could not go on.
    """
    if ended.kind:
        raise_fault(ended)
    if ended.code is not ExitCode.DONE:
        talk.warn(f"Not all runs of the sweep are complete. {ended.error}".rstrip())


def _look(runs: Sequence[Run]) -> list[RunView]:
    """How runs stand, in the words of Python."""
    with speaking_python():
        views = look([RunPaths(run.path) for run in runs])
    return [
        view.model_copy(
            update={
                "error": view.error and in_python(view.error),
                "note": view.note and in_python(view.note),
            }
        )
        for view in views
    ]


def _wait(place: Path) -> ExitCode:
    from dnnjob.launch.watch.wait import wait_command

    with speaking_python(aloud=True):
        return wait_command(place)


def _cancel(place: Path) -> None:
    from dnnjob.launch.watch.cancel import cancel_command

    with speaking_python(aloud=True):
        cancel_command(place)
