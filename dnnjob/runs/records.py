"""What the JSON files of run and sweep folders hold.

status = Status(state="RUNNING", attempts=(attempt,))
write_record(paths.submission, submission)
submission = read_record(paths.submission, Submission)
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from dnnjob.runs.atomic_files import write_text

State = Literal["CREATED", "RUNNING", "REQUEUED", "COMPLETED", "FAILED", "CANCELLED"]
Reason = Literal[
    "nan",
    "error",
    "out_of_memory",
    "time_limit",
    "preempted",
    "node_failure",
    "peer_lost",
    "cancelled",
    "vanished",
]


def _to_utc(time: datetime) -> datetime:
    """A time without a zone is taken for UTC."""
    return time if time.tzinfo else time.replace(tzinfo=UTC)


Time = Annotated[datetime, AfterValidator(_to_utc)]


class Record(BaseModel):
    """A JSON record; unknown keys of later versions are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


AnyRecord = TypeVar("AnyRecord", bound=Record)


def read_record(path: Path, kind: type[AnyRecord]) -> AnyRecord | None:
    """The record in a file; None where there is none, or it is damaged."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        return None


def write_record(path: Path, record: Record) -> None:
    """Replaces a file by a record."""
    write_text(path, record.model_dump_json(indent=1) + "\n")


class Position(Record):
    """A place in the order of training: the next batch to train is `batch` of `window`."""

    epoch: int = 0
    window: int = 0
    batch: int = 0
    predicted: int = 0
    """Rows that are predicted, once training has ended."""


class Progress(Record):
    """How far training has come; the losses are those of the last whole epoch."""

    epoch: int = 0
    epochs: int = 0
    loss: float | None = None
    val_loss: float | None = None
    """None without validation rows."""
    end: str | None = None
    """Where training ended and which epoch's weights are kept, if these are not the last."""


class Rung(Record):
    """Where a run was compared with others."""

    epoch: int
    val_loss: float | None
    """By which it was compared: of that epoch, or with patience of the best until then; None where
    it was not finite."""


class Attempt(Record):
    """One start of a run."""

    number: int | None = None
    """As in `attempts/`; None in what version 0.1 wrote."""
    host: str
    pid: int
    process: str | None = None
    """Boot, container and start of the process: what tells it from a later one with its pid."""
    place: str | None = None
    """The run folder, as an absolute path; elsewhere, it is a copy."""
    slurm_cluster: str | None = None
    slurm_job_id: str | None = None
    """As in `submission.json`: `123`, or `123_4` for an array element."""
    slurm_restarts: int | None = None
    """How often Slurm had requeued that job."""
    started_at: Time
    ended_at: Time | None = None
    reason: Reason | None = None
    resumed_from: Position | None = None
    reached: Position | None = None
    """Where the last checkpoint that this attempt wrote goes on from."""
    cores: int | None = None
    """Cores that the chief was given."""
    rung: Rung | None = None
    """Where it was compared with other points of its search."""
    peak_rss_mb: float | None = None
    """Largest resident memory of the chief at its last sign of life."""


class Maker(Record):
    """The process that made a run folder: until an attempt begins, nobody else can be asked."""

    host: str
    pid: int
    process: str | None
    """What tells it from a later one with its number."""


class Status(Record):
    """What `status.json` says."""

    state: State = "CREATED"
    reason: Reason | None = None
    error: str | None = None
    progress: Progress = Progress()
    attempts: tuple[Attempt, ...] = ()
    updated_at: Time = Field(default_factory=lambda: datetime.now(UTC))
    made_by: Maker | None = Field(default=None, exclude_if=lambda maker: maker is None)
    """Of a run that no attempt has gone on with."""
    is_settled: bool = Field(default=False, exclude=True)
    """Whether an event has told the end of the wait since the run was last sent; never on disk."""


class SweepPoint(Record):
    """A run of a sweep."""

    number: int
    """Its place, from 1."""
    values: dict[str, Any]
    """What sets it apart from the others, None where it leaves a key out."""
    run: str
    """Its run folder, relative to the root."""


class SweepPlan(Record):
    """How the points of a sweep were to be run."""

    points_per_task: tuple[int, ...]
    """Points of each task: of the command, of the background process, or of an array's element."""
    width: int
    """Processes of a task side by side, each at a point, or at several in one call."""
    beside: int = 1
    """The most points that may train in one call on a GPU; its memory may have room for fewer."""
    cores: tuple[int, ...]
    """Cores that points keep busy, from the fewest to the most."""
    halving: int | None = None
    rungs: tuple[int, ...] = ()
    """Epochs at which the points of a task are compared, and one of `halving` goes on."""


class Sweep(Record):
    """What `sweep.json` says."""

    format_version: int = 1
    sweep_id: str
    name: str
    created_at: Time = Field(default_factory=lambda: datetime.now(UTC))
    points: tuple[SweepPoint, ...]
    plan: SweepPlan | None = None
    """None in what earlier versions wrote."""


class Requested(Record):
    """What one submitted run asked for."""

    cpus_per_task: int | None = None
    memory_gb: float | None = None
    """Of each node; None is the cluster's default."""
    gpus_per_node: int = 0
    time_limit_min: float | None = None
    nodes: int = 1
    tasks: int = 1


class BatchEnd(Record):
    """What the batch script of version 0.1 left at its end, each time; see `Event`."""

    exit_code: int
    """Of srun; 128 and the signal's number where a task was killed."""
    requeue: Literal["none", "asked", "slurm", "refused", "cancelled"]
    """Whether the job goes on: not; on the script's request; by Slurm itself. Refused or cancelled,
    it should have gone on and does not."""
    reason: Reason | None = None
    """Why Slurm ended it, where the task was killed before it could say so."""
    restarts: int = 0
    """How often Slurm had requeued the job."""
    ended_at: Time


class Resumption(Record):
    """What `resume.json` says: how the attempts differ that come after the last `resume`."""

    devices: dict[str, Any] = {}
    """Keys of `[devices]` that the resolved job may not have yet."""


class Submission(Record):
    """What `submission.json` says: where a run was sent, by whom, with what."""

    format_version: int = 1
    executor: Literal["slurm", "local"]
    cluster: str | None = None
    """Slurm's name of the cluster, on which `job_id` is unique."""
    job_id: str
    """Slurm's job, `123`, or array element, `123_4`; locally the process that runs the points."""
    process: str | None = None
    """Locally, what tells that process from a later one with its number."""
    host: str
    """Machine on which it was submitted."""
    user: str
    submitted_at: Time = Field(default_factory=lambda: datetime.now(UTC))
    after_attempt: int | None = None
    """The latest attempt then; None where that was not known, as to earlier versions."""
    command: str
    """What the user typed."""
    sweep_id: str | None = None
    folder: str
    """Batch script and submitit's files, relative to the run folder."""
    place: str | None = None
    """The run folder, as an absolute path; elsewhere, it is a copy."""
    requested: Requested = Requested()
    max_requeues: int = 0


class Cancel(Record):
    """What `cancel.json` says: somebody wants the run to end.

    Its presence is the wish, whatever it holds; whoever resumes the run takes it away.
    """

    requested_at: Time = Field(default_factory=lambda: datetime.now(UTC))
    host: str = ""
    user: str = ""
