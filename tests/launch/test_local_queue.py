"""Runs in the background of this machine: how many at a time, and what becomes of them."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from dnnjob.config import JobConfig, ProfileConfig, load_job, resolve_profile
from dnnjob.launch import local_queue
from dnnjob.launch.local_queue import open_queue, plan_queue
from dnnjob.machine import process_key
from dnnjob.runs import (
    Cancel,
    RunPaths,
    SweepPaths,
    create_run,
    latest_attempt,
    read_settled,
    read_submission,
    read_sweep,
    write_record,
)
from tests.conftest import Command, WriteJob, command_line
from tests.waiting import wait_until

GIB = 2**30


def local(**values: object) -> ProfileConfig:
    return resolve_profile({"executor": "local", **values}, origin="test")


@pytest.fixture
def job(write_job: WriteJob) -> JobConfig:
    return load_job(write_job(devices={"threads": 0}))


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of eight cores, 16 GiB and no GPU."""
    monkeypatch.setattr(local_queue, "count_cores", lambda: 8)
    monkeypatch.setattr(local_queue, "memory_limit_bytes", lambda: 16 * GIB)
    monkeypatch.setattr(local_queue, "visible_gpus", lambda: ())


@pytest.mark.parametrize(
    ("num_jobs", "memory", "profile", "width", "cores"),
    [
        # One run takes what there is, by itself.
        (1, GIB, {}, 1, 8),
        (1, GIB, {"cpus_per_task": 2}, 1, 8),
        # One thread each: a small step is worth no more.
        (20, GIB, {}, 8, 1),
        (3, GIB, {}, 3, 1),
        (20, 5 * GIB, {}, 3, 1),
        (20, None, {}, 8, 1),
        (20, 99 * GIB, {}, 1, 1),
        (20, GIB, {"memory_gb": 8}, 2, 1),
        (20, GIB, {"array_parallelism": 2}, 2, 1),
        (20, GIB, {"cpus_per_task": 4}, 2, 4),
    ],
)
def test_as_many_runs_go_at_a_time_as_fit(
    job: JobConfig,
    num_jobs: int,
    memory: float | None,
    profile: dict[str, int],
    width: int,
    cores: int,
) -> None:
    plan = plan_queue([job] * num_jobs, local(**profile), memory_bytes=memory)

    assert plan.lanes.width == width
    assert {need.cores for need in plan.needs} == {cores}
    devices = plan.fit(job).devices
    assert devices.threads == profile.get("cpus_per_task", 0)
    assert devices.stack == (width if num_jobs > 1 else 0)


def test_threads_that_a_job_names_are_left_to_it(write_job: WriteJob) -> None:
    job = load_job(write_job(devices={"threads": 3}))

    plan = plan_queue([job] * 20, local(), memory_bytes=None)

    assert plan.lanes.width == 2
    assert plan.fit(job).devices.threads == 3


def test_a_job_says_how_many_go_side_by_side(write_job: WriteJob) -> None:
    job = load_job(write_job(devices={"threads": 0, "stack": 12}))

    assert plan_queue([job] * 20, local(), memory_bytes=None).lanes.width == 12


@pytest.mark.parametrize(
    ("profile", "width"),
    [
        ({"cpus_per_task": 16}, 16),
        ({"cpus_per_task": 16, "memory_gb": 4}, 4),
        ({}, 1),
        ({"cpus_per_task": 16, "gpus_per_node": 1}, 1),
        ({"cpus_per_task": 16, "nodes": 2}, 1),
    ],
)
def test_an_element_of_an_array_runs_as_many_as_its_cores_and_memory_hold(
    write_job: WriteJob, profile: dict[str, int], width: int
) -> None:
    job = load_job(write_job(devices={"threads": 0, "kind": "auto"}))
    asked = resolve_profile({"executor": "slurm", "time_limit_min": 60, **profile}, origin="test")

    assert plan_queue([job] * 20, asked, memory_bytes=GIB).lanes.width == width


