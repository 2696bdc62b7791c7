"""Whether a process is at work, as far as that can be seen from here.

sees_process(attempt.pid, attempt.process, host=attempt.host)
"""

import socket

from dnnjob.machine import is_containers, process_key, process_space


def _counts_here(process: str | None) -> bool:
    """Whether the number of a process means the same in this one."""
    return process is not None and process.startswith(f"{process_space()}/")


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
