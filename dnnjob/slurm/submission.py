"""Submitting a batch script, and what sbatch's refusals mean.

job = sbatch(script, marker="housing-3f9a1c", environ=scrub(os.environ))
"""

import os
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from dnnjob.errors import JobError, SlurmError
from dnnjob.slurm.queued_jobs import cancel, find_job
from dnnjob.slurm.slurm_commands import call, is_unreachable, join_errors, unreachable

# sbatch waits for a controller under load.
SUBMIT_TIMEOUT_S = 120.0
# Between the looks for a submission whose answer was lost: a slow controller takes it late.
LOOK_UP_S = (0.0, 2.0, 5.0, 10.0, 15.0)
# What a job's own environment would tell the jobs it submits, and they take for theirs.
_INHERITED = re.compile(
    r"^(SLURM|SBATCH|SRUN|PMIX?|SLURMD)_|"
    r"^(SLURMD_NODENAME|CUDA_VISIBLE_DEVICES|ROCR_VISIBLE_DEVICES|GPU_DEVICE_ORDINAL)$"
)


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
        done = call(command, timeout_s=SUBMIT_TIMEOUT_S, environ=environ)
    except subprocess.TimeoutExpired:
        return _look_up(marker)
    if done.returncode == 0 and (words := done.stdout.split()):
        return words[-1].partition(";")[0]
    if done.returncode == 0 or _is_unsure(done.stderr):
        return _look_up(marker)
    raise explain_refusal(done.stderr)


def explain_refusal(stderr: str) -> JobError | SlurmError:
    """The error that sbatch's complaint becomes, with the key of the profile to change."""
    said = join_errors(stderr)
    if is_unreachable(stderr):
        return unreachable("sbatch", said)
    # The last line may name several limits at once; a line before it says which.
    limits = [line for line in stderr.splitlines() if _A_LIMIT.search(line)]
    named = "\n".join(limits) or stderr
    for pattern, cure in _CURES:
        if re.search(pattern, named, re.IGNORECASE):
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


def _is_unsure(stderr: str) -> bool:
    """Whether the controller may have taken the job although sbatch failed."""
    return re.search(r"timed? ?out|zero bytes", stderr, re.IGNORECASE) is not None


# The reason that Slurm names for a limit of a QOS or an account.
_A_LIMIT = re.compile(r"\b(?:QOS|Assoc)(?:Max|Grp|Min)\w+")

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
        r"(?:max|grp)submit",
        "Wait until some of your jobs have ended, or raise points_per_task so that fewer tasks "
        "are queued.",
    ),
    (
        r"job submit limit.*size and/or time",
        "Slurm does not say which of these limits it is: sacctmgr show qos,assoc user=$USER. Wait "
        "until some of your jobs have ended, or lower time_limit_min, nodes, cpus_per_task or "
        "gpus_per_node in the profile.",
    ),
    (r"generic resource|gres|gpu", "Set gpus_per_node to what `sinfo -o %G` lists, or 0."),
    (r"time ?limit|wall", "Lower the profile's time_limit_min, or take another partition."),
    (
        r"memory.*(?:must|required|missing|not (?:been )?(?:specified|provided|set))|"
        r"(?:must|need to|please) (?:specify|request|provide|set).*mem",
        "Set the profile's memory_gb to what one run needs on each node.",
    ),
    (r"mem", "Lower the profile's memory_gb to what a node has: sinfo -o '%n %m'."),
    (r"feature|constraint", "Set the profile's constraint to what `sinfo -o %f` lists."),
    (r"reservation", "Set the profile's reservation to one that `scontrol show res` lists."),
    (
        r"node name|node list",
        "Set the profile's nodelist or exclude to names that `sinfo -N` lists.",
    ),
    (
        r"node configuration|node count|more processors|cpu|(?:max|grp)(?:tres|nodes?)",
        "Lower nodes, tasks_per_node, cpus_per_task or gpus_per_node in the profile to what a "
        "node of the partition has: sinfo -o '%P %n %c %m %G'.",
    ),
    (r"array", "Raise points_per_task: the cluster's MaxArraySize bounds the tasks of a sweep."),
)
