"""The one entry that every task of a run has: signals, the run itself, status and exit code.

code = run_attempt(paths, watch=Stopwatch())                  # the only task
code = run_attempt(paths, task=task, watch=Stopwatch())       # one of several
"""

import logging
import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from signal import Signals

from dnnjob.alike import ALIKE
from dnnjob.clock import Stopwatch
from dnnjob.errors import (
    DnnJobError,
    ExitCode,
    NonFiniteError,
    PausedError,
    PeerLostError,
    StoppedError,
    SupersededError,
)
from dnnjob.launch.outcome import explain_end, explain_os_error, is_submitted
from dnnjob.launch.own_process import logging_to
from dnnjob.launch.requeue_rules import refuse_requeue
from dnnjob.machine import peak_rss_mb, process_key
from dnnjob.results.report import Report
from dnnjob.results.verdict import NO_TEST_ROWS, say_verdict
from dnnjob.run import run_job
from dnnjob.runs import (
    Attempt,
    Event,
    FollowerJournal,
    Journal,
    Reason,
    RunPaths,
    Show,
    attempt_number,
    clear_folder,
    clear_leftovers,
    count_restarts,
    latest_attempt,
    latest_end,
    leave_event,
    load_run_job,
    own_job_id,
    read_cancel,
    read_events,
    read_status,
)
from dnnjob.streams import leave
from dnnjob.tasks import (
    Beside,
    ChiefEndedError,
    Crew,
    FollowerCrew,
    StopFlag,
    Task,
    TaskAttempt,
    Until,
    follow_crew,
    lead_crew,
    refuse_without_gpu,
)
from dnnjob.text import counted, quote_command

logger = logging.getLogger(__name__)

_ALONE = Task()


def run_attempt(
    paths: RunPaths,
    *,
    watch: Stopwatch,
    task: Task = _ALONE,
    after: int | None = None,
    stop: StopFlag | None = None,
    show: Show = lambda *_: None,
    until: Until | None = None,
    beside: Beside | None = None,
) -> ExitCode:
    """Runs the job of a run folder to its end and leaves the outcome in its status.

    Args:
        paths: The run folder.
        watch: Started when the run was.
        task: Which task of the run this process is.
        after: The attempt after which this one must come, where it matters.
        stop: Where this process has listened to signals already.
        show: Told how far training has come, as `journal.show_progress` is.
        until: Where the only task of a run stops short of the job's last epoch.
        beside: The other runs of this process that the only task of a run may train with.

    Returns:
        The exit code of the command; errors are logged, not raised.

    Raises:
        JobError: If there is a later attempt than `after`.
    """
    stop = stop or StopFlag()
    with stop.listening():
        if task.is_chief:
            if (code := _refuse_hopeless(paths)) is not None:
                return code
            begin = partial(Journal, paths, after=after, show=show)
            return _lead(paths, task, begin, stop=stop, watch=watch, until=until, beside=beside)
        return _follow(paths, task, stop=stop, watch=watch)


def _lead(
    paths: RunPaths,
    task: Task,
    begin: Callable[..., Journal],
    *,
    stop: StopFlag,
    watch: Stopwatch,
    until: Until | None,
    beside: Beside | None,
) -> ExitCode:
    try:
        journal = begin(process=process_key(os.getpid()), lost=_judge_lost(paths))
    except OSError as error:
        logger.error("%s", explain_os_error(error, paths))
        return ExitCode.ENVIRONMENT
    log = paths.log(attempt=journal.number, rank=0)
    with (
        logging_to(log, rank=0, keeps_stderr=True),
        journal.living(lambda: _look(journal, stop)),
        ExitStack() as stack,
    ):
        crew = Crew(stop, task)
        try:
            crew = _gather(task, journal, crew)
            report = run_job(TaskAttempt(journal, crew, watch, stack, until, beside))
            journal.finish("COMPLETED")
        except PausedError as error:
            journal.mark_rung(error.epoch, error.val_loss)
            journal.finish("REQUEUED", error=str(error))
            logger.info("%s", error)
            return error.exit_code
        except SupersededError as error:
            logger.error("%s", error)
            crew.end(error.exit_code, str(error))
            return error.exit_code
        except BaseException as error:
            return _end(journal, crew, error)
        crew.end(ExitCode.DONE, "")
        clear_complete(paths)
        if report is not None:
            _log_results(report, paths)
    return ExitCode.DONE


