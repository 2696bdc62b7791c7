"""What Slurm's accounting knows of jobs that have ended.

ended = list_accounted(["123", "124_7"])         # one sacct for all; None without accounting
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime

from dnnjob.errors import SlurmError
from dnnjob.slurm.queued_jobs import MOST_IDS
from dnnjob.slurm.slurm_commands import ask, join_errors
from dnnjob.slurm.slurm_words import (
    base_ids,
    is_wanted,
    parse_elements,
    parse_memory_mb,
    parse_number,
    parse_time,
)

_ACCOUNTED = "JobID,State,ExitCode,End,NodeList,ReqMem,MaxRSS"


@dataclass(frozen=True)
class AccountedJob:
    """One start of a job in sacct's books, or its wait for one.

    Attributes:
        state: In full; `CANCELLED` without the user who did it.
        cancelled_by: Number of that user.
        exit_code: What the batch script ended with.
        signal: What killed it, 0 for none.
        ended_at: None while it waits or runs.
        nodes: Where it ran.
        memory_mb: Memory asked for, in MiB; a node's share, or a CPU's in old versions.
        max_rss_mb: Largest memory that a task of one of its steps was seen with, in MiB.
    """

    state: str
    cancelled_by: int | None
    exit_code: int
    signal: int
    ended_at: datetime | None
    nodes: str
    memory_mb: float | None
    max_rss_mb: float | None


def list_accounted(job_ids: Collection[str]) -> dict[str, tuple[AccountedJob, ...]] | None:
    """What sacct says of jobs, all their starts in order, by their id, in one call.

    Args:
        job_ids: As for `list_queue`.

    Returns:
        None on a cluster without accounting.

    Raises:
        SlurmError: If the books exist but cannot be read.
    """
    if not job_ids:
        return {}
    wanted = base_ids(job_ids)
    options = ["--allusers", "--duplicates", "--noheader", "--parsable2"]
    # With job ids sacct looks back to the beginning, without to midnight.
    only = f"--jobs={','.join(wanted)}" if len(wanted) <= MOST_IDS else "--starttime=now-30days"
    done = ask(["sacct", *options, f"--format={_ACCOUNTED}", only])
    if "accounting storage is disabled" in done.stderr:
        return None
    if done.returncode:
        raise SlurmError(
            f"Slurm's accounting must answer, but sacct says: {join_errors(done.stderr)}. "
            "Try again; what the run folders and squeue know is shown without it."
        )
    return _group(done.stdout, job_ids)


def _group(text: str, job_ids: Collection[str]) -> dict[str, tuple[AccountedJob, ...]]:
    """The starts of each job; lines of steps only tell the memory of the start they follow."""
    found: dict[str, list[AccountedJob]] = {}
    latest: tuple[str, ...] = ()
    for line in text.splitlines():
        cells = line.split("|", _ACCOUNTED.count(","))
        if len(cells) <= _ACCOUNTED.count(","):
            continue
        name = cells[0]
        if "." in name:
            for job_id in latest:
                found[job_id][-1] = _with_memory(found[job_id][-1], parse_memory_mb(cells[6]))
            continue
        latest = tuple(one for one in parse_elements(name) if is_wanted(one, job_ids))
        for job_id in latest:
            found.setdefault(job_id, []).append(_accounted(cells))
    return {job_id: tuple(starts) for job_id, starts in found.items()}


def _accounted(cells: list[str]) -> AccountedJob:
    state, _, user = cells[1].partition(" by ")
    code, _, signal = cells[2].partition(":")
    return AccountedJob(
        state=state.rstrip("+"),
        cancelled_by=int(user) if user.isdecimal() else None,
        exit_code=parse_number(code) or 0,
        signal=parse_number(signal) or 0,
        ended_at=parse_time(cells[3]),
        nodes="" if cells[4] == "None assigned" else cells[4],
        memory_mb=parse_memory_mb(cells[5]),
        max_rss_mb=parse_memory_mb(cells[6]),
    )


def _with_memory(job: AccountedJob, seen_mb: float | None) -> AccountedJob:
    most = max(filter(None, (job.max_rss_mb, seen_mb)), default=None)
    return replace(job, max_rss_mb=most)
