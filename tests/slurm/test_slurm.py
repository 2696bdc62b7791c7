"""Slurm's commands and what they answer, on a real cluster."""

import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dnnjob import slurm
from dnnjob.errors import ExitCode, JobError, SlurmError
from dnnjob.slurm import submission
from tests.slurm.clusters import Cluster, started_cluster
from tests.waiting import wait_until


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90 * 60),
        ("03:04", 3 * 60 + 4),
        ("1:02:03", 3600 + 2 * 60 + 3),
        ("1-02:03:04", 26 * 3600 + 3 * 60 + 4),
        ("2-1", 49 * 3600),
        ("1-2:30", 26 * 3600 + 30 * 60),
        ("UNLIMITED", None),
        ("INVALID", None),
        ("", None),
    ],
)
def test_durations_are_read_as_slurm_writes_them(text: str, seconds: int | None) -> None:
    assert slurm.parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("line", "elements"),
    [
        ("5", ["5"]),
        ("5_7", ["5_7"]),
        ("5_[1-3,7%2]", ["5_1", "5_2", "5_3", "5_7"]),
        ("5_[0-8:4]", ["5_0", "5_4", "5_8"]),
    ],
)
def test_a_line_of_an_array_stands_for_its_elements(line: str, elements: list[str]) -> None:
    assert list(slurm.parse_elements(line)) == elements


def test_a_job_hands_nothing_of_itself_to_the_jobs_it_submits() -> None:
    inside = {
        "SLURM_JOB_ID": "7",
        "SLURM_CONF": "/etc/slurm/slurm.conf",
        "SLURM_CPUS_PER_TASK": "4",
        "SLURMD_NODENAME": "n1",
        "SBATCH_PARTITION": "gpu",
        "SRUN_DEBUG": "3",
        "PMIX_RANK": "0",
        "CUDA_VISIBLE_DEVICES": "1",
        "HOME": "/home/me",
    }

    assert slurm.scrub(inside) == {"SLURM_CONF": "/etc/slurm/slurm.conf", "HOME": "/home/me"}


def test_what_a_user_sets_for_sbatch_does_not_overrule_the_script() -> None:
    outside = {"SBATCH_TIMELIMIT": "1", "CUDA_VISIBLE_DEVICES": "1", "SLURM_CLUSTERS": "far"}

    assert slurm.scrub(outside) == {"CUDA_VISIBLE_DEVICES": "1", "SLURM_CLUSTERS": "far"}


