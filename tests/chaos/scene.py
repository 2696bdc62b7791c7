"""A run that is disturbed: its commands, its processes, the moment, and how it goes on.

scene = Scene(work, folder, starter=starter, warm=True)
scene.begin()
scene.reach("training", 0.3, phases_s)
...                                   # a fault
scene.await_end()
scene.go_on()
"""

import os
import random
import shutil
import signal
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

import tomli_w

from dnnjob.launch.watch.run_selection import open_runs
from dnnjob.launch.watch.run_views import RunView, look
from dnnjob.runs import RunPaths, State
from tests.chaos.starter import Command, Starter
from tests.chaos.works import Work
from tests.launch.trace import PHASES, Phase, Trace
from tests.slurm.clusters import Cluster

# On a machine with other work everything takes its time: this only ends what hangs.
LIMIT_S = 400.0
_LOOK_S = 0.01
_SLURM = {"cpus_per_task": 1, "memory_gb": 1.5, "time_limit_min": 10, "warning_lead_s": 30}
_ATTEMPTS = 4


class Hang(Exception):
    """Something did not come to its end."""


class Missed(Exception):
    """There was nothing yet, or no more, for a fault to strike."""


class Scene:
    """One run and everything around it.

    Args:
        work: The job.
        folder: For the table, the root and what the commands leave in their temporary folder.
        starter: Starts the commands.
        warm: Whether they begin with everything imported.
        rng: For the choices of a fault.
    """

    def __init__(
        self, work: Work, folder: Path, *, starter: Starter, warm: bool, rng: random.Random
    ) -> None:
        self.work, self.folder, self.rng, self.warm = work, folder, rng, warm
        self.job = work.write(folder)
        self.table = next(path for path in folder.iterdir() if path != self.job)
        self.root = folder / "runs"
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.commands: list[Command] = []
        self.traces: list[Trace] = []
        self.refusals: list[str] = []
        self.environ: dict[str, str] = {}
        """What commands started from now on have besides."""
        self.cluster: Cluster
        """Where it is submitted to, if that is Slurm."""
        self.runs: list[RunPaths]
        self.place: Path
        """What commands are told of: the folder of the run, or of the sweep."""
        self.halts_at: str | None = None
        """At which write the first command stops itself: "before NAME" or "after NAME"."""
        self.has_clock = False
        """Whether the clocks of the commands can be set."""
        self._clock = folder / "clock"
        self.set_clock(0.0, 0.0)
        self.lies: list[str] = []
        """What a fault itself saw that is wrong."""
        self._starter = starter

    @property
    def command(self) -> Command:
        """The one that was started last."""
        return self.commands[-1]

    @property
    def trace(self) -> Trace:
        """That of the present attempt, up to now."""
        self.traces[-1].read()
        return self.traces[-1]

    def begin(self) -> None:
        """Starts the job, and returns when its run folders are there."""
        match self.work.executor:
            case "here":
                words = ["run", self.job, "--root", self.root]
            case "pool":
                words = self._submit(executor="local")
            case _:
                words = self._submit(executor="slurm", partition="graceful", **_SLURM)
        self.start(*words)
        until = time.monotonic() + LIMIT_S
        lines = self.work.points if self.work.executor == "here" else 1
        while (printed := _read(self.command.printed)).count("\n") < lines:
            if self.command.code or time.monotonic() > until:
                raise Hang(f"no run folder: {self.command.talk()[-500:]}")
            time.sleep(0.01)
        self.place = Path(printed.split()[0])
        if self.work.points > 1:
            (self.place,) = (path for path in self.root.glob("*/sweeps/*") if path.is_dir())
        self.runs = list(open_runs(self.place))

    def _submit(self, **profile: object) -> list[object]:
        path = self.folder / "where.profile"
        path.write_text(tomli_w.dumps(profile))
        return ["submit", self.job, "--profile", path, "--root", self.root]

    def start(self, *words: object) -> Command:
        """Starts a command beside or after those before."""
        self.traces.append(Trace(self.folder / f"trace-{len(self.traces)}.jsonl"))
        environ = {"TMPDIR": str(self.temporary), **self.environ}
        if self.has_clock:
            environ |= {"DNNJOB_CLOCK": str(self._clock)}
        if self.halts_at and len(self.commands) == 0:
            environ |= {"DNNJOB_HALT": self.halts_at}
        self.commands.append(
            self._starter.start(
                words,
                trace=self.traces[-1].path,
                cwd=self.folder,
                environ=environ,
                warm=self.warm,
            )
        )
        return self.command

    def reach(
        self, phase: Phase | Literal["write"], share: float, phases_s: dict[str, float]
    ) -> bool:
        """Returns within a phase; False where the run was faster.

        Args:
            phase: The phase; of "write" the process that writes has stopped itself.
            share: Of its length to wait; of training, of its epochs.
            phases_s: How long phases take undisturbed.
        """
        epochs = phases_s.get("epochs", 0)
        reached: dict[str, Callable[[Trace], bool]] = {
            "write": lambda trace: trace.halted is not None,
            "start-up": lambda trace: True,
            "training": lambda t: t.has("begin", "train") and t.epoch >= int(share * 0.9 * epochs),
            "checkpoint": lambda t: t.writes_checkpoint and t.epoch >= int(share * 0.7 * epochs),
            "evaluation": lambda trace: trace.has("end", "train"),
            "results": lambda trace: trace.has("begin", "report"),
            "ending": lambda trace: trace.has("written", "report.json"),
        }
        until = time.monotonic() + LIMIT_S
        while not reached[phase](self.trace):
            if self.is_over:
                return False
            if time.monotonic() > until:
                raise Hang(f"never came to {phase}: {self.command.talk()[-500:]}")
            time.sleep(_LOOK_S)
        if phase not in ("training", "checkpoint", "write"):
            time.sleep(share * phases_s[phase])
        return not self.is_over

    @property
    def phase(self) -> str:
        """Where it is now."""
        if self.traces and self.trace.halted is not None:
            return f"write {self.trace.halted}"
        return self.trace.phase if self.traces else PHASES[0]

    def wake(self) -> None:
        """Has whoever stopped itself at a write go on."""
        if self.traces and self.trace.halted is not None:
            self.strike("all", signal.SIGCONT)

    @property
    def is_over(self) -> bool:
        """Whether nothing works on the run any more."""
        if self.work.executor == "here" or (self.work.executor == "pool" and self.commands[1:]):
            return self.command.code is not None
        if self.command.code not in (None, 0):
            return True
        if all(view.is_over for view in self.views):
            return True
        return self.work.executor == "pool" and not any(self.processes("run"))

    @property
    def views(self) -> tuple[RunView, ...]:
        """What `dnnjob status` says of each run."""
        return look(self.runs)

    @property
    def states(self) -> list[State | None]:
        """How each run stands, as `dnnjob status` says."""
        return [view.state for view in self.views]

    def processes(self, target: str) -> list[int]:
        """Processes of the run that live: all, those of one task, or of what started it."""
        everyone = list(self._own())
        told = self.traces and self.trace.pids and self.work.points == 1
        chief = self.trace.pids[-1] if told else None
        tasks = [pid for pid in everyone if pid == chief or b"dnnjob.launch" in _command_line(pid)]
        match target:
            case "chief":
                return [pid for pid in everyone if pid == chief]
            case "follower":
                return [pid for pid in tasks if pid != chief]
            case "lane":
                return self.rng.sample(tasks, min(1, len(tasks)))
            case "launcher":
                return [pid for pid in everyone if pid not in tasks] or everyone
            case _:
                return everyone

    def set_clock(self, day_s: float, forward_s: float = 0.0) -> None:
        """Shifts the time of day, and the clocks that only go forward, as the commands see them."""
        with self._clock.open("r+b" if self._clock.exists() else "wb") as file:
            file.write(struct.pack("dd", day_s, forward_s))

    def strike(self, target: str, number: signal.Signals) -> None:
        """Sends a signal."""
        for pid in self.processes(target):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def await_end(self) -> None:
        """Returns when nothing of the run is at work.

        Raises:
            Hang: If that takes too long.
        """
        until = time.monotonic() + LIMIT_S
        while not self.is_over or any(self._own()):
            if time.monotonic() > until:
                raise Hang(f"{self.phase} did not end: {self.command.talk()[-500:]}")
            time.sleep(0.05)

    def go_on(self, until: list[State | None]) -> None:
        """Resumes until the runs stand as they are to, as a user does; refusals are kept."""
        for _ in range(_ATTEMPTS):
            if self.states == until or self.refusals:
                return
            self.start("resume", self.place, *self.here)
            self.await_end()
            if (code := self.command.code) and self.states != until:
                self.refusals.append(f"code {code}: {self.command.talk().strip()[-600:]}")

    def end(self) -> None:
        """Ends what is left of it, and removes its folder."""
        self.strike("all", signal.SIGCONT)
        self.strike("all", signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def here(self) -> list[str]:
        """What has a `resume` go on in the foreground."""
        return ["--here"] if self.work.executor == "pool" else []

    def _own(self) -> Iterator[int]:
        """Living processes whose temporary folder is this scene's."""
        own = f"TMPDIR={self.temporary}".encode()
        groups = {command.pid for command in self.commands}
        for entry in os.listdir("/proc"):  # noqa: PTH208 - names are all that is wanted
            if not entry.isdecimal() or int(entry) == os.getpid():
                continue
            with suppress(OSError):
                # Slurm gives its jobs another temporary folder, but they name files of this one.
                if str(self.folder).encode() in _command_line(int(entry)):
                    yield int(entry)
                    continue
                # A warm process' environment as the kernel knows it is that of its origin.
                group = os.getpgid(int(entry))
                if group not in groups:
                    variables = Path(f"/proc/{entry}/environ").read_bytes().split(b"\0")
                    if own not in variables:
                        continue
                state = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[0]
                if state not in "ZX":
                    yield int(entry)


def _read(path: Path) -> str:
    """What is in a file; nothing where there is none yet."""
    with suppress(FileNotFoundError):
        return path.read_text(errors="replace")
    return ""


def _command_line(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
