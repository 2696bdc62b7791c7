"""The verb `dnnjob wait`: until runs have ended.

code = wait_command(Path("runs/tiny/20261124-101500-3f9a1c"))
"""

import logging
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from dnnjob.errors import ExitCode
from dnnjob.launch.watch.look import glance, look
from dnnjob.launch.watch.pace import Pace
from dnnjob.launch.watch.select import open_runs
from dnnjob.launch.watch.state import RunView
from dnnjob.launch.watch.table import describe_view, describe_views, shorten
from dnnjob.runs import RunPaths

logger = logging.getLogger(__name__)


def wait_command(place: Path) -> ExitCode:
    """Waits until a run, or every run of a sweep, has ended; tells each change of state.

    Returns:
        The exit code of the worst: FAILED is 1, CANCELLED 143.

    Raises:
        JobError: If `place` is neither a run nor a sweep.
    """
    runs = open_runs(place)
    ended: dict[str, RunView] = {}
    told: dict[str, str] = {}
    for view in chain.from_iterable(watch(runs)):
        # How far a run at work has come is no news.
        news = str(view.state) if view.state == "RUNNING" else describe_view(view)
        if told.get(view.path) != news:
            told[view.path] = news
            logger.info("%s: %s", shorten(view.path), describe_view(view))
        if view.is_over:
            ended[view.path] = view
    if len(runs) > 1:
        logger.info("%s", describe_views(tuple(ended.values())))
    return max(map(_exit_code, ended.values()), default=ExitCode.DONE)


def watch(runs: Sequence[RunPaths]) -> Iterator[tuple[RunView, ...]]:
    """What becomes of runs that have not ended, every second until all have.

    Slurm is asked at its own, slower pace; in between only those are told that have ended, by
    their files.
    """
    pace, still = Pace(), list(runs)
    while still:
        views = look(still) if pace.is_due() else _ended(glance(still))
        yield views
        over = {view.path for view in views if view.is_over}
        still = [paths for paths in still if str(paths.root) not in over]
        if still:
            pace.sleep()


def _ended(views: Sequence[RunView]) -> tuple[RunView, ...]:
    return tuple(view for view in views if view.is_over)


def _exit_code(view: RunView) -> ExitCode:
    match view.state:
        case "COMPLETED":
            return ExitCode.DONE
        case "CANCELLED":
            return ExitCode.TERMINATED
        case _:
            return ExitCode.FAILED
