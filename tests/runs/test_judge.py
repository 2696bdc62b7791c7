"""What becomes of a run, by all that can be known of it."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dnnjob.runs import (
    Cancel,
    Event,
    JobView,
    ProcessView,
    RunPaths,
    SchedulerAnswer,
    Status,
    Submission,
    Verdict,
    judge,
    read_cancel,
    read_events,
    read_status,
    read_submission,
)
from tests.launch.watch.made import ago, attempt, status, submission

RUN = Path("/root/tiny/20260101-000000-000001")
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
    events: Sequence[Event] = (),
    cancel: Cancel | None = None,
    process: ProcessView | None = None,
    has_log: bool = True,
) -> Verdict:
    """What is made of a submitted run whose Slurm was asked, unless its process was looked at."""
    sent = sent or submission()
    answer = SchedulerAnswer(job_id=sent.job_id, job=job, has_log=has_log)
    return judge(
        told or at_work(),
        events=events,
        cancel=cancel,
        submission=sent,
        scheduler=None if process else answer,
        process=process,
        now=datetime.now(UTC),
        run=RUN,
    )


def batch_end(**values: object) -> Event:
    known = {"writer": "batch", "job_id": "7", "at": ago(5), **values}
    return Event.model_validate(known)


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


@pytest.mark.parametrize("executor", ["slurm", "local"])
def test_a_run_submitted_again_waits_although_the_clock_was_set_back_since(executor: str) -> None:
    told = status("FAILED", [attempt(number=2, ended_at=ago(-86_400))], silent_s=-86_400)
    sent = submission("7", sent_s=10, executor=executor, after_attempt=2)

    waits = judged(told, JobView(state="PENDING"), sent=sent)
    lost = event(attempt=2, job_id="7", at=ago(5))
    known = judged(told, JobView(state="PENDING"), sent=sent, events=[lost])
    later = status("FAILED", [attempt(number=3)], silent_s=86_400, reason="nan")

    assert waits.state == "REQUEUED"
    assert (known.state, known.error) == ("FAILED", "Lost.")
    assert judged(later, None, sent=sent).reason == "nan"


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

    assert view.state == "CREATED"
    assert view.note == "waits for free nodes (Resources), planned for 2026-01-02 03:04 UTC"


def test_a_held_job_comes_with_the_command_that_frees_it() -> None:
    view = judged(waiting(), JobView(state="PENDING", reason="JobHeldUser"))

    assert "`scontrol release 7`" in str(view.note)


def test_a_reason_nobody_has_described_is_shown_as_it_is() -> None:
    view = judged(waiting(), JobView(state="PENDING", reason="Quantum{flux}"))

    assert view.note == "waits: Quantum{flux}"


def test_a_run_at_work_in_a_running_job_needs_no_word() -> None:
    view = judged(at_work(), RUNNING_JOB)

    assert (view.state, view.note) == ("RUNNING", None)


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
    assert f"n1 could not write to {RUN}/submission" in str(view.error)
    assert "profile.exclude" in str(view.error)


def test_without_accounting_a_launch_failure_without_a_log_names_the_node_too() -> None:
    job = ended("FAILED", reason="JobLaunchFailure", exit_code=None)

    assert "n1 could not write" in str(judged(waiting(), job, has_log=False).error)
    assert "could not write" not in str(judged(waiting(), job, has_log=True).error)


def test_a_forgotten_job_has_vanished() -> None:
    view = judged(long_silent(), None)

    assert (view.state, view.reason) == ("FAILED", "vanished")
    assert f"dnnjob logs {RUN}" in str(view.error)


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
    end = batch_end(exit_code=75, requeue="asked", at=ago(5))

    view = judged(told, ended("FAILED", exit_code=75), events=[end])

    assert (view.state, view.reason) == ("REQUEUED", "preempted")


def test_the_batch_script_tells_the_exit_code_where_nobody_else_does() -> None:
    end = batch_end(exit_code=137, requeue="none", restarts=0, at=ago(5))

    view = judged(at_work(), None, events=[end])

    assert (view.state, view.reason) == ("FAILED", "error")
    assert "signal SIGKILL" in str(view.error)


def test_the_batch_script_knows_what_slurm_did_where_no_books_do() -> None:
    end = batch_end(exit_code=137, requeue="asked", reason="time_limit", at=ago(5))

    view = judged(at_work(), JobView(state="PENDING", reason="BeginTime"), events=[end])

    assert (view.state, view.reason) == ("REQUEUED", "time_limit")


def test_a_job_that_was_queued_anew_and_then_forgotten_has_vanished() -> None:
    end = batch_end(exit_code=137, requeue="asked", reason="preempted", at=ago(900))

    assert judged(long_silent(), None, events=[end]).reason == "vanished"


def test_a_refused_requeue_is_a_failure_that_can_be_resumed() -> None:
    told = status(
        "REQUEUED",
        [attempt(slurm_job_id="7", ended_at=ago(5), reason="preempted")],
        reason="preempted",
    )
    end = batch_end(exit_code=75, requeue="refused", restarts=0, at=ago(5))

    view = judged(
        told, ended("FAILED", exit_code=75), sent=submission(place=str(RUN)), events=[end]
    )

    assert (view.state, view.reason) == ("FAILED", "preempted")
    assert f"dnnjob resume {RUN}" in str(view.error)


def test_the_end_of_an_earlier_start_says_nothing_of_this_one() -> None:
    told = status("RUNNING", [attempt(slurm_job_id="7", slurm_restarts=1)], silent_s=500)
    end = batch_end(exit_code=1, requeue="none", restarts=0, at=ago(900))

    assert judged(told, None, events=[end]).reason == "vanished"


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
    view = judged(process=ProcessView(is_alive=True), sent=submission("9", executor="local"))

    assert (view.state, view.note) == ("RUNNING", None)


def test_a_process_that_is_gone_has_vanished_unless_somebody_wished_it() -> None:
    assert judged(process=ProcessView(is_alive=False)).reason == "vanished"
    assert (
        judged(process=ProcessView(is_alive=False), cancel=Cancel(user="anna")).state == "CANCELLED"
    )


def test_what_cannot_be_asked_keeps_its_state_with_the_age_of_its_last_sign() -> None:
    view = judged(long_silent(), process=ProcessView(place="on the cluster beta"))

    assert (view.state, view.reason) == ("RUNNING", None)
    assert view.note == "last sign of life 3 h ago, on the cluster beta"
    assert not view.is_over


# Runs of version 0.1

BEFORE = sorted((Path(__file__).parents[1] / "golden" / "runs_0_1").iterdir())


@pytest.mark.parametrize("folder", BEFORE, ids=lambda folder: folder.name)
def test_a_run_of_version_0_1_stands_as_that_version_said(folder: Path) -> None:
    told = json.loads((folder / "judged.json").read_text())
    paths = RunPaths(folder)
    submission = read_submission(paths)
    job = told["scheduler"] and JobView(**told["scheduler"])
    is_asked = told["origin"] == "slurm"
    is_seen = told["origin"] == "process"

    view = judge(
        read_status(paths),
        events=read_events(paths, submission),
        cancel=read_cancel(paths),
        submission=submission,
        scheduler=SchedulerAnswer(job_id="7", job=job) if is_asked else None,
        process=ProcessView(is_alive=told["is_alive"] if is_seen else None, place=told["place"]),
        now=datetime.fromisoformat(told["now"]),
        run=RUN,
    )

    assert {key: value for key, value in told["expected"].items() if hasattr(view, key)} == vars(
        view
    )


# What others than the chief have left word of


def event(**values: object) -> Event:
    known = {"writer": "launcher", "at": ago(3), "attempt": 1, "state": "FAILED"}
    return Event.model_validate({**known, "reason": "peer_lost", "error": "Lost.", **values})


def alone(told: Status, *events: Event) -> Verdict:
    """What is made of a run in the foreground whose process is gone."""
    return judge(
        told,
        events=events,
        cancel=None,
        submission=None,
        scheduler=None,
        process=ProcessView(is_alive=False),
        now=datetime.now(UTC),
        run=RUN,
    )


def test_a_launcher_tells_what_became_of_a_run_whose_chief_left_no_word() -> None:
    view = alone(status("RUNNING", [attempt(number=1)]), event())

    assert (view.state, view.reason, view.error) == ("FAILED", "peer_lost", "Lost.")


@pytest.mark.parametrize("state", ["COMPLETED", "FAILED", "REQUEUED"])
def test_the_chiefs_own_word_stands_against_that_of_others(state: str) -> None:
    told = status(state, [attempt(number=1, ended_at=ago(5))], reason="nan")

    assert alone(told, event(state="CANCELLED")).state in (state, "FAILED")
    assert alone(told, event()).error != "Lost."


def test_an_event_of_an_earlier_attempt_says_nothing_of_this_one() -> None:
    told = status("RUNNING", [attempt(500, ended_at=ago(90)), attempt(number=2)])

    assert alone(told, event(attempt=1)).reason == "vanished"


def test_a_run_that_was_lost_before_any_attempt_is_told_of_by_its_launcher() -> None:
    assert alone(status("CREATED"), event(attempt=0)).error == "Lost."


def test_a_run_sent_again_after_an_event_waits() -> None:
    told = status("RUNNING", [attempt(slurm_job_id="6", number=1)], silent_s=60)
    again = submission("7", sent_s=10)

    view = judged(told, JobView(state="PENDING"), sent=again, events=[event(at=ago(40))])

    assert view.state == "REQUEUED"


@pytest.mark.parametrize(
    ("told", "end", "expected"),
    [
        (at_work(), {"requeue": "cancelled"}, ("CANCELLED", "cancelled")),
        (waiting(), {"requeue": "cancelled"}, ("CANCELLED", "cancelled")),
        (at_work(), {"requeue": "refused", "reason": "time_limit"}, ("FAILED", "time_limit")),
        (waiting(), {"requeue": "refused"}, ("FAILED", "error")),
        (at_work(), {"requeue": "asked", "reason": "out_of_memory"}, ("FAILED", "out_of_memory")),
        (waiting(), {"requeue": "asked", "reason": "out_of_memory"}, ("CREATED", None)),
        (at_work(), {"requeue": "asked", "reason": "preempted"}, ("REQUEUED", "preempted")),
        (at_work(), {"requeue": "asked", "reason": "error"}, ("FAILED", "error")),
        (at_work(), {"requeue": "none"}, ("FAILED", "error")),
        (waiting(), {"requeue": "none"}, ("FAILED", "error")),
    ],
)
def test_the_batch_script_tells_of_the_run_at_work_and_of_those_that_wait(
    told: Status, end: dict[str, object], expected: tuple[str, str | None]
) -> None:
    view = judged(told, process=ProcessView(place="far"), events=[batch_end(exit_code=137, **end)])

    assert (view.state, view.reason) == expected


def test_memory_is_told_with_what_was_asked_and_used() -> None:
    told = status("RUNNING", [attempt(slurm_job_id="7", peak_rss_mb=812.5)])
    sent = submission(requested={"memory_gb": 4})
    end = {"exit_code": 137, "requeue": "none", "reason": "out_of_memory"}

    seen = judged(told, sent=sent, events=[batch_end(**end, memory_mb=4012)])

    assert "asked for 4 GB and was seen with 4012 MB" in str(seen.error)
    assert "was seen with 812 MB" in str(judged(told, sent=sent, events=[batch_end(**end)]).error)


def test_a_resumed_run_whose_job_never_began_it_has_failed_whatever_clocks_say() -> None:
    told = status("FAILED", [attempt(slurm_job_id="6")], silent_s=50, reason="nan")
    sent = submission("7", sent_s=-3000)

    view = judged(told, None, sent=sent, events=[batch_end(exit_code=9, requeue="none")])

    assert (view.state, view.reason) == ("FAILED", "error")
    assert "exit code 9" in str(view.error)


def test_the_end_of_a_job_that_had_the_run_before_says_nothing_of_its_new_job() -> None:
    told = status("REQUEUED", [attempt(slurm_job_id="6", slurm_restarts=0)], silent_s=50)

    end = batch_end(job_id="6", requeue="refused", at=ago(60))

    view = judged(told, JobView(state="PENDING"), sent=submission(sent_s=10), events=[end])

    assert view.state == "REQUEUED"
