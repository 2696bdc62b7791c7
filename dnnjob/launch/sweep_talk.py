"""What a person sees of the points of a sweep: one live bar on a terminal, lines elsewhere.

with open_talk(points) as talk: Lanes(plan, task=task, stop=stop, watcher=talk).work(turns)
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dnnjob.errors import ExitCode
from dnnjob.launch.errand import Errand, News
from dnnjob.runs import Progress, RunPaths, read_state
from dnnjob.text import counted

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 10.0


class SweepTalk:
    """Follows the points of a sweep, and says of each once how it ended."""

    def __init__(
        self, num_points: int, name: Callable[[int], str], *, batch_sizes: Sequence[int]
    ) -> None:
        """Nothing has begun.

        Args:
            num_points: Points in all.
            name: What sets a point, by its number from 1, apart from the others.
            batch_sizes: Rows a step of each point.
        """
        self.num_points, self._name, self._batch_sizes = num_points, name, batch_sizes
        self.best: float | None = None
        """Least validation loss of any epoch that has been told."""
        self.ended: dict[int, ExitCode] = {}
        self.training: dict[int, News] = {}
        self._waiting: dict[int, float] = {}
        self._told: set[str] = set()

    def begin(self, errand: Errand) -> None:
        """A point begins."""
        self.training[errand.number] = News(progress=Progress())
        self._waiting.pop(errand.number, None)
        self.refresh()

    def hear(self, errand: Errand, news: News) -> None:
        """A point has come further, or met trouble, which is told once for all of them."""
        if news.trouble is not None:
            if news.trouble not in self._told:
                self._told.add(news.trouble)
                logger.log(news.level, "%s", news.trouble)
            return
        self.training[errand.number] = news
        loss = news.progress.val_loss if news.progress else None
        if loss is not None and (self.best is None or loss < self.best):
            self.best = loss
        self.refresh()

    def end(self, errand: Errand, code: ExitCode) -> None:
        """A point has ended, or waits for others."""
        news = self.training.pop(errand.number, None)
        state = (read_state(RunPaths(errand.run)) or "unknown").lower()
        self._waiting[errand.number] = _share(news) if state == "requeued" else 0.0
        if state != "requeued":
            self.ended[errand.number] = code
            number, name = errand.number, self._name(errand.number)
            if errand.until is not None and state == "completed":
                state = f"left behind after {counted(errand.until.epoch, 'epoch')}"
            logger.info("Run %d of %d: %s: %s.", number, self.num_points, name, state)
        self.refresh()

    @property
    def share_done(self) -> float:
        """How much of all points is done, in points; those on their way count by their epochs."""
        on_the_way = sum(map(_share, self.training.values()))
        return len(self.ended) + on_the_way + sum(self._waiting.values())

    @property
    def counts(self) -> str:
        """How many points are at work, and how the others ended."""
        failed = sum(code is ExitCode.FAILED for code in self.ended.values())
        done = sum(code is ExitCode.DONE for code in self.ended.values())
        stopped = len(self.ended) - failed - done
        words = [f"{len(self.training)} at work", f"{done} completed"]
        waiting = sum(share > 0 for share in self._waiting.values())
        words += [f"{waiting} waiting"] if waiting else []
        words += [f"{failed} failed"] if failed else []
        words += [f"{stopped} stopped"] if stopped else []
        return ", ".join(words)

    @property
    def rows_per_s(self) -> float:
        """Rows that all points together train a second."""
        return sum(
            news.steps_per_s * self._batch_sizes[number - 1]
            for number, news in self.training.items()
        )

    @property
    def losses(self) -> str:
        """The best validation loss, where there are validation rows."""
        return "" if self.best is None else f"best validation loss {self.best:.4g}"

    def refresh(self) -> None:
        """Shows how things stand."""


class _LineTalk(SweepTalk):
    """Without a terminal: a line a point, and one every few seconds."""

    _shown_at = 0.0

    def refresh(self) -> None:
        """Shows how things stand, now and then."""
        now = time.monotonic()
        self._shown_at = self._shown_at or now
        if now - self._shown_at < _SECONDS_BETWEEN_LINES:
            return
        self._shown_at = now
        told = (self.counts, self.losses, f"{self.rows_per_s:,.0f} rows/s")
        done = 100 * self.share_done / self.num_points
        runs = counted(self.num_points, "run")
        logger.info("%.0f %% of %s: %s.", done, runs, ", ".join(filter(None, told)))


class _BarTalk(SweepTalk):
    """On a terminal: one bar for all points."""

    bar: Any = None

    def refresh(self) -> None:
        """Moves the bar."""
        self.bar.update(
            self.bar.task_ids[0],
            completed=self.share_done,
            ended=len(self.ended),
            counts=self.counts,
            losses=self.losses,
            speed=f"{self.rows_per_s:,.0f} rows/s",
        )


@contextmanager
def open_talk(
    num_points: int, name: Callable[[int], str], *, batch_sizes: Sequence[int]
) -> Iterator[SweepTalk]:
    """A live bar on stderr where that is a terminal, else lines in the log.

    Args are those of `SweepTalk`.
    """
    if not sys.stderr.isatty():
        yield _LineTalk(num_points, name, batch_sizes=batch_sizes)
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.fields[ended]}/{task.total} runs"),
        BarColumn(),
        TextColumn("{task.fields[counts]}  {task.fields[losses]}  {task.fields[speed]}"),
    )
    talk = _BarTalk(num_points, name, batch_sizes=batch_sizes)
    with Bar(*columns, console=Console(stderr=True)) as talk.bar:
        talk.bar.add_task("points", total=num_points, ended=0, counts="", losses="", speed="")
        with _above_bar():
            yield talk


@contextmanager
def _above_bar() -> Iterator[None]:
    """Inside, what the command says goes through rich, which keeps the bar below it."""
    handlers = [one for one in logging.getLogger().handlers if type(one) is logging.StreamHandler]
    before = [one.setStream(sys.stderr) for one in handlers]
    try:
        yield
    finally:
        for handler, stream in zip(handlers, before, strict=True):
            if stream is not None:
                handler.setStream(stream)


def _share(news: News | None) -> float:
    """How much of a point is done."""
    progress = news.progress if news else None
    return progress.epoch / progress.epochs if progress and progress.epochs else 0.0
