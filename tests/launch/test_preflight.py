"""What is found out about a job before anything is queued, as far as no cluster is needed."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from dnnjob import slurm
from dnnjob.config import ProfileConfig, load_job, make_points, resolve_profile
from dnnjob.errors import DataError, JobError
from dnnjob.launch import preflight as preflight_module
from dnnjob.launch.lane_plan import PointNeeds
from dnnjob.launch.preflight import Preflight, check_before
from tests.conftest import WriteJob, make_frame

ONE_CORE = [PointNeeds(cores=1, kind="")]


def local(**values: object) -> ProfileConfig:
    return resolve_profile({"executor": "local", **values}, origin="test")


def on_slurm(**values: object) -> ProfileConfig:
    return resolve_profile({"executor": "slurm", "time_limit_min": 30, **values}, origin="test")


def check(job: Path, profile: ProfileConfig, *, force: bool = False, **facts: bool) -> Preflight:
    return check_before(make_points(load_job(job)), profile, root=job.parent, force=force, **facts)


def test_a_small_table_tells_memory_and_time(write_job: WriteJob) -> None:
    preflight = check(write_job(), local())

    assert preflight.memory_bytes is not None
    assert 5e8 < preflight.memory_bytes < 2e9
    seconds = preflight.seconds_a_point(ONE_CORE)
    assert seconds is not None
    assert 1 < seconds < 60
    assert preflight.most_tasks is None


def test_more_work_is_reckoned_to_take_longer(write_job: WriteJob) -> None:
    brief = check(write_job(), local()).seconds_a_point(ONE_CORE)
    wide = write_job(model={"hidden_units": [2000, 2000]}, train={"epochs": 1000})
    long = check(wide, local()).seconds_a_point(ONE_CORE)

    assert brief is not None
    assert long is not None
    assert long > 3 * brief


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"data": {"target": "z"}}, "has no column 'z'"),
        ({"data": {"source": "gone.csv"}}, "There is no file"),
        ({"data": {"features": ["rooms", "nope"]}}, "has no column"),
    ],
)
def test_a_table_that_cannot_be_trained_on_is_refused(
    write_job: WriteJob, sections: dict[str, dict[str, object]], told: str
) -> None:
    with pytest.raises(DataError, match=told):
        check(write_job(**sections), local())


def test_too_few_rows_for_the_split_are_refused(write_job: WriteJob) -> None:
    with pytest.raises(DataError):
        check(write_job(make_frame(2)), local())


def test_every_table_of_a_sweep_is_looked_at(write_job: WriteJob, tmp_path: Path) -> None:
    job = write_job(sweep={"data.source": ["table.csv", "other.csv"]})
    make_frame().drop(columns="y").to_csv(tmp_path / "other.csv", index=False)

    with pytest.raises(DataError, match=r"other\.csv has no column 'y'"):
        check(job, local())


def test_of_a_large_table_only_the_columns_are_read(
    write_job: WriteJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight_module, "MAX_READ_BYTES", 1000)
    monkeypatch.setattr(preflight_module, "hold_table", lambda data: 1 / 0)

    assert check(write_job(), local()) == Preflight()
    with pytest.raises(DataError, match="has no column 'z'"):
        check(write_job(data={"target": "z"}), local())


def test_files_of_test_rows_count_too(
    write_job: WriteJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_frame(2000).to_csv(tmp_path / "test.csv", index=False)
    job = write_job(data={"split": "files", "test_source": "test.csv"})
    size = (tmp_path / "test.csv").stat().st_size
    monkeypatch.setattr(preflight_module, "MAX_READ_BYTES", size)

    assert check(job, local()).memory_bytes is None


def test_a_compressed_table_counts_as_what_it_unpacks_to(
    write_job: WriteJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = write_job(data={"source": "table.csv.gz"})
    pd.concat([make_frame()] * 20).to_csv(tmp_path / "table.csv.gz", index=False)
    size = (tmp_path / "table.csv.gz").stat().st_size

    monkeypatch.setattr(preflight_module, "MAX_READ_BYTES", 2 * size)

    assert check(job, local()).memory_bytes is None


def test_a_job_that_needs_a_gpu_is_refused_where_none_is_asked_for(write_job: WriteJob) -> None:
    job = write_job(devices={"kind": "gpu"})

    with pytest.raises(JobError, match=r"asks for none\. Set profile\.gpus_per_node=1"):
        check(job, on_slurm(), dry_run=True)
    check(job, on_slurm(gpus_per_node=1), dry_run=True)


@pytest.mark.parametrize(
    ("profile", "told"),
    [
        ({"memory_gb": 0.1}, "memory_gb = 0.1. Set profile.memory_gb=2"),
        ({"warning_lead_s": 10}, "Set profile.warning_lead_s=16 or more"),
    ],
)
def test_what_may_not_work_needs_force(
    write_job: WriteJob,
    profile: dict[str, float],
    told: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preflight_module, "_ask_slurm", lambda *_, **__: ("here", None, []))
    job = write_job()

    with pytest.raises(JobError, match="--force submits it") as caught:
        check(job, on_slurm(**profile))
    check(job, on_slurm(**profile), force=True)

    assert told in str(caught.value)
    assert told in caplog.text


def test_a_dry_run_needs_no_slurm(write_job: WriteJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    assert check(write_job(), on_slurm(), dry_run=True).site is None


def test_the_login_node_is_left_its_threads(write_job: WriteJob) -> None:
    job = write_job()
    code = (
        "import sys; from pathlib import Path; import pyarrow as pa;"
        "from dnnjob.config import *; from dnnjob.launch.preflight import check_before;"
        "points = make_points(load_job(Path(sys.argv[1])));"
        "check_before(points, resolve_profile({'executor': 'local'}, origin=''), root=Path('/'));"
        "print(pa.cpu_count(), pa.io_thread_count(), 'tensorflow' in sys.modules)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, str(job)], capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == ["2", "2", "False"]


# What the clusters of tests/slurm do not have


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, slurm.Partition]:
    """A cluster of two nodes elsewhere; its partitions may be changed."""
    partition = slurm.Partition(
        name="long",
        is_default=True,
        is_up=True,
        limit_min=None,
        max_nodes=None,
        qos="",
        accounts=(),
    )
    node = slurm.Node(
        name="a1",
        host="a1.example.org",
        cpus=4,
        memory_mb=8192,
        gpus=0,
        partitions=("long",),
    )
    partitions = {"long": partition}
    monkeypatch.setattr(slurm, "show_config", lambda: {"ClusterName": "far", "MaxArraySize": "11"})
    monkeypatch.setattr(slurm, "list_partitions", lambda: partitions)
    monkeypatch.setattr(slurm, "list_nodes", lambda: {"a1": node, "a2": replace(node, name="a2")})
    monkeypatch.setattr(slurm, "find_room", lambda *_, **__: None)
    return partitions


def send(job: Path, root: Path, **profile: object) -> Preflight:
    return check_before(make_points(load_job(job)), on_slurm(**profile), root=root)


def test_a_root_on_the_clusters_storage_passes(
    cluster: dict[str, slurm.Partition], write_job: WriteJob
) -> None:
    preflight = send(write_job(), Path("/scratch/me/runs"))

    assert preflight.site == slurm.Site("far", kill_wait_s=30)


@pytest.mark.parametrize("root", ["/tmp/runs", "/dev/shm/runs", "/var/tmp/runs"])
def test_a_root_that_only_this_machine_sees_needs_force(
    cluster: dict[str, slurm.Partition], write_job: WriteJob, root: str
) -> None:
    with pytest.raises(JobError, match=r"only this machine sees.*Set --root"):
        send(write_job(), Path(root))


@pytest.mark.parametrize("root", ["/scratch/100%j", "/scratch/a\\b"])
def test_a_root_with_a_sign_of_slurms_is_refused(
    cluster: dict[str, slurm.Partition], write_job: WriteJob, root: str
) -> None:
    with pytest.raises(JobError, match="for a sign of its own"):
        send(write_job(), Path(root))


@pytest.mark.parametrize(
    ("partition", "profile", "told"),
    [
        ({"is_up": False}, {}, "closed for now"),
        ({"limit_min": 10}, {}, "Set profile.time_limit_min=10 or less"),
        ({"max_nodes": 1}, {"nodes": 2}, "Lower profile.nodes"),
        ({"accounts": ("rich",)}, {"account": "poor"}, "not for the account poor"),
        ({"is_default": False}, {}, "no default partition.*one of: long"),
    ],
)
def test_what_a_partition_may_not_take_is_told(
    cluster: dict[str, slurm.Partition],
    write_job: WriteJob,
    partition: dict[str, object],
    profile: dict[str, object],
    told: str,
) -> None:
    cluster["long"] = replace(cluster["long"], **partition)  # type: ignore[arg-type]

    with pytest.raises(JobError, match=told):
        send(write_job(), Path("/scratch"), **profile)


@pytest.mark.parametrize(("room", "most"), [(None, 11), (6, 6), (97, 11)])
def test_a_sweep_has_no_more_tasks_than_may_be_queued(
    cluster: dict[str, slurm.Partition],
    write_job: WriteJob,
    monkeypatch: pytest.MonkeyPatch,
    room: int | None,
    most: int,
) -> None:
    found = None if room is None else slurm.SubmitLimit(100, "the QOS few", room=room)
    monkeypatch.setattr(slurm, "find_room", lambda *_, **__: found)

    preflight = send(write_job(sweep={"seed": [0, 1]}), Path("/scratch"))

    assert preflight.most_tasks == most


def test_a_full_queue_is_told_with_whose_limit_it_is(
    cluster: dict[str, slurm.Partition], write_job: WriteJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = slurm.SubmitLimit(3, "the QOS few", room=0)
    monkeypatch.setattr(slurm, "find_room", lambda *_, **__: few)

    with pytest.raises(JobError, match=r"(?s)3 jobs in the queue by the QOS few.*--force"):
        send(write_job(sweep={"seed": [0, 1]}), Path("/scratch"))


@pytest.mark.parametrize(
    "options", [{"gpus": 1}, {"gpus-per-task": "a100:1"}, {"tres-per-task": "gres/gpu:1"}]
)
def test_gpus_asked_for_in_sbatchs_own_words_are_gpus(
    cluster: dict[str, slurm.Partition], write_job: WriteJob, options: dict[str, object]
) -> None:
    job = write_job(devices={"kind": "gpu"})

    send(job, Path("/scratch/me/runs"), sbatch_options=options)
    with pytest.raises(JobError, match="needs a GPU"):
        send(job, Path("/scratch/me/runs"), sbatch_options={"nice": 5})


def test_all_tables_together_are_read_within_the_login_nodes_share(
    write_job: WriteJob, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job = write_job(sweep={"data.missing": [["?"], ["-"]], "seed": [0, 1]})
    (source,) = {point.job.data.source for point in make_points(load_job(job))}
    monkeypatch.setattr(preflight_module, "MAX_READ_BYTES", 1.5 * Path(source).stat().st_size)

    with caplog.at_level("INFO"):
        preflight = check(job, local())

    assert caplog.text.count("too large to be checked here") == 1
    assert preflight.memory_bytes is not None
