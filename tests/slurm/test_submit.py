"""Submitting to a real Slurm: what is refused, what is queued, and what lies in the folders.

The jobs here fail in their setup lines: nothing waits for a training.
"""

import json
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dnnjob import slurm
from dnnjob.config import load_profile
from dnnjob.errors import DnnJobError, ExitCode
from dnnjob.launch.cluster import queue
from dnnjob.launch.own_process import raising_on_signals
from dnnjob.launch.submit import submit_job
from dnnjob.runs import (
    RunPaths,
    SweepPaths,
    read_settled,
    read_submission,
    read_sweep,
)
from tests.conftest import WriteJob, command_line
from tests.slurm.clusters import Cluster
from tests.slurm.submitted import write_profile
from tests.waiting import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.long]

FAILS = {"setup": ["false"], "memory_gb": None}


@pytest.fixture
def closed(cluster: Cluster) -> Iterator[Cluster]:
    """A cluster on which jobs wait."""
    cluster.ask("scontrol", "update", "partition=main", "state=DOWN")
    yield cluster
    cluster.ask("scontrol", "update", "partition=main", "state=UP")


@pytest.fixture
def noting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file to which every command of Slurm's adds its name."""
    folder, noted = tmp_path / "noting", tmp_path / "calls.txt"
    folder.mkdir()
    for name in ("sbatch", "squeue", "scontrol", "sacct", "sacctmgr", "sinfo", "scancel"):
        script = folder / name
        script.write_text(f'#!/bin/sh\necho {name} >>{noted}\nexec {shutil.which(name)} "$@"\n')
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return noted


def send(
    cluster: Cluster, job: Path, folder: Path, *words: str, **profile: Any
) -> "tuple[int, str, str]":
    file = write_profile(folder, **profile)
    done = cluster.dnnjob("submit", job, *words, "--profile", file, "--root", folder / "runs")
    return done.returncode, done.stdout.strip(), done.stderr


def wait_for_failure(paths: RunPaths) -> None:
    wait_until(lambda: read_settled(paths).state == "FAILED", seconds=60)


@pytest.mark.parametrize(
    ("words", "profile", "code", "told"),
    [
        (["data.target=z"], {}, 3, "has no column 'z'"),
        ([], {"partition": "nope"}, 2, "no partition 'nope'.*main, urgent"),
        ([], {"gpus_per_node": 1}, 2, r"gpus_per_node ask for 1, but .* nodes of 0 GPU"),
        ([], {"nodes": 9}, 2, r"nodes ask for 9, but the partition main has 4 node"),
        ([], {"cpus_per_task": 999}, 2, "cpus_per_task and tasks_per_node"),
        ([], {"memory_gb": 999}, 2, "memory_gb ask for 999"),
        ([], {"partition": "short"}, 2, r"above the 5 minutes of the partition short.*--force"),
        ([], {"account": "nope"}, 2, "account"),
        ([], {"reservation": "nope"}, 2, "Set the profile's reservation"),
        ([], {"gres": "gpu:1"}, 2, "Set gpus_per_node"),
        ([], {"sbatch_options": {"nonsense": 1}}, 2, "nonsense"),
        (['devices.kind="gpu"'], {}, 2, "needs a GPU.*Set profile.gpus_per_node=1"),
        (["sweep.seed=[0,1]"], {"reservation": "nope"}, 2, "Set the profile's reservation"),
    ],
)
def test_what_cannot_work_is_refused_with_the_cure_and_leaves_nothing(
    cluster: Cluster,
    write_job: WriteJob,
    tmp_path: Path,
    words: list[str],
    profile: dict[str, Any],
    code: int,
    told: str,
) -> None:
    file = write_profile(tmp_path, **profile)

    with pytest.raises(DnnJobError) as raised:
        submit_job(write_job(), words, profile=str(file), root=tmp_path / "runs")

    assert raised.value.exit_code == code
    assert re.search(told, str(raised.value), re.DOTALL), raised.value
    assert cluster.ask("squeue", "-h") == ""
    assert not (tmp_path / "runs").exists()


def test_a_run_knows_its_job_and_what_it_asked_for(
    cluster: Cluster, write_job: WriteJob, tmp_path: Path
) -> None:
    code, stdout, stderr = send(cluster, write_job(), tmp_path, **FAILS)

    paths = RunPaths(Path(stdout))
    submission = read_submission(paths)
    assert code == 0, stderr
    assert submission is not None
    assert f"Slurm job {submission.job_id}" in stderr
    assert submission.cluster == slurm.cluster_name()
    assert submission.requested.cpus_per_task == 1
    assert submission.requested.time_limit_min == 10
    assert "submit" in submission.command
    assert load_profile(paths.profile).setup == ("false",)
    wait_for_failure(paths)


