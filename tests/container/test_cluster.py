"""Runs that a host submits to Slurm and a container computes; podman stands in for Apptainer."""

import json
import os
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from dnnjob.results.report import read_report as load_report
from dnnjob.runs import RunPaths
from tests.conftest import CHECKOUT
from tests.container.conftest import IMAGE, Podman
from tests.slurm.clusters import Cluster, lend, missing_programs, started_cluster
from tests.slurm.submitted import (
    Reference,
    hold,
    make_reference,
    read_attempts,
    submit,
    wait_for_end,
    write_profile,
)

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

# Pyxis adds options to srun, and has its task start in the container that they name.
PYXIS = """#!/bin/bash
kept=()
while :; do
    case $1 in
    --output | --error) kept+=("$1" "$2"); shift ;;
    --container-image=*) image=${1#*=} ;;
    --container-mounts=*) mount=${1#*=} ;;
    --no-container-mount-home | --no-container-entrypoint) ;;
    -*) kept+=("$1") ;;
    *) break ;;
    esac
    shift
done
exec SRUN "${kept[@]}" APPTAINER exec --bind "${mount%%:*}" "$image" "$@"
"""


@pytest.fixture
def apptainer(podman: Podman, tmp_path: Path) -> Path:
    """A command that takes what `apptainer exec` takes."""
    path = tmp_path / "apptainer"
    path.write_text(STAND_IN.format_map(podman.environ))
    path.chmod(0o755)
    return path


@pytest.fixture
def pyxis(apptainer: Path, tmp_path: Path) -> Path:
    """A folder for the PATH with an srun that takes pyxis's options."""
    path = tmp_path / "bin" / "srun"
    path.parent.mkdir()
    real = str(shutil.which("srun"))
    path.write_text(PYXIS.replace("SRUN", real).replace("APPTAINER", str(apptainer)))
    path.chmod(0o755)
    return path.parent


@pytest.fixture
def other_python(tmp_path: Path) -> Path:
    """An interpreter of another version than the image's, with what a login node needs."""
    for interpreter in find_other_pythons():
        made = subprocess.run(
            [interpreter, "-m", "venv", "--clear", tmp_path / "other"],
            capture_output=True,
            check=False,
        )
        if made.returncode == 0:
            python = tmp_path / "other" / "bin" / "python"
            project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
            pip = [python, "-m", "pip", "install", "--quiet", "--no-compile", "--prefer-binary"]
            # Who submits draws nothing.
            needed = [
                name
                for name in project["dependencies"]
                if not name.startswith(("matplotlib", "seaborn"))
            ]
            subprocess.run([*pip, *needed], check=True)
            return python
    pytest.skip("needs Python 3.12 or 3.13, to submit with")


def find_other_pythons() -> Iterator[Path]:
    """Interpreters of other versions than the image's; pyenv's commands may lead nowhere."""
    for name in ("python3.13", "python3.12"):
        yield from sorted(Path.home().glob(f".pyenv/versions/*/bin/{name}"))
        if found := shutil.which(name):
            yield Path(found)


@pytest.fixture(scope="module")
def contained() -> Iterator[Cluster]:
    if missing := missing_programs(accounting=False):
        reason = f"Slurm is not installed here: {', '.join(missing)}; .ci/run installs it"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with started_cluster("--name=contained") as cluster:
        yield cluster


@pytest.fixture
def cluster(contained: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    yield from lend(contained, monkeypatch)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return make_reference(tmp_path_factory.mktemp("reference"))


def test_a_run_in_a_container_survives_a_preemption_and_is_collected_outside(
    cluster: Cluster, apptainer: Path, reference: Reference, tmp_path: Path
) -> None:
    paths = submit(
        cluster,
        reference.job,
        tmp_path,
        partition="graceful",
        container=f"{apptainer} exec --nv --bind {tmp_path.parent} {IMAGE}",
        python="/opt/dnnjob/bin/python",
        setup=["unset PYTHONPATH PYTHONHOME"],
    )
    hold(paths)
    cluster.preempt()
    wait_for_end(cluster, paths)

    reference.check(paths)
    assert [attempt.reason for attempt in read_attempts(paths)] == ["preempted", None]
    assert read_attempts(paths)[1].resumed_from is not None
    image = load_report(paths.report).provenance.image
    assert image is not None
    assert image.target == "cpu"
    collected = json.loads(cluster.dnnjob("collect", tmp_path / "runs", "--json").stdout)
    assert [line["state"] for line in collected] == ["COMPLETED"]


def test_another_python_submits_to_pyxis(
    cluster: Cluster, pyxis: Path, other_python: Path, reference: Reference, tmp_path: Path
) -> None:
    shipped = tomllib.loads((CHECKOUT / "slurm" / "pyxis.toml").read_text())
    options = [
        option.replace("/scratch/images/dnnjob.sqsh", IMAGE).replace(
            "/scratch", str(tmp_path.parent)
        )
        for option in shipped["srun_options"]
    ]
    profile = write_profile(
        tmp_path,
        srun_options=options,
        python=shipped["python"],
        setup=[*shipped["setup"], f'export PATH="{pyxis}:$PATH"'],
    )
    done = subprocess.run(
        [
            *(other_python, "-m", "dnnjob", "submit", reference.job),
            *("--profile", profile, "--root", tmp_path / "runs"),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **cluster.environ, "PYTHONPATH": str(CHECKOUT)},
    )
    assert done.returncode == 0, done.stderr
    paths = RunPaths(Path(done.stdout.strip()))
    wait_for_end(cluster, paths)

    reference.check(paths)
    provenance = load_report(paths.report).provenance
    assert provenance.image is not None
    assert provenance.python.startswith("3.11.")
