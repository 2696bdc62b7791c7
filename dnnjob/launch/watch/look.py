"""Looking at many runs at once: their files, their processes here, and Slurm, asked once for all.

views = look(runs)
views = glance(runs)             # files and processes alone
"""

import os
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from dnnjob.launch.watch.ask import Answer, ask_slurm
from dnnjob.launch.watch.state import (
    OVER,
    Evidence,
    Origin,
    RunView,
    awaits_attempt,
    merge,
    state_before,
)
from dnnjob.machine import user_name
from dnnjob.runs import (
    Attempt,
    RunPaths,
    Status,
    Submission,
    is_copy,
    read_batch_end,
    read_cancel,
    read_status,
    read_submission,
)
from dnnjob.tasks import sees_process

_MAX_READERS = 16
_NOT_ASKED = Answer(fault="not asked")

Ask = Callable[..., Answer]


@dataclass(frozen=True)
class _Files:
    """What the files of a run say, and who could tell whether it lives."""

    paths: RunPaths
    status: Status | None
    fault: str | None
    submission: Submission | None

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


def look(runs: Sequence[RunPaths], *, ask: Ask = ask_slurm) -> tuple[RunView, ...]:
    """What has become of each run.

    Args:
        runs: Their folders.
        ask: Who is asked about Slurm's jobs.
    """
    with ThreadPoolExecutor(_MAX_READERS) as pool:
        files = list(pool.map(_read, runs))
        # Asked before the status is read again: else a run that ends meanwhile looks lost.
        answer = _ask(files, ask)
        is_known = {one.paths: one for one in files if not one.is_open}
        latest = pool.map(lambda paths: is_known.get(paths) or _read(paths), runs)
        now = datetime.now(UTC)
        return tuple(merge(_gather(one, answer), now=now) for one in latest)


def glance(runs: Sequence[RunPaths]) -> tuple[RunView, ...]:
    """What files and processes here say of each run; Slurm is left alone."""
    return look(runs, ask=lambda *_, **__: _NOT_ASKED)


def _ask(files: Collection[_Files], ask: Ask) -> Answer:
    open_ones = [one for one in files if one.is_open and one.job_id and not _is_elsewhere(one)]
    if not open_ones:
        return _NOT_ASKED
    job_ids = {one.job_id for one in open_ones}
    return ask(job_ids, begun={one.job_id for one in open_ones if one.is_begun})


def _read(paths: RunPaths) -> _Files:
    try:
        status, fault = read_status(paths), None
    except FileNotFoundError:
        status, fault = None, f"there is no {paths.status.name}"
    except OSError as error:
        status, fault = None, f"unreadable: {error.strerror}"
    except ValueError:
        status, fault = None, f"its {paths.status.name} is damaged"
    return _Files(paths, status, fault, read_submission(paths))


def _gather(files: _Files, answer: Answer) -> Evidence:
    paths, submission, job_id = files.paths, files.submission, files.job_id
    known = Evidence(
        paths=paths,
        status=files.status,
        fault=files.fault,
        submission=submission,
        job_id=job_id,
        cluster=files.cluster if job_id else None,
    )
    if not files.is_open:
        return known
    origin, place, is_alive = _find_origin(files, answer)
    is_sent = submission is not None and submission.job_id == job_id
    return replace(
        known,
        cancel=read_cancel(paths),
        batch_end=read_batch_end(paths, submission) if submission and is_sent else None,
        has_log=_has_log(paths.root / submission.folder, job_id) if submission else True,
        origin=origin,
        place=place,
        is_copy=_is_elsewhere(files),
        is_alive=is_alive,
        job=answer.jobs.get(job_id) if job_id and origin == "slurm" else None,
    )


def _find_origin(files: _Files, answer: Answer) -> tuple[Origin, str | None, bool]:
    """Who can tell whether a run lives; else where it is; and whether its process is alive."""
    if _is_elsewhere(files):
        return "unknown", f"a copy of {files.place}", False
    if files.job_id is not None:
        return _find_slurm(files, files.job_id, answer)
    seen, host = _see_process(files)
    if seen is not None:
        return "process", None, seen
    return "unknown", host and f"on {host}", False


def _find_slurm(files: _Files, job_id: str, answer: Answer) -> tuple[Origin, str | None, bool]:
    if answer is _NOT_ASKED:
        return "unknown", None, False
    if answer.cluster is None:
        return "unknown", f"on {files.cluster or 'a cluster'}, and Slurm does not answer", False
    if files.cluster not in (None, answer.cluster):
        return "unknown", f"on the cluster {files.cluster}", False
    if job_id not in answer.jobs and answer.fault is not None:
        return "unknown", "no longer queued, and Slurm's accounting does not answer", False
    if job_id not in answer.jobs and (owner := _find_stranger(files)) is not None:
        # Where PrivateData says so, neither squeue nor sacct mentions the jobs of others.
        return "unknown", f"in a job of {owner}, which Slurm does not show here", False
    return "slurm", None, False


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
    if sent is None or sent.executor != "local":
        return None, last.host if last else None
    return sees_process(int(sent.job_id), sent.process, host=sent.host), sent.host


def _is_elsewhere(files: _Files) -> bool:
    return is_copy(files.paths, files.place)


def _has_log(folder: Path, job_id: str | None) -> bool:
    return job_id is None or any(folder.glob(f"{job_id}_*log*"))
