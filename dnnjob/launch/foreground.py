"""Runs here and now: one in this process, or the points of a sweep side by side in lanes.

The tasks of a Slurm step share a run: `srun -n 4 dnnjob run JOB` is one.

code = run_foreground(Path("jobs/housing.toml"), ["seed=7"], root=Path("runs"))
"""

import hashlib
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from dnnjob.clock import Stopwatch
from dnnjob.config import (
    JobConfig,
    Point,
    list_keys,
    load_job,
    load_job_again,
    make_points,
    parse_devices,
)
from dnnjob.data.scratch import clear_scratch
from dnnjob.data.sources import peek_columns
from dnnjob.errors import ExitCode, JobError, PeerLostError
from dnnjob.launch.halving import Order, put_in_order, refuse_halving_of_tasks
from dnnjob.launch.lane_plan import (
    LanePlan,
    PointNeeds,
    make_errand,
    needs_here,
    plan_here,
    with_stack,
)
from dnnjob.launch.lanes import Lanes
from dnnjob.launch.local_tasks import run_local_tasks
from dnnjob.launch.sweep_folder import (
    describe_plan,
    leaving_nothing,
    list_points,
    make_plan,
    make_sweep,
    sign_runs,
)
from dnnjob.launch.sweep_talk import open_talk
from dnnjob.launch.turns import ListedTurns
from dnnjob.launch.worker import clear_complete, run_attempt
from dnnjob.machine import process_age_s, process_key
from dnnjob.results.report import read_report
from dnnjob.runs import (
    SWEEPS,
    RunPaths,
    SweepPaths,
    SweepPlan,
    create_run,
    create_sweep,
    latest_attempt,
    load_run_job,
    open_run,
    read_state,
    read_sweep,
    write_resumption,
)
from dnnjob.tasks import WAIT_S, StopFlag, Task, find_task, fresh_names, looks
from dnnjob.text import align, shown

logger = logging.getLogger(__name__)
_OPEN = ("CREATED", "RUNNING")


def run_foreground(job_file: Path, overrides: Sequence[str], *, root: Path) -> ExitCode:
    """Runs a job here and now, and prints the folder of each run to stdout.

    Returns:
        The worst exit code of the runs.

    Raises:
        JobError: If job file or overrides are wrong; nothing has been written.
        DataError: If the table is missing or lacks a column; nothing has been written.
    """
    job = load_job(job_file, overrides=overrides)
    points = make_points(job)
    # Each once: points may be many, and so the files of a table.
    for data in {point.job.data.model_dump_json(): point.job.data for point in points}.values():
        peek_columns(data)
    task = find_task()
    refuse_halving_of_tasks(job.search.halving, num_tasks=task.num_tasks)
    if len(points) > 1:
        return run_sweep(points, root=root, task=task, halving=job.search.halving)
    (point,) = points
    paths = _make_run(point, root=root, task=task)
    if task.is_chief:
        print(paths.root, flush=True)
    watch, num_tasks = Stopwatch(age_s=process_age_s()), point.job.devices.tasks
    if task.num_tasks == 1 and num_tasks > 1:
        return run_local_tasks(paths, num_tasks=num_tasks)
    return run_attempt(paths, task=task, watch=watch)


def run_sweep(points: Sequence[Point], *, root: Path, task: Task, halving: int | None) -> ExitCode:
    """Runs the points of a sweep side by side, tells their results, and returns the worst code.

    A signal ends the sweep: points at work leave a checkpoint, and others are left as cancelled.

    Args:
        points: The points.
        root: Folder that holds runs.
        task: Which task of each run this process is.
        halving: `search.halving`.
    """
    jobs = [point.job for point in points]
    needs = needs_here(jobs)
    plan = plan_here(jobs, needs, task=task)
    points = [Point(point.values, with_stack(point.job, plan)) for point in points]
    told = make_plan(jobs, needs, [jobs], width=plan.width, halving=halving)
    runs = _make_runs(points, told, root=root, task=task)
    if task.is_chief:
        for paths in runs:
            print(paths.root, flush=True)
    logger.info("%s", describe_plan(told))
    return _run_points(points, runs, needs, plan=plan, task=task, halving=halving)


def resume_sweep_here(sweep: SweepPaths) -> ExitCode:
    """Goes on here with the points of a sweep that have not completed, and tells all results.

    Raises:
        JobError: If a run folder is not there.
    """
    listed, task = read_sweep(sweep), find_task()
    halving = listed.plan.halving if listed.plan else None
    refuse_halving_of_tasks(halving, num_tasks=task.num_tasks)
    runs = [open_run(sweep.run(point).root) for point in listed.points]
    jobs = [load_run_job(paths) for paths in runs]
    points = [Point(one.values, job) for one, job in zip(listed.points, jobs, strict=True)]
    needs = needs_here(jobs)
    plan = plan_here(jobs, needs, task=task, is_resumed=True)
    if task.is_chief:
        missing = [paths for paths in runs if read_state(paths) != "COMPLETED"]
        sign_runs(sweep, missing)
        for paths in missing:
            paths.cancel.unlink(missing_ok=True)
            print(paths.root, flush=True)
    return _run_points(points, runs, needs, plan=plan, task=task, halving=halving)


def _run_points(
    points: Sequence[Point],
    runs: Sequence[RunPaths],
    needs: Sequence[PointNeeds],
    *,
    plan: LanePlan,
    task: Task,
    halving: int | None,
) -> ExitCode:
    errands = [
        make_errand(paths, need, number=number)
        for number, (paths, need) in enumerate(zip(runs, needs, strict=True), start=1)
    ]
    order = put_in_order(errands, [point.job for point in points], halving=halving)
    code = run_order(order, points, plan=plan, task=task)
    lines = [_heading(points[0]), *map(_outcome, points, runs)]
    logger.info("\n%s", "\n".join(align(lines)))
    return code