@pytest.mark.parametrize(
    ("num_jobs", "profile", "gpus"),
    [
        (1, {}, ("GPU-a,GPU-b,GPU-c",)),
        (1, {"gpus_per_node": 2}, ("GPU-a,GPU-b",)),
        (9, {}, ("GPU-a", "GPU-b", "GPU-c")),
        (9, {"gpus_per_node": 2}, ("GPU-a,GPU-b",)),
    ],
)
def test_each_place_has_gpus_of_its_own(
    write_job: WriteJob,
    monkeypatch: pytest.MonkeyPatch,
    num_jobs: int,
    profile: dict[str, int],
    gpus: tuple[str, ...],
) -> None:
    # submitit would take numbers from 0 on, or none at all.
    monkeypatch.setattr(local_queue, "visible_gpus", lambda: ("GPU-a", "GPU-b", "GPU-c"))
    job = load_job(write_job(devices={"kind": "auto", "threads": 0}))

    assert plan_queue([job] * num_jobs, local(**profile), memory_bytes=None).lanes.gpus == gpus


def test_nothing_runs_whose_files_could_not_be_written(job: JobConfig, tmp_path: Path) -> None:
    paths = create_run(tmp_path, job)
    plan = plan_queue([job], local(), memory_bytes=None)

    def write() -> int:
        with open_queue(
            [paths], plan, folder=paths.submission_folder, command="dnnjob", halving=None
        ) as pid:
            os.kill(pid, 0)
            raise OSError("disk full")
        return pid

    with pytest.raises(OSError, match="disk full"):
        write()
    time.sleep(1)
    assert read_settled(paths).state == "CREATED"
    assert latest_attempt(paths) == 0


def submit(dnnjob: Command, job: Path, folder: Path, *words: str) -> Path:
    done = dnnjob("submit", job, *words, "--profile", "local", "--root", folder / "runs")
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def wait_for(paths: RunPaths, *states: str) -> None:
    wait_until(lambda: read_settled(paths).state in states, seconds=120)


def wait_for_pool(paths: RunPaths) -> None:
    """Returns once the background process has ended."""
    submission = read_submission(paths)
    assert submission is not None
    wait_until(lambda: process_key(int(submission.job_id)) != submission.process, seconds=60)


def test_a_run_goes_on_behind_the_commands_end(
    write_job: WriteJob, dnnjob: Command, tmp_path: Path
) -> None:
    paths = RunPaths(submit(dnnjob, write_job(), tmp_path))

    wait_for(paths, "COMPLETED")

    submission = read_submission(paths)
    assert submission is not None
    assert submission.executor == "local"
    assert submission.job_id.isdecimal()
    assert "submit" in paths.report.read_text()
    wait_for_pool(paths)


