"""Runs on Slurm's nodes come to what the same runs come to here."""

import re
import tomllib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from dnnjob.runs import RunPaths
from tests.conftest import CHECKOUT, Command, WriteJob
from tests.slurm.clusters import Cluster
from tests.slurm.submitted import (
    job_id,
    read_predictions,
    read_report,
    submit,
    wait_for_end,
    write_profile,
)

pytestmark = [pytest.mark.slurm, pytest.mark.long]


@pytest.fixture(scope="session")
def local_housing(
    tmp_path_factory: pytest.TempPathFactory, shared_data: Path, dnnjob: Command
) -> tuple[RunPaths, list[str]]:
    """The reference job, run here, and the words that make it so."""
    words = [
        f"data.source={shared_data / 'housing.csv'}",
        "devices.kind=cpu",
        "output.plots=false",
        "train.epochs=50",
    ]
    root = tmp_path_factory.mktemp("housing")
    done = dnnjob("run", CHECKOUT / "jobs" / "housing.toml", *words, "--root", root)
    assert done.returncode == 0, done.stderr
    return RunPaths(Path(done.stdout.strip())), words


@pytest.mark.timeout(600)
def test_the_reference_job_ends_in_the_bits_of_the_local_run(
    cluster: Cluster, local_housing: tuple[RunPaths, list[str]], tmp_path: Path
) -> None:
    local, words = local_housing

    job = CHECKOUT / "jobs" / "housing.toml"
    paths = submit(cluster, job, tmp_path, words=words, cpus_per_task=2)
    wait_for_end(cluster, paths)

    np.testing.assert_array_equal(read_predictions(paths), read_predictions(local))
    report = read_report(paths)
    assert report["strategy"] == read_report(local)["strategy"]
    assert report["provenance"]["attempts"][0]["slurm_job_id"] == job_id(paths)
    threads = tomllib.loads(paths.job.read_text())["devices"]["threads"]
    assert threads == report["strategy"]["threads"]


@pytest.mark.timeout(600)
def test_two_nodes_are_one_run_of_two_tasks(
    unbooked: Cluster, write_job: WriteJob, dnnjob: Command, tmp_path: Path
) -> None:
    job = write_job(train={"epochs": 30}, devices={"threads": 1})
    alone = dnnjob("run", job, "--root", tmp_path / "alone")
    assert alone.returncode == 0, alone.stderr

    paths = submit(unbooked, job, tmp_path, nodes=2)
    nodes = unbooked.ask("squeue", "-h", "-t", "all", "-j", job_id(paths), "-o", "%D")
    wait_for_end(unbooked, paths)

    assert nodes == "2"
    report = read_report(paths)
    assert (report["strategy"]["num_tasks"], report["strategy"]["num_replicas"]) == (2, 2)
    mine, theirs = read_losses(paths), read_losses(RunPaths(Path(alone.stdout.strip())))
    np.testing.assert_allclose(mine, theirs, rtol=1e-5)
    assert list((tmp_path / "runs" / "tiny").iterdir()) == [paths.root]
    logs = "".join(path.read_text() for path in paths.logs.iterdir())
    assert "2 tasks: " in logs


def test_a_run_submitted_from_inside_a_job_gets_what_its_own_profile_asks_for(
    cluster: Cluster, write_job: WriteJob, tmp_path: Path
) -> None:
    job, profile = write_job(devices={"threads": 0}), write_profile(tmp_path, cpus_per_task=1)
    command = f"{CHECKOUT}/.venv/bin/dnnjob submit {job} --profile {profile} --root {tmp_path}/runs"

    # The outer job has other tasks, memory, CPUs and a name, all of them in its environment.
    outer = cluster.submit(
        f"{command} > {tmp_path}/said",
        "--ntasks=2",
        "--cpus-per-task=2",
        "--nodes=2",
        "--mem=2G",
        "--job-name=outer",
        "--time=5",
    )
    cluster.wait_for(outer, "COMPLETED")
    paths = RunPaths(Path((tmp_path / "said").read_text().strip()))
    told = cluster.ask("scontrol", "-o", "show", "job", job_id(paths))
    wait_for_end(cluster, paths)

    assert "JobName=tiny" in told
    assert re.search(r" NumNodes=1(-1)? ", told)
    assert "TimeLimit=00:10:00" in told
    assert re.search(r"MinMemoryNode=(1536M|1.50G) ", told)
    strategy = read_report(paths)["strategy"]
    assert (strategy["threads"], strategy["num_tasks"]) == (1, 1)


@pytest.mark.timeout(600)
def test_what_runs_is_the_job_as_it_was_sent_also_under_paths_that_a_shell_stumbles_over(
    unbooked: Cluster, write_job: WriteJob, tmp_path: Path
) -> None:
    folder = tmp_path / "a root & 'more' $HOME"
    folder.mkdir()
    job = write_job(train={"epochs": 7})
    paths = submit(unbooked, job, folder, sbatch_options={"begin": "now+1hour"})

    job.write_text(job.read_text().replace("epochs = 7", "epochs = 9"))
    unbooked.ask("scontrol", "update", f"JobId={job_id(paths)}", "StartTime=now")
    wait_for_end(unbooked, paths)

    assert "epochs = 9" in job.read_text()
    assert read_report(paths)["training"]["epochs"] == 7
    assert list(paths.submission_folder.glob("*_turn.txt"))


def read_losses(paths: RunPaths) -> np.ndarray:
    return pq.read_table(paths.history)["loss"].to_numpy()
