"""How a run stands, and why: by its files, its process and the scheduler, in one place.

verdict = judge(
    status, events=events, cancel=cancel, submission=submission, scheduler=None,
    process=ProcessView(is_alive=True), now=now, run=paths.root,
)
verdict.state, verdict.reason, verdict.note

What nobody can tell is `vanished`; what cannot be asked from here keeps the state its files say.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from signal import Signals

from dnnjob.runs.events import Event
from dnnjob.runs.journal import SECONDS_BETWEEN_SIGNS
from dnnjob.runs.queue_reasons import describe_queue_reason
from dnnjob.runs.records import Cancel, Reason, State, Status, Submission
from dnnjob.runs.settle import OVER, describe_code, latest_end, settle, state_before
from dnnjob.text import describe_time, quote_command

# A sign every 10 s; clocks of two hosts differ, and NFS shows a file up to a minute late.
FRESH = timedelta(seconds=6 * SECONDS_BETWEEN_SIGNS + 60)
# Between the end of a job and the moment in which every reader sees the status it left.
LAG = timedelta(seconds=90)

# What Slurm's words for the end of a job mean for a run that could not write its own.
_ENDS: Mapping[str, Reason] = {
    "BOOT_FAIL": "node_failure",
    "DEADLINE": "time_limit",
    "FAILED": "error",
    "NODE_FAIL": "node_failure",
    "OUT_OF_MEMORY": "out_of_memory",
    "PREEMPTED": "preempted",
    "TIMEOUT": "time_limit",
}
# Slurm's sign that a node could not open the file for a job's output, in 22.05 to 24.11.
_NO_LOG = 53
_WAITS = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")


@dataclass(frozen=True, kw_only=True)
class JobView:
    """What Slurm tells of the job of a run."""

    state: str
    """Slurm's word, in capitals."""
    is_over: bool = False
    reason: str | None = None
    """Why it waits, in Slurm's word."""
    nodes: str | None = None
    limit_left_s: float | None = None
    """Until the time limit."""
    starts_at: datetime | None = None
    """When Slurm means to start it."""
    exit_code: int | None = None
    """None where Slurm does not tell."""
    signal: int = 0
    """Signal that ended it."""
    cancelled_by: str | None = None
    ended_at: datetime | None = None
    """None also where Slurm does not tell."""
    memory_asked_gb: float | None = None
    memory_used_gb: float | None = None
    ended_before: str | None = None
    """How its last start before this one ended."""


@dataclass(frozen=True, kw_only=True)
class SchedulerAnswer:
    """What the scheduler said when it was asked about a run."""

    job_id: str
    job: JobView | None = None
    """None if it does not know the job any more."""
    has_log: bool = True
    """Whether the job has written a log."""


@dataclass(frozen=True, kw_only=True)
class ProcessView:
    """What is seen of the process of a run."""

    is_alive: bool | None = None
    """None if that cannot be seen from here."""
    place: str | None = None
    """Where the run is or was, if nobody here can tell more."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The state of a run and why."""

    state: State
    reason: Reason | None = None
    error: str | None = None
    note: str | None = None
    """What there is to know besides: why it waits, or when it last gave a sign of life."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to come of it."""
        return self.state in OVER


@dataclass(frozen=True, kw_only=True)
class _Case:
    """The evidence, with the status as events have settled it."""

    run: Path
    status: Status
    events: Sequence[Event]
    cancel: Cancel | None
    submission: Submission | None
    answer: SchedulerAnswer | None
    process: ProcessView
    now: datetime

    @property
    def end(self) -> Event | None:
        """The batch script's word on the end of the last start; not on that of one before."""
        if self.submission is None or self.submission.executor != "slurm":
            return None
        job_id = self.submission.job_id
        if self.answer is not None and self.answer.job_id != job_id:
            return None
        return latest_end(self.events, self.status, job_id)