def test_gpus_and_memory_of_a_node_are_counted_over_their_types(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As scontrol 21.08 writes a node with GPUs, which this machine lacks.
    line = (
        "NodeName=g1 Arch=x86_64 CPUAlloc=0 CPUTot=64 AvailableFeatures=a100,ib "
        "Gres=gpu:a100:4(S:0-1),gpu:2(S:0,1),nvme:1 RealMemory=512000 State=IDLE+DRAIN "
        "Partitions=gpu,long  Comment=to be CPUTot=9"
    )
    _fake(tmp_path, monkeypatch, "scontrol", f"echo '{line}'")

    node = slurm.list_nodes()["g1"]

    assert (node.gpus, node.cpus, node.memory_mb) == (6, 64, 512000)
    assert node.partitions == ("gpu", "long")


def test_without_slurm_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(SlurmError, match=r"no squeue on the PATH.*executor to local") as raised:
        slurm.list_queue(["1"])

    assert raised.value.exit_code == ExitCode.ENVIRONMENT


@pytest.mark.slurm
@pytest.mark.long
def test_a_job_is_followed_from_the_queue_to_its_end(unbooked: Cluster, tmp_path: Path) -> None:
    script = _script(tmp_path, "sleep 2", "--hold", "--time=7")

    job_id = slurm.sbatch(script, marker="mark")
    held = slurm.list_queue([job_id])[job_id]
    slurm.release(job_id)
    unbooked.wait_for(job_id, "RUNNING")
    running = slurm.list_queue([job_id])[job_id]
    unbooked.wait_for(job_id, "COMPLETED")

    assert (held.state, held.reason, held.nodes) == ("PENDING", "JobHeldUser", "")
    assert (running.state, running.partition, running.comment) == ("RUNNING", "main", "mark")
    assert running.nodes.startswith("n")
    assert running.left_s is not None
    assert 6 * 60 < running.left_s <= 7 * 60
    assert running.starts_at is not None
    assert abs(datetime.now(UTC) - running.starts_at) < timedelta(minutes=2)
    assert slurm.list_queue([job_id])[job_id].state == "COMPLETED"
    assert slurm.show_job(job_id)["ExitCode"] == "0:0"


@pytest.mark.slurm
@pytest.mark.long
def test_elements_of_an_array_are_told_apart_in_one_call(cluster: Cluster) -> None:
    job_id = cluster.submit("sleep 60", "--array=1-6%1", "--cpus-per-task=2")
    other = cluster.submit("sleep 60", "--hold")
    cluster.wait_for(f"{job_id}_1", "RUNNING")

    queue = slurm.list_queue([f"{job_id}_1", f"{job_id}_5", other, "999999"])

    assert {name: job.state for name, job in queue.items()} == {
        f"{job_id}_1": "RUNNING",
        f"{job_id}_5": "PENDING",
        other: "PENDING",
    }
    assert set(slurm.list_queue([job_id])) == {f"{job_id}_{number}" for number in range(1, 7)}
    assert cluster.count_queued() == 7
    assert slurm.show_job(f"{job_id}_1")["JobState"] == "RUNNING"
    assert slurm.show_job(f"{job_id}_5")["JobState"] == "PENDING"


@pytest.mark.slurm
@pytest.mark.long
def test_jobs_that_slurm_does_not_know_are_left_out(unbooked: Cluster) -> None:
    assert slurm.list_queue(["999999"]) == {}
    assert slurm.list_queue(["999999", "999998_3"]) == {}
    assert slurm.list_queue([]) == {}
    assert slurm.show_job("999999") == {}
    slurm.cancel(["999999"])
    slurm.cancel([])


@pytest.mark.slurm
@pytest.mark.long
def test_every_start_of_a_job_is_in_the_books(cluster: Cluster) -> None:
    job_id = cluster.submit("sleep 600", "--partition=graceful", "--mem=700")
    cluster.wait_for(job_id, "RUNNING")
    slurm.requeue(job_id)
    wait_until(lambda: len(_books(job_id)) == 2, seconds=60)
    cluster.wait_for(job_id, "RUNNING")
    slurm.cancel([job_id])
    cluster.wait_for(job_id, "CANCELLED")
    wait_until(lambda: _books(job_id)[-1].state == "CANCELLED", seconds=30)

    first, second = _books(job_id)

    assert first.state == "REQUEUED"
    assert (second.state, second.cancelled_by) == ("CANCELLED", os.geteuid())
    assert second.memory_mb == 700
    assert first.ended_at is not None
    assert second.ended_at is not None
    assert first.ended_at < second.ended_at


@pytest.mark.slurm
@pytest.mark.long
def test_the_books_know_exit_codes_signals_memory_and_waiting_elements(cluster: Cluster) -> None:
    failed = cluster.submit("exit 3")
    killed = cluster.submit("kill -KILL $$")
    hungry = cluster.submit("srun python3 -c 'import time; b = b\"x\" * 10**8; time.sleep(6)'")
    array = cluster.submit("true", "--array=4-5", "--hold")
    for job_id, state in ((failed, "FAILED"), (killed, "FAILED"), (hungry, "COMPLETED")):
        cluster.wait_for(job_id, state)
    wait_until(lambda: _books(hungry) and _books(hungry)[0].state == "COMPLETED", seconds=30)

    books = slurm.list_accounted([failed, killed, hungry, f"{array}_5"])

    assert books is not None
    assert books[failed][0].exit_code == 3
    assert (books[killed][0].state, books[killed][0].signal) == ("FAILED", 9)
    assert books[hungry][0].max_rss_mb is not None
    assert 90 < books[hungry][0].max_rss_mb < 200
    assert set(books) == {failed, killed, hungry, f"{array}_5"}
    assert books[f"{array}_5"][0].state == "PENDING"
    assert slurm.list_accounted([]) == {}


@pytest.mark.slurm
@pytest.mark.long
def test_a_cluster_without_books_says_so(unbooked: Cluster) -> None:
    assert slurm.list_accounted(["1"]) is None
    assert slurm.find_room("root", account=None, qos=None, partitions={"main": ""}) is None


@pytest.mark.slurm
@pytest.mark.long
def test_a_limit_leaves_room_for_what_is_not_queued_under_it(cluster: Cluster) -> None:
    user = cluster.ask("id", "-un")
    cluster.submit("true", "--hold", "--array=0-2", "--partition=few")
    cluster.submit("true", "--hold", "--array=0-59", "--partition=main")

    limit = slurm.find_room(user, account="lab", qos=None, partitions={"few": "few"})

    assert slurm.find_room(user, account=None, qos=None, partitions={"main": ""}) is None
    assert limit == slurm.SubmitLimit(50, "the QOS few", room=47)


@pytest.mark.slurm
@pytest.mark.long
def test_a_hidden_partition_and_its_jobs_are_seen(unbooked: Cluster) -> None:
    unbooked.ask("scontrol", "update", "partition=short", "hidden=yes")
    try:
        job_id = unbooked.submit("true", "--hold", "--partition=short")

        assert slurm.list_partitions()["short"].limit_min == 5
        assert slurm.list_queue([job_id])[job_id].partition == "short"
        assert slurm.show_job(job_id)["JobState"] == "PENDING"
    finally:
        unbooked.ask("scontrol", "update", "partition=short", "hidden=no")


@pytest.mark.slurm
@pytest.mark.long
def test_partitions_nodes_and_settings_are_read(cluster: Cluster) -> None:
    partitions = slurm.list_partitions()
    nodes = slurm.list_nodes()
    config = slurm.show_config()

    assert partitions["main"].is_default
    assert partitions["main"].limit_min is None
    assert partitions["short"].limit_min == 5
    assert set(nodes) == {"n1", "n2", "n3", "n4"}
    assert nodes["n1"].memory_mb == 4096
    assert "main" in nodes["n1"].partitions
    assert config["MaxArraySize"] == "1001"
    assert slurm.cluster_name() == config["ClusterName"]


@pytest.mark.slurm
@pytest.mark.long
@pytest.mark.parametrize(
    ("option", "cure"),
    [
        ("--partition=nix", "Set the profile's partition"),
        ("--account=nix", "Set the profile's account"),
        ("--qos=nix", "Set the profile's qos"),
        ("--gres=gpu:1", "Set gpus_per_node"),
        ("--mem=900G", "Lower the profile's memory_gb"),
        ("--constraint=nix", "Set the profile's constraint"),
        ("--reservation=nix", "Set the profile's reservation"),
        ("--nodelist=nix", "names that `sinfo -N` lists"),
        ("--array=0-5000", "Raise points_per_task"),
    ],
)
def test_a_refused_job_names_the_key_to_change(
    option: str, cure: str, cluster: Cluster, tmp_path: Path
) -> None:
    script = _script(tmp_path, "true", option)

    with pytest.raises(JobError, match=cure):
        slurm.sbatch(script, marker="mark")

    assert cluster.count_queued() == 0


@pytest.mark.slurm
@pytest.mark.long
def test_a_limit_on_queued_jobs_is_told_as_such(cluster: Cluster, tmp_path: Path) -> None:
    script = _script(tmp_path, "true", "--partition=few", "--array=0-50")

    with pytest.raises(JobError, match="raise points_per_task"):
        slurm.sbatch(script, marker="mark")


@pytest.mark.slurm
@pytest.mark.long
@pytest.mark.parametrize(
    "after",
    [
        "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv "
        "operation' >&2; exit 1",
        "sleep 60",
        "exit 0",
    ],
)
def test_a_submission_whose_answer_is_lost_is_looked_up_and_not_repeated(
    after: str, unbooked: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "SUBMIT_TIMEOUT_S", 4.0)
    script = _script(tmp_path, "true", "--hold")
    _fake(tmp_path, monkeypatch, "sbatch", f'{shutil.which("sbatch")} "$@" >&2; {after}')

    job_id = slurm.sbatch(script, marker="mark")

    assert unbooked.count_queued() == 1
    assert slurm.list_queue([job_id])[job_id].comment == "mark"


@pytest.mark.slurm
@pytest.mark.long
def test_a_submission_that_was_lost_before_it_was_queued_is_told(
    unbooked: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "SUBMIT_TIMEOUT_S", 1.0)
    monkeypatch.setattr(submission, "LOOK_UP_S", (0.0, 0.5))
    _fake(tmp_path, monkeypatch, "sbatch", "sleep 60")

    with pytest.raises(SlurmError, match=r"may still be queued.*grep never-queued"):
        slurm.sbatch(_script(tmp_path, "true"), marker="never-queued")


@pytest.mark.slurm
@pytest.mark.long
def test_a_submission_that_a_slow_controller_takes_late_is_found(
    unbooked: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "SUBMIT_TIMEOUT_S", 1.0)
    late = f'(sleep 4; exec {shutil.which("sbatch")} "$@" >/dev/null 2>&1) >/dev/null 2>&1 &'
    _fake(tmp_path, monkeypatch, "sbatch", f"{late} sleep 60")

    job_id = slurm.sbatch(_script(tmp_path, "true", "--hold"), marker="mark")

    assert slurm.list_queue([job_id])[job_id].comment == "mark"


@pytest.mark.slurm
@pytest.mark.long
def test_a_controller_that_is_down_is_told_by_every_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bare_cluster: Cluster
) -> None:
    with started_cluster("--nodes=1", "--set=MessageTimeout=2") as cluster:
        monkeypatch.setenv("SLURM_CONF", cluster.environ["SLURM_CONF"])
        script = _script(tmp_path, "true")
        cluster.end_daemon("slurmctld")

        with pytest.raises(SlurmError, match=r"squeue says: .*contact slurm controller"):
            slurm.list_queue(["1", "2"])
        with pytest.raises(SlurmError, match=r"scontrol says: .*contact slurm controller"):
            slurm.show_job("1")
        with pytest.raises(SlurmError, match=r"sbatch says: .*contact slurm controller"):
            slurm.sbatch(script, marker="mark")


