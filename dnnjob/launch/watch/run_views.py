"""Looking at many runs at once: their files, their processes here, and Slurm, asked once for all.

views = look(runs)
views = glance(runs)             # files and processes alone
"""

import os
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from dnnjob.launch.watch.slurm_answer import Answer, ask_slurm
from dnnjob.machine import find_process, sees_process, user_name
from dnnjob.runs import (
    OVER,
    Attempt,
    Event,
    ProcessView,
    Progress,
    Reason,
    Record,
    RunPaths,
    SchedulerAnswer,
    State,
    Status,
    Submission,
    awaits_attempt,
    is_copy,
    judge,
    read_cancel,
    read_events,
    read_status,
    read_submission,
    settle,
    state_before,
)

_MAX_READERS = 16
_NOT_ASKED = Answer(fault="not asked")

Ask = Callable[..., Answer]
Origin = Literal["slurm", "process", "unknown"]


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


@dataclass(frozen=True)
class _Files:
    """What the files of a run say, and who could tell whether it lives."""

    paths: RunPaths
    told: Status | None
    """As the chief wrote it."""
    fault: str | None = None
    submission: Submission | None = None
    events: tuple[Event, ...] = ()
    status: Status | None = None
    """As events have settled it."""

    @property
    def is_open(self) -> bool:
        """Whether its own files do not say how it ended."""
        return self.status is not None and state_before(self.status, self.submission) not in OVER

    @property
    def last_attempt(self) -> Attempt | None:
        """The attempt that is or was at work last, unless a later submission waits."""
        if self.status is None or not self.status.attempts:
            return None
        return None if awaits_attempt(self.status, self.submission) else self.status.attempts[-1]

    @property
    def is_begun(self) -> bool:
        """Whether it believes to be at work."""
        return self.status is not None and self.status.state == "RUNNING"

    @property
    def job_id(self) -> str | None:
        """The Slurm job that carries it, or did."""
        if (last := self.last_attempt) is not None:
            return last.slurm_job_id
        is_slurm = self.submission is not None and self.submission.executor == "slurm"
        return self.submission.job_id if self.submission and is_slurm else None

    @property
    def cluster(self) -> str | None:
        """The Slurm cluster on which that job id counts."""
        if (last := self.last_attempt) is not None and last.slurm_cluster:
            return last.slurm_cluster
        return self.submission.cluster if self.submission else None

    @property
    def place(self) -> str | None:
        """Where the run folder was when it was sent or begun."""
        if (last := self.last_attempt) is not None and last.place is not None:
            return last.place
        return self.submission.place if self.submission else None


def look(
    runs: Sequence[RunPaths], *, ask: Ask = ask_slurm, now: datetime | None = None
) -> tuple[RunView, ...]:
    """What has become of each run.

    Args:
        runs: Their folders.
        ask: Who is asked about Slurm's jobs.
        now: The present, against which signs of life are judged.
    """
    with ThreadPoolExecutor(_MAX_READERS) as pool:
        files = list(pool.map(read_run_files, runs))
        # Asked before the status is read again: else a run that ends meanwhile looks lost.
        answer = _ask(files, ask)
        is_known = {one.paths: one for one in files if not one.is_open}
        latest = pool.map(lambda paths: is_known.get(paths) or read_run_files(paths), runs)
        now = now or datetime.now(UTC)
        return tuple(_view(one, answer, now) for one in latest)


def glance(runs: Sequence[RunPaths]) -> tuple[RunView, ...]:
    """What files and processes here say of each run; Slurm is left alone."""
    return look(runs, ask=lambda *_, **__: _NOT_ASKED)


def _ask(files: Collection[_Files], ask: Ask) -> Answer:
    open_ones = [one for one in files if one.is_open and one.job_id and not _is_elsewhere(one)]
    if not open_ones:
        return _NOT_ASKED
    job_ids = {one.job_id for one in open_ones}
    return ask(job_ids, begun={one.job_id for one in open_ones if one.is_begun})


def read_run_files(paths: RunPaths) -> _Files:
    """What the files of a run say of it."""
    try:
        told = read_status(paths)
    except FileNotFoundError:
        return _Files(paths, None, f"there is no {paths.status.name}")
    except OSError as error:
        return _Files(paths, None, f"unreadable: {error.strerror}")
    except ValueError:
        return _Files(paths, None, f"its {paths.status.name} is damaged")
    submission = read_submission(paths)
    events = read_events(paths, submission)
    status = settle(told, events, submission)
    return _Files(paths, told, None, submission, events, status)


