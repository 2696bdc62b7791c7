"""What a task is given of its machine, set before TensorFlow, Keras and matplotlib are imported.

threads = configure_process(job.devices, crew)
"""

import json
import logging
import math
import os
import stat
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from dnnjob.alike import ALIKE
from dnnjob.config import DevicesConfig, JobConfig
from dnnjob.errors import MissingError
from dnnjob.machine import core_grants, cpu_name, lacks_instructions, visible_gpus
from dnnjob.tasks.process_group import Crew, tf_cluster
from dnnjob.tasks.rendezvous import Peer
from dnnjob.tasks.stop import StopFlag

logger = logging.getLogger(__name__)

# What a thread must have of a step to be worth waking (docs/decisions/threads.md).
_FLOP_A_THREAD = 1.5e8
# Threads that TensorFlow has taken in this process.
_taken: int | None = None

# Where a container without any other room can write.
_SHARED_MEMORY = Path("/dev/shm")
# A GPU's results repeat bit for bit where sums have one order, and where the kernels are not chosen
# by which was the fastest this time (docs/decisions/determinism.md).
_REPEATABLE = {"--xla_gpu_deterministic_ops": "true", "--xla_gpu_autotune_level": "0"}
LOGICAL_CPUS = "DNNJOB_LOGICAL_CPUS"
"""Environment variable with the number of devices that tests make of one CPU."""

# gRPC would send the tasks' talk through them.
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")


def configure_process(devices: DevicesConfig, crew: Crew | None = None) -> int:
    """Sets what TensorFlow, Keras and matplotlib read at their import; the number of threads.

    Args:
        devices: `[devices]` of the job.
        crew: The tasks of the run; without one there is this process alone.

    Raises:
        MissingError: If the job asks for a GPU and this task has none, if the tasks of this machine
            have too few to share, or if TensorFlow could not be loaded by this processor.
    """
    if (missing := lacks_instructions()) is not None:
        # TensorFlow would abort the process without a word of the run.
        raise MissingError(
            f"TensorFlow needs a processor with {missing}, but {cpu_name()} has none. Use another "
            "machine, or give a virtual one its host's processor (QEMU: -cpu host)."
        )
    crew = crew or Crew(StopFlag())
    if not crew.is_chief:
        refuse_without_gpu(devices)
    threads = devices.threads or count_threads(crew)
    _set_threads(threads)
    settings = {
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "KERAS_BACKEND": "tensorflow",
        # A user's ~/.keras/keras.json may change the float type, and several tasks race to write
        # it. Where no folder can be, Keras goes by its defaults and leaves nothing behind.
        "KERAS_HOME": os.devnull,
        # HDF5 locks fail on NFS and Lustre.
        "HDF5_USE_FILE_LOCKING": "FALSE",
        "MPLBACKEND": "Agg",
    }
    os.environ.update(settings)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    _find_temporary_folder()
    _find_cache()
    # It takes the networks of a sweep, each traced once, for one network traced too often.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    if devices.kind == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    else:
        os.environ["XLA_FLAGS"] = _with_flags(os.environ.get("XLA_FLAGS", ""), _REPEATABLE)
    if crew.task.num_tasks > 1:
        _configure_task(devices, crew)
    return threads


def limit_threads(
    threads: int,
    devices: DevicesConfig,
    *,
    step_flop: float,
    members: int = 1,
    cores: int | None = None,
) -> int:
    """Threads of this task once its work is known, set for TensorFlow's import.

    A step of few operations is done before a second thread has woken, and on a shared machine waits
    for it (docs/decisions/threads.md). A process takes threads once: what trains in it later gets
    the number that the first did.

    Args:
        threads: What `configure_process` gave.
        devices: `[devices]` of the job, whose threads stay as they are, if it names any.
        step_flop: Floating-point operations of a step in this task.
        members: Networks of a run in one task. Where they are at least as many as the threads that
            a step is worth, each takes one, and they train side by side.
        cores: What this task is given, however many threads the job names; None is `threads`.
    """
    global _taken
    if "tensorflow" in sys.modules and _taken is not None:
        return devices.threads or _taken
    cores = cores or threads
    if not devices.threads and (devices.kind == "cpu" or not visible_gpus()):
        threads = worthy_threads(threads, step_flop=step_flop)
        threads = 1 if 1 < members >= threads else threads
    _set_threads(
        threads,
        beside=count_lanes(devices, members=members, threads=threads, cores=cores),
    )
    _taken = threads
    return threads


