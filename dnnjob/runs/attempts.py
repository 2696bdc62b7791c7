"""Attempts of a run: claimed by one of several claimants, and what Slurm calls this process.

number = claim_attempt(paths)
own_job_id(os.environ), count_restarts(os.environ)
"""

import os
from collections.abc import Mapping

from dnnjob.errors import JobError
from dnnjob.runs.run_paths import RunPaths


def own_job_id(environ: Mapping[str, str]) -> str | None:
    """The Slurm job this process is part of: `123`, or `123_4` for an array element."""
    array, element = environ.get("SLURM_ARRAY_JOB_ID"), environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{element}" if array and element else environ.get("SLURM_JOB_ID")


def count_restarts(environ: Mapping[str, str]) -> int | None:
    """How often Slurm has requeued the job this process is part of; None outside Slurm."""
    if "SLURM_JOB_ID" not in environ:
        return None
    # Slurm sets it from the first restart on.
    return int(environ.get("SLURM_RESTART_COUNT") or 0)


def claim_attempt(paths: RunPaths, *, after: int | None = None) -> int:
    """Makes the folder of the next attempt, which only one of several claimants can; its number.

    Args:
        paths: The run.
        after: The attempt that was the latest when the claimant looked at the run.

    Raises:
        JobError: If there is a later attempt than `after`.
    """
    paths.attempts.mkdir(exist_ok=True)
    while True:
        attempt = (latest_attempt(paths) if after is None else after) + 1
        try:
            (paths.attempts / str(attempt)).mkdir()
        except FileExistsError:
            if after is None:
                continue
            raise JobError(
                f"A run goes on once at a time, but another `dnnjob resume` of {paths.root} has "
                f"just begun attempt {attempt}. Follow that one."
            ) from None
        return attempt


def latest_attempt(paths: RunPaths) -> int:
    """Number of the highest attempt claimed, 0 without any."""
    # A listing, since NFS caches the absence of a name for longer than that of a folder's entries.
    names = os.listdir(paths.attempts) if paths.attempts.is_dir() else []  # noqa: PTH208
    return max((int(name) for name in names if name.isdecimal()), default=0)
