"""The strategy over the devices of all tasks."""

import signal
import subprocess
import sys
import time

import pytest

from dnnjob.config import DevicesConfig
from dnnjob.errors import MissingError
from dnnjob.tasks import Crew, StopFlag
from dnnjob.tasks.rendezvous import Peer
from dnnjob.training.strategy import ending_within, make_devices

# As in TensorFlow's connecting, the interpreter is not let go of.
STANDSTILL = """
import ctypes
from dnnjob.training.strategy import ending_within
with ending_within(0.5):
    ctypes.PyDLL(None).sleep(3600)
"""


@pytest.mark.long
def test_a_process_that_waits_for_ever_with_python_at_a_standstill_is_ended() -> None:
    ended = subprocess.run([sys.executable, "-c", STANDSTILL], check=False)
    assert ended.returncode == -signal.SIGALRM


def test_what_ends_in_time_goes_on() -> None:
    with ending_within(0.2):
        pass
    time.sleep(0.4)


class WithTwoGpus(Crew):
    """This task, without a GPU, beside one that has two."""

    peers = tuple(
        Peer(rank=rank, launch="l", host=host, pid=1, network=host, address="a", port=1)
        for rank, host in enumerate(("node-a", "node-b"))
    )

    def gather(self, value: object) -> list[object]:
        return [value, 2]


def test_tasks_with_unequally_many_gpus_are_refused_and_named() -> None:
    with pytest.raises(MissingError, match=r"node-a.* none, .*node-b.* 2. Ask for nodes that"):
        make_devices(DevicesConfig(), WithTwoGpus(StopFlag()))
