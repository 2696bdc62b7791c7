"""The life of a run under its user's eyes: sent, followed, cancelled, resumed, complete."""

import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dnnjob.config import load_job, load_profile
from dnnjob.errors import ExitCode
from dnnjob.launch.watch.run_views import look
from dnnjob.results.report import read_report
from dnnjob.runs import RunPaths
from tests.conftest import WriteJob, command_line
from tests.slurm.clusters import Cluster
from tests.slurm.submitted import hold, read_attempts, submit, write_profile
from tests.waiting import wait_until

pytestmark = pytest.mark.slurm


@pytest.mark.timeout(600)
def test_a_run_is_followed_cancelled_and_resumed_to_its_end(
    unbooked: Cluster, write_job: WriteJob, tmp_path: Path
) -> None:
    job = write_job(train={"epochs": 4000, "checkpoint_every_s": 0.1})
    paths = submit(unbooked, job, tmp_path)
    follower = subprocess.Popen(
        command_line("logs", paths.root, "--follow"), stdout=subprocess.PIPE, text=True
    )
    hold(paths)

    refused = unbooked.dnnjob("resume", paths.root)
    cancelled = unbooked.dnnjob("cancel", paths.root)
    waited = unbooked.dnnjob("wait", paths.root)
    said, _ = follower.communicate(timeout=120)

    assert (refused.returncode, cancelled.returncode) == (ExitCode.USAGE, ExitCode.DONE)
    assert "is alive: RUNNING" in refused.stderr
    assert waited.returncode == ExitCode.TERMINATED, waited.stderr
    assert "Training on 1 CPU replica" in said
    (view,) = look([paths])
    assert (view.state, view.reason) == ("CANCELLED", "cancelled")

    resumed = unbooked.dnnjob("resume", paths.root)
    waiting = see(paths)
    done = unbooked.dnnjob("wait", paths.root)

    assert (resumed.returncode, resumed.stdout) == (ExitCode.DONE, f"{paths.root}\n")
    assert waiting.state in ("REQUEUED", "RUNNING")
    assert done.returncode == ExitCode.DONE, done.stderr
    first, second = read_attempts(paths)
    assert second.resumed_from == first.reached
    assert first.slurm_job_id != second.slurm_job_id
    assert unbooked.dnnjob("resume", paths.root).returncode == ExitCode.DONE
    assert len(read_attempts(paths)) == 2


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_run_is_resumed_on_as_many_nodes_as_another_profile_says(
    unbooked: Cluster, write_job: WriteJob, tmp_path: Path
) -> None:
    paths = submit(unbooked, write_job(), tmp_path, sbatch_options={"begin": "now+1hour"})
    unbooked.dnnjob("cancel", paths.root)
    wait_until(lambda: see(paths).state == "CANCELLED", seconds=30)
    words = ("profile.sbatch_options={}", "profile.nodes=2", "devices.hang_timeout_s=600")

    resumed = unbooked.dnnjob("resume", paths.root, *words)
    done = unbooked.dnnjob("wait", paths.root)

    assert (resumed.returncode, done.returncode) == (0, 0), resumed.stderr + done.stderr
    assert read_report(paths.report).strategy.num_tasks == 2
    job, profile = load_job(paths.job), load_profile(paths.profile)
    assert (job.devices.tasks, job.devices.hang_timeout_s) == (2, 600)
    assert (profile.nodes, profile.sbatch_options) == (2, {})


@pytest.mark.long
@pytest.mark.timeout(600)
def test_resume_here_takes_the_run_from_slurm_into_the_foreground(
    unbooked: Cluster, write_job: WriteJob, tmp_path: Path
) -> None:
    paths = submit(unbooked, write_job(), tmp_path, sbatch_options={"begin": "now+1hour"})
    assert unbooked.dnnjob("resume", paths.root, "--here").returncode == ExitCode.USAGE
    unbooked.dnnjob("cancel", paths.root)
    wait_until(lambda: see(paths).state == "CANCELLED", seconds=30)

    done = unbooked.dnnjob("resume", paths.root, "--here")

    assert done.returncode == ExitCode.DONE, done.stderr
    (attempt,) = read_attempts(paths)
    assert attempt.slurm_job_id is None
    assert (see(paths).state, see(paths).job_id) == ("COMPLETED", None)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_run_can_be_watched_from_a_copy(
    unbooked: Cluster, write_job: WriteJob, tmp_path: Path
) -> None:
    paths = submit(unbooked, write_job(), tmp_path, sbatch_options={"begin": "now+1hour"})
    copy = Path(shutil.copytree(tmp_path / "runs", tmp_path / "copy"))

    refused = unbooked.dnnjob("cancel", copy / "tiny" / paths.run_id)
    shown = json.loads(unbooked.dnnjob("status", copy, "--json").stdout)

    assert refused.returncode == ExitCode.USAGE
    assert [(run["state"], run["is_copy"]) for run in shown] == [("CREATED", True)]
    # Until it has looked at the job, the controller gives no reason.
    wait_until(lambda: see(paths).queue_reason == "BeginTime", seconds=60)


def see(paths: RunPaths) -> Any:
    (view,) = look([paths])
    return view


# The doctor as a job


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_doctor_looks_at_every_node_of_a_profile_and_leaves_nothing(
    unbooked: Cluster, tmp_path: Path
) -> None:
    profile = write_profile(tmp_path, nodes=2)
    root = tmp_path / "new" / "root"

    done = unbooked.dnnjob("doctor", "--profile", profile, "--root", root, "--json")

    assert done.returncode == ExitCode.DONE, done.stderr + done.stdout
    reports = json.loads(done.stdout)
    assert sorted(report["host"] for report in reports) == ["n1", "n2"]
    topics = {finding["topic"] for finding in reports[0]["findings"]}
    assert {"python", "tensorflow", "threads", "root"} <= topics
    assert not root.parent.exists()


@pytest.mark.long
def test_a_doctor_that_cannot_start_tells_what_its_job_said(
    unbooked: Cluster, tmp_path: Path
) -> None:
    profile = write_profile(tmp_path, python="/nowhere/python")

    done = unbooked.dnnjob("doctor", "--profile", profile, "--root", tmp_path / "runs")

    assert done.returncode == ExitCode.ENVIRONMENT
    assert "/nowhere/python: No such file" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.long
def test_a_doctor_that_is_interrupted_takes_its_job_back(unbooked: Cluster, tmp_path: Path) -> None:
    profile = write_profile(tmp_path, sbatch_options={"begin": "now+1hour"})
    command = command_line("doctor", "--profile", profile, "--root", tmp_path / "runs")
    doctor = subprocess.Popen(
        command,
        stderr=subprocess.DEVNULL,
        # The tests themselves may run where the keyboard's signals are ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        wait_until(lambda: "dnnjob-doctor" in unbooked.ask("squeue", "-h", "-o", "%j"), seconds=60)
        wait_until(lambda: list((tmp_path / "runs").glob(".doctor-*/*.pkl")), seconds=60)
        doctor.send_signal(signal.SIGINT)
        assert doctor.wait(60) == ExitCode.INTERRUPTED
    finally:
        doctor.kill()
        doctor.wait()

    wait_until(lambda: not unbooked.ask("squeue", "-h"), seconds=30)
    assert not (tmp_path / "runs").exists()
