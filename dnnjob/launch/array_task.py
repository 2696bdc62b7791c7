"""What a task of a submitted job does: its runs in turn, each where it was left.

call = partial(ArrayTask(), ["/scratch/runs/housing/20261123-101500-3f9a1c"], command="...")
run_array_task(["/scratch/runs/housing/20261123-101500-3f9a1c"], command="dnnjob submit ...")
"""

import logging
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from dnnjob.config import parse_devices
from dnnjob.errors import DnnJobError, ExitCode
from dnnjob.launch.own_process import leave
from dnnjob.runs import (
    OVER,
    Event,
    RunPaths,
    Status,
    attempt_number,
    count_restarts,
    latest_end,
    leave_event,
    load_run_job,
    own_job_id,
    read_cancel,
    read_events,
    read_settled,
    read_status,
    read_submission,
    settle,
    state_before,
    write_resumption,
    write_text,
)
from dnnjob.streams import guarded_streams
from dnnjob.tasks import StopFlag, Task, find_task
from dnnjob.text import quote_command

logger = logging.getLogger(__name__)

# Ends after which a run goes on by itself.
_STOPPED = ("preempted", "time_limit", "node_failure", "peer_lost")


class ArrayTask:
    """`run_array_task`, for submitit to call."""

    def __call__(self, runs: Sequence[str], *, command: str, words: Sequence[str] = ()) -> NoReturn:
        """See `run_array_task`."""
        run_array_task(runs, command=command, words=words)

    def checkpoint(self, *_: object, **__: object) -> NoReturn:
        """What submitit's handler calls at a warning that comes before this process listens.

        It would ask Slurm for the requeue from in here, and at short time limits for none at all;
        the batch script asks at this exit code. SystemExit: submitit catches every Exception.
        """
        raise SystemExit(ExitCode.CONTINUE)


def run_array_task(
    runs: Sequence[str], *, command: str, gpus: str | None = None, words: Sequence[str] = ()
) -> NoReturn:
    """Works through runs as this process's task of each, and ends the process.

    Imports and compilation are shared. What has ended already is left alone, so that a job that was
    queued anew goes on where it stopped.

    Args:
        runs: Run folders.
        command: What the user typed, for the reports.
        gpus: The GPUs to use, as `CUDA_VISIBLE_DEVICES` takes them; None leaves them as they are.
        words: `KEY=VALUE` for other devices: what version 0.1 left in the call of a job that still
            waits, in place of `resume.json`.
    """
    # submitit has taken the signals for checkpoints of its own, and asks for requeues at them.
    stop = StopFlag()
    stop.listen()
    sys.argv[:] = shlex.split(command)
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    with guarded_streams():
        logging.basicConfig(stream=sys.stderr, format="%(message)s")
        logging.getLogger("dnnjob").setLevel(logging.INFO)
        paths = [RunPaths(Path(run)) for run in runs]
        if words and find_task().is_chief:
            for run in paths:
                write_resumption(run, parse_devices(words))
        leave(work_through(paths, stop=stop))


def work_through(runs: Sequence[RunPaths], *, stop: StopFlag) -> ExitCode:
    """Runs what has not ended of `runs`; the worst exit code of all.

    A run that was stopped to be continued ends the work; one that was cancelled by itself does not.
    """
    task, codes = find_task(), [ExitCode.DONE]
    for number, paths in enumerate(runs, start=1):
        if _is_taken(paths):
            logger.info("%s was taken up elsewhere since, and is left alone.", paths.root)
            continue
        code = _outcome(paths, task)
        if code is None:
            _mark_turn(runs, number, task=task)
            code = _run(paths, runs, number=number, task=task, stop=stop)
            _mark_turn(runs, number, task=task, code=code)
            if code is ExitCode.CONTINUE:
                return code
            if code in (ExitCode.TERMINATED, ExitCode.INTERRUPTED):
                if read_cancel(paths) is None:
                    return code
                stop.signal = None
        codes.append(code)
    return max(codes)


def _mark_turn(
    runs: Sequence[RunPaths], number: int, *, task: Task, code: ExitCode | None = None
) -> None:
    """Tells the batch script which of how many runs this task is at, and how that run ended."""
    job_id, submission = own_job_id(os.environ), read_submission(runs[0])
    if not task.is_chief or job_id is None or submission is None:
        return
    name = f"{job_id}_{count_restarts(os.environ) or 0}_turn.txt"
    ended = "" if code is None else f" {int(code)}"
    try:
        folder = runs[0].root / submission.folder
        write_text(folder / name, f"{number} {len(runs)}{ended}\n")
    except OSError as error:
        logger.warning("The batch script will not know which run was at work: %s.", error)


