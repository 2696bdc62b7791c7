"""How many jobs a user may have in the queue, by the books.

limit = find_room("anna", account=None, qos=None, partitions={"main": ""})
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from dnnjob.errors import SlurmError
from dnnjob.slurm.queued_jobs import QueuedJob, query_queue
from dnnjob.slurm.slurm_commands import ask
from dnnjob.slurm.slurm_words import ENDED_STATES


@dataclass(frozen=True)
class SubmitLimit:
    """How many jobs and array elements may be in the queue at a time.

    Attributes:
        most: So many.
        origin: Who says so.
        room: How many more there may be now.
    """

    most: int
    origin: str
    room: int


@dataclass(frozen=True)
class _Limit:
    """A limit of the books: on one's own jobs or everybody's, of an account, a QOS, or both."""

    most: int
    origin: str
    account: str | None
    qos: str | None
    is_shared: bool


def find_room(
    user: str, *, account: str | None, qos: str | None, partitions: Mapping[str, str]
) -> SubmitLimit | None:
    """The limit on queued jobs that leaves a user least room; None if the books name none.

    Args:
        user: The one who submits.
        account: The account, where the profile names one; else the user's default.
        qos: The QOS of the job; without any, the user's default.
        partitions: Those the job may run in, and the QOS of each, which may be empty.

    Raises:
        SlurmError: If Slurm does not answer.
    """
    limits = list(_find_limits(user, account, {qos or "", *partitions.values()}))
    if not limits:
        return None
    mine = query_queue(["--me"])
    everyone = query_queue([]) if any(limit.is_shared for limit in limits) else mine
    rooms = [
        SubmitLimit(
            limit.most,
            limit.origin,
            limit.most - _count(everyone if limit.is_shared else mine, limit, partitions),
        )
        for limit in limits
    ]
    return min(rooms, key=lambda limit: limit.room)


def _books(
    table: str, columns: Collection[str], *, user: str | None = None
) -> list[dict[str, str]]:
    """Lines of `sacctmgr show`; none without accounting or where it does not answer."""
    command = ["sacctmgr", "--noheader", "--parsable2", "show", table]
    command += [] if user is None else [f"user={user}"]
    try:
        done = ask([*command, f"format={','.join(columns)}"])
    except SlurmError:
        return []
    rows = [line.split("|") for line in done.stdout.splitlines()] if done.returncode == 0 else []
    return [dict(zip(columns, row, strict=True)) for row in rows if len(row) == len(columns)]


def _find_limits(user: str, account: str | None, qos: Collection[str]) -> Iterator[_Limit]:
    columns = ("user", "account", "maxsubmitjobs", "grpsubmitjobs", "defaultqos")
    associations = _books("assoc", columns, user=user)
    default = _books("user", ("user", "defaultaccount"), user=user)
    account = account or next((row["defaultaccount"] for row in default), None)
    mine = [row for row in associations if account in (None, row["account"])]
    for row in mine:
        for key in ("maxsubmitjobs", "grpsubmitjobs"):
            if row[key].isdecimal():
                origin = f"the account {row['account']}"
                yield _Limit(int(row[key]), origin, row["account"], None, is_shared=False)
    names = {name for name in qos if name} or {row["defaultqos"] or "normal" for row in mine}
    keys = ("maxsubmitjobsperuser", "maxsubmitjobsperaccount", "grpsubmitjobs")
    for row in _books("qos", ("name", *keys)):
        for key in keys:
            if row["name"] in names and row[key].isdecimal():
                payer = account if key == "maxsubmitjobsperaccount" else None
                origin = f"the QOS {row['name']}"
                is_shared = key != "maxsubmitjobsperuser"
                yield _Limit(int(row[key]), origin, payer, row["name"], is_shared=is_shared)


def _count(jobs: Iterable[QueuedJob], limit: _Limit, partitions: Mapping[str, str]) -> int:
    """How many of the jobs a limit counts."""
    # squeue names the job's own QOS, though that of its partition counts as well.
    names = {name for name, qos in partitions.items() if qos == limit.qos}
    return sum(
        job.state not in ENDED_STATES
        and limit.account in (None, job.account)
        and (limit.qos in (None, job.qos) or not names.isdisjoint(job.partition.split(",")))
        for job in jobs
    )
