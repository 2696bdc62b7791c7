"""The wish to stop, as a signal brings it.

stop = StopFlag()
with stop.listening(): ...
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from dnnjob.errors import StoppedError

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopFlag:
    """Remembers the first signal that asked this process to stop; acts on none."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes SIGTERM and SIGINT inside; a second SIGINT interrupts at once."""
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        self.listen()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def listen(self) -> None:
        """Takes the signals, also those that a library has taken meanwhile."""
        for number in _SIGNALS:
            signal.signal(number, self._receive)

    def check(self) -> None:
        """Raises StoppedError if a signal has come."""
        if self.signal is not None:
            raise StoppedError(self.signal)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        self.signal = self.signal or signal.Signals(number)
