"""Why Slurm ends an attempt, and whether the run may go on by itself; arithmetic without effects.

fate = read_fate(slurm.show_job("123_4"), restarts=0, warning_s=120)     # "preempted"
why_not = refuse_requeue(status.attempts, "preempted", max_requeues=50)   # None: it goes on
"""

from collections.abc import Mapping, Sequence
from itertools import takewhile

from dnnjob.runs import Attempt, Position, Reason
from dnnjob.slurm import parse_duration

# Slurm looks at time limits once a minute, and so may warn that much earlier than asked.
EARLY_S = 65
# Attempts in a row without progress that show there will be none.
MAX_FRUITLESS_LIMITS = 2
MAX_FRUITLESS_LOSSES = 4
_LOSSES: tuple[Reason, ...] = ("peer_lost", "node_failure", "vanished")


def read_fate(job: Mapping[str, str], *, restarts: int, warning_s: int) -> Reason:
    """Why Slurm ends a job, by what `scontrol show job` says of it.

    While the processes of a job end, Slurm calls it COMPLETING whatever the cause; its other fields
    tell the causes apart.

    Args:
        job: Fields of the job.
        restarts: How often it had been requeued when this attempt began.
        warning_s: How long before the end of its time limit it asked for the warning.

    Returns:
        `preempted`, `time_limit`, `node_failure` or `cancelled`.
    """
    if job.get("JobState") == "NODE_FAIL":
        return "node_failure"
    requeued = int(job.get("Restarts", "0")) > restarts
    if requeued or job.get("PreemptTime", "None") not in ("None", "N/A"):
        return "preempted"
    left_s = _seconds_left(job)
    if job.get("JobState") == "RUNNING":
        return "time_limit" if left_s <= warning_s + EARLY_S else "preempted"
    return "time_limit" if left_s <= 0 else "cancelled"


def guess_fate(left_s: float | None, *, warning_s: int) -> Reason:
    """Why Slurm ends a job, where it cannot be asked: `time_limit` near its end, else `preempted`.

    Args:
        left_s: Seconds to the end of the time limit, None if unknown.
        warning_s: As for `read_fate`.
    """
    near = left_s is not None and left_s <= warning_s + EARLY_S
    return "time_limit" if near else "preempted"


def refuse_requeue(attempts: Sequence[Attempt], reason: Reason, *, max_requeues: int) -> str | None:
    """Why a run must not go on by itself, as a sentence; None if it may.

    Args:
        attempts: All of the run, the last of which has just ended.
        reason: Why it ended.
        max_requeues: How often one submission may be queued anew.
    """
    mine = attempts_of_job(attempts)
    if len(mine) > max_requeues:
        return (
            f"A submitted run is queued anew at most {max_requeues} times, and it has been. Raise "
            "profile.max_requeues for more."
        )
    if reason == "time_limit" and _count_fruitless(mine, ("time_limit",)) >= MAX_FRUITLESS_LIMITS:
        return (
            f"The time limit was reached {MAX_FRUITLESS_LIMITS} times in a row without progress: "
            "starting and one checkpoint take longer. Raise profile.time_limit_min."
        )
    if reason in _LOSSES and _count_fruitless(mine, _LOSSES) >= MAX_FRUITLESS_LOSSES:
        return (
            f"Tasks or nodes were lost {MAX_FRUITLESS_LOSSES} times in a row without progress. "
            "Look at the logs, and name a bad node in profile.exclude."
        )
    return None


def attempts_of_job(attempts: Sequence[Attempt]) -> list[Attempt]:
    """The last attempts, as far as one Slurm job made them."""
    if not attempts:
        return []
    last = attempts[-1]
    mine = takewhile(lambda one: one.slurm_job_id == last.slurm_job_id, reversed(attempts))
    return list(mine)[::-1]


def _count_fruitless(attempts: Sequence[Attempt], reasons: Sequence[Reason]) -> int:
    """Attempts at the end that ended for one of `reasons`, none of them further than it began."""
    count = 0
    later: Attempt | None = None
    for attempt in reversed(attempts):
        # The last one's reason is not yet written.
        if attempt.reason not in (None, *reasons) or _made_progress(attempt, later):
            break
        count, later = count + 1, attempt
    return count


def _made_progress(attempt: Attempt, later: Attempt | None) -> bool:
    began = _order(attempt.resumed_from)
    # A killed attempt may have written a checkpoint that its status does not tell; the next does.
    ends = [attempt.reached, later.resumed_from if later else None]
    return any(_order(end) > began for end in ends if end is not None)


def _order(position: Position | None) -> tuple[int, ...]:
    place = position or Position()
    return place.epoch, place.window, place.batch, place.predicted


def _seconds_left(job: Mapping[str, str]) -> float:
    limit_s = parse_duration(job.get("TimeLimit", ""))
    ran_s = parse_duration(job.get("RunTime", ""))
    return float("inf") if limit_s is None or ran_s is None else limit_s - ran_s
