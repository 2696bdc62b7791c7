"""One question to Slurm about the jobs of many runs: one call of each command.

answer = ask_slurm({"123", "124_7"}, begun={"123"})
answer.cluster, answer.jobs["123"].state
"""

import pwd
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from dnnjob import slurm
from dnnjob.errors import SlurmError
from dnnjob.runs import JobView
from dnnjob.slurm import ENDED_STATES, AccountedJob, QueuedJob

_WAITS = "PENDING"


@dataclass(frozen=True)
class Answer:
    """What Slurm said."""

    cluster: str | None = None
    """Name of the cluster that answered; None if none did."""
    jobs: Mapping[str, JobView] = field(default_factory=dict)
    """The jobs it knows."""
    fault: str | None = None
    """Why nothing can be said of a job that is not among `jobs`."""


def ask_slurm(job_ids: Collection[str], *, begun: Collection[str] = ()) -> Answer:
    """What squeue, and where it is needed sacct, say of jobs and array elements.

    Args:
        job_ids: `123` or `123_4`, of the cluster that commands here speak to.
        begun: Those whose runs believe to be at work; if one waits, it is asked how it ended.
    """
    try:
        cluster = slurm.cluster_name()
        queue = slurm.list_queue(job_ids)
    except SlurmError as error:
        return Answer(fault=str(error))
    unclear = [job_id for job_id in job_ids if _is_unclear(queue.get(job_id), job_id in begun)]
    try:
        books = slurm.list_accounted(unclear) or {}
        fault = None
    except SlurmError as error:
        books, fault = {}, str(error)
    views = {
        job_id: view
        for job_id in job_ids
        if (view := _view(queue.get(job_id), books.get(job_id, ()))) is not None
    }
    return Answer(cluster, views, fault)


def _is_unclear(job: QueuedJob | None, is_begun: bool) -> bool:
    return job is None or job.state in ENDED_STATES or (is_begun and job.state == _WAITS)


def _view(job: QueuedJob | None, starts: Sequence[AccountedJob]) -> JobView | None:
    if job is not None and job.state not in ENDED_STATES:
        return _view_queued(job, starts)
    # Books that call it alive when the queue has lost it are behind, or broken.
    if starts and starts[-1].state in ENDED_STATES:
        return _view_ended(starts[-1])
    return None if job is None else _view_queued(job, ())


def _view_queued(job: QueuedJob, starts: Sequence[AccountedJob]) -> JobView:
    before = [start.state for start in starts if start.ended_at is not None]
    return JobView(
        state=job.state,
        is_over=job.state in ENDED_STATES,
        reason=None if job.reason == "None" else job.reason,
        nodes=job.nodes or None,
        limit_left_s=job.left_s,
        starts_at=job.starts_at if job.state == _WAITS else None,
        ended_before=before[-1] if before else None,
    )


def _view_ended(start: AccountedJob) -> JobView:
    return JobView(
        state=start.state,
        is_over=True,
        nodes=start.nodes or None,
        exit_code=start.exit_code,
        signal=start.signal,
        cancelled_by=_user_name(start.cancelled_by),
        ended_at=start.ended_at,
        memory_asked_gb=_gb(start.memory_mb),
        memory_used_gb=_gb(start.max_rss_mb),
    )


def _user_name(number: int | None) -> str | None:
    try:
        return None if number is None else pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def _gb(mib: float | None) -> float | None:
    return None if mib is None else mib / 1024
