"""A run over nodes that are apart: addresses, names, firewalls and cables of their own."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tomli_w

from dnnjob.runs import RunPaths, read_status
from tests.conftest import CHECKOUT, run_here
from tests.slurm.clusters import Cluster, missing_programs, started_cluster
from tests.waiting import wait_until

sys.path.insert(0, str(CHECKOUT / "slurm" / "testcluster"))
from network import why_no_network

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(missing_programs(accounting=False)), reason="Slurm is not installed"),
    pytest.mark.skipif(why_no_network() is not None, reason=str(why_no_network())),
]
PORTS = (50000, 50100)
JOB = {
    "name": "apart",
    "data": {"source": "table.csv", "target": "y"},
    "model": {"hidden_units": [32, 16]},
    "train": {"epochs": 4, "checkpoint_every_s": 1},
    "devices": {"kind": "cpu", "threads": 1, "port_range": list(PORTS)},
    "output": {"plots": False, "model": False},
}
PROFILE = {
    "executor": "slurm",
    "partition": "main",
    "nodes": 3,
    "cpus_per_task": 1,
    "memory_gb": 2,
    "time_limit_min": 20,
}
# What Slurm itself needs: its daemons and srun.
SLURM_PORTS = ("20000-32000", "60001-60100")


@pytest.fixture(scope="module")
def apart() -> Iterator[Cluster]:
    settings = ("--set=SrunPortRange=60001-60100", "--nodes=3", "--cpus=1")
    with started_cluster("--network", *settings) as cluster:
        yield cluster


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(300, 3))
    rows = [",".join(f"{v:.5f}" for v in (*row, row[0] * row[1])) for row in x]
    (tmp_path / "table.csv").write_text("\n".join(["a,b,c,y", *rows, ""]))
    (tmp_path / "job.toml").write_text(tomli_w.dumps(JOB))
    (tmp_path / "apart.toml").write_text(tomli_w.dumps(PROFILE))
    return tmp_path


def wall(cluster: Cluster, node: str, *ports: str) -> None:
    """A firewall that lets nothing in but Slurm and some ports."""
    passed = ", ".join((*SLURM_PORTS, *ports))
    rules = f"""
        flush ruleset
        table inet wall {{
          chain input {{
            type filter hook input priority 0; policy drop;
            iif lo accept
            ct state established,related accept
            tcp dport {{ {passed} }} accept
          }}
        }}
    """
    path = cluster.folder / f"wall-{node}.nft"
    path.write_text(rules)
    cluster.run("exec", node, "nft", "-f", str(path))


def submit(cluster: Cluster, folder: Path, *words: str) -> RunPaths:
    done = cluster.dnnjob(
        "submit", "job.toml", *words, "--profile=apart.toml", "--force", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return RunPaths(Path(done.stdout.strip()))


def test_three_nodes_that_hardly_find_each_other_train_as_one(
    apart: Cluster, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its own name means a network that leads nowhere, and nobody's name resolves on n3.
    dead_end = (
        "ip link add aaa type veth peer name aab; ip address add 192.168.77.1/24 dev aaa;"
        "ip link set aaa up; ip link set aab up; printf '192.168.77.1 n1\\n' > /etc/hosts"
    )
    apart.run("exec", "n1", "sh", "-c", dead_end)
    apart.run("exec", "n3", "sh", "-c", ": > /etc/hosts")
    for node in ("n1", "n2", "n3"):
        wall(apart, node, f"{PORTS[0]}-{PORTS[1]}")
        apart.run("cable", node, "--delay-ms", "25", "--loss", "0.005")

    paths = submit(apart, folder)
    wait_until(lambda: read_status(paths).state == "COMPLETED", seconds=150)

    monkeypatch.chdir(folder)
    alone = run_here(folder / "job.toml", root=folder / "alone")
    losses = [pq.read_table(run.history)["loss"].to_numpy() for run in (paths, alone)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    assert json.loads(paths.report.read_text())["strategy"]["num_tasks"] == 3
    for node in ("n1", "n2", "n3"):
        apart.run("cable", node, "--delay-ms", "0", "--loss", "0")


def test_nodes_that_a_firewall_keeps_apart_say_so_within_a_minute(
    apart: Cluster, folder: Path
) -> None:
    for node in ("n1", "n2", "n3"):
        wall(apart, node)

    paths = submit(apart, folder)
    wait_until(lambda: read_status(paths).error, seconds=90)

    error = read_status(paths).error or ""
    apart.clear()
    assert "from n" in error
    assert "task 0 on n1" in error
    assert "devices.port_range" in error


@pytest.mark.parametrize("for_ever", [False, True], ids=["for ten seconds", "for ever"])
def test_a_cable_that_is_pulled(apart: Cluster, folder: Path, for_ever: bool) -> None:
    for node in ("n1", "n2", "n3"):
        wall(apart, node, f"{PORTS[0]}-{PORTS[1]}")
    # Long enough to be met; the second attempt goes on from a checkpoint.
    paths = submit(apart, folder, "train.epochs=150")
    wait_until(lambda: (read_status(paths).progress.epoch or 0) > 3, seconds=150)

    apart.run("cable", "n2", "--plugged", "no")
    if for_ever:
        # Slurm may have noticed as well, and call it otherwise.
        wait_until(lambda: read_status(paths).state == "REQUEUED", seconds=120, every=1)
        error = read_status(paths).error or ""
        apart.clear()
        apart.run("cable", "n2", "--plugged", "yes")
        assert "task 1 on n2" in error
    else:
        time.sleep(10)
        apart.run("cable", "n2", "--plugged", "yes")
        wait_until(lambda: read_status(paths).state == "COMPLETED", seconds=200, every=1)
        assert len(read_status(paths).attempts) == 1
