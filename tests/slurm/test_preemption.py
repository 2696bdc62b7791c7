"""Runs that Slurm interrupts end in the bits of one that it left alone."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import pytest

from dnnjob.machine import process_key
from dnnjob.runs import Position, RunPaths, read_settled
from tests.conftest import WriteJob, make_frame
from tests.launch.test_local_tasks import is_pending
from tests.slurm.clusters import Cluster
from tests.slurm.submitted import (
    Reference,
    chief,
    hold,
    job_id,
    make_reference,
    read_attempts,
    read_report,
    run_reference,
    submit,
    submit_sweep,
    wait_for_end,
)
from tests.waiting import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.long]


@pytest.fixture(scope="session")
def minute(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """A job that trains for about a minute."""
    return make_reference(tmp_path_factory.mktemp("minute"), epochs=60000)


@pytest.mark.timeout(600)
def test_a_run_preempted_in_any_way_ends_in_the_same_bits(
    cluster: Cluster, unbooked: Cluster, reference: Reference, tmp_path: Path
) -> None:
    # Slurm's warning, SIGTERM with and without grace; a Slurm that would not queue it anew is in
    # test_endings.py.
    runs = [
        submit(cluster, reference.job, tmp_path, partition="graceful"),
        submit(unbooked, reference.job, tmp_path, partition="graceful"),
        submit(unbooked, reference.job, tmp_path, partition="abrupt"),
    ]
    hold(*runs)

    cluster.preempt()
    unbooked.preempt()
    wait_for_end(cluster, runs[0])
    wait_for_end(unbooked, *runs[1:])

    for paths in runs:
        reference.check(paths)
        assert_resumed(paths, reasons=["preempted"])


@pytest.mark.timeout(600)
def test_a_run_that_meets_its_time_limit_goes_on(
    unbooked: Cluster, reference: Reference, tmp_path: Path
) -> None:
    paths = submit(unbooked, reference.job, tmp_path, warning_lead_s=110)
    hold(paths)
    pid = chief(paths)

    # Now the warning is due, which comes within half a minute.
    set_limit(unbooked, paths, minutes=2)
    wait_until(lambda: _is_pending(pid, signal.SIGUSR2), seconds=120)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: read_attempts(paths)[0].ended_at, seconds=60)
    set_limit(unbooked, paths, minutes=10)
    wait_for_end(unbooked, paths)

    reference.check(paths)
    # A busy machine may take so long to start that the limit comes again.
    assert_resumed(paths, reasons=["time_limit"] * (len(read_attempts(paths)) - 1))
    assert len(read_attempts(paths)) > 1


@pytest.fixture(params=[15, pytest.param(6, marks=pytest.mark.slow)])
def impatient(unbooked: Cluster, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster that kills so many seconds after it has told a job to end."""
    unbooked.run("set", f"KillWait={request.param}")
    yield unbooked
    unbooked.run("set", "KillWait=15")


