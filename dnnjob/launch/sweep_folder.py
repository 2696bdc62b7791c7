"""The folders of a sweep: one a run, and its own, which names them; all of them, or nothing.

with leaving_nothing(root / name) as made:
    sweep, runs = make_sweep(points, root=root, made=made)
"""

import math
import os
import shlex
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from dnnjob.config import JobConfig, Point
from dnnjob.launch.halving import rung_epochs
from dnnjob.launch.lane_plan import PointNeeds
from dnnjob.machine import process_key, user_name
from dnnjob.runs import (
    RunPaths,
    Submission,
    Sweep,
    SweepPaths,
    SweepPlan,
    SweepPoint,
    attempt_before,
    create_run,
    create_sweep,
    write_record,
)
from dnnjob.text import counted, spanned

T = TypeVar("T")
# A login node is shared.
_WRITERS = 2


def make_sweep(
    points: Sequence[Point], plan: SweepPlan, *, root: Path, made: list[Path]
) -> tuple[SweepPaths, list[RunPaths]]:
    """Makes the folders of a sweep and of all its runs, in the order of its points.

    Args:
        points: Its points.
        plan: How they are to be run.
        root: Folder that holds runs.
        made: Takes the name of each folder once it is there.

    Raises:
        MissingError: If one cannot be made.
        OSError: If the sweep's file cannot be written.
    """
    sweep = create_sweep(root, points[0].job.name)
    made.append(sweep.root)

    def make(job: JobConfig) -> RunPaths:
        paths = create_run(root, job, process=process_key(os.getpid()))
        made.append(paths.root)
        return paths

    runs = map_all(make, [point.job for point in points])
    list_points(sweep, points, runs, plan)
    return sweep, runs


def list_points(
    sweep: SweepPaths, points: Sequence[Point], runs: Sequence[RunPaths], plan: SweepPlan
) -> None:
    """Writes the sweep's file.

    Raises:
        OSError: If it cannot be written.
    """
    root = sweep.root.parents[2]
    listed = tuple(
        SweepPoint(number=number, values=point.values, run=str(run.root.relative_to(root)))
        for number, (point, run) in enumerate(zip(points, runs, strict=True), start=1)
    )
    name = points[0].job.name
    write_record(sweep.sweep, Sweep(sweep_id=sweep.sweep_id, name=name, points=listed, plan=plan))


def sign_runs(sweep: SweepPaths, runs: Sequence[RunPaths]) -> None:
    """Leaves in runs that this process is to run them, as a local submission does.

    Without it nobody could tell of those that wait that it has been killed.

    Raises:
        OSError: If a file cannot be written.
    """
    pid = os.getpid()
    key, host, user = process_key(pid), socket.gethostname(), user_name()

    def sign(paths: RunPaths) -> None:
        submission = Submission(
            executor="local",
            job_id=str(pid),
            process=key,
            host=host,
            user=user,
            after_attempt=attempt_before(paths),
            command=shlex.join(["dnnjob", *sys.argv[1:]]),
            sweep_id=sweep.sweep_id,
            folder=os.path.relpath(sweep.submission_folder, paths.root),
            place=str(paths.root),
        )
        write_record(paths.submission, submission)

    map_all(sign, runs)


def make_plan(
    jobs: Sequence[JobConfig],
    needs: Sequence[PointNeeds],
    elements: Sequence[Sized],
    *,
    width: int,
    halving: int | None,
) -> SweepPlan:
    """How points are to be run.

    Args:
        jobs: The points.
        needs: What each takes.
        elements: The points of each task.
        width: Points that a task runs side by side.
        halving: `search.halving`.
    """
    rungs = () if halving is None else rung_epochs(jobs[0].train.epochs, halving=halving)
    return SweepPlan(
        points_per_task=tuple(map(len, elements)),
        width=width,
        # Processes with a GPU each share them.
        beside=math.ceil(max(need.beside for need in needs) / width),
        cores=tuple(sorted({need.cores for need in needs})),
        halving=halving,
        rungs=rungs,
    )


def describe_plan(plan: SweepPlan) -> str:
    """A plan in a sentence or two."""
    each, cores = sorted(set(plan.points_per_task)), plan.cores
    tasks, runs = len(plan.points_per_task), sum(plan.points_per_task)
    said = f"{counted(runs, 'run')} in {tasks} task(s) of {spanned(each)}"
    if plan.beside == 1:
        said += f", {plan.width} at a time with {spanned(cores)} core(s) each."
    else:
        said += f", {plan.width} process(es) at a time. Each trains up to {plan.beside} runs in one"
        said += " call where it has one GPU, as many as its memory allows."
    if plan.halving is not None:
        rungs = " and ".join(map(str, plan.rungs))
        said += f" In each task one of {plan.halving} goes on after {rungs} epochs."
    return said


@contextmanager
def leaving_nothing(parent: Path) -> Iterator[list[Path]]:
    """Removes the folders that are named inside, and those made on the way, where an error comes.

    Args:
        parent: Where they are made.
    """
    missing = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    made: list[Path] = []
    try:
        yield made
    except BaseException:
        for folder in made:
            shutil.rmtree(folder, ignore_errors=True)
        for folder in missing:
            # Another submission may have come to use it.
            with suppress(OSError):
                folder.rmdir()
        raise


def map_all(call: Callable[..., T], *columns: Sequence[Any]) -> list[T]:
    """What `call` makes of each row, several at a time: most of a write is waiting for the disk."""
    with ThreadPoolExecutor(max_workers=_WRITERS) as writers:
        return list(writers.map(call, *columns))
