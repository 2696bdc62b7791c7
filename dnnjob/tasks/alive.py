"""Whether a run is still at work, as far as can be known from here.

refuse_live_run(paths)           # before an attempt to go on with it
"""

import socket
from datetime import UTC, datetime, timedelta

from dnnjob.errors import JobError
from dnnjob.machine import is_containers, process_key, process_space
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
            f"Only a run that has ended can be resumed, but {paths.root} is at work: "
            f"{_describe(last)}, last sign of life {max(0.0, age_s):.0f} s ago. "
            f"{_advise(last, paths)}"
        )


def _describe(attempt: Attempt) -> str:
    # In a container its number means nothing to others.
    contained = attempt.process is not None and is_containers(attempt.process)
    if contained and not _counts_here(attempt.process):
        return f"in a container on {attempt.host}"
    return f"process {attempt.pid} on {attempt.host}"


def _advise(attempt: Attempt, paths: RunPaths) -> str:
    """How to end an attempt, or to wait where only its signs of life tell of it."""
    if sees_process(attempt.pid, attempt.process, host=attempt.host):
        return f"Wait for its end, or end it first with `kill {attempt.pid}`."
    return (
        f"Wait for its end, or end it first with `dnnjob cancel {paths.root}`. Its process cannot "
        f"be seen from here: {_RECENT.total_seconds():.0f} s without a sign count as its end."
    )


def _counts_here(process: str | None) -> bool:
    """Whether the number of a process means the same in this one."""
    return process is not None and process.startswith(f"{process_space()}/")


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
    if _counts_here(process):
        return process_key(pid) == process
    if process.startswith(process_space().partition("/")[0]) or is_containers(process):
        # In another container, some of which have a boot of their own on the same host.
        return None
    # Another boot: the machine has been started anew since.
    return False
