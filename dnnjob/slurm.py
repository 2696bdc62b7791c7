"""Every Slurm command and its parsing, and nothing else.

job = sbatch(script, marker="housing-3f9a1c", environ=scrub(os.environ))
queue = list_queue(["123", "124_7"])             # one squeue for all; what it leaves out has ended
ended = list_accounted(["123", "124_7"])         # one sacct for all; None without accounting
"""

import os
import re
import subprocess
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from dnnjob.errors import JobError, SlurmError

# A controller under load takes its time, and sbatch waits for it.
QUERY_TIMEOUT_S = 60.0
SUBMIT_TIMEOUT_S = 120.0
# Between the looks for a submission whose answer was lost: a slow controller takes it late.
LOOK_UP_S = (0.0, 2.0, 5.0, 10.0, 15.0)
ENDED_STATES = frozenset(
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "REVOKED",
        "TIMEOUT",
    }
)
"""States of a job that Slurm will not run again by itself."""

# One argument of a command holds 128 KiB.
_MOST_IDS = 8000
_QUEUE = ("%i", "%T", "%r", "%P", "%N", "%S", "%L", "%l", "%a", "%q", "%k")
_ACCOUNTED = (
    "JobID,State,ExitCode,Start,End,ElapsedRaw,NodeList,Partition,ReqCPUS,ReqMem,MaxRSS,"
    "TimelimitRaw"
)
# What a job's own environment would tell the jobs it submits, and they take for theirs.
_INHERITED = re.compile(
    r"^(SLURM|SBATCH|SRUN|PMIX?|SLURMD)_|"
    r"^(SLURMD_NODENAME|CUDA_VISIBLE_DEVICES|ROCR_VISIBLE_DEVICES|GPU_DEVICE_ORDINAL)$"
)
# What makes commands print other columns or times than are read here.
_FORMATS = re.compile(r"^(SQUEUE|SACCT|SINFO|SCONTROL|SLURM_TIME_FORMAT)")
_KEY = re.compile(r"(?:^|\s)([A-Z][A-Za-z/:]*)=")
_ELEMENTS = re.compile(r"^(\d+)_\[([0-9,\-:]+)(?:%\d+)?\]$")
_MEMORY = re.compile(r"^([\d.]+)([KMGTP]?)[nc]?$")
_UNITS = {"": 1.0, "K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0**2, "P": 1024.0**3}


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
        limit_s: Its time limit in seconds; None without one.
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
    limit_s: int | None
    account: str
    qos: str
    comment: str


@dataclass(frozen=True)
class AccountedJob:
    """One start of a job in sacct's books, or its wait for one.

    Attributes:
        job_id: As in `QueuedJob`.
        state: In full; `CANCELLED` without the user who did it.
        cancelled_by: Number of that user.
        exit_code: What the batch script ended with.
        signal: What killed it, 0 for none.
        started_at: None while it waits.
        ended_at: None while it waits or runs.
        elapsed_s: Seconds it ran.
        nodes: Where it ran.
        partition: In which partition.
        cpus: CPUs asked for.
        memory_mb: Memory asked for, in MiB; a node's share, or a CPU's in old versions.
        max_rss_mb: Largest memory that a task of one of its steps was seen with, in MiB.
        limit_min: Time limit in minutes; None without one.
    """

    job_id: str
    state: str
    cancelled_by: int | None
    exit_code: int
    signal: int
    started_at: datetime | None
    ended_at: datetime | None
    elapsed_s: int
    nodes: str
    partition: str
    cpus: int
    memory_mb: float | None
    max_rss_mb: float | None
    limit_min: int | None


@dataclass(frozen=True)
class Partition:
    """What a partition offers.

    Attributes:
        name: Its name.
        is_default: Whether jobs without a partition come here.
        is_up: Whether jobs start.
        limit_min: Longest time limit in minutes; None for any.
        max_nodes: Most nodes of a job; None for any.
        num_nodes: Nodes it has.
        qos: Its own QOS, whose limits hold for every job; empty for none.
        accounts: Accounts that may use it; empty for all.
        preempt_mode: `OFF`, `REQUEUE`, `CANCEL`, `SUSPEND`, ...
        grace_s: Seconds between the warning of a preemption and the end.
    """

    name: str
    is_default: bool
    is_up: bool
    limit_min: int | None
    max_nodes: int | None
    num_nodes: int
    qos: str
    accounts: tuple[str, ...]
    preempt_mode: str
    grace_s: int


@dataclass(frozen=True)
class Node:
    """What a node offers.

    Attributes:
        name: Its name.
        host: The machine it is on.
        state: As Slurm writes it, with flags: `IDLE`, `DOWN+DRAIN`, `MIXED`.
        cpus: CPUs that jobs may take.
        memory_mb: Memory that jobs may take, in MiB.
        gpus: GPUs of all types.
        features: What `constraint` may name.
        partitions: The partitions it belongs to.
    """

    name: str
    host: str
    state: str
    cpus: int
    memory_mb: int
    gpus: int
    features: tuple[str, ...]
    partitions: tuple[str, ...]


@dataclass(frozen=True)
class Site:
    """What a submission must know of a cluster.

    Attributes:
        cluster: Its name.
        kill_wait_s: Seconds between the signal that ends a job and the kill.
    """

    cluster: str
    kill_wait_s: int


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


def scrub(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for sbatch.

    It is rid of sbatch's own variables, which would overrule the script without a word; inside a
    job, also of what describes that job, which the new one would take for its own.
    """
    if "SLURM_JOB_ID" not in environ:
        return {key: value for key, value in environ.items() if not key.startswith("SBATCH_")}
    kept = ("SLURM_CONF", "SLURM_CLUSTERS")
    return {k: v for k, v in environ.items() if k in kept or not _INHERITED.search(k)}


def sbatch(
    script: Path,
    *,
    marker: str,
    environ: Mapping[str, str] = os.environ,
    held: bool = False,
) -> str:
    """Submits a batch script; the job's id.

    Args:
        script: What is submitted. Its `--comment` must be `marker`.
        marker: Names this submission and no other: a controller that does not answer in time may
            have taken the job all the same, and is asked for it.
        environ: Environment of the job; see `scrub`.
        held: Lets the job wait until it is released.

    Raises:
        JobError: If Slurm refuses the job; nothing is queued.
        SlurmError: If Slurm does not answer, or not so that one can know what it did; then it
            says how to find the job.
    """
    command = ["sbatch", "--parsable", *(["--hold"] if held else []), str(script)]
    try:
        done = _call(command, timeout_s=SUBMIT_TIMEOUT_S, environ=environ)
    except subprocess.TimeoutExpired:
        return _look_up(marker)
    if done.returncode == 0 and (words := done.stdout.split()):
        return words[-1].partition(";")[0]
    if done.returncode == 0 or _is_unsure(done.stderr):
        return _look_up(marker)
    raise explain_refusal(done.stderr)


def explain_refusal(stderr: str) -> JobError | SlurmError:
    """The error that sbatch's complaint becomes, with the key of the profile to change."""
    said = _join_errors(stderr)
    if re.search(r"contact slurm controller|Connection refused|Unable to contact", stderr):
        return _unreachable("sbatch", said)
    for pattern, cure in _CURES:
        if re.search(pattern, stderr, re.IGNORECASE):
            return JobError(f"Slurm must accept the job, but it says: {said}. {cure}")
    return JobError(
        f"Slurm must accept the job, but it says: {said}. Change the profile; "
        "`dnnjob submit --dry-run` prints the script that was refused."
    )


def take_back(marker: str) -> None:
    """Cancels what a submission that was interrupted may have queued.

    Raises:
        SlurmError: If Slurm does not answer, or shows no such job yet.
    """
    cancel([_look_up(marker)])


def find_job(marker: str) -> str | None:
    """The queued job whose comment is `marker`; None if there is none.

    Raises:
        SlurmError: If Slurm does not answer.
    """
    for job in _queue(["--me"]):
        if job.comment == marker:
            return job.job_id.partition("_")[0]
    return None


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
    wanted = _bases(job_ids)
    only = ["--jobs", ",".join(wanted)] if len(wanted) <= _MOST_IDS else []
    found = _queue(only)
    return {job.job_id: job for job in found if _is_wanted(job.job_id, job_ids)}


def count_queued() -> int:
    """How many jobs and array elements of the calling user wait or run.

    Raises:
        SlurmError: If Slurm does not answer.
    """
    return sum(job.state not in ENDED_STATES for job in _queue(["--me"]))


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
    wanted = _bases(job_ids)
    options = ["--allusers", "--duplicates", "--noheader", "--parsable2"]
    # With job ids sacct looks back to the beginning, without to midnight.
    only = f"--jobs={','.join(wanted)}" if len(wanted) <= _MOST_IDS else "--starttime=now-30days"
    done = _ask(["sacct", *options, f"--format={_ACCOUNTED}", only])
    if "accounting storage is disabled" in done.stderr:
        return None
    if done.returncode:
        raise SlurmError(
            f"Slurm's accounting must answer, but sacct says: {_join_errors(done.stderr)}. "
            "Try again; what the run folders and squeue know is shown without it."
        )
    return _group(done.stdout, job_ids)


def show_job(job_id: str) -> dict[str, str]:
    """What `scontrol show job` says of one job or array element; empty once Slurm forgot it.

    Raises:
        SlurmError: If Slurm does not answer.
    """
    done = _ask(["scontrol", "--all", "--oneliner", "show", "job", job_id])
    if done.returncode:
        _require_known("scontrol", done)
        return {}
    records = [_fields(line) for line in done.stdout.splitlines() if line.strip()]
    return next((one for one in records if _own_id(one) == job_id), records[0])


def show_config() -> dict[str, str]:
    """The settings of the cluster, as in slurm.conf.

    Raises:
        SlurmError: If Slurm does not answer.
    """
    lines = _expect(["scontrol", "show", "config"]).splitlines()
    pairs = (line.partition("=") for line in lines if " = " in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def list_partitions() -> dict[str, Partition]:
    """The partitions, by name; hidden ones, too, which may be the user's own.

    Raises:
        SlurmError: If Slurm does not answer.
    """
    lines = _expect(["scontrol", "--all", "--oneliner", "show", "partition"]).splitlines()
    found = [_partition(_fields(line)) for line in lines if line.startswith("PartitionName=")]
    return {partition.name: partition for partition in found}


def list_nodes() -> dict[str, Node]:
    """The nodes of the cluster, by name.

    Raises:
        SlurmError: If Slurm does not answer.
    """
    lines = _expect(["scontrol", "--all", "--oneliner", "show", "node"]).splitlines()
    found = [_node(_fields(line)) for line in lines if line.startswith("NodeName=")]
    return {node.name: node for node in found}


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
    mine = _queue(["--me"])
    everyone = _queue([]) if any(limit.is_shared for limit in limits) else mine
    rooms = [
        SubmitLimit(
            limit.most,
            limit.origin,
            limit.most - _count(everyone if limit.is_shared else mine, limit, partitions),
        )
        for limit in limits
    ]
    return min(rooms, key=lambda limit: limit.room)


def cancel(job_ids: Collection[str]) -> None:
    """Ends jobs or array elements, waiting or running; those that have ended already are fine.

    Raises:
        SlurmError: If Slurm does not answer or refuses.
    """
    if not job_ids:
        return
    done = _ask(["scancel", *job_ids])
    if done.returncode and not _names_unknown(done.stderr):
        raise SlurmError(
            f"Slurm must end the jobs {', '.join(job_ids)}, but scancel says: "
            f"{_join_errors(done.stderr)}. Only their owner or an operator may."
        )


def release(job_id: str) -> None:
    """Lets a job start that was submitted with `--hold`.

    Raises:
        SlurmError: If Slurm does not answer or refuses.
    """
    _control("release", job_id, cure=f"Release it by hand: scontrol release {job_id}.")


def requeue(job_id: str) -> None:
    """Puts a running or ended job or array element back into the queue.

    Raises:
        SlurmError: If Slurm does not answer or refuses.
    """
    _control("requeue", job_id, cure="Go on with `dnnjob resume RUN` once it has ended.")


def cluster_name() -> str:
    """Name of the cluster that commands here speak to.

    Raises:
        SlurmError: If Slurm does not answer.
    """
    return show_config().get("ClusterName", "")


def read_site(config: Mapping[str, str]) -> Site:
    """What `show_config` says that a submission needs."""
    kill_wait_s = _number(config.get("KillWait", "").partition(" ")[0])
    return Site(config.get("ClusterName", ""), 30 if kill_wait_s is None else kill_wait_s)


def parse_duration(text: str) -> int | None:
    """Seconds of `1-02:03:04`, `03:04` or `90`, the latter minutes; None for any other word."""
    days, dash, rest = text.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdecimal() for part in (*parts, *([days] if dash else []))):
        return None
    numbers = [int(part) for part in parts]
    if dash:
        # Hours come first behind days.
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
    elif len(numbers) == 1:
        hours, minutes, seconds = 0, numbers[0], 0
    else:
        hours, minutes, seconds = (0, *numbers)[-3:]
    return ((int(days) if dash else 0) * 24 + hours) * 3600 + minutes * 60 + seconds


def parse_elements(job_id: str) -> Iterator[str]:
    """The elements that a line stands for: `5_[1-3,7%2]` is `5_1`, `5_2`, `5_3` and `5_7`."""
    found = _ELEMENTS.match(job_id)
    if found is None:
        yield job_id
        return
    for part in found[2].split(","):
        span, _, step = part.partition(":")
        first, _, last = span.partition("-")
        for number in range(int(first), int(last or first) + 1, int(step or 1)):
            yield f"{found[1]}_{number}"


_CURES = (
    (
        r"invalid partition",
        "Set the profile's partition to one that `sinfo -s` lists.",
    ),
    (
        r"invalid account|account/partition",
        "Set the profile's account to one of yours: sacctmgr show assoc user=$USER.",
    ),
    (
        r"invalid qos|job's qos not permitted|invalidqos",
        "Set the profile's qos to one of yours: sacctmgr show assoc user=$USER format=qos.",
    ),
    (
        r"submit ?job|job submit limit|MaxSubmit",
        "Wait until some of your jobs have ended, or raise points_per_task so that fewer tasks "
        "are queued.",
    ),
    (r"generic resource|gres", "Set gpus_per_node to what `sinfo -o %G` lists, or 0."),
    (r"time limit", "Lower the profile's time_limit_min, or take another partition."),
    (r"memory", "Lower the profile's memory_gb to what a node has: sinfo -o '%n %m'."),
    (r"feature|constraint", "Set the profile's constraint to what `sinfo -o %f` lists."),
    (r"reservation", "Set the profile's reservation to one that `scontrol show res` lists."),
    (
        r"node name|node list",
        "Set the profile's nodelist or exclude to names that `sinfo -N` lists.",
    ),
    (
        r"node configuration|node count|more processors|cpu count",
        "Lower nodes, tasks_per_node, cpus_per_task or gpus_per_node in the profile to what a "
        "node of the partition has: sinfo -o '%P %n %c %m %G'.",
    ),
    (r"array", "Raise points_per_task: the cluster's MaxArraySize bounds the tasks of a sweep."),
)


def _queue(options: Iterable[str]) -> list[QueuedJob]:
    # Jobs in hidden partitions, too.
    command = ["squeue", "--all", "--array", "--noheader", "--states=all"]
    done = _ask([*command, f"--format={'|'.join(_QUEUE)}", *options])
    if done.returncode:
        # With one unknown id squeue fails, with several it leaves them out.
        _require_known("squeue", done)
        return []
    return [_queued(line) for line in done.stdout.splitlines() if line.strip()]


def _queued(line: str) -> QueuedJob:
    # The comment may hold anything, and therefore comes last.
    cells = line.split("|", len(_QUEUE) - 1)
    job_id, state, reason, partition, nodes, start, left, limit, account, qos, comment = cells
    return QueuedJob(
        job_id=job_id.strip(),
        state=state,
        reason=reason,
        partition=partition,
        nodes=nodes,
        starts_at=_time(start),
        left_s=parse_duration(left),
        limit_s=parse_duration(limit),
        account=account,
        qos=qos,
        comment=comment,
    )


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
                found[job_id][-1] = _with_memory(found[job_id][-1], _memory_mb(cells[10]))
            continue
        latest = tuple(one for one in parse_elements(name) if _is_wanted(one, job_ids))
        for job_id in latest:
            found.setdefault(job_id, []).append(_accounted(job_id, cells))
    return {job_id: tuple(starts) for job_id, starts in found.items()}


def _accounted(job_id: str, cells: list[str]) -> AccountedJob:
    state, _, user = cells[1].partition(" by ")
    code, _, signal = cells[2].partition(":")
    return AccountedJob(
        job_id=job_id,
        state=state.rstrip("+"),
        cancelled_by=int(user) if user.isdecimal() else None,
        exit_code=_number(code) or 0,
        signal=_number(signal) or 0,
        started_at=_time(cells[3]),
        ended_at=_time(cells[4]),
        elapsed_s=_number(cells[5]) or 0,
        nodes="" if cells[6] == "None assigned" else cells[6],
        partition=cells[7],
        cpus=_number(cells[8]) or 0,
        memory_mb=_memory_mb(cells[9]),
        max_rss_mb=_memory_mb(cells[10]),
        limit_min=_number(cells[11]),
    )


def _with_memory(job: AccountedJob, seen_mb: float | None) -> AccountedJob:
    most = max(filter(None, (job.max_rss_mb, seen_mb)), default=None)
    return replace(job, max_rss_mb=most)


def _partition(fields: Mapping[str, str]) -> Partition:
    limit_s = parse_duration(fields.get("MaxTime", ""))
    accounts = fields.get("AllowAccounts", "ALL")
    qos = fields.get("QoS", "N/A")
    return Partition(
        name=fields["PartitionName"],
        is_default=fields.get("Default") == "YES",
        is_up=fields.get("State") == "UP",
        limit_min=None if limit_s is None else limit_s // 60,
        max_nodes=_number(fields.get("MaxNodes", "")),
        num_nodes=_number(fields.get("TotalNodes", "")) or 0,
        qos="" if qos == "N/A" else qos,
        accounts=() if accounts == "ALL" else tuple(accounts.split(",")),
        preempt_mode=fields.get("PreemptMode", "OFF"),
        grace_s=_number(fields.get("GraceTime", "")) or 0,
    )


def _node(fields: Mapping[str, str]) -> Node:
    gpus = sum(
        int(count)
        for one in re.split(r",(?![^(]*\))", fields.get("Gres", ""))
        if (one + ":").startswith("gpu:")
        for count in [re.sub(r"\(.*", "", one).rpartition(":")[2]]
        if count.isdecimal()
    )
    return Node(
        name=fields["NodeName"],
        host=fields.get("NodeHostName", fields["NodeName"]),
        state=fields.get("State", ""),
        cpus=_number(fields.get("CPUEfctv", fields.get("CPUTot", ""))) or 0,
        memory_mb=_number(fields.get("RealMemory", "")) or 0,
        gpus=gpus,
        features=_names(fields.get("AvailableFeatures", "")),
        partitions=_names(fields.get("Partitions", "")),
    )


def _books(
    table: str, columns: Collection[str], *, user: str | None = None
) -> list[dict[str, str]]:
    """Lines of `sacctmgr show`; none without accounting or where it does not answer."""
    command = ["sacctmgr", "--noheader", "--parsable2", "show", table]
    command += [] if user is None else [f"user={user}"]
    try:
        done = _ask([*command, f"format={','.join(columns)}"])
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


def _look_up(marker: str) -> str:
    """The job of a submission whose answer was lost."""
    said = "squeue shows no such job"
    for pause_s in LOOK_UP_S:
        time.sleep(pause_s)
        try:
            if (found := find_job(marker)) is not None:
                return found
        except SlurmError as error:
            said = f"neither is squeue ({error})"
    raise SlurmError(
        f"A submission must be answered, but sbatch was not, and within {sum(LOOK_UP_S):.0f} s "
        f"{said}. It may still be queued by a slow controller, where it would wait, held. Before "
        f"you submit again, look for it with `squeue --me -o '%i %k' | grep {marker}`, and cancel "
        "what that finds with scancel."
    )


def _control(verb: str, job_id: str, *, cure: str) -> None:
    done = _ask(["scontrol", verb, job_id])
    if done.returncode:
        raise SlurmError(
            f"Slurm must {verb} job {job_id}, but it says: {_join_errors(done.stderr)}. {cure}"
        )


def _expect(command: list[str]) -> str:
    done = _ask(command)
    if done.returncode:
        raise _unreachable(command[0], _join_errors(done.stderr))
    return done.stdout


def _ask(command: list[str]) -> "subprocess.CompletedProcess[str]":
    try:
        return _call(command, timeout_s=QUERY_TIMEOUT_S, environ=os.environ)
    except subprocess.TimeoutExpired as error:
        raise _unreachable(command[0], f"nothing for {QUERY_TIMEOUT_S:.0f} s") from error


def _call(
    command: list[str], *, timeout_s: float, environ: Mapping[str, str]
) -> "subprocess.CompletedProcess[str]":
    variables = {key: value for key, value in environ.items() if not _FORMATS.search(key)}
    # sbatch hands its environment to the job, whose language is the user's.
    if command[0] != "sbatch":
        variables["LC_ALL"] = "C"
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
            env=variables,
        )
    except FileNotFoundError as error:
        raise SlurmError(
            f"A profile with executor slurm needs Slurm's commands, but there is no {command[0]} "
            "on the PATH. Work on a login node of the cluster, or set executor to local."
        ) from error


def _require_known(program: str, done: "subprocess.CompletedProcess[str]") -> None:
    """Lets an unknown job pass, and nothing else."""
    if not _names_unknown(done.stderr):
        raise _unreachable(program, _join_errors(done.stderr))


def _names_unknown(stderr: str) -> bool:
    return re.search(r"invalid job id|already completed", stderr, re.IGNORECASE) is not None


def _is_unsure(stderr: str) -> bool:
    """Whether the controller may have taken the job although sbatch failed."""
    return re.search(r"timed? ?out|zero bytes", stderr, re.IGNORECASE) is not None


def _unreachable(program: str, said: str) -> SlurmError:
    return SlurmError(
        f"Slurm must answer, but {program} says: {said}. Look with `scontrol ping` whether its "
        "controller is up, and whether SLURM_CONF is right, then try again."
    )


def _join_errors(stderr: str) -> str:
    lines = [re.sub(r"^\w+: (error|fatal): ", "", line) for line in stderr.splitlines()]
    return "; ".join(dict.fromkeys(line.strip().rstrip(".") for line in lines if line.strip()))


def _bases(job_ids: Iterable[str]) -> list[str]:
    """Each job once: an element is asked for by its array."""
    return list(dict.fromkeys(job_id.partition("_")[0] for job_id in job_ids))


def _is_wanted(job_id: str, job_ids: Collection[str]) -> bool:
    return job_id in job_ids or job_id.partition("_")[0] in job_ids


def _own_id(fields: Mapping[str, str]) -> str:
    if "ArrayTaskId" in fields:
        return f"{fields['ArrayJobId']}_{fields['ArrayTaskId']}"
    return fields.get("JobId", "")


def _fields(line: str) -> dict[str, str]:
    """Keys and values of a line whose values may hold blanks; a key's first value counts."""
    found = list(_KEY.finditer(line))
    ends = [*(one.start() for one in found[1:]), len(line)]
    pairs = [(one[1], line[one.end() : end].strip()) for one, end in zip(found, ends, strict=True)]
    return dict(reversed(pairs))


def _names(text: str) -> tuple[str, ...]:
    return () if text in ("", "(null)") else tuple(text.split(","))


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def _memory_mb(text: str) -> float | None:
    """MiB of `4G`, `512Mn` or `12345K`; a number alone is bytes in no column read here."""
    found = _MEMORY.match(text)
    return float(found[1]) * _UNITS[found[2]] if found else None


def _time(text: str) -> datetime | None:
    """Slurm's local time; None for `N/A` and `Unknown`."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        return None