@pytest.mark.slurm
@pytest.mark.long
def test_a_users_own_formats_and_times_change_nothing(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = cluster.submit("sleep 60")
    cluster.wait_for(job_id, "RUNNING")
    wait_until(lambda: _books(job_id), seconds=30)
    monkeypatch.setenv("SQUEUE_FORMAT", "%j")
    monkeypatch.setenv("SQUEUE_STATES", "PENDING")
    monkeypatch.setenv("SACCT_FORMAT", "JobName")
    monkeypatch.setenv("SLURM_TIME_FORMAT", "relative")

    assert slurm.list_queue([job_id])[job_id].state == "RUNNING"
    assert slurm.list_queue([job_id])[job_id].starts_at is not None
    slurm.cancel([job_id])
    wait_until(lambda: _books(job_id)[0].ended_at is not None, seconds=30)


@pytest.mark.slurm
@pytest.mark.long
def test_what_slurm_refuses_to_do_to_a_job_is_told_with_the_way_out(unbooked: Cluster) -> None:
    job_id = unbooked.submit("true", "--no-requeue", "--hold")

    with pytest.raises(SlurmError, match="dnnjob resume"):
        slurm.requeue(job_id)
    with pytest.raises(SlurmError, match="scontrol release 999999"):
        slurm.release("999999")


def _books(job_id: str) -> tuple[slurm.AccountedJob, ...]:
    books = slurm.list_accounted([job_id])
    assert books is not None
    return books.get(job_id, ())


def _script(folder: Path, command: str, *options: str) -> Path:
    script = folder / "script.sh"
    lines = [f"#SBATCH {option}" for option in ("--comment=mark", "--output=/dev/null", *options)]
    script.write_text("\n".join(["#!/bin/sh", *lines, command]) + "\n")
    return script


def _fake(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    """Puts a script in the place of one of Slurm's commands."""
    path = folder / "bin" / name
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")


WORN = "Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's "
WORN += "size and/or time limits)"


@pytest.mark.parametrize(
    ("said", "cure"),
    [
        (f"QOSMaxWallDurationPerJobLimit\nsbatch: error: {WORN}", "Lower the profile's time_limit"),
        (f"QOSMaxMemoryPerJob\nsbatch: error: {WORN}", "Lower the profile's memory_gb"),
        (f"AssocMaxCpuPerJobLimit\nsbatch: error: {WORN}", "Lower nodes, tasks_per_node"),
        (f"QOSMaxSubmitJobPerUserLimit\nsbatch: error: {WORN}", "Wait until some of your jobs"),
        (WORN, "Slurm does not say which of these limits it is"),
        ("memory limit must be provided", "Set the profile's memory_gb to what one run needs"),
        ("Memory specification can not be satisfied", "Lower the profile's memory_gb"),
    ],
)
def test_a_refusal_is_answered_by_the_limit_that_slurm_names(said: str, cure: str) -> None:
    error = slurm.explain_refusal(f"sbatch: error: {said}")

    assert isinstance(error, JobError)
    assert cure in str(error)


@pytest.mark.parametrize(
    "said",
    [
        "sbatch: error: Unable to contact slurm controller (connect failure)",
        "sbatch: error: fetch_config: DNS SRV lookup failed\n"
        "sbatch: fatal: Could not establish a configuration source",
        "sbatch: error: If munged is up, restart with --num-threads=10\n"
        'sbatch: error: Munge encode failed: Failed to access "/run/munge/munge.socket.2"\n'
        "sbatch: error: Batch job submission failed: Protocol authentication error",
    ],
)
def test_a_slurm_that_does_not_answer_is_a_missing_environment(said: str) -> None:
    assert slurm.explain_refusal(said).exit_code == ExitCode.ENVIRONMENT
