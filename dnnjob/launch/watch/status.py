"""The verb `dnnjob status`, and runs and their states as lines for a terminal.

code = status_command([Path("runs")], as_json=False)
print(render_views(views, width=None))
print(describe_views(views))             # "3 runs: 2 RUNNING, 1 COMPLETED"
"""

import json
import logging
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from dnnjob.errors import ExitCode
from dnnjob.launch.watch.run_selection import select_runs
from dnnjob.launch.watch.run_views import RunView, look
from dnnjob.text import align, counted, describe_time

logger = logging.getLogger(__name__)

_HEAD = ("run", "state", "epoch", "loss", "left", "job", "why")
_NUMBERS = (2, 3, 4)
_NONE = "-"


def status_command(places: Sequence[Path], *, as_json: bool) -> ExitCode:
    """Prints what the runs at and under some places are doing.

    Args:
        places: Roots, sweeps and runs.
        as_json: Whether stdout gets a list of JSON records instead of a table.

    Raises:
        JobError: If a place is none of these.
    """
    views = look(select_runs(places))
    if as_json:
        records = [view.model_dump(mode="json") for view in views]
        print(json.dumps(records, indent=1, ensure_ascii=False))
    elif views:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print(render_views(views, width=width))
    logger.info("%s", describe_views(views))
    return ExitCode.DONE


def render_views(views: Sequence[RunView], *, width: int | None) -> str:
    """A line a run under a line of titles.

    Args:
        views: The runs.
        width: Cells a line may take, beyond which it is cut; None for as many as needed.
    """
    lines = align([_HEAD, *map(_cells, views)], right=_NUMBERS)
    return "\n".join(_cut(line, width) for line in lines)


def describe_views(views: Sequence[RunView]) -> str:
    """How many runs there are, by state."""
    if not views:
        return "No runs."
    states = Counter(view.state or "unreadable" for view in views)
    counts = ", ".join(f"{count:,} {state}" for state, count in states.most_common())
    return f"{counted(len(views), 'run')}: {counts}."


def describe_view(view: RunView) -> str:
    """The state of a run and why, on one line."""
    return f"{view.state or 'unreadable'}{_open(_why(view))}"


def shorten(path: str) -> str:
    """A path from the working folder, where it lies below."""
    folder = Path(path)
    return str(folder.relative_to(Path.cwd())) if folder.is_relative_to(Path.cwd()) else path


def _cells(view: RunView) -> tuple[str, ...]:
    progress = view.progress
    return (
        shorten(view.path),
        view.state or "unreadable",
        f"{progress.epoch}/{progress.epochs}" if progress.epochs else _NONE,
        _NONE if progress.loss is None else f"{progress.loss:.4g}",
        _NONE if view.left_s is None else describe_time(timedelta(seconds=view.left_s)),
        view.job_id or (f"pid {view.process}" if view.process else _NONE),
        _why(view),
    )


def _why(view: RunView) -> str:
    parts = [view.reason, view.error, view.note, view.progress.end]
    if view.left_s is not None and (view.limit_left_s or view.left_s) < view.left_s:
        limit = describe_time(timedelta(seconds=view.limit_left_s or 0))
        parts.append(f"its time limit comes first, in {limit}")
    return ": ".join(" ".join(part.split()) for part in parts if part)


def _open(why: str) -> str:
    return f" ({why})" if why else ""


def _cut(line: str, width: int | None) -> str:
    return line if width is None or len(line) <= width else line[: max(width - 1, 0)] + "…"
