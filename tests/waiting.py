"""Waits for what other processes do.

wait_until(lambda: paths.report.exists(), seconds=60)
"""

import time
from collections.abc import Callable


def wait_until(is_so: Callable[[], object], *, seconds: float, every: float = 0.2) -> None:
    """Returns once `is_so()`; fails after `seconds` of a quiet machine."""
    # A limit ends what hangs; it is no verdict on a slow machine, or on one with other work.
    limit_s = 4 * seconds
    until = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < until, f"not so within {limit_s} s"
        time.sleep(every)
