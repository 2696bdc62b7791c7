"""The one entry that every task of a run has: signals, the run itself, status and exit code.

code = run_attempt(paths, watch=Stopwatch())                  # the only task
code = run_attempt(paths, task=task, watch=Stopwatch())       # one of several
"""

import logging
import os
from dataclasses import dataclass
from signal import Signals

from dnnjob.clock import Stopwatch
from dnnjob.config import load_job
from dnnjob.errors import (
    DnnJobError,
    ExitCode,
    NonFiniteError,
    PeerLostError,
    StoppedError,
    SupersededError,
)
from dnnjob.launch.process import leave, logging_to
from dnnjob.machine import process_key
from dnnjob.results.report import Report
from dnnjob.run import run_job
from dnnjob.runs import (
    DISK_FULL,
    FollowerJournal,
    Journal,
    Reason,
    RunPaths,
    State,
    clear_folder,
    clear_leftovers,
    close_for_chief,
)
from dnnjob.tasks import (
    ChiefEndedError,
    Crew,
    FollowerCrew,
    StopFlag,
    Task,
    follow_crew,
    lead_crew,
)

logger = logging.getLogger(__name__)

_ALONE = Task()


@dataclass(frozen=True)
class Ending:
    """How an attempt that did not complete is told to its readers and its caller."""

    state: State
    reason: Reason
    message: str
    exit_code: ExitCode


def run_attempt(
    paths: RunPaths, *, watch: Stopwatch, task: Task = _ALONE, after: int | None = None
) -> ExitCode:
    """Runs the job of a run folder to its end and leaves the outcome in its status.

    Args:
        paths: The run folder.
        watch: Started when the run was.
        task: Which task of the run this process is.
        after: The attempt after which this one must come, where it matters.

    Returns:
        The exit code of the command; errors are logged, not raised.

    Raises:
        JobError: If there is a later attempt than `after`.
    """
    stop = StopFlag()
    with stop.listening():
        if task.is_chief:
            return _lead(paths, task, stop=stop, watch=watch, after=after)
        return _follow(paths, task, stop=stop, watch=watch)


def judge(error: BaseException, paths: RunPaths) -> Ending:
    """What an error makes of the run."""
    match error:
        case StoppedError():
            return Ending("CANCELLED", "cancelled", str(error), error.exit_code)
        case KeyboardInterrupt():
            return judge(StoppedError(Signals.SIGINT), paths)
        case NonFiniteError():
            return Ending("FAILED", "nan", str(error), error.exit_code)
        case PeerLostError():
            return Ending("FAILED", "peer_lost", str(error), error.exit_code)
        case DnnJobError():
            return Ending("FAILED", "error", str(error), error.exit_code)
        case MemoryError():
            message = "The run needs more memory than there is. Lower train.global_batch_size."
            return Ending("FAILED", "out_of_memory", message, ExitCode.FAILED)
        case OSError():
            return Ending("FAILED", "error", _explain_os_error(error, paths), ExitCode.FAILED)
        case _:
            message = f"{type(error).__name__}: {error}"
            return Ending("FAILED", _reason(error), message, ExitCode.FAILED)


def _lead(
    paths: RunPaths, task: Task, *, stop: StopFlag, watch: Stopwatch, after: int | None
) -> ExitCode:
    try:
        journal = Journal(paths, after=after, process=process_key(os.getpid()))
    except OSError as error:
        logger.error("%s", _explain_os_error(error, paths))
        return ExitCode.FAILED
    log = paths.log(attempt=journal.number, rank=0)
    with logging_to(log, rank=0, keeps_stderr=True), journal.living():
        crew = Crew(stop)
        try:
            crew = _gather(task, journal, crew)
            report = run_job(journal, crew=crew, watch=watch)
            journal.finish("COMPLETED")
        except SupersededError as error:
            logger.error("%s", error)
            crew.end(error.exit_code, str(error))
            return error.exit_code
        except BaseException as error:
            return _end(journal, crew, error)
        crew.end(ExitCode.DONE, "")
        _clear(paths)
        if report is not None:
            _log_results(report, paths)
    return ExitCode.DONE


