"""Every Slurm command and its parsing, and nothing else.

job = sbatch(script, marker="housing-3f9a1c", environ=scrub(os.environ))
queue = list_queue(["123", "124_7"])             # one squeue for all; what it leaves out has ended
ended = list_accounted(["123", "124_7"])         # one sacct for all; None without accounting
"""

from dnnjob.slurm.accounted_jobs import AccountedJob, list_accounted
from dnnjob.slurm.queued_jobs import (
    QueuedJob,
    cancel,
    list_queue,
    release,
    requeue,
    show_job,
)
from dnnjob.slurm.site import (
    Node,
    Partition,
    Site,
    cluster_name,
    list_nodes,
    list_partitions,
    read_site,
    show_config,
)
from dnnjob.slurm.slurm_words import ENDED_STATES, parse_duration, parse_elements
from dnnjob.slurm.submission import (
    LOOK_UP_S,
    SUBMIT_TIMEOUT_S,
    explain_refusal,
    sbatch,
    scrub,
    take_back,
)
from dnnjob.slurm.submit_limits import SubmitLimit, find_room

__all__ = [
    "ENDED_STATES",
    "LOOK_UP_S",
    "SUBMIT_TIMEOUT_S",
    "AccountedJob",
    "Node",
    "Partition",
    "QueuedJob",
    "Site",
    "SubmitLimit",
    "cancel",
    "cluster_name",
    "explain_refusal",
    "find_room",
    "list_accounted",
    "list_nodes",
    "list_partitions",
    "list_queue",
    "parse_duration",
    "parse_elements",
    "read_site",
    "release",
    "requeue",
    "sbatch",
    "scrub",
    "show_config",
    "show_job",
    "take_back",
]
