"""What the machine gives this process: cores, memory, GPUs, a cache, versions, the state of git.

threads = count_cores()          # physical cores within affinity, cgroup and Slurm's grant
limit = memory_limit_bytes()
sees_process(attempt.pid, attempt.process, host=attempt.host)    # is that one at work?
"""

import ctypes
import getpass
import itertools
import math
import os
import platform
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

CGROUP = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")
CPU_TOPOLOGY = Path("/sys/devices/system/cpu")
GIT_STATE = "DNNJOB_GIT_STATE"
"""Variable with the commit of the working directory, and `-dirty` after it where it is changed."""
DEVICES = Path("/dev")
_GPU_LINE = re.compile(
    r"\s*(?:GPU \d+: )?(?P<name>.+?)\s*(?:Device\s+\d+: )?\(UUID: (?P<uuid>\S+)\)"
)
_PROCESSES = Path("/proc")
_CPUS = _PROCESSES / "cpuinfo"
# The kernel's own number of the namespace that a machine starts with.
_FIRST_PROCESS_SPACE = "pid:[4026531836]"


def count_cores(environ: Mapping[str, str] = os.environ) -> int:
    """Physical cores this process may use: the least of what affinity, cgroup and Slurm grant."""
    return min(core_grants(environ).values())


def core_grants(environ: Mapping[str, str] = os.environ, root: Path = CGROUP) -> dict[str, int]:
    """Cores that each of `affinity`, `cgroup` and `Slurm` grants, where it says so; at least 1.

    Hyper-threads count once, since two of them share the units that matrix products keep busy.
    """
    grants = {"affinity": len({_core_of(cpu) for cpu in os.sched_getaffinity(0)})}
    if (quota := cgroup_cpus(root)) is not None:
        grants["cgroup"] = max(1, math.floor(quota))
    slurm = environ.get("SLURM_CPUS_PER_TASK", "")
    if slurm.isdecimal():
        grants["Slurm"] = max(1, int(slurm))
    return grants


def cgroup_cpus(root: Path = CGROUP, own: Path = OWN_CGROUP) -> float | None:
    """CPUs of the tightest quota on this process's cgroup or one above; None without a quota."""
    quotas = [
        quota / period
        for folder in _cgroup_folders(root, own)
        for quota, period in (_cgroup2_quota(folder), _cgroup1_quota(folder))
        if quota is not None and period and quota > 0
    ]
    return min(quotas, default=None)


def memory_limit_bytes(root: Path = CGROUP, own: Path = OWN_CGROUP) -> int:
    """Memory this process may use: the least of the machine's and its cgroups' limits."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for folder in _cgroup_folders(root, own):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(folder / name)
            if text.isdecimal():
                limits.append(int(text))
    return min(limits)


def memory_share_bytes(num_tasks: int) -> float:
    """Memory that one of several tasks on this machine may fill with rows: a quarter of its part.

    Args:
        num_tasks: Tasks of the run on this machine.
    """
    return memory_limit_bytes() / 4 / max(1, num_tasks)


def list_gpus(environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Names of the GPUs this process may use, without loading CUDA; empty where there are none.

    Of a list of numbers in `CUDA_VISIBLE_DEVICES` only its length is used.
    """
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    ids = None if visible is None else _visible_ids(visible)
    if ids == []:
        return ()
    gpus = _ask_gpus()
    if ids is None:
        return tuple(gpu.name for gpu in gpus)
    named = {gpu.id: gpu.name for gpu in gpus}
    return tuple(named.get(one, gpu.name) for one, gpu in zip(ids, gpus, strict=False))


