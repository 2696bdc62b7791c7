"""What submitit and Slurm do by themselves, and jobs of ours must not."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dnnjob.runs import RunPaths
from tests.conftest import WriteJob
from tests.slurm.clusters import Cluster
from tests.slurm.submitted import job_id, submit, write_profile

pytestmark = [pytest.mark.slurm, pytest.mark.long]
LATER = {"sbatch_options": {"begin": "now+1hour"}}


@pytest.fixture
def strict(unbooked: Cluster) -> Iterator[Cluster]:
    """A cluster on which only jobs that ask for it are ever queued anew."""
    unbooked.run("set", "JobRequeue=0")
    yield unbooked
    unbooked.run("set", "JobRequeue=1")


def test_a_job_has_its_profiles_limit_and_may_be_queued_anew_where_that_must_be_asked_for(
    strict: Cluster, write_job: WriteJob, tmp_path: Path
) -> None:
    plain = strict.submit("true", "--hold")
    paths = submit(strict, write_job(), tmp_path, time_limit_min=123, **LATER)
    script = "".join(path.read_text() for path in submitted_files(paths, "*.sh"))

    assert "Requeue=0" in show(strict, plain)
    assert "Requeue=1" in show(strict, job_id(paths))
    assert "TimeLimit=02:03:00" in show(strict, job_id(paths))
    assert "#SBATCH --signal=USR2@30\n" in script
    assert "USR2@90" not in script


def test_no_key_for_accounting_is_named_that_nobody_asked_for(
    unbooked: Cluster, write_job: WriteJob, tmp_path: Path
) -> None:
    profile = write_profile(tmp_path)

    done = unbooked.dnnjob("submit", write_job(), "--profile", profile, "--dry-run", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "#SBATCH --time=10\n" in done.stdout
    assert "wckey" not in done.stdout
    assert "--cpus-per-task=1 " in next(
        line for line in done.stdout.splitlines() if line.startswith("srun ")
    )
    assert not (tmp_path / "runs").exists()
    assert unbooked.ask("squeue", "-h") == ""


def test_a_job_is_held_until_its_run_says_which_job_it_is_and_its_files_are_its_own(
    unbooked: Cluster, write_job: WriteJob, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    look = f"squeue -h -o %r >> {seen}; find {tmp_path} -name submission.json >> {seen}"
    fake = tmp_path / "bin" / "scontrol"
    fake.parent.mkdir()
    fake.write_text(
        f'#!/bin/sh\n[ "$1" != release ] || {{ {look}; }}\nexec {shutil.which("scontrol")} "$@"\n'
    )
    fake.chmod(0o755)
    path = f"{fake.parent}:{os.environ['PATH']}"

    paths = submit(unbooked, write_job(), tmp_path, environ={"PATH": path}, **LATER)

    assert seen.read_text().splitlines() == ["JobHeldUser", str(paths.submission)]
    assert "Priority=0 " not in show(unbooked, job_id(paths))
    (pickle,) = submitted_files(paths, "*.pkl")
    assert pickle.name.startswith(f"{job_id(paths)}_")


def show(cluster: Cluster, job: str) -> str:
    return cluster.ask("scontrol", "-o", "show", "job", job)


def submitted_files(paths: RunPaths, pattern: str) -> list[Path]:
    return sorted(paths.submission_folder.glob(pattern))
