"""Whether a process is at work."""

import os
import socket
import subprocess
import sys

from dnnjob.machine import process_key
from dnnjob.tasks import sees_process

HERE = socket.gethostname()
KEY = str(process_key(os.getpid()))
BOOT = KEY.partition("/")[0]


def test_a_process_that_lives_here_is_at_work() -> None:
    assert sees_process(os.getpid(), KEY, host=HERE) is True


def test_a_process_that_ended_here_is_not_at_work() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        key = process_key(process.pid)
        process.kill()

    assert key is not None
    assert sees_process(process.pid, key, host=HERE) is False


def test_another_process_with_its_number_is_not_it() -> None:
    assert sees_process(os.getpid(), KEY[:-1] + "x", host=HERE) is False


def test_a_process_of_another_host_cannot_be_seen() -> None:
    assert sees_process(os.getpid(), KEY, host="elsewhere") is None


def test_a_process_in_another_container_of_this_host_cannot_be_seen() -> None:
    assert sees_process(1, f"{BOOT}/pid:[1]/12", host=HERE) is None


def test_before_this_boot_nothing_is_at_work() -> None:
    assert sees_process(os.getpid(), "another-boot/pid:[4026531836]/12", host=HERE) is False


def test_a_container_with_a_boot_of_its_own_cannot_be_seen() -> None:
    assert sees_process(1, "another-boot/pid:[4026532999]/12", host=HERE) is None