def test_a_dry_run_prints_the_very_script_and_queues_nothing(
    closed: Cluster, write_job: WriteJob, tmp_path: Path
) -> None:
    profile = write_profile(tmp_path, **FAILS)
    command = ["submit", write_job(), "--profile", profile, "--root", tmp_path / "runs"]

    printed = closed.dnnjob(*command, "--dry-run").stdout

    assert closed.ask("squeue", "-h") == ""
    assert not (tmp_path / "runs").exists()
    done = closed.dnnjob(*command, "--force")
    paths = RunPaths(Path(done.stdout.strip()))
    (kept,) = paths.submission_folder.glob("*_submission.sh")
    queued = closed.ask("scontrol", "write", "batch_script", _job_id(paths), "-")
    assert _without_names(kept.read_text(), paths) == _without_names(printed, paths)
    assert _without_names(queued, paths) == _without_names(printed, paths)


def test_a_job_whose_files_cannot_be_written_is_taken_back(closed: Cluster, tmp_path: Path) -> None:
    profile = load_profile(write_profile(tmp_path))

    def fail(ids: Sequence[str]) -> None:
        assert slurm.list_queue(ids)[ids[0]].reason == "JobHeldUser"
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        queue([partial(print)], profile, folder=tmp_path / "s", name="x", write=fail)
    wait_until(lambda: closed.count_queued() == 0, seconds=20)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, ExitCode.INTERRUPTED),
        (signal.SIGTERM, ExitCode.TERMINATED),
    ],
)
def test_a_submission_that_is_interrupted_queues_nothing(
    closed: Cluster, write_job: WriteJob, tmp_path: Path, number: signal.Signals, code: ExitCode
) -> None:
    # An sbatch that has queued the job and is interrupted before it says so.
    slow = tmp_path / "bin" / "sbatch"
    slow.parent.mkdir()
    slow.write_text(
        f'#!/bin/sh\n{shutil.which("sbatch")} "$@" >&2; touch {tmp_path}/sent; sleep 60\n'
    )
    slow.chmod(0o755)
    command = command_line(
        "submit", write_job(), "--profile", write_profile(tmp_path), "--root", tmp_path / "runs"
    )
    path = f"{slow.parent}:{os.environ['PATH']}"
    process = subprocess.Popen(
        [*command, "--force"],
        env={**os.environ, "PATH": path},
        # The tests themselves may run where these are ignored.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    wait_until((tmp_path / "sent").exists, seconds=60)
    assert closed.ask("squeue", "-h") != ""

    process.send_signal(number)

    assert process.wait(timeout=120) == code
    wait_until(lambda: closed.ask("squeue", "-h") == "", seconds=20)
    assert not (tmp_path / "runs").exists()


def test_a_submission_interrupted_once_it_is_answered_queues_nothing(
    closed: Cluster, tmp_path: Path
) -> None:
    profile = load_profile(write_profile(tmp_path))
    # The tests themselves may run where it is ignored.
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)

    def interrupt(_: Sequence[str]) -> None:
        with raising_on_signals():
            signal.raise_signal(signal.SIGHUP)

    with pytest.raises(SystemExit):
        queue([partial(print)], profile, folder=tmp_path / "s", name="x", write=interrupt)
    signal.signal(signal.SIGHUP, before)
    wait_until(lambda: closed.count_queued() == 0, seconds=20)


def test_what_the_environment_says_to_sbatch_is_named_and_not_heeded(
    closed: Cluster, write_job: WriteJob, tmp_path: Path
) -> None:
    profile = write_profile(tmp_path)
    done = closed.dnnjob(
        *("submit", write_job(), "--profile", profile, "--root", tmp_path / "runs", "--force"),
        SBATCH_TIMELIMIT="1",
        SBATCH_NO_REQUEUE="1",
    )

    told = closed.ask("scontrol", "-o", "show", "job", _job_id(RunPaths(Path(done.stdout.strip()))))

    assert "SBATCH_NO_REQUEUE, SBATCH_TIMELIMIT: not heeded" in done.stderr
    assert "TimeLimit=00:10:00" in told
    assert "Requeue=1" in told


