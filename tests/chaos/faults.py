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
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from dnnjob.runs import RunPaths
from tests.chaos.scene import Scene
from tests.chaos.works import Work
from tests.launch.trace import PHASES, Phase

_CLOCK = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
_WORKING: tuple[Phase, ...] = ("training", "checkpoint", "evaluation", "results")


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
        cold: Whether it needs processes that start as a user's do.
        small_disk: Whether the root lies on a file system of its own, of little room.
    """

    name: str
    strike: Callable[[Scene, str], None]
    heal: Callable[[Scene], None] = lambda scene: None
    phases: Sequence[Phase] = PHASES
    targets: Sequence[str] = ("all",)
    suits: Callable[[Work], bool] = lambda work: True
    refusal: str | None = None
    lacks: Callable[[], str | None] = lambda: None
    cold: bool = False
    small_disk: bool = False


def _send(*numbers: signal.Signals, pause_s: float = 0.2) -> Callable[[Scene, str], None]:
    def strike(scene: Scene, target: str) -> None:
        for number in numbers:
            scene.strike(target, number)
            time.sleep(pause_s)

    return strike


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
        for path in found[-1:] if newest else found:
            how(path, scene)

    return _kill_then(damage)


def _change_table(how: str) -> Callable[[Scene], None]:
    def change(scene: Scene) -> None:
        if how == "touched":
            os.utime(scene.table, (1, 1))
            return
        is_text = scene.table.suffix == ".csv"
        frame = pd.read_csv(scene.table) if is_text else pd.read_parquet(scene.table)
        if how == "shorter":
            frame = frame.iloc[: len(frame) // 2]
        else:
            frame.loc[5, "a"] += 1.0
        # In place, as an editor or a copy does: readers may meet half of it.
        if is_text:
            frame.to_csv(scene.table, index=False)
        else:
            frame.to_parquet(scene.table, row_group_size=200, index=False)

    return change


def _while_at_work(change: Callable[[Scene], None]) -> Callable[[Scene, str], None]:
    return lambda scene, target: change(scene)


def _fill(scene: Scene, target: str) -> None:
    """Takes all room of the file system that the root is on."""
    with suppress(OSError), (scene.root / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(65536))
    with suppress(OSError), (scene.root / "filler").open("ab", buffering=0) as file:
        while True:
            file.write(b"x")
    time.sleep(2.0)


def _freeze(scene: Scene, *, frozen: bool) -> None:
    sign = "+i" if frozen else "-i"
    folders = [path for path in scene.root.rglob("*") if path.is_dir()]
    subprocess.run(["chattr", sign, *map(str, folders)], check=False, capture_output=True)


def _cancel(scene: Scene, target: str) -> None:
    command = scene.command
    scene.start("cancel", scene.paths.root).wait(60)
    # What is waited for is the run.
    scene.commands.append(command)


def _resume_twice(scene: Scene, target: str) -> None:
    scene.strike("all", signal.SIGKILL)
    scene.await_end()
    first = scene.start("resume", scene.paths.root, *scene._here())
    second = scene.start("resume", scene.paths.root, *scene._here())
    first.wait(400)
    second.wait(400)
    codes = sorted((first.code or 0, second.code or 0))
    if codes[0] != 0:
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
    scene.paths = RunPaths(copy / scene.paths.root.relative_to(scene.root))
    scene.root = copy


def _shift_clock(scene: Scene, target: str) -> None:
    scene.strike("all", signal.SIGKILL)
    scene.await_end()
    shift = scene.rng.choice(["-1d", "+1d"])
    scene.environ |= {
        "LD_PRELOAD": str(_CLOCK),
        "FAKETIME": shift,
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_RESET": "1",
    }


def _needs_root() -> str | None:
    return "only root may do this" if os.geteuid() else None


def _needs_mounts() -> str | None:
    if (missing := _needs_root()) is not None:
        return missing
    # Root of a container may have no right to it.
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "chaos", folder], check=False, capture_output=True
        )
        if done.returncode:
            return "nothing may be mounted"
        subprocess.run(["umount", folder], check=False, capture_output=True)
    return None


def _needs_immutable() -> str | None:
    return _needs_root() or (None if shutil.which("chattr") else "there is no chattr")


def _is_alone(work: Work) -> bool:
    return work.executor == "here"


_TASKS = ("all", "chief", "follower", "launcher")
_TABLE = r"(?i)table|rows|source|file|column|csv|parquet|changed"
_ROOM = r"(?i)space|room|large|write|written|disk"
_SIGNALS = {
    "kill": _send(signal.SIGKILL),
    "term": _send(signal.SIGTERM),
    "int": _send(signal.SIGINT),
    "int twice": _send(signal.SIGINT, signal.SIGINT),
    "usr2": _send(signal.SIGUSR2),
    "stop": _send(signal.SIGSTOP, signal.SIGCONT, pause_s=1.0),
}
_CHECKPOINTS = "*/*/checkpoints/*.ckpt"
_STATISTICS = ".dnnjob/statistics/**/*"
_LATER: tuple[Phase, ...] = ("evaluation",)
_ALL = [
    *(Fault(name, strike, targets=_TASKS) for name, strike in _SIGNALS.items()),
    Fault(
        "no space",
        _fill,
        lambda scene: (scene.root / "filler").unlink(missing_ok=True),
        phases=_WORKING,
        lacks=_needs_mounts,
        small_disk=True,
    ),
    Fault("file size limit", _limit(resource.RLIMIT_FSIZE, lambda pid: 4096), phases=_WORKING),
    Fault("memory limit", _limit(resource.RLIMIT_AS, _memory_of)),
    Fault(
        "read-only",
        lambda scene, target: (_freeze(scene, frozen=True), time.sleep(2.0))[1],
        partial(_freeze, frozen=False),
        phases=_WORKING,
        lacks=_needs_immutable,
    ),
    Fault("checkpoint truncated", _damage(_truncate, _CHECKPOINTS, newest=True), phases=_WORKING),
    Fault("checkpoint flipped", _damage(_flip, _CHECKPOINTS, newest=True), phases=_WORKING),
    Fault("checkpoint deleted", _damage(_remove, _CHECKPOINTS, newest=True), phases=_WORKING),
    Fault("checkpoints flipped", _damage(_flip, _CHECKPOINTS), phases=_WORKING),
    Fault("part truncated", _damage(_truncate, "*/*/checkpoints/*.parquet"), phases=_LATER),
    Fault("part flipped", _damage(_flip, "*/*/checkpoints/*.parquet"), phases=_LATER),
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
    Fault("table touched", _kill_then(_change_table("touched")), phases=_WORKING),
    Fault("table changed", _kill_then(_change_table("changed")), phases=_WORKING, refusal=_TABLE),
    Fault("table shorter", _kill_then(_change_table("shorter")), phases=_WORKING, refusal=_TABLE),
    Fault(
        "table shorter under way",
        _while_at_work(_change_table("shorter")),
        refusal=_TABLE,
        # Before that it may be read as it is now, and is another table's run.
        phases=("training", "evaluation"),
    ),
    Fault("cancel", _cancel),
    Fault("two resumes", _resume_twice, phases=_WORKING, suits=_is_alone),
    Fault("copied while written", _copy, phases=_WORKING),
    Fault(
        "clock of a day before or after",
        _shift_clock,
        phases=_WORKING,
        cold=True,
        lacks=lambda: None if _CLOCK.exists() else "libfaketime is not installed",
    ),
]
FAULTS = {fault.name: fault for fault in _ALL}