def count_lanes(devices: DevicesConfig, *, members: int, threads: int, cores: int) -> int:
    """Members of a run that train at the same moment in this task, as far as cores allow.

    Args:
        devices: `[devices]` of the job: its stack, and whether its threads are the rule's.
        members: Networks of the run.
        threads: What each takes, as `limit_threads` gave it.
        cores: What this task is given.
    """
    on_gpu = devices.kind != "cpu" and bool(visible_gpus())
    if on_gpu or logical_cpus() > 1 or devices.tasks > 1:
        return 1
    # More threads than one share a pool, in which networks side by side would wait for each other.
    default = cores if threads == 1 and not devices.threads else 1
    return max(1, min(devices.stack or default, members, cores // threads))


def count_step_flop(job: JobConfig, num_params: int, *, num_tasks: int) -> float:
    """Floating-point operations of a step in each task: six a parameter and row."""
    return 6.0 * num_params * math.ceil(job.train.global_batch_size / num_tasks)


def worthy_threads(cores: int, *, step_flop: float) -> int:
    """How many of some cores a step of so many floating-point operations is worth waking."""
    return max(1, min(cores, int(step_flop / _FLOP_A_THREAD)))


def _set_threads(threads: int, *, beside: int = 1) -> None:
    # Replicas of one CPU compute beside each other: its threads, shared, would only be in each
    # other's way.
    os.environ["TF_NUM_INTRAOP_THREADS"] = str(max(1, threads // logical_cpus()))
    os.environ["TF_NUM_INTEROP_THREADS"] = str(threads * beside)
    os.environ["OMP_NUM_THREADS"] = str(threads)


def refuse_without_gpu(devices: DevicesConfig) -> None:
    """Ends a run that asks for a GPU where there is none, before it does anything.

    Raises:
        MissingError: If there is none.
    """
    if devices.needs_gpu and not visible_gpus():
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        told = "no driver tells of one" if given is None else f"CUDA_VISIBLE_DEVICES is {given!r}"
        raise MissingError(
            f"The job asks for a GPU, but {told}. Run `dnnjob doctor` to see what there is, or set "
            'devices.kind = "cpu" and devices.require_gpu = false.'
        )


def count_threads(crew: Crew, environ: Mapping[str, str] = os.environ) -> int:
    """Threads of this task: its share of the physical cores it may use, at least 1."""
    task, grants = crew.task, core_grants(environ)
    if task.launcher != "slurm":
        # In a batch script Slurm's word is about the tasks of srun; these are not.
        node = environ.get("SLURM_CPUS_ON_NODE", "")
        if node.isdecimal() and (task.num_tasks > 1 or "Slurm" not in grants):
            grants["Slurm"] = max(1, int(node))
        return max(1, min(grants.values()) // task.local_tasks)
    if "Slurm" not in grants:
        node = environ.get("SLURM_CPUS_ON_NODE", "")
        whole = int(node) if node.isdecimal() else min(grants.values())
        grants["Slurm"] = max(1, whole // task.local_tasks)
    return min(grants.values())


def logical_cpus() -> int:
    """Devices to make of the CPU: one, unless a test asks for replicas without GPUs."""
    return int(os.environ.get(LOGICAL_CPUS, "1"))


def lower_threads(threads: int, *, cores: int, before: int | None, is_alike: bool = True) -> int:
    """Threads of this task in an attempt that goes on, perhaps elsewhere.

    More threads than cores stay where they were the job's wish from the first.

    Args:
        threads: What the resolved job says; 0 is as many as there are cores.
        cores: What this task is given.
        before: What the chief was given in the attempt before, None if there was none.
        is_alike: Whether the chief is given as many.
    """
    if before is None or not cores < threads <= before:
        return threads
    logger.warning(
        "This run had %d threads a task, but here a task is given %d core(s): it goes on with %d. "
        "devices.threads=%d keeps them.",
        threads,
        cores,
        cores,
        threads,
        extra=ALIKE if is_alike else None,
    )
    return cores


def share_gpus(rank: int, peers: Sequence[Peer]) -> tuple[str, ...]:
    """The GPUs of a task, of those that it and the others on its machine see.

    Args:
        rank: The task.
        peers: The tasks on its machine, by rank.

    Raises:
        MissingError: If there are fewer GPUs than tasks.
    """
    me = next(peer for peer in peers if peer.rank == rank)
    mine = me.gpus
    shared = all((set(p.gpus), p.present) == (set(mine), me.present) for p in peers)
    if not mine or not shared:
        # The scheduler has cut them already.
        return mine
    each = len(mine) // len(peers)
    if each == 0:
        raise MissingError(
            f"Each task needs a GPU of its own, but the {len(peers)} tasks on {peers[0].host} see "
            f'{len(mine)}. Set devices.tasks = {len(mine)}, or devices.kind = "cpu".'
        )
    place = [peer.rank for peer in peers].index(rank)
    return mine[place * each : (place + 1) * each]


def _find_temporary_folder() -> None:
    """Keeps temporary files out of the working directory where the usual folders are read-only.

    Raises:
        MissingError: If no folder can be written.
    """
    try:
        # The working directory is the last that Python tries.
        usable = Path(tempfile.gettempdir()) != Path.cwd()
        missing = None
    except FileNotFoundError as error:
        usable, missing = False, error
    if usable:
        return
    if os.access(_SHARED_MEMORY, os.W_OK):
        os.environ["TMPDIR"] = tempfile.tempdir = str(_SHARED_MEMORY)
    elif missing is not None:
        raise MissingError(
            f"A run needs a folder for temporary files, but there is none that it can write "
            f"({missing.strerror}). Set TMPDIR to one; a container has one with --tmpfs /tmp."
        ) from missing


def _find_cache() -> None:
    """Gives matplotlib a folder of this user's own where there is no home to write into.

    By itself it would warn, and leave a new folder behind after every run, since processes end
    without its tidying up.
    """
    if "MPLCONFIGDIR" in os.environ or os.access(os.environ.get("HOME", "/"), os.W_OK):
        return
    folder = Path(tempfile.gettempdir()) / f"dnnjob-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if not _is_own_folder(folder):
        folder = Path(tempfile.mkdtemp(prefix="dnnjob-"))
    os.environ["MPLCONFIGDIR"] = str(folder)


def _is_own_folder(path: Path) -> bool:
    """Whether this is a folder of this user; another might have laid something into his."""
    found = path.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()


def _with_flags(given: str, ours: Mapping[str, str]) -> str:
    """Flags for XLA: those the user gave, and ours where he gave none."""
    named = {flag.partition("=")[0] for flag in given.split()}
    missing = [f"{name}={value}" for name, value in ours.items() if name not in named]
    return " ".join([*given.split(), *missing])


def _configure_task(devices: DevicesConfig, crew: Crew) -> None:
    rank = crew.task.rank
    cluster = {"cluster": {"worker": tf_cluster(crew)}, "task": {"type": "worker", "index": rank}}
    os.environ["TF_CONFIG"] = json.dumps(cluster)
    for name in (*_PROXIES, *map(str.upper, _PROXIES)):
        os.environ.pop(name, None)
    if devices.kind != "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(share_gpus(rank, crew.local_peers))
