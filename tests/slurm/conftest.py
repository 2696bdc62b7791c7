"""Clusters of the tests: one with accounting, one without, each started when first asked for."""

import os
from collections.abc import Iterator

import pytest

from tests.slurm.clusters import Cluster, lend, missing_programs, started_cluster
from tests.slurm.submitted import Reference, make_reference


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
    yield from lend(accounting_cluster, monkeypatch)


@pytest.fixture
def unbooked(bare_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster without accounting, whose queue is empty before and after."""
    yield from lend(bare_cluster, monkeypatch)


@pytest.fixture(params=["booked", "bare"])
def any_cluster(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cluster]:
    """Each cluster in turn."""
    name = {"booked": "accounting_cluster", "bare": "bare_cluster"}[request.param]
    yield from lend(request.getfixturevalue(name), monkeypatch)


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """The run that nobody disturbs, of which others are to have the bits."""
    return make_reference(tmp_path_factory.mktemp("reference"))


def _require(*, accounting: bool) -> None:
    if missing := missing_programs(accounting=accounting):
        reason = f"Slurm is not installed here: {', '.join(missing)}; .ci/run installs it"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