def _refuse_hopeless(paths: RunPaths) -> ExitCode | None:
    """Ends a run that Slurm started again after it was lost too often; None for every other."""
    submission, reason = is_submitted(paths), _judge_lost(paths)
    if submission is None:
        return None
    status = read_status(paths)
    if status.state != "RUNNING" or not status.attempts or status.attempts[-1].ended_at:
        return None
    why_not = refuse_requeue(status.attempts, reason, max_requeues=submission.max_requeues)
    if why_not is None:
        return None
    error = f"{why_not} {quote_command('resume', paths.root)} goes on."
    attempt = attempt_number(status)
    event = Event(
        writer="array_task",
        attempt=attempt,
        job_id=submission.job_id,
        restarts=count_restarts(os.environ) or 0,
        state="FAILED",
        reason=reason,
        error=error,
    )
    leave_event(paths, f"array-task-{attempt}", event)
    logger.error("%s", error)
    return ExitCode.FAILED


def _judge_lost(paths: RunPaths) -> Reason:
    """Why the attempt before this one ended without a word, if it did."""
    submission = is_submitted(paths)
    try:
        status = read_status(paths)
    except (OSError, ValueError):
        return "vanished"
    if submission is None or not status.attempts:
        return "vanished"
    last = status.attempts[-1]
    if last.slurm_job_id != own_job_id(os.environ):
        return "vanished"
    # A batch script that came to its end was on a node that lived.
    end = latest_end(read_events(paths, submission), status, submission.job_id)
    if end is None or end.restarts != last.slurm_restarts:
        return "node_failure"
    return end.reason or "preempted"


def _look(journal: Journal, stop: StopFlag) -> None:
    """Notes the memory, and takes a wish to cancel for a signal: it may come as a file alone."""
    journal.mark_memory(peak_rss_mb())
    if stop.signal is None and read_cancel(journal.paths) is not None:
        stop.want(Signals.SIGTERM)


def clear_complete(paths: RunPaths) -> None:
    """Removes what no later attempt needs; a complete run is so with or without leftovers.

    What training ended with stays beside the model, for more epochs.
    """
    try:
        if paths.model.is_file() and (checkpoints := sorted(paths.checkpoints.glob("*.ckpt"))):
            checkpoints[-1].replace(paths.training_state)
        clear_folder(paths.checkpoints)
        paths.resumption.unlink(missing_ok=True)
        clear_leftovers(paths)
    except OSError as error:
        logger.warning("Leftovers of the run stay: %s.", error)


def _gather(task: Task, journal: Journal, alone: Crew) -> Crew:
    """The chief's crew, once all tasks have come."""
    devices = load_run_job(journal.paths).devices
    refuse_without_gpu(devices)
    if task.num_tasks == 1:
        return alone
    crew = lead_crew(task, journal.paths, attempt=journal.number, devices=devices, stop=alone.stop)
    crew.on_loss = lambda error: leave(_end(journal, crew, error))
    logger.info("%d tasks: %s.", task.num_tasks, ", ".join(map(str, crew.peers)))
    return crew


def _end(journal: Journal, crew: Crew, error: BaseException) -> ExitCode:
    error = crew.blame(error)
    outcome = explain_end(error, journal.paths, attempts=journal.status.attempts)
    unforeseen = not isinstance(error, DnnJobError | OSError | KeyboardInterrupt)
    logger.error("%s", outcome.message, exc_info=error if unforeseen else None)
    try:
        journal.finish(outcome.state, reason=outcome.reason, error=outcome.message)
    except (OSError, SupersededError) as late:
        logger.error("The status could not be written: %s", late)
    crew.end(outcome.exit_code, outcome.message)
    return outcome.exit_code


