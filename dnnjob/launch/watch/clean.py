"""Removing old runs: whole run folders, and nothing else.

for removed in clean_runs(Path("runs"), older=timedelta(days=30)): print(removed.paths.root)
"""

import logging
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dnnjob.errors import ExitCode, JobError
from dnnjob.launch.watch.run_views import RunView, look
from dnnjob.runs import RUN_ID, RunPaths, SweepPaths, read_sweep, statistics_folder, tables_folder
from dnnjob.runs.run_discovery import find_runs
from dnnjob.text import counted, describe_time

logger = logging.getLogger(__name__)

_AGE = re.compile(r"(?P<count>\d+)(?P<unit>[hdw])")
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_READERS = 16


@dataclass(frozen=True)
class Old:
    """A folder that may go."""

    folder: Path
    num_bytes: int


def clean_command(root: Path, *, older: str, dry_run: bool) -> ExitCode:
    """Removes the caller's own runs under `root` that ended long ago, and prints their folders.

    Args:
        root: Folder that holds runs.
        older: How long ago, as in `30d`.
        dry_run: Whether to print only.

    Returns:
        FAILED if one could not be removed.

    Raises:
        JobError: If `root` cannot be listed, or `older` is no span of time.
    """
    age = parse_age(older)
    before = datetime.now(UTC) - age
    found = find_old(root, before=before)
    # Counting the bytes of thousands takes a while, in which one may be resumed.
    still = [old for old in found if _last_change(old.folder) < before]
    removed = [old for old in still if dry_run or _remove(old.folder, before=before)]
    for old in removed:
        print(old.folder)
    if not dry_run:
        forget_statistics(root, before=before)
        forget_tables(root, before=before)
    freed = sum(old.num_bytes for old in removed)
    logger.info(
        "%s %s, %.1f MB, of runs that ended more than %s ago.",
        "Would remove" if dry_run else "Removed",
        counted(len(removed), "folder"),
        freed / 1e6,
        describe_time(age),
    )
    return ExitCode.DONE if len(removed) == len(still) else ExitCode.FAILED


def forget_statistics(root: Path, *, before: datetime) -> None:
    """Removes what passes over large tables found, where no run has asked for it since a moment."""
    folder = statistics_folder(root)
    # What writers that were killed left half written goes, too.
    for path in sorted([*folder.glob("*.npz"), *folder.glob(".*.tmp")]):
        # Another user's, or gone meanwhile: nothing depends on it.
        with suppress(OSError):
            if datetime.fromtimestamp(path.stat().st_mtime, UTC) < before:
                path.unlink()


def forget_tables(root: Path, *, before: datetime) -> None:
    """Removes tables that came from memory before a moment, and that no run or sweep names."""
    old = [path for path in tables_folder(root).glob("*.parquet") if _written(path) < before]
    if not old:
        return
    with ThreadPoolExecutor(_READERS) as pool:
        found = find_runs(root, pool=pool)
        jobs = pool.map(_read_job, [*found.runs, *found.sweeps])
        named = {path for job in jobs for path in old if path.name.encode() in job}
    for path in set(old) - named:
        with suppress(OSError):
            path.unlink()


def _read_job(folder: Path) -> bytes:
    """What a run says of its job, and a sweep of its points."""
    files = (RunPaths(folder).job, SweepPaths(folder).sweep)
    return b"".join(path.read_bytes() for path in files if path.is_file())


def _written(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def parse_age(text: str) -> timedelta:
    """A span of time as `12h`, `30d` or `8w`.

    Raises:
        JobError: If it is none.
    """
    if (parts := _AGE.fullmatch(text)) is None:
        raise JobError(f"--older takes hours, days or weeks, as in 12h, 30d or 8w, not {text!r}.")
    return int(parts["count"]) * _UNITS[parts["unit"]]


def find_old(root: Path, *, before: datetime) -> list[Old]:
    """Run folders under `root` that ended before a moment, then sweeps whose runs are all of these.

    A run that may be alive is none, and neither is a folder that only resembles a run, or that
    another user made.
    """
    with ThreadPoolExecutor(_READERS) as pool:
        found = find_runs(root, pool=pool)
    inside = [folder for folder in found.runs if _is_inside(folder, root)]
    own = [folder for folder in inside if _is_own(folder)]
    if others := len(inside) - len(own):
        told = counted(others, "run")
        logger.info("%s of other users left alone, whatever the age.", told)
    views = look([paths for paths in map(RunPaths, own) if _is_run(paths)])
    ended = [Path(view.path) for view in views if _is_over(view)]
    old = [folder for folder in ended if _last_change(folder) < before]
    sweeps = [
        folder
        for folder in found.sweeps
        if _is_inside(folder, root) and _is_own(folder) and _is_left(folder, old, before)
    ]
    return [Old(folder, _size(folder)) for folder in (*old, *sweeps)]


def _is_inside(folder: Path, root: Path) -> bool:
    """Whether a folder lies under the root itself: links lead to what belongs to others."""
    return not folder.is_symlink() and folder.resolve().is_relative_to(root.resolve())


def _is_own(folder: Path) -> bool:
    """Whether the caller made a folder: a group's permissions let one remove those of others."""
    return folder.stat().st_uid == os.geteuid()


def _is_run(paths: RunPaths) -> bool:
    is_named_so = RUN_ID.match(paths.run_id) is not None
    return is_named_so and paths.job.is_file() and paths.status.is_file()


def _is_over(view: RunView) -> bool:
    """Whether it is known to have ended: what cannot be read or asked may be alive."""
    return view.state is not None and view.is_over


def _last_change(folder: Path) -> datetime:
    """When a run's or sweep's folder, or what shows whether it is in use, last changed."""
    paths = RunPaths(folder)
    records = (paths.status, paths.report, paths.submission, paths.cancel)
    folders = (folder, paths.attempts, paths.checkpoints, paths.events, paths.submission_folder)
    files = (*records, *folders, SweepPaths(folder).sweep)
    times = [file.stat().st_mtime for file in files if file.exists()]
    return datetime.fromtimestamp(max(times, default=0), UTC)


def _is_left(folder: Path, old: Sequence[Path], before: datetime) -> bool:
    """Whether a sweep is old and all that it names is gone or goes."""
    sweep = SweepPaths(folder)
    if _last_change(folder) >= before:
        return False
    try:
        runs = [sweep.run(point).root for point in read_sweep(sweep).points]
    except JobError:
        return False
    return all(run in old or not run.exists() for run in runs)


def _remove(folder: Path, *, before: datetime) -> bool:
    """Whether the folder is gone; if only a part of it goes, it remains a run that clean finds."""
    if _last_change(folder) >= before:
        logger.error("%s stays: it was taken up again just now.", folder)
        return False
    try:
        for path in _in_order(folder):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        folder.rmdir()
    except OSError as error:
        logger.error("%s stays: %s.", folder, error)
        return False
    return True


def _in_order(folder: Path) -> Iterator[Path]:
    """The entries of a folder; last those that make it a run or a sweep."""
    paths = RunPaths(folder)
    marks = (SweepPaths(folder).sweep, paths.job, paths.status)
    yield from sorted(set(folder.iterdir()) - set(marks))
    yield from (mark for mark in marks if mark.exists())


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
