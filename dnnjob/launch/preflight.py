"""Whether a job can work where it is sent, found out before anything is queued.

preflight = check_before(points, profile, root=Path("runs"), force=False)
"""

import logging
import math
import os
import socket
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dnnjob import slurm
from dnnjob.config import DataConfig, JobConfig, Point, ProfileConfig
from dnnjob.data.builtin import is_builtin
from dnnjob.data.source_files import COMPRESSED_SUFFIXES
from dnnjob.data.sources import hold_table, peek_job
from dnnjob.errors import JobError, SlurmError
from dnnjob.launch.job_check import CheckedPoint, PointCheck, check_point, log_point_warnings
from dnnjob.launch.lane_plan import PointNeeds
from dnnjob.launch.point_tables import PointTables
from dnnjob.machine import user_name

logger = logging.getLogger(__name__)

# A login node is shared: tables are read whole up to this many bytes in all, by two threads.
MAX_READ_BYTES = 64 * 2**20
THREADS = 2
# Text unpacks to about ten times its size.
_UNPACKED = 10
# A cautious core; the reference job's network reaches three times as much.
_FLOP_PER_S_A_CORE = 3e10
# Evaluation, plots and files of one run, beside its training.
_SECONDS_A_RUN = 8.0
# Compiling takes a second or two, a call half of one; a checkpoint of 100 million weights ten.
_SECONDS_TO_STOP = 15.0
_SECONDS_A_PARAMETER = 2e-7
# Where a node keeps what only it can see.
_LOCAL_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm", "/run")


@dataclass(frozen=True)
class Preflight:
    """What the checks found out that submitting needs.

    Attributes:
        site: The cluster, None for a local profile or where Slurm does not answer.
        memory_bytes: What a run takes at its peak, None if the table was too large to read.
        flop: Floating-point operations of each run's training; None likewise.
        most_tasks: Elements that an array may have now; None for any number.
    """

    site: slurm.Site | None = None
    memory_bytes: float | None = None
    flop: tuple[float, ...] | None = None
    most_tasks: int | None = None

    def seconds_a_point(self, needs: Sequence[PointNeeds]) -> float | None:
        """How long a run takes at most, roughly; None if unknown.

        Args:
            needs: The cores of each.
        """
        if self.flop is None:
            return None
        longest = max(flop / need.cores for flop, need in zip(self.flop, needs, strict=True))
        return _SECONDS_A_RUN + longest / _FLOP_PER_S_A_CORE


def check_before(
    points: Sequence[Point],
    profile: ProfileConfig,
    *,
    root: Path,
    force: bool = False,
    dry_run: bool = False,
) -> Preflight:
    """Refuses what cannot work, and what may not unless forced.

    Args:
        points: The runs.
        profile: Where they go.
        root: Folder that holds runs.
        force: Lets pass what may not work.
        dry_run: Tells doubts and goes on; Slurm is asked where it is there.

    Raises:
        JobError: If it cannot work, or may not; each with its cure.
        DataError: If a table cannot be trained on.
        SlurmError: If Slurm does not answer.
    """
    _refuse_missing_gpu([point.job for point in points], profile)
    checks = _check_tables(points)
    memory_bytes = max((check.memory_mb for check in checks), default=0) * 2**20 or None
    doubts = [*_doubt_memory(memory_bytes, profile), *_doubt_warning(checks, profile)]
    site = most_tasks = None
    if profile.executor == "slurm":
        try:
            site, most_tasks, more = _ask_slurm(profile, num_points=len(points), root=root)
            doubts += more
        except SlurmError:
            if not dry_run:
                raise
    _weigh(doubts, passes=force or dry_run)
    return Preflight(
        site=site,
        memory_bytes=memory_bytes,
        flop=_estimate_flop(checks, profile) if len(checks) == len(points) else None,
        most_tasks=most_tasks,
    )


def _refuse_missing_gpu(jobs: Sequence[JobConfig], profile: ProfileConfig) -> None:
    needs = any(job.devices.needs_gpu for job in jobs)
    # As gpus, gpus-per-task or tres-per-task; Slurm knows whether it has what they ask for.
    others = any("gpu" in f"{key}={value}" for key, value in profile.sbatch_options.items())
    asks = bool(profile.gpus_per_node or profile.gres or others)
    if profile.executor == "slurm" and needs and not asks:
        raise JobError(
            "The job needs a GPU (devices.kind or devices.require_gpu), but the profile asks for "
            'none. Set profile.gpus_per_node=1, or devices.kind="cpu".'
        )


