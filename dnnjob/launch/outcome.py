"""How an attempt that did not complete is told: state, reason, message and exit code.

outcome = explain_end(error, paths, attempts=journal.status.attempts)
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from signal import Signals

from dnnjob.errors import (
    NO_ROOM,
    DnnJobError,
    ExitCode,
    NonFiniteError,
    PeerLostError,
    SlurmError,
    StoppedError,
)
from dnnjob.launch.requeue_rules import guess_fate, read_fate, refuse_requeue
from dnnjob.runs import (
    Attempt,
    Reason,
    RunPaths,
    State,
    Submission,
    count_restarts,
    own_job_id,
    read_cancel,
    read_submission,
)
from dnnjob.slurm import show_job
from dnnjob.text import quote_command

ENDS_AT = "DNNJOB_ENDS_AT"
"""Where the batch script tells its tasks when the time limit ends, in seconds of the epoch."""
WARNING_S = "DNNJOB_WARNING_S"
"""Where it tells how long before that Slurm was asked to warn."""

# Slurm may be slow, and the time until it kills this process is short.
_ANSWER_S = 8.0
_TOO_LITTLE_MEMORY = (
    "The run needs more memory than there is. Lower devices.stack, where members train side by "
    "side, or train.global_batch_size."
)


@dataclass(frozen=True)
class Outcome:
    """How an attempt that did not complete is told to its readers and its caller."""

    state: State
    reason: Reason
    message: str
    exit_code: ExitCode


def explain_end(
    error: BaseException, paths: RunPaths, *, attempts: Sequence[Attempt] = ()
) -> Outcome:
    """What an error makes of the run.

    Under Slurm, a run that was stopped goes on: it ends REQUEUED, unless somebody cancelled it.

    Args:
        error: The error.
        paths: The run.
        attempts: All of the run, this one last.
    """
    match error:
        case StoppedError() if error.signal is not Signals.SIGINT and own_job_id(os.environ):
            return _stop_under_slurm(error, paths, attempts)
        case StoppedError() if error.signal is Signals.SIGUSR2:
            message = f"The profile's time_limit_min is near. {_resume(paths)} goes on."
            return Outcome("FAILED", "time_limit", message, ExitCode.FAILED)
        case StoppedError():
            message = f"{error} {_resume(paths)} goes on from there."
            return Outcome("CANCELLED", "cancelled", message, error.exit_code)
        case KeyboardInterrupt():
            return explain_end(StoppedError(Signals.SIGINT), paths)
        case NonFiniteError():
            return Outcome("FAILED", "nan", str(error), error.exit_code)
        case PeerLostError():
            return _lose_peer(error, paths, attempts)
        case DnnJobError():
            return Outcome("FAILED", "error", str(error), error.exit_code)
        case MemoryError():
            return _run_out_of_memory(_TOO_LITTLE_MEMORY, paths)
        case OSError():
            message = explain_os_error(error, paths)
            return Outcome("FAILED", "error", message, ExitCode.ENVIRONMENT)
        # TensorFlow's, by name: this module must not import TensorFlow.
        case _ if type(error).__name__ == "ResourceExhaustedError":
            message = f"{_TOO_LITTLE_MEMORY} ResourceExhaustedError: {error}"
            return _run_out_of_memory(message, paths)
        case _:
            message = f"{type(error).__name__}: {error}"
            return Outcome("FAILED", "error", message, ExitCode.FAILED)


def _resume(paths: RunPaths) -> str:
    return quote_command("resume", paths.root)


def is_submitted(paths: RunPaths) -> Submission | None:
    """The submission that this process works for; None where nobody would queue the run anew."""
    submission = read_submission(paths)
    job_id = own_job_id(os.environ)
    if submission is None or submission.executor != "slurm" or submission.job_id != job_id:
        return None
    return submission


def explain_os_error(error: OSError, paths: RunPaths) -> str:
    """An error of the operating system in the user's words."""
    where = f"{error.filename or paths.root}: {error.strerror or error}"
    if error.errno in NO_ROOM:
        return (
            f"A run needs room for its results, but {NO_ROOM[error.errno]} ({where}). "
            f"Make room and continue with {_resume(paths)}."
        )
    return f"A file of the run could not be read or written ({where})."


