"""The verb `dnnjob wait`: until runs have ended; and how often a waiting command looks.

code = wait_command(Path("runs/tiny/20261124-101500-3f9a1c"))
pace = Pace()
while not over:
    if pace.is_due(): ask_slurm()
    pace.sleep(num_runs=3)
"""

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from dnnjob.errors import ExitCode
from dnnjob.launch.watch.run_selection import open_runs
from dnnjob.launch.watch.run_views import RunView, glance, look
from dnnjob.launch.watch.status import describe_view, describe_views, shorten
from dnnjob.runs import RunPaths

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_COUNTS = 30.0
LOOK_S = 1.0
"""Between two looks at the files of few runs."""
# A login node and shared storage have other work: of many runs, this many a second.
_RUNS_A_SECOND = 50
_LONGEST_LOOK_S = 30.0
# Slurm answers all its users: a site's own advice is minutes between two questions.
FIRST_ASK_S = 30.0
LAST_ASK_S = 180.0
_GROWTH = 1.5


def wait_command(place: Path) -> ExitCode:
    """Waits until a run, or every run of a sweep, has ended; tells each change of state.

    Returns:
        The exit code of the worst: FAILED is 1, CANCELLED 143.

    Raises:
        JobError: If `place` is neither a run nor a sweep.
    """
    runs = open_runs(place)
    latest: dict[str, RunView] = {}
    talk = _Talk(is_sweep=len(runs) > 1)
    for views in watch(runs):
        latest |= {view.path: view for view in views}
        talk.tell(views, tuple(latest.values()))
    return max(map(_exit_code, latest.values()), default=ExitCode.DONE)


class _Talk:
    """Says on stderr what is news: of a sweep the counts, and each run that ended badly."""

    def __init__(self, *, is_sweep: bool) -> None:
        self._is_sweep = is_sweep
        self._told: dict[str, object] = {}
        self._counts = ""
        self._counted_at = -_SECONDS_BETWEEN_COUNTS

    def tell(self, views: Sequence[RunView], all_of_them: Sequence[RunView]) -> None:
        """Tells the news.

        Args:
            views: What was seen just now.
            all_of_them: The latest of every run.
        """
        for view in views:
            # How far a run at work has come is no news, nor how long ago it was asked to stop.
            news = view.state, view.reason, view.queue_reason
            is_told = not self._is_sweep or (view.is_over and view.state != "COMPLETED")
            if is_told and self._told.get(view.path) != news:
                logger.info("%s: %s", shorten(view.path), describe_view(view))
            self._told[view.path] = news
        if self._is_sweep:
            self._count(all_of_them)

    def _count(self, views: Sequence[RunView]) -> None:
        counts, now = describe_views(views), time.monotonic()
        is_due = now - self._counted_at >= _SECONDS_BETWEEN_COUNTS
        if counts != self._counts and (is_due or all(view.is_over for view in views)):
            logger.info("%s", counts)
            self._counts, self._counted_at = counts, now


def watch(runs: Sequence[RunPaths]) -> Iterator[tuple[RunView, ...]]:
    """What becomes of runs that have not ended, every second or so until all have.

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
            pace.sleep(num_runs=len(still))


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


class Pace:
    """Says when to ask Slurm again: at once, after 30 s, and so on up to every 180 s."""

    def __init__(self) -> None:
        self._wait_s = FIRST_ASK_S
        self._due_at = time.monotonic()

    def is_due(self) -> bool:
        """Whether the time has come; if so, sets the next one."""
        now = time.monotonic()
        if now < self._due_at:
            return False
        self._due_at = now + self._wait_s
        self._wait_s = min(self._wait_s * _GROWTH, LAST_ASK_S)
        return True

    def sleep(self, *, num_runs: int = 1) -> None:
        """Until the next look at the files of so many runs."""
        time.sleep(max(LOOK_S, min(num_runs / _RUNS_A_SECOND, _LONGEST_LOOK_S)))
