"""What a task of a submitted job leaves alone, and what it does."""

import shutil
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from submitit.core.job_environment import SignalHandler
from submitit.core.utils import DelayedSubmission, JobPaths

from dnnjob.config import load_job
from dnnjob.errors import ExitCode
from dnnjob.launch import array_task, lane_plan, outcome
from dnnjob.launch.array_task import ArrayTask, ElementTurns, work_through
from dnnjob.launch.lane_plan import LanePlan
from dnnjob.runs import (
    Attempt,
    Cancel,
    Event,
    Reason,
    RunPaths,
    State,
    Status,
    create_run,
    leave_event,
    load_run_job,
    read_settled,
    write_record,
    write_status,
)
from dnnjob.tasks import StopFlag, Task
from tests.conftest import WriteJob
from tests.launch.watch.made import send

Make = Callable[..., RunPaths]
Ran = dict[RunPaths, ExitCode]


@pytest.fixture
def make(write_job: WriteJob, tmp_path: Path) -> Make:
    job = load_job(write_job())

    def make(state: State, *, job_id: str | None = None, reason: Reason | None = None) -> RunPaths:
        paths = create_run(tmp_path / "runs", job)
        begun = Attempt(
            host="n1", pid=1, slurm_job_id=job_id, slurm_restarts=0, started_at=datetime.now(UTC)
        )
        attempts = () if state == "CREATED" else (begun,)
        write_status(paths, Status(state=state, reason=reason, attempts=attempts))
        return paths

    return make


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Ran:
    """Takes the place of running: the codes that runs shall end with, and those that ran."""
    codes: dict[RunPaths, ExitCode] = {}

    def run(turns: ElementTurns, *_: object, **__: object) -> ExitCode:
        ended = [ExitCode.DONE]
        while ExitCode.CONTINUE not in ended and (errand := turns.take()) is not None:
            ended.append(codes.setdefault(RunPaths(errand.run), ExitCode.DONE))
            turns.end(errand, ended[-1])
        return ended[-1] if ExitCode.CONTINUE in ended else max(ended)

    monkeypatch.setattr(array_task, "_work", run)
    return codes


@pytest.fixture
def restarted(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process belongs to job 7, which Slurm has queued anew once."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")


def work(runs: list[RunPaths]) -> ExitCode:
    return work_through(runs, stop=StopFlag())


def test_finished_runs_are_left_alone(make: Make, ran: Ran) -> None:
    done, new = make("COMPLETED"), make("CREATED")

    assert work([done, new]) is ExitCode.DONE
    assert list(ran) == [new]


def test_a_run_whose_folder_is_gone_does_not_keep_the_others(make: Make, ran: Ran) -> None:
    gone, damaged, new = make("CREATED"), make("CREATED"), make("CREATED")
    shutil.rmtree(gone.root)
    damaged.status.write_text("{")

    assert work([gone, damaged, new]) is ExitCode.USAGE
    assert list(ran) == [new]
    assert work([gone]) is ExitCode.USAGE


@pytest.mark.usefixtures("restarted")
def test_a_task_queued_anew_goes_on_where_it_stopped(make: Make, ran: Ran) -> None:
    done = make("COMPLETED", job_id="7")
    failed = make("FAILED", job_id="7", reason="nan")
    stopped = make("REQUEUED", job_id="7", reason="preempted")
    lost, new = make("RUNNING", job_id="7"), make("CREATED")

    assert work([done, failed, stopped, lost, new]) is ExitCode.FAILED
    assert list(ran) == [stopped, lost, new]


@pytest.mark.parametrize(("memory_gb", "width"), [(None, 1), (8.0, 2)])
def test_a_task_without_a_memory_of_its_own_takes_as_many_lanes_as_it_finds_room_for(
    write_job: WriteJob,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    memory_gb: float | None,
    width: int,
) -> None:
    plans: list[LanePlan] = []

    class FakeLanes:
        def __init__(self, plan: LanePlan, **_: object) -> None:
            plans.append(plan)

        def work(self, _: ElementTurns) -> ExitCode:
            return ExitCode.DONE

    monkeypatch.setattr(array_task, "Lanes", FakeLanes)
    monkeypatch.setattr(lane_plan, "memory_limit_bytes", lambda: lane_plan.LANE_BYTES)
    job = load_job(write_job(devices={"stack": 2}))
    runs = [create_run(tmp_path / "runs", job) for _ in range(2)]
    for paths in runs:
        send(paths, "7", requested={"memory_gb": memory_gb})

    with caplog.at_level("INFO"):
        work(runs)

    assert [plan.width for plan in plans] == [width]
    assert ("1 run(s) go side by side instead of 2" in caplog.text) == (width == 1)


@pytest.mark.usefixtures("restarted")
def test_what_another_job_left_failed_is_gone_on_with(make: Make, ran: Ran) -> None:
    failed = make("FAILED", job_id="6")

    work([failed])

    assert list(ran) == [failed]


@pytest.mark.usefixtures("restarted")
def test_what_was_sent_again_since_is_left_to_its_new_job(make: Make, ran: Ran) -> None:
    taken, mine = make("RUNNING", job_id="9"), make("RUNNING", job_id="7")
    send(taken, "9")
    send(mine, "7")

    assert work([taken, mine]) is ExitCode.DONE
    assert list(ran) == [mine]


@pytest.mark.usefixtures("restarted")
@pytest.mark.parametrize(("after_attempt", "goes_on"), [(1, True), (0, False)])
def test_numbers_of_attempts_tell_what_was_taken_up_since_whatever_clocks_say(
    make: Make, ran: Ran, after_attempt: int, goes_on: bool
) -> None:
    paths = make("RUNNING", job_id="6")
    # The clock was set back between the attempt and the submission, or forth.
    send(paths, "7", sent_s=86_400 if goes_on else -86_400, after_attempt=after_attempt)

    work([paths])

    assert list(ran) == [paths] * goes_on