def run_order(order: Order, points: Sequence[Point], *, plan: LanePlan, task: Task) -> ExitCode:
    """Runs points in lanes here and now, and leaves those as cancelled that a signal kept waiting.

    Args:
        order: The points that are to run.
        points: All points of the sweep, in the order of their numbers.
        plan: How many at a time.
        task: Which task of each run this process is.
    """
    stop, turns = StopFlag(), ListedTurns(order)
    sizes = [point.job.train.global_batch_size for point in points]
    names = [_setting(point) for point in points]
    with (
        stop.listening(),
        open_talk(len(points), lambda number: names[number - 1], batch_sizes=sizes) as talk,
    ):
        try:
            code = Lanes(plan, task=task, stop=stop, watcher=talk).work(turns)
        except KeyboardInterrupt:
            code = ExitCode.INTERRUPTED
    if task.is_chief:
        turns.cancel_rest()
    return code


def resume_foreground(
    folder: Path, words: Sequence[str] = (), *, after: int | None = None
) -> ExitCode:
    """Goes on with a run here and now; of a complete one, leftovers are removed.

    Args:
        folder: The run.
        words: `KEY=VALUE` for other devices than it had.
        after: The attempt that was the latest before anyone looked at the run's state; None is
            that of now.

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
    after = latest_attempt(paths) if after is None else after
    if read_state(paths) == "COMPLETED" and not paths.first_checkpoint.is_file():
        if task.is_chief:
            # It may have been killed before it had cleared up.
            clear_complete(paths)
            with suppress(OSError):
                clear_scratch(load_job(paths.job).data, paths.run_id, attempt=after)
            logger.info("%s is complete: nothing is left to do.", paths.root)
        return ExitCode.DONE
    watch = Stopwatch(age_s=process_age_s())
    if not task.is_chief:
        return run_attempt(paths, task=task, watch=watch)
    write_resumption(paths, parse_devices(words))
    if task.num_tasks == 1 and num_tasks > 1:
        return run_local_tasks(paths, num_tasks=num_tasks, after=after)
    return run_attempt(paths, task=task, watch=watch, after=after)


def _make_runs(
    points: Sequence[Point], plan: SweepPlan, *, root: Path, task: Task
) -> list[RunPaths]:
    """The run folders of all points, and the sweep's file that names them.

    Raises:
        MissingError: If one cannot be written; nothing is left.
    """
    if task.num_tasks > 1:
        places = [
            replace(task, point=n, launch=f"{task.launch}-{n}") for n in range(1, 1 + len(points))
        ]
        runs = [
            share_run(root, point.job, task=place)
            for point, place in zip(points, places, strict=True)
        ]
        if task.is_chief:
            list_points(create_sweep(root, points[0].job.name), points, runs, plan)
        return runs
    with leaving_nothing(root / points[0].job.name / SWEEPS) as made:
        sweep, runs = make_sweep(points, plan, root=root, made=made)
        sign_runs(sweep, runs)
        return runs


def _make_run(point: Point, *, root: Path, task: Task) -> RunPaths:
    if task.num_tasks > 1:
        return share_run(root, point.job, task=task)
    return create_run(root, point.job, process=process_key(os.getpid()))


def _setting(point: Point) -> str:
    return ", ".join(f"{key} = {shown(value)}" for key, value in point.values.items())


def _heading(point: Point) -> tuple[str, ...]:
    return (*point.values, "state", "test MSE", "run folder")


def _outcome(point: Point, paths: RunPaths) -> tuple[str, ...]:
    state = read_state(paths)
    test = read_report(paths.report).metrics.test if state == "COMPLETED" else None
    values = map(shown, point.values.values())
    return (
        *values,
        state or "unknown",
        "-" if test is None else f"{test.mse:.6g}",
        str(paths.root),
    )


def share_run(root: Path, job: JobConfig, *, task: Task, wait_s: float = WAIT_S) -> RunPaths:
    """The run folder of a step: made by the chief, found by the others.

    Its name ends in digits that follow from job id and step alone, so the others need no message.

    Args:
        root: Folder that holds runs.
        job: The job.
        task: This task of the step.
        wait_s: How long the others look for it.

    Raises:
        JobError: If the job asks for another number of tasks than the step has.
        MissingError: If the folder cannot be made.
        PeerLostError: If the chief has made none in time.
    """
    if job.devices.tasks != 1:
        refuse_other_tasks(job.devices.tasks, task)
    token = hashlib.sha256(task.launch.encode()).hexdigest()[:6]
    if task.is_chief:
        return create_run(root, job, token=token, process=process_key(os.getpid()))
    folder = root.absolute() / job.name
    for _ in looks(wait_s):
        if (paths := _find(folder, token)) is not None:
            return paths
    raise PeerLostError(
        f"The tasks of a step share a run folder, but task 0 made no {folder}/*-{token} within "
        f"{wait_s:.0f} s. Look whether all nodes see {root}, and at the output of task 0."
    )


def refuse_other_tasks(asked: int, task: Task) -> None:
    """Ends a step that has not as many tasks as its job asks for.

    Raises:
        JobError: If so.
    """
    if asked != task.num_tasks:
        raise JobError(
            f"A Slurm step of {task.num_tasks} tasks is one run of as many, but devices.tasks is "
            f"{asked}. Leave it out, or give srun -n that number."
        )


def _find(folder: Path, token: str) -> RunPaths | None:
    # The newest: a step may have run the job before.
    for name in sorted(fresh_names(folder), reverse=True):
        paths = RunPaths(folder / name)
        if name.endswith(f"-{token}") and read_state(paths) in _OPEN:
            return paths
    return None
