"""What a person sees of training: a live bar on a terminal or in a notebook, lines elsewhere.

with open_progress(epochs=500) as show: show(progress, 1500.0, 1.2)
"""

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from dnnjob.runs import Progress, Show
from dnnjob.tasks import LANE

logger = logging.getLogger(__name__)

PROGRESS = 15
"""Level of the log records that carry each call's progress, for whoever shows it elsewhere."""

_SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def open_progress(*, epochs: int) -> Iterator[Show]:
    """A live bar in a notebook, or on stderr where that is a terminal; else lines in the log."""
    if _is_notebook():
        yield _NotebookShow(epochs)
        return
    # Of the points of a sweep there is one bar, by whoever has started this process for one.
    if not sys.stderr.isatty() or LANE in os.environ:
        lines = _LineShow()
        yield lines
        lines.end()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("Epoch"),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("{task.fields[losses]}  {task.fields[speed]}  {task.fields[left]} left"),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        row = bar.add_task("train", total=epochs, losses="loss -", speed="-", left="-")

        def show(progress: Progress, steps_per_s: float, seconds_left: float) -> None:
            bar.update(
                row,
                completed=progress.epoch,
                losses=_losses(progress),
                speed=f"{steps_per_s:,.0f} steps/s",
                left=_duration(seconds_left),
            )

        yield show


class _LineShow:
    def __init__(self) -> None:
        self._shown_at = -_SECONDS_BETWEEN_LINES
        self._due: tuple[Progress, float, float] | None = None

    def __call__(self, progress: Progress, steps_per_s: float, seconds_left: float) -> None:
        call = progress, steps_per_s, seconds_left
        logger.log(PROGRESS, "Epoch %d.", progress.epoch, extra={"progress": call})
        if progress.epoch == 0:
            return
        self._due = call
        if time.monotonic() - self._shown_at >= _SECONDS_BETWEEN_LINES:
            self.end()

    def end(self) -> None:
        """Shows the last epoch, wherever training ended, unless that has been done."""
        if self._due is None:
            return
        progress, steps_per_s, seconds_left = self._due
        self._shown_at, self._due = time.monotonic(), None
        logger.info(
            "Epoch %d/%d: %s, %.0f steps/s, %s left.",
            progress.epoch,
            progress.epochs,
            _losses(progress),
            steps_per_s,
            _duration(seconds_left),
        )


class _NotebookShow:
    """A bar below the cell that runs; rich's own would need a package of widgets."""

    def __init__(self, epochs: int) -> None:
        # Whoever is in a notebook has it.
        screen: Any = import_module("IPython.display")
        self._make, self._epochs = screen.HTML, epochs
        self._handle = screen.display(screen.HTML(""), display_id=True)

    def __call__(self, progress: Progress, steps_per_s: float, seconds_left: float) -> None:
        line = (
            f"Epoch {progress.epoch}/{self._epochs}: {_losses(progress)}, "
            f"{steps_per_s:,.0f} steps/s, {_duration(seconds_left)} left"
        )
        bar = f'<progress value="{progress.epoch}" max="{self._epochs}"></progress>'
        self._handle.update(self._make(f"{bar} <code>{line}</code>"))


def _is_notebook() -> bool:
    """Whether a Jupyter kernel runs this process."""
    shell: Any = sys.modules.get("IPython")
    return shell is not None and hasattr(shell.get_ipython(), "kernel")


def _losses(progress: Progress) -> str:
    validation = "" if progress.val_loss is None else f", validation {_number(progress.val_loss)}"
    return f"loss {_number(progress.loss)}{validation}"


def _number(loss: float | None) -> str:
    return "-" if loss is None else f"{loss:.4g}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
