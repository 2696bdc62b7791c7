"""Slurm's words for why a job waits, in plain ones.

describe_queue_reason("Resources", job_id="12")     # "waits for free nodes (Resources)"
"""

from collections.abc import Mapping
from datetime import datetime

# The usual ones; Slurm has a hundred more, which are shown as they are.
_REASONS: Mapping[str, str] = {
    "AssocGrpCpuLimit": "its account has as many cores as it may",
    "AssocGrpGRES": "its account has as many GPUs as it may",
    "AssocMaxJobsLimit": "its account has as many jobs as it may",
    "BeginTime": "starts soon",
    "Cleaning": "its last start is being cleaned up",
    "Dependency": "waits for another job",
    "DependencyNeverSatisfied": "waits for a job that has failed, and never starts",
    "InvalidAccount": "its account is not valid here",
    "InvalidQOS": "its QOS is not valid here",
    "JobArrayTaskLimit": "as many of its sweep are at work as profile.array_parallelism allows",
    "JobHeldAdmin": "held by an administrator",
    "JobHeldUser": "held; `scontrol release {job_id}` lets it start",
    "JobHoldMaxRequeue": "held by Slurm after too many requeues",
    "NodeDown": "the node it needs is down",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition is inactive",
    "PartitionNodeLimit": "asks for more nodes than its partition gives, and may never start",
    "PartitionTimeLimit": "asks for more time than its partition gives, and may never start",
    "Priority": "others come first",
    "QOSGrpCpuLimit": "its QOS has as many cores as it may",
    "QOSMaxCpuPerUserLimit": "you have as many cores as your QOS allows",
    "QOSMaxGRESPerUser": "you have as many GPUs as your QOS allows",
    "QOSMaxJobsPerUserLimit": "you have as many jobs at work as your QOS allows",
    "QOSMaxSubmitJobPerUserLimit": "you have as many jobs as your QOS allows",
    "ReqNodeNotAvail": "the nodes it needs are not available",
    "Reservation": "waits for its reservation",
    "Resources": "waits for free nodes",
    "launch failed requeued held": "could not be started and is held; "
    "`scontrol release {job_id}` tries again",
}


def describe_queue_reason(
    reason: str | None, *, job_id: str, starts_at: datetime | None = None
) -> str:
    """Why a job waits, and when Slurm means to start it.

    Args:
        reason: Slurm's word.
        job_id: The job.
        starts_at: The start that Slurm plans, if it does.
    """
    planned = "" if starts_at is None else f", planned for {starts_at:%Y-%m-%d %H:%M} UTC"
    if reason is None or reason == "None":
        return f"in the queue{planned}"
    # As in "ReqNodeNotAvail, UnavailableNodes:n1".
    words = _REASONS.get(reason.partition(",")[0])
    told = f"{words} ({reason})" if words else f"waits: {reason}"
    return told.replace("{job_id}", job_id) + planned
