"""How submitted runs end that do not come to their end, and what becomes of them."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dnnjob.runs import RunPaths, Status, read_settled
from tests.conftest import WriteJob, make_frame
from tests.launch import killing
from tests.slurm.clusters import Cluster
from tests.slurm.submitted import (
    Reference,
    chief,
    hold,
    job_id,
    read_attempts,
    submit,
    wait_for_end,
)
from tests.waiting import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.long]


@pytest.fixture
def strict(cluster: Cluster) -> Iterator[Cluster]:
    """A cluster on which only jobs that ask for it are ever queued anew."""
    cluster.run("set", "JobRequeue=0")
    yield cluster
    cluster.run("set", "JobRequeue=1")


@pytest.mark.timeout(600)
def test_a_task_in_a_container_without_slurm_is_queued_anew_where_requeues_must_be_asked_for(
    strict: Cluster, reference: Reference, tmp_path: Path
) -> None:
    paths = submit(
        strict,
        reference.job,
        tmp_path,
        partition="cancelled",
        # As in an image without Slurm: none of its commands is found.
        container="env PATH=/nowhere",
        python=sys.executable,
    )
    hold(paths)

    strict.preempt()
    wait_for_end(strict, paths)

    reference.check(paths)
    assert [attempt.reason for attempt in read_attempts(paths)] == ["preempted", None]


@pytest.mark.timeout(600)
def test_a_requeue_that_slurm_refuses_leaves_a_failed_run_that_can_be_resumed(
    cluster: Cluster, reference: Reference, tmp_path: Path
) -> None:
    paths = submit(cluster, reference.job, tmp_path, partition="graceful")
    hold(paths)
    cluster.ask("scontrol", "update", f"JobId={job_id(paths)}", "Requeue=0")

    cluster.preempt()
    status = wait_for_failure(paths)
    resumed = cluster.dnnjob("resume", paths.root)
    wait_until(lambda: len(read_attempts(paths)) == 2, seconds=120)
    wait_for_end(cluster, paths)

    assert status.reason == "preempted"
    assert status.error is not None
    assert "not queued anew" in status.error
    assert "dnnjob resume" in status.error
    assert resumed.returncode == 0, resumed.stderr
    reference.check(paths)
    assert read_attempts(paths)[1].resumed_from is not None


@pytest.mark.timeout(600)
def test_a_run_that_loses_a_task_goes_on(unbooked: Cluster, tmp_path: Path) -> None:
    # Few steps, since two tasks may do no more than 70 a second.
    job = killing.write_job(tmp_path, epochs=500, tasks=1)
    paths = submit(unbooked, job, tmp_path, words=["train.checkpoint_every_s=0.1"], nodes=2)
    hold(paths)

    os.kill(find_task(paths, rank=1), signal.SIGKILL)
    os.kill(chief(paths), signal.SIGCONT)
    # That it goes on is enough: how soon it ends is up to the machine.
    wait_until(lambda: _resumed(paths), seconds=280)

    first, _ = read_attempts(paths)
    assert first.reason == "peer_lost"


def _resumed(paths: RunPaths) -> bool:
    attempts = read_attempts(paths)
    return len(attempts) == 2 and attempts[1].resumed_from is not None


def test_memory_that_runs_out_is_told_with_what_was_asked_and_used(
    any_cluster: Cluster, write_job: WriteJob, tmp_path: Path
) -> None:
    paths = submit(any_cluster, write_job(), tmp_path, words=["--force"], memory_gb=0.2)

    status = wait_for_failure(paths)

    assert status.reason == "out_of_memory"
    assert status.error is not None
    assert "0.2 GB" in status.error
    assert "MB" in status.error
    assert [attempt.reason for attempt in status.attempts] == ["out_of_memory"]
    assert status.attempts[0].ended_at is not None
    assert_left_the_queue(any_cluster, paths)


def test_a_run_that_fails_by_itself_is_not_queued_anew_and_keeps_its_exit_code(
    cluster: Cluster, write_job: WriteJob, tmp_path: Path
) -> None:
    frame = make_frame()
    frame["y"] *= np.where(np.arange(len(frame)) % 2, 1e30, -1e30)
    job = write_job(frame, data={"standardize": "none"}, train={"learning_rate": 1e6})

    paths = submit(cluster, job, tmp_path)
    status = wait_for_failure(paths)

    assert status.reason == "nan"
    assert_left_the_queue(cluster, paths)
    books = ("sacct", "-n", "-P", "-X", "-j", job_id(paths), "-o", "State,ExitCode")
    wait_until(lambda: cluster.ask(*books) == "FAILED|1:0", seconds=30)


def test_a_setup_line_that_fails_ends_the_job_before_the_run_begins(
    cluster: Cluster, write_job: WriteJob, tmp_path: Path
) -> None:
    paths = submit(cluster, write_job(), tmp_path, setup=["module-that-is-missing load x", "true"])

    status = wait_for_failure(paths)

    assert status.attempts == ()
    assert status.error is not None
    assert "exit code 127" in status.error
    assert_left_the_queue(cluster, paths)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_tasks_that_are_lost_without_progress_end_in_a_failed_run(
    cluster: Cluster, write_job: WriteJob, tmp_path: Path
) -> None:
    paths = submit(cluster, write_job(train={"epochs": 10**7}), tmp_path, nodes=2)

    for attempt in range(1, 5):
        wait_until(lambda n=attempt: find_task(paths, rank=1, attempt=n), seconds=200)
        os.kill(find_task(paths, rank=1, attempt=attempt), signal.SIGKILL)
    status = wait_for_failure(paths, seconds=200)

    assert status.reason == "peer_lost"
    assert len(status.attempts) == 4
    assert_left_the_queue(cluster, paths)


def wait_for_failure(paths: RunPaths, *, seconds: float = 120) -> Status:
    wait_until(lambda: read_settled(paths).state in ("FAILED", "COMPLETED"), seconds=seconds)
    status = read_settled(paths)
    assert status.state == "FAILED"
    return status


def assert_left_the_queue(cluster: Cluster, paths: RunPaths) -> None:
    ended = ("FAILED", "COMPLETED", "OUT_OF_MEMORY", "TIMEOUT", "")
    wait_until(lambda: cluster.state(job_id(paths)) in ended, seconds=60)


def find_task(paths: RunPaths, *, rank: int, attempt: int = 1) -> int:
    """Number of a task's process, 0 while there is none."""
    file = paths.attempts / str(attempt) / f"task-{rank}.json"
    return int(json.loads(file.read_text())["pid"]) if file.exists() else 0