@pytest.mark.timeout(600)
def test_a_run_that_is_killed_before_it_could_answer_goes_on_from_its_last_checkpoint(
    impatient: Cluster, reference: Reference, tmp_path: Path
) -> None:
    paths = submit(impatient, reference.job, tmp_path, partition="abrupt")
    hold(paths)

    with _deaf(chief(paths)):
        impatient.preempt()
        wait_for_end(impatient, paths)

    reference.check(paths)
    assert_resumed(paths, reasons=["preempted"])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_array_element_is_queued_anew_alone(
    cluster: Cluster, reference: Reference, tmp_path: Path
) -> None:
    words = ['sweep={"output.model" = [true, false]}']
    first, second = submit_sweep(cluster, reference.job, tmp_path, words=words, points_per_task=1)
    hold(first, second)

    cluster.ask("scontrol", "requeue", job_id(second))
    os.kill(chief(first), signal.SIGCONT)
    wait_for_end(cluster, first, second)

    reference.check(first)
    reference.check(second)
    assert [attempt.reason for attempt in read_attempts(first)] == [None]
    assert_resumed(second, reasons=["preempted"])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_points_side_by_side_that_are_preempted_twice_end_in_the_same_bits(
    cluster: Cluster, reference: Reference, tmp_path: Path
) -> None:
    words = ['sweep={"output.model" = [true, false]}']
    needs = {"cpus_per_task": 2, "memory_gb": 3, "partition": "graceful"}
    runs = submit_sweep(cluster, reference.job, tmp_path, words=words, points_per_task=2, **needs)

    for attempt in (1, 2):
        hold(*runs, attempt=attempt)
        cluster.preempt()
    wait_for_end(cluster, *runs)

    assert len({job_id(paths) for paths in runs}) == 1
    for paths in runs:
        reference.check(paths)
        assert_resumed(paths, reasons=["preempted"] * 2)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_that_its_time_limit_kills_before_it_could_answer_goes_on(
    any_cluster: Cluster, reference: Reference, tmp_path: Path
) -> None:
    paths = submit(any_cluster, reference.job, tmp_path)
    hold(paths)
    pid = chief(paths)

    with _deaf(pid):
        set_limit(any_cluster, paths, minutes=1)
        wait_until(lambda: process_key(pid) is None, seconds=200)
    set_limit(any_cluster, paths, minutes=10)
    wait_for_end(any_cluster, paths)

    reference.check(paths)
    assert_resumed(paths, reasons=["time_limit"])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_that_meets_its_time_limit_while_it_predicts_predicts_the_rest(
    unbooked: Cluster, write_job: WriteJob, tmp_path: Path
) -> None:
    job = write_job(
        make_frame(100_000),
        data={"test_fraction": 0.98, "validation_fraction": 0.0},
        model={"hidden_units": [2000, 2000]},
        train={"epochs": 1, "global_batch_size": 256, "checkpoint_every_s": 1.0},
    )
    reference = run_reference(job, tmp_path / "undisturbed")
    limits = {"time_limit_min": 3, "warning_lead_s": 110, "memory_gb": 3}
    paths = submit(unbooked, job, tmp_path, **limits)
    hold(paths, written="predicted-*.parquet")
    pid = chief(paths)

    wait_until(lambda: _is_pending(pid, signal.SIGUSR2), seconds=120)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
    wait_for_end(unbooked, paths)

    reference.check(paths)
    first, second, *_ = read_attempts(paths)
    assert first.reason == "time_limit"
    assert second.resumed_from is not None
    assert second.resumed_from.epoch == 1
    assert 0 < second.resumed_from.predicted < 100_000


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_nodes_are_preempted_as_one_run(cluster: Cluster, tmp_path: Path) -> None:
    # submitit would tell the first task alone.
    reference = make_reference(tmp_path / "reference", tasks=2)
    paths = submit(cluster, reference.job, tmp_path, partition="graceful", nodes=2)
    hold(paths)

    cluster.preempt()
    wait_for_end(cluster, paths)

    reference.check(paths)
    assert_resumed(paths, reasons=["preempted"])


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("partition", ["graceful", "abrupt", "cancelled"])
@pytest.mark.parametrize("warning", ["USR2", "TERM"])
def test_a_run_of_a_minute_preempted_three_times_in_a_row_ends_in_the_same_bits(
    partition: str,
    warning: str,
    cluster: Cluster,
    unbooked: Cluster,
    minute: Reference,
    tmp_path: Path,
) -> None:
    where = cluster if warning == "USR2" else unbooked
    # A machine with much else to do takes more than the ten minutes of the others.
    paths = submit(where, minute.job, tmp_path, partition=partition, time_limit_min=60)

    for attempt in (1, 2, 3):
        hold(paths, attempt=attempt)
        where.preempt()
    wait_for_end(where, paths)

    minute.check(paths)
    assert_resumed(paths, reasons=["preempted"] * 3)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_of_a_minute_meets_its_time_limit_again_and_again(
    cluster: Cluster, minute: Reference, tmp_path: Path
) -> None:
    paths = submit(cluster, minute.job, tmp_path, time_limit_min=1, warning_lead_s=16)

    wait_for_end(cluster, paths)

    minute.check(paths)
    assert len(read_attempts(paths)) > 1
    assert_resumed(paths, reasons=["time_limit"] * (len(read_attempts(paths)) - 1))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_whose_node_dies_goes_on_elsewhere_unaided(
    any_cluster: Cluster, reference: Reference, tmp_path: Path
) -> None:
    paths = submit(any_cluster, reference.job, tmp_path)
    hold(paths)
    node = any_cluster.ask("squeue", "-h", "-j", job_id(paths), "-o", "%N")

    any_cluster.run("kill", node)
    try:
        wait_for_end(any_cluster, paths)
    finally:
        any_cluster.run("revive", node)

    reference.check(paths)
    assert_resumed(paths, reasons=["node_failure"])


def set_limit(cluster: Cluster, paths: RunPaths, *, minutes: int) -> None:
    """Gives the job of a run another time limit."""
    cluster.ask("scontrol", "update", f"JobId={job_id(paths)}", f"TimeLimit={minutes}")


def assert_resumed(paths: RunPaths, *, reasons: list[str]) -> None:
    """Each attempt but the last ended for its reason, and each but the first went on from it."""
    attempts = read_attempts(paths)
    assert [attempt.reason for attempt in attempts] == [*reasons, None]
    starts = [order(attempt.resumed_from) for attempt in attempts]
    assert starts[0] == (0, 0, 0)
    assert all(start > starts[0] for start in starts[1:])
    assert all(earlier <= later for earlier, later in pairwise(starts))
    assert {attempt.slurm_job_id for attempt in attempts} == {job_id(paths)}
    assert len(read_report(paths)["provenance"]["attempts"]) == len(attempts)
    assert read_settled(paths).reason is None
    assert not paths.checkpoints.exists()


def order(position: Position | None) -> tuple[int, int, int]:
    """How far a place in training is, the start first."""
    place = position or Position()
    return place.epoch, place.window, place.batch


def _is_pending(pid: int, number: signal.Signals) -> bool:
    """Whether a signal waits for a process that stands still, or has ended it."""
    try:
        return is_pending(pid, number)
    except FileNotFoundError:
        return True


@contextmanager
def _deaf(pid: int) -> Iterator[None]:
    """Keeps a process standing still although Slurm wakes it, until it is killed."""
    over = threading.Event()

    def stop_again() -> None:
        with suppress(ProcessLookupError):
            while not over.wait(0.001):
                os.kill(pid, signal.SIGSTOP)

    thread = threading.Thread(target=stop_again)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
