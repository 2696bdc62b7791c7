"""A run whose attempts are killed, and the one that nobody disturbs.

expected = run(job, root, scratch=folder)
killed = KilledRun(job, root, scratch=folder)
kill = killed.kill_at(reached, after_s=0.2, ranks="all")
killed.resume()
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dnnjob.runs import Position, RunPaths, read_settled
from tests.launch.trace import Call, Phase, Trace

RECORDER = Path(__file__).parent / "recorder"
# A run that lost a task must have ended by then.
END_S = 60.0
_LOOK_S = 0.0005


@dataclass(frozen=True)
class Kill:
    """One kill: when it came, by the trace that was left, and what died."""

    start: int
    """Number of the command that was killed, from 1."""
    ranks: str
    phase: Phase
    epoch: int
    after_s: float
    """Since the command was started."""
    ended_s: float
    """Until the command had ended, too."""
    code: int
    """What it ended with: 0 where the chief needed the task no more."""
    calls: tuple[Call, ...]


@dataclass(frozen=True)
class Repeated:
    """What was trained again after a kill."""

    resumed_from: Position | None
    """Where training went on; None where no later attempt came to that."""
    calls: tuple[Call, ...]
    """The calls past it, a last one that was cut short included."""

    @property
    def seconds(self) -> float:
        """Their seconds."""
        return sum(call.seconds for call in self.calls)


class KilledRun:
    """A run whose attempts are killed.

    Args:
        job: The job's file.
        root: Where the run goes.
        scratch: Folder of the traces and of what the commands say.
    """

    def __init__(self, job: Path, root: Path, *, scratch: Path) -> None:
        self._scratch = Path(tempfile.mkdtemp(prefix="traces-", dir=scratch))
        self._talk = scratch / "talk.log"
        self.traces: list[Trace] = []
        self.kills: list[Kill] = []
        self._start("run", job, "--root", root, stdout=subprocess.PIPE)
        with self._process.stdout as said:  # type: ignore[union-attr]
            self.paths = RunPaths(Path(said.readline().decode().strip()))

    @property
    def trace(self) -> Trace:
        """That of the present attempt."""
        return self.traces[-1]

    @property
    def has_ended(self) -> bool:
        """Whether the present attempt has come to its end."""
        return self._process.poll() is not None

    def kill_at(
        self, reached: Callable[[Trace], bool], *, after_s: float, ranks: str
    ) -> Kill | None:
        """Kills the attempt some time after `reached`; None where it came to its end before.

        Args:
            reached: Asked of the trace again and again.
            after_s: Seconds from there.
            ranks: The tasks to kill: "all" with the command itself, or numbers.
        """
        self.trace.read()
        while not reached(self.trace) and not self.has_ended:
            time.sleep(_LOOK_S)
            self.trace.read()
        time.sleep(after_s)
        tasks = self._tasks(int(ranks[-1]) + 1 if ranks != "all" else 0)
        if self.has_ended:
            return None
        killed_at = time.monotonic()
        # Of the tasks, the kernel kills those that a killed command leaves.
        chosen = (
            [self._process.pid] if ranks == "all" else [tasks[int(r)] for r in ranks.split(",")]
        )
        for pid in chosen:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(2 * END_S)
        ended_s = time.monotonic() - killed_at
        _wait_for_end(tasks)
        kill = self._place(killed_at, ended_s, ranks)
        if kill.code == 0 and ("0" in ranks or ranks == "all" or kill.phase == "ending"):
            # What was to die had just ended by itself.
            return None
        self.kills.append(kill)
        return kill

    def resume(self) -> None:
        """Starts the next attempt."""
        self._start("resume", self.paths.root)

    def finish(self) -> int:
        """Lets the attempt come to its end; its exit code."""
        code = self._process.wait(900)
        self.trace.read()
        return code

    def repeated(self, kill: Kill) -> Repeated:
        """What the attempts after a kill trained again; known once the run is complete."""
        resumed = {one.pid: one.resumed_from for one in read_settled(self.paths).attempts}
        for later in self.traces[kill.start :]:
            pids = [pid for pid in later.pids if resumed.get(pid)]
            if pids or later.has("begin", "train"):
                position = resumed[pids[0]] if pids else Position()
                lost = [c for c in kill.calls if c.epoch is None or c.epoch > position.epoch]
                return Repeated(position, tuple(lost))
        return Repeated(None, ())

    def _place(self, killed_at: float, ended_s: float, ranks: str) -> Kill:
        self.trace.read()
        then = self.trace.until(killed_at)
        return Kill(
            start=len(self.traces),
            ranks=ranks,
            phase=then.phase,
            epoch=then.epoch,
            after_s=killed_at - self._started_at,
            ended_s=ended_s,
            code=self._process.returncode,
            calls=tuple(self.trace.calls(until=killed_at)),
        )

    def _tasks(self, count: int) -> list[int]:
        """Processes of the tasks, by rank, once there are so many; none beside an only one."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        while True:
            with suppress(OSError):
                pids = [int(pid) for pid in children.read_text().split()]
                if len(pids) >= count:
                    return pids
            if self.has_ended:
                return []
            time.sleep(_LOOK_S)

    def _start(self, *arguments: object, stdout: int = subprocess.DEVNULL) -> None:
        self.traces.append(Trace(self._scratch / f"start-{len(self.traces) + 1}.jsonl"))
        self._started_at = time.monotonic()
        with self._talk.open("ab") as talk:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dnnjob", *map(str, arguments)],
                stdout=stdout,
                stderr=talk,
                process_group=0,
                env=_environ(self.trace.path),
            )


def run(job: Path, root: Path, *, scratch: Path) -> tuple[RunPaths, Trace]:
    """The run that nobody disturbs."""
    alone = KilledRun(job, root, scratch=scratch)
    assert alone.finish() == 0, (scratch / "talk.log").read_text()[-2000:]
    return alone.paths, alone.trace


def _environ(trace: Path) -> dict[str, str]:
    return {**os.environ, "DNNJOB_TRACE": str(trace), "PYTHONPATH": str(RECORDER)}


def _wait_for_end(pids: list[int]) -> None:
    limit = time.monotonic() + END_S
    while any(map(_lives, pids)):
        assert time.monotonic() < limit, f"of the processes {pids} some outlive their run"
        time.sleep(0.01)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
