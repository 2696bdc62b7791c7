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
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from dnnjob.launch.watch.run_views import RunView, look
from dnnjob.runs import OVER, RunPaths
from tests.chaos.starter import Command, Starter
from tests.chaos.works import Work
from tests.launch.trace import PHASES, Phase, Trace

# On a machine with other work everything takes its time: this only ends what hangs.
LIMIT_S = 400.0
_LOOK_S = 0.005
_ATTEMPTS = 4


class Hang(Exception):
    """Something did not come to its end."""


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
        self.paths: RunPaths
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
        """Starts the run, and returns when its folder is there."""
        if self.work.executor == "pool":
            profile = self.folder / "pool.profile"
            profile.write_text('executor = "local"\n')
            words = ["submit", self.job, "--profile", profile, "--root", self.root]
        else:
            words = ["run", self.job, "--root", self.root]
        self.start(*words)
        until = time.monotonic() + LIMIT_S
        while not (printed := _read(self.command.printed)).endswith("\n"):
            if self.command.code or time.monotonic() > until:
                raise Hang(f"no run folder: {self.command.talk()[-500:]}")
            time.sleep(0.01)
        self.paths = RunPaths(Path(printed.strip()))

    def start(self, *words: object) -> Command:
        """Starts a command beside or after those before."""
        self.traces.append(Trace(self.folder / f"trace-{len(self.traces)}.jsonl"))
        self.commands.append(
            self._starter.start(
                words,
                trace=self.traces[-1].path,
                cwd=self.folder,
                environ={"TMPDIR": str(self.temporary), **self.environ},
                warm=self.warm,
            )
        )
        return self.command

    def reach(self, phase: Phase, share: float, phases_s: dict[Phase, float]) -> bool:
        """Returns within a phase; False where the run was faster.

        Args:
            phase: The phase.
            share: Of its length to wait; of training, of its epochs.
            phases_s: How long phases take undisturbed.
        """
        epochs = phases_s.get("epochs", 0)  # type: ignore[call-overload]
        reached: dict[Phase, Callable[[Trace], bool]] = {
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
        if phase not in ("training", "checkpoint"):
            time.sleep(share * phases_s[phase])
        return not self.is_over

    @property
    def phase(self) -> str:
        """Where it is now."""
        return self.trace.phase if self.traces else PHASES[0]

    @property
    def is_over(self) -> bool:
        """Whether nothing works on the run any more."""
        if self.work.executor == "pool" and len(self.commands) == 1:
            if self.command.code not in (None, 0):
                return True
            view = self.view()
            return view.state in OVER or not any(self.processes("run"))
        return self.command.code is not None

    def view(self) -> RunView:
        """What `dnnjob status` says."""
        (view,) = look([self.paths])
        return view

    def processes(self, target: str) -> list[int]:
        """Processes of the run that live: all, those of one task, or of what started it."""
        everyone = list(self._own())
        chief = self.trace.pids[-1] if self.traces and self.trace.pids else None
        tasks = [pid for pid in everyone if pid == chief or b"dnnjob.launch" in _command_line(pid)]
        match target:
            case "chief":
                return [pid for pid in everyone if pid == chief]
            case "follower":
                return [pid for pid in tasks if pid != chief]
            case "launcher":
                return [pid for pid in everyone if pid not in tasks] or everyone
            case _:
                return everyone

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
            time.sleep(0.02)

    def go_on(self) -> None:
        """Resumes the run until it is complete, as a user does; refusals are kept."""
        for _ in range(_ATTEMPTS):
            if self.view().state == "COMPLETED" or self.refusals:
                return
            self.start("resume", self.paths.root, *self._here())
            self.await_end()
            if code := self.command.code:
                self.refusals.append(f"code {code}: {self.command.talk().strip()[-600:]}")

    def end(self) -> None:
        """Ends what is left of it, and removes its folder."""
        self.strike("all", signal.SIGCONT)
        self.strike("all", signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _here(self) -> list[str]:
        return ["--here"] if self.work.executor == "pool" else []

    def _own(self) -> Iterator[int]:
        """Living processes whose temporary folder is this scene's."""
        own = f"TMPDIR={self.temporary}".encode()
        groups = {command.pid for command in self.commands}
        for entry in os.listdir("/proc"):  # noqa: PTH208 - names are all that is wanted
            if not entry.isdecimal() or int(entry) == os.getpid():
                continue
            with suppress(OSError):
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
