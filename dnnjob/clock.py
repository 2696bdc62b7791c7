"""Wall time by phase.

watch = Stopwatch()
with watch.time("load"): ...
watch.seconds["load"]
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Seconds of each phase, and since the start."""

    def __init__(self, *, age_s: float = 0.0) -> None:
        """Starts; `age_s` is time that has passed already."""
        self._began = time.perf_counter() - age_s
        # What a process did before belongs to its first run, not to a later point of a sweep.
        self._cpu_began = 0.0 if age_s else time.process_time()
        self.seconds: dict[str, float] = {}

    @property
    def total(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._began

    @property
    def cpu_s(self) -> float:
        """Processor seconds since the start."""
        return time.process_time() - self._cpu_began

    @contextmanager
    def time(self, phase: str) -> Iterator[None]:
        """Adds the seconds inside to `phase`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(phase, time.perf_counter() - began)

    def add(self, phase: str, seconds: float) -> None:
        """Adds seconds to `phase`."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds
