"""The status of a run with what others than its chief learned of it; arithmetic without effects.

status = settle(status, events, submission)
state_before(status, submission)          # also where it was sent again since
"""

import os
from collections.abc import Iterable
from pathlib import Path
from signal import Signals

from dnnjob.runs.events import Event
from dnnjob.runs.records import Attempt, Reason, State, Status, Submission
from dnnjob.text import quote_command

OVER: frozenset[State] = frozenset({"COMPLETED", "FAILED", "CANCELLED"})
_REFUSED = "Slurm refused to queue its job anew."

Outcome = tuple[State, Reason | None, str]


def settle(status: Status, events: Iterable[Event], submission: Submission | None) -> Status:
    """The status as it would be had its chief seen the events.

    What an attempt said itself of its end stands; an event tells of the latest attempt, or of the
    wait for the next one.

    Args:
        status: As the chief last wrote it.
        events: In the order of their times.
        submission: Where the run was sent last.
    """
    for event in events:
        status = _settle_one(status, event, submission)
    return status


def awaits_attempt(status: Status, submission: Submission | None) -> bool:
    """Whether a run was submitted again after what its status tells of."""
    if submission is None or status.state == "COMPLETED":
        return False
    # Clocks of two hosts differ, job ids do not.
    if submission.executor == "slurm" and any(
        attempt.slurm_job_id == submission.job_id for attempt in status.attempts
    ):
        return False
    if submission.after_attempt is None:
        return status.updated_at < submission.submitted_at
    # Nor do numbers of attempts, where a clock is set back.
    return not status.is_settled and attempt_number(status) <= submission.after_attempt


def state_before(status: Status, submission: Submission | None) -> State:
    """The state of a run as its own files tell it, given its settled status."""
    if status.state in OVER and awaits_attempt(status, submission):
        return "REQUEUED" if status.attempts else "CREATED"
    return status.state


def latest_end(events: Iterable[Event], status: Status, job_id: str | None) -> Event | None:
    """The batch script's last word on a job; not on a start before the latest attempt's."""
    ends = [one for one in events if one.writer == "batch" and one.job_id == job_id]
    if not ends:
        return None
    end = max(ends, key=lambda one: (one.restarts, one.at))
    last = status.attempts[-1] if status.attempts else None
    if last is None or last.slurm_restarts is None or last.slurm_job_id != job_id:
        return end
    return end if end.restarts >= last.slurm_restarts else None


def attempt_number(status: Status) -> int:
    """Number of the attempt that a status tells of last, 0 without any."""
    if not status.attempts:
        return 0
    # Version 0.1 numbered them by their place alone.
    return status.attempts[-1].number or len(status.attempts)


def _settle_one(status: Status, event: Event, submission: Submission | None) -> Status:
    waits = awaits_attempt(status, submission)
    if status.state in OVER and not waits:
        return status
    last = status.attempts[-1] if status.attempts else None
    is_of_last = last is not None and _is_of(event, last, attempt_number(status))
    is_of_wait = _is_of_wait(status, event, submission, waits=waits)
    if not (is_of_last or is_of_wait) or (status.state in OVER and not is_of_wait):
        return status
    outcome = _conclude(status, event, submission, is_begun=is_of_last and not is_of_wait)
    if outcome is None:
        return status
    state, reason, error = outcome
    # The clock of a node may be behind that of the submission.
    sent_at = submission.submitted_at if submission and is_of_wait else event.at
    update = {
        "state": state,
        "reason": reason,
        "error": error,
        "updated_at": max(event.at, sent_at),
        "attempts": _end_last(status, event, reason) if is_of_last else status.attempts,
        "is_settled": is_of_wait,
    }
    return status.model_copy(update=update)


def _is_of(event: Event, last: Attempt, number: int) -> bool:
    """Whether an event tells of an attempt, which is the last that the status knows."""
    if event.writer == "batch":
        return (event.job_id, event.restarts) == (last.slurm_job_id, last.slurm_restarts)
    # One that was claimed and left no word is known to the event alone.
    return event.attempt is not None and event.attempt >= number


