"""What the machine gives, from made-up files of the kernel and from the real ones."""

import getpass
import os
import platform
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dnnjob import machine
from dnnjob.machine import find_process, process_key, sees_process, user_cache


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "cgroup").mkdir()
    return tmp_path / "cgroup"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Our place among the cgroups: a Slurm step under version 2."""
    path = tmp_path / "own"
    path.write_text("0::/system.slice/slurmstepd.scope/job_7/step_0\n")
    return path


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder alone on the PATH, for made-up commands."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def make_command(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


# Cores


def test_the_least_grant_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(machine, "_core_of", str)
    monkeypatch.setattr(machine, "cgroup_cpus", lambda _: 3.9)
    assert machine.core_grants({}) == {"affinity": 8, "cgroup": 3}
    assert machine.core_grants({"SLURM_CPUS_PER_TASK": "2"})["Slurm"] == 2
    assert machine.count_cores({"SLURM_CPUS_PER_TASK": "2"}) == 2
    assert machine.count_cores({"SLURM_CPUS_PER_TASK": "16"}) == 3
    assert machine.count_cores({"SLURM_CPUS_PER_TASK": "many"}) == 3


def test_less_than_a_cpu_is_still_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cgroup_cpus", lambda _: 0.5)
    assert machine.count_cores({}) == 1


def test_hyper_threads_count_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "CPU_TOPOLOGY", tmp_path)
    for cpu in range(8):
        siblings = f"{cpu % 4},{cpu % 4 + 4}\n"
        write(tmp_path / f"cpu{cpu}" / "topology" / "thread_siblings_list", siblings)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 4, 5, 6})
    monkeypatch.setattr(machine, "cgroup_cpus", lambda _: None)
    assert machine.count_cores({}) == 3


def test_a_real_affinity_is_respected() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "from dnnjob.machine import core_grants; print(core_grants({})['affinity'])"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, check=True).stdout == b"1\n"


def test_a_quota_of_the_container_holds(root: Path, own: Path) -> None:
    write(root / "cpu.max", "150000 100000\n")
    assert machine.cgroup_cpus(root, own) == 1.5


def test_a_quota_anywhere_above_us_holds(root: Path, own: Path) -> None:
    write(root / "system.slice" / "cpu.max", "800000 100000\n")
    write(root / "system.slice/slurmstepd.scope/job_7/cpu.max", "200000 100000\n")
    write(root / "system.slice/slurmstepd.scope/job_7/step_0/cpu.max", "max 100000\n")
    write(root / "system.slice/slurmstepd.scope/job_8/cpu.max", "100000 100000\n")
    assert machine.cgroup_cpus(root, own) == 2.0


def test_a_quota_of_version_1_holds(root: Path, own: Path) -> None:
    own.write_text("4:cpu,cpuacct:/slurm/job_7\n3:memory:/slurm/job_7\n1:name=systemd:/\n")
    write(root / "cpu,cpuacct" / "cpu.cfs_quota_us", "-1\n")
    write(root / "cpu,cpuacct" / "cpu.cfs_period_us", "100000\n")
    assert machine.cgroup_cpus(root, own) is None
    write(root / "cpu,cpuacct" / "slurm/job_7" / "cpu.cfs_quota_us", "400000\n")
    write(root / "cpu,cpuacct" / "slurm/job_7" / "cpu.cfs_period_us", "100000\n")
    assert machine.cgroup_cpus(root, own) == 4.0


def test_without_cgroups_there_is_no_quota(root: Path, tmp_path: Path) -> None:
    assert machine.cgroup_cpus(root, tmp_path / "none") is None


# Memory


def test_the_least_memory_limit_counts(root: Path, own: Path) -> None:
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    write(root / "memory.max", "max\n")
    assert machine.memory_limit_bytes(root, own) == physical
    write(root / "system.slice/slurmstepd.scope/job_7/memory.max", "1073741824\n")
    write(root / "system.slice/slurmstepd.scope/memory.max", "2147483648\n")
    assert machine.memory_limit_bytes(root, own) == 2**30


def test_the_memory_limit_of_version_1_counts(root: Path, own: Path) -> None:
    own.write_text("3:memory:/slurm/job_7\n")
    write(root / "memory" / "memory.limit_in_bytes", "9223372036854771712\n")
    write(root / "memory" / "slurm/job_7" / "memory.limit_in_bytes", "536870912\n")
    assert machine.memory_limit_bytes(root, own) == 2**29


# GPUs


TOLD = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-aaaa-1)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bbbb-2)
  MIG 3g.20gb     Device  0: (UUID: MIG-cccc-3)
  MIG 1g.5gb      Device  1: (UUID: MIG-dddd-4)
"""