def _check_tables(points: Sequence[Point]) -> list[PointCheck]:
    """What each run would do, as far as the tables are small enough to be read here.

    One table is in memory at a time, and all together are at most `MAX_READ_BYTES`.
    """
    _be_modest()
    sharing: dict[str, list[Point]] = {}
    tables = PointTables()
    for point in points:
        sharing.setdefault(tables.key(point.job.data), []).append(point)
    left = MAX_READ_BYTES
    checked: list[CheckedPoint] = []
    for group in sharing.values():
        data = group[0].job.data
        num_bytes = _count_bytes(data)
        if num_bytes > left:
            logger.info("%s is too large to be checked here; its columns are.", data.source)
            continue
        left -= num_bytes
        table = hold_table(data)
        checked += [check_point(point, table) for point in group]
    log_point_warnings(checked)
    return [one.check for one in checked]


def _count_bytes(data: DataConfig) -> int:
    """Bytes of a table as it is read; what dnnjob brings along is small."""
    return 0 if is_builtin(data.source) else sum(map(_unpacked_bytes, peek_job(data).paths))


def _unpacked_bytes(path: Path) -> int:
    packed = path.suffix.lower() in (*COMPRESSED_SUFFIXES, ".parquet", ".pq")
    return path.stat().st_size * (_UNPACKED if packed else 1)


def _be_modest() -> None:
    import pyarrow as pa

    pa.set_cpu_count(THREADS)
    pa.set_io_thread_count(THREADS)


def _estimate_flop(checks: Sequence[PointCheck], profile: ProfileConfig) -> tuple[float, ...]:
    # A multiplication and an addition for each weight and row, forwards, and twice that back.
    return tuple(
        6.0 * c.num_trainable_params * c.num_train_rows * c.epochs / profile.num_tasks
        for c in checks
    )


def _doubt_memory(memory_bytes: float | None, profile: ProfileConfig) -> Iterator[str]:
    if memory_bytes is None or profile.memory_gb is None:
        return
    needed_gb = memory_bytes / 2**30
    if needed_gb > profile.memory_gb:
        yield (
            f"A run takes about {needed_gb:.1f} GB, but memory_gb = {profile.memory_gb:g}. Set "
            f"profile.memory_gb={math.ceil(needed_gb * 1.25)}."
        )


def _doubt_warning(checks: Sequence[PointCheck], profile: ProfileConfig) -> Iterator[str]:
    if profile.executor == "local":
        return
    parameters = max((check.num_trainable_params for check in checks), default=0)
    needed_s = _SECONDS_TO_STOP + _SECONDS_A_PARAMETER * parameters
    if needed_s > profile.warning_lead_s:
        yield (
            f"Compiling, the longest call and a checkpoint take up to {needed_s:.0f} s, but "
            f"warning_lead_s = {profile.warning_lead_s}. Set profile.warning_lead_s="
            f"{math.ceil(needed_s)} or more."
        )


def _ask_slurm(
    profile: ProfileConfig, *, num_points: int, root: Path
) -> tuple[slurm.Site, int | None, list[str]]:
    """The cluster, how many tasks an array may have, and doubts."""
    config, partitions = slurm.show_config(), slurm.list_partitions()
    chosen = _choose_partitions(profile, partitions)
    nodes = [
        node
        for node in slurm.list_nodes().values()
        if {one.name for one in chosen} & set(node.partitions)
    ]
    _refuse_small_nodes(profile, nodes, chosen)
    doubts = [*_doubt_partitions(profile, chosen), *_doubt_root(root, nodes)]
    most = int(config.get("MaxArraySize", "0")) or None
    if num_points > 1:
        room, full = _room_in_queue(profile, chosen)
        most, doubts = _least(most, room), [*doubts, *full]
    return slurm.read_site(config), most, doubts


def _choose_partitions(
    profile: ProfileConfig, partitions: dict[str, slurm.Partition]
) -> list[slurm.Partition]:
    if profile.partition is None:
        chosen = [one for one in partitions.values() if one.is_default]
        if not chosen:
            raise JobError(
                "This cluster has no default partition, and the profile names none. Set "
                f"profile.partition to one of: {', '.join(partitions)}."
            )
        return chosen
    names = profile.partition.split(",")
    unknown = [name for name in names if name not in partitions]
    if unknown:
        raise JobError(
            f"The cluster has no partition {unknown[0]!r} that you may use. Set profile.partition "
            f"to one of: {', '.join(partitions)}."
        )
    return [partitions[name] for name in names]