@pytest.mark.long
def test_a_shell_that_reads_the_folder_does_not_wait_for_the_run(
    write_job: WriteJob, tmp_path: Path
) -> None:
    """Whatever of the command stays behind must not hold its output open."""
    command = ["submit", write_job(), "--profile", "local", "--root", tmp_path / "runs"]
    shell = 'run=$("$@" 2>&1 | tail -n 2); echo "$run"'

    done = subprocess.run(
        ["sh", "-c", shell, "sh", *command_line(*command)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    # It came back while the run was going on.
    (folder,) = (tmp_path / "runs" / "tiny").glob("*-*-*")
    assert str(folder) in done.stdout
    assert read_settled(RunPaths(folder)).state != "COMPLETED"
    wait_for(RunPaths(folder), "COMPLETED")


@pytest.mark.long
def test_a_sweep_shares_imports_and_loses_no_point_to_one_that_fails(
    write_job: WriteJob, dnnjob: Command, tmp_path: Path
) -> None:
    job = write_job(sweep={"train.learning_rate": [0.01, 1e9, 0.02, 0.03]})

    sweep = SweepPaths(submit(dnnjob, job, tmp_path, "devices.stack=1"))

    runs = [sweep.run(point) for point in read_sweep(sweep).points]
    for paths in runs:
        wait_for(paths, "COMPLETED", "FAILED")
    assert [read_settled(paths).state for paths in runs] == [
        "COMPLETED",
        "FAILED",
        "COMPLETED",
        "COMPLETED",
    ]
    assert read_settled(runs[1]).reason == "nan"
    assert len({read_settled(paths).attempts[0].pid for paths in runs}) == 1
    wait_for_pool(runs[0])


@pytest.mark.long
def test_a_wish_to_cancel_ends_one_point_and_the_others_go_on(
    write_job: WriteJob, dnnjob: Command, tmp_path: Path
) -> None:
    job = write_job(sweep={"train.epochs": [10_000_000, 5, 6]})
    sweep = SweepPaths(submit(dnnjob, job, tmp_path, "devices.stack=1"))
    long, second, third = (sweep.run(point) for point in read_sweep(sweep).points)

    write_record(third.cancel, Cancel())
    wait_for(long, "RUNNING")
    write_record(long.cancel, Cancel())

    wait_for(long, "CANCELLED")
    wait_for(second, "COMPLETED")
    wait_for(third, "CANCELLED")
    assert read_settled(third).attempts == ()
    wait_for_pool(long)


@pytest.mark.long
def test_the_background_process_passes_a_signal_on_and_starts_nothing_more(
    write_job: WriteJob, dnnjob: Command, tmp_path: Path
) -> None:
    job = write_job(sweep={"train.epochs": [10_000_000, 10_000_001, 10_000_002]})
    sweep = SweepPaths(submit(dnnjob, job, tmp_path, "profile.array_parallelism=1"))
    runs = [sweep.run(point) for point in read_sweep(sweep).points]
    submission = read_submission(runs[0])
    assert submission is not None
    wait_for(runs[0], "RUNNING")
    time.sleep(1)

    os.kill(int(submission.job_id), signal.SIGTERM)

    for paths in runs:
        wait_for(paths, "CANCELLED")
    assert [len(read_settled(paths).attempts) for paths in runs] == [1, 0, 0]
    wait_for_pool(runs[0])


@pytest.mark.long
def test_setup_lines_come_first_and_one_that_fails_ends_the_run(
    write_job: WriteJob, dnnjob: Command, tmp_path: Path
) -> None:
    words = 'profile.setup=["echo here >&2", "false"]'

    paths = RunPaths(submit(dnnjob, write_job(), tmp_path, words))

    wait_for(paths, "FAILED")
    error = str(read_settled(paths).error)
    log = Path(error.partition("See ")[2].partition(". `")[0])
    assert "ended with exit code 1" in error
    assert "here\n" in log.read_text()


@pytest.mark.long
def test_a_killed_process_leaves_no_run_that_looks_alive(
    write_job: WriteJob, dnnjob: Command, tmp_path: Path
) -> None:
    paths = RunPaths(submit(dnnjob, write_job(train={"epochs": 10_000_000}), tmp_path))
    wait_for(paths, "RUNNING")

    os.kill(read_settled(paths).attempts[-1].pid, signal.SIGKILL)

    wait_for(paths, "FAILED")
    assert "was killed" in str(read_settled(paths).error)
    wait_for_pool(paths)


@pytest.mark.slow
def test_a_time_limit_ends_a_local_run_with_a_checkpoint(
    write_job: WriteJob, dnnjob: Command, tmp_path: Path
) -> None:
    job = write_job(train={"epochs": 10_000_000})
    words = ["profile.time_limit_min=1", "profile.warning_lead_s=15"]

    paths = RunPaths(submit(dnnjob, job, tmp_path, *words))
    wait_for(paths, "FAILED")

    status = read_settled(paths)
    assert (status.reason, "time_limit_min" in str(status.error)) == ("time_limit", True)
    assert list(paths.checkpoints.glob("*.ckpt"))
