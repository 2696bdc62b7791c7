"""The verb `dnnjob cancel`: the wish is written first, then jobs and processes are told.

code = cancel_command(Path("runs/tiny/20261124-101500-3f9a1c"))
"""

import logging
import os
import signal
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dnnjob import slurm
from dnnjob.errors import ExitCode, JobError, MissingError
from dnnjob.launch.watch.run_selection import open_runs
from dnnjob.launch.watch.run_views import RunView, look
from dnnjob.launch.watch.status import describe_view, shorten
from dnnjob.machine import find_process, user_name
from dnnjob.runs import (
    OVER,
    Cancel,
    RunPaths,
    Submission,
    SweepPaths,
    read_cancel,
    read_settled,
    read_status,
    read_submission,
    read_sweep,
    state_before,
    write_record,
)

logger = logging.getLogger(__name__)

_JobKey = tuple[str, str | None, str | None]


@dataclass(frozen=True)
class _SubmittedJob:
    """A Slurm job, an array element, or a local process that was submitted."""

    submission: Submission
    """Of one of its runs."""
    runs: frozenset[RunPaths]
    """Those that it still has to do: neither ended nor cancelled."""


def cancel_command(place: Path) -> ExitCode:
    """Ends a run, or every run of a sweep, waiting or at work; those that have ended stay.

    A run at work writes a checkpoint first; `dnnjob resume` goes on from there.

    Raises:
        JobError: If `place` is neither a run nor a sweep.
        MissingError: If the wish cannot be written.
        SlurmError: If Slurm does not take it.
    """
    views = look(open_runs(place))
    for view in views:
        _refuse_copy(view)
    alive = [RunPaths(Path(view.path)) for view in views if not view.is_over]
    # First of all: what ends a job looks for the wish to tell why.
    _leave_wishes(alive)
    # One that has other runs to do sees the wish by itself, and goes on with these.
    jobs = [one for one in _find_submitted_jobs(alive) if not one.runs]
    slurm.cancel(_find_jobs(jobs))
    for pid in {*_senders(jobs), *_chiefs(alive)}:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    _tell(views, alive)
    return ExitCode.DONE


def _refuse_copy(view: RunView) -> None:
    if view.is_copy:
        raise JobError(
            f"A run is cancelled where it works, but {view.path} is a copy ({view.note}). "
            "Cancel the run itself."
        )


def _find_jobs(jobs: Iterable[_SubmittedJob]) -> list[str]:
    """The jobs to cancel on the cluster that commands here speak to."""
    sent = [one.submission for one in jobs if one.submission.executor == "slurm"]
    if not sent:
        return []
    here = slurm.cluster_name()
    for one in sent:
        # Ids count on their cluster alone: here they may be another job's.
        if one.cluster not in (None, here):
            logger.warning(
                "Job %s is on the cluster %s, and this is %s: end it there with `scancel %s`.",
                one.job_id,
                one.cluster,
                here,
                one.job_id,
            )
    return [one.job_id for one in sent if one.cluster in (None, here)]


def _leave_wishes(runs: Iterable[RunPaths]) -> None:
    wish = Cancel(host=socket.gethostname(), user=user_name())
    for paths in runs:
        try:
            write_record(paths.cancel, wish)
        except OSError as error:
            raise MissingError(
                f"A run is cancelled by a file in its folder, but {paths.cancel} cannot be written "
                f"({error.strerror}). Ask its owner, or end its job with scancel."
            ) from error


def _senders(jobs: Iterable[_SubmittedJob]) -> Iterator[int]:
    """Processes of this machine that were submitted and carry nothing else."""
    for job in jobs:
        sent = job.submission
        if sent.executor == "local":
            pid = find_process(int(sent.job_id), sent.process, host=sent.host)
            if pid is not None:
                yield pid


def _chiefs(runs: Iterable[RunPaths]) -> Iterator[int]:
    """Processes of this machine at work on runs in the foreground."""
    for paths in runs:
        with suppress(OSError, ValueError):
            status = read_status(paths)
            last = status.attempts[-1] if status.state == "RUNNING" else None
            if last is None or last.slurm_job_id or _has_sender(paths):
                continue
            pid = find_process(last.pid, last.process, host=last.host)
            if pid is not None:
                yield pid


def _has_sender(paths: RunPaths) -> bool:
    """Whether a submitted process of this machine is at work on the run, and perhaps on others."""
    sent = read_submission(paths)
    return sent is not None and any(_senders([_SubmittedJob(sent, frozenset())]))


def _tell(views: Sequence[RunView], alive: Sequence[RunPaths]) -> None:
    for view in views:
        if view.is_over:
            logger.info("%s has ended: %s", shorten(view.path), describe_view(view))
    if alive:
        logger.info(
            "Asked %s to stop. One at work writes a checkpoint first; `dnnjob status` tells when "
            "it has ended, and `dnnjob resume` goes on.",
            "the run" if len(alive) == 1 else f"{len(alive)} runs",
        )


def _find_submitted_jobs(runs: Iterable[RunPaths]) -> list[_SubmittedJob]:
    """What carries the runs that were submitted, each once."""
    alone: list[_SubmittedJob] = []
    sweeps: dict[Path, SweepPaths] = {}
    chosen: set[_JobKey] = set()
    for paths in runs:
        sent = read_submission(paths)
        if sent is None:
            continue
        if _is_sent_alone(paths, sent):
            alone.append(_SubmittedJob(sent, frozenset(filter(_is_wanted, [paths]))))
            continue
        sweep = _sweep_of(paths, sent)
        sweeps[sweep.root] = sweep
        chosen.add(_key_of(sent))
    shared = [job for sweep in sweeps.values() for job in _jobs_of(sweep)]
    return alone + [job for job in shared if _key_of(job.submission) in chosen]


def _is_sent_alone(paths: RunPaths, sent: Submission) -> bool:
    """Whether no other run came along: a point of a sweep that was resumed has its own job."""
    return sent.sweep_id is None or _folder_of(paths, sent) == paths.submission_folder


def _sweep_of(paths: RunPaths, sent: Submission) -> SweepPaths:
    return SweepPaths(_folder_of(paths, sent).parent)


def _folder_of(paths: RunPaths, sent: Submission) -> Path:
    # normpath, not resolve: links stay as they are.
    return Path(os.path.normpath(paths.root / sent.folder))


def _jobs_of(sweep: SweepPaths) -> Iterator[_SubmittedJob]:
    carried: dict[_JobKey, list[RunPaths]] = {}
    sent: dict[_JobKey, Submission] = {}
    for paths in _points(sweep):
        submission = read_submission(paths)
        if submission is not None:
            key = _key_of(submission)
            sent[key] = submission
            carried.setdefault(key, []).append(paths)
    for key, runs in carried.items():
        yield _SubmittedJob(sent[key], frozenset(filter(_is_wanted, runs)))


def _key_of(sent: Submission) -> _JobKey:
    # In containers the first process has the same number each time; ids count on a cluster alone.
    return sent.job_id, sent.process, sent.cluster


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
