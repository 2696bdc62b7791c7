"""What a process does about itself: its log, its parent, its end.

die_with(parent)
with logging_to(paths.log(attempt=1, rank=0), rank=0, keeps_stderr=True): ...
"""

import ctypes
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import NoReturn, TextIO

from dnnjob.alike import is_alike
from dnnjob.errors import ExitCode
from dnnjob.streams import open_talk, talk_to

# The log of the run that says something, where several in one process have logs.
_own_log: ContextVar[Path | None] = ContextVar("own_log", default=None)

_PR_SET_PDEATHSIG = 1
_ENDS = (signal.SIGTERM, signal.SIGHUP)


def die_with(parent: int, *, by: signal.Signals = signal.SIGKILL) -> None:
    """Has the kernel end this process when `parent` ends, however that ends; 0 is no parent.

    Args:
        parent: Its process id.
        by: The signal that ends this process.
    """
    if not parent:
        return
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, by)
    if os.getppid() != parent:
        # It ended before the kernel was told.
        os._exit(ExitCode.FAILED)


@contextmanager
def raising_on_signals() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP end the process as an exception does: what was begun is undone.

    Only the first of them: the undoing is not to be interrupted.
    """
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread may take signals.
        yield
        return

    def end(number: int, _: FrameType | None) -> NoReturn:
        for one in _ENDS:
            signal.signal(one, signal.SIG_IGN)
        raise SystemExit(ExitCode.TERMINATED)

    before = {number: signal.getsignal(number) for number in _ENDS}
    for number, handler in before.items():
        # As under nohup.
        if handler is not signal.SIG_IGN:
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def logging_to(path: Path, *, rank: int, keeps_stderr: bool) -> Iterator[None]:
    """Adds what is logged inside to a file; tasks but the chief tell stderr of troubles alone.

    Args:
        path: The file, made if need be.
        rank: The task's number.
        keeps_stderr: Leaves stderr to TensorFlow's own talk, else sends that to the file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open_talk(path)
    except OSError as error:
        logging.getLogger(__name__).warning("No log can be kept in %s: %s.", path, error)
        yield
        return
    handler = logging.StreamHandler(file)
    handler.setLevel(logging.INFO)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.addFilter(lambda _: _own_log.get() in (None, path))
    logger = logging.getLogger("dnnjob")
    handlers: list[logging.StreamHandler[TextIO]] = [handler]
    if rank:
        handlers.append(_make_trouble_handler(rank))
    if not keeps_stderr:
        os.dup2(file.fileno(), 2)
    for one in handlers:
        logger.addHandler(one)
    saying = _own_log.set(path)
    try:
        yield
    finally:
        _own_log.reset(saying)
        for one in handlers:
            logger.removeHandler(one)
            one.stream.close()


def _make_trouble_handler(rank: int) -> "logging.StreamHandler[TextIO]":
    """Takes stderr over: warnings and errors alone, but those that the chief says as well."""
    for other in logging.getLogger().handlers:
        other.setLevel(logging.CRITICAL)
    # One of its own, since stderr may become the log.
    stderr = talk_to(os.dup(2))
    handler = logging.StreamHandler(stderr)
    handler.setLevel(logging.WARNING)
    handler.addFilter(lambda record: not is_alike(record))
    handler.setFormatter(logging.Formatter(f"Task {rank}: %(message)s"))
    return handler
