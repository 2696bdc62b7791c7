"""The folders of a sweep: one a run, and its own, which names them; all of them, or nothing.

with leaving_nothing(root / name) as made:
    sweep, runs = make_sweep(points, root=root, made=made)
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from dnnjob.config import JobConfig, Point
from dnnjob.runs import (
    RunPaths,
    Sweep,
    SweepPaths,
    SweepPoint,
    create_run,
    create_sweep,
    write_sweep,
)

T = TypeVar("T")
# A login node is shared.
_WRITERS = 2


def make_sweep(
    points: Sequence[Point], *, root: Path, made: list[Path]
) -> tuple[SweepPaths, list[RunPaths]]:
    """Makes the folders of a sweep and of all its runs, in the order of its points.

    Args:
        points: Its points.
        root: Folder that holds runs.
        made: Takes the name of each folder once it is there.

    Raises:
        MissingError: If one cannot be made.
        OSError: If the sweep's file cannot be written.
    """
    sweep = create_sweep(root, points[0].job.name)
    made.append(sweep.root)

    def make(job: JobConfig) -> RunPaths:
        paths = create_run(root, job)
        made.append(paths.root)
        return paths

    runs = map_all(make, [point.job for point in points])
    list_points(sweep, points, runs)
    return sweep, runs


def list_points(sweep: SweepPaths, points: Sequence[Point], runs: Sequence[RunPaths]) -> None:
    """Writes the sweep's file.

    Raises:
        OSError: If it cannot be written.
    """
    root = sweep.root.parents[2]
    listed = tuple(
        SweepPoint(number=number, values=point.values, run=str(run.root.relative_to(root)))
        for number, (point, run) in enumerate(zip(points, runs, strict=True), start=1)
    )
    write_sweep(sweep, Sweep(sweep_id=sweep.sweep_id, name=points[0].job.name, points=listed))


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
