"""The strategy over the devices of all tasks."""

import signal
import subprocess
import sys
import time

from dnnjob.training.strategy import ending_within

# As in TensorFlow's connecting, the interpreter is not let go of.
STANDSTILL = """
import ctypes
from dnnjob.training.strategy import ending_within
with ending_within(0.5):
    ctypes.PyDLL(None).sleep(60)
"""


def test_a_process_that_waits_for_ever_with_python_at_a_standstill_is_ended() -> None:
    ended = subprocess.run([sys.executable, "-c", STANDSTILL], check=False, timeout=50)
    assert ended.returncode == -signal.SIGALRM


def test_what_ends_in_time_goes_on() -> None:
    with ending_within(0.2):
        pass
    time.sleep(0.4)
