"""The runs that a command line names: a run, a sweep, or every one under a root.

runs = select_runs([Path("runs")])           # roots, sweeps and runs, together
runs = open_runs(Path("runs/tiny/sweeps/20261124-101500-3f9a1c"))     # one run, or one sweep's
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dnnjob.errors import JobError
from dnnjob.runs import RunPaths, SweepPaths, open_run, read_sweep
from dnnjob.runs.run_discovery import find_runs

MAX_READERS = 16


def select_runs(places: Sequence[Path]) -> tuple[RunPaths, ...]:
    """The runs at and under all places, each once; those of a sweep in the order of its points.

    Raises:
        JobError: If a place cannot be listed, or is a sweep that cannot be read.
    """
    with ThreadPoolExecutor(MAX_READERS) as pool:
        found = [run for place in places for run in _find(place, pool)]
    return tuple(dict.fromkeys(found))


def open_runs(place: Path) -> tuple[RunPaths, ...]:
    """The run at `place`, or those of the sweep there.

    Raises:
        JobError: If it is neither.
    """
    sweep = SweepPaths(place.absolute())
    if sweep.sweep.is_file():
        return tuple(_sweep_runs(sweep))
    paths = RunPaths(place.absolute())
    if paths.job.is_file() or not place.is_dir():
        return (open_run(place),)
    raise JobError(
        f"A run or a sweep is asked for, but {place} is neither. Give a folder that `dnnjob run` "
        "or `dnnjob submit` printed; `dnnjob status ROOT` lists the runs of a root."
    )


def _find(place: Path, pool: ThreadPoolExecutor) -> Iterable[RunPaths]:
    sweep = SweepPaths(place.absolute())
    if sweep.sweep.is_file():
        return _sweep_runs(sweep)
    return map(RunPaths, find_runs(place, pool=pool).runs)


def _sweep_runs(sweep: SweepPaths) -> Iterable[RunPaths]:
    return [sweep.run(point) for point in read_sweep(sweep).points]
