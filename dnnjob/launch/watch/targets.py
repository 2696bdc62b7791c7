"""Jobs and processes, and the runs that each of them carries: several, in a sweep.

for job in find_submitted_jobs(runs): print(job.submission.job_id, job.runs)
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dnnjob.errors import JobError
from dnnjob.runs import (
    OVER,
    RunPaths,
    Submission,
    SweepPaths,
    read_cancel,
    read_settled,
    read_submission,
    read_sweep,
    state_before,
)


@dataclass(frozen=True)
class SubmittedJob:
    """A Slurm job, an array element, or a local process that was submitted."""

    submission: Submission
    """Of one of its runs."""
    runs: frozenset[RunPaths]
    """Those that it still has to do: neither ended nor cancelled."""


def find_submitted_jobs(runs: Iterable[RunPaths]) -> list[SubmittedJob]:
    """What carries the runs that were submitted, each once."""
    alone: list[SubmittedJob] = []
    sweeps: dict[Path, SweepPaths] = {}
    chosen: set[str] = set()
    for paths in runs:
        sent = read_submission(paths)
        if sent is None:
            continue
        if _is_sent_alone(paths, sent):
            alone.append(SubmittedJob(sent, frozenset(filter(_is_wanted, [paths]))))
            continue
        sweep = _sweep_of(paths, sent)
        sweeps[sweep.root] = sweep
        chosen.add(sent.job_id)
    shared = [job for sweep in sweeps.values() for job in _jobs_of(sweep)]
    return alone + [job for job in shared if job.submission.job_id in chosen]


def _is_sent_alone(paths: RunPaths, sent: Submission) -> bool:
    """Whether no other run came along: a point of a sweep that was resumed has its own job."""
    return sent.sweep_id is None or _folder_of(paths, sent) == paths.submission_folder


def _sweep_of(paths: RunPaths, sent: Submission) -> SweepPaths:
    return SweepPaths(_folder_of(paths, sent).parent)


def _folder_of(paths: RunPaths, sent: Submission) -> Path:
    # normpath, not resolve: links stay as they are.
    return Path(os.path.normpath(paths.root / sent.folder))


def _jobs_of(sweep: SweepPaths) -> Iterator[SubmittedJob]:
    carried: dict[str, list[RunPaths]] = {}
    sent: dict[str, Submission] = {}
    for paths in _points(sweep):
        submission = read_submission(paths)
        if submission is not None:
            sent[submission.job_id] = submission
            carried.setdefault(submission.job_id, []).append(paths)
    for job_id, runs in carried.items():
        yield SubmittedJob(sent[job_id], frozenset(filter(_is_wanted, runs)))


def _points(sweep: SweepPaths) -> list[RunPaths]:
    try:
        return [sweep.run(point) for point in read_sweep(sweep).points]
    except JobError:
        return []


def _is_wanted(paths: RunPaths) -> bool:
    try:
        is_over = state_before(read_settled(paths), read_submission(paths)) in OVER
    except (OSError, ValueError):
        return False
    return not is_over and read_cancel(paths) is None
