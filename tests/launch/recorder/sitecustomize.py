"""Has a chief of dnnjob write down what it does, line by line, so that its end can be placed.

Python imports this module by itself where its folder is on PYTHONPATH. What the command does stays
the same; a line is on its way before the step that it tells of begins, so a SIGKILL loses none.
Where DNNJOB_HALT names a file that says "before NAME" or "after NAME", with 0 for every number, it
stops itself there when such a file is written, so that something can be done to it at that very
moment. Where
DNNJOB_CLOCK names a file, its two numbers are added to the time of day and to the clocks that only
go forward, as dnnjob reads them; who writes them sets the clocks of a process that lives.
"""

import datetime
import json
import mmap
import os
import re
import signal
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

TRACE, HALT, CLOCK = "DNNJOB_TRACE", "DNNJOB_HALT", "DNNJOB_CLOCK"
_true_monotonic = time.monotonic


def main() -> None:
    """Records in the chief alone: the only task, or rank 0 of those that a launcher started."""
    if CLOCK in os.environ:
        _shift_clocks(os.open(os.environ[CLOCK], os.O_RDONLY))
    path = os.environ.get(TRACE)
    if path and json.loads(os.environ.get("DNNJOB_TASK", "{}")).get("rank", 0) == 0:
        _record(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644))


def _record(file: int) -> None:
    from dnnjob import clock, runs
    from dnnjob.tasks.process_group import ChiefCrew, Crew

    def note(what: str, **facts: Any) -> None:
        line = {"at": _true_monotonic(), "pid": os.getpid(), "what": what, **facts}
        os.write(file, json.dumps(line).encode() + b"\n")

    def halt(moment: str, name: str) -> None:
        moment += " " + re.sub(r"\d+", "0", name)
        if HALT not in os.environ:
            return
        wish = Path(os.environ[HALT])
        with suppress(FileNotFoundError):
            if wish.read_text() == moment:
                # Of all processes that may be asked to the one that removes it stops.
                wish.unlink()
                note("halt", name=moment)
                os.kill(os.getpid(), signal.SIGSTOP)
                note("woken", name=moment)

    time_phase, write_file = clock.Stopwatch.time, runs.write_file
    show, kept = runs.Journal.show_progress, runs.Journal.mark_reached

    @contextmanager
    def noting_time(self: Any, phase: str) -> Iterator[None]:
        _shift_dates()
        note("begin", name=phase)
        with time_phase(self, phase):
            yield
        note("end", name=phase)

    def noting_write(path: Path, fill: Any, **settings: Any) -> None:
        note("write", name=path.name)
        halt("before", path.name)
        write_file(path, fill, **settings)
        note("written", name=path.name)
        halt("after", path.name)

    def noting_show(self: Any, progress: Any, *rest: float) -> None:
        note("called", epoch=progress.epoch)
        show(self, progress, *rest)

    def noting_kept(self: Any, position: Any) -> None:
        kept(self, position)
        note("kept", epoch=position.epoch, batch=position.batch)

    _shift_dates()
    for crew in (Crew, ChiefCrew):
        crew.agree = _noting_call(note, crew.agree)  # type: ignore[method-assign]
    clock.Stopwatch.time = noting_time  # type: ignore[method-assign]
    for module in list(sys.modules.values()):
        if getattr(module, "write_file", None) is write_file:
            module.write_file = noting_write  # type: ignore[attr-defined]
    runs.Journal.show_progress = noting_show  # type: ignore[method-assign]
    runs.Journal.mark_reached = noting_kept  # type: ignore[method-assign]


def _shift_clocks(file: int) -> None:
    shifts = mmap.mmap(file, 16, access=mmap.ACCESS_READ)

    def shifted(read: Any, place: int) -> Any:
        return lambda: read() + struct.unpack_from("d", shifts, place)[0]

    time.time = shifted(time.time, 0)
    time.monotonic = shifted(time.monotonic, 8)
    time.perf_counter = shifted(time.perf_counter, 8)


def _shift_dates() -> None:
    """In all modules of dnnjob that have been imported by now."""
    if CLOCK not in os.environ:
        return
    for name, module in list(sys.modules.items()):
        if name.startswith("dnnjob.") and getattr(module, "datetime", None) is datetime.datetime:
            module.datetime = _Date  # type: ignore[attr-defined]


class _Date(datetime.datetime):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Any:
        """The time of day as `time.time` tells it."""
        return datetime.datetime.fromtimestamp(time.time(), tz)


def _noting_call(note: Any, agree: Any) -> Any:
    def noting(self: Any, steps: int) -> int:
        agreed: int = agree(self, steps)
        note("call")
        return agreed

    return noting


main()
