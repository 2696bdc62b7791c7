"""Runs in the background of this machine: a process of its own starts them, as many as fit.

plan = plan_queue(jobs, profile, memory_bytes=None)
with open_queue(runs, profile, plan, folder=folder, command=command) as pid: ...
"""

import json
import logging
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, NoReturn, cast

from dnnjob.config import JobConfig, ProfileConfig, resolve_job
from dnnjob.errors import ExitCode
from dnnjob.machine import count_cores, memory_limit_bytes, visible_gpus
from dnnjob.runs import (
    OVER,
    Event,
    Reason,
    Record,
    RunPaths,
    State,
    awaits_attempt,
    latest_attempt,
    leave_event,
    read_settled,
    read_submission,
    state_before,
    write_text,
)
from dnnjob.streams import guarded_streams
from dnnjob.text import quote_command

logger = logging.getLogger(__name__)

_NAP_S = 0.2
_OUTLIVING: list[Any] = []
# submitit ends a local job after two minutes unless told otherwise; this is ten years.
_NO_LIMIT_MIN = 10 * 365 * 24 * 60


@dataclass(frozen=True)
class QueuePlan:
    """How many runs go at a time on this machine, and with what.

    Attributes:
        width: Runs at a time.
        threads: Threads of each; 0 leaves it to the run.
        gpus: The GPUs of each place, as `CUDA_VISIBLE_DEVICES` takes them.
    """

    width: int
    threads: int
    gpus: tuple[str, ...]

    def fit(self, job: JobConfig) -> JobConfig:
        """The job with its share of threads, unless it says otherwise."""
        if not self.threads or job.devices.threads:
            return job
        values = job.model_dump(exclude_none=True)
        values["devices"]["threads"] = self.threads
        return resolve_job(values, origin="The job with its share of threads")


class QueueFile(Record):
    """What the background process is told."""

    elements: tuple[tuple[str, ...], ...]
    gpus: tuple[str, ...]
    time_limit_min: int | None
    warning_lead_s: int
    setup: tuple[str, ...]
    command: str


