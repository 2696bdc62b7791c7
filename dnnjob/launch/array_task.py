"""What a task of a submitted job does: its runs, each where it was left.

call = partial(ArrayTask(), ["/scratch/runs/housing/20261123-101500-3f9a1c"], command="...")
run_array_task(["/scratch/runs/housing/20261123-101500-3f9a1c"], command="dnnjob submit ...")
"""

import logging
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from dnnjob.clock import Stopwatch
from dnnjob.config import JobConfig, parse_devices
from dnnjob.errors import DnnJobError, ExitCode, StoppedError
from dnnjob.launch.errand import Choose, Errand, choose_first
from dnnjob.launch.halving import put_in_order
from dnnjob.launch.lane_plan import make_errand, narrowed_to_memory, needs_here, plan_here
from dnnjob.launch.lanes import Lanes, LogWatcher
from dnnjob.launch.outcome import explain_end
from dnnjob.machine import process_age_s
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
from dnnjob.streams import guarded_streams, leave
from dnnjob.tasks import StopFlag, Task, find_task
from dnnjob.text import quote_command

logger = logging.getLogger(__name__)

# Ends after which a run goes on by itself.
_STOPPED = ("preempted", "time_limit", "node_failure", "peer_lost")


class ArrayTask:
    """`run_array_task`, for submitit to call."""

    def __call__(self, runs: Sequence[str], **told: Any) -> NoReturn:
        """See `run_array_task`."""
        run_array_task(runs, **told)

    def checkpoint(self, *_: object, **__: object) -> NoReturn:
        """What submitit's handler calls at a warning that comes before this process listens.

        It would ask Slurm for the requeue from in here, and at short time limits for none at all;
        the batch script asks at this exit code. SystemExit: submitit catches every Exception.
        """
        raise SystemExit(ExitCode.CONTINUE)


def run_array_task(
    runs: Sequence[str], *, command: str, words: Sequence[str] = (), halving: int | None = None
) -> NoReturn:
    """Works through runs as this process's task of each, and ends the process.

    Imports and compilation are shared. What has ended already is left alone, so that a job that was
    queued anew goes on where it stopped.

    Args:
        runs: Run folders.
        command: What the user typed, for the reports.
        words: `KEY=VALUE` for other devices: what version 0.1 left in the call of a job that still
            waits, in place of `resume.json`.
        halving: `search.halving`.
    """
    # submitit has taken the signals for checkpoints of its own, and asks for requeues at them.
    stop = StopFlag()
    stop.listen()
    sys.argv[:] = shlex.split(command)
    with guarded_streams():
        logging.basicConfig(stream=sys.stderr, format="%(message)s")
        logging.getLogger("dnnjob").setLevel(logging.INFO)
        paths = [RunPaths(Path(run)) for run in runs]
        if words and find_task().is_chief:
            for run in paths:
                write_resumption(run, parse_devices(words))
        leave(work_through(paths, stop=stop, halving=halving))


def work_through(
    runs: Sequence[RunPaths], *, stop: StopFlag, halving: int | None = None
) -> ExitCode:
    """Runs what has not ended of `runs`, side by side where cores allow; the worst exit code.

    A run that was stopped to be continued ends the work; one that was cancelled by itself does not.
    """
    task = find_task()
    turns = ElementTurns(runs, task=task, halving=halving)
    code = _work(turns, runs, task=task, stop=stop)
    if code is not ExitCode.CONTINUE and stop.signal is not None and turns.waiting:
        # Between two points: what becomes of those that wait, becomes of this job.
        return explain_end(StoppedError(stop.signal), turns.waiting[0]).exit_code
    return code if code is ExitCode.CONTINUE else max(code, *turns.codes)


