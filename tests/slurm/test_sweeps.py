"""Sweeps as arrays on a real Slurm: no point is lost to another."""

import json
from pathlib import Path

import pytest

from dnnjob.errors import ExitCode
from dnnjob.runs import RunPaths, SweepPaths, read_settled, read_submission, read_sweep
from tests.conftest import WriteJob
from tests.slurm.clusters import Cluster
from tests.slurm.submitted import write_profile
from tests.waiting import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.long]

NAN, CANCELLED = 2, 7


def send(cluster: Cluster, job: Path, folder: Path, **profile: object) -> SweepPaths:
    file = write_profile(folder, **profile)
    done = cluster.dnnjob("submit", job, "--profile", file, "--root", folder / "runs")
    assert done.returncode == 0, done.stderr
    return SweepPaths(Path(done.stdout.strip()))


def runs_of(sweep: SweepPaths) -> list[RunPaths]:
    return [sweep.run(point) for point in read_sweep(sweep).points]


@pytest.mark.timeout(600)
def test_of_8_points_one_fails_one_is_cancelled_and_6_finish(
    cluster: Cluster, write_job: WriteJob, tmp_path: Path
) -> None:
    rates = [0.001 * (1 + number) for number in range(8)]
    rates[NAN] = 1e8
    job = write_job(sweep={"train.learning_rate": rates})

    sweep = send(cluster, job, tmp_path, points_per_task=4)
    runs = runs_of(sweep)
    cancelled = cluster.dnnjob("cancel", runs[CANCELLED].root)
    waited = cluster.dnnjob("wait", sweep.root)

    assert cancelled.returncode == 0, cancelled.stderr
    assert waited.returncode in (ExitCode.FAILED, ExitCode.TERMINATED), waited.stderr
    endings = [(read_settled(paths).state, read_settled(paths).reason) for paths in runs]
    expected: list[tuple[str, str | None]] = [("COMPLETED", None)] * 8
    expected[NAN], expected[CANCELLED] = ("FAILED", "nan"), ("CANCELLED", "cancelled")
    assert endings == expected
    assert all(paths.report.is_file() for paths in runs if read_settled(paths).state == "COMPLETED")
    # A task of four points imports and compiles once.
    assert len({(a.host, a.pid) for paths in runs for a in read_settled(paths).attempts}) == 2
    shown = cluster.dnnjob("collect", tmp_path / "runs", "--json")
    assert len(json.loads(shown.stdout)) == 8


@pytest.mark.timeout(600)
def test_elements_are_queued_anew_alone_and_skip_what_has_finished(
    unbooked: Cluster, write_job: WriteJob, tmp_path: Path
) -> None:
    epochs = [5, 10_000_000, 6, 7]
    job = write_job(sweep={"train.epochs": epochs})
    sweep = send(unbooked, job, tmp_path, points_per_task=2, partition="graceful")
    first, long, third, fourth = runs_of(sweep)
    wait_until(lambda: read_settled(long).state == "RUNNING", seconds=240)
    wait_until(lambda: read_settled(fourth).state == "COMPLETED", seconds=240)

    unbooked.preempt()
    wait_until(lambda: _resumed(long), seconds=240)

    submission = read_submission(long)
    assert submission is not None
    assert read_settled(long).attempts[0].reason == "preempted"
    assert read_settled(long).attempts[1].slurm_job_id == submission.job_id
    assert [len(read_settled(paths).attempts) for paths in (first, third, fourth)] == [1, 1, 1]
    unbooked.dnnjob("cancel", sweep.root)
    wait_until(lambda: read_settled(long).state == "CANCELLED", seconds=90)


