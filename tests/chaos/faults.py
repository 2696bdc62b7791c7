"""What happens to a run: each fault strikes once, and says what may come of it.

fault = FAULTS["kill"]
fault.strike(scene, "chief")         # at its moment
fault.heal(scene)                    # when the run has ended, before it goes on
"""

import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from dnnjob.runs import RunPaths
from tests.chaos import disk_faults, slurm_faults
from tests.chaos.scene import Missed, Scene, limit_s
from tests.chaos.works import Work
from tests.launch.trace import PHASES, Phase

When = Phase | Literal["write"]
_WORKING: tuple[When, ...] = ("training", "checkpoint", "evaluation", "results")
_WRITING: tuple[When, ...] = (*_WORKING, "write")
# Of "write" a process has stopped itself before or after it writes a file: any of those it writes.
_ANY: tuple[When, ...] = (*PHASES, "write")
_MEMORY_GROUPS = Path("/sys/fs/cgroup/memory")
"""Of control groups, version 1."""
# Of what is taken from then on.
_GROUP_BYTES = 4 * 2**20
_DAY_S, _LONG_STOP_S = 86_400, 1_000


@dataclass(frozen=True)
class Fault:
    """A fault.

    Attributes:
        name: Its name.
        strike: What happens at the moment.
        heal: What is put right before the run goes on.
        phases: When it may come.
        targets: Whom it may hit.
        suits: Whether it can come to a job.
        refusal: What the words of a refusal must match; without it nothing may be refused.
        lacks: Why this machine cannot have it; None if it can.
        ends: Whether the attempt ends of it, sooner or later, or must before the next fault.
        disk: What file system of its own the root must lie on; None for any.
    """

    name: str
    strike: Callable[[Scene, str], None]
    heal: Callable[[Scene], None] = lambda scene: None
    phases: Sequence[When] = _ANY
    targets: Sequence[str] = ("all",)
    suits: Callable[[Work], bool] = lambda work: True
    refusal: str | None = None
    lacks: Callable[[], str | None] = lambda: None
    ends: bool = True
    disk: type[disk_faults.SmallDisk] | None = None


def _send(*numbers: signal.Signals, pause_s: float = 0.2) -> Callable[[Scene, str], None]:
    def strike(scene: Scene, target: str) -> None:
        for number in numbers:
            scene.strike(target, number)
            time.sleep(pause_s)

    return strike


def _stop(scene: Scene, target: str) -> None:
    stopped = scene.processes(target)
    for number, pause_s in ((signal.SIGSTOP, scene.rng.uniform(1.0, 8.0)), (signal.SIGCONT, 0.0)):
        for pid in stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        time.sleep(pause_s)


def _stop_long(scene: Scene, target: str) -> None:
    """A stop as a closed laptop makes it: all clocks have gone on meanwhile."""
    scene.strike("all", signal.SIGSTOP)
    scene.set_clock(_LONG_STOP_S, _LONG_STOP_S)
    time.sleep(0.5)
    scene.strike("all", signal.SIGCONT)


def _kill_then(damage: Callable[[Scene], None]) -> Callable[[Scene, str], None]:
    """What may happen to files while nothing runs."""

    def strike(scene: Scene, target: str) -> None:
        scene.strike("all", signal.SIGKILL)
        scene.await_end()
        damage(scene)

    return strike


def _limit(kind: int, allow: Callable[[int], int]) -> Callable[[Scene, str], None]:
    def strike(scene: Scene, target: str) -> None:
        for pid in scene.processes(target):
            with suppress(OSError, ValueError):
                hard = resource.prlimit(pid, kind)[1]
                resource.prlimit(pid, kind, (allow(pid), hard))

    return strike