@pytest.fixture
def driver(command: Path) -> None:
    make_command(command, "nvidia-smi", f"echo '{TOLD}'")


@pytest.fixture
def silent(command: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The device files of a machine whose driver says nothing."""
    make_command(command, "nvidia-smi", "echo 'no devices'; exit 9")
    monkeypatch.setattr(machine, "DEVICES", tmp_path / "dev")
    (tmp_path / "dev").mkdir()
    return tmp_path / "dev"


@pytest.mark.usefixtures("driver")
def test_gpus_and_their_parts_are_named_by_the_driver() -> None:
    assert machine.list_gpus({}) == (
        "NVIDIA H100 80GB HBM3",
        "NVIDIA A100-SXM4-40GB MIG 3g.20gb",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
    )
    assert machine.visible_gpus({}) == ("GPU-aaaa-1", "MIG-cccc-3", "MIG-dddd-4")


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize(
    ("visible", "ids"),
    [
        ("0", ("0",)),
        ("1,0", ("1", "0")),
        ("", ()),
        ("-1", ()),
        ("0,-1,1", ("0",)),
        ("NoDevFiles", ()),
        ("MIG-cccc-3", ("MIG-cccc-3",)),
    ],
)
def test_ids_that_are_given_stay_as_they_are(visible: str, ids: tuple[str, ...]) -> None:
    given = {"CUDA_VISIBLE_DEVICES": visible}
    assert machine.visible_gpus(given) == ids
    assert len(machine.list_gpus(given)) == len(ids)
    if visible.startswith("MIG"):
        assert machine.list_gpus(given) == ("NVIDIA A100-SXM4-40GB MIG 3g.20gb",)


def test_device_files_count_where_the_driver_is_silent(silent: Path) -> None:
    assert machine.visible_gpus({}) == ()
    assert machine.list_gpus({}) == ()
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (silent / name).touch()

    assert machine.visible_gpus({}) == ("0", "1")
    assert machine.present_gpus() == (str(silent / "nvidia0"), str(silent / "nvidia1"))


# The rest


def test_git_tells_commit_and_changes(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        return subprocess.run(
            ["git", "-C", str(tmp_path), *who, *arguments],
            check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip

    assert machine.git_state(tmp_path) == (None, None)
    git("init", "-q")
    write(tmp_path / "a.txt", "a")
    git("add", ".")
    git("commit", "-qm", "a")
    commit = git("rev-parse", "HEAD")
    assert machine.git_state(tmp_path) == (commit, False)
    write(tmp_path / "a.txt", "b")
    assert machine.git_state(tmp_path) == (commit, True)


def test_what_the_host_says_of_git_counts_where_there_is_none(tmp_path: Path) -> None:
    assert machine.git_state(tmp_path, {"DNNJOB_GIT_STATE": "4f818e7"}) == ("4f818e7", False)
    assert machine.git_state(tmp_path, {"DNNJOB_GIT_STATE": "4f818e7-dirty"}) == ("4f818e7", True)


@pytest.mark.parametrize("error", [KeyError, OSError])
def test_a_user_whom_the_machine_does_not_know_has_a_number(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def ask() -> str:
        raise error("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(getpass, "getuser", ask)
    assert machine.user_name() == str(os.getuid())


def test_a_machine_without_git_tells_nothing(command: Path, tmp_path: Path) -> None:
    assert machine.git_state(tmp_path) == (None, None)


def test_versions_are_found_without_an_import() -> None:
    assert machine.package_version("no-such-package", "numpy")
    assert machine.package_version("no-such-package") is None
    assert machine.tensorflow_version()


def test_memory_time_and_age_of_this_process_are_plausible() -> None:
    assert 10 < machine.peak_rss_mb() < 100_000
    age = machine.process_age_s()
    time.sleep(0.05)
    assert 0.02 < machine.process_age_s() - age < 5


def test_the_processor_has_a_name_and_instructions() -> None:
    assert machine.cpu_name()
    flags = machine.cpu_flags().split()
    assert flags == sorted(flags)


@pytest.mark.parametrize(
    ("architecture", "flags", "lacking"),
    [
        ("x86_64", "fpu sse2", "AVX"),
        ("x86_64", "avx fpu sse2", None),
        ("x86_64", "x86_64", None),  # nothing is known of it
        ("aarch64", "asimd fp", None),
    ],
)
def test_a_processor_without_avx_is_no_use_to_tensorflow(
    monkeypatch: pytest.MonkeyPatch, architecture: str, flags: str, lacking: str | None
) -> None:
    monkeypatch.setattr(machine.platform, "machine", lambda: architecture)
    monkeypatch.setattr(machine, "cpu_flags", lambda: flags)

    assert machine.lacks_instructions() == lacking


def test_the_peak_is_this_process_own_and_not_that_of_its_parent() -> None:
    code = "import subprocess, sys; held = bytearray(500 * 2**20); " + (
        "print(subprocess.check_output([sys.executable, '-c', "
        "'from dnnjob import machine; print(machine.peak_rss_mb())'], text=True))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert float(done.stdout) < 300


def test_the_cache_is_under_home_unless_xdg_names_an_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert user_cache() == tmp_path / ".cache" / "dnnjob"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert user_cache() == tmp_path / ".cache" / "dnnjob"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert user_cache() == tmp_path / "xdg" / "dnnjob"


def test_a_home_that_is_not_there_or_not_known_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    assert user_cache() is None
    assert not (tmp_path / "none").exists()

    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", unknown)
    assert user_cache() is None


HERE = socket.gethostname()
KEY = str(process_key(os.getpid()))
BOOT = KEY.partition("/")[0]


def test_a_process_that_lives_here_is_at_work() -> None:
    assert sees_process(os.getpid(), KEY, host=HERE) is True


def test_a_process_that_ended_here_is_not_at_work() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        key = process_key(process.pid)
        process.kill()

    assert key is not None
    assert sees_process(process.pid, key, host=HERE) is False


def test_another_process_with_its_number_is_not_it() -> None:
    assert sees_process(os.getpid(), KEY[:-1] + "x", host=HERE) is False


def test_a_process_of_another_host_cannot_be_seen() -> None:
    assert sees_process(os.getpid(), KEY, host="elsewhere") is None


def test_from_a_container_a_process_in_another_one_cannot_be_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "_FIRST_PROCESS_SPACE", "pid:[2]")
    assert sees_process(1, f"{BOOT}/pid:[1]/12", host=HERE) is None
    assert find_process(1, f"{BOOT}/pid:[1]/12", host=HERE) is None


def test_from_the_host_a_process_in_a_container_is_seen_by_its_number_here() -> None:
    """The first process of a container, as a container runtime makes one."""
    tell = (
        "import os; from dnnjob.machine import process_key;"
        "print(os.getpid(), process_key(os.getpid()), flush=True); input()"
    )
    as_root = ["--user", "--map-root-user"] if os.geteuid() else []
    inside = ["unshare", *as_root, "--pid", "--fork", "--mount-proc"]
    command = [*inside, sys.executable, "-c", tell]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pid, _, key = process.stdout.readline().strip().partition(" ")
        seen = sees_process(int(pid), key, host=HERE)
        number = find_process(int(pid), key, host=HERE)
        process.communicate("\n")

    assert pid == "1"
    # Where these tests are in a container themselves, others are out of sight.
    is_outside = Path("/proc/self/ns/pid").readlink() == Path("pid:[4026531836]")
    assert seen is (True if is_outside else None)
    assert (number not in (None, 1)) is is_outside
    assert sees_process(int(pid), key, host=HERE) is (False if is_outside else None)


def test_before_this_boot_nothing_is_at_work() -> None:
    assert sees_process(os.getpid(), "another-boot/pid:[4026531836]/12", host=HERE) is False


def test_a_container_with_a_boot_of_its_own_cannot_be_seen() -> None:
    assert sees_process(1, "another-boot/pid:[4026532999]/12", host=HERE) is None


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc_trim is glibc's")
def test_memory_that_is_free_in_pieces_goes_back() -> None:
    script = """
import resource
from pathlib import Path
from dnnjob.machine import trim_heap

def resident_mb():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20

pieces = [bytes(2000) for _ in range(50_000)]
last = bytes(2000)
del pieces
before = resident_mb()
trim_heap()
print(before - resident_mb())
"""
    freed_mb = subprocess.check_output([sys.executable, "-c", script], text=True)
    assert float(freed_mb) > 50