def find_fate(paths: RunPaths, *, default: Reason | None = None) -> Reason:
    """Why this Slurm job ends: by `cancel.json`, by Slurm, or where that is silent by the clock.

    Args:
        paths: The run.
        default: What it is if Slurm does not end the job.
    """
    if read_cancel(paths) is not None:
        return "cancelled"
    warning_s = int(os.environ.get(WARNING_S, "120"))
    job = _ask_in_time(lambda: show_job(str(own_job_id(os.environ))))
    if default is not None and (not job or job.get("JobState") == "RUNNING"):
        return default
    if job:
        return read_fate(job, restarts=count_restarts(os.environ) or 0, warning_s=warning_s)
    ends_at = os.environ.get(ENDS_AT)
    return guess_fate(float(ends_at) - time.time() if ends_at else None, warning_s=warning_s)


def _stop_under_slurm(error: StoppedError, paths: RunPaths, attempts: Sequence[Attempt]) -> Outcome:
    reason = find_fate(paths)
    if reason == "cancelled":
        message = f"Cancelled. {_resume(paths)} goes on from its checkpoint."
        return Outcome("CANCELLED", "cancelled", message, ExitCode.TERMINATED)
    happened = {"time_limit": "The time limit is near"}.get(reason, "Slurm needs the nodes")
    return _go_on(f"{happened} ({error.signal.name}).", reason, paths, attempts)


def _lose_peer(error: PeerLostError, paths: RunPaths, attempts: Sequence[Attempt]) -> Outcome:
    message = f"{error} {_resume(paths)} goes on from the newest checkpoint."
    outcome = Outcome("FAILED", "peer_lost", message, error.exit_code)
    if is_submitted(paths) is None:
        return outcome
    reason = find_fate(paths, default="peer_lost")
    if reason == "cancelled":
        return replace(outcome, state="CANCELLED", reason=reason, exit_code=ExitCode.TERMINATED)
    return _go_on(str(error), reason, paths, attempts)


def _go_on(happened: str, reason: Reason, paths: RunPaths, attempts: Sequence[Attempt]) -> Outcome:
    submission = is_submitted(paths)
    if submission is None:
        message = f"{happened} Stopped with a checkpoint; {_resume(paths)} goes on."
        return Outcome("REQUEUED", reason, message, ExitCode.CONTINUE)
    why_not = refuse_requeue(attempts, reason, max_requeues=submission.max_requeues)
    if why_not is not None:
        message = f"{happened} {why_not} {_resume(paths)} goes on."
        return Outcome("FAILED", reason, message, ExitCode.FAILED)
    message = f"{happened} The run is queued anew and goes on from its checkpoint."
    return Outcome("REQUEUED", reason, message, ExitCode.CONTINUE)


def _run_out_of_memory(message: str, paths: RunPaths) -> Outcome:
    submission = is_submitted(paths)
    asked = submission.requested.memory_gb if submission else None
    told = f"{message} It had asked for {asked:g} GB." if asked else message
    return Outcome("FAILED", "out_of_memory", told, ExitCode.FAILED)


def _ask_in_time(ask: Callable[[], dict[str, str]]) -> dict[str, str]:
    """What Slurm answers; nothing where it is not here, or too slow."""
    answers: SimpleQueue[dict[str, str]] = SimpleQueue()

    def wait() -> None:
        try:
            answers.put(ask())
        except SlurmError:
            answers.put({})

    threading.Thread(target=wait, daemon=True).start()
    try:
        return answers.get(timeout=_ANSWER_S)
    except Empty:
        return {}
