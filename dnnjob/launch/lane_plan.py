"""How many points of a sweep go at a time on a machine, and which ones each task takes.

plan = plan_lanes(needs, cores=count_cores(), memory_bytes=memory_limit_bytes())
plan.width
each = choose_points_per_task(500, seconds_a_point=20.0, most_tasks=50)     # 30
share_out(500, each)                                                       # [range(0, 30), ...]
"""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

from dnnjob.config import DataConfig, JobConfig
from dnnjob.data.sources import peek_columns
from dnnjob.errors import DnnJobError, JobError
from dnnjob.launch.errand import Errand
from dnnjob.machine import count_cores, memory_limit_bytes, visible_gpus
from dnnjob.runs import RunPaths
from dnnjob.tasks import Task, count_step_flop, worthy_threads
from dnnjob.training.hyperparameters import describe_kind

# Measured with the reference job, plots, model and trees: a lane's resident memory at its peak,
# of which others share the pages of libraries (docs/decisions/lanes.md).
LANE_BYTES = 1000 * 2**20
# What a large GPU computes while it launches the kernels of one step (docs/decisions/stack.md).
_FLOP_OF_LAUNCHES = 5e9
# Work enough for a task that its start, imports and compilation do not matter.
_SECONDS_A_TASK = 600.0


@dataclass(frozen=True)
class LanePlan:
    """How many points go at a time on this machine, and with what.

    Attributes:
        width: Processes at a time, each at a point, or at several that train in one call.
        cores: Cores that they share.
        gpus: The GPUs of each place, as `CUDA_VISIBLE_DEVICES` takes them; empty leaves them be.
        setup: Lines of a shell that come before each lane.
        limit_s: Seconds that a point may take; None for any time.
        warning_s: Seconds before that in which it is warned.
        beside: The most points that may train in one call; 1 where each trains alone.
    """

    width: int
    cores: int
    gpus: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    limit_s: float | None = None
    warning_s: float = 0.0
    beside: int = 1


