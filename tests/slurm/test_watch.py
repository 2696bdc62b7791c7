"""Looking after runs on a real cluster, with accounting and without."""

import json
import os
import re
import resource
import shutil
import stat
import subprocess
import tempfile
import time
from collections import Counter
from operator import itemgetter
from pathlib import Path

import pytest

from dnnjob.launch.watch.run_views import RunView, look
from dnnjob.runs import RunPaths, read_cancel
from tests.conftest import command_line
from tests.launch.watch.made import attempt, make_run, make_sweep, send, status
from tests.slurm.clusters import Cluster
from tests.waiting import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.long]

COMMANDS = ("squeue", "sacct", "scontrol", "sinfo", "scancel", "sacctmgr")


def carry(
    cluster: Cluster, paths: RunPaths, command: str, *options: str, at_work: bool = False
) -> str:
    """Has a job of the cluster carry a made-up run; the job's id."""
    log = paths.submission_folder / "%j_0_log.out"
    paths.submission_folder.mkdir(exist_ok=True)
    job_id = cluster.submit(command, f"--output={log}", *options)
    send(paths, job_id, cluster=name_of(cluster))
    if at_work:
        begin(cluster, paths, job_id)
    return job_id


def begin(cluster: Cluster, paths: RunPaths, job_id: str, *, silent_s: float = 120) -> None:
    begun = attempt(slurm_job_id=job_id, slurm_cluster=name_of(cluster), place=str(paths.root))
    paths.status.write_text(status("RUNNING", [begun], silent_s=silent_s).model_dump_json())


def name_of(cluster: Cluster) -> str:
    return cluster.folder.joinpath("slurm.conf").read_text().split("ClusterName=")[1].split()[0]


def see(paths: RunPaths) -> RunView:
    (view,) = look([paths])
    return view


def see_as_nobody(cluster: Cluster, *arguments: object) -> str:
    """What dnnjob prints for a user whose jobs and runs none of these are."""
    if os.geteuid():
        pytest.skip("only root can become another user")
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    environ = {**os.environ, **cluster.environ, "HOME": "/", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [*command, *command_line(*arguments)], env=environ, capture_output=True, text=True
    )
    if "ermission denied" in done.stderr and not done.stdout:
        pytest.skip(f"this Python is not for everybody: {done.stderr}")
    return done.stdout