def _memory_of(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    return (pages + 64) * os.sysconf("SC_PAGESIZE")


def _limit_group(scene: Scene, target: str) -> None:
    """What the kernel does to a job that takes more memory than it was given: it kills."""
    _free_group(scene)
    group = _group(scene)
    group.mkdir()
    (group / "memory.limit_in_bytes").write_text(str(_GROUP_BYTES))
    for pid in scene.processes(target):
        with suppress(OSError):
            (group / "cgroup.procs").write_text(str(pid))


def _free_group(scene: Scene) -> None:
    with suppress(FileNotFoundError):
        for pid in (_group(scene) / "cgroup.procs").read_text().split():
            with suppress(OSError):
                (_own_group() / "cgroup.procs").write_text(pid)
        _group(scene).rmdir()


def _group(scene: Scene) -> Path:
    return _own_group() / scene.folder.name


def _own_group() -> Path:
    """The one that this process is in, and with it all that it starts."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    named = dict(line.split(":", 2)[1:] for line in lines)
    return _MEMORY_GROUPS / named.get("memory", "none").lstrip("/")


def _flip(path: Path, scene: Scene) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[scene.rng.randrange(len(content))] ^= 1 << scene.rng.randrange(8)
        path.write_bytes(content)


def _truncate(path: Path, scene: Scene) -> None:
    size = path.stat().st_size
    os.truncate(path, scene.rng.randrange(size) if size else 0)


def _remove(path: Path, scene: Scene) -> None:
    path.unlink()


def _damage(
    how: Callable[[Path, Scene], None], pattern: str, *, newest: bool = False
) -> Callable[[Scene, str], None]:
    """Damages the files of a run that match, or the newest of them."""

    def damage(scene: Scene) -> None:
        found = sorted(
            (path for path in scene.root.glob(pattern) if path.is_file()),
            key=lambda path: path.stat().st_mtime_ns,
        )
        if not found:
            raise Missed
        for path in found[-1:] if newest else found:
            scene.damaged.add(path)
            how(path, scene)

    return _kill_then(damage)


def _damage_part(how: Callable[[Path, Scene], None]) -> Callable[[Scene, str], None]:
    """Damages predictions that the run has left on its way, as soon as there are any."""
    pattern = "*/*/checkpoints/*.[np][pa][rz]*"

    def strike(scene: Scene, target: str) -> None:
        while not any(scene.root.glob(pattern)) and not scene.is_over:
            time.sleep(0.005)
        _damage(how, pattern)(scene, target)

    return strike


def _damage_copy(how: Callable[[Path, Scene], None]) -> Callable[[Scene, str], None]:
    """Damages the copy of the table in scratch while the run reads it."""

    def damage(scene: Scene, target: str) -> None:
        parts = [path for path in scene.temporary.glob("dnnjob-*/**/*.parquet") if path.is_file()]
        if not parts:
            raise Missed
        how(scene.rng.choice(parts), scene)

    return damage


def _change_table(how: str) -> Callable[[Scene], None]:
    def change(scene: Scene) -> None:
        if how == "touched":
            os.utime(scene.table, (1, 1))
            return
        place = scene.table
        is_text = scene.table.suffix == ".csv"
        frame = pd.read_csv(scene.table) if is_text else pd.read_parquet(scene.table)
        if how == "shorter":
            frame = frame.iloc[: len(frame) // 2]
        else:
            frame.loc[5, "a"] += 1.0
        # In place, as an editor or a copy does: readers may meet half of it. Or renamed onto it.
        path = place.with_name(f"new{place.suffix}") if how == "replaced" else place
        if is_text:
            frame.to_csv(path, index=False)
        else:
            frame.to_parquet(path, row_group_size=200, index=False)
        if path != place:
            path.replace(place)

    return change


def _while_at_work(change: Callable[[Scene], None]) -> Callable[[Scene, str], None]:
    return lambda scene, target: change(scene)


def _cancel(scene: Scene, target: str) -> None:
    scene.start_beside("cancel", scene.place).wait(limit_s())


def _resume_one_alive(scene: Scene, target: str) -> None:
    """A second hand at a run that is at work; it must be refused and change nothing."""
    second = scene.start_beside("resume", scene.place, *scene.here)
    second.wait(limit_s())
    if second.code == 0 and scene.command.code is None:
        scene.lies.append(f"a run that is alive was resumed: {second.talk()[-300:]}")


def _resume_twice(scene: Scene, target: str) -> None:
    scene.strike("all", signal.SIGKILL)
    scene.await_end()
    first = scene.start("resume", scene.place, *scene.here)
    second = scene.start("resume", scene.place, *scene.here)
    first.wait(limit_s())
    second.wait(limit_s())
    codes = sorted((first.code or 0, second.code or 0))
    if codes[0] != 0 and scene.work.points == 1:
        scene.refusals.append(
            f"both refused ({codes}): {first.talk()[-300:]} {second.talk()[-300:]}"
        )


def _copy(scene: Scene, target: str) -> None:
    """Copies the root while it is written, and goes on with the copy."""
    copy = scene.folder / "copied"
    program = ["rsync", "-a"] if shutil.which("rsync") else ["cp", "-a"]
    subprocess.run([*program, f"{scene.root}/.", str(copy)], check=False, capture_output=True)
    scene.strike("all", signal.SIGKILL)
    scene.await_end()
    scene.runs = [RunPaths(copy / paths.root.relative_to(scene.root)) for paths in scene.runs]
    scene.place = copy / scene.place.relative_to(scene.root)
    scene.root = copy
    scene.is_final = True


def _shift_clock(scene: Scene, target: str) -> None:
    scene.strike("all", signal.SIGKILL)
    scene.await_end()
    scene.set_clock(scene.rng.choice([-_DAY_S, _DAY_S]))


def _shift_clock_at_work(scene: Scene, target: str) -> None:
    """Sets the clock a day off, and back where it comes to it."""
    scene.set_clock(scene.rng.choice([-_DAY_S, _DAY_S]))
    scene.wake()
    time.sleep(scene.rng.uniform(1.0, 4.0))
    scene.set_clock(scene.rng.choice([-_DAY_S, 0, _DAY_S]))


def _needs_groups() -> str | None:
    if (missing := disk_faults.needs_root()) is not None:
        return missing
    with suppress(OSError):
        probe = _own_group() / f"chaos-{os.getpid()}"
        probe.mkdir()
        probe.rmdir()
        return None
    return "there are no cgroups of version 1 that may be made"


def _is_alone(work: Work) -> bool:
    return work.executor == "here"


_TASKS = ("all", "chief", "follower", "launcher", "lane")
_TABLE = r"(?i)table|rows|source|file|column|csv|parquet|changed"
_SIGNALS = {
    "kill": _send(signal.SIGKILL),
    "term": _send(signal.SIGTERM),
    "int": _send(signal.SIGINT),
    "int twice": _send(signal.SIGINT, signal.SIGINT),
    "usr2": _send(signal.SIGUSR2),
    "stop": _stop,
}
_CHECKPOINTS = "*/*/checkpoints/*.ckpt"
_STATISTICS = ".dnnjob/statistics/**/*"
_ALL = [
    *(
        Fault(name, strike, targets=_TASKS, ends=name != "stop")
        for name, strike in _SIGNALS.items()
    ),
    Fault(
        "no space",
        disk_faults.fill,
        disk_faults.empty,
        phases=_WRITING,
        lacks=disk_faults.needs_mounts,
        # A tmpfs that nobody has mounted by name is taken for one of the container's own.
        suits=lambda work: not work.is_contained,
        disk=disk_faults.SmallDisk,
    ),
    Fault(
        "quota",
        disk_faults.limit,
        disk_faults.lift,
        phases=_WRITING,
        lacks=disk_faults.needs_limits,
        disk=disk_faults.LimitedDisk,
    ),
    Fault(
        "file size limit",
        _limit(resource.RLIMIT_FSIZE, lambda pid: 4096),
        phases=_WRITING,
    ),
    Fault("memory limit", _limit(resource.RLIMIT_AS, _memory_of)),
    Fault("memory of a group", _limit_group, _free_group, lacks=_needs_groups),
    Fault(
        "read-only",
        disk_faults.freeze_for_now,
        disk_faults.thaw,
        phases=_WRITING,
        lacks=disk_faults.needs_immutable,
    ),
    Fault(
        "remounted read-only",
        disk_faults.remount_for_now,
        disk_faults.unmount,
        phases=_WRITING,
        lacks=disk_faults.needs_mounts,
        # Mounts of the host that come later are none of a container's.
        suits=lambda work: not work.is_contained,
    ),
    Fault("checkpoint truncated", _damage(_truncate, _CHECKPOINTS, newest=True), phases=_WORKING),
    Fault("checkpoint flipped", _damage(_flip, _CHECKPOINTS, newest=True), phases=_WORKING),
    Fault("checkpoint deleted", _damage(_remove, _CHECKPOINTS, newest=True), phases=_WORKING),
    Fault("checkpoints flipped", _damage(_flip, _CHECKPOINTS), phases=_WORKING),
    *(
        Fault(
            f"part {name}",
            _damage_part(how),
            phases=("evaluation",),
            suits=lambda work: work.has_parts,
        )
        for name, how in (("truncated", _truncate), ("flipped", _flip), ("deleted", _remove))
    ),
    Fault(
        "statistics truncated",
        _damage(_truncate, _STATISTICS),
        phases=_WORKING,
        suits=lambda work: work.is_streamed,
    ),
    Fault(
        "statistics flipped",
        _damage(_flip, _STATISTICS),
        phases=_WORKING,
        suits=lambda work: work.is_streamed,
    ),
    Fault(
        "scratch copy truncated",
        _damage_copy(_truncate),
        phases=("training", "evaluation"),
        suits=lambda work: work.is_copied,
    ),
    Fault(
        "scratch copy flipped",
        _damage_copy(_flip),
        phases=("training", "evaluation"),
        suits=lambda work: work.is_copied,
    ),
    Fault("table touched", _kill_then(_change_table("touched")), phases=_WORKING),
    *(
        Fault(
            f"table {how}",
            _kill_then(_change_table(how)),
            Scene.restore_table,
            phases=_WORKING,
            refusal=_TABLE,
        )
        for how in ("changed", "shorter")
    ),
    *(
        Fault(
            f"table {how} under way",
            _while_at_work(_change_table(how)),
            Scene.restore_table,
            refusal=_TABLE,
            # Before that it may be read as it is now, and is another table's run.
            phases=("training", "evaluation"),
        )
        for how in ("touched", "changed", "shorter", "replaced")
    ),
    Fault("cancel", _cancel),
    Fault("cancel beside the end", _cancel, phases=("results", "ending")),
    Fault("two resumes", _resume_twice, phases=_WORKING, suits=_is_alone),
    Fault(
        "resume of one alive",
        _resume_one_alive,
        phases=_WORKING,
        suits=lambda work: work.is_in_foreground,
        ends=False,
    ),
    Fault("copied while written", _copy, phases=_WORKING),
    *(
        Fault(name, strike, suits=lambda work: work.executor == "slurm", phases=PHASES)
        for name, strike in (
            ("requeued by hand", slurm_faults.requeue),
            ("requeued and held", slurm_faults.requeue_and_hold),
            ("slurmctld restarted", slurm_faults.restart_controller),
            ("nodes drained", slurm_faults.drain),
            ("preempted", slurm_faults.preempt),
            ("node killed", slurm_faults.kill_node),
        )
    ),
    Fault(
        "accounting gone",
        slurm_faults.end_accounting,
        suits=lambda work: work.executor == "slurm",
        phases=PHASES,
        lacks=slurm_faults.lacks_accounting,
        ends=False,
    ),
    Fault("clock a day off", _shift_clock, phases=_WORKING),
    Fault("clock back and forth", _shift_clock_at_work, ends=False),
    Fault("stop of 1000 s", _stop_long, ends=False),
]
FAULTS = {fault.name: fault for fault in _ALL}
