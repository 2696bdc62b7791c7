"""A run that goes on elsewhere: with other tasks, other threads, another profile."""

import os
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT
from typing import Any

import numpy as np
import pytest

from dnnjob.errors import ExitCode
from dnnjob.launch.watch.cancel import cancel_command
from dnnjob.machine import count_cores
from dnnjob.results.report import read_report
from dnnjob.runs import RunPaths, read_settled
from tests.conftest import command_line, make_frame, run_command, write_tiny_job
from tests.launch.test_local_queue import wait_for, wait_for_pool
from tests.launch.test_local_tasks import SECTIONS, Command, Done, run

LONGER = {"epochs": 1500, "global_batch_size": 128, "patience": 1500, "checkpoint_every_s": 0.05}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sections: dict[str, Any] = {**SECTIONS, "train": {**SECTIONS["train"], **LONGER}}
    return write_tiny_job(tmp_path_factory.mktemp("job"), make_frame(400), **sections)


def devices_of(paths: RunPaths) -> dict[str, Any]:
    return dict(tomllib.loads(paths.job.read_text())["devices"])


@dataclass(frozen=True)
class Story:
    """A run of one task that goes on with two, then with one of two threads."""

    undisturbed: Done
    together: dict[str, Any]
    """The devices of its second attempt, as the resolved job has them."""
    done: Done


@pytest.fixture(scope="module")
def undisturbed(job: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    return run(job, tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture(scope="module")
def story(job: Path, undisturbed: Done, tmp_path_factory: pytest.TempPathFactory) -> Story:
    root = tmp_path_factory.mktemp("story")
    first = Command("run", job, "--root", root)
    assert first.end_by(SIGINT, rank=None).code == ExitCode.INTERRUPTED
    paths = first.paths
    second = Command("resume", paths.root, "devices.tasks=2", attempt=2)
    assert second.end_by(SIGINT, rank=None).code == ExitCode.INTERRUPTED
    together = devices_of(paths)
    with one_core():
        last = run_command("resume", paths.root, "devices.tasks=1", "devices.threads=2")
    assert last.returncode == 0, last.stderr
    return Story(undisturbed, together, Done(paths, read_report(paths.report), last.stderr))


@pytest.mark.long
def test_the_run_takes_the_tasks_it_is_given_and_its_job_says_so(story: Story) -> None:
    # Also more threads than there are cores, since it is asked to.
    assert (story.together["tasks"], story.together["threads"]) == (2, 1)
    devices = devices_of(story.done.paths)
    assert (devices["tasks"], devices["threads"]) == (1, 2)
    strategy = story.done.report.strategy
    assert (strategy.num_tasks, strategy.threads) == (1, 2)


@pytest.mark.long
def test_it_goes_on_to_the_same_losses_and_says_that_bits_may_differ(story: Story) -> None:
    assert len(story.done.losses) == len(story.undisturbed.losses)
    np.testing.assert_allclose(story.done.losses[:20], story.undisturbed.losses[:20], rtol=1e-5)
    assert not story.done.report.provenance.bit_exact
    assert "tasks 2 -> 1" in story.done.talk
    assert "threads 1 -> 2" in story.done.talk
    attempts = story.done.report.provenance.attempts
    assert all(attempt.resumed_from is not None for attempt in attempts[1:])


@pytest.mark.long
def test_a_submitted_run_takes_the_tasks_and_threads_of_another_profile(
    job: Path, tmp_path: Path
) -> None:
    profile = tmp_path / "here.toml"
    profile.write_text('executor = "local"\n')
    sent = run_command("submit", job, "--profile", profile, "--root", tmp_path)
    paths = RunPaths(Path(sent.stdout.strip()))
    stop_once_it_trains(paths, attempt=1)
    words = ("profile.tasks_per_node=2", "profile.cpus_per_task=1", "profile.time_limit_min=7")

    again = run_command("resume", paths.root, *words)

    assert again.returncode == 0, again.stderr
    wait_for(paths, "COMPLETED")
    wait_for_pool(paths)
    assert tomllib.loads(paths.profile.read_text())["time_limit_min"] == 7
    report = read_report(paths.report)
    assert (report.strategy.num_tasks, report.strategy.threads) == (2, 1)
    assert not report.provenance.bit_exact


def stop_once_it_trains(paths: RunPaths, *, attempt: int) -> None:
    while not any(paths.checkpoints.glob(f"*-{attempt}.ckpt")):
        assert read_settled(paths).state in ("CREATED", "RUNNING")
    # In this process: a command takes longer to start than a fast machine trains.
    assert cancel_command(paths.root) == ExitCode.DONE
    wait_for(paths, "CANCELLED")
    wait_for_pool(paths)


@contextmanager
def one_core() -> Iterator[None]:
    """Commands that are started inside have one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.long
def test_threads_that_fitted_another_machine_are_lowered_to_the_cores_of_this_one(
    job: Path, tmp_path: Path
) -> None:
    cores = count_cores()
    first = Command("run", job, f"devices.threads={cores}", "--root", tmp_path)
    assert first.end_by(SIGINT, rank=None).code == ExitCode.INTERRUPTED

    with one_core():
        done = run_command("resume", first.paths.root)

    assert done.returncode == 0, done.stderr
    report = read_report(first.paths.report)
    assert report.strategy.threads == 1
    assert ("it goes on with 1" in done.stderr) == (cores > 1)
    assert report.provenance.bit_exact == (cores == 1)


@pytest.mark.parametrize(
    "tasks", [pytest.param(1, marks=pytest.mark.long), pytest.param(2, marks=pytest.mark.slow)]
)
def test_of_two_resumes_at_once_one_wins_and_the_other_says_so(
    job: Path, tmp_path: Path, undisturbed: Done, tasks: int
) -> None:
    first = Command("run", job, "--root", tmp_path)
    first.end_by(SIGINT, rank=None)
    paths = first.paths
    devices = [f"devices.tasks={tasks}"] if tasks > 1 else []

    racing = [
        subprocess.Popen(
            command_line("resume", paths.root, *devices), stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=240)[1] for process in racing]

    codes = [process.returncode for process in racing]
    assert sorted(codes) == [ExitCode.DONE, ExitCode.USAGE], said
    loser = said[codes.index(ExitCode.USAGE)]
    # By the moment at which it comes: the claim, the processes, or the status speaks first.
    words = ("another `dnnjob resume`", "is alive", "is at work")
    assert any(word in loser for word in words), loser
    assert "Traceback" not in loser
    assert read_settled(paths).state == "COMPLETED"
    assert len(read_settled(paths).attempts) == 2
    report = read_report(paths.report)
    assert report.strategy.num_tasks == tasks
    if tasks == 1:
        assert report.provenance.bit_exact
        predictions = Done(paths, report, "").predictions
        np.testing.assert_array_equal(predictions, undisturbed.predictions)
