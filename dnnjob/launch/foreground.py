"""Runs in this process: one, or the points of a sweep in turn.

code = run_foreground(Path("jobs/housing.toml"), ["seed=7"], root=Path("runs"))
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from dnnjob.clock import Stopwatch
from dnnjob.config import (
    Point,
    list_keys,
    load_job,
    load_job_again,
    make_points,
    parse_devices,
)
from dnnjob.data.sources import peek_columns
from dnnjob.errors import DnnJobError, ExitCode, MissingError
from dnnjob.launch.local_tasks import run_local_tasks, run_processes
from dnnjob.launch.outcome import explain_os_error
from dnnjob.launch.own_process import TroubleFilter, filtering_stderr
from dnnjob.launch.shared_step import refuse_other_tasks, share_run
from dnnjob.launch.worker import clear_complete, run_attempt
from dnnjob.machine import process_age_s
from dnnjob.results.report import read_report
from dnnjob.runs import (
    RunPaths,
    State,
    Sweep,
    SweepPaths,
    SweepPoint,
    create_run,
    create_sweep,
    latest_attempt,
    open_run,
    read_settled,
    write_resumption,
    write_sweep,
)
from dnnjob.tasks import StopFlag, Task, find_task
from dnnjob.text import align

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ended:
    """A run that this process, or one started by it, has brought to an end."""

    point: Point
    paths: RunPaths
    code: ExitCode


def run_foreground(job_file: Path, overrides: Sequence[str], *, root: Path) -> ExitCode:
    """Runs a job here and now, and prints the folder of each run to stdout.

    Returns:
        The worst exit code of the runs.

    Raises:
        JobError: If job file or overrides are wrong; nothing has been written.
        DataError: If the table is missing or lacks a column; nothing has been written.
    """
    points = make_points(load_job(job_file, overrides=overrides))
    # Each once: points may be many, and so the files of a table.
    for data in {point.job.data.model_dump_json(): point.job.data for point in points}.values():
        peek_columns(data)
    if len(points) > 1:
        return run_sweep(points, root=root)
    task = find_task()
    paths = _make_run(points[0], root=root, task=task)
    return _run_new(points[0], paths, task=task, age_s=process_age_s()).code


def run_sweep(points: Sequence[Point], *, root: Path) -> ExitCode:
    """Runs the points of a sweep in turn, tells their results, and returns the worst exit code.

    A signal that stops one ends the sweep.
    """
    ended: list[Ended] = []
    sweep, stop = _Sweep(find_task(), points, root), StopFlag()
    codes = [ExitCode.DONE]
    with stop.listening():
        try:
            for number in range(1, len(points) + 1):
                # A signal may come after the last look of a point, or between two.
                stop.check()
                ended.append(sweep.run(number, stop=stop))
                if ended[-1].code in (ExitCode.INTERRUPTED, ExitCode.TERMINATED):
                    break
        except DnnJobError as error:
            if not ended:
                raise
            logger.error("The sweep ended after %d of %d runs: %s", len(ended), len(points), error)
            codes.append(error.exit_code)
    logger.info("\n%s", "\n".join(align([_heading(points[0]), *map(_outcome, ended)])))
    return max(*codes, *(run.code for run in ended))


def resume_foreground(folder: Path, words: Sequence[str] = ()) -> ExitCode:
    """Goes on with a run here and now; of a complete one, leftovers are removed.

    Args:
        folder: The run.
        words: `KEY=VALUE` for other devices than it had.

    Raises:
        JobError: If there is no such run, another goes on with it, or the words ask for another
            number of tasks than Slurm has started.
    """
    paths, task = open_run(folder), find_task()
    num_tasks = load_job_again(paths.job, words).devices.tasks
    if task.num_tasks > 1 and "devices.tasks" in list_keys(words):
        refuse_other_tasks(num_tasks, task)
    if task.is_chief:
        print(paths.root, flush=True)
    after = latest_attempt(paths)
    if _read_state(paths) == "COMPLETED" and not paths.first_checkpoint.is_file():
        if task.is_chief:
            # It may have been killed before it had cleared up.
            clear_complete(paths)
            logger.info("%s is complete: nothing is left to do.", paths.root)
        return ExitCode.DONE
    watch = Stopwatch(age_s=process_age_s())
    if not task.is_chief:
        return run_attempt(paths, task=task, watch=watch)
    write_resumption(paths, parse_devices(words))
    if task.num_tasks == 1 and num_tasks > 1:
        return run_local_tasks(paths, num_tasks=num_tasks, after=after)
    return run_attempt(paths, task=task, watch=watch, after=after)


@dataclass(frozen=True)
class _Sweep:
    """The points of a sweep and what they share."""

    task: Task
    points: Sequence[Point]
    root: Path
    told: TroubleFilter = field(default_factory=TroubleFilter)
    """What stderr hears of the points."""

    @cached_property
    def listed(self) -> "_SweepList":
        """The sweep's file."""
        return _SweepList(self.root, self.points[0].job.name)

    def run(self, number: int, *, stop: StopFlag) -> Ended:
        """Runs one point to its end.

        Args:
            number: Its number, from 1.
            stop: The wish to stop, which all points share.

        Raises:
            MissingError: If its folder or the sweep's file cannot be written.
        """
        point = self.points[number - 1]
        logger.info("Run %d of %d: %s", number, len(self.points), _setting(point))
        # TensorFlow takes threads, devices and precision once a process.
        apart = point.job.devices != self.points[0].job.devices
        age_s = process_age_s() if number == 1 else 0.0
        place = replace(self.task, point=number, launch=f"{self.task.launch}-{number}")
        paths = _make_run(point, root=self.root, task=place)
        if self.task.is_chief:
            self.listed.add(point, paths)
        # Each point's own log has the rest, and the table at the end its result.
        with filtering_stderr(self.told):
            return _run_new(point, paths, task=place, age_s=age_s, apart=apart, stop=stop)


