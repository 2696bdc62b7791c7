"""A sweep that goes on: which of its points, and with what they had."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dnnjob.config import load_job, make_points
from dnnjob.errors import ExitCode, JobError
from dnnjob.launch import foreground, sweep_folder, turns
from dnnjob.launch.errand import Errand
from dnnjob.launch.halving import HalvingOrder, Order
from dnnjob.launch.lane_plan import needs_here
from dnnjob.launch.sweep_folder import make_plan, make_sweep, sign_runs
from dnnjob.launch.turns import leave_word
from dnnjob.launch.watch.resume_verb import resume_command
from dnnjob.launch.watch.run_views import look
from dnnjob.launch.watch.wait import wait_command
from dnnjob.machine import process_key
from dnnjob.runs import (
    Cancel,
    Journal,
    RunPaths,
    State,
    SweepPaths,
    read_settled,
    read_submission,
    write_record,
)
from tests.conftest import WriteJob

Make = Callable[..., tuple[SweepPaths, list[RunPaths]]]
Begun = list[tuple[Order, list[Errand]]]


@pytest.fixture
def make(write_job: WriteJob, tmp_path: Path) -> Make:
    def make(*states: State, halving: int | None = None) -> tuple[SweepPaths, list[RunPaths]]:
        job = write_job(sweep={"seed": list(range(len(states)))}, train={"epochs": 9})
        points = make_points(load_job(job))
        jobs = [point.job for point in points]
        plan = make_plan(jobs, needs_here(jobs), [jobs], width=1, halving=halving)
        sweep, runs = make_sweep(points, plan, root=tmp_path / "runs", made=[])
        for state, paths in zip(states, runs, strict=True):
            if state != "CREATED":
                Journal(paths).finish(state)
        return sweep, runs

    return make


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Begun:
    """What would be run, instead of running it."""
    told: Begun = []

    def run(order: Order, *_: Any, **__: Any) -> ExitCode:
        told.append((order, order.waiting))
        return ExitCode.DONE

    monkeypatch.setattr(foreground, "run_order", run)
    # These have no reports.
    monkeypatch.setattr(foreground, "_outcome", lambda *_: ("", "", "", ""))
    return told


def test_what_has_not_completed_goes_on(
    make: Make, begun: Begun, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep, runs = make("COMPLETED", "CANCELLED", "FAILED", "CREATED")
    write_record(runs[1].cancel, Cancel())

    code = resume_command(sweep.root, here=False)

    ((_, errands),) = begun
    assert code == ExitCode.DONE
    assert [errand.number for errand in errands] == [2, 3, 4]
    assert capsys.readouterr().out.split() == [str(paths.root) for paths in runs[1:]]
    assert not runs[1].cancel.exists()


def test_halving_goes_on_among_all_points(make: Make, begun: Begun) -> None:
    sweep, _ = make("COMPLETED", "CANCELLED", "CREATED", halving=3)

    resume_command(sweep.root, here=False)

    ((order, errands),) = begun
    assert isinstance(order, HalvingOrder)
    assert [errand.number for errand in errands] == [2, 3]


def test_words_are_for_a_run(make: Make, begun: Begun) -> None:
    sweep, _ = make("CANCELLED")
    with pytest.raises(JobError, match=r"goes on as it is, but got devices.threads=1"):
        resume_command(sweep.root, ["devices.threads=1"], here=False)
    assert begun == []


def test_a_sweep_with_a_point_at_work_is_refused(make: Make, begun: Begun) -> None:
    sweep, runs = make("CREATED", "CREATED")
    Journal(runs[0])
    with pytest.raises(JobError, match="is alive"):
        resume_command(sweep.root, here=False)
    assert begun == []


def test_points_say_who_is_to_run_them(make: Make) -> None:
    sweep, runs = make("CREATED", "CREATED")
    sign_runs(sweep, runs)
    assert [(view.state, view.asked, view.sweep_id) for view in look(runs)] == [
        ("CREATED", "process", sweep.sweep_id)
    ] * 2
    with pytest.raises(JobError, match="is alive"):
        resume_command(sweep.root, here=False)


def test_points_whose_sweep_was_killed_have_vanished_and_go_on(make: Make, begun: Begun) -> None:
    sweep, runs = make("COMPLETED", "CREATED", "CREATED")
    sign_runs(sweep, runs[1:])
    for paths in runs[1:]:
        sent = read_submission(paths)
        assert sent is not None
        write_record(paths.submission, sent.model_copy(update={"process": f"{sent.process}0"}))

    assert [(view.state, view.reason) for view in look(runs)[1:]] == [("FAILED", "vanished")] * 2
    assert wait_command(sweep.root) == ExitCode.FAILED
    resume_command(sweep.root, here=False)

    ((_, errands),) = begun
    assert [errand.number for errand in errands] == [2, 3]
    assert {view.asked for view in look(runs)[1:]} == {"process"}


def test_what_was_said_of_points_by_a_process_of_the_same_number_is_of_before(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container, whose first process has the number 1 each time."""
    sweep, runs = make("CREATED")
    sign_runs(sweep, runs)
    leave_word(runs[0], "CANCELLED", "cancelled", "Cancelled before it began.")
    key = process_key(os.getpid())
    monkeypatch.setattr(sweep_folder, "process_key", lambda _: f"{key}0")
    monkeypatch.setattr(turns, "process_key", lambda _: f"{key}0")

    sign_runs(sweep, runs)
    assert read_settled(runs[0]).state == "CREATED"
    leave_word(runs[0], "CANCELLED", "cancelled", "Cancelled once more.")
    assert read_settled(runs[0]).error == "Cancelled once more."


def test_a_run_that_lost_the_empty_folders_of_its_attempts_waits_again_all_the_same(
    make: Make,
) -> None:
    """Some storage keeps no empty folders."""
    sweep, runs = make("FAILED", "FAILED")
    shutil.rmtree(runs[0].attempts)
    sign_runs(sweep, runs)
    sent = [read_submission(paths) for paths in runs]
    assert [one and one.after_attempt for one in sent] == [None, 1]
    assert [view.state for view in look(runs)] == ["REQUEUED"] * 2


def test_points_that_never_began_are_cancelled_inside_a_job_of_slurm_too(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    sweep, runs = make("CREATED")
    sign_runs(sweep, runs)
    leave_word(runs[0], "CANCELLED", "cancelled", "Cancelled before it began.")
    assert read_settled(runs[0]).state == "CANCELLED"
