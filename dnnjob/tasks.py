"""The tasks of a run: which one this process is, its environment, and the wish to stop.

task = Task()                                   # the only one
configure_process(job.devices)                  # before TensorFlow is imported
"""

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from dnnjob.config import DevicesConfig
from dnnjob.errors import StoppedError
from dnnjob.machine import count_cores


@dataclass(frozen=True)
class Task:
    """One process of a run."""

    rank: int = 0
    num_tasks: int = 1

    @property
    def is_chief(self) -> bool:
        """Whether this task decides and publishes."""
        return self.rank == 0


class StopFlag:
    """Remembers the first signal that asked this process to stop; acts on none."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes SIGTERM and SIGINT inside; a second SIGINT interrupts at once."""
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        for number in before:
            signal.signal(number, self._receive)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def check(self) -> None:
        """Raises StoppedError if a signal has come."""
        if self.signal is not None:
            raise StoppedError(self.signal)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        self.signal = self.signal or signal.Signals(number)


def configure_process(devices: DevicesConfig) -> int:
    """Sets what TensorFlow, Keras and matplotlib read at their import; the number of threads.

    Args:
        devices: `[devices]` of the job.
    """
    threads = devices.threads or count_cores()
    caches = tempfile.mkdtemp(prefix="dnnjob-")
    settings = {
        "TF_NUM_INTRAOP_THREADS": str(threads),
        "TF_NUM_INTEROP_THREADS": str(threads),
        "OMP_NUM_THREADS": str(threads),
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "KERAS_BACKEND": "tensorflow",
        # A user's ~/.keras/keras.json may change the float type; several tasks race to write it.
        "KERAS_HOME": str(Path(caches) / "keras"),
        # HDF5 locks fail on NFS and Lustre.
        "HDF5_USE_FILE_LOCKING": "FALSE",
        "MPLBACKEND": "Agg",
    }
    os.environ.update(settings)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if devices.kind == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    return threads
