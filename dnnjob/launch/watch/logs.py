"""The verb `dnnjob logs`: what a task of a run said, in all its attempts.

code = logs_command(Path("runs/tiny/20261124-101500-3f9a1c"), task=0, follow=True)
"""

import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from dnnjob.config import load_job
from dnnjob.errors import ExitCode, JobError
from dnnjob.launch.watch.run_views import RunView, look
from dnnjob.launch.watch.status import describe_view, shorten
from dnnjob.launch.watch.wait import watch
from dnnjob.runs import RunPaths, open_run, read_submission
from dnnjob.streams import is_unread

logger = logging.getLogger(__name__)

_CHUNK = 1 << 16
_ATTEMPT = re.compile(r"^attempt-(?P<attempt>\d+)-task-(?P<rank>\d+)\.log$")


class Tail:
    """What is new in the logs of one task of a run, each file under its name."""

    def __init__(self, paths: RunPaths, *, rank: int) -> None:
        self._paths, self._rank = paths, rank
        self._read: dict[Path, int] = {}
        self._heading: Path | None = None

    def show(self, *, with_job: bool) -> bool:
        """Prints what `news` gives; whether there was any."""
        has_news = False
        for text in self.news(with_job=with_job):
            has_news = True
            sys.stdout.write(text)
        sys.stdout.flush()
        return has_news

    def news(self, *, with_job: bool) -> Iterator[str]:
        """The rest of every log, in pieces.

        Args:
            with_job: Whether the job's own output is shown beside the logs of the attempts, which
                hold all that dnnjob says; without these it always is.
        """
        logs = find_logs(self._paths, rank=self._rank)
        extra = find_outputs(self._paths, rank=self._rank) if with_job or not logs else []
        for path in (*logs, *extra):
            yield from self._rest(path)

    def _rest(self, path: Path) -> Iterator[str]:
        with suppress(FileNotFoundError), path.open("rb") as file:
            file.seek(self._read.get(path, 0))
            while chunk := file.read(_CHUNK):
                yield from self._head(path)
                yield chunk.decode(errors="replace")
                self._read[path] = file.tell()

    def _head(self, path: Path) -> Iterator[str]:
        if self._heading != path:
            between = "\n" if self._heading else ""
            yield f"{between}==> {shorten(str(path))} <==\n"
            self._heading = path


def read_logs(paths: RunPaths, *, rank: int = 0) -> str:
    """What one task of a run has said, in all its attempts; empty where it kept no log."""
    (view,) = look([paths])
    return "".join(Tail(paths, rank=rank).news(with_job=_is_odd(view)))


def logs_command(place: Path, *, task: int | None, follow: bool) -> ExitCode:
    """Prints the logs of one task of a run, oldest attempt first.

    Where the run failed or never began, the output of its job comes after them: it has what was
    said before dnnjob could keep a log, and Slurm's own words.

    Args:
        place: The run folder.
        task: Number of the task; None is the chief, with a word of the others.
        follow: Whether to go on until the run has ended.

    Raises:
        JobError: If there is no such run, or it has no such task.
    """
    paths = open_run(place)
    (view,) = look([paths])
    rank = task or 0
    tail = Tail(paths, rank=rank)
    if not tail.show(with_job=_is_odd(view)):
        _explain_silence(paths, view, rank)
    if task is None and (others := _list_ranks(paths) - {rank}):
        names = ", ".join(f"--task {other}" for other in sorted(others))
        logger.info("That is task 0, which leads the run. The others: %s.", names)
    if follow:
        _follow(paths, tail)
    return ExitCode.DONE


def find_logs(paths: RunPaths, *, rank: int) -> list[Path]:
    """The logs that one task kept, in the order of the attempts."""
    found = (_ATTEMPT.match(name) for name in _names(paths.logs))
    attempts = sorted(int(one["attempt"]) for one in found if one and int(one["rank"]) == rank)
    return [paths.log(attempt=attempt, rank=rank) for attempt in attempts]


def _list_ranks(paths: RunPaths) -> set[int]:
    """The tasks that have kept a log."""
    return {int(one["rank"]) for name in _names(paths.logs) if (one := _ATTEMPT.match(name))}


def find_outputs(paths: RunPaths, *, rank: int) -> list[Path]:
    """What the job of a run said on stdout and stderr, as far as it did."""
    sent = read_submission(paths)
    if sent is None:
        return []
    folder = Path(os.path.normpath(paths.root / sent.folder))
    if sent.executor == "local":
        pool = folder / "pool.log"
        return [pool] if pool.is_file() else []
    start = f"{sent.job_id}_{rank}_log."
    names = sorted(name for name in _names(folder) if name.startswith(start))
    return [folder / name for name in names if (folder / name).stat().st_size]


def _follow(paths: RunPaths, tail: Tail) -> None:
    told = ""
    for views in watch([paths]):
        ended = any(view.is_over and _is_odd(view) for view in views)
        tail.show(with_job=ended)
        if is_unread():
            return
        for view in views:
            now = describe_view(view)
            # What a run at work does, its log tells.
            if now != told and view.state != "RUNNING":
                logger.info("%s", now)
            told = now


def _is_odd(view: RunView) -> bool:
    """Whether a run may have more to tell than its own log does."""
    return view.state == "FAILED"


def _explain_silence(paths: RunPaths, view: RunView, task: int) -> None:
    num_tasks = load_job(paths.job).devices.tasks
    if task >= num_tasks:
        raise JobError(
            f"The tasks of a run are numbered from 0, and this one has {num_tasks}, but --task is "
            f"{task}. Give one below {num_tasks}."
        )
    logger.info("No log yet: %s", describe_view(view))


def _names(folder: Path) -> list[str]:
    # A listing, since NFS caches the absence of a name for longer than a folder's entries.
    return os.listdir(folder) if folder.is_dir() else []  # noqa: PTH208
