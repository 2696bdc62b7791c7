"""One question to Slurm: what squeue and sacct together say of jobs."""

from collections.abc import Collection
from datetime import UTC, datetime

import pytest

from dnnjob import slurm
from dnnjob.errors import SlurmError
from dnnjob.launch.watch.slurm_answer import Answer, ask_slurm
from dnnjob.slurm import AccountedJob, QueuedJob

START = datetime(2026, 1, 1, tzinfo=UTC)


def queued(job_id: str, state: str, reason: str = "None", **changes: object) -> QueuedJob:
    values = {
        "partition": "main",
        "nodes": "",
        "starts_at": START,
        "left_s": 90,
        "account": "",
        "qos": "",
        "comment": "",
        **changes,
    }
    return QueuedJob(job_id=job_id, state=state, reason=reason, **values)  # type: ignore[arg-type]


def booked(state: str, **changes: object) -> AccountedJob:
    values = {
        "cancelled_by": None,
        "exit_code": 0,
        "signal": 0,
        "ended_at": None if state in ("RUNNING", "PENDING") else START,
        "nodes": "n1",
        "memory_mb": 4096.0,
        "max_rss_mb": 1024.0,
        **changes,
    }
    return AccountedJob(state=state, **values)  # type: ignore[arg-type]


class Commands:
    """What the commands answer, and which jobs sacct was asked about."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.queue: list[QueuedJob] = []
        self.books: dict[str, tuple[AccountedJob, ...]] | None = {}
        self.asked: set[str] = set()
        monkeypatch.setattr(slurm, "cluster_name", lambda: "alpha")
        monkeypatch.setattr(
            slurm, "list_queue", lambda ids: {job.job_id: job for job in self.queue}
        )
        monkeypatch.setattr(slurm, "list_accounted", self._list_accounted)

    def _list_accounted(
        self, job_ids: Collection[str]
    ) -> dict[str, tuple[AccountedJob, ...]] | None:
        self.asked = set(job_ids)
        return self.books

    def ask(self, *job_ids: str, begun: Collection[str] = ()) -> Answer:
        return ask_slurm(job_ids, begun=begun)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    return Commands(monkeypatch)


def test_the_books_are_opened_only_for_what_the_queue_does_not_tell(commands: Commands) -> None:
    commands.queue = [
        queued("1", "PENDING", "Priority"),
        queued("2", "RUNNING"),
        queued("3", "FAILED"),
        queued("4", "PENDING", "BeginTime"),
    ]

    commands.ask("1", "2", "3", "4", "5", begun=["2", "4"])

    assert commands.asked == {"3", "4", "5"}


def test_a_waiting_job_has_a_reason_and_a_planned_start(commands: Commands) -> None:
    commands.queue = [queued("1_4", "PENDING", "Priority")]

    job = commands.ask("1_4").jobs["1_4"]

    assert (job.state, job.is_over, job.reason, job.starts_at) == (
        "PENDING",
        False,
        "Priority",
        START,
    )


def test_a_running_job_has_no_planned_start_but_a_time_left(commands: Commands) -> None:
    commands.queue = [queued("1", "RUNNING", nodes="n[1-2]")]

    job = commands.ask("1").jobs["1"]

    assert (job.nodes, job.limit_left_s, job.starts_at, job.reason) == ("n[1-2]", 90, None, None)


def test_a_job_queued_anew_tells_how_its_last_start_ended(commands: Commands) -> None:
    commands.queue = [queued("1", "PENDING", "BeginTime")]
    commands.books = {"1": (booked("PREEMPTED"), booked("NODE_FAIL"), booked("PENDING"))}

    assert commands.ask("1", begun=["1"]).jobs["1"].ended_before == "NODE_FAIL"


def test_the_last_start_in_the_books_is_the_end(commands: Commands) -> None:
    commands.books = {"1": (booked("NODE_FAIL"), booked("OUT_OF_MEMORY", exit_code=0, signal=125))}

    job = commands.ask("1").jobs["1"]

    assert (job.state, job.is_over, job.signal) == ("OUT_OF_MEMORY", True, 125)
    assert (job.memory_asked_gb, job.memory_used_gb) == (4.0, 1.0)


def test_the_books_know_more_of_an_ended_job_than_the_queue(commands: Commands) -> None:
    commands.queue = [queued("1", "FAILED", "NonZeroExitCode")]
    commands.books = {"1": (booked("FAILED", exit_code=3),)}

    assert commands.ask("1").jobs["1"].exit_code == 3


def test_without_books_the_queue_tells_the_end_as_far_as_it_can(commands: Commands) -> None:
    commands.queue = [queued("1", "TIMEOUT", "TimeLimit", nodes="n1")]
    commands.books = None

    job = commands.ask("1").jobs["1"]

    assert (job.state, job.is_over, job.exit_code) == ("TIMEOUT", True, None)


@pytest.mark.parametrize("books", [{}, None, {"1": (booked("RUNNING"),)}])
def test_a_job_that_the_queue_lost_and_the_books_did_not_close_is_unknown(
    commands: Commands, books: dict[str, tuple[AccountedJob, ...]] | None
) -> None:
    commands.books = books

    answer = commands.ask("1")

    assert (answer.cluster, answer.jobs, answer.fault) == ("alpha", {}, None)


def test_who_cancelled_is_named_and_a_stranger_by_number(commands: Commands) -> None:
    commands.books = {
        "1": (booked("CANCELLED", cancelled_by=0),),
        "2": (booked("CANCELLED", cancelled_by=4_000_000_001),),
    }

    jobs = commands.ask("1", "2").jobs

    assert (jobs["1"].cancelled_by, jobs["2"].cancelled_by) == ("root", "user 4000000001")


def test_a_silent_controller_is_a_fault_of_the_answer(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(job_ids: Collection[str]) -> dict[str, QueuedJob]:
        raise SlurmError("no answer")

    monkeypatch.setattr(slurm, "list_queue", fail)

    assert commands.ask("1") == Answer(fault="no answer")


def test_silent_books_are_a_fault_beside_what_the_queue_says(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(job_ids: Collection[str]) -> None:
        raise SlurmError("no books")

    monkeypatch.setattr(slurm, "list_accounted", fail)
    commands.queue = [queued("1", "RUNNING")]

    answer = commands.ask("1", "2")

    assert (set(answer.jobs), answer.fault) == ({"1"}, "no books")