def _follow(paths: RunPaths, task: Task, *, stop: StopFlag, watch: Stopwatch) -> ExitCode:
    try:
        crew, attempt = follow_crew(
            task, paths, read_devices=lambda: load_run_job(paths).devices, stop=stop
        )
    except (DnnJobError, OSError) as error:
        outcome = explain_end(error, paths)
        logger.error("Task %d: %s", task.rank, outcome.message)
        return outcome.exit_code
    crew.on_loss = lambda error: leave(_desert(error, crew, paths, attempt))
    log = paths.log(attempt=attempt, rank=task.rank)
    talks = task.launcher != "local"
    with logging_to(log, rank=task.rank, keeps_stderr=talks), ExitStack() as stack:
        own = TaskAttempt(FollowerJournal(paths, attempt), crew, watch, stack)
        try:
            run_job(own)
            return crew.await_end()
        except (StoppedError, NonFiniteError):
            # The chief knows as well, and still has a checkpoint to write.
            return _await_end(crew, paths, attempt)
        except BaseException as error:
            return _desert(error, crew, paths, attempt)


def _await_end(crew: FollowerCrew, paths: RunPaths, attempt: int) -> ExitCode:
    try:
        return crew.await_end()
    except DnnJobError as error:
        return _desert(error, crew, paths, attempt)


def _desert(error: BaseException, crew: Crew, paths: RunPaths, attempt: int) -> ExitCode:
    """Ends another task than the chief, and closes the run where the chief cannot."""
    error = crew.blame(error)
    outcome = explain_end(error, paths, attempts=_read_attempts(paths))
    unforeseen = not isinstance(error, DnnJobError | OSError | KeyboardInterrupt)
    # The chief has said it, or is told below and says it, unless it is the one that is lost.
    extra = None if unforeseen or isinstance(error, PeerLostError) else ALIKE
    logger.error("%s", outcome.message, exc_info=error if unforeseen else None, extra=extra)
    if isinstance(error, PeerLostError) and latest_attempt(paths) == attempt:
        try:
            event = Event(
                writer="follower",
                attempt=attempt,
                state=outcome.state,
                reason=outcome.reason,
                error=outcome.message,
            )
            leave_event(paths, f"task-{crew.task.rank}-attempt-{attempt}", event)
        except OSError as late:
            logger.error("No event could be left in the run: %s", late)
    if not isinstance(error, ChiefEndedError):
        crew.end(outcome.exit_code, outcome.message)
    return outcome.exit_code


def _read_attempts(paths: RunPaths) -> tuple[Attempt, ...]:
    try:
        return read_status(paths).attempts
    except (OSError, ValueError):
        return ()


def _log_results(report: Report, paths: RunPaths) -> None:
    test, timing = report.metrics.test, report.timing_s
    logger.info(
        "Trained %s in %.2f s (after %.2f s of compilation), final loss %.4f.",
        counted(report.training.epochs, "epoch"),
        timing.train,
        timing.compile,
        report.training.final_loss,
    )
    if test is None:
        logger.info(NO_TEST_ROWS)
    else:
        scaled = (
            "" if test.mse_standardized is None else f", {test.mse_standardized:.4f} in z-units"
        )
        verdict = say_verdict(report)
        logger.info(
            "Test MSE %.4g%s (RMSE %.4g, R2 %s) on %s%s.",
            test.mse,
            scaled,
            test.rmse,
            "-" if test.r2 is None else f"{test.r2:.3f}",
            counted(test.num_rows, "row"),
            verdict and f": {verdict}",
        )
    logger.info("Report: %s (%.1f s in all)", paths.page, timing.total)
