"""Which task of a run this process is.

task = find_task()          # from the launcher's or Slurm's environment; else the only one
"""

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from pydantic import TypeAdapter

VARIABLE = "DNNJOB_TASK"
"""Where the local launcher tells a process which task it is, as JSON."""

# Above this are Slurm's own steps: batch, extern, interactive.
_MAX_STEP = 0xFFFF_0000


@dataclass(frozen=True)
class Task:
    """One process of a run.

    Attributes:
        rank: Its number, 0 for the chief.
        num_tasks: Tasks of the run.
        launch: Names this start of the run: the same for all its tasks, and for no other start.
        local_tasks: Tasks of the run on this machine, as far as the launcher says.
        launcher: What started it.
        point: Number of the sweep's point it works on, 0 without a sweep.
        parent: Process that started it and that it must not outlive, 0 without one.
    """

    rank: int = 0
    num_tasks: int = 1
    launch: str = ""
    local_tasks: int = 1
    launcher: str = "none"
    point: int = 0
    parent: int = 0

    @property
    def is_chief(self) -> bool:
        """Whether this task decides and publishes."""
        return self.rank == 0

    @property
    def is_local(self) -> bool:
        """Whether all tasks of the run are on this machine."""
        return self.local_tasks == self.num_tasks

    def to_environ(self) -> dict[str, str]:
        """What `find_task` finds in the process that is to be this task."""
        return {VARIABLE: TypeAdapter(Task).dump_json(self).decode()}


def find_task(environ: MutableMapping[str, str] = os.environ) -> Task:
    """The task this process is, by its environment.

    A Slurm step of several tasks, `srun -n 4 dnnjob run JOB`, is one run. What is told by the local
    launcher is taken out of the environment, so that this process's own children are no tasks.
    """
    if told := environ.pop(VARIABLE, None):
        return TypeAdapter(Task).validate_json(told)
    return _slurm_task(environ) or Task()


def _slurm_task(environ: Mapping[str, str]) -> Task | None:
    step, rank, num_tasks = (
        environ.get(name, "") for name in ("SLURM_STEP_ID", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
    )
    if not (step.isdecimal() and rank.isdecimal() and num_tasks.isdecimal()):
        return None
    if int(step) > _MAX_STEP or int(num_tasks) < 2:
        return None
    names = ("SLURM_CLUSTER_NAME", "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    return Task(
        rank=int(rank),
        num_tasks=int(num_tasks),
        launch="-".join(environ.get(name, "0") for name in names),
        local_tasks=_tasks_on_node(environ),
        launcher="slurm",
    )


def _tasks_on_node(environ: Mapping[str, str]) -> int:
    """Tasks of the step on this node: Slurm writes them as in `2(x3),1`."""
    counts: list[int] = []
    for part in environ.get("SLURM_STEP_TASKS_PER_NODE", "").split(","):
        number, _, times = part.removesuffix(")").partition("(x")
        if number.isdecimal():
            counts += [int(number)] * (int(times) if times.isdecimal() else 1)
    node = environ.get("SLURM_NODEID", "0")
    place = int(node) if node.isdecimal() else 0
    return counts[place] if place < len(counts) else 1
