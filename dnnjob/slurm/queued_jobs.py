"""Jobs in Slurm's queue: asked for, counted, and ended.

queue = list_queue(["123", "124_7"])             # one squeue for all; what it leaves out has ended
cancel(["123"])
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from dnnjob.errors import SlurmError
from dnnjob.slurm.slurm_commands import ask, control, join_errors, names_unknown, require_known
from dnnjob.slurm.slurm_words import (
    base_ids,
    is_wanted,
    own_id,
    parse_duration,
    parse_fields,
    parse_time,
)

# One argument of a command holds 128 KiB.
MOST_IDS = 8000
_QUEUE = ("%i", "%T", "%r", "%P", "%N", "%S", "%L", "%a", "%q", "%k")


@dataclass(frozen=True)
class QueuedJob:
    """One line of squeue: a job, or one element of an array.

    Attributes:
        job_id: `123`, or `123_4` for an array element.
        state: In full: `PENDING`, `RUNNING`, `COMPLETING`, ...
        reason: Why it waits, in Slurm's word; `None` is Slurm's too.
        partition: Where it waits or runs.
        nodes: Where it runs, as in `n[1-2]`; empty while it waits.
        starts_at: Start, or the expected one of a waiting job, where Slurm tells.
        left_s: Seconds to the end of its time limit; None without one.
        account: Who pays.
        qos: Its quality of service, which its partition's may overrule.
        comment: What its submitter noted.
    """

    job_id: str
    state: str
    reason: str
    partition: str
    nodes: str
    starts_at: datetime | None
    left_s: int | None
    account: str
    qos: str
    comment: str


def list_queue(job_ids: Collection[str]) -> dict[str, QueuedJob]:
    """What squeue says of jobs and array elements, by their id, in one call.

    Slurm forgets a job some minutes after its end; until then the state is how it ended.

    Args:
        job_ids: `123` or `123_4`; `123` of an array stands for all its elements.

    Raises:
        SlurmError: If Slurm does not answer.
    """
    if not job_ids:
        return {}
    wanted = base_ids(job_ids)
    only = ["--jobs", ",".join(wanted)] if len(wanted) <= MOST_IDS else []
    found = query_queue(only)
    return {job.job_id: job for job in found if is_wanted(job.job_id, job_ids)}


def find_job(marker: str) -> str | None:
    """The queued job whose comment is `marker`; None if there is none.

    Raises:
        SlurmError: If Slurm does not answer.
    """
    for job in query_queue(["--me"]):
        if job.comment == marker:
            return job.job_id.partition("_")[0]
    return None


def show_job(job_id: str) -> dict[str, str]:
    """What `scontrol show job` says of one job or array element; empty once Slurm forgot it.

    Raises:
        SlurmError: If Slurm does not answer.
    """
    done = ask(["scontrol", "--all", "--oneliner", "show", "job", job_id])
    if done.returncode:
        require_known("scontrol", done)
        return {}
    records = [parse_fields(line) for line in done.stdout.splitlines() if line.strip()]
    return next((one for one in records if own_id(one) == job_id), records[0])


def cancel(job_ids: Collection[str]) -> None:
    """Ends jobs or array elements, waiting or running; those that have ended already are fine.

    Raises:
        SlurmError: If Slurm does not answer or refuses.
    """
    if not job_ids:
        return
    done = ask(["scancel", *job_ids])
    if done.returncode and not names_unknown(done.stderr):
        raise SlurmError(
            f"Slurm must end the jobs {', '.join(job_ids)}, but scancel says: "
            f"{join_errors(done.stderr)}. Only their owner or an operator may."
        )


def release(job_id: str) -> None:
    """Lets a job start that was submitted with `--hold`.

    Raises:
        SlurmError: If Slurm does not answer or refuses.
    """
    control("release", job_id, cure=f"Release it by hand: scontrol release {job_id}.")


def requeue(job_id: str) -> None:
    """Puts a running or ended job or array element back into the queue.

    Raises:
        SlurmError: If Slurm does not answer or refuses.
    """
    control("requeue", job_id, cure="Resume its run once it has ended: dnnjob resume.")


def query_queue(options: Iterable[str]) -> list[QueuedJob]:
    """The lines of squeue, jobs in hidden partitions among them.

    Raises:
        SlurmError: If Slurm does not answer.
    """
    command = ["squeue", "--all", "--array", "--noheader", "--states=all"]
    done = ask([*command, f"--format={'|'.join(_QUEUE)}", *options])
    if done.returncode:
        # With one unknown id squeue fails, with several it leaves them out.
        require_known("squeue", done)
        return []
    return [_queued(line) for line in done.stdout.splitlines() if line.strip()]


def _queued(line: str) -> QueuedJob:
    # The comment may hold anything, and therefore comes last.
    cells = line.split("|", len(_QUEUE) - 1)
    job_id, state, reason, partition, nodes, start, left, account, qos, comment = cells
    return QueuedJob(
        job_id=job_id.strip(),
        state=state,
        reason=reason,
        partition=partition,
        nodes=nodes,
        starts_at=parse_time(start),
        left_s=parse_duration(left),
        account=account,
        qos=qos,
        comment=comment,
    )