def visible_gpus(environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Ids of the GPUs this process may use, without loading CUDA; as `CUDA_VISIBLE_DEVICES` takes.

    Ids that are given stay as they are: CUDA counts GPUs in another order than the driver. A GPU
    cut into MIG devices counts as these. Where the driver is silent, the device files count.
    """
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(_visible_ids(visible))
    ids = tuple(gpu.id for gpu in _ask_gpus())
    return ids or tuple(str(place) for place, _ in enumerate(_gpu_files()))


def present_gpus() -> tuple[str, ...]:
    """What tells the GPUs that this process reaches from others of the machine.

    Under Slurm's cgroups every task may know another GPU as number 0.
    """
    return tuple(sorted(gpu.id for gpu in _ask_gpus())) or _gpu_files()


@dataclass(frozen=True)
class _Gpu:
    id: str
    name: str


def _ask_gpus() -> list[_Gpu]:
    """The GPUs and MIG devices that the driver tells of; none where it says nothing."""
    gpus: list[_Gpu] = []
    for line in _ask("nvidia-smi", "-L").splitlines():
        if (found := _GPU_LINE.match(line)) is None:
            continue
        name, uuid = found["name"].strip(), found["uuid"]
        if line.startswith("GPU"):
            gpu, parent = _Gpu(uuid, name), len(gpus)
            gpus.append(gpu)
        else:
            # Its parts stand for a GPU that is cut: CUDA takes none of it as a whole.
            if gpus[parent : parent + 1] == [gpu]:
                gpus.pop()
            gpus.append(_Gpu(uuid, f"{gpu.name} {name}"))
    return gpus


def _gpu_files() -> tuple[str, ...]:
    """Device files of GPUs that this process may open: cgroups forbid those of other jobs."""
    found = [path for path in DEVICES.glob("nvidia[0-9]*") if _opens(path)]
    # Under WSL there is one file for all.
    return tuple(sorted(map(str, found or DEVICES.glob("dxg"))))


def _opens(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_RDWR))
    except OSError:
        return False
    return True


def network_key() -> str:
    """What processes share that reach each other on the loopback address."""
    return f"{platform.node()}/{_boot_id()}/{_namespace('net')}"


def process_key(pid: int) -> str | None:
    """What tells a process from a later one with its number; None if it has ended."""
    started = _start_of(pid)
    return None if started is None else f"{process_space()}/{started}"


def process_space() -> str:
    """Where process numbers mean what they mean here: this boot of this machine or container."""
    return f"{_boot_id()}/{_namespace('pid')}"


def is_containers(process: str) -> bool:
    """Whether a process, as `process_key` gave it, has its number in a container alone."""
    return process.split("/")[1:2] not in ([_FIRST_PROCESS_SPACE], [""])


def sees_process(pid: int, process: str | None, *, host: str) -> bool | None:
    """Whether a process is at work; None if that cannot be seen from here.

    Args:
        pid: Its number.
        process: What tells it from a later one with its number, as `process_key` gave it.
        host: Where it was started.
    """
    if host != socket.gethostname() or process is None:
        return None
    if _is_in_sight(process):
        return _number_here(pid, process) is not None
    if process.startswith(process_space().partition("/")[0]) or is_containers(process):
        # In another container, some of which have a boot of their own on the same host.
        return None
    # Another boot: the machine has been started anew since.
    return False


def find_process(pid: int, process: str | None, *, host: str) -> int | None:
    """The number here of a process at work, where one in a container has another number.

    None if it has ended or cannot be seen from here. The arguments are those of `sees_process`.
    """
    if host != socket.gethostname() or process is None or not _is_in_sight(process):
        return None
    return _number_here(pid, process)


def number_inside(pid: int) -> int | None:
    """The number by which a process knows itself: another in a container; None if it has ended."""
    line = _line(_PROCESSES / f"{pid}/status", "NSpid:")
    return int(line.split()[-1]) if line else None


def _number_here(pid: int, process: str) -> int | None:
    """The number here of a process in sight; None if it has ended."""
    if _counts_here(process):
        return pid if process_key(pid) == process else None
    started = process.rpartition("/")[2]
    numbers = (int(path.name) for path in _PROCESSES.iterdir() if path.name.isdecimal())
    inside = (number for number in numbers if number_inside(number) == pid)
    return next((number for number in inside if _start_of(number) == started), None)


def _counts_here(process: str) -> bool:
    """Whether the number of a process means the same in this one."""
    return process.startswith(f"{process_space()}/")


def _is_in_sight(process: str) -> bool:
    """Whether a process is seen here as long as it lives: of this boot, all from outside of all."""
    if _counts_here(process):
        return True
    is_outside = _namespace("pid") == _FIRST_PROCESS_SPACE
    # A user may be shown nobody else's processes.
    return is_outside and process.startswith(f"{_boot_id()}/") and number_inside(1) == 1


def _start_of(pid: int | Literal["self"]) -> str | None:
    """When a process began, in the kernel's count; None if it has ended."""
    fields = _read(_PROCESSES / f"{pid}/stat").rpartition(")")[2].split()
    return None if len(fields) < 20 or fields[0] in "ZX" else fields[19]


def user_cache() -> Path | None:
    """`$XDG_CACHE_HOME/dnnjob`, by default `~/.cache/dnnjob`; None where nothing can be kept.

    A home that nobody knows of, that is not there, as in many containers, or that may not be looked
    into, is never made.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification says to ignore a relative path.
    if base.is_absolute():
        return base / "dnnjob"
    try:
        home = Path.home()
        return home / ".cache" / "dnnjob" if home.is_dir() else None
    except (OSError, RuntimeError):
        return None


def cpu_name() -> str:
    """Model name of the processor."""
    if line := _line(_CPUS, "model name"):
        return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_flags() -> str:
    """Instruction sets of the processor, in order; results are bit-equal only where they agree."""
    line = _line(_CPUS, "flags", "Features")
    return " ".join(sorted(line.partition(":")[2].split())) if line else platform.machine()


def lacks_instructions() -> str | None:
    """The instruction set that TensorFlow's packages need and this processor has not."""
    flags = cpu_flags().split()
    return (
        "AVX" if platform.machine() == "x86_64" and len(flags) > 1 and "avx" not in flags else None
    )


def package_version(*names: str) -> str | None:
    """Version of the first of `names` that is installed, without importing it."""
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def tensorflow_version() -> str | None:
    """Version of the TensorFlow that is installed, whatever its package is called."""
    return package_version("tensorflow", "tensorflow-cpu")


def user_name() -> str:
    """The name of the user, or the number of one whom the machine does not know."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container has its own list of users; Python 3.13 raises the latter.
        return str(os.getuid())


def git_state(
    folder: Path, environ: Mapping[str, str] = os.environ
) -> tuple[str | None, bool | None]:
    """Commit of the checkout around `folder` and whether it has uncommitted changes.

    An image has no git: `docker/dnnjob` asks the host's, and hands the answer in.
    """
    if told := environ.get(GIT_STATE):
        return told.partition("-")[0], told.endswith("-dirty")
    commit = _ask("git", "-C", str(folder), "rev-parse", "HEAD").strip() or None
    if commit is None:
        return None, None
    return commit, bool(_ask("git", "-C", str(folder), "status", "--porcelain", "-uno").strip())


def trim_heap() -> None:
    """Gives back what is free of the heap, where the C library can: glibc keeps pieces of it."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far, in MiB."""
    # Not ru_maxrss, which starts at the size of the process that started this one.
    if line := _line(_PROCESSES / "self/status", "VmHWM:"):
        return int(line.split()[1]) / 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def count_oom_kills() -> int:
    """Processes of this machine that the kernel has ended for want of memory since it started."""
    line = _line(_PROCESSES / "vmstat", "oom_kill ")
    return int(line.split()[1]) if line else 0


def process_age_s() -> float:
    """Seconds since this process was started, imports included; 0 where the kernel hides it."""
    if (started := _start_of("self")) is None:
        return 0.0
    started_s = float(started) / os.sysconf("SC_CLK_TCK")
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started_s)