def _view(files: _Files, answer: Answer, now: datetime) -> RunView:
    paths, status, submission, job_id = files.paths, files.status, files.submission, files.job_id
    if status is None or files.told is None:
        return RunView(**_identify(paths), state=None, note=files.fault)
    origin, process = _find_origin(files, answer) if files.is_open else ("unknown", None)
    scheduler = _scheduler_answer(files, job_id, answer) if job_id and origin == "slurm" else None
    job = scheduler and scheduler.job
    verdict = judge(
        files.told,
        events=files.events,
        cancel=read_cancel(paths) if files.is_open else None,
        submission=submission,
        scheduler=scheduler,
        process=process,
        now=now,
        run=paths.root,
    )
    is_at_work = verdict.state == "RUNNING"
    last = status.attempts[-1] if status.attempts else None
    return RunView(
        **_identify(paths),
        **vars(verdict),
        progress=status.progress,
        left_s=estimate_left_s(status, now=now) if is_at_work else None,
        limit_left_s=job.limit_left_s if job and is_at_work else None,
        process=_find_process(files, last),
        cluster=files.cluster if job_id else None,
        job_id=job_id,
        job_state=job and job.state,
        queue_reason=job and job.reason,
        starts_at=job and job.starts_at,
        nodes=(job and job.nodes) or (last and last.host),
        sweep_id=submission and submission.sweep_id,
        num_attempts=len(status.attempts),
        updated_at=status.updated_at,
        asked=origin,
        is_copy=files.is_open and _is_elsewhere(files),
    )


def _scheduler_answer(files: _Files, job_id: str, answer: Answer) -> SchedulerAnswer:
    sent = files.submission
    has_log = sent is None or _has_log(files.paths.root / sent.folder, job_id)
    return SchedulerAnswer(job_id=job_id, job=answer.jobs.get(job_id), has_log=has_log)


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


def _find_process(files: _Files, last: Attempt | None) -> int | None:
    if files.job_id is not None:
        return None
    if last is not None:
        # Looking for a container's among all processes is for runs at work alone.
        here = find_process(last.pid, last.process, host=last.host) if files.is_begun else None
        return here or last.pid
    return int(files.submission.job_id) if files.submission else None


def _identify(paths: RunPaths) -> dict[str, str]:
    return {"name": paths.root.parent.name, "run_id": paths.run_id, "path": str(paths.root)}


def _find_origin(files: _Files, answer: Answer) -> tuple[Origin, ProcessView | None]:
    """Who can tell whether a run lives, and what is seen of its process."""
    if _is_elsewhere(files):
        return "unknown", ProcessView(place=f"a copy of {files.place}")
    if files.job_id is not None:
        if answer is _NOT_ASKED:
            return "unknown", None
        unheard = _find_silence(files, files.job_id, answer)
        return ("slurm", None) if unheard is None else ("unknown", ProcessView(place=unheard))
    seen, host = _see_process(files)
    if seen is not None:
        return "process", ProcessView(is_alive=seen)
    return "unknown", ProcessView(place=host and f"on {host}")


def _find_silence(files: _Files, job_id: str, answer: Answer) -> str | None:
    """Why Slurm cannot tell of a run, with the place where it is; None if it can."""
    if answer.cluster is None:
        return f"on {files.cluster or 'a cluster'}, and Slurm does not answer"
    if files.cluster not in (None, answer.cluster):
        return f"on the cluster {files.cluster}"
    if job_id not in answer.jobs and answer.fault is not None:
        return "no longer queued, and Slurm's accounting does not answer"
    if job_id not in answer.jobs and (owner := _find_stranger(files)) is not None:
        # Where PrivateData says so, neither squeue nor sacct mentions the jobs of others.
        return f"in a job of {owner}, which Slurm does not show here"
    return None


def _find_stranger(files: _Files) -> str | None:
    """Whose job carries a run, unless it is the caller's own."""
    sent = files.submission
    if sent is not None and sent.job_id == files.job_id:
        return None if sent.user == user_name() else sent.user
    uid = files.paths.root.stat().st_uid
    return None if uid == os.geteuid() else f"user {uid}"


def _see_process(files: _Files) -> tuple[bool | None, str | None]:
    """Whether the process of a run lives, None if that is not to be seen; and its host."""
    if (last := files.last_attempt) is not None and files.is_begun:
        return sees_process(last.pid, last.process, host=last.host), last.host
    sent = files.submission
    if sent is None and files.status is not None and (maker := files.status.made_by) is not None:
        # That it lives says nothing: it may be at anything else by now.
        lives = sees_process(maker.pid, maker.process, host=maker.host)
        return False if lives is False else None, None
    if sent is None or sent.executor != "local":
        return None, last.host if last else None
    return sees_process(int(sent.job_id), sent.process, host=sent.host), sent.host


def _is_elsewhere(files: _Files) -> bool:
    return is_copy(files.paths, files.place)


def _has_log(folder: Path, job_id: str | None) -> bool:
    return job_id is None or any(folder.glob(f"{job_id}_*log*"))
