"""Clusters of the tests: one with accounting, one without, each started when first asked for."""

import os
from collections.abc import Iterator

import pytest

from tests.slurm.clusters import Cluster, missing_programs, started_cluster


@pytest.fixture(scope="session")
def accounting_cluster() -> Iterator[Cluster]:
    _require(accounting=True)
    with started_cluster("--accounting", "--name=booked") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def bare_cluster() -> Iterator[Cluster]:
    _require(accounting=False)
    # Without the user's signal, a preemption begins with SIGTERM.
    with started_cluster("--name=bare", "--set=SlurmctldParameters=") as cluster:
        yield cluster


@pytest.fixture
def cluster(accounting_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster with accounting, whose queue is empty before and after."""
    yield from _lend(accounting_cluster, monkeypatch)


@pytest.fixture
def unbooked(bare_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster without accounting, whose queue is empty before and after."""
    yield from _lend(bare_cluster, monkeypatch)


@pytest.fixture(params=["booked", "bare"])
def any_cluster(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cluster]:
    """Each cluster in turn."""
    name = {"booked": "accounting_cluster", "bare": "bare_cluster"}[request.param]
    yield from _lend(request.getfixturevalue(name), monkeypatch)


def _lend(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    for key, value in cluster.environ.items():
        monkeypatch.setenv(key, value)
    yield cluster
    cluster.clear()


def _require(*, accounting: bool) -> None:
    if missing := missing_programs(accounting=accounting):
        reason = f"Slurm is not installed here: {', '.join(missing)}; .ci/run installs it"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