def plan_queue(
    jobs: Sequence[JobConfig], profile: ProfileConfig, *, memory_bytes: float | None
) -> QueuePlan:
    """The plan for runs on this machine; one run at a time, with all there is, for Slurm.

    One thread a run is fastest for many runs: a second one on a batch of 64 saves a seventh of the
    time of one run, and costs a run beside it.

    Args:
        jobs: A job a run.
        profile: Where they go.
        memory_bytes: What one takes at its peak, None if unknown.
    """
    if profile.executor == "slurm":
        return QueuePlan(width=1, threads=0, gpus=())
    gpus = visible_gpus() if any(job.devices.kind != "cpu" for job in jobs) else ()
    cores = count_cores()
    tasks = max(job.devices.tasks for job in jobs)
    threads = profile.cpus_per_task or max(job.devices.threads for job in jobs)
    limits = [len(jobs), profile.array_parallelism, max(1, cores // (max(1, threads) * tasks))]
    asked = profile.memory_gb * 2**30 if profile.memory_gb else memory_bytes
    if asked:
        limits.append(max(1, math.floor(memory_limit_bytes() / asked)))
    each = profile.gpus_per_node or (len(gpus) if len(jobs) == 1 else 1)
    if gpus:
        limits.append(max(1, len(gpus) // each))
    width = min(limits)
    return QueuePlan(
        width=width,
        threads=threads or (max(1, cores // width) if len(jobs) > 1 else 0),
        gpus=tuple(",".join(gpus[n * each : (n + 1) * each]) for n in range(width)),
    )


@contextmanager
def open_queue(
    elements: Sequence[Sequence[str]],
    profile: ProfileConfig,
    plan: QueuePlan,
    *,
    folder: Path,
    command: str,
) -> Iterator[int]:
    """Starts the background process, which begins to work when the block ends; its number.

    It outlives this process and its terminal. Where the block raises, it ends without a deed.

    Args:
        elements: Run folders of each task.
        profile: With what.
        plan: How many at a time.
        folder: Where submitit's files go.
        command: What the user typed.
    """
    told = QueueFile(
        elements=tuple(map(tuple, elements)),
        gpus=plan.gpus,
        time_limit_min=profile.time_limit_min,
        warning_lead_s=profile.warning_lead_s,
        setup=profile.setup,
        command=command,
    )
    write_text(folder / "pool.json", told.model_dump_json(indent=1) + "\n")
    with (folder / "pool.log").open("ab") as log:
        # No file of the terminal's stays open in it: a shell that waits for this command's output
        # would wait for the runs.
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "dnnjob.launch.local_queue", str(folder)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    # Python complains of a process that is forgotten while it runs; this one is meant to.
    _OUTLIVING.append(process)
    gate = cast(BinaryIO, process.stdin)
    try:
        yield process.pid
        gate.write(b"go\n")
    except BaseException:
        gate.close()
        process.wait()
        raise
    gate.close()


class LocalQueue:
    """The background process: starts a task wherever a place is free, and passes signals on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told = QueueFile.model_validate_json((folder / "pool.json").read_bytes())
        self.jobs: dict[int, tuple[int, Any]] = {}
        self.stopped = False

    def work(self) -> ExitCode:
        """Runs every task; done once all have ended."""
        from submitit.local.local import LocalExecutor

        executor = LocalExecutor(self.folder, python=_python(self.told.setup))
        executor._internal_update_parameters(
            timeout_min=self.told.time_limit_min or _NO_LIMIT_MIN,
            signal_delay_s=self.told.warning_lead_s,
        )
        waiting = list(enumerate(self.told.elements))
        while self.jobs or (waiting and not self.stopped):
            for place in range(len(self.told.gpus)):
                if place not in self.jobs and waiting and not self.stopped:
                    number, runs = waiting.pop(0)
                    self.jobs[place] = number, self._start(executor, runs, place)
            time.sleep(_NAP_S)
            for place, (number, job) in list(self.jobs.items()):
                if job.done():
                    del self.jobs[place]
                    _close(self.told.elements[number], log=str(job.paths.stderr))
        for _, runs in waiting:
            _cancel(runs)
        return ExitCode.DONE

    def pass_on(self, number: int, frame: FrameType | None) -> None:
        """Starts nothing more, and asks what runs to stop."""
        self.stopped = True
        for _, job in self.jobs.values():
            # submitit's own process, which hands it on to the task.
            with suppress(ProcessLookupError):
                job._process.send_signal(signal.SIGTERM)

    def _start(self, executor: Any, runs: Sequence[str], place: int) -> Any:
        from dnnjob.launch.array_task import run_array_task

        job = executor.submit(
            run_array_task,
            list(runs),
            command=self.told.command,
            gpus=self.told.gpus[place],
        )
        logger.info("Process %s: %s", job.job_id, json.dumps(list(runs)))
        return job


def _python(setup: Sequence[str]) -> str:
    """The command before submitit's `-m`: setup lines in a shell that becomes the interpreter.

    submitit's own `setup` leaves the shell between itself and the task, which takes the signals.
    """
    python = [sys.executable, "-P"]
    if not setup:
        return shlex.join(python)
    lines = "\n".join(("set -e", *setup, 'exec "$0" "$@"'))
    return shlex.join(["sh", "-c", lines, *python])


def _close(runs: Sequence[str], *, log: str) -> None:
    """Ends the runs of a task that was killed, or that could not begin."""
    for folder in runs:
        paths = RunPaths(Path(folder))
        status, sent = read_settled(paths), read_submission(paths)
        if state_before(status, sent) not in OVER:
            begun = status.state == "RUNNING" and not awaits_attempt(status, sent)
            error = f"The process {'was killed' if begun else 'could not begin'}. See {log}."
            _leave_event(paths, "FAILED", "error", error)


def _cancel(runs: Sequence[str]) -> None:
    for folder in runs:
        paths = RunPaths(Path(folder))
        error = f"Cancelled before it began. {quote_command('resume', paths.root)} goes on."
        _leave_event(paths, "CANCELLED", "cancelled", error)


def _leave_event(paths: RunPaths, state: State, reason: Reason, error: str) -> None:
    attempt = latest_attempt(paths)
    event = Event(
        writer="local_queue",
        attempt=attempt,
        job_id=str(os.getpid()),
        state=state,
        reason=reason,
        error=error,
    )
    leave_event(paths, f"local-queue-attempt-{attempt}", event)


def main() -> None:
    """Waits for the word to begin, then works."""
    with guarded_streams():
        _work()


def _work() -> NoReturn:
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(message)s", level=logging.INFO)
    if sys.stdin.readline() != "go\n":
        sys.exit(ExitCode.FAILED)
    sys.stdin.close()
    os.chdir("/")
    queue = LocalQueue(Path(sys.argv[1]))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, queue.pass_on)
    sys.exit(queue.work())


if __name__ == "__main__":
    main()
