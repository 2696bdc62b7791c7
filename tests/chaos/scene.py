"""A run that is disturbed: its commands, its processes, the moment, and how it goes on.

scene = Scene(work, folder, starter=starter, warm=True)
scene.begin()
scene.reach("training", 0.3, phases_s)
...                                   # a fault
scene.await_end()
scene.resume()
"""

import os
import random
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

import tomli_w

from dnnjob.launch.watch.run_selection import open_runs
from dnnjob.launch.watch.run_views import RunView, look
from dnnjob.machine import number_inside
from dnnjob.runs import FRESH, RunPaths, State, read_status
from tests.chaos.starter import RECORDER, Command, Starter
from tests.chaos.works import Work
from tests.launch.trace import Phase, Trace
from tests.slurm.clusters import Cluster

_LIMIT_S = 400.0
# Who starts elsewhere is asked of the scheduler and looked for among all processes.
_LOOK_S, _LONG_LOOK_S = 0.01, 0.1
_SLURM = {"cpus_per_task": 1, "memory_gb": 1.5, "time_limit_min": 10, "warning_lead_s": 30}
_ATTEMPTS = 4


def limit_s(seconds: float = _LIMIT_S) -> float:
    """After how long something counts as hanging: longer where others are at work, too."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


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
        self.cluster: Cluster
        """Where it is submitted to, if that is Slurm."""
        self.runs: list[RunPaths]
        self.place: Path
        """What commands are told of: the folder of the run, or of the sweep."""
        self.goal: list[State | None] = []
        """How its runs are to stand in the end."""
        self.damaged: set[Path] = set()
        """Files that a fault itself has damaged."""
        self.was_killed = False
        """Whether the present attempt was sent what nobody can clean up after."""
        self.is_final = False
        """Whether it is to be struck no more."""
        self._clock = folder / "clock"
        self._wish = folder / "halt"
        self._original = self.table.read_bytes()
        self._is_resumed = False
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
        trace = self.traces[-1]
        trace.read()
        if self.work.is_in_foreground:
            return trace
        # What is queued anew tells into the same file.
        pids = [pid for pid in trace.pids if Path(f"/proc/{pid}").exists()] or trace.pids[-1:]
        return Trace(trace.path, [one for one in trace.events if one["pid"] in pids])

    def begin(self) -> None:
        """Starts the job, and returns when its run folders are there."""
        match self.work.executor:
            case "here" | "container":
                words = ["run", self.job, "--root", self.root]
            case "pool":
                words = self._submit(executor="local")
            case _:
                words = self._submit(executor="slurm", partition="graceful", **_SLURM)
        self.start(*words)
        until = time.monotonic() + limit_s()
        lines = self.work.points if self.work.is_in_foreground else 1
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
        environ = {
            "TMPDIR": str(self.temporary),
            "DNNJOB_CLOCK": str(self._clock),
            "DNNJOB_HALT": str(self._wish),
        }
        if self.work.is_contained:
            names = (*environ, "DNNJOB_TRACE", "PYTHONPATH")
            options = [f"--label={self._label}", f"--volume={RECORDER}:{RECORDER}:ro"]
            options += [f"--env={name}" for name in names]
            environ |= {"DNNJOB_ENGINE": "podman", "DNNJOB_ENGINE_ARGS": " ".join(options)}
        self.commands.append(
            self._starter.start(
                words,
                trace=self.traces[-1].path,
                cwd=self.folder,
                environ=environ,
                program=self.work.program,
                warm=self.warm,
            )
        )
        return self.command

    def start_beside(self, *words: object) -> Command:
        """Starts a command that is not the one which is waited for and traced."""
        command, trace = self.command, self.traces[-1]
        beside = self.start(*words)
        self.commands.append(command)
        self.traces.append(trace)
        return beside

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
        pause_s = _LOOK_S if self.work.is_in_foreground else _LONG_LOOK_S
        reached: dict[str, Callable[[Trace], bool]] = {
            "write": lambda trace: trace.halted is not None,
            "start-up": lambda trace: True,
            "training": lambda t: t.has("begin", "train") and t.epoch >= int(share * 0.9 * epochs),
            "checkpoint": lambda t: t.writes_checkpoint and t.epoch >= int(share * 0.7 * epochs),
            "evaluation": lambda trace: trace.has("end", "train"),
            "results": lambda trace: trace.has("begin", "report"),
            "ending": lambda trace: trace.has("written", "report.json"),
        }
        until = time.monotonic() + limit_s()
        while not reached[phase](self.trace):
            if self.is_over:
                return False
            if time.monotonic() > until:
                raise Hang(f"never came to {phase}: {self.command.talk()[-500:]}")
            time.sleep(pause_s)
        if phase not in ("training", "checkpoint", "write"):
            time.sleep(share * phases_s[phase])
        return not self.is_over

    @property
    def phase(self) -> str:
        """Where it is now."""
        trace = self.trace
        return f"write {trace.halted}" if trace.halted is not None else trace.phase

    def halt(self, moment: str) -> None:
        """Has the run stop itself at a write: "before NAME" or "after NAME"."""
        whole = self._wish.with_suffix(".new")
        whole.write_text(moment)
        whole.replace(self._wish)

    def wake(self) -> None:
        """Has whoever stopped itself at a write go on, and nobody stop any more."""
        self._wish.unlink(missing_ok=True)
        if self.trace.halted is not None:
            self.strike("all", signal.SIGCONT)

    @property
    def is_over(self) -> bool:
        """Whether nothing works on the run any more."""
        if self.work.is_contained:
            # Who is killed leaves the container behind.
            return self.command.code is not None and not any(self._own())
        if self.work.executor == "here" or (self.work.executor == "pool" and self._is_resumed):
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
        told = self.trace.pids[-1:] if self.traces and self.work.points == 1 else []
        chief = next((pid for pid in everyone if number_inside(pid) in told), None)
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
        self.was_killed = number == signal.SIGKILL or self.was_killed
        for pid in self.processes(target):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def await_end(self) -> None:
        """Returns when nothing of the run is at work.

        Raises:
            Hang: If that takes too long.
        """
        self._await(lambda: self.is_over and not any(self._own()))

    def await_turn(self) -> None:
        """Returns when nothing is at work, or Slurm has begun anew what was struck.

        Raises:
            Hang: If that takes too long.
        """
        before = {one["pid"] for one in self.traces[-1].events}
        if self.work.executor != "slurm":
            self.await_end()
            return
        self._await(
            lambda: (
                not before.issuperset(self.trace.pids) or (self.is_over and not any(self._own()))
            )
        )

    def _await(self, has_come: Callable[[], bool]) -> None:
        until = time.monotonic() + limit_s()
        while not has_come():
            if time.monotonic() > until:
                raise Hang(f"{self.phase} did not end: {self.command.talk()[-500:]}")
            time.sleep(0.05)

    def resume(self) -> None:
        """Starts what is over again, as a user does."""
        self.was_killed = False
        if self.work.is_contained:
            self._await(self._is_silent)
        self.start("resume", self.place, *self.here)
        self._is_resumed = True

    def _is_silent(self) -> bool:
        """Whether a container, which sees no other's processes, may take up what was killed."""
        (paths,) = self.runs
        # Whatever the clock of the run says.
        age_s = time.time() - paths.status.stat().st_mtime
        return read_status(paths).state != "RUNNING" or age_s > FRESH.total_seconds()

    def go_on(self) -> None:
        """Resumes until the runs stand as they are to; refusals are kept."""
        for _ in range(_ATTEMPTS):
            # One that was killed when it was complete is told so, and what is left goes.
            if (self.states == self.goal and not self.was_killed) or self.refusals:
                return
            self.resume()
            self.await_end()
            self.hear()

    def hear(self) -> None:
        """Keeps what the command that has ended says, where it was refused."""
        if (code := self.command.code) and self.states != self.goal:
            self.refusals.append(f"code {code}: {self.command.talk().strip()[-600:]}")

    def restore_table(self) -> None:
        """Puts the table back as it was."""
        self.table.write_bytes(self._original)

    def end(self) -> None:
        """Ends what is left of it, and removes its folder."""
        self.strike("all", signal.SIGCONT)
        self.strike("all", signal.SIGKILL)
        if self.work.is_contained:
            self._remove_containers()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def here(self) -> list[str]:
        """What has a `resume` go on in the foreground."""
        return ["--here"] if self.work.executor == "pool" else []

    @property
    def _label(self) -> str:
        """What its containers bear."""
        return f"chaos={self.folder.name}"

    def _remove_containers(self) -> None:
        """Removes those whose keeper was killed, too."""
        listing = ["podman", "ps", "--all", "--quiet", "--filter", f"label={self._label}"]
        listed = subprocess.run(listing, capture_output=True, text=True, check=True)
        for name in listed.stdout.split():
            removal = ["podman", "rm", "--force", name]
            subprocess.run(removal, capture_output=True, check=False)

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