def _is_of_wait(
    status: Status, event: Event, submission: Submission | None, *, waits: bool
) -> bool:
    """Whether an event tells of the time since the last attempt, in which none has begun."""
    last = status.attempts[-1] if status.attempts else None
    if submission is None:
        return last is None and event.attempt is not None
    if event.job_id != submission.job_id:
        return False
    if event.process and submission.process and event.process != submission.process:
        # In a container the first process has the same number each time.
        return False
    if event.attempt is not None and event.attempt < attempt_number(status):
        return False
    if last is None or waits:
        return True
    # A later start of the same job, which did not come to go on with the run.
    is_later = last.slurm_job_id == event.job_id and event.restarts > (last.slurm_restarts or 0)
    return is_later and status.state == "REQUEUED"


def _conclude(
    status: Status, event: Event, submission: Submission | None, *, is_begun: bool
) -> Outcome | None:
    """What an event makes of a run; None if it goes on, or others must be asked."""
    if event.state is not None:
        # That the run goes on is its chief's own word; that it waits for others, its launcher's.
        if is_begun and status.state == "REQUEUED" and not _ends_wait(status, event):
            return None
        return event.state, event.reason, event.error or ""
    stopped = status.reason if is_begun and status.state == "REQUEUED" else None
    match event.requeue:
        case "cancelled":
            return "CANCELLED", "cancelled", _tell_cancelled(status, submission, is_begun=is_begun)
        case "refused":
            said = f"The run is not queued anew: {event.error}." if event.error else _REFUSED
            return "FAILED", stopped or event.reason or "error", f"{said} {_resume(submission)}."
        case _ if event.reason == "out_of_memory" and is_begun:
            return "FAILED", "out_of_memory", _tell_memory(status, event, submission)
        case _ if event.reason == "error" and is_begun and status.state == "RUNNING":
            return "FAILED", "error", _tell_code(event, "The task ended with", submission)
        case "none" if is_begun and status.state == "RUNNING" and event.exit_code:
            code = _tell_code(event, "The task ended with", submission)
            return "FAILED", event.reason or "error", code
        case "none" if not is_begun and event.exit_code:
            code = _tell_code(event, "The job ended before the run began, with", submission)
            return "FAILED", "error", code
        case _:
            return None


def _ends_wait(status: Status, event: Event) -> bool:
    """Whether a run that waited to be compared with others was cancelled there."""
    return event.state == "CANCELLED" and status.attempts[-1].rung is not None


def describe_code(code: int | None) -> str:
    """What an exit code of a shell says."""
    if code is not None and code > 128 and code - 128 in set(Signals):
        return f"signal {Signals(code - 128).name}"
    return f"exit code {code}"


def _resume(submission: Submission | None) -> str:
    place = submission.place if submission is not None and submission.place else "RUN"
    return f"{quote_command('resume', place)} goes on"


def _tell_cancelled(status: Status, submission: Submission | None, *, is_begun: bool) -> str:
    if not is_begun:
        return f"Cancelled before it began. {_resume(submission)}."
    stopped = " from its checkpoint" if status.state == "REQUEUED" else ""
    return f"Cancelled. {_resume(submission)}{stopped}."


def _tell_memory(status: Status, event: Event, submission: Submission | None) -> str:
    asked_gb = submission.requested.memory_gb if submission else None
    asked = "what the cluster gives" if asked_gb is None else f"{asked_gb:g} GB"
    used_mb = event.memory_mb or status.attempts[-1].peak_rss_mb
    seen = f" and was seen with {used_mb:.0f} MB" if used_mb else ""
    return (
        f"Killed for its memory: it had asked for {asked}{seen}. Raise profile.memory_gb, then "
        f"{_resume(submission)}."
    )


def _tell_code(event: Event, happened: str, submission: Submission | None) -> str:
    said = f"{event.error} " if event.error else f"{happened} {describe_code(event.exit_code)}. "
    if submission is None or submission.place is None:
        return f"{said}Its logs show what it said."
    folder = os.path.normpath(Path(submission.place) / submission.folder)
    return f"{said}See {folder}/{event.job_id}_0_log.err."


def _end_last(status: Status, event: Event, reason: Reason | None) -> tuple[Attempt, ...]:
    *earlier, last = status.attempts
    ended = {} if last.ended_at else {"ended_at": event.at}
    return (*earlier, last.model_copy(update={**ended, "reason": reason or last.reason}))
