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
from typing import TYPE_CHECKING, Any

from dnnjob.config import JobConfig, load_job, make_job, make_points, split_words, to_toml
from dnnjob.errors import JobError
from dnnjob.frames import Where, best_folder, collect_frame
from dnnjob.in_memory import hold_tables
from dnnjob.launch.apart import do_apart
from dnnjob.python_talk import speaking_python
from dnnjob.run_handles import Path_, Run, Sweep, judge_sweep, raise_fault
from dnnjob.runs import SWEEPS, RunPaths, SweepPaths, read_sweep
from dnnjob.runs import open_run as find_run

if TYPE_CHECKING:
    import pandas as pd

    from dnnjob.collect.compare import Comparison

Job = Path_ | Mapping[str, Any] | JobConfig
"""A job file, its tables as a dictionary, or a job."""


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
            raise_fault(ended, RunPaths(ended.folders[-1]) if ended.folders else None)
            return Run(ended.folders[-1])
        judge_sweep(ended, talk)
        return Sweep(_find_sweep(ended.folders[0]))


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
        raise_fault(ended)
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
    with speaking_python():
        return collect_frame(Path(root), where=where, by=by, sort=sort)


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
    with speaking_python():
        return Run(best_folder(Path(root), metric=metric, where=where))


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
    own, rest = split_words(words)
    if isinstance(job, (str, os.PathLike)):
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
    made = make_job(copy.deepcopy(held.values), overrides=own, folder=Path.cwd(), origin="The job")
    held.write()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "job.toml"
        file.write_text(to_toml(made), encoding="utf-8")
        # The run's own job.toml repeats it.
        yield _Asked(file, rest, ["job.toml", *rest], len(make_points(made)) > 1)


def _find_sweep(run: Path) -> Path:
    """The folder of the sweep that a run belongs to."""
    for folder in sorted((run.parent / SWEEPS).glob("*"), reverse=True):
        paths = SweepPaths(folder)
        if paths.sweep.is_file() and any(
            paths.run(point).root == run for point in read_sweep(paths).points
        ):
            return folder
    raise JobError(f"A point of a sweep is named by it, but no sweep beside {run} does.")


def _open(folder: Path) -> Run | Sweep:
    return Sweep(folder) if SweepPaths(folder).sweep.is_file() else Run(folder)


def _folder(run: Run | Path_) -> Path:
    return run.path if isinstance(run, Run) else Path(run)