def judge(
    status: Status,
    *,
    events: Sequence[Event],
    cancel: Cancel | None,
    submission: Submission | None,
    scheduler: SchedulerAnswer | None,
    process: ProcessView | None,
    now: datetime,
    run: Path,
) -> Verdict:
    """How a run stands and why.

    Args:
        status: As the chief last wrote it.
        events: What others than the chief have learned, in the order of their times.
        cancel: The wish that it end.
        submission: Where it was sent last.
        scheduler: What the scheduler said of it; None if it was not, or could not be, asked.
        process: What is seen of its process; None outside of what can be seen here.
        now: The present, against which signs of life are judged.
        run: Its folder, for what is told of it.
    """
    case = _Case(
        run=run,
        status=settle(status, events, submission),
        events=events,
        cancel=cancel,
        submission=submission,
        answer=scheduler,
        process=process or ProcessView(),
        now=now,
    )
    return _judge(case)


def _judge(case: _Case) -> Verdict:
    status = case.status
    state = state_before(status, case.submission)
    if state in OVER:
        return Verdict(state=state, reason=status.reason, error=status.error)
    known = Verdict(state=state, reason=status.reason if state == "REQUEUED" else None)
    if case.answer is not None:
        job = case.answer.job
        if job is not None and not job.is_over:
            return _judge_job(case, job, known)
        return _judge_end(case, job, known)
    match case.process.is_alive:
        case False:
            return _vanished(case, "Its process has ended without a word.")
        case True:
            return _with_note(known, _wish(case))
    return _judge_unasked(case, known)


def _judge_unasked(case: _Case, known: Verdict) -> Verdict:
    """A run of which only its files tell."""
    end, place = case.end, case.process.place
    if known.state == "RUNNING" and end is not None and end.requeue in ("asked", "slurm"):
        known = Verdict(state="REQUEUED", reason=end.reason or "vanished")
    silent = _silence(case) or (place and "last sign of life just now")
    where = f", {place}" if place and silent else ""
    return _with_note(known, silent and f"{silent}{where}", _wish(case))


def _judge_job(case: _Case, job: JobView, known: Verdict) -> Verdict:
    """A run whose job waits or runs."""
    wish = _wish(case)
    if job.state in _WAITS:
        queue = describe_queue_reason(
            job.reason, job_id=case.answer.job_id if case.answer else "", starts_at=job.starts_at
        )
        if known.state == "RUNNING":
            # Slurm has queued the job anew, and the attempt had no time to say so.
            end = case.end
            reason = _ENDS.get(job.ended_before or "") or (end and end.reason)
            known = Verdict(state="REQUEUED", reason=reason or "vanished")
        return _with_note(known, wish, queue)
    at_work = f"its job is {job.state.lower()}" + (f" on {job.nodes}" if job.nodes else "")
    if known.state != "RUNNING":
        shared = case.submission is not None and case.submission.sweep_id is not None
        turn = "it starts, or its turn has yet to come" if shared else "it starts"
        return _with_note(known, wish, f"{at_work}: {turn}")
    silent = _silence(case)
    return _with_note(known, wish, silent and f"{silent}, while {at_work}")


def _judge_end(case: _Case, job: JobView | None, known: Verdict) -> Verdict:
    """A run that has not ended by its own word, whose job has ended or is forgotten."""
    end = case.end
    if (job and job.state == "CANCELLED") or (end and end.requeue == "cancelled"):
        return _cancelled(case)
    if _is_still_to_be_heard_of(case, job, end):
        return _with_note(known, "its job has just ended")
    if job is not None and (reason := _ENDS.get(job.state)) is not None:
        return _explain_end(case, job, reason)
    if case.cancel is not None:
        return _cancelled(case)
    if end is not None and end.requeue == "none" and end.exit_code not in (0, 75):
        error = f"Its job ended with {describe_code(end.exit_code or 0)}. {_see_logs(case)}"
        return Verdict(state="FAILED", reason=end.reason or "error", error=error)
    if job is not None and job.state == "COMPLETED":
        return _vanished(case, "Slurm calls its job completed, but its status says nothing.")
    return _vanished(case, "Its job is gone, and no accounting tells why.")


