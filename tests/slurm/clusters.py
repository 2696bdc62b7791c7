"""A real Slurm cluster for tests, and what they ask of it.

with started_cluster(accounting=True) as cluster:
    job_id = cluster.submit("sleep 1", "--partition=graceful")
    cluster.wait_for(job_id, "RUNNING")
"""

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from dnnjob.machine import process_key
from tests.conftest import CHECKOUT, run_command
from tests.waiting import wait_until

SCRIPT = CHECKOUT / "slurm" / "testcluster" / "cluster"
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch")
ACCOUNTING_PROGRAMS = ("slurmdbd", "mariadbd", "mariadb-install-db", "my_print_defaults")


@dataclass(frozen=True)
class Cluster:
    """A cluster that runs."""

    folder: Path

    @property
    def environ(self) -> dict[str, str]:
        """What makes Slurm's commands speak to it."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def ask(self, *command: object) -> str:
        """What a command prints that must succeed."""
        done = subprocess.run(
            [str(part) for part in command],
            env={**os.environ, **self.environ},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def count_queued(self) -> int:
        """How many jobs and array elements wait or run."""
        return len(self.ask("squeue", "--noheader", "--array").splitlines())

    def try_asking(self, *command: object) -> str:
        """The same of one that Slurm may refuse; empty where it does."""
        try:
            return self.ask(*command)
        except AssertionError:
            return ""

    def dnnjob(
        self, *arguments: object, cwd: Path | None = None, **environ: str
    ) -> "subprocess.CompletedProcess[str]":
        """Runs the real dnnjob on a login node of the cluster."""
        return run_command(*arguments, cwd=cwd, **{**self.environ, **environ})

    def submit(self, command: str, *options: str) -> str:
        """Submits a shell command; the job's id."""
        answer = self.ask("sbatch", "--parsable", "--output=/dev/null", *options, "--wrap", command)
        return answer.partition(";")[0]

    def state(self, job_id: str) -> str:
        """What squeue says; empty once the job is forgotten."""
        lines = self.ask("squeue", "-h", "-r", "-t", "all", "-o", "%i %T").splitlines()
        return dict(line.split() for line in lines).get(job_id, "")

    def wait_for(self, job_id: str, *states: str, seconds: float = 60) -> None:
        """Returns once the job is in one of the states."""
        wait_until(lambda: self.state(job_id) in states, seconds=seconds)

    def preempt(self, *, nodes: int = 4, seconds: int = 1) -> str:
        """A job that takes the place of what runs in the partitions of tier 1; its id."""
        options = ("--partition=urgent", f"--nodes={nodes}", "--exclusive")
        return self.submit(f"sleep {seconds}", *options)

    def run(self, verb: str, *arguments: str) -> None:
        """One of the cluster command's verbs on this cluster."""
        subprocess.run([SCRIPT, verb, self.folder, *arguments], check=True)

    def end_daemon(self, name: str) -> None:
        """Ends one daemon, which nothing starts again."""
        pid = self.signal_daemon(name, signal.SIGKILL)
        wait_until(lambda: process_key(pid) is None, seconds=10)

    def signal_daemon(self, name: str, number: signal.Signals) -> int:
        """Sends one daemon a signal; its process id."""
        daemons = json.loads((self.folder / "daemons.json").read_text())
        pid = int(daemons[name].partition("/")[0])
        os.kill(pid, number)
        return pid

    def clear(self) -> None:
        """Ends all jobs and returns once nothing of them is left."""
        self.ask("scancel", "--user", str(os.geteuid()))
        wait_until(lambda: not self.ask("squeue", "-h"), seconds=90)


def missing_programs(*, accounting: bool) -> list[str]:
    """What a cluster needs and this machine lacks."""
    needed = (*PROGRAMS, *(ACCOUNTING_PROGRAMS if accounting else ()))
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    return [program for program in needed if shutil.which(program, path=path) is None]


@contextmanager
def started_cluster(*options: str) -> Iterator[Cluster]:
    """A cluster that lives as long as the block; its logs stay if it does not start."""
    # Not pytest's folder: sockets need short paths, and slurmd one that every user may enter.
    folder = Path(tempfile.mkdtemp(prefix="dnnjob-slurm-"))
    folder.chmod(0o755)
    subprocess.run([SCRIPT, "start", *options, folder], check=True)
    try:
        yield Cluster(folder)
    finally:
        subprocess.run([SCRIPT, "stop", folder], check=True)
        shutil.rmtree(folder)


def lend(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Makes a cluster the one that Slurm's commands speak to, and empties its queue afterwards."""
    for key, value in cluster.environ.items():
        monkeypatch.setenv(key, value)
    yield cluster
    cluster.clear()