class ElementTurns:
    """The runs of this job in the order of their turns, those left out that need nothing more."""

    def __init__(self, runs: Sequence[RunPaths], *, task: Task, halving: int | None = None) -> None:
        self.codes = [ExitCode.DONE]
        self._runs, self._task = runs, task
        loaded = self._load_jobs()
        self.jobs = list(loaded.values())
        self._first = runs[next(iter(loaded), 0)]
        self.needs = needs_here(self.jobs)
        self._at_work: set[Path] = set()
        errands = [
            make_errand(runs[place], need, number=place + 1)
            for place, need in zip(loaded, self.needs, strict=True)
        ]
        self._order = put_in_order(errands, self.jobs, halving=halving if loaded else None)

    def _load_jobs(self) -> dict[int, JobConfig]:
        """The job of each run by its place; one whose folder is gone does not keep the others."""
        jobs = {}
        for place, paths in enumerate(self._runs):
            try:
                jobs[place] = load_run_job(paths)
            except DnnJobError as error:
                logger.error("%s", error)
                self.codes.append(error.exit_code)
        return jobs

    @property
    def waiting(self) -> list[RunPaths]:
        """Those of which something is still to come, and that are not at work."""
        return [RunPaths(errand.run) for errand in self._order.waiting]

    def take(self, choose: Choose = choose_first) -> Errand | None:
        """The next run with work to do."""
        while (errand := self._order.pop(choose)) is not None:
            paths = RunPaths(errand.run)
            try:
                if _is_taken(paths):
                    logger.info("%s was taken up elsewhere since, and is left alone.", paths.root)
                elif (code := _outcome(paths, self._task)) is not None:
                    self.codes.append(code)
                else:
                    self._at_work.add(errand.run)
                    self._mark_turn()
                    return errand
            except (OSError, ValueError) as error:
                logger.error("%s is left out: %s.", paths.root, error)
                self.codes.append(ExitCode.FAILED)
            self._order.note(errand)
        return None

    def put_back(self, errand: Errand) -> None:
        """Has one be the next again."""
        self._at_work.discard(errand.run)
        self._order.put_back(errand)

    def again(self, errand: Errand) -> None:
        """Makes no difference to the batch script: it is still at work."""

    def end(self, errand: Errand, code: ExitCode) -> None:
        """Tells the batch script."""
        self._at_work.discard(errand.run)
        self._order.note(errand)
        self._mark_turn(code)

    def _mark_turn(self, code: ExitCode | None = None) -> None:
        """Tells the batch script how many runs do not wait any more, and how the last ended.

        While one is at work, there is no such end.
        """
        job_id, submission = own_job_id(os.environ), read_submission(self._first)
        if not self._task.is_chief or job_id is None or submission is None:
            return
        name = f"{job_id}_{count_restarts(os.environ) or 0}_turn.txt"
        ended = "" if code is None or self._at_work else f" {int(code)}"
        count = len(self._runs)
        try:
            folder = self._first.root / submission.folder
            write_text(folder / name, f"{count - len(self.waiting)} {count}{ended}\n")
        except OSError as error:
            logger.warning("The batch script will not know which run was at work: %s.", error)


def _work(turns: ElementTurns, runs: Sequence[RunPaths], *, task: Task, stop: StopFlag) -> ExitCode:
    if not turns.jobs:
        return ExitCode.DONE
    if len(runs) > 1:
        plan = plan_here(turns.jobs, turns.needs, task=task)
        sent = read_submission(runs[0])
        if sent is None or sent.requested.memory_gb is None:
            # Their width was planned by cores alone; what memory the job got is known here.
            planned, plan = plan.width, narrowed_to_memory(plan)
            if plan.width < planned:
                logger.info(
                    "%d run(s) go side by side instead of %d: there is memory for no more. Set "
                    "profile.memory_gb to have more.",
                    plan.width,
                    planned,
                )
        return Lanes(plan, task=task, stop=stop, watcher=LogWatcher()).work(turns)
    errand = turns.take()
    if errand is None:
        return ExitCode.DONE
    # Imports that submitting does without.
    from dnnjob.launch.lane import run_point

    watch = Stopwatch(age_s=process_age_s())
    code = run_point(runs[0], task=task, number=0, stop=stop, watch=watch)
    turns.end(errand, code)
    return code


def _is_taken(paths: RunPaths) -> bool:
    """Whether somebody has gone on with a run since it was given to this job."""
    job_id, submission = own_job_id(os.environ), read_submission(paths)
    if job_id is None or submission is None or submission.executor != "slurm":
        return False
    if submission.job_id != job_id:
        return True
    status = read_status(paths)
    if not status.attempts or status.attempts[-1].slurm_job_id == job_id:
        return False
    if submission.after_attempt is None:
        return status.attempts[-1].started_at > submission.submitted_at
    return attempt_number(status) > submission.after_attempt


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
