"""The wish to stop, as a signal brings it.

stop = StopFlag()
with stop.listening(): ...
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from signal import Signals
from types import FrameType

from dnnjob.errors import StoppedError

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# With these Slurm and submitit warn of the end of a time limit and of a preemption.
_WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
LANE = "DNNJOB_LANE"
"""Set for processes whose launcher warns them of a time limit."""


def stop_signals() -> tuple[Signals, ...]:
    """The signals that ask a process to stop: a submitted one is warned with more."""
    warned = {"SLURM_JOB_ID", "SUBMITIT_EXECUTOR", LANE} & os.environ.keys()
    return (*_SIGNALS, *_WARNINGS) if warned else _SIGNALS


class StopFlag:
    """Remembers the first signal that asked this process to stop; acts on none."""

    def __init__(self, parent: "StopFlag | None" = None) -> None:
        """Nothing has come.

        Args:
            parent: What listens for all runs of this process, where this is one's own.
        """
        self._parent = parent
        self._signal: Signals | None = None

    @property
    def signal(self) -> Signals | None:
        """What has come first, to this run or to its process; None where nothing has."""
        return self._signal or (self._parent.signal if self._parent else None)

    @signal.setter
    def signal(self, value: Signals | None) -> None:
        self._signal = value

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes `stop_signals` inside; a second SIGINT interrupts at once."""
        if self._parent is not None:
            yield
            return
        before = {number: signal.getsignal(number) for number in stop_signals()}
        self.listen()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def listen(self) -> None:
        """Takes the signals, also those that a library has taken meanwhile."""
        for number in stop_signals():
            signal.signal(number, self._receive)
        # The local launcher has held back what came before this process listened.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, stop_signals())

    def want(self, number: Signals) -> None:
        """Takes a wish to stop that came another way for a signal."""
        self.signal = self.signal or number

    def check(self) -> None:
        """Raises StoppedError if a signal has come."""
        if self.signal is not None:
            raise StoppedError(self.signal)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        self.signal = self.signal or Signals(number)
