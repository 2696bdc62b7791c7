"""What has become of a run: its files, its process and Slurm, merged by one function.

view = merge(Evidence(paths=paths, status=status, origin="slurm", job=job), now=now)
view.state, view.reason, view.note

What nobody can tell is `vanished`; what cannot be asked from here keeps the state its files say.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from signal import Signals
from typing import Literal

from dnnjob.launch.watch.words import describe_queue_reason, describe_time
from dnnjob.runs import (
    SECONDS_BETWEEN_SIGNS,
    Attempt,
    BatchEnd,
    Cancel,
    Progress,
    Reason,
    Record,
    RunPaths,
    State,
    Status,
    Submission,
)

OVER: frozenset[State] = frozenset({"COMPLETED", "FAILED", "CANCELLED"})
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

Origin = Literal["slurm", "process", "unknown"]


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
class Evidence:
    """All that can be known of a run from here."""

    paths: RunPaths
    status: Status | None
    fault: str | None = None
    """Why there is no status."""
    submission: Submission | None = None
    job_id: str | None = None
    """The Slurm job that carries it, or did last; None outside Slurm."""
    cluster: str | None = None
    """On which that job is."""
    cancel: Cancel | None = None
    batch_end: BatchEnd | None = None
    has_log: bool = True
    """Whether its job has written a log."""
    origin: Origin = "unknown"
    """Who could tell whether it lives: Slurm, which was asked; its process; or nobody here."""
    place: str | None = None
    """Where it is or was, if nobody here can tell."""
    is_copy: bool = False
    """Whether it is a copy of a run that lies elsewhere."""
    is_alive: bool = False
    """Whether its process is."""
    job: JobView | None = None
    """None if Slurm does not know its job any more."""


class RunView(Record):
    """A run as `dnnjob status` shows it."""

    name: str
    run_id: str
    path: str
    state: State | None
    """None if its files cannot be read."""
    reason: Reason | None = None
    error: str | None = None
    note: str | None = None
    """What there is to know besides: why it waits, or when it last gave a sign of life."""
    progress: Progress = Progress()
    left_s: float | None = None
    """Until training ends, as far as its pace so far tells."""
    limit_left_s: float | None = None
    """Until the job's time limit."""
    job_id: str | None = None
    """Slurm's job or array element; None outside Slurm."""
    cluster: str | None = None
    """On which that id counts."""
    process: int | None = None
    """Outside Slurm, the process that is or was at work, or that waits to be."""
    job_state: str | None = None
    queue_reason: str | None = None
    starts_at: datetime | None = None
    nodes: str | None = None
    """Of its job, or the host of its last attempt."""
    sweep_id: str | None = None
    num_attempts: int = 0
    updated_at: datetime | None = None
    """Its last sign of life."""
    asked: Origin = "unknown"
    """Who told whether it lives; its own files, once it has ended."""
    is_copy: bool = False

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to come of it."""
        return self.state is None or self.state in OVER


@dataclass(frozen=True, kw_only=True)
class _Verdict:
    """The state of a run and why."""

    state: State
    reason: Reason | None = None
    error: str | None = None
    note: str | None = None


def merge(evidence: Evidence, *, now: datetime) -> RunView:
    """What the evidence together says of a run.

    Args:
        evidence: What was read and asked.
        now: The present, against which signs of life are judged.
    """
    paths, status, submission = evidence.paths, evidence.status, evidence.submission
    if status is None:
        return RunView(**_identify(paths), state=None, note=evidence.fault)
    verdict = _judge(evidence, status, now)
    job = evidence.job
    is_at_work = verdict.state == "RUNNING"
    last = status.attempts[-1] if status.attempts else None
    return RunView(
        **_identify(paths),
        **vars(verdict),
        progress=status.progress,
        left_s=estimate_left_s(status, now=now) if is_at_work else None,
        limit_left_s=job.limit_left_s if job and is_at_work else None,
        process=_find_process(evidence, last),
        cluster=evidence.cluster,
        job_id=evidence.job_id,
        job_state=job and job.state,
        queue_reason=job and job.reason,
        starts_at=job and job.starts_at,
        nodes=(job and job.nodes) or (last and last.host),
        sweep_id=submission and submission.sweep_id,
        num_attempts=len(status.attempts),
        updated_at=status.updated_at,
        asked=evidence.origin,
        is_copy=evidence.is_copy,
    )


def awaits_attempt(status: Status, submission: Submission | None) -> bool:
    """Whether a run was submitted again after what its status tells of."""
    if submission is None or status.state == "COMPLETED":
        return False
    # Clocks of two hosts differ, job ids do not.
    if submission.executor == "slurm" and any(
        attempt.slurm_job_id == submission.job_id for attempt in status.attempts
    ):
        return False
    # The batch script gives what it ends in the same moment, as coarse clocks have it, that one.
    return status.updated_at < submission.submitted_at


def state_before(status: Status, submission: Submission | None) -> State:
    """The state of a run as its own files tell it."""
    if status.state in OVER and awaits_attempt(status, submission):
        return "REQUEUED" if status.attempts else "CREATED"
    return status.state


def estimate_left_s(status: Status, *, now: datetime) -> float | None:
    """Seconds until training ends, by the pace of the attempt; None while that is unknown."""
    if not status.attempts:
        return None
    attempt, progress = status.attempts[-1], status.progress
    if attempt.resumed_from is None and len(status.attempts) > 1:
        # It is starting: the progress is that of the attempt before.
        return None
    begun = attempt.resumed_from.epoch if attempt.resumed_from else 0
    done, missing = progress.epoch - begun, progress.epochs - progress.epoch
    if done <= 0 or missing <= 0:
        return None
    spent_s = (status.updated_at - attempt.started_at).total_seconds()
    age_s = (now - status.updated_at).total_seconds()
    return max(0.0, spent_s / done * missing - age_s)


def _find_process(evidence: Evidence, last: Attempt | None) -> int | None:
    if evidence.job_id is not None:
        return None
    if last is not None:
        return last.pid
    return int(evidence.submission.job_id) if evidence.submission else None


def _identify(paths: RunPaths) -> dict[str, str]:
    return {"name": paths.root.parent.name, "run_id": paths.run_id, "path": str(paths.root)}


def _judge(evidence: Evidence, status: Status, now: datetime) -> _Verdict:
    state = state_before(status, evidence.submission)
    if state in OVER:
        return _Verdict(state=state, reason=status.reason, error=status.error)
    known = _Verdict(state=state, reason=status.reason if state == "REQUEUED" else None)
    job = evidence.job
    match evidence.origin:
        case "slurm" if job is not None and not job.is_over:
            return _judge_job(evidence, job, status, known, now)
        case "slurm":
            return _judge_end(evidence, status, known, now)
        case "process" if not evidence.is_alive:
            return _vanished(evidence, "Its process has ended without a word.")
        case "process":
            return _with_note(known, _wish(evidence, now))
        case _:
            silent = _silence(status, now) or (evidence.place and "last sign of life just now")
            where = f", {evidence.place}" if evidence.place and silent else ""
            return _with_note(known, silent and f"{silent}{where}", _wish(evidence, now))


def _judge_job(
    evidence: Evidence, job: JobView, status: Status, known: _Verdict, now: datetime
) -> _Verdict:
    """A run whose job waits or runs."""
    wish = _wish(evidence, now)
    if job.state in _WAITS:
        queue = describe_queue_reason(
            job.reason, job_id=evidence.job_id or "", starts_at=job.starts_at
        )
        if known.state == "RUNNING":
            # Slurm has queued the job anew, and the attempt had no time to say so.
            end = _latest_end(evidence, status)
            reason = _ENDS.get(job.ended_before or "") or (end and end.reason)
            known = _Verdict(state="REQUEUED", reason=reason or "vanished")
        return _with_note(known, wish, queue)
    at_work = f"its job is {job.state.lower()}" + (f" on {job.nodes}" if job.nodes else "")
    if known.state != "RUNNING":
        shared = evidence.submission is not None and evidence.submission.sweep_id is not None
        turn = "it starts, or its turn has yet to come" if shared else "it starts"
        return _with_note(known, wish, f"{at_work}: {turn}")
    silent = _silence(status, now)
    return _with_note(known, wish, silent and f"{silent}, while {at_work}")


def _judge_end(evidence: Evidence, status: Status, known: _Verdict, now: datetime) -> _Verdict:
    """A run that has not ended by its own word, whose job has ended or is forgotten."""
    job, end = evidence.job, _latest_end(evidence, status)
    if end is not None and end.requeue == "refused":
        return _Verdict(
            state="FAILED",
            reason=known.reason or "vanished",
            error=f"Slurm refused to queue its job anew. `dnnjob resume {evidence.paths.root}` "
            "submits it again.",
        )
    if (job and job.state == "CANCELLED") or (end and end.requeue == "cancelled"):
        return _cancelled(evidence)
    if _is_still_to_be_heard_of(evidence, end, status, now):
        return _with_note(known, "its job has just ended")
    if job is not None and (reason := _ENDS.get(job.state)) is not None:
        return _explain_end(evidence, job, reason)
    if evidence.cancel is not None:
        return _cancelled(evidence)
    if end is not None and end.requeue == "none" and end.exit_code not in (0, 75):
        error = f"Its job ended with {_describe_code(end.exit_code)}. {_see_logs(evidence)}"
        return _Verdict(state="FAILED", reason=end.reason or "error", error=error)
    if job is not None and job.state == "COMPLETED":
        return _vanished(evidence, "Slurm calls its job completed, but its status says nothing.")
    return _vanished(evidence, "Its job is gone, and no accounting tells why.")


def _is_still_to_be_heard_of(
    evidence: Evidence, end: BatchEnd | None, status: Status, now: datetime
) -> bool:
    """Whether a job ended so lately that its last words may not have come: shared storage lags."""
    job = evidence.job
    if job is None:
        return evidence.cancel is None and end is None and now - status.updated_at < LAG
    is_shared = evidence.submission is not None and evidence.submission.sweep_id is not None
    goes_on = end is not None and end.requeue in ("asked", "slurm")
    # Of the points of a task that failed, others may have completed.
    if not (job.state == "COMPLETED" or goes_on or (job.state == "FAILED" and is_shared)):
        return False
    ended_at = job.ended_at or (end.ended_at if end else None)
    # Without books squeue shows a job for some minutes after its end.
    return ended_at is None or now - ended_at < LAG


def _explain_end(evidence: Evidence, job: JobView, reason: Reason) -> _Verdict:
    """A job that Slurm knows to have ended badly."""
    nodes = f" on {job.nodes}" if job.nodes else ""
    match reason:
        case "error" if _NO_LOG in (job.signal, job.exit_code) or _failed_to_start(evidence, job):
            folder = (
                evidence.paths.root / evidence.submission.folder if evidence.submission else "there"
            )
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
            error = f"Its job ended{nodes} with {_find_code(evidence, job)}. {_see_logs(evidence)}"
    return _Verdict(state="FAILED", reason=reason, error=error)


def _latest_end(evidence: Evidence, status: Status) -> BatchEnd | None:
    """The batch script's word on the end of the last start; not on that of one before."""
    end = evidence.batch_end
    last = status.attempts[-1] if status.attempts else None
    if end is None or last is None or last.slurm_restarts is None:
        return end
    is_of_last = last.slurm_job_id == evidence.job_id
    return end if not is_of_last or end.restarts >= last.slurm_restarts else None


