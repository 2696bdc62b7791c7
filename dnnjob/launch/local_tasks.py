"""Several tasks of one run as processes of this machine, which behave like one command.

code = run_local_tasks(paths, num_tasks=2)
"""

import logging
import math
import os
import secrets
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from types import FrameType

from dnnjob.errors import ExitCode, StoppedError
from dnnjob.runs import (
    OVER,
    Event,
    Reason,
    RunPaths,
    State,
    latest_attempt,
    leave_event,
    read_state,
)
from dnnjob.tasks import StopFlag, Task, introduced, stop_signals
from dnnjob.text import quote_command

logger = logging.getLogger(__name__)

COMMAND = "DNNJOB_COMMAND"
"""Where a task finds the command that its user gave, for the report."""

_NAP_S = 0.05
# Above what a task takes to notice that another is gone, and to say so.
_GRACE_S = 45.0


def run_local_tasks(
    paths: RunPaths,
    *,
    num_tasks: int,
    after: int | None = None,
    stop: StopFlag | None = None,
) -> ExitCode:
    """Runs the job of a run folder in processes of their own, as many as it has tasks.

    Args, result and behaviour are those of `run_processes`.
    """
    launch = secrets.token_hex(8)
    tasks = [_task(rank, num_tasks, launch) for rank in range(num_tasks)]
    return run_processes(paths, tasks, after=after, stop=stop)


def run_processes(
    paths: RunPaths,
    tasks: Sequence[Task],
    *,
    after: int | None = None,
    stop: StopFlag | None = None,
) -> ExitCode:
    """Runs tasks of a run in processes of their own.

    SIGINT and SIGTERM are passed on, and a second SIGINT ends the tasks at once. They end, too, if
    this process does.

    Args:
        paths: The run.
        tasks: The tasks to start here: all of the run, or one where Slurm started this process.
        after: The attempt after which this one must come, where it matters.
        stop: What remembers the signals for the caller.

    Returns:
        The exit code of the first of them, or of another if that was killed.
    """
    parent, asked = os.getpid(), stop or StopFlag()
    started: dict[int, subprocess.Popen[bytes]] = {}
    with _passing_on(started, asked) as told:
        with signals_held_back():
            for task in tasks:
                started[task.rank] = _start(replace(task, parent=parent), paths, after)
        told.begin(started)
        missed = _wait(started, paths, told, launch=tasks[0].launch)
    # One that the kernel cannot end is as good as killed.
    codes = {rank: task.returncode or 0 for rank, task in started.items()}
    codes |= {rank: -signal.SIGKILL for rank, task in started.items() if task.returncode is None}
    return _close(paths, codes, told, missed=missed)


def _task(rank: int, num_tasks: int, launch: str) -> Task:
    return Task(
        rank=rank,
        num_tasks=num_tasks,
        launch=launch,
        local_tasks=num_tasks,
        launcher="local",
    )


def _start(task: Task, paths: RunPaths, after: int | None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "dnnjob.launch", str(paths.root)]
    command += [] if after is None else ["--after", str(after)]
    asked = shlex.join(["dnnjob", *sys.argv[1:]])
    environ = {**os.environ, **task.to_environ(), COMMAND: asked}
    # stdout is the product of this command, which tells of the run itself. A group of its own, so
    # that a terminal's Ctrl-C comes once, from here.
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environ, process_group=0)


@dataclass
class _Told:
    """What this command was told by signals while its tasks ran."""

    signals: list[int] = field(default_factory=list)
    has_begun: bool = False
    """Whether all tasks have been started: before that, nothing is passed on."""

    @property
    def insists(self) -> bool:
        """Whether Ctrl-C came again."""
        return self.signals.count(signal.SIGINT) > 1

    def begin(self, tasks: Mapping[int, subprocess.Popen[bytes]]) -> None:
        """Passes on what came while the tasks were started."""
        self.has_begun = True
        if self.signals:
            self.pass_on(tasks)

    def pass_on(self, tasks: Mapping[int, subprocess.Popen[bytes]]) -> None:
        """Passes the newest on."""
        _send(tasks.values(), signal.SIGKILL if self.insists else self.signals[-1])


