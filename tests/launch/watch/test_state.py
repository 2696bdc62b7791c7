"""What becomes of a run, by all that can be known of it."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from dnnjob.launch.watch.state import Evidence, JobView, RunView, estimate_left_s, merge
from dnnjob.runs import BatchEnd, Cancel, Position, Progress, RunPaths, Status, Submission
from tests.launch.watch.made import ago, attempt, status, submission

PATHS = RunPaths(Path("/root/tiny/20260101-000000-000001"))
RUNNING_JOB = JobView(state="RUNNING", nodes="n1", limit_left_s=600)


# Functions, not constants: minutes may pass between the reading of this file and its tests.
def at_work() -> Status:
    return status("RUNNING", [attempt(slurm_job_id="7")])


def waiting() -> Status:
    return status("CREATED", silent_s=300)


def long_silent() -> Status:
    return status("RUNNING", [attempt(9000, slurm_job_id="7")], silent_s=3 * 3600)


def judged(
    told: Status | None = None,
    job: JobView | None = None,
    *,
    sent: Submission | None = None,
    **evidence: object,
) -> RunView:
    """What is made of a submitted run whose Slurm was asked."""
    sent = sent or submission()
    values = {"origin": "slurm", "submission": sent, "job_id": sent.job_id, **evidence}
    return merge(
        Evidence(paths=PATHS, status=told or at_work(), job=job, **values),  # type: ignore[arg-type]
        now=datetime.now(UTC),
    )


def ended(state: str, **changes: object) -> JobView:
    values = {"state": state, "is_over": True, "nodes": "n1", "exit_code": 0, **changes}
    return JobView(**values)  # type: ignore[arg-type]


# A run whose status says how it ended


@pytest.mark.parametrize("state", ["COMPLETED", "FAILED", "CANCELLED"])
def test_the_end_a_run_tells_itself_stands_whatever_slurm_says(state: str) -> None:
    told = status(state, [attempt(slurm_job_id="7", ended_at=ago(5))], reason="nan", error="E")

    view = judged(told, ended("TIMEOUT"))

    assert (view.state, view.reason, view.error) == (state, "nan", "E")
    assert view.is_over


def test_a_run_submitted_again_waits_although_its_status_is_of_before() -> None:
    told = status("FAILED", [attempt(slurm_job_id="6", ended_at=ago(50))], silent_s=50)
    again = submission("7", sent_s=10)

    view = judged(told, JobView(state="PENDING", reason="Priority"), sent=again)

    assert (view.state, view.reason) == ("REQUEUED", None)
    assert "others come first (Priority)" in str(view.note)


def test_an_attempt_of_the_same_job_makes_the_status_the_newest_whatever_clocks_say() -> None:
    told = status("FAILED", [attempt(slurm_job_id="7")], silent_s=50)

    assert judged(told, sent=submission("7", sent_s=-300)).state == "FAILED"


def test_a_completed_run_is_never_open_again() -> None:
    told = status("COMPLETED", [attempt(slurm_job_id="6")], silent_s=50)

    assert judged(told, sent=submission("7", sent_s=10)).state == "COMPLETED"


# A run whose job waits or runs


def test_a_waiting_run_tells_why_it_waits_and_when_it_is_to_start() -> None:
    starts_at = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)

    view = judged(waiting(), JobView(state="PENDING", reason="Resources", starts_at=starts_at))

    assert (view.state, view.queue_reason, view.starts_at) == ("CREATED", "Resources", starts_at)
    assert view.note == "waits for free nodes (Resources), planned for 2026-01-02 03:04 UTC"


def test_a_held_job_comes_with_the_command_that_frees_it() -> None:
    view = judged(waiting(), JobView(state="PENDING", reason="JobHeldUser"))

    assert "`scontrol release 7`" in str(view.note)


def test_a_reason_nobody_has_described_is_shown_as_it_is() -> None:
    view = judged(waiting(), JobView(state="PENDING", reason="Quantum{flux}"))

    assert view.note == "waits: Quantum{flux}"


def test_a_run_at_work_shows_its_progress_and_what_is_left() -> None:
    told = status(
        "RUNNING",
        [attempt(105, slurm_job_id="7")],
        progress=Progress(epoch=50, epochs=150, loss=0.25),
    )

    view = judged(told, RUNNING_JOB)

    assert (view.state, view.progress.loss, view.limit_left_s) == ("RUNNING", 0.25, 600)
    assert view.left_s == pytest.approx(195, abs=1)
    assert view.note is None


def test_a_job_that_has_started_is_no_run_at_work_before_the_run_says_so() -> None:
    view = judged(waiting(), RUNNING_JOB)

    assert view.state == "CREATED"
    assert "its job is running on n1" in str(view.note)


def test_silence_of_a_running_job_is_told() -> None:
    view = judged(long_silent(), RUNNING_JOB)

    assert view.state == "RUNNING"
    assert view.note == "last sign of life 3 h ago, while its job is running on n1"


@pytest.mark.parametrize(
    ("before", "reason"),
    [("NODE_FAIL", "node_failure"), ("PREEMPTED", "preempted"), (None, "vanished")],
)
def test_a_job_queued_anew_without_a_word_of_the_run_is_requeued(
    before: str | None, reason: str
) -> None:
    view = judged(at_work(), JobView(state="PENDING", reason="BeginTime", ended_before=before))

    assert (view.state, view.reason) == ("REQUEUED", reason)


def test_a_wish_to_stop_that_is_not_yet_met_is_told() -> None:
    view = judged(at_work(), RUNNING_JOB, cancel=Cancel(requested_at=ago(30), user="anna"))

    assert (view.state, view.note) == ("RUNNING", "asked to stop 30 s ago")


# A run whose job has ended without the run's word


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("NODE_FAIL", "node_failure"),
        ("BOOT_FAIL", "node_failure"),
        ("TIMEOUT", "time_limit"),
        ("DEADLINE", "time_limit"),
        ("PREEMPTED", "preempted"),
        ("OUT_OF_MEMORY", "out_of_memory"),
        ("FAILED", "error"),
    ],
)
def test_what_slurm_knows_of_the_end_is_the_reason(state: str, reason: str) -> None:
    view = judged(at_work(), ended(state, exit_code=1))

    assert (view.state, view.reason) == ("FAILED", reason)
    assert "n1" in str(view.error) or reason == "time_limit"


def test_out_of_memory_tells_what_was_asked_and_used() -> None:
    view = judged(job=ended("OUT_OF_MEMORY", memory_asked_gb=4.0, memory_used_gb=3.99))

    assert "its limit of 4 GiB, at 3.99 GiB" in str(view.error)
    assert "profile.memory_gb" in str(view.error)


def test_a_job_killed_above_its_memory_ran_out_of_it_although_slurm_calls_it_failed() -> None:
    view = judged(job=ended("FAILED", signal=9, memory_asked_gb=0.1, memory_used_gb=0.48))

    assert view.reason == "out_of_memory"


def test_a_job_killed_below_its_memory_is_no_case_of_memory() -> None:
    view = judged(job=ended("FAILED", signal=9, memory_asked_gb=4.0, memory_used_gb=0.48))

    assert view.reason == "error"
    assert "signal SIGKILL" in str(view.error)


def test_a_node_that_could_not_write_the_log_is_named_with_the_folder() -> None:
    view = judged(waiting(), ended("FAILED", signal=53))

    assert (view.state, view.reason) == ("FAILED", "error")
    assert f"n1 could not write to {PATHS.root}/submission" in str(view.error)
    assert "profile.exclude" in str(view.error)


def test_without_accounting_a_launch_failure_without_a_log_names_the_node_too() -> None:
    job = ended("FAILED", reason="JobLaunchFailure", exit_code=None)

    assert "n1 could not write" in str(judged(waiting(), job, has_log=False).error)
    assert "could not write" not in str(judged(waiting(), job, has_log=True).error)


def test_a_forgotten_job_has_vanished() -> None:
    view = judged(long_silent(), None)

    assert (view.state, view.reason) == ("FAILED", "vanished")
    assert f"dnnjob logs {PATHS.root}" in str(view.error)


def test_a_job_that_ended_a_moment_ago_may_still_be_heard_of() -> None:
    view = judged(at_work(), None)

    assert (view.state, view.note) == ("RUNNING", "its job has just ended")


def test_what_slurm_calls_completed_and_the_run_does_not_has_vanished() -> None:
    view = judged(long_silent(), ended("COMPLETED", ended_at=ago(600)))

    assert (view.state, view.reason) == ("FAILED", "vanished")


@pytest.mark.parametrize("ended_s", [20, None])
def test_a_job_that_completed_lately_may_have_left_words_that_are_not_here_yet(
    ended_s: float | None,
) -> None:
    ended_at = None if ended_s is None else ago(ended_s)

    view = judged(long_silent(), ended("COMPLETED", ended_at=ended_at))

    assert (view.state, view.note) == ("RUNNING", "its job has just ended")


@pytest.mark.parametrize(("sweep_id", "state"), [(None, "FAILED"), ("s1", "CREATED")])
def test_of_a_failed_task_of_several_points_others_may_have_completed(
    sweep_id: str | None, state: str
) -> None:
    job = ended("FAILED", exit_code=1, ended_at=ago(20))

    assert judged(waiting(), job, sent=submission(sweep_id=sweep_id)).state == state


def test_a_job_that_ends_to_be_queued_anew_is_not_over() -> None:
    told = status("REQUEUED", [attempt(slurm_job_id="7", ended_at=ago(5))], reason="preempted")
    end = BatchEnd(exit_code=75, requeue="asked", ended_at=ago(5))

    view = judged(told, ended("FAILED", exit_code=75), batch_end=end)

    assert (view.state, view.reason) == ("REQUEUED", "preempted")


def test_the_batch_script_tells_the_exit_code_where_nobody_else_does() -> None:
    end = BatchEnd(exit_code=137, requeue="none", restarts=0, ended_at=ago(5))

    view = judged(at_work(), None, batch_end=end)

    assert (view.state, view.reason) == ("FAILED", "error")
    assert "signal SIGKILL" in str(view.error)


def test_the_batch_script_knows_what_slurm_did_where_no_books_do() -> None:
    end = BatchEnd(exit_code=137, requeue="asked", reason="time_limit", ended_at=ago(5))

    view = judged(at_work(), JobView(state="PENDING", reason="BeginTime"), batch_end=end)

    assert (view.state, view.reason) == ("REQUEUED", "time_limit")


def test_a_job_that_was_queued_anew_and_then_forgotten_has_vanished() -> None:
    end = BatchEnd(exit_code=137, requeue="asked", reason="preempted", ended_at=ago(900))

    assert judged(long_silent(), None, batch_end=end).reason == "vanished"


def test_a_refused_requeue_is_a_failure_that_can_be_resumed() -> None:
    told = status(
        "REQUEUED",
        [attempt(slurm_job_id="7", ended_at=ago(5), reason="preempted")],
        reason="preempted",
    )
    end = BatchEnd(exit_code=75, requeue="refused", restarts=0, ended_at=ago(5))

    view = judged(told, ended("FAILED", exit_code=75), batch_end=end)

    assert (view.state, view.reason) == ("FAILED", "preempted")
    assert f"dnnjob resume {PATHS.root}" in str(view.error)


def test_the_end_of_an_earlier_start_says_nothing_of_this_one() -> None:
    told = status("RUNNING", [attempt(slurm_job_id="7", slurm_restarts=1)], silent_s=500)
    end = BatchEnd(exit_code=1, requeue="none", restarts=0, ended_at=ago(900))

    assert judged(told, None, batch_end=end).reason == "vanished"


# Cancelled


def test_slurm_tells_who_cancelled() -> None:
    view = judged(waiting(), ended("CANCELLED", cancelled_by="berta"))

    assert (view.state, view.reason) == ("CANCELLED", "cancelled")
    assert view.error == "Cancelled by berta."


def test_without_accounting_the_wish_tells_a_cancelled_job_from_a_lost_one() -> None:
    view = judged(waiting(), None, cancel=Cancel(user="anna"))

    assert (view.state, view.error) == ("CANCELLED", "Cancelled by anna.")


def test_a_wish_does_not_hide_another_end() -> None:
    view = judged(at_work(), ended("OUT_OF_MEMORY"), cancel=Cancel(user="anna"))

    assert (view.state, view.reason) == ("FAILED", "out_of_memory")


# A run of this machine, and one that cannot be asked


def test_a_process_that_lives_is_at_work() -> None:
    view = judged(origin="process", is_alive=True, sent=submission("9", executor="local"))

    assert (view.state, view.note) == ("RUNNING", None)


def test_a_process_that_is_gone_has_vanished_unless_somebody_wished_it() -> None:
    assert judged(origin="process").reason == "vanished"
    assert judged(origin="process", cancel=Cancel(user="anna")).state == "CANCELLED"


def test_what_cannot_be_asked_keeps_its_state_with_the_age_of_its_last_sign() -> None:
    view = judged(long_silent(), origin="unknown", place="on the cluster beta")

    assert (view.state, view.reason) == ("RUNNING", None)
    assert view.note == "last sign of life 3 h ago, on the cluster beta"
    assert not view.is_over


def test_a_run_without_readable_status_has_no_state_but_a_fault() -> None:
    view = merge(
        Evidence(paths=PATHS, status=None, fault="its status.json is damaged"),
        now=datetime.now(UTC),
    )

    assert (view.state, view.note) == (None, "its status.json is damaged")


# Time left


@pytest.mark.parametrize(
    ("progress", "resumed_at", "left_s"),
    [
        (Progress(epoch=0, epochs=100), 0, None),
        (Progress(epoch=100, epochs=100), 0, None),
        (Progress(epoch=25, epochs=100), 0, 300 - 5),
        (Progress(epoch=25, epochs=100), None, None),
        # Of 25 epochs this attempt trained 5.
        (Progress(epoch=25, epochs=100), 20, 1500 - 5),
    ],
)
def test_the_time_left_follows_the_pace_of_this_attempt(
    progress: Progress, resumed_at: int | None, left_s: float | None
) -> None:
    """None of `resumed_at`: a second attempt that has not yet found its checkpoint."""
    begun = attempt(105, resumed_from=Position(epoch=resumed_at) if resumed_at else None)
    attempts = [begun] if resumed_at is not None else [attempt(500), begun]

    estimate = estimate_left_s(
        status("RUNNING", attempts, progress=progress), now=datetime.now(UTC)
    )

    assert estimate == (None if left_s is None else pytest.approx(left_s, abs=1))
