"""What Slurm's signals and losses make of a run, by what Slurm says of its job."""

import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dnnjob.clock import Stopwatch
from dnnjob.config import load_job
from dnnjob.errors import ExitCode, PeerLostError, SlurmError, StoppedError
from dnnjob.launch import outcome
from dnnjob.launch.outcome import ENDS_AT, WARNING_S, explain_end
from dnnjob.launch.worker import run_attempt
from dnnjob.runs import (
    Attempt,
    Cancel,
    Event,
    Position,
    Reason,
    Requested,
    RunPaths,
    Status,
    Submission,
    create_run,
    leave_event,
    read_settled,
    read_status,
    write_record,
    write_status,
)
from dnnjob.tasks import StopFlag, stop_signals
from tests.conftest import WriteJob

RUNNING = {"JobState": "RUNNING", "Restarts": "0", "RunTime": "01:00", "TimeLimit": "01:00:00"}
CANCELLED = RUNNING | {"JobState": "COMPLETING"}
WARNED = StoppedError(signal.SIGUSR2)

Says = Callable[[dict[str, str]], None]


@pytest.fixture
def paths(write_job: WriteJob, tmp_path: Path) -> RunPaths:
    """A run that this process, as Slurm's job 7, works on."""
    paths = create_run(tmp_path / "runs", load_job(write_job()))
    submission = Submission(
        executor="slurm",
        job_id="7",
        host="login",
        user="me",
        command="dnnjob submit",
        folder="submission",
        requested=Requested(memory_gb=4),
        max_requeues=3,
    )
    write_record(paths.submission, submission)
    return paths