def see_ended(paths: RunPaths, *, seconds: float = 30) -> RunView:
    """The run once it has ended."""
    wait_until(lambda: see(paths).is_over, seconds=seconds)
    return see(paths)


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that notes each Slurm command that is called."""
    folder, noted = tmp_path / "noting", tmp_path / "calls.txt"
    folder.mkdir()
    noted.touch()
    for name in COMMANDS:
        real = shutil.which(name)
        script = folder / name
        script.write_text(f'#!/bin/sh\necho {name} >>{noted}\nexec {real} "$@"\n')
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return noted


# A job that waits or runs


def test_a_waiting_job_tells_why_and_a_running_one_where(unbooked: Cluster, root: Path) -> None:
    waits, runs = make_run(root, 1), make_run(root, 2)
    job_id = carry(unbooked, waits, "sleep 60", "--hold")
    carry(unbooked, runs, "sleep 60", "--time=10", "--nodelist=n2")
    unbooked.wait_for(read_job(runs), "RUNNING")
    begin(unbooked, runs, read_job(runs), silent_s=3)

    held, at_work = look([waits, runs])

    assert (held.state, held.queue_reason, held.job_id) == ("CREATED", "JobHeldUser", job_id)
    assert f"scontrol release {job_id}" in str(held.note)
    assert (at_work.state, at_work.nodes, at_work.note) == ("RUNNING", "n2", None)
    assert 500 < (at_work.limit_left_s or 0) <= 600


def read_job(paths: RunPaths) -> str:
    return str(json.loads(paths.submission.read_text())["job_id"])


# How a job ended


def test_a_node_that_cannot_write_the_log_is_named(any_cluster: Cluster, root: Path) -> None:
    paths = make_run(root)
    job_id = any_cluster.submit("sleep 1", "--output=/nowhere/log", "--nodelist=n3")
    send(paths, job_id, cluster=name_of(any_cluster))

    view = see_ended(paths)

    assert (view.state, view.reason) == ("FAILED", "error")
    assert f"n3 could not write to {paths.submission_folder}" in str(view.error)


@pytest.mark.parametrize("begun", [False, True])
def test_a_job_that_fails_without_the_runs_word_is_failed(
    unbooked: Cluster, root: Path, begun: bool
) -> None:
    paths = make_run(root)
    carry(unbooked, paths, "exit 3", at_work=begun)

    view = see_ended(paths)

    assert (view.state, view.reason) == ("FAILED", "error")
    assert "n1" in str(view.error)


def test_accounting_tells_the_exit_code(cluster: Cluster, root: Path) -> None:
    paths = make_run(root)
    carry(cluster, paths, "exit 3")

    wait_until(lambda: "exit code 3" in str(see(paths).error), seconds=30)


def test_accounting_tells_memory_asked_and_used(cluster: Cluster, root: Path) -> None:
    paths = make_run(root)
    hungry = "python3 -c 'import time; x = bytearray(600_000_000); time.sleep(60)'"
    carry(cluster, paths, hungry, "--mem=100", at_work=True)

    wait_until(lambda: see(paths).reason == "out_of_memory", seconds=60)

    told = re.search(r"its limit of 0.0977 GiB, at ([\d.]+) GiB", str(see(paths).error))
    assert told is not None
    # It is killed while it grows.
    assert 0.0977 < float(told[1]) < 0.7


@pytest.mark.slow
def test_a_time_limit_that_killed_is_told(any_cluster: Cluster, root: Path) -> None:
    paths = make_run(root)
    carry(any_cluster, paths, "sleep 600", "--time=0:01", at_work=True)

    assert see_ended(paths, seconds=240).reason == "time_limit"


def test_a_job_that_slurm_forgot_has_vanished(unbooked: Cluster, root: Path) -> None:
    paths = make_run(root)
    send(paths, "424242", cluster=name_of(unbooked))
    begin(unbooked, paths, "424242", silent_s=3600)

    view = see(paths)

    assert (view.state, view.reason) == ("FAILED", "vanished")


def test_a_lost_node_is_told_until_the_run_goes_on(any_cluster: Cluster, root: Path) -> None:
    paths = make_run(root)
    job_id = carry(any_cluster, paths, "sleep 600", "--nodelist=n4", at_work=True)
    once = any_cluster.submit("sleep 600", "--nodelist=n4", "--no-requeue")
    any_cluster.wait_for(job_id, "RUNNING")
    any_cluster.wait_for(once, "RUNNING")

    any_cluster.run("kill", "n4")
    try:
        any_cluster.wait_for(job_id, "PENDING", seconds=90)
        any_cluster.wait_for(once, "NODE_FAIL")
        view = see(paths)
    finally:
        any_cluster.run("revive", "n4")

    assert view.state == "REQUEUED"
    # Without accounting nobody knows why.
    known = name_of(any_cluster) == "booked"
    assert view.reason == ("node_failure" if known else "vanished")


# Clusters and copies


def test_a_run_of_another_cluster_keeps_its_state_with_its_last_sign(
    unbooked: Cluster, root: Path
) -> None:
    paths = make_run(root)
    send(paths, "1", cluster="beta")

    view = see(paths)

    assert (view.state, view.is_over) == ("CREATED", False)
    assert "on the cluster beta" in str(view.note)


def test_a_copy_does_not_take_the_jobs_state_for_its_own(unbooked: Cluster, root: Path) -> None:
    paths = make_run(root)
    carry(unbooked, paths, "sleep 60", "--hold", at_work=True)
    copied = RunPaths(shutil.copytree(root, root.with_name("copied")) / "tiny" / paths.run_id)

    assert see(paths).state == "REQUEUED"
    view = see(copied)
    assert (view.state, view.note) == (
        "RUNNING",
        f"last sign of life 2 min ago, a copy of {paths.root}",
    )


def test_without_an_answer_of_slurm_nothing_is_guessed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    paths = make_run(root, told=status("RUNNING", [attempt(slurm_job_id="7")], silent_s=7200))
    send(paths, "7")

    view = see(paths)

    assert (view.state, view.is_over) == ("RUNNING", False)
    assert "last sign of life 2 h ago" in str(view.note)
    assert "Slurm does not answer" in str(view.note)


# Cancelling and waiting


def test_cancel_ends_jobs_and_tells_them_from_lost_ones(any_cluster: Cluster, root: Path) -> None:
    runs = [make_run(root, number) for number in (1, 2)]
    carry(any_cluster, runs[0], "sleep 60", "--hold")
    carry(any_cluster, runs[1], "sleep 60", at_work=True)
    any_cluster.wait_for(read_job(runs[1]), "RUNNING")
    sweep = make_sweep(root, runs)

    done = any_cluster.dnnjob("cancel", sweep)

    assert done.returncode == 0, done.stderr
    assert "Asked 2 runs to stop" in done.stderr
    for paths in runs:
        view = see_ended(paths)
        assert (view.state, view.reason) == ("CANCELLED", "cancelled")
        assert read_cancel(paths) is not None


def test_cancelling_one_point_spares_its_neighbours_in_the_same_task(
    unbooked: Cluster, root: Path
) -> None:
    runs = [make_run(root, number) for number in (1, 2)]
    sweep = make_sweep(root, runs)
    job_id = unbooked.submit("sleep 60")
    for paths in runs:
        folder = os.path.relpath(sweep / "submission", paths.root)
        send(paths, job_id, cluster=name_of(unbooked), sweep_id=sweep.name, folder=folder)
    unbooked.wait_for(job_id, "RUNNING")

    unbooked.dnnjob("cancel", runs[0].root)
    assert (runs[0].cancel.exists(), runs[1].cancel.exists()) == (True, False)
    assert unbooked.state(job_id) == "RUNNING"

    unbooked.dnnjob("cancel", runs[1].root)
    unbooked.wait_for(job_id, "CANCELLED")


def test_a_job_id_of_another_cluster_is_not_cancelled_here(unbooked: Cluster, root: Path) -> None:
    job_id = unbooked.submit("sleep 60")
    paths = make_run(root)
    send(paths, job_id, cluster="beta")

    done = unbooked.dnnjob("cancel", paths.root)

    assert f"end it there with `scancel {job_id}`" in done.stderr
    assert unbooked.state(job_id) in ("PENDING", "RUNNING")


def test_wait_ends_with_the_worst_of_a_sweep(unbooked: Cluster, root: Path) -> None:
    done = make_run(root, 1, status("COMPLETED"))
    fails = make_run(root, 2)
    carry(unbooked, fails, "sleep 1; exit 3")
    sweep = make_sweep(root, [done, fails])

    waited = unbooked.dnnjob("wait", sweep)

    assert waited.returncode == 1, waited.stderr
    assert "1 COMPLETED" in waited.stderr
    assert "1 FAILED" in waited.stderr


# The price


def test_status_of_200_runs_calls_each_slurm_command_once_within_2_s(
    cluster: Cluster, root: Path, calls: Path
) -> None:
    array = cluster.submit("sleep 600", "--array=0-99", "--hold")
    ended = cluster.submit("exit 1", "--array=0-7")
    name = name_of(cluster)
    for number in range(200):
        paths = make_run(root, number)
        if number < 100:
            send(paths, f"{array}_{number}", cluster=name)
        elif number < 108:
            send(paths, f"{ended}_{number - 100}", cluster=name)
        else:
            paths.status.write_text(status("COMPLETED").model_dump_json())
    wait_until(lambda: cluster.state(f"{ended}_7") == "FAILED", seconds=120)
    calls.write_text("")

    seconds, processor_s, done = min(
        (measure(cluster, "status", root, "--json") for _ in range(3)), key=itemgetter(1)
    )

    assert done.returncode == 0, done.stderr
    views = json.loads(done.stdout)
    assert Counter(view["state"] for view in views) == {
        "CREATED": 100,
        "FAILED": 8,
        "COMPLETED": 92,
    }
    assert set(Counter(calls.read_text().split()).values()) == {3}
    print(f"{seconds:.2f} s, of which {processor_s:.2f} s of processor time")
    # Other processes of the machine do not count into it.
    assert processor_s < 2


def measure(
    cluster: Cluster, *arguments: object
) -> "tuple[float, float, subprocess.CompletedProcess[str]]":
    """Seconds and processor seconds of a command with all its children, and what it said."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = cluster.dnnjob(*arguments)
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, spent, done


def test_what_slurm_hides_of_a_colleagues_run_is_not_its_death(cluster: Cluster) -> None:
    # Not pytest's folder, which is for its user alone.
    root = Path(tempfile.mkdtemp(prefix="dnnjob-shared-"))
    root.chmod(0o755)
    cluster.run("set", "PrivateData=jobs")
    try:
        paths = make_run(root)
        carry(cluster, paths, "sleep 60", at_work=True)

        (view,) = json.loads(see_as_nobody(cluster, "status", root, "--json"))

        assert (view["state"], view["asked"]) == ("RUNNING", "unknown")
        assert "which Slurm does not show here" in view["note"]
        assert see(paths).asked == "slurm"
    finally:
        cluster.run("set", "PrivateData=")
        shutil.rmtree(root)