def _is_still_to_be_heard_of(case: _Case, job: JobView | None, end: Event | None) -> bool:
    """Whether a job ended so lately that its last words may not have come: shared storage lags."""
    if job is None:
        lately = case.now - case.status.updated_at < LAG
        return case.cancel is None and end is None and lately
    is_shared = case.submission is not None and case.submission.sweep_id is not None
    goes_on = end is not None and end.requeue in ("asked", "slurm")
    # Of the points of a task that failed, others may have completed.
    if not (job.state == "COMPLETED" or goes_on or (job.state == "FAILED" and is_shared)):
        return False
    ended_at = job.ended_at or (end.at if end else None)
    # Without books squeue shows a job for some minutes after its end.
    return ended_at is None or case.now - ended_at < LAG


def _explain_end(case: _Case, job: JobView, reason: Reason) -> Verdict:
    """A job that Slurm knows to have ended badly."""
    nodes = f" on {job.nodes}" if job.nodes else ""
    match reason:
        case "error" if _NO_LOG in (job.signal, job.exit_code) or _failed_to_start(case, job):
            folder = case.run / case.submission.folder if case.submission else "there"
            error = (
                f"A node must be able to write the job's log, but {job.nodes or 'one'} could not "
                f"write to {folder}. Look whether that node sees the folder, exclude it with "
                f"profile.exclude, or choose a root that all nodes see."
            )
        case "error" if _outgrew(job):
            reason, error = "out_of_memory", _describe_memory(job, nodes)
        case "out_of_memory":
            error = _describe_memory(job, nodes)
        case "node_failure":
            error = f"Its node failed ({job.nodes or 'unknown'})."
        case "time_limit":
            error = "Its job reached its time limit before it could stop by itself."
        case "preempted":
            error = f"Its job was preempted{nodes}, and Slurm did not queue it anew."
        case _:
            error = f"Its job ended{nodes} with {_find_code(case, job)}. {_see_logs(case)}"
    return Verdict(state="FAILED", reason=reason, error=error)


def _cancelled(case: _Case) -> Verdict:
    job = case.answer and case.answer.job
    who = case.cancel.user if case.cancel else job and job.cancelled_by
    error = f"Cancelled by {who}." if who else "Its job was cancelled."
    return Verdict(state="CANCELLED", reason="cancelled", error=error)


def _vanished(case: _Case, what: str) -> Verdict:
    if case.cancel is not None:
        return _cancelled(case)
    return Verdict(state="FAILED", reason="vanished", error=f"{what} {_see_logs(case)}")


def _wish(case: _Case) -> str | None:
    if case.cancel is None:
        return None
    return f"asked to stop {describe_time(case.now - case.cancel.requested_at)} ago"


def _silence(case: _Case) -> str | None:
    """When a run last gave a sign of life, unless that was just now."""
    age = case.now - case.status.updated_at
    return None if age < FRESH else f"last sign of life {describe_time(age)} ago"


def _with_note(verdict: Verdict, *notes: str | None) -> Verdict:
    told = [note for note in notes if note]
    return Verdict(state=verdict.state, reason=verdict.reason, note="; ".join(told) or None)


def _failed_to_start(case: _Case, job: JobView) -> bool:
    return job.reason == "JobLaunchFailure" and case.answer is not None and not case.answer.has_log


def _find_code(case: _Case, job: JobView) -> str:
    """What a job ended with, in words."""
    if job.signal:
        return describe_code(128 + job.signal)
    if job.exit_code is not None:
        return describe_code(job.exit_code)
    if case.end is not None:
        return describe_code(case.end.exit_code or 0)
    return f"the reason {job.reason}"


def _outgrew(job: JobView) -> bool:
    """Whether a job was killed with more memory in use than it had asked for."""
    if job.memory_asked_gb is None or job.memory_used_gb is None:
        return False
    return job.signal == Signals.SIGKILL and job.memory_used_gb > job.memory_asked_gb


def _describe_memory(job: JobView, nodes: str) -> str:
    asked = "" if job.memory_asked_gb is None else f" of {job.memory_asked_gb:.3g} GiB"
    used = "" if job.memory_used_gb is None else f", at {job.memory_used_gb:.3g} GiB"
    return (
        f"Its job was killed{nodes} for more memory than its limit{asked}{used}. "
        "Raise profile.memory_gb, or lower train.global_batch_size."
    )


def _see_logs(case: _Case) -> str:
    return f"{quote_command('logs', case.run)} shows what it said."