def _refuse_small_nodes(
    profile: ProfileConfig, nodes: Sequence[slurm.Node], chosen: Sequence[slurm.Partition]
) -> None:
    """Refuses what no node of the partitions has; no QOS can give more than there is."""
    where = f"the partition {','.join(one.name for one in chosen)}"
    cpus = profile.tasks_per_node * (profile.cpus_per_task or 1)
    wishes = [
        ("nodes", profile.nodes, len(nodes), "{} node(s)"),
        (
            "cpus_per_task and tasks_per_node",
            cpus,
            max((node.cpus for node in nodes), default=0),
            "nodes of {} CPU(s)",
        ),
        (
            "memory_gb",
            profile.memory_gb or 0,
            max((node.memory_mb for node in nodes), default=0) / 1024,
            "nodes of {:g} GB",
        ),
        (
            "gpus_per_node",
            profile.gpus_per_node,
            max((node.gpus for node in nodes), default=0),
            "nodes of {} GPU(s)",
        ),
    ]
    for keys, wanted, there, described in wishes:
        if wanted > there:
            raise JobError(
                f"The profile's {keys} ask for {wanted:g}, but {where} has "
                f"{described.format(there)}. Lower {keys}, or set profile.partition to another."
            )


def _doubt_partitions(profile: ProfileConfig, chosen: Sequence[slurm.Partition]) -> Iterator[str]:
    names = ",".join(one.name for one in chosen)
    longest = [one.limit_min for one in chosen]
    limit_min = profile.time_limit_min or 0
    # A QOS may lift the limits of a partition; otherwise such a job waits for ever.
    if all(one is not None and one < limit_min for one in longest):
        most = max(filter(None, longest))
        yield (
            f"time_limit_min = {limit_min} is above the {most} minutes of the partition {names}, "
            f"where it may wait for ever. Set profile.time_limit_min={most} or less: a run that "
            "needs longer goes on from its checkpoint."
        )
    if all(one.max_nodes is not None and one.max_nodes < profile.nodes for one in chosen):
        yield (
            f"nodes = {profile.nodes} is above what one job gets in the partition {names}. Lower "
            "profile.nodes."
        )
    if not any(one.is_up for one in chosen):
        yield f"The partition {names} is closed for now. Set profile.partition to another."
    if any(one.accounts and profile.account not in (None, *one.accounts) for one in chosen):
        yield f"The partition {names} is not for the account {profile.account}."


def _doubt_root(root: Path, nodes: Sequence[slurm.Node]) -> Iterator[str]:
    for sign in ("%", "\\"):
        if sign in str(root):
            raise JobError(
                f"Slurm takes {sign} in the path of a log for a sign of its own, but the root is "
                f"{root}. Set --root to a folder without it."
            )
    here = socket.gethostname().partition(".")[0]
    if all(node.host.partition(".")[0] == here for node in nodes):
        return
    real = str(Path(os.path.realpath(root)))
    folders = {*_LOCAL_FOLDERS, os.path.realpath(tempfile.gettempdir())}
    if any(Path(real).is_relative_to(folder) for folder in folders):
        yield (
            f"The root {root} looks like a folder that only this machine sees. Set --root to one "
            "that all nodes share."
        )


def _room_in_queue(
    profile: ProfileConfig, chosen: Sequence[slurm.Partition]
) -> tuple[int | None, list[str]]:
    """How many more tasks the user may queue, as far as the books tell; and the doubt if none."""
    partitions = {one.name: one.qos for one in chosen}
    limit = slurm.find_room(
        user_name(), account=profile.account, qos=profile.qos, partitions=partitions
    )
    if limit is None:
        return None, []
    if limit.room > 0:
        return limit.room, []
    return 1, [
        f"There may be {limit.most} jobs in the queue by {limit.origin}, and there are. Wait until "
        "some have ended."
    ]


def _weigh(doubts: Collection[str], *, passes: bool) -> None:
    if not doubts:
        return
    if not passes:
        listed = "\n".join(f"  {doubt}" for doubt in doubts)
        raise JobError(f"This may not work, and was not submitted:\n{listed}\n--force submits it.")
    for doubt in doubts:
        logger.warning("%s", doubt)


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)
