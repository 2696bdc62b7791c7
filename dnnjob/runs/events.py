"""What others than the chief learn of a run: one event a file, each file with one writer.

leave_event(paths, "launcher-1", Event(writer="launcher", attempt=1, state="FAILED"))
events = read_events(paths, read_submission(paths))
"""

import os
from datetime import UTC, datetime
from typing import Literal

from pydantic import Field

from dnnjob.runs.atomic_files import write_text
from dnnjob.runs.records import BatchEnd, Reason, Record, State, Submission, Time, read_record
from dnnjob.runs.run_paths import RunPaths


class Event(Record):
    """What befell a run, as somebody else than its chief saw it."""

    writer: Literal["array_task", "batch", "follower", "launcher", "local_queue"]
    at: Time = Field(default_factory=lambda: datetime.now(UTC))
    attempt: int | None = None
    """The latest attempt when it was written; the batch script does not know."""
    job_id: str | None = None
    """Of the job that it works for, as in `submission.json`."""
    process: str | None = None
    """Of a local one what tells its process from a later one with that number."""
    restarts: int = 0
    """How often Slurm had requeued that job."""
    state: State | None = None
    """What the run has come to; None leaves that to the judge."""
    reason: Reason | None = None
    error: str | None = None
    exit_code: int | None = None
    """Of srun; 128 and the signal's number where a task was killed."""
    requeue: Literal["none", "asked", "slurm", "refused", "cancelled"] | None = None
    """Whether the job goes on: not; on the script's request; by Slurm itself. Refused or cancelled,
    it should have gone on and does not."""
    memory_mb: float | None = None
    """With which Slurm last saw the task."""


def leave_event(paths: RunPaths, name: str, event: Event) -> None:
    """Writes an event in one step, under a name that its writer alone uses."""
    write_text(paths.events / f"{name}.json", event.model_dump_json(exclude_none=True) + "\n")


def read_events(paths: RunPaths, submission: Submission | None) -> tuple[Event, ...]:
    """All events of a run in the order of their times; what is damaged is left out."""
    try:
        # A listing, since NFS caches the absence of a name for longer than that of its entries.
        names = os.listdir(paths.events)  # noqa: PTH208
    except OSError:
        names = []
    # Half a file of a batch script on a full disk is no event.
    events = [read_record(paths.events / name, Event) for name in names if name.endswith(".json")]
    before = [_read_before(paths, submission)] if submission is not None else []
    known = [event for event in (*events, *before) if event is not None]
    # The batch script has the last word on what happened within its coarse second.
    return tuple(sorted(known, key=lambda event: (event.at, event.writer == "batch")))


def _read_before(paths: RunPaths, submission: Submission) -> Event | None:
    """The end of a job as batch scripts of version 0.1 left it, beside submitit's files."""
    if submission.executor != "slurm":
        return None
    file = paths.root / submission.folder / f"{submission.job_id}_ended.json"
    if (end := read_record(file, BatchEnd)) is None:
        return None
    return Event(
        writer="batch",
        at=end.ended_at,
        job_id=submission.job_id,
        restarts=end.restarts,
        reason=end.reason,
        exit_code=end.exit_code,
        requeue=end.requeue,
    )