@pytest.fixture(autouse=True)
def says(monkeypatch: pytest.MonkeyPatch) -> Says:
    """Takes the place of scontrol: what it says of the job."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    answer = dict(RUNNING)
    monkeypatch.setattr(outcome, "show_job", lambda job_id: answer)

    def says(job: dict[str, str]) -> None:
        answer.clear()
        answer.update(job)

    return says


def attempt(*, reason: Reason | None = None, reached: int | None = None) -> Attempt:
    return Attempt(
        host="n1",
        pid=1,
        slurm_job_id="7",
        slurm_restarts=0,
        started_at=datetime.now(UTC),
        reason=reason,
        reached=None if reached is None else Position(epoch=reached),
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_run_that_slurm_stops_goes_on(paths: RunPaths, number: signal.Signals) -> None:
    found = explain_end(StoppedError(number), paths, attempts=[attempt()])

    assert (found.state, found.reason) == ("REQUEUED", "preempted")
    assert found.exit_code is ExitCode.CONTINUE


def test_a_cancelled_job_is_told_from_a_preempted_one(paths: RunPaths, says: Says) -> None:
    says(CANCELLED)

    found = explain_end(StoppedError(signal.SIGTERM), paths, attempts=[attempt()])

    assert (found.state, found.exit_code) == ("CANCELLED", ExitCode.TERMINATED)


def test_a_wish_to_cancel_counts_before_slurms_word(paths: RunPaths) -> None:
    write_record(paths.cancel, Cancel())

    assert explain_end(WARNED, paths, attempts=[attempt()]).state == "CANCELLED"


def test_a_person_at_the_keyboard_interrupts(paths: RunPaths) -> None:
    found = explain_end(StoppedError(signal.SIGINT), paths, attempts=[attempt()])

    assert (found.state, found.exit_code) == ("CANCELLED", ExitCode.INTERRUPTED)


def test_a_second_time_limit_without_progress_ends_the_run(paths: RunPaths, says: Says) -> None:
    says(RUNNING | {"RunTime": "59:00"})

    first = explain_end(WARNED, paths, attempts=[attempt()])
    second = explain_end(WARNED, paths, attempts=[attempt(reason="time_limit"), attempt()])
    further = explain_end(
        WARNED, paths, attempts=[attempt(reason="time_limit"), attempt(reached=1)]
    )

    assert (first.state, first.reason) == ("REQUEUED", "time_limit")
    assert (second.state, second.reason, second.exit_code) == ("FAILED", "time_limit", 1)
    assert "profile.time_limit_min" in second.message
    assert further.state == "REQUEUED"


@pytest.mark.parametrize(("left_s", "reason"), [(60, "time_limit"), (3000, "preempted")])
def test_in_a_container_the_clock_tells(
    paths: RunPaths, monkeypatch: pytest.MonkeyPatch, left_s: float, reason: Reason
) -> None:
    def is_missing(job_id: str) -> dict[str, str]:
        raise SlurmError("there is no scontrol")

    monkeypatch.setattr(outcome, "show_job", is_missing)
    monkeypatch.setenv(ENDS_AT, str(time.time() + left_s))
    monkeypatch.setenv(WARNING_S, "30")

    assert explain_end(WARNED, paths, attempts=[attempt()]).reason == reason


def test_a_silent_slurm_is_not_waited_for_longer_than_there_is_time(
    paths: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcome, "show_job", lambda job_id: time.sleep(30))
    monkeypatch.setattr(outcome, "_ANSWER_S", 0.2)
    began = time.monotonic()

    assert explain_end(WARNED, paths, attempts=[attempt()]).state == "REQUEUED"
    assert time.monotonic() - began < 5


def test_a_lost_task_is_no_failure_of_a_submitted_run(paths: RunPaths) -> None:
    found = explain_end(PeerLostError("task 1 ended"), paths, attempts=[attempt()])

    assert (found.state, found.reason) == ("REQUEUED", "peer_lost")
    assert "task 1 ended" in found.message


def test_a_task_lost_with_its_job_is_preempted_or_cancelled(paths: RunPaths, says: Says) -> None:
    says(CANCELLED)
    assert explain_end(PeerLostError("x"), paths, attempts=[attempt()]).state == "CANCELLED"

    says(CANCELLED | {"Restarts": "1"})
    found = explain_end(PeerLostError("x"), paths, attempts=[attempt()])
    assert (found.state, found.reason) == ("REQUEUED", "preempted")


def test_of_a_run_that_nobody_queues_anew_a_lost_task_is_the_end(paths: RunPaths) -> None:
    paths.submission.unlink()

    assert explain_end(PeerLostError("x"), paths, attempts=[attempt()]).state == "FAILED"
    # A script of the user's may go on with it.
    assert explain_end(WARNED, paths, attempts=[attempt()]).exit_code is ExitCode.CONTINUE


def test_memory_is_told_with_what_was_asked(paths: RunPaths) -> None:
    found = explain_end(MemoryError(), paths)

    assert found.reason == "out_of_memory"
    assert "asked for 4 GB" in found.message


def test_the_warnings_are_listened_to_where_they_may_come(monkeypatch: pytest.MonkeyPatch) -> None:
    assert signal.SIGUSR2 in stop_signals()
    stop = StopFlag()
    with stop.listening():
        os.kill(os.getpid(), signal.SIGUSR2)
    assert stop.signal is signal.SIGUSR2

    monkeypatch.delenv("SLURM_JOB_ID")
    assert signal.SIGUSR2 not in stop_signals()


def lost(paths: RunPaths, *earlier: Reason) -> None:
    """Leaves the run as a node that died leaves it, after attempts that ended so."""
    attempts = (*(attempt(reason=reason) for reason in earlier), attempt())
    ended = [one.model_copy(update={"ended_at": one.started_at}) for one in attempts[:-1]]
    write_status(paths, Status(state="RUNNING", attempts=(*ended, attempts[-1])))


def test_a_run_lost_too_often_is_not_begun_again(
    paths: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_RESTART_COUNT", "4")
    lost(paths, "node_failure", "node_failure", "node_failure")

    code = run_attempt(paths, watch=Stopwatch())

    status = read_settled(paths)
    assert code is ExitCode.FAILED
    assert (status.state, status.reason) == ("FAILED", "node_failure")
    assert len(status.attempts) == 4
    assert "profile.exclude" in str(status.error) or "max_requeues" in str(status.error)


@pytest.mark.parametrize(
    ("came_to_its_end", "reason"), [(True, "preempted"), (False, "node_failure")]
)
def test_an_attempt_that_left_no_word_is_judged_by_its_batch_script(
    paths: RunPaths, monkeypatch: pytest.MonkeyPatch, came_to_its_end: bool, reason: Reason
) -> None:
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    lost(paths)
    if came_to_its_end:
        end = Event(writer="batch", job_id="7", exit_code=137, requeue="slurm")
        leave_event(paths, "batch-7-0", end)
    # The attempt ends before TensorFlow is needed.
    (paths.root.parents[2] / "table.csv").unlink()

    run_attempt(paths, watch=Stopwatch())

    first, second = read_status(paths).attempts
    assert first.reason == reason
    assert (second.slurm_job_id, second.slurm_restarts) == ("7", 1)