def test_colleagues_may_read_and_write_what_a_submission_leaves(
    cluster: Cluster, write_job: WriteJob, tmp_path: Path
) -> None:
    root = tmp_path / "runs"
    root.mkdir()
    root.chmod(0o2775)
    job = write_job(sweep={"seed": [0, 1]})
    before = os.umask(0o002)
    try:
        _, stdout, stderr = send(cluster, job, tmp_path, **FAILS)
    finally:
        os.umask(before)

    sweep = SweepPaths(Path(stdout))
    for point in read_sweep(sweep).points:
        wait_for_failure(sweep.run(point))
    for path in root.rglob("*"):
        mode = path.stat().st_mode
        assert mode & 0o060 == 0o060, path
        assert not path.is_dir() or mode & stat.S_ISGID, path
    assert list(root.glob("*/*/events/batch-*.json")), stderr


def test_a_sweep_is_one_array_with_several_points_a_task(
    cluster: Cluster, write_job: WriteJob, tmp_path: Path
) -> None:
    job = write_job(sweep={"seed": list(range(7))})

    code, stdout, stderr = send(cluster, job, tmp_path, points_per_task=3, **FAILS)

    assert code == 0, stderr
    paths = SweepPaths(Path(stdout))
    sweep = read_sweep(paths)
    runs = [paths.run(point) for point in sweep.points]
    sent = [read_submission(run) for run in runs]
    assert [point.values for point in sweep.points] == [{"seed": seed} for seed in range(7)]
    assert [point.number for point in sweep.points] == list(range(1, 8))
    array = sent[0].job_id.partition("_")[0] if sent[0] else ""
    assert [one.job_id if one else "" for one in sent] == [
        f"{array}_{element}" for element in (0, 0, 1, 1, 1, 2, 2)
    ]
    assert {one.sweep_id for one in sent if one} == {paths.sweep_id}
    assert "7 runs in 3 task(s) of 2 to 3, 1 at a time" in stderr
    for run in runs:
        wait_for_failure(run)


def test_one_task_for_all_points_is_a_plain_job(
    cluster: Cluster, write_job: WriteJob, tmp_path: Path
) -> None:
    job = write_job(sweep={"seed": [0, 1]})

    _, stdout, stderr = send(cluster, job, tmp_path, **FAILS)

    paths = SweepPaths(Path(stdout))
    runs = [paths.run(point) for point in read_sweep(paths).points]
    ids = {submission.job_id for run in runs if (submission := read_submission(run))}
    assert len(ids) == 1, stderr
    assert "_" not in ids.pop()
    for run in runs:
        wait_for_failure(run)


def test_a_submission_takes_little_time_besides_sbatchs_and_asks_slurm_few_questions(
    closed: Cluster, write_job: WriteJob, tmp_path: Path, noting: Path
) -> None:
    job, profile = write_job(), write_profile(tmp_path)
    command = ("submit", job, "--profile", profile, "--root", tmp_path / "runs", "--force")

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = closed.dnnjob(*command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)

    assert done.returncode == 0, done.stderr
    # Its own work, Slurm's commands included: on a machine with other work, the clock tells less.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3.0
    # Settings, partitions, nodes; the submission; and its release.
    assert Counter(noting.read_text().split()) == {"scontrol": 4, "sbatch": 1}


@pytest.mark.timeout(300)
def test_120_points_fit_a_limit_of_50_queued_jobs(
    cluster: Cluster, write_job: WriteJob, tmp_path: Path
) -> None:
    job = write_job(
        sweep={"seed": list(range(120))},
        model={"hidden_units": [4000, 4000]},
        train={"epochs": 100_000},
    )

    code, stdout, stderr = send(cluster, job, tmp_path, partition="few", **FAILS)

    assert code == 0, stderr
    assert len(read_sweep(SweepPaths(Path(stdout))).points) == 120
    assert re.search(r"120 runs in (50|4\d) task", stderr), stderr

    code, _, stderr = send(
        cluster, job, tmp_path, partition="few", **{**FAILS, "points_per_task": 2}
    )
    assert code == 2
    assert "points_per_task" in stderr


def _job_id(paths: RunPaths) -> str:
    return str(json.loads(paths.submission.read_text())["job_id"])


def _without_names(script: str, paths: RunPaths) -> str:
    """The script without the two names that are drawn anew for each submission."""
    text = re.sub(r"dnnjob-[0-9a-f]{16}", "MARKER", script)
    return text.replace(paths.run_id, "RUN").replace("YYYYMMDD-HHMMSS-XXXXXX", "RUN").strip()