def _wait(
    tasks: Mapping[int, subprocess.Popen[bytes]], paths: RunPaths, told: _Told, *, launch: str
) -> set[int]:
    """Returns once all have ended; those that outlive the run for long are killed.

    Returns:
        Ranks that ended before they met the others. These, which would wait for them, are killed.
    """
    over_at = killed_at = math.inf
    ended: set[int] = set()
    missed: set[int] = set()
    while any(task.poll() is None for task in tasks.values()):
        time.sleep(_NAP_S)
        before, ended = ended, {rank for rank, task in tasks.items() if task.poll() is not None}
        if ended - before and not missed and not told.signals:
            missed = ended - before - introduced(paths, launch)
        now = time.monotonic()
        if over_at == math.inf and ended and _is_over(tasks, paths):
            over_at = now
        if missed or now - over_at > _GRACE_S:
            killed_at = min(killed_at, now)
            _send(tasks.values(), signal.SIGKILL)
        if now - killed_at > _GRACE_S:
            # A process that waits for a dead disk does not die.
            break
    return missed


def _is_over(tasks: Mapping[int, subprocess.Popen[bytes]], paths: RunPaths) -> bool:
    """Whether the first task has ended, or others have given it up and closed the run."""
    first, *others = tasks.values()
    if first.poll() is not None:
        return True
    closed = read_state(paths) in (*OVER, "REQUEUED")
    return closed and any(other.poll() for other in others)


@contextmanager
def signals_held_back() -> Iterator[None]:
    """What comes to a process that is started inside waits until it listens."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _passing_on(tasks: Mapping[int, subprocess.Popen[bytes]], stop: StopFlag) -> Iterator[_Told]:
    told = _Told()

    def pass_on(number: int, frame: FrameType | None) -> None:
        told.signals.append(number)
        stop.want(signal.Signals(number))
        if told.has_begun:
            told.pass_on(tasks)

    before = {number: signal.signal(number, pass_on) for number in stop_signals()}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _send(tasks: Collection[subprocess.Popen[bytes]], number: int) -> None:
    for task in tasks:
        with suppress(ProcessLookupError):
            task.send_signal(number)


def _close(
    paths: RunPaths, codes: Mapping[int, int], told: _Told, *, missed: Collection[int]
) -> ExitCode:
    """The exit code of all; a run that its first task left without a word is marked as such."""
    first = next(iter(codes.values()))
    if first >= 0:
        return _exit_code(first)
    if told.insists:
        stopped = StoppedError(signal.SIGINT)
        _leave_event(paths, "CANCELLED", "cancelled", str(stopped))
        logger.error("%s", stopped)
        return stopped.exit_code
    lost = sorted(missed) or _lost_first(codes)
    names = ", ".join(f"task {rank} {_ending(codes[rank])}" for rank in lost)
    error = f"A run needs all its tasks, but some ended too early: {names}."
    logger.error("%s %s goes on.", error, quote_command("resume", paths.root))
    _leave_event(paths, "FAILED", "peer_lost", error)
    return max((_exit_code(code) for code in codes.values() if code > 0), default=ExitCode.FAILED)


def _leave_event(paths: RunPaths, state: State, reason: Reason, error: str) -> None:
    """Says what became of a run whose first task has ended without a word."""
    attempt = latest_attempt(paths)
    event = Event(writer="launcher", attempt=attempt, state=state, reason=reason, error=error)
    with suppress(OSError):
        leave_event(paths, f"launcher-attempt-{attempt}", event)


def _lost_first(codes: Mapping[int, int]) -> list[int]:
    """The tasks for want of which others ended: those killed, else those that failed."""
    killed = [rank for rank, code in codes.items() if code < 0 and code != -signal.SIGALRM]
    failed = [rank for rank, code in codes.items() if code > 0]
    return killed or failed or [rank for rank, code in codes.items() if code]


def _ending(code: int) -> str:
    if code == -signal.SIGALRM:
        return "after it had waited in vain for TensorFlow of another"
    return f"by signal {-code}" if code < 0 else f"with exit code {code}"


def _exit_code(code: int) -> ExitCode:
    return ExitCode(code) if code in set(ExitCode) else ExitCode.FAILED