def _cancelled(evidence: Evidence) -> _Verdict:
    who = evidence.cancel.user if evidence.cancel else evidence.job and evidence.job.cancelled_by
    error = f"Cancelled by {who}." if who else "Its job was cancelled."
    return _Verdict(state="CANCELLED", reason="cancelled", error=error)


def _vanished(evidence: Evidence, what: str) -> _Verdict:
    if evidence.cancel is not None:
        return _cancelled(evidence)
    return _Verdict(state="FAILED", reason="vanished", error=f"{what} {_see_logs(evidence)}")


def _wish(evidence: Evidence, now: datetime) -> str | None:
    if evidence.cancel is None:
        return None
    return f"asked to stop {describe_time(now - evidence.cancel.requested_at)} ago"


def _silence(status: Status, now: datetime) -> str | None:
    """When a run last gave a sign of life, unless that was just now."""
    age = now - status.updated_at
    return None if age < FRESH else f"last sign of life {describe_time(age)} ago"


def _with_note(verdict: _Verdict, *notes: str | None) -> _Verdict:
    told = [note for note in notes if note]
    return _Verdict(state=verdict.state, reason=verdict.reason, note="; ".join(told) or None)


def _failed_to_start(evidence: Evidence, job: JobView) -> bool:
    return job.reason == "JobLaunchFailure" and not evidence.has_log


def _find_code(evidence: Evidence, job: JobView) -> str:
    """What a job ended with, in words."""
    if job.signal:
        return _describe_code(128 + job.signal)
    if job.exit_code is not None:
        return _describe_code(job.exit_code)
    if evidence.batch_end is not None:
        return _describe_code(evidence.batch_end.exit_code)
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


def _describe_code(code: int) -> str:
    if code > 128 and code - 128 in set(Signals):
        return f"signal {Signals(code - 128).name}"
    return f"exit code {code}"


def _see_logs(evidence: Evidence) -> str:
    return f"`dnnjob logs {evidence.paths.root}` shows what it said."
