"""Why Slurm ends an attempt, read from its own words, and when a run may go on."""

from datetime import UTC, datetime

import pytest

from dnnjob.launch.requeue_rules import guess_fate, read_fate, refuse_requeue
from dnnjob.runs import Attempt, Position, Reason

# As `scontrol show job` of Slurm 22.05 said them, to a job of two minutes with a warning of 30 s.
RUNNING = {
    "JobState": "RUNNING",
    "Restarts": "0",
    "RunTime": "00:00:06",
    "TimeLimit": "00:20:00",
    "PreemptTime": "None",
}
WARNED = RUNNING | {"PreemptTime": "2026-11-24T03:23:44"}
REQUEUED = RUNNING | {"JobState": "COMPLETING", "Restarts": "1", "RunTime": "00:00:00"}
ENDING = RUNNING | {"JobState": "COMPLETING"}


@pytest.mark.parametrize(
    ("job", "reason"),
    [
        (RUNNING, "preempted"),
        (WARNED, "preempted"),
        (REQUEUED, "preempted"),
        (ENDING, "cancelled"),
        (ENDING | {"PreemptTime": "2026-11-24T03:25:53"}, "preempted"),
        (ENDING | {"RunTime": "00:20:01"}, "time_limit"),
        (RUNNING | {"RunTime": "00:18:31"}, "time_limit"),
        (RUNNING | {"RunTime": "00:18:24"}, "preempted"),
        (WARNED | {"RunTime": "00:19:50"}, "preempted"),
        (RUNNING | {"TimeLimit": "UNLIMITED", "RunTime": "9-00:00:00"}, "preempted"),
        ({"JobState": "NODE_FAIL"}, "node_failure"),
        ({"JobState": "CANCELLED"}, "cancelled"),
    ],
)
def test_slurms_fields_tell_why_it_ends_a_job(job: dict[str, str], reason: Reason) -> None:
    assert read_fate(job, restarts=0, warning_s=30) == reason


def test_an_earlier_restart_is_no_new_one() -> None:
    assert read_fate(ENDING | {"Restarts": "2"}, restarts=2, warning_s=30) == "cancelled"


@pytest.mark.parametrize(
    ("left_s", "reason"),
    [(None, "preempted"), (94.0, "time_limit"), (96.0, "preempted"), (-1.0, "time_limit")],
)
def test_without_slurms_word_the_clock_tells(left_s: float | None, reason: Reason) -> None:
    assert guess_fate(left_s, warning_s=30) == reason


def attempt(
    reason: Reason | None, *, began: int = 0, reached: int | None = None, job: str = "7"
) -> Attempt:
    return Attempt(
        host="n1",
        pid=1,
        slurm_job_id=job,
        started_at=datetime.now(UTC),
        reason=reason,
        resumed_from=Position(epoch=began) if began else None,
        reached=None if reached is None else Position(epoch=reached),
    )


@pytest.mark.parametrize(
    ("attempts", "reason", "goes_on"),
    [
        ([attempt(None)], "time_limit", True),
        ([attempt("time_limit"), attempt(None)], "time_limit", False),
        ([attempt("time_limit", reached=3), attempt(None, began=3)], "time_limit", True),
        ([attempt("time_limit"), attempt(None, reached=1)], "time_limit", True),
        # Its last checkpoint is only told by where the next began.
        (
            [attempt("time_limit"), attempt("time_limit"), attempt(None, began=2)],
            "time_limit",
            True,
        ),
        ([attempt("preempted"), attempt(None)], "time_limit", True),
        ([attempt("preempted")] * 9 + [attempt(None)], "preempted", True),
        ([attempt("peer_lost")] * 3 + [attempt(None)], "peer_lost", False),
        ([attempt("peer_lost")] * 2 + [attempt(None)], "peer_lost", True),
        (
            [attempt("node_failure"), attempt("peer_lost"), attempt("vanished"), attempt(None)],
            "node_failure",
            False,
        ),
        (
            [
                attempt("peer_lost"),
                attempt("peer_lost", reached=1),
                attempt("peer_lost", began=1),
                attempt(None, began=1),
            ],
            "peer_lost",
            True,
        ),
        ([attempt("preempted")] * 10 + [attempt(None)], "preempted", False),
        # Those of an earlier submission count no more.
        ([attempt("preempted", job="6")] * 10 + [attempt(None)], "preempted", True),
        ([attempt("time_limit", job="6"), attempt(None)], "time_limit", True),
    ],
)
def test_a_run_goes_on_as_long_as_it_makes_progress(
    attempts: list[Attempt], reason: Reason, goes_on: bool
) -> None:
    why_not = refuse_requeue(attempts, reason, max_requeues=10)

    assert (why_not is None) == goes_on, why_not


def test_a_refusal_names_the_key_to_change() -> None:
    twice = [attempt("time_limit"), attempt(None)]

    assert "profile.time_limit_min" in str(refuse_requeue(twice, "time_limit", max_requeues=9))
    assert "profile.max_requeues" in str(refuse_requeue(twice, "preempted", max_requeues=1))
