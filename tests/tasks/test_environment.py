"""What a task is given of its machine."""

import json
import os
import sys
import tempfile
from pathlib import Path

import pytest

from dnnjob.config import DevicesConfig
from dnnjob.errors import MissingError
from dnnjob.tasks import LOGICAL_CPUS, Crew, StopFlag, Task, configure_process, limit_threads
from dnnjob.tasks.environment import (
    count_threads,
    lower_threads,
    refuse_without_gpu,
    share_gpus,
)
from dnnjob.tasks.rendezvous import Peer

TMP_OF_PYTHON = "/nowhere"


def peer(rank: int, gpus: tuple[str, ...] = (), *, network: str = "a") -> Peer:
    return Peer(
        rank=rank,
        launch="x",
        host=f"node-{network}",
        pid=1,
        network=network,
        address=f"10.0.0.{rank}",
        port=5000 + rank,
        gpus=gpus,
    )


def crew(task: Task, *peers: Peer) -> Crew:
    made = Crew(StopFlag())
    made.task, made.peers = task, peers
    return made


@pytest.fixture
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    def grants(environ: dict[str, str]) -> dict[str, int]:
        slurm = environ.get("SLURM_CPUS_PER_TASK")
        return {"affinity": 8} | ({"Slurm": int(slurm)} if slurm else {})

    monkeypatch.setattr("dnnjob.tasks.environment.core_grants", grants)


@pytest.mark.usefixtures("_eight_cores")
@pytest.mark.parametrize(
    ("task", "environ", "threads"),
    [
        (Task(), {}, 8),
        (Task(), {"SLURM_CPUS_PER_TASK": "3"}, 3),
        # `sbatch -n 4` without -c, where nothing but Slurm's word keeps to the allocation.
        (Task(), {"SLURM_CPUS_ON_NODE": "4"}, 4),
        (Task(), {"SLURM_CPUS_ON_NODE": "4", "SLURM_CPUS_PER_TASK": "3"}, 3),
        (Task(1, 2, local_tasks=2, launcher="local"), {}, 4),
        (Task(1, 3, local_tasks=3, launcher="local"), {}, 2),
        (Task(1, 16, local_tasks=16, launcher="local"), {}, 1),
        # In an allocation of 4 CPUs, whatever srun would give each of its tasks.
        (
            Task(1, 2, local_tasks=2, launcher="local"),
            {"SLURM_CPUS_ON_NODE": "4", "SLURM_CPUS_PER_TASK": "1"},
            2,
        ),
        (Task(1, 2, local_tasks=2, launcher="slurm"), {"SLURM_CPUS_PER_TASK": "3"}, 3),
        (Task(1, 2, local_tasks=2, launcher="slurm"), {"SLURM_CPUS_ON_NODE": "6"}, 3),
        (Task(1, 2, local_tasks=2, launcher="slurm"), {}, 4),
    ],
)
def test_tasks_of_a_machine_share_its_cores(
    task: Task, environ: dict[str, str], threads: int
) -> None:
    assert count_threads(crew(task), environ) == threads


def test_gpus_that_all_tasks_of_a_machine_see_are_shared_by_local_rank() -> None:
    seen = ("GPU-a", "GPU-b", "MIG-c", "GPU-d", "GPU-e")
    peers = [peer(4, seen), peer(5, seen)]

    assert share_gpus(4, peers) == ("GPU-a", "GPU-b")
    assert share_gpus(5, peers) == ("MIG-c", "GPU-d")


def test_gpus_that_the_scheduler_has_cut_are_left_alone() -> None:
    peers = [peer(0, ("GPU-a",)), peer(1, ("GPU-b",))]

    assert share_gpus(1, peers) == ("GPU-b",)


def test_gpus_of_one_number_that_are_not_the_same_have_been_cut() -> None:
    first = peer(0, ("0",)).model_copy(update={"present": ("GPU-a",)})
    second = peer(1, ("0",)).model_copy(update={"present": ("GPU-b",)})

    assert share_gpus(1, [first, second]) == ("0",)


