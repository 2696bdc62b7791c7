"""The run that the tasks of one Slurm step share: `srun -n 4 dnnjob run JOB` is one run.

paths = share_run(root, job, task=task)
"""

import hashlib
from pathlib import Path

from dnnjob.config import JobConfig
from dnnjob.errors import JobError, PeerLostError
from dnnjob.runs import RunPaths, create_run, read_settled
from dnnjob.tasks import WAIT_S, Task, fresh_names, looks

_OPEN = ("CREATED", "RUNNING")


def share_run(root: Path, job: JobConfig, *, task: Task, wait_s: float = WAIT_S) -> RunPaths:
    """The run folder of a step: made by the chief, found by the others.

    Its name ends in digits that follow from job id and step alone, so the others need no message.

    Args:
        root: Folder that holds runs.
        job: The job.
        task: This task of the step.
        wait_s: How long the others look for it.

    Raises:
        JobError: If the job asks for another number of tasks than the step has.
        MissingError: If the folder cannot be made.
        PeerLostError: If the chief has made none in time.
    """
    if job.devices.tasks != 1:
        refuse_other_tasks(job.devices.tasks, task)
    token = hashlib.sha256(task.launch.encode()).hexdigest()[:6]
    if task.is_chief:
        return create_run(root, job, token=token)
    folder = root.absolute() / job.name
    for _ in looks(wait_s):
        if (paths := _find(folder, token)) is not None:
            return paths
    raise PeerLostError(
        f"The tasks of a step share a run folder, but task 0 made no {folder}/*-{token} within "
        f"{wait_s:.0f} s. Look whether all nodes see {root}, and at the output of task 0."
    )


def refuse_other_tasks(asked: int, task: Task) -> None:
    """Ends a step that has not as many tasks as its job asks for.

    Raises:
        JobError: If so.
    """
    if asked != task.num_tasks:
        raise JobError(
            f"A Slurm step of {task.num_tasks} tasks is one run of as many, but devices.tasks is "
            f"{asked}. Leave it out, or give srun -n that number."
        )


def _find(folder: Path, token: str) -> RunPaths | None:
    # The newest: a step may have run the job before.
    for name in sorted(fresh_names(folder), reverse=True):
        paths = RunPaths(folder / name)
        if name.endswith(f"-{token}") and _is_open(paths):
            return paths
    return None


def _is_open(paths: RunPaths) -> bool:
    try:
        return read_settled(paths).state in _OPEN
    except (OSError, ValueError):
        return False
