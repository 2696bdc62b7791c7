"""Waiting for runs, and how often anybody is asked meanwhile."""

import threading
from itertools import pairwise
from pathlib import Path

import pytest

from dnnjob.errors import ExitCode
from dnnjob.launch.watch import run_views, wait
from dnnjob.launch.watch.slurm_answer import Answer
from dnnjob.launch.watch.wait import Pace, wait_command
from dnnjob.runs import JobView, write_status
from tests.launch.watch.made import (
    CLUSTER,
    attempt,
    attempt_here,
    make_run,
    make_sweep,
    send,
    status,
)


@pytest.mark.parametrize(
    ("states", "code"),
    [
        (["COMPLETED", "COMPLETED"], ExitCode.DONE),
        (["COMPLETED", "FAILED"], ExitCode.FAILED),
        (["FAILED", "CANCELLED"], ExitCode.TERMINATED),
    ],
)
def test_the_exit_code_is_that_of_the_worst(root: Path, states: list[str], code: ExitCode) -> None:
    runs = [make_run(root, number, status(state)) for number, state in enumerate(states)]

    assert wait_command(make_sweep(root, runs)) == code


def test_a_run_whose_folder_is_gone_is_a_failure(root: Path) -> None:
    runs = [make_run(root, 1, status("COMPLETED")), make_run(root, 2)]
    sweep = make_sweep(root, runs)
    runs[1].status.unlink()

    assert wait_command(sweep) == ExitCode.FAILED


def test_a_run_at_work_is_waited_for(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(wait, "LOOK_S", 0.05)
    caplog.set_level("INFO", "dnnjob")
    paths = make_run(root, told=status("RUNNING", [attempt_here()]))
    end = threading.Timer(0.4, lambda: write_status(paths, status("FAILED", reason="nan")))
    end.start()

    assert wait_command(paths.root) == ExitCode.FAILED

    told = [record.message.rpartition(": ")[2] for record in caplog.records]
    assert told == ["RUNNING", "FAILED (nan)"]


def test_of_a_sweep_the_counts_and_bad_ends_are_told(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "dnnjob")
    ends = [status("COMPLETED"), status("COMPLETED"), status("FAILED", reason="nan")]
    runs = [make_run(root, number, end) for number, end in enumerate(ends)]

    wait_command(make_sweep(root, runs))

    assert [record.message for record in caplog.records] == [
        f"{runs[2].root}: FAILED (nan)",
        "3 runs: 2 COMPLETED, 1 FAILED.",
    ]


def test_slurm_is_asked_once_while_files_are_looked_at_often(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wait, "LOOK_S", 0.02)
    asked: list[object] = []

    def ask(job_ids: object, *, begun: object) -> Answer:
        asked.append(job_ids)
        return Answer(CLUSTER, {"7": JobView(state="RUNNING")})

    monkeypatch.setattr(wait, "look", lambda runs: run_views.look(runs, ask=ask))
    paths = make_run(root, told=status("RUNNING", [attempt(slurm_job_id="7")]))
    send(paths, "7")
    end = threading.Timer(0.5, lambda: write_status(paths, status("COMPLETED")))
    end.start()

    assert wait_command(paths.root) == ExitCode.DONE
    assert asked == [{"7"}]


def test_slurm_is_asked_at_once_then_after_30_s_and_at_last_every_180_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    rhythm, times = Pace(), []
    while now < 2200:
        if rhythm.is_due():
            times.append(now - 1000)
        now += 1

    waits = [later - sooner for sooner, later in pairwise(times)]
    assert (times[0], waits[0]) == (0, 30)
    assert waits == sorted(waits)
    assert waits[-1] == 180


@pytest.mark.parametrize(("num_runs", "seconds"), [(1, 1), (20, 1), (500, 10), (10_000, 30)])
def test_the_files_of_many_runs_are_looked_at_more_rarely(
    num_runs: int, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)

    Pace().sleep(num_runs=num_runs)

    assert slept == [seconds]
