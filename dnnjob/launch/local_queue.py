"""Runs in the background of this machine: a process of its own starts them, as many as fit.

plan = plan_queue(jobs, profile, memory_bytes=None)
with open_queue(runs, profile, plan, folder=folder, command=command) as pid: ...
"""

import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

from dnnjob.config import JobConfig, ProfileConfig
from dnnjob.errors import ExitCode
from dnnjob.launch.errand import Errand
from dnnjob.launch.halving import put_in_order
from dnnjob.launch.lane_plan import (
    LanePlan,
    PointNeeds,
    find_needs,
    find_stack,
    make_errand,
    plan_lanes,
    with_stack,
)
from dnnjob.launch.lanes import Lanes, LogWatcher
from dnnjob.launch.turns import ListedTurns
from dnnjob.machine import count_cores, memory_limit_bytes, visible_gpus
from dnnjob.runs import Record, RunPaths, load_run_job, write_record
from dnnjob.streams import guarded_streams
from dnnjob.tasks import StopFlag, Task

_OUTLIVING: list[Any] = []


@dataclass(frozen=True)
class QueuePlan:
    """How many runs go at a time, and with what: on this machine, or in one element of an array.

    Attributes:
        lanes: How many side by side.
        needs: What each run takes.
        threads: What the profile says of threads; 0 leaves it to the run.
    """

    lanes: LanePlan
    needs: tuple[PointNeeds, ...]
    threads: int = 0

    def fit(self, job: JobConfig) -> JobConfig:
        """The job with the width of its stack, and with the profile's threads unless it has own."""
        job = fit_threads(job, self.threads)
        return with_stack(job, self.lanes) if len(self.needs) > 1 else job


def fit_threads(job: JobConfig, threads: int) -> JobConfig:
    """A job with so many threads, unless it says otherwise."""
    devices = job.devices
    devices = devices.model_copy(update={"threads": devices.threads or threads})
    return job.model_copy(update={"devices": devices})


class QueueFile(Record):
    """What the background process is told."""

    errands: tuple[Errand, ...]
    plan: LanePlan
    command: str
    halving: int | None = None


def plan_queue(
    jobs: Sequence[JobConfig], profile: ProfileConfig, *, memory_bytes: float | None
) -> QueuePlan:
    """The plan for runs on this machine, or for those of an element of an array.

    Args:
        jobs: A job a run.
        profile: Where they go.
        memory_bytes: What one takes at its peak, None if unknown.
    """
    if profile.executor == "slurm":
        return _plan_element(jobs, profile, memory_bytes=memory_bytes)
    gpus = visible_gpus() if any(job.devices.kind != "cpu" for job in jobs) else ()
    cores, threads = count_cores(), profile.cpus_per_task or 0
    needs = find_needs(
        [fit_threads(job, threads) for job in jobs], cores=cores, has_gpus=bool(gpus)
    )
    each = profile.gpus_per_node or (len(gpus) if len(jobs) == 1 else 1)
    most = [profile.array_parallelism]
    if gpus:
        most.append(max(1, len(gpus) // each))
        needs = [replace(need, cores=max(1, cores // min(most))) for need in needs]
    if len(jobs) == 1:
        needs = [replace(needs[0], cores=cores)]
    asked = profile.memory_gb * 2**30 if profile.memory_gb else memory_bytes
    lanes = plan_lanes(
        needs,
        cores=cores,
        memory_bytes=memory_limit_bytes(),
        stack=find_stack(jobs),
        **({"point_bytes": asked} if asked else {}),
    )
    width = min(lanes.width, *most)
    minutes = profile.time_limit_min
    lanes = replace(
        lanes,
        width=width,
        gpus=tuple(",".join(gpus[n * each : (n + 1) * each]) for n in range(width)),
        setup=profile.setup,
        limit_s=None if minutes is None else 60.0 * minutes,
        warning_s=profile.warning_lead_s,
    )
    return QueuePlan(lanes, tuple(needs), threads)


def _plan_element(
    jobs: Sequence[JobConfig], profile: ProfileConfig, *, memory_bytes: float | None
) -> QueuePlan:
    """What an element of an array will find: what the profile asks for."""
    cores = profile.cpus_per_task or 1
    needs = find_needs(jobs, cores=cores, has_gpus=bool(profile.gpus_per_node or profile.gres))
    if profile.num_tasks > 1:
        return QueuePlan(LanePlan(1, cores), tuple(needs))
    room = profile.memory_gb * 2**30 if profile.memory_gb else sys.float_info.max
    lanes = plan_lanes(
        needs,
        cores=cores,
        memory_bytes=room,
        stack=find_stack(jobs),
        **({"point_bytes": memory_bytes} if memory_bytes else {}),
    )
    return QueuePlan(lanes, tuple(needs))


@contextmanager
def open_queue(
    runs: Sequence[RunPaths], plan: QueuePlan, *, folder: Path, command: str, halving: int | None
) -> Iterator[int]:
    """Starts the background process, which begins to work when the block ends; its number.

    It outlives this process and its terminal. Where the block raises, it ends without a deed.

    Args:
        runs: Run folders.
        plan: How many at a time, and with what.
        folder: Where its files go.
        command: What the user typed.
        halving: `search.halving`.
    """
    errands = tuple(
        make_errand(paths, need, number=number)
        for number, (paths, need) in enumerate(zip(runs, plan.needs, strict=True), start=1)
    )
    told = QueueFile(errands=errands, plan=plan.lanes, command=command, halving=halving)
    write_record(folder / "pool.json", told)
    with (folder / "pool.log").open("ab") as log:
        # No file of the terminal's stays open in it: a shell that waits for this command's output
        # would wait for the runs.
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "dnnjob.launch.local_queue", str(folder)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    # Python complains of a process that is forgotten while it runs; this one is meant to.
    _OUTLIVING.append(process)
    gate = cast(BinaryIO, process.stdin)
    try:
        yield process.pid
        gate.write(b"go\n")
    except BaseException:
        gate.close()
        process.wait()
        raise
    gate.close()


def main() -> None:
    """Waits for the word to begin, then works."""
    with guarded_streams():
        _work()


def _work() -> NoReturn:
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(message)s", level=logging.INFO)
    if sys.stdin.readline() != "go\n":
        sys.exit(ExitCode.FAILED)
    sys.stdin.close()
    os.chdir("/")
    folder = Path(sys.argv[1])
    told = QueueFile.model_validate_json((folder / "pool.json").read_bytes())
    # The reports tell what the user typed.
    sys.argv[:] = shlex.split(told.command)
    jobs = [load_run_job(RunPaths(errand.run)) for errand in told.errands]
    order = put_in_order(told.errands, jobs, halving=told.halving)
    stop, turns = StopFlag(), ListedTurns(order)
    with stop.listening():
        log = folder / "pool.log"
        Lanes(told.plan, task=Task(), stop=stop, watcher=LogWatcher(), log=log).work(turns)
    turns.cancel_rest()
    sys.exit(ExitCode.DONE)


if __name__ == "__main__":
    main()
