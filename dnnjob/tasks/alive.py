"""Whether a run is still at work, as far as can be known from here.

refuse_live_run(paths)           # before an attempt to go on with it
"""

import socket
from datetime import UTC, datetime, timedelta

from dnnjob.errors import JobError
from dnnjob.machine import process_key, process_space
from dnnjob.runs import SECONDS_BETWEEN_SIGNS, Attempt, RunPaths, Status

# Clocks of two hosts differ, and NFS shows a file up to a minute late.
_RECENT = timedelta(seconds=6 * SECONDS_BETWEEN_SIGNS + 60)


def refuse_live_run(paths: RunPaths, status: Status) -> None:
    """Makes sure that nobody is at work on a run.

    Raises:
        JobError: If its process lives, or, on another machine, gave a sign of life of late.
    """
    if status.state != "RUNNING" or not status.attempts:
        return
    last = status.attempts[-1]
    if is_alive(last, updated_at=status.updated_at):
        age_s = (datetime.now(UTC) - status.updated_at).total_seconds()
        raise JobError(
            f"Only a run that has ended can be resumed, but {paths.root} is at work: process "
            f"{last.pid} on {last.host}, last sign of life {max(0.0, age_s):.0f} s ago. Wait for "
            f"its end, or end it first with `kill {last.pid}` there."
        )


def is_alive(attempt: Attempt, *, updated_at: datetime) -> bool:
    """Whether an attempt's chief is at work.

    Args:
        attempt: The attempt.
        updated_at: Its last sign of life, which counts where its process cannot be seen from here.
    """
    if attempt.ended_at is not None:
        return False
    seen = sees_process(attempt.pid, attempt.process, host=attempt.host)
    return abs(datetime.now(UTC) - updated_at) < _RECENT if seen is None else seen


def sees_process(pid: int, process: str | None, *, host: str) -> bool | None:
    """Whether a process is at work; None if that cannot be seen from here.

    Args:
        pid: Its number.
        process: What tells it from a later one with its number, as `process_key` gave it.
        host: Where it was started.
    """
    if host != socket.gethostname() or process is None:
        return None
    if process.startswith(f"{process_space()}/"):
        return process_key(pid) == process
    # Another boot: the machine has been started anew since. Else it is in another container.
    return None if process.startswith(process_space().partition("/")[0]) else False