def _clear(paths: RunPaths) -> None:
    """Removes what no later attempt needs; a complete run is so with or without leftovers."""
    try:
        clear_folder(paths.checkpoints)
        clear_leftovers(paths)
    except OSError as error:
        logger.warning("Leftovers of the run stay: %s.", error)


def _gather(task: Task, journal: Journal, alone: Crew) -> Crew:
    """The chief's crew, once all tasks have come."""
    if task.num_tasks == 1:
        return alone
    devices = load_job(journal.paths.job).devices
    crew = lead_crew(task, journal.paths, attempt=journal.number, devices=devices, stop=alone.stop)
    crew.on_loss = lambda error: leave(_end(journal, crew, error))
    logger.info("%d tasks: %s.", task.num_tasks, ", ".join(map(str, crew.peers)))
    return crew


def _end(journal: Journal, crew: Crew, error: BaseException) -> ExitCode:
    error = crew.blame(error)
    ending = judge(error, journal.paths)
    unforeseen = not isinstance(error, DnnJobError | OSError | KeyboardInterrupt)
    logger.error("%s", ending.message, exc_info=error if unforeseen else None)
    try:
        journal.finish(ending.state, reason=ending.reason, error=ending.message)
    except (OSError, SupersededError) as late:
        logger.error("The status could not be written: %s", late)
    crew.end(ending.exit_code, ending.message)
    return ending.exit_code


def _follow(paths: RunPaths, task: Task, *, stop: StopFlag, watch: Stopwatch) -> ExitCode:
    try:
        devices = load_job(paths.job).devices
        crew, attempt = follow_crew(task, paths, devices=devices, stop=stop)
    except (DnnJobError, OSError) as error:
        ending = judge(error, paths)
        logger.error("Task %d: %s", task.rank, ending.message)
        return ending.exit_code
    crew.on_loss = lambda error: leave(_desert(error, crew, paths, attempt))
    log = paths.log(attempt=attempt, rank=task.rank)
    with logging_to(log, rank=task.rank, keeps_stderr=task.launcher != "local"):
        try:
            run_job(FollowerJournal(paths, attempt), crew=crew, watch=watch)
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
    ending = judge(error, paths)
    unforeseen = not isinstance(error, DnnJobError | OSError | KeyboardInterrupt)
    logger.error("%s", ending.message, exc_info=error if unforeseen else None)
    if isinstance(error, PeerLostError):
        try:
            close_for_chief(paths, attempt, reason="peer_lost", error=ending.message)
        except (OSError, ValueError) as late:
            logger.error("The status could not be written: %s", late)
    if not isinstance(error, ChiefEndedError):
        crew.end(ending.exit_code, ending.message)
    return ending.exit_code


def _reason(error: BaseException) -> Reason:
    # TensorFlow's ResourceExhaustedError, by name: this module must not import TensorFlow.
    return "out_of_memory" if type(error).__name__ == "ResourceExhaustedError" else "error"


def _explain_os_error(error: OSError, paths: RunPaths) -> str:
    where = f"{error.filename or paths.root}: {error.strerror or error}"
    if error.errno in DISK_FULL:
        return (
            f"A run needs room for its results, but the disk is full ({where}). "
            f"Make room and continue with `dnnjob resume {paths.root}`."
        )
    return f"A file of the run could not be read or written ({where})."


def _log_results(report: Report, paths: RunPaths) -> None:
    test = report.metrics.test
    if test is None:
        return
    scaled = "" if test.mse_standardized is None else f", {test.mse_standardized:.4f} in z-units"
    timing = report.timing_s
    logger.info(
        "Trained %d epochs in %.2f s (after %.2f s of compilation), final loss %.4f.",
        report.training.epochs,
        timing.train,
        timing.compile,
        report.training.final_loss,
    )
    logger.info(
        "Test MSE %.4g%s (RMSE %.4g, R2 %s) on %d rows; a linear model has %.4g.",
        test.mse,
        scaled,
        test.rmse,
        "-" if test.r2 is None else f"{test.r2:.3f}",
        test.num_rows,
        report.baselines.test.linear.mse,
    )
    logger.info("Report: %s (%.1f s in all)", paths.page, timing.total)