@pytest.mark.parametrize("visible", ["", "NoDevFiles", "-1"])
def test_a_job_that_asks_for_a_gpu_is_refused_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch, visible: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    refuse_without_gpu(DevicesConfig())
    with pytest.raises(MissingError, match="CUDA_VISIBLE_DEVICES is"):
        refuse_without_gpu(DevicesConfig(require_gpu=True))


def test_xla_is_told_to_repeat_itself_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_autotune_level=4 --xla_dump_to=x")

    configure_process(DevicesConfig())

    assert os.environ["XLA_FLAGS"].split() == [
        "--xla_gpu_autotune_level=4",
        "--xla_dump_to=x",
        "--xla_gpu_deterministic_ops=true",
    ]


def test_tasks_without_a_gpu_each_are_refused() -> None:
    with pytest.raises(MissingError, match=r"the 2 tasks on node-a see 1. Set devices.tasks = 1"):
        share_gpus(0, [peer(0, ("GPU-a",)), peer(1, ("GPU-a",))])


def test_tensorflow_is_told_where_every_task_listens() -> None:
    task = Task(1, 3, "x", local_tasks=2)
    peers = (peer(0), peer(1), peer(2, network="b"))
    os.environ["http_proxy"] = os.environ["HTTPS_PROXY"] = "http://proxy:3128"

    threads = configure_process(DevicesConfig(kind="cpu", threads=2), crew(task, *peers))

    assert threads == 2
    assert json.loads(os.environ["TF_CONFIG"]) == {
        "cluster": {"worker": ["127.0.0.1:5000", "127.0.0.1:5001", "10.0.0.2:5002"]},
        "task": {"type": "worker", "index": 1},
    }
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert "http_proxy" not in os.environ
    assert "HTTPS_PROXY" not in os.environ


@pytest.mark.parametrize(("replicas", "each"), [("1", "6"), ("4", "1"), ("8", "1")])
def test_replicas_of_one_cpu_share_its_threads(
    monkeypatch: pytest.MonkeyPatch, replicas: str, each: str
) -> None:
    monkeypatch.setenv(LOGICAL_CPUS, replicas)

    assert configure_process(DevicesConfig(kind="cpu", threads=6)) == 6

    assert os.environ["TF_NUM_INTRAOP_THREADS"] == each
    assert os.environ["TF_NUM_INTEROP_THREADS"] == "6"


# Where nothing but a temporary folder can be written


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files of a user without a home."""
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path.with_name("no-home")))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_user_without_a_home_has_one_private_folder_for_caches(homeless: Path) -> None:
    configure_process(DevicesConfig())
    configure_process(DevicesConfig())
    (folder,) = homeless.iterdir()
    assert os.environ["MPLCONFIGDIR"] == str(folder)
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("target", ["/", "/no-such-folder", None], ids=["link", "gone", "file"])
def test_what_another_has_laid_out_is_not_used(homeless: Path, target: str | None) -> None:
    trap = homeless / f"dnnjob-{os.getuid()}"
    if target is None:
        trap.touch()
    else:
        trap.symlink_to(target)
    configure_process(DevicesConfig())
    folder = Path(os.environ["MPLCONFIGDIR"])
    assert folder.parent == homeless
    assert folder != trap


def test_a_user_with_a_home_keeps_his_caches(
    homeless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(homeless))
    configure_process(DevicesConfig())
    assert "MPLCONFIGDIR" not in os.environ
    assert list(homeless.iterdir()) == []


def test_temporary_files_keep_out_of_the_working_directory(
    homeless: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    memory = tmp_path_factory.mktemp("shm")
    monkeypatch.chdir(homeless)
    monkeypatch.setattr("dnnjob.tasks.environment._SHARED_MEMORY", memory)
    configure_process(DevicesConfig())
    assert os.environ["TMPDIR"] == tempfile.gettempdir() == str(memory)
    assert list(homeless.iterdir()) == []


@pytest.fixture
def _read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder that Python tries can be written, the working directory included."""

    def find() -> str:
        if tempfile.tempdir != TMP_OF_PYTHON:
            return str(tempfile.tempdir)
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "tempdir", TMP_OF_PYTHON)
    monkeypatch.setattr(tempfile, "gettempdir", find)