@pytest.mark.timeout(600)
def test_a_resumed_point_goes_on_alone(
    cluster: Cluster, write_job: WriteJob, tmp_path: Path
) -> None:
    job = write_job(sweep={"train.epochs": [5, 10_000_000]})
    sweep = send(cluster, job, tmp_path, points_per_task=1)
    short, long = runs_of(sweep)
    wait_until(lambda: read_settled(long).progress.epoch > 0, seconds=240)
    cluster.dnnjob("cancel", long.root)
    wait_until(lambda: read_settled(long).state == "CANCELLED", seconds=90)

    resumed = cluster.dnnjob("resume", long.root)
    wait_until(lambda: read_settled(long).state == "RUNNING", seconds=240)

    assert resumed.returncode == 0, resumed.stderr
    submission = read_submission(long)
    assert submission is not None
    assert submission.sweep_id == sweep.sweep_id
    assert "_" not in submission.job_id
    cluster.dnnjob("cancel", long.root)
    wait_until(lambda: read_settled(long).state == "CANCELLED", seconds=90)
    assert read_settled(short).state == "COMPLETED"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_element_queued_anew_leaves_a_point_to_the_job_that_resumed_it(
    unbooked: Cluster, write_job: WriteJob, tmp_path: Path
) -> None:
    job = write_job(sweep={"train.epochs": [10_000_000, 20_000_000]})
    sweep = send(unbooked, job, tmp_path, points_per_task=2)
    taken, kept = runs_of(sweep)
    wait_until(lambda: read_settled(taken).progress.epoch > 0, seconds=240)
    unbooked.dnnjob("cancel", taken.root)
    wait_until(lambda: read_settled(kept).progress.epoch > 0, seconds=240)
    resumed = unbooked.dnnjob("resume", taken.root)
    wait_until(lambda: read_settled(taken).state == "RUNNING", seconds=240)
    mine = read_settled(taken).attempts

    unbooked.ask("scontrol", "requeue", _job_of(kept))
    wait_until(lambda: _resumed(kept), seconds=400)

    assert resumed.returncode == 0, resumed.stderr
    assert _job_of(taken) != _job_of(kept)
    status = read_settled(taken)
    assert (status.state, len(status.attempts)) == ("RUNNING", len(mine))
    assert status.attempts[-1].pid == mine[-1].pid
    assert unbooked.state(_job_of(taken)) == "RUNNING"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_point_that_needs_too_much_memory_takes_no_other_along(
    unbooked: Cluster, write_job: WriteJob, tmp_path: Path
) -> None:
    job = write_job(sweep={"model.hidden_units": [[16000, 16000], [8], [9]]})
    file = write_profile(tmp_path, points_per_task=3)
    command = ["submit", job, "--profile", file, "--root", tmp_path / "runs", "--force"]

    large, second, third = runs_of(SweepPaths(Path(unbooked.dnnjob(*command).stdout.strip())))
    wait_until(lambda: read_settled(third).state == "COMPLETED", seconds=300)

    status = read_settled(large)
    assert (status.state, status.reason, len(status.attempts)) == ("FAILED", "out_of_memory", 1)
    assert "asked for 1.5 GB and was seen with" in str(status.error)
    assert read_settled(second).state == "COMPLETED"


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_500_points_finish_where_50_jobs_may_be_queued(
    cluster: Cluster, write_job: WriteJob, tmp_path: Path
) -> None:
    job = write_job(
        sweep={"seed": list(range(500))},
        train={"epochs": 2},
        output={"plots": False, "model": False},
    )

    sweep = send(cluster, job, tmp_path, partition="few", points_per_task=10)
    runs = runs_of(sweep)
    wait_until(lambda: all(map(has_ended, runs)), seconds=6000, every=2)
    waited = cluster.dnnjob("wait", sweep.root)

    assert waited.returncode == ExitCode.DONE, waited.stderr
    shown = json.loads(cluster.dnnjob("collect", tmp_path / "runs", "--json").stdout)
    assert [run["state"] for run in shown] == ["COMPLETED"] * 500
    assert {run["seed"] for run in shown} == set(range(500))
    assert len({run["slurm_job_id"] for run in shown}) == 50


def has_ended(paths: RunPaths) -> bool:
    return read_settled(paths).state in ("COMPLETED", "FAILED", "CANCELLED")


def _job_of(paths: RunPaths) -> str:
    submission = read_submission(paths)
    assert submission is not None
    return submission.job_id


def _resumed(paths: RunPaths) -> bool:
    attempts = read_settled(paths).attempts
    return len(attempts) == 2 and attempts[1].resumed_from is not None