@dataclass(frozen=True)
class PointNeeds:
    """What a point takes of its machine.

    Attributes:
        cores: Cores that it keeps busy.
        kind: What a process takes once: points of another kind need another.
        call: What points share that a process compiles one call for.
        beside: Points that may train in one call, it and others like it; 1 trains alone.
        filling: Points of a call whose arithmetic takes about as long as its launches.
    """

    cores: int
    kind: str
    call: str = ""
    beside: int = 1
    filling: int = 1

    @classmethod
    def of(
        cls, job: JobConfig, *, cores: int, num_columns: int, num_points: int, on_gpu: bool
    ) -> "PointNeeds":
        """Of a job on a machine of `cores`, as far as it is known before its table is read.

        Args:
            job: The job.
            cores: What all points share.
            num_columns: Columns of its table, each at least an input.
            num_points: Points that share them.
            on_gpu: Whether it computes on GPUs, of which each takes all.
        """
        devices, filling = job.devices, 1
        units = 1 if job.model.numeric_embedding == "none" else job.model.embedding_units
        num_params = job.model.count_dense_params(num_columns * units)
        flop = count_step_flop(job, num_params, num_tasks=devices.tasks)
        if on_gpu:
            busy, filling = cores, max(1, int(_FLOP_OF_LAUNCHES / flop))
        else:
            threads = devices.threads or worthy_threads(cores, step_flop=flop)
            # Members train side by side where there are cores that no other point wants.
            beside = min(job.model.members, max(1, cores // (threads * num_points)))
            busy = min(cores, threads * devices.tasks * beside)
        kind = f"{devices.kind} {devices.precision} {devices.xla} {devices.threads or busy}"
        return cls(busy, kind, _name_call(job), filling=filling)


def plan_lanes(
    needs: Sequence[PointNeeds],
    *,
    cores: int,
    memory_bytes: float,
    stack: int = 0,
    point_bytes: float = LANE_BYTES,
) -> LanePlan:
    """Lanes for points on this machine: as many as cores and memory hold.

    Args:
        needs: What each point takes.
        cores: Cores that all share.
        memory_bytes: Memory that all share.
        stack: `devices.stack`: so many lanes, whatever cores and memory say; 0 leaves it to them.
            Of points that train in one call it is the width of that.
        point_bytes: What a point takes at its peak.
    """
    beside = max(need.beside for need in needs)
    if stack and beside == 1:
        busiest = max(need.cores for need in needs)
        width = min(stack, len(needs))
        return LanePlan(width, max(cores, width * busiest))
    most = cores // min(need.cores for need in needs)
    room = memory_bytes // point_bytes
    return LanePlan(max(1, int(min(len(needs), most, room))), cores, beside=beside)


def find_needs(jobs: Sequence[JobConfig], *, cores: int, has_gpus: bool) -> list[PointNeeds]:
    """What each of several jobs takes of a machine.

    Args:
        jobs: The jobs.
        cores: Cores that they share.
        has_gpus: Whether there are GPUs.
    """
    num_columns: dict[str, int] = {}
    for data in (job.data for job in jobs):
        if (key := data.model_dump_json()) not in num_columns:
            num_columns[key] = _count_columns(data)
    on_gpu = [has_gpus and job.devices.kind != "cpu" for job in jobs]
    needs = [
        PointNeeds.of(
            job,
            cores=cores,
            num_columns=num_columns[job.data.model_dump_json()],
            num_points=len(jobs),
            on_gpu=has_gpu,
        )
        for job, has_gpu in zip(jobs, on_gpu, strict=True)
    ]
    kinds = [
        _stack_kind(job) if has_gpu else None for job, has_gpu in zip(jobs, on_gpu, strict=True)
    ]
    alike = Counter(kinds)
    return [
        replace(need, beside=1 if kind is None else alike[kind])
        for need, kind in zip(needs, kinds, strict=True)
    ]


def _stack_kind(job: JobConfig) -> str | None:
    """What points share that one call on a GPU may train; None of one that trains alone.

    Whether they do is known once a table is read and its GPU is there.
    """
    devices = job.devices
    if job.model.members > 1 or devices.tasks > 1 or devices.xla == "off":
        return None
    kind = describe_kind(job), devices.precision, devices.threads, job.data.target
    return repr(kind)


def _name_call(job: JobConfig) -> str:
    """Names what a process compiles for a job; jobs of other names may still share a call."""
    rows = job.data.model_dump_json(), job.train.epochs, job.model.members
    kind = describe_kind(job), job.devices.model_dump_json(exclude={"stack"}), rows
    return hashlib.sha256(repr(kind).encode()).hexdigest()[:12]


def _count_columns(data: DataConfig) -> int:
    try:
        return len(peek_columns(data))
    except DnnJobError:
        # The runs say what is wrong.
        return 1


def make_errand(paths: RunPaths, needs: PointNeeds, *, number: int) -> Errand:
    """What a lane is told of a point, the `number`th of its sweep from 1."""
    return Errand(
        run=paths.root,
        number=number,
        cores=needs.cores,
        kind=needs.kind,
        call=needs.call,
        beside=needs.beside,
    )


def needs_here(jobs: Sequence[JobConfig]) -> list[PointNeeds]:
    """What each of several jobs takes of this machine."""
    return find_needs(jobs, cores=count_cores(), has_gpus=bool(visible_gpus()))


def plan_here(
    jobs: Sequence[JobConfig],
    needs: Sequence[PointNeeds],
    *,
    task: Task,
    is_resumed: bool = False,
) -> LanePlan:
    """Lanes for points on this machine: one where this process is one of a run's several tasks.

    Args:
        jobs: The points.
        needs: What each takes.
        task: Which task of each run this process is.
        is_resumed: Whether their stack may have been chosen for another machine: then no more go
            side by side than this one holds.
    """
    cores = count_cores()
    stack = find_stack(jobs)
    if task.num_tasks > 1:
        # Each task comes to the runs in the same order.
        return LanePlan(1, cores)
    plan = partial(plan_lanes, needs, cores=cores, memory_bytes=memory_limit_bytes())
    chosen, fitting = plan(stack=stack), plan()
    return fitting if is_resumed and fitting.width < chosen.width else chosen


def narrowed_to_memory(plan: LanePlan) -> LanePlan:
    """A plan that was made without knowing the memory, with no more lanes than fit into it."""
    return replace(plan, width=max(1, min(plan.width, int(memory_limit_bytes() // LANE_BYTES))))


def with_stack(job: JobConfig, plan: LanePlan) -> JobConfig:
    """A point's job with how many go side by side; of one with members the number is theirs.

    Where one call trains points, its device says how many it has memory for.
    """
    if job.model.members > 1:
        return job
    width = plan.width if plan.beside == 1 else min(job.devices.stack, plan.beside)
    devices = job.devices.model_copy(update={"stack": width})
    return job.model_copy(update={"devices": devices})


def points_at_once(plan: LanePlan, needs: Sequence[PointNeeds]) -> int:
    """Points that a task does about as fast as one."""
    return max(plan.width, min(min(need.beside, need.filling) for need in needs))


def find_stack(jobs: Sequence[JobConfig]) -> int:
    """How many points the jobs ask to go side by side; 0 where they leave it to the rule."""
    return max((job.devices.stack for job in jobs if job.model.members == 1), default=0)


def choose_points_per_task(
    num_points: int,
    *,
    chosen: int | None = None,
    seconds_a_point: float | None = None,
    most_tasks: int | None = None,
    width: int = 1,
    least: int = 1,
) -> int:
    """Points that one task runs, so many at a time.

    Args:
        num_points: Points of the sweep.
        chosen: What the profile says.
        seconds_a_point: How long one takes, roughly; None if unknown, which counts as long.
        most_tasks: Tasks that may be queued; None for any number.
        width: Points that a task runs side by side.
        least: Points that a task must have.

    Raises:
        JobError: If the profile's choice makes more tasks than may be queued.
    """
    fewest = math.ceil(num_points / most_tasks) if most_tasks else 1
    if chosen is not None:
        if chosen < fewest:
            raise JobError(
                f"A sweep of {num_points} points with points_per_task = {chosen} is "
                f"{math.ceil(num_points / chosen)} tasks, but the cluster takes {most_tasks} more. "
                f"Set profile.points_per_task={fewest} or more, or leave it out."
            )
        return chosen
    in_turn = 1 if not seconds_a_point else max(1, round(_SECONDS_A_TASK / seconds_a_point))
    return min(num_points, max(fewest, least, width * in_turn))


def share_out(num_points: int, each: int) -> list[range]:
    """The places of the points of each task, consecutive ones, as evenly as can be."""
    num_tasks = math.ceil(num_points / each)
    cuts = [round(number * num_points / num_tasks) for number in range(num_tasks + 1)]
    return [range(start, stop) for start, stop in pairwise(cuts)]