@pytest.mark.usefixtures("homeless", "_read_only")
def test_shared_memory_does_where_all_else_is_read_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("dnnjob.tasks.environment._SHARED_MEMORY", tmp_path)
    configure_process(DevicesConfig())
    assert os.environ["TMPDIR"] == tempfile.gettempdir() == str(tmp_path)


@pytest.mark.usefixtures("homeless", "_read_only")
def test_no_folder_for_temporary_files_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dnnjob.tasks.environment._SHARED_MEMORY", Path("/no-such-folder"))
    with pytest.raises(MissingError, match="--tmpfs /tmp"):
        configure_process(DevicesConfig())


def test_a_processor_that_cannot_load_tensorflow_is_refused_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dnnjob.tasks.environment.lacks_instructions", lambda: "AVX")

    with pytest.raises(MissingError, match=r"needs a processor with AVX, .* -cpu host"):
        configure_process(DevicesConfig())


@pytest.mark.parametrize(
    ("threads", "cores", "before", "taken"),
    [
        # They fitted before, and do not fit here.
        (8, 2, 8, 2),
        (4, 2, 8, 2),
        (2, 2, 8, 2),
        (2, 8, 4, 2),
        # More than there ever were was the job's wish.
        (8, 2, 2, 8),
        (8, 2, 4, 8),
        # A first attempt, or one that left no word.
        (8, 2, None, 8),
        (0, 2, 8, 0),
    ],
)
def test_threads_are_lowered_where_they_fitted_before_and_do_not_fit_now(
    threads: int, cores: int, before: int | None, taken: int
) -> None:
    assert lower_threads(threads, cores=cores, before=before) == taken


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A process that has not imported TensorFlow."""
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.setattr("dnnjob.tasks.environment._taken", None)
    return monkeypatch


@pytest.mark.parametrize(
    ("asked", "batch", "cores", "taken"),
    [
        (0, 64, 2, 1),
        (0, 256, 2, 2),
        (0, 1024, 2, 2),
        (0, 64, 16, 1),
        (0, 1024, 16, 8),
        (0, 8192, 16, 16),
        (4, 64, 4, 4),
    ],
)
def test_a_step_takes_the_threads_that_its_operations_are_worth(
    fresh: pytest.MonkeyPatch, asked: int, batch: int, cores: int, taken: int
) -> None:
    devices = DevicesConfig(kind="cpu", threads=asked)
    # The reference job: 12-200-1000-1.
    threads = limit_threads(cores, devices, step_flop=6.0 * 204_601 * batch)

    assert threads == taken
    assert os.environ["TF_NUM_INTRAOP_THREADS"] == str(taken)


@pytest.mark.parametrize("resolved", [False, True], ids=["begun", "resumed"])
def test_members_side_by_side_have_a_thread_each_to_run_on(
    fresh: pytest.MonkeyPatch, resolved: bool
) -> None:
    fresh.delenv(LOGICAL_CPUS, raising=False)
    # The resolved job, which a later attempt goes by, names both numbers.
    devices = DevicesConfig(kind="cpu", **({"threads": 1, "stack": 4} if resolved else {}))

    threads = limit_threads(1 if resolved else 4, devices, step_flop=1.0, members=8, cores=4)

    assert threads == 1
    assert os.environ["TF_NUM_INTEROP_THREADS"] == "4"


def test_beside_a_gpu_a_task_takes_all_its_threads(fresh: pytest.MonkeyPatch) -> None:
    fresh.setattr("dnnjob.tasks.environment.visible_gpus", lambda: ("0",))

    assert limit_threads(8, DevicesConfig(), step_flop=1.0) == 8


def test_a_process_that_has_tensorflow_keeps_its_threads(fresh: pytest.MonkeyPatch) -> None:
    limit_threads(8, DevicesConfig(kind="cpu"), step_flop=1.0)
    fresh.setitem(sys.modules, "tensorflow", sys)

    assert limit_threads(8, DevicesConfig(kind="cpu"), step_flop=1e12) == 1
