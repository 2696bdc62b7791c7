"""Runs in this process: one, or the points of a sweep in turn.

code = run_foreground(Path("jobs/housing.toml"), ["seed=7"], root=Path("runs"))
"""

from collections.abc import Sequence
from pathlib import Path

from dnnjob.clock import Stopwatch
from dnnjob.config import load_job, make_points
from dnnjob.data.sources import peek_columns
from dnnjob.errors import ExitCode
from dnnjob.launch.worker import run_attempt
from dnnjob.machine import process_age_s
from dnnjob.runs import create_run, open_run, read_status


def run_foreground(job_file: Path, overrides: Sequence[str], *, root: Path) -> ExitCode:
    """Runs a job here and now, and prints the folder of each run to stdout.

    Returns:
        The worst exit code of the runs.

    Raises:
        JobError: If job file or overrides are wrong; nothing has been written.
        DataError: If the table is missing or lacks a column; nothing has been written.
    """
    points = make_points(load_job(job_file, overrides=overrides))
    for point in points:
        peek_columns(point.job.data)
    worst = ExitCode.DONE
    age_s = process_age_s()
    for point in points:
        paths = create_run(root, point.job)
        print(paths.root, flush=True)
        code = run_attempt(paths, watch=Stopwatch(age_s=age_s))
        if code in (ExitCode.INTERRUPTED, ExitCode.TERMINATED):
            return code
        worst, age_s = max(worst, code), 0.0
    return worst


def resume_foreground(folder: Path) -> ExitCode:
    """Goes on with a run here and now; a complete one is left alone.

    Raises:
        JobError: If there is no such run, or it is still at work.
    """
    paths = open_run(folder)
    print(paths.root, flush=True)
    status = read_status(paths)
    if status.state == "COMPLETED":
        return ExitCode.DONE
    return run_attempt(paths, watch=Stopwatch(age_s=process_age_s()))
