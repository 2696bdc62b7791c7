"""The one entry that every task of a run has: signals, the run itself, status and exit code.

code = run_attempt(paths, watch=Stopwatch())
"""

import errno
import logging
from dataclasses import dataclass
from signal import Signals

from dnnjob.clock import Stopwatch
from dnnjob.errors import DnnJobError, ExitCode, NonFiniteError, StoppedError, SupersededError
from dnnjob.results.report import Report
from dnnjob.run import run_job
from dnnjob.runs import Journal, Reason, RunPaths, State, clear_folder
from dnnjob.tasks import StopFlag

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ending:
    """How an attempt that did not complete is told to its readers and its caller."""

    state: State
    reason: Reason
    message: str
    exit_code: ExitCode


def run_attempt(paths: RunPaths, *, watch: Stopwatch) -> ExitCode:
    """Runs the job of a run folder to its end and leaves the outcome in its status.

    Args:
        paths: The run folder.
        watch: Started when the run was.

    Returns:
        The exit code of the command; errors are logged, not raised.
    """
    stop = StopFlag()
    with stop.listening():
        try:
            journal = Journal(paths)
        except OSError as error:
            logger.error("%s", _explain_os_error(error, paths))
            return ExitCode.FAILED
        try:
            report = run_job(journal, stop=stop, watch=watch)
            journal.finish("COMPLETED")
            clear_folder(paths.checkpoints)
        except SupersededError as error:
            logger.error("%s", error)
            return error.exit_code
        except BaseException as error:
            return _end(journal, judge(error, paths), error)
    _log_results(report, paths)
    return ExitCode.DONE


def judge(error: BaseException, paths: RunPaths) -> Ending:
    """What an error makes of the run."""
    match error:
        case StoppedError():
            return Ending("CANCELLED", "cancelled", str(error), error.exit_code)
        case KeyboardInterrupt():
            return judge(StoppedError(Signals.SIGINT), paths)
        case NonFiniteError():
            return Ending("FAILED", "nan", str(error), error.exit_code)
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


def _end(journal: Journal, ending: Ending, error: BaseException) -> ExitCode:
    unforeseen = not isinstance(error, DnnJobError | OSError | KeyboardInterrupt)
    logger.error("%s", ending.message, exc_info=error if unforeseen else None)
    try:
        journal.finish(ending.state, reason=ending.reason, error=ending.message)
    except (OSError, SupersededError) as late:
        logger.error("The status could not be written: %s", late)
    return ending.exit_code


def _reason(error: BaseException) -> Reason:
    # TensorFlow's ResourceExhaustedError, by name: this module must not import TensorFlow.
    return "out_of_memory" if type(error).__name__ == "ResourceExhaustedError" else "error"


def _explain_os_error(error: OSError, paths: RunPaths) -> str:
    where = f"{error.filename or paths.root}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
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
