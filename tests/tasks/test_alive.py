"""Whether a run may be gone on with."""

import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from dnnjob.errors import JobError
from dnnjob.machine import process_key
from dnnjob.runs import Attempt, RunPaths, Status
from dnnjob.tasks.alive import is_alive, refuse_live_run

NOW = datetime.now(UTC)


def attempt(**changes: object) -> Attempt:
    values = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process": process_key(os.getpid()),
        "started_at": NOW,
    }
    return Attempt.model_validate({**values, **changes})


def test_a_process_that_lives_here_is_at_work_however_long_it_has_been_silent() -> None:
    assert is_alive(attempt(), updated_at=NOW - timedelta(days=3))


def test_a_process_that_ended_here_is_not_at_work_however_lately_it_wrote() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        key = process_key(process.pid)
        process.kill()
    ended = attempt(pid=process.pid, process=key)

    assert key is not None
    assert not is_alive(ended, updated_at=datetime.now(UTC))


def test_another_process_with_its_number_is_not_it() -> None:
    key = str(process_key(os.getpid()))

    assert not is_alive(attempt(process=key[:-1] + "x"), updated_at=datetime.now(UTC))


@pytest.mark.parametrize("seconds", [5, 4000])
def test_on_another_host_a_recent_sign_of_life_decides(seconds: int) -> None:
    updated_at = datetime.now(UTC) - timedelta(seconds=seconds)

    assert is_alive(attempt(host="elsewhere"), updated_at=updated_at) == (seconds == 5)


def test_in_another_container_of_this_host_a_recent_sign_of_life_decides() -> None:
    boot = str(process_key(os.getpid())).partition("/")[0]
    other = attempt(pid=1, process=f"{boot}/pid:[1]/12")

    assert is_alive(other, updated_at=datetime.now(UTC))
    assert not is_alive(other, updated_at=NOW - timedelta(hours=1))


def test_before_this_boot_nothing_is_at_work() -> None:
    before = attempt(process="another-boot/pid:[4026531836]/12")

    assert not is_alive(before, updated_at=datetime.now(UTC))


def test_a_run_at_work_is_refused_with_who_and_when(run_paths: RunPaths) -> None:
    status = Status(state="RUNNING", attempts=(attempt(),))

    told = rf"process {os.getpid()} on .*last sign of life 0 s ago.*`kill {os.getpid()}`"
    with pytest.raises(JobError, match=told):
        refuse_live_run(run_paths, status)


def test_the_number_of_a_process_in_another_container_is_not_for_killing(
    run_paths: RunPaths,
) -> None:
    boot = str(process_key(os.getpid())).partition("/")[0]
    other = attempt(pid=1, process=f"{boot}/pid:[4026532999]/12")
    status = Status(state="RUNNING", attempts=(other,))

    with pytest.raises(JobError, match=r"in a container on .*`dnnjob cancel .*120 s") as refused:
        refuse_live_run(run_paths, status)
    assert "kill" not in str(refused.value)


def test_a_container_with_a_boot_of_its_own_is_judged_by_its_signs_of_life() -> None:
    other = attempt(pid=1, process="another-boot/pid:[4026532999]/12")

    assert is_alive(other, updated_at=datetime.now(UTC))
    assert not is_alive(other, updated_at=NOW - timedelta(hours=1))


@pytest.mark.parametrize("state", ["CREATED", "FAILED", "CANCELLED", "REQUEUED"])
def test_a_run_that_is_not_running_is_not_refused(run_paths: RunPaths, state: str) -> None:
    refuse_live_run(run_paths, Status.model_validate({"state": state, "attempts": (attempt(),)}))


@pytest.fixture
def run_paths(tmp_path: object) -> RunPaths:
    return RunPaths(tmp_path)  # type: ignore[arg-type]
