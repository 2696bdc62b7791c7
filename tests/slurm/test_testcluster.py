"""The throw-away cluster itself."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.clusters import SCRIPT, Cluster, started_cluster
from tests.waiting import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.long]


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder where sockets have room: pytest's own has a long name beside other workers."""
    with tempfile.TemporaryDirectory(prefix="dnnjob-slurm-") as folder:
        yield Path(folder)


def test_jobs_run_on_every_node(cluster: Cluster) -> None:
    names = cluster.ask("srun", "--nodes=4", "printenv", "SLURMD_NODENAME").split()

    assert sorted(names) == ["n1", "n2", "n3", "n4"]


def test_accounting_remembers_jobs_where_it_was_asked_for(cluster: Cluster) -> None:
    job_id = cluster.submit("exit 3")

    wait_until(lambda: "FAILED|3:0" in _booked(cluster, job_id), seconds=30)
    # Its daemon may die and come back.
    cluster.end_daemon("slurmdbd")
    cluster.run("restart", "slurmdbd")
    assert "FAILED|3:0" in _booked(cluster, job_id)


def test_a_cluster_that_stops_leaves_no_process_behind_and_spares_its_neighbours(
    unbooked: Cluster, tmp_path: Path
) -> None:
    with started_cluster("--nodes=1", "--name=second") as second:
        folder = second.folder
        assert "second" in second.ask("scontrol", "show", "config")
        assert "bare" in unbooked.ask("scontrol", "show", "config")
        conf = second.folder.joinpath("slurm.conf").read_text()
        # Deaf to Slurm's SIGTERM, and out of its session.
        pid_file = tmp_path / "pid"
        second.submit(f"trap '' TERM; setsid sleep 4321 & echo $! > {pid_file}; wait")
        wait_until(pid_file.exists, seconds=30)
        assert _processes_of(folder)
        # It talks to the cluster, and is none of its jobs.
        with subprocess.Popen(["sleep", "60"], env={**os.environ, **second.environ}) as shell:
            second.run("stop")
            wait_until(lambda: _processes_of(folder) == [shell.pid], seconds=5)
            assert shell.poll() is None
            shell.send_signal(signal.SIGKILL)

    assert not folder.exists()
    assert "NodeName=n1" in conf
    assert "NodeName=n2" not in conf
    assert unbooked.ask("sinfo", "-h", "-o", "%D", "-p", "main") == "4"


def test_jobs_go_on_while_slurmctld_starts_anew(unbooked: Cluster) -> None:
    job_id = unbooked.submit("sleep 600")
    unbooked.wait_for(job_id, "RUNNING")

    unbooked.run("restart")

    assert unbooked.state(job_id) == "RUNNING"
    unbooked.ask("scancel", job_id)


def test_the_lines_of_env_let_a_shell_talk_to_the_cluster(unbooked: Cluster) -> None:
    told = subprocess.run(
        ["sh", "-c", f'eval "$({SCRIPT} env {unbooked.folder})" && sinfo -h -o %R'],
        env={key: value for key, value in os.environ.items() if key != "SLURM_CONF"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert set(told.stdout.split()) == {
        "main", "urgent", "graceful", "abrupt", "cancelled", "short",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "explains"),
    [
        (["env", "/tmp/nowhere"], "Start one with: cluster start /tmp/nowhere"),
        (["start", "/tmp/" + "long" * 30], "at most 68 characters"),
        (["start", "{running}"], "Stop it with: cluster stop"),
        (["kill", "{running}", "n9"], "n9 does not run"),
    ],
)
def test_a_wrong_command_says_what_to_do(
    arguments: list[str], explains: str, unbooked: Cluster
) -> None:
    filled = [argument.format(running=unbooked.folder) for argument in arguments]

    done = subprocess.run([SCRIPT, *filled], capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert explains in done.stderr
    assert not Path("/tmp", "long" * 30).exists()


def test_a_cluster_that_cannot_start_says_why_and_leaves_nothing(short_path: Path) -> None:
    command = [SCRIPT, "start", "--set", "SelectType=select/none_such", short_path]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "none_such" in done.stderr
    assert not _processes_of(short_path)


def test_a_missing_program_is_named_with_its_package(short_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "start", short_path],
        env={**os.environ, "PATH": "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert "needs sbatch" in done.stderr
    assert "slurm-client" in done.stderr


def _booked(cluster: Cluster, job_id: str) -> str:
    return cluster.ask("sacct", "-n", "-P", "-X", "-j", job_id, "-o", "State,ExitCode")


def _processes_of(folder: Path) -> list[int]:
    """Processes whose environment names the cluster, but for this one and its children."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            variables = (path / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"SLURM_CONF={folder}/slurm.conf".encode() in variables:
            found.append(int(path.name))
    return found
