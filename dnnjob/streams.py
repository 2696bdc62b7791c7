"""stdout and stderr that never raise: what cannot be written is lost, and remembered.

with guarded_streams() as stdout:
    print("the product")
    sys.stdout.flush()
    if stdout.fault is not None: ...
file = open_talk(Path("attempt-1-task-0.log"))
leave(0)                             # ends this process at once, both flushed
"""

import errno
import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class UnfailingFile(io.RawIOBase):
    """A file descriptor whose writes never raise: what does not fit is lost.

    Everything that writes to a standard stream, logging, rich, warnings, and Python itself at its
    end, would otherwise bring down what it only talks about.
    """

    def __init__(self, descriptor: int, *, was_closed: bool = False, owns: bool = False) -> None:
        self._descriptor, self._was_closed, self._owns = descriptor, was_closed, owns
        self.fault: OSError | None = None
        """Why something was written in vain; None where nothing was."""
        self.is_excused = False
        """Whether what was written in vain lies in a file as well."""

    def write(self, content: "ReadableBuffer", /) -> int:
        """Writes all of it, or as much as can be; the rest counts as written."""
        rest = memoryview(content).cast("B")
        size = len(rest)
        try:
            if self._was_closed:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            self.fault = self.fault or error
        return size

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        """True."""
        return True

    def close(self) -> None:
        """Closes the descriptor, if it was opened for this."""
        if self._owns and not self.closed:
            os.close(self._descriptor)
        super().close()


@contextmanager
def guarded_streams() -> Iterator[UnfailingFile]:
    """Inside, stdout and stderr never raise; what is behind stdout tells whether it lost anything.

    A standard stream that was closed is opened on the null device first: the next file to be opened
    would take its number, and whatever a library says on stderr would land in that.
    """
    before = sys.stdout, sys.stderr
    closed = {number for number in (0, 1, 2) if not _is_open(number)}
    for number in sorted(closed):
        null = os.open(os.devnull, os.O_RDWR)
        if null != number:
            os.dup2(null, number)
            os.close(null)
    stdout, stderr = (UnfailingFile(number, was_closed=number in closed) for number in (1, 2))
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    sys.stdout = _wrap(stdout, encoding, by_lines=stdout.isatty())
    sys.stderr = _wrap(stderr, encoding)
    try:
        yield stdout
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def is_unread() -> bool:
    """Whether nothing reaches stdout any more, so that writing on is in vain."""
    sys.stdout.flush()
    file = _behind_stdout()
    return file is not None and file.fault is not None


def excuse_stdout() -> None:
    """Says that what stdout has lost is no loss: its path alone was printed."""
    if (file := _behind_stdout()) is not None:
        file.is_excused = True


def open_talk(path: Path) -> TextIO:
    """A file to append talk to, which is lost in silence once the disk is full.

    Raises:
        OSError: If it cannot be opened.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    return talk_to(descriptor)


def talk_to(descriptor: int) -> TextIO:
    """The same of an open file, which is closed with it."""
    return _wrap(UnfailingFile(descriptor, owns=True), "utf-8")


def leave(code: int) -> NoReturn:
    """Ends this process at once.

    Everything is on the disk; TensorFlow's shutdown takes a second, waits for tasks that may be
    gone, and frees what the end of the process frees.
    """
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    logging.shutdown()
    os._exit(code)


def _behind_stdout() -> UnfailingFile | None:
    file = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return file if isinstance(file, UnfailingFile) else None


def _wrap(file: UnfailingFile, encoding: str, *, by_lines: bool = True) -> TextIO:
    # A letter that the encoding lacks is shown by its number.
    return io.TextIOWrapper(
        io.BufferedWriter(file), encoding, errors="backslashreplace", line_buffering=by_lines
    )


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
