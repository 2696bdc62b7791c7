"""Runs that a host submits to Slurm and a container computes; podman stands in for Apptainer."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dnnjob.results.report import read_report as load_report
from tests.container.conftest import IMAGE, Podman
from tests.slurm.clusters import Cluster, missing_programs, started_cluster
from tests.slurm.submitted import hold, make_reference, read_attempts, submit, wait_for_end

pytestmark = [
    pytest.mark.container,
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.timeout(2400),
]

# As Apptainer does it: the caller's processes, network and environment, an image that is read-only.
STAND_IN = """#!/bin/sh
[ "$1" = exec ] || exit 2
shift
volumes=
while :; do
    case $1 in
    --nv) shift ;;
    --bind) volumes="$volumes --volume $2:$2"; shift 2 ;;
    *) break ;;
    esac
done
export CONTAINERS_CONF={CONTAINERS_CONF} CONTAINERS_STORAGE_CONF={CONTAINERS_STORAGE_CONF}
exec podman run --rm --read-only --network host --pid host --env-host --user "$(id -u):$(id -g)" \\
    $volumes --entrypoint "" "$@"
"""


@pytest.fixture
def apptainer(podman: Podman, tmp_path: Path) -> Path:
    """A command that takes what `apptainer exec` takes."""
    path = tmp_path / "apptainer"
    path.write_text(STAND_IN.format_map(podman.environ))
    path.chmod(0o755)
    return path


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    if missing := missing_programs(accounting=False):
        reason = f"Slurm is not installed here: {', '.join(missing)}; .ci/run installs it"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with started_cluster("--name=contained") as cluster:
        for key, value in cluster.environ.items():
            monkeypatch.setenv(key, value)
        yield cluster
        cluster.clear()


def test_a_run_in_a_container_survives_a_preemption_and_is_collected_outside(
    cluster: Cluster, apptainer: Path, tmp_path: Path
) -> None:
    reference = make_reference(tmp_path / "reference")
    paths = submit(
        cluster,
        reference.job,
        tmp_path,
        partition="graceful",
        container=f"{apptainer} exec --nv --bind {tmp_path} {IMAGE}",
        python="/opt/dnnjob/bin/python",
        setup=["unset PYTHONPATH PYTHONHOME"],
    )
    hold(paths)
    cluster.preempt()
    wait_for_end(cluster, paths, seconds=600)

    reference.check(paths)
    assert [attempt.reason for attempt in read_attempts(paths)] == ["preempted", None]
    assert read_attempts(paths)[1].resumed_from is not None
    image = load_report(paths.report).provenance.image
    assert image is not None
    assert image.target == "cpu"
    collected = json.loads(cluster.dnnjob("collect", tmp_path / "runs", "--json").stdout)
    assert [line["state"] for line in collected] == ["COMPLETED"]