def _boot_id() -> str:
    return _read(Path("/proc/sys/kernel/random/boot_id"))


def _namespace(kind: str) -> str:
    try:
        return str(Path(f"/proc/self/ns/{kind}").readlink())
    except OSError:
        return ""


def _core_of(cpu: int) -> str:
    siblings = _read(CPU_TOPOLOGY / f"cpu{cpu}" / "topology" / "thread_siblings_list")
    return siblings or str(cpu)


def _cgroup_folders(root: Path, own: Path) -> Iterator[Path]:
    """Folders whose limits hold for this process.

    A container mounts its own cgroup as the root; a Slurm job finds its limits on a cgroup far
    below it, or on one above that.
    """
    yield root
    for line in _read(own).splitlines():
        _, controllers, path = line.split(":", 2)
        # Version 2 has one hierarchy, version 1 one for each group of controllers.
        base = root / controllers.removeprefix("name=")
        yield base
        for name in Path(path).relative_to("/").parts:
            if name == "..":
                break
            base /= name
            yield base


def _cgroup2_quota(folder: Path) -> tuple[float | None, float]:
    quota, _, period = _read(folder / "cpu.max").partition(" ")
    return (float(quota), float(period)) if quota.isdecimal() else (None, 1.0)


def _cgroup1_quota(folder: Path) -> tuple[float | None, float]:
    quota = _read(folder / "cpu.cfs_quota_us")
    period = _read(folder / "cpu.cfs_period_us")
    return (float(quota), float(period)) if quota.isdecimal() and period else (None, 1.0)


def _visible_ids(visible: str) -> list[str]:
    ids = [part.strip() for part in visible.split(",") if part.strip()]
    # CUDA stops at the first that is none; Slurm writes a word where a job has no GPU.
    return list(itertools.takewhile(lambda one: one not in ("-1", "NoDevFiles"), ids))


def _line(path: Path, *starts: str) -> str:
    """The first line of a file that begins with one of `starts`; empty where none does."""
    return next((line for line in _read(path).splitlines() if line.startswith(starts)), "")


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _ask(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