def _run(
    paths: RunPaths,
    runs: Sequence[RunPaths],
    *,
    number: int,
    task: Task,
    stop: StopFlag,
) -> ExitCode:
    from dnnjob.clock import Stopwatch
    from dnnjob.launch.local_tasks import run_local_tasks, run_processes
    from dnnjob.launch.worker import run_attempt
    from dnnjob.machine import process_age_s

    if len(runs) > 1:
        logger.info("Run %d of %d: %s", number, len(runs), paths.root)
    try:
        num_tasks = load_run_job(paths).devices.tasks
        if task.num_tasks > 1 and len(runs) > 1:
            # A process can join the tasks of one run only.
            place = replace(task, point=number, launch=f"{task.launch}-{number}")
            return run_processes(paths, [place], stop=stop)
        apart = num_tasks > 1 or _needs_own_process(paths, runs)
        if task.num_tasks == 1 and apart:
            return run_local_tasks(paths, num_tasks=num_tasks, stop=stop)
        watch = Stopwatch(age_s=process_age_s() if number == 1 else 0.0)
        return run_attempt(paths, task=task, watch=watch, stop=stop)
    except DnnJobError as error:
        logger.error("%s", error)
        return error.exit_code


def _needs_own_process(paths: RunPaths, runs: Sequence[RunPaths]) -> bool:
    """Whether TensorFlow, which takes its devices once a process, must take others for a run."""
    first, mine = load_run_job(runs[0]).devices, load_run_job(paths).devices
    # A run that has begun has its threads written down, one that has not may say 0.
    threads = {first.threads, mine.threads} - {0}
    return (first.kind, first.precision) != (mine.kind, mine.precision) or len(threads) > 1


def _is_taken(paths: RunPaths) -> bool:
    """Whether somebody has gone on with a run since it was given to this job."""
    job_id, submission = own_job_id(os.environ), read_submission(paths)
    if job_id is None or submission is None or submission.executor != "slurm":
        return False
    if submission.job_id != job_id:
        return True
    attempts = read_status(paths).attempts
    return (
        bool(attempts)
        and attempts[-1].slurm_job_id != job_id
        and attempts[-1].started_at > submission.submitted_at
    )


def _outcome(paths: RunPaths, task: Task) -> ExitCode | None:
    """How a run has ended; None if there is work to do."""
    status, submission = read_settled(paths), read_submission(paths)
    match state_before(status, submission):
        case "COMPLETED":
            return ExitCode.DONE
        case "CANCELLED" if _is_mine(status):
            return ExitCode.TERMINATED
        case "FAILED" if _is_mine(status) and not _is_started_after_all(paths):
            return ExitCode.FAILED
    if read_cancel(paths) is None:
        return None
    if task.is_chief:
        attempt = attempt_number(status)
        event = Event(
            writer="array_task",
            attempt=attempt,
            job_id=submission.job_id if submission else None,
            restarts=count_restarts(os.environ) or 0,
            state="CANCELLED",
            reason="cancelled",
            error=f"Cancelled before it began. {quote_command('resume', paths.root)} goes on.",
        )
        leave_event(paths, f"array-task-{attempt}", event)
    return ExitCode.TERMINATED


def _is_mine(status: Status) -> bool:
    """Whether an earlier start of this job has brought the run to its end.

    A run that another job failed was resumed, and this one is to go on with it.
    """
    if count_restarts(os.environ) in (None, 0):
        return False
    return not status.attempts or status.attempts[-1].slurm_job_id == own_job_id(os.environ)


def _is_started_after_all(paths: RunPaths) -> bool:
    """Whether a run was given up since Slurm refused to queue this job anew, which it then did."""
    submission = read_submission(paths)
    if submission is None:
        return False
    told, events = read_status(paths), read_events(paths, submission)
    end = latest_end(events, told, submission.job_id)
    if end is None or end.requeue != "refused":
        return False
    # What the run itself failed of stands, as does an error of its task.
    reason = settle(told, events, submission).reason
    return told.state not in OVER and (not told.attempts or reason in _STOPPED)