class _SweepList:
    """The sweep's file, which names each run once it has its folder."""

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.name = root.absolute(), name
        self.paths: SweepPaths | None = None
        self.points: list[SweepPoint] = []

    def add(self, point: Point, run: RunPaths) -> None:
        """Names one more.

        Raises:
            MissingError: If that cannot be written.
        """
        self.paths = self.paths or create_sweep(self.root, self.name)
        place = str(run.root.relative_to(self.root))
        number = len(self.points) + 1
        self.points.append(SweepPoint(number=number, values=point.values, run=place))
        sweep_id, points = self.paths.sweep_id, tuple(self.points)
        try:
            write_sweep(self.paths, Sweep(sweep_id=sweep_id, name=self.name, points=points))
        except OSError as error:
            raise MissingError(explain_os_error(error, run)) from error


def _run_new(
    point: Point,
    paths: RunPaths,
    *,
    task: Task,
    age_s: float,
    apart: bool = False,
    stop: StopFlag | None = None,
) -> Ended:
    if task.is_chief:
        print(paths.root, flush=True)
    num_tasks = point.job.devices.tasks
    if task.num_tasks > 1 and task.point:
        # A process can join the tasks of one run only.
        code = run_processes(paths, [task], stop=stop)
    elif task.num_tasks > 1:
        code = run_attempt(paths, task=task, watch=Stopwatch(age_s=age_s), stop=stop)
    elif apart or num_tasks > 1:
        code = run_local_tasks(paths, num_tasks=num_tasks, stop=stop)
    else:
        code = run_attempt(paths, watch=Stopwatch(age_s=age_s), stop=stop)
    return Ended(point, paths, code)


def _make_run(point: Point, *, root: Path, task: Task) -> RunPaths:
    if task.num_tasks > 1:
        return share_run(root, point.job, task=task)
    return create_run(root, point.job)


def _setting(point: Point) -> str:
    return ", ".join(f"{key} = {value}" for key, value in point.values.items())


def _heading(point: Point) -> tuple[str, ...]:
    return (*point.values, "state", "test MSE", "run folder")


def _read_state(paths: RunPaths) -> State | None:
    try:
        return read_settled(paths).state
    except (OSError, ValueError):
        return None


def _outcome(run: Ended) -> tuple[str, ...]:
    state = _read_state(run.paths)
    test = read_report(run.paths.report).metrics.test if state == "COMPLETED" else None
    values = map(str, run.point.values.values())
    return (
        *values,
        state or "unknown",
        "-" if test is None else f"{test.mse:.6g}",
        str(run.paths.root),
    )
