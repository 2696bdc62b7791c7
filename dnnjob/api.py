"""The commands for a notebook or a script: the same code, with tables, records and exceptions.

run = dnnjob.run("jobs/housing.toml", "seed=7")
run.report.metrics.test.mse, run.predictions(), run.predict(frame)
dnnjob.collect("runs", where="state=COMPLETED", by="auto")
"""

import copy
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from dnnjob.config import JobConfig, load_job, make_job, make_points, to_toml
from dnnjob.errors import ExitCode, JobError, NonFiniteError, PeerLostError
from dnnjob.in_memory import hold_tables, to_arrow, write_parquet
from dnnjob.launch.apart import Ended, do_apart
from dnnjob.launch.watch.run_views import RunView, look
from dnnjob.python_talk import speaking_python
from dnnjob.runs import RunPaths, State, SweepPaths, read_sweep
from dnnjob.runs import open_run as find_run

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from dnnjob.collect.compare import Comparison
    from dnnjob.results.report import PlotName, Report

Path_ = str | os.PathLike[str]
Job = Path_ | Mapping[str, Any] | JobConfig
"""A job file, its tables as a dictionary, or a job."""
Where = str | Sequence[str] | Mapping[str, object]

T = TypeVar("T")
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
        with speaking_python():
            (view,) = look([self._paths])
        return view

    def predictions(self) -> "pd.DataFrame":
        """`row_id`, `split`, `y_true`, `y_pred` in target units, and id columns, by row.

        Raises:
            JobError: If the run has none.
        """
        from dnnjob.results.report import read_predictions

        with speaking_python():
            return _to_frame(read_predictions(self._paths.predictions))

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
            `row_id` (0-based), `y_true` where the table has the target, and `y_pred`, with the
            index of the table if it has one.

        Raises:
            JobError: If the run has no model.
            DataError: If the table lacks a column of the model, or holds other values there.
        """
        import pyarrow.parquet as pq

        from dnnjob.predict import open_finished

        with speaking_python(aloud=True) as talk, tempfile.TemporaryDirectory() as folder:
            open_finished(self.path)
            data, out = Path(folder) / "table.parquet", Path(folder) / "predictions.parquet"
            if isinstance(table, (str, os.PathLike)):
                data = Path(table)
            else:
                write_parquet(to_arrow(table, name="The table"), data)
            ended = do_apart(
                "predict",
                command=["predict", str(self.path), str(data)],
                listener=talk.without_info(),
                run=str(self.path),
                data=os.fspath(data),
                out=str(out),
                keep=list(keep),
            )
            _raise_fault(ended)
            frame = _to_frame(pq.read_table(out))
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
            _raise_fault(ended)
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
            _raise_fault(ended, self._paths)
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
        from dnnjob.launch.watch.status_table import describe_view
        from dnnjob.results.run_head import render_head

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

        with speaking_python():
            views = look([RunPaths(run.path) for run in self.runs])
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

    def resume(self, *overrides: str, here: bool = False) -> "Sweep":
        """Goes on with those that have ended without being complete, as `Run.resume` does."""
        runs = self.runs
        with speaking_python():
            views = look([RunPaths(run.path) for run in runs])
        for run, view in zip(runs, views, strict=True):
            if view.is_over and view.state != "COMPLETED":
                run.resume(*overrides, here=here)
        return self

    def collect(
        self, *, where: Where = (), by: str | Sequence[str] | None = None
    ) -> "pd.DataFrame":
        """Its runs in one table, as `dnnjob.collect` gives it."""
        return collect(self.path, where=where, by=by)

    def best(self, *, metric: str = "validation_mse", where: Where = ()) -> Run:
        """Its best run, as `dnnjob.best` finds it."""
        return best(self.path, metric=metric, where=where)

    def __repr__(self) -> str:
        return f"Sweep({str(self.path)!r})"

    def _repr_html_(self) -> str:
        return self.collect(by="auto").to_html(index=False, max_rows=20)


def run(job: Job, *overrides: str, root: Path_ = "runs") -> Run | Sweep:
    """Runs a job here and now, and returns once it has ended.

    It runs in a process of its own, as `dnnjob run` does. An interrupt of this one ends it with a
    checkpoint, from which `resume` goes on.

    Args:
        job: A job file, or its tables as a dictionary, whose paths are relative to the working
            folder. `job["data"]["source"]` may be a table of pandas or Arrow: it is written below
            the root, so that the run's `job.toml` repeats the run.
        overrides: `KEY=VALUE` words, as on the command line.
        root: Folder that holds runs.

    Returns:
        The run, or the sweep of a job with `[sweep]`; a warning tells of points that failed.

    Raises:
        JobError: If the job is wrong; nothing has been written.
        DataError: If the table cannot be trained on.
        DnnJobError: If the run failed; a note of the error names its folder.
        KeyboardInterrupt: If it was interrupted, once its checkpoint is written.
    """
    with speaking_python(aloud=True) as talk, _job_file(job, overrides, Path(root)) as asked:
        ended = do_apart(
            "run",
            command=["run", *asked.command, "--root", str(root)],
            listener=talk,
            job=str(asked.file),
            words=asked.words,
            root=str(root),
        )
        if not ended.folders or not asked.is_sweep:
            _raise_fault(ended, RunPaths(ended.folders[-1]) if ended.folders else None)
            return Run(ended.folders[-1])
        sweep = Sweep(_find_sweep(ended.folders[0]))
        if ended.code is not ExitCode.DONE:
            talk.warn(f"Not all runs of the sweep are complete: {ended.error}")
    return sweep


def submit(
    job: Job, *overrides: str, profile: Path_, root: Path_ = "runs", force: bool = False
) -> Run | Sweep:
    """Sends a job to Slurm, or into the background of this machine, and returns at once.

    Args:
        job: As `run` takes it.
        overrides: `KEY=VALUE` words, and `profile.KEY=VALUE` for the profile.
        profile: A TOML profile, or the name of one: "local" is this machine.
        root: Folder that holds runs.
        force: Submits although something looks wrong.

    Raises:
        JobError: If job or profile cannot work, or Slurm refuses them; nothing is left.
        DataError: If the table cannot be trained on.
        SlurmError: If Slurm does not answer.
    """
    with speaking_python(aloud=True) as talk, _job_file(job, overrides, Path(root)) as asked:
        place = ["--profile", str(profile), "--root", str(root)]
        ended = do_apart(
            "submit",
            command=["submit", *asked.command, *place],
            listener=talk,
            job=str(asked.file),
            words=asked.words,
            profile=str(profile),
            root=str(root),
            force=force,
        )
        _raise_fault(ended)
    return _open(ended.folders[-1])


def open_run(path: Path_) -> Run:
    """The run in a folder.

    Raises:
        JobError: If there is none.
    """
    with speaking_python():
        return Run(find_run(Path(path)).root)


def open_sweep(path: Path_) -> Sweep:
    """The sweep in a folder, `ROOT/<name>/sweeps/<sweep id>`.

    Raises:
        JobError: If there is none.
    """
    paths = SweepPaths(Path(path).absolute())
    with speaking_python():
        read_sweep(paths)
    return Sweep(paths.root)


def collect(
    root: Path_,
    *,
    where: Where = (),
    by: str | Sequence[str] | None = None,
    sort: str | None = None,
) -> "pd.DataFrame":
    """Every run under a folder in one table, least validation MSE first.

    Args:
        root: A root, a job's folder, one run, or one sweep.
        where: Conditions that every line meets: "COLUMN=VALUE", with `<` and `>` too, several of
            them, or a dictionary of columns and values.
        by: A line a setting, with the mean over its runs: the columns that make one, or "auto" for
            all that vary but the seeds. Default: a line a run.
        sort: Column to sort by, largest first with a leading `-`.

    Returns:
        The columns that DESIGN's collected table has, with types that know gaps: `Int64`,
        `string`, `boolean`, floats, and times in UTC.

    Raises:
        JobError: If `root` is no folder, or a condition or column is none.
    """
    from dnnjob.collect.collected_runs import read_runs
    from dnnjob.collect.selection import choose_lines, shape_lines

    with speaking_python():
        lines = choose_lines(read_runs(Path(root)), _conditions(where))
        keys = by if by is None or isinstance(by, str) else ",".join(by)
        keys = "" if keys == "auto" else keys
        return _to_frame(shape_lines(lines, sort=sort, by=keys, columns=None))


def compare(first: Run | Path_, second: Run | Path_) -> "Comparison":
    """What differs between two finished runs, and the paired difference of their test errors.

    Raises:
        JobError: If one is no run, or not complete.
        DataError: If a report or predictions cannot be read.
    """
    from dnnjob.collect.compare import compare_runs

    with speaking_python():
        return compare_runs(_folder(first), _folder(second))


def best(root: Path_, *, metric: str = "validation_mse", where: Where = ()) -> Run:
    """The complete run with the least validation MSE.

    Args:
        root: A root, a job's folder, or one sweep.
        metric: Another column of `collect`; the largest wins with a leading `-`. Test rows that
            choose a run cannot judge it any more: a warning says so.
        where: Conditions, as `collect` takes them.

    Raises:
        JobError: If no complete run has the metric, or runs of several tables are among them.
    """
    from dnnjob.collect.best import choose_best

    with speaking_python():
        return Run(choose_best(Path(root), metric=metric, where=_conditions(where)).absolute())


@dataclass(frozen=True)
class _Asked:
    """A job as a file."""

    file: Path
    words: list[str]
    command: list[str]
    """What stands for it on a command line."""
    is_sweep: bool


@contextmanager
def _job_file(job: Job, words: Sequence[str], root: Path) -> Iterator[_Asked]:
    """The job as a file, which is gone afterwards if there was none.

    Raises:
        JobError: If it is no valid job.
    """
    if isinstance(job, (str, os.PathLike)):
        own = [word for word in words if not word.startswith("profile.")]
        loaded, path = load_job(Path(job), overrides=own), os.fspath(job)
        yield _Asked(Path(job), list(words), [path, *words], len(make_points(loaded)) > 1)
        return
    if not isinstance(job, (Mapping, JobConfig)):
        raise JobError(
            f"A job is a file, a dictionary or a JobConfig, but got {type(job).__name__}. "
            "Give one of these."
        )
    values = job.model_dump(exclude_none=True) if isinstance(job, JobConfig) else job
    held = hold_tables(values, root=root)
    own = [word for word in words if not word.startswith("profile.")]
    made = make_job(copy.deepcopy(held.values), overrides=own, folder=Path.cwd(), origin="The job")
    held.write()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "job.toml"
        file.write_text(to_toml(made), encoding="utf-8")
        # The run's own job.toml repeats it.
        rest = [word for word in words if word.startswith("profile.")]
        yield _Asked(file, rest, ["job.toml", *rest], len(make_points(made)) > 1)


def _raise_fault(ended: Ended, paths: RunPaths | None = None) -> None:
    """Raises what the process ended with, if that was an error."""
    if ended.code is ExitCode.DONE:
        return
    error = ended.make_error()
    if paths is not None:
        (view,) = look([paths])
        if view.reason in _REASONS and not ended.kind:
            error = _REASONS[view.reason](ended.error)
        error.add_note(f"Run folder: {paths.root}")
    raise error


def _find_sweep(run: Path) -> Path:
    """The folder of the sweep that a run belongs to."""
    for folder in sorted((run.parent / "sweeps").glob("*"), reverse=True):
        paths = SweepPaths(folder)
        if paths.sweep.is_file() and any(
            paths.run(point).root == run for point in read_sweep(paths).points
        ):
            return folder
    raise JobError(f"A point of a sweep is named by it, but no sweep beside {run} does.")


def _open(folder: Path) -> Run | Sweep:
    return Sweep(folder) if SweepPaths(folder).sweep.is_file() else Run(folder)


def _wait(place: Path) -> ExitCode:
    from dnnjob.launch.watch.wait import wait_command

    with speaking_python(aloud=True):
        return wait_command(place)


def _cancel(place: Path) -> None:
    from dnnjob.launch.watch.cancel import cancel_command

    with speaking_python(aloud=True):
        cancel_command(place)


def _folder(run: Run | Path_) -> Path:
    return run.path if isinstance(run, Run) else Path(run)


def _conditions(where: Where) -> list[str]:
    if isinstance(where, str):
        return [where]
    if isinstance(where, Mapping):
        return [f"{column}={_as_text(value)}" for column, value in where.items()]
    return list(where)


def _as_text(value: object) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _to_frame(table: "pa.Table") -> "pd.DataFrame":
    """The table with types of pandas that know gaps."""
    import pandas as pd
    import pyarrow as pa

    types = {
        pa.int64(): pd.Int64Dtype(),
        pa.bool_(): pd.BooleanDtype(),
        pa.string(): pd.StringDtype(),
    }
    frame: pd.DataFrame = table.to_pandas(types_mapper=types.get)
    return frame