@pytest.mark.usefixtures("restarted")
def test_what_goes_on_in_the_foreground_since_is_left_alone(make: Make, ran: Ran) -> None:
    paths = make("RUNNING", job_id=None)
    send(paths, "7", sent_s=60)

    work([paths])

    assert list(ran) == []


@pytest.mark.usefixtures("restarted")
def test_a_run_that_was_given_up_for_want_of_a_requeue_goes_on_when_it_comes(
    make: Make, ran: Ran
) -> None:
    given_up = make("REQUEUED", job_id="7", reason="preempted")
    wrong = make("FAILED", job_id="7", reason="nan")
    for paths in (given_up, wrong):
        send(paths, "7", sent_s=60)
        end = Event(writer="batch", job_id="7", exit_code=75, requeue="refused")
        leave_event(paths, "batch-7-0", end)
    assert read_settled(given_up).state == "FAILED"

    work([given_up, wrong])

    assert list(ran) == [given_up]


@pytest.mark.usefixtures("restarted")
def test_a_run_that_was_killed_for_its_memory_is_not_begun_again(make: Make, ran: Ran) -> None:
    killed, waiting = make("RUNNING", job_id="7"), make("CREATED")
    for paths in (killed, waiting):
        send(paths, "7", sent_s=60)
        end = Event(
            writer="batch", job_id="7", exit_code=137, requeue="asked", reason="out_of_memory"
        )
        leave_event(paths, "batch-7-0", end)

    assert work([killed, waiting]) is ExitCode.FAILED
    assert list(ran) == [waiting]


@pytest.mark.usefixtures("restarted")
def test_the_batch_script_can_read_how_many_runs_still_wait(make: Make) -> None:
    runs = [make("CREATED") for _ in range(3)]
    for paths in runs:
        send(paths, "7", sent_s=60, folder="../submission")
    file = runs[0].root.parent / "submission" / "7_1_turn.txt"
    turns, told = ElementTurns(runs, task=Task()), []

    first, second = turns.take(), turns.take()
    assert first is not None
    assert second is not None
    told.append(file.read_text())
    # One is still at work: that the other has ended is no end of the task.
    turns.end(first, ExitCode.FAILED)
    told.append(file.read_text())
    turns.end(second, ExitCode.CONTINUE)
    told.append(file.read_text())

    assert told == ["2 3\n", "2 3\n", "2 3 75\n"]


@pytest.mark.parametrize("limit_min", [2, 600])
def test_a_warning_that_submitit_receives_ends_the_process_to_be_continued(
    limit_min: int, tmp_path: Path
) -> None:
    delayed = DelayedSubmission(ArrayTask(), ["/runs/tiny/1"], command="dnnjob submit tiny.toml")
    delayed.set_timeout(limit_min, 3)
    delayed.dump(tmp_path / "job.pkl")
    loaded = DelayedSubmission.load(tmp_path / "job.pkl")
    handler = SignalHandler(SimpleNamespace(global_rank=0), JobPaths(tmp_path, "7"), loaded)

    with pytest.raises(SystemExit) as ended:
        handler.checkpoint_and_try_requeue(signal.SIGUSR2)

    assert ended.value.code == ExitCode.CONTINUE


def test_a_failed_run_is_gone_on_with_by_a_new_job(
    make: Make, ran: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    failed = make("FAILED", job_id="7")

    work([failed])

    assert list(ran) == [failed]


def test_a_point_that_fails_does_not_stop_the_others(make: Make, ran: Ran) -> None:
    first, second = make("CREATED"), make("CREATED")
    ran[first] = ExitCode.FAILED

    assert work([first, second]) is ExitCode.FAILED
    assert list(ran) == [first, second]


def test_a_run_that_is_to_go_on_ends_the_task(make: Make, ran: Ran) -> None:
    first, second = make("CREATED"), make("CREATED")
    ran[first] = ExitCode.CONTINUE

    assert work([first, second]) is ExitCode.CONTINUE
    assert list(ran) == [first]


def test_a_run_that_was_cancelled_before_it_began_never_begins(make: Make, ran: Ran) -> None:
    first, second = make("CREATED"), make("CREATED")
    write_record(first.cancel, Cancel())

    assert work([first, second]) is ExitCode.TERMINATED
    assert read_settled(first).state == "CANCELLED"
    assert list(ran) == [second]


@pytest.mark.usefixtures("restarted")
def test_a_signal_between_two_runs_has_the_job_go_on_later(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, runs = StopFlag(), [make("CREATED"), make("CREATED")]
    for paths in runs:
        send(paths, "7", sent_s=60)
    monkeypatch.setattr(outcome, "find_fate", lambda *_: "preempted")

    def run(turns: ElementTurns, *_: object, **__: object) -> ExitCode:
        turns.take()
        stop.want(signal.SIGTERM)
        return ExitCode.TERMINATED

    monkeypatch.setattr(array_task, "_work", run)

    assert work_through(runs, stop=stop) is ExitCode.CONTINUE


def test_words_in_the_call_of_a_job_that_version_0_1_queued_are_heeded(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = make("FAILED")
    monkeypatch.setattr(array_task, "work_through", lambda runs, **_: ExitCode.DONE)
    monkeypatch.setattr(array_task, "leave", lambda code: None)
    monkeypatch.setattr(StopFlag, "listen", lambda self: None)
    monkeypatch.setattr("sys.argv", ["pytest"])

    ArrayTask()([str(paths.root)], command="dnnjob resume", words=["devices.threads=3"])

    assert load_run_job(paths).devices.threads == 3
