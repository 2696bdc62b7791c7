"""The run folder: every file name once, atomic writes, attempts, status.

paths = create_run(Path("runs"), job)
journal = Journal(paths)             # claims an attempt
journal.finish("COMPLETED")
"""

import errno
import json
import logging
import os
import re
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field

from dnnjob.config import JobConfig, to_toml
from dnnjob.errors import JobError, MissingError, SupersededError
from dnnjob.image import is_lost, mount_hint

logger = logging.getLogger(__name__)

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
SECONDS_BETWEEN_SIGNS = 10.0
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
RUN_ID = re.compile(r"^\d{8}-\d{6}-[0-9a-f]{6}$")


def statistics_folder(root: Path) -> Path:
    """Where a root keeps what passes over large tables found, out of the way of its runs."""
    return root / ".dnnjob" / "statistics"


@dataclass(frozen=True)
class RunPaths:
    """The files of one run folder, `ROOT/<name>/<run id>/`."""

    root: Path

    @property
    def run_id(self) -> str:
        """The folder's own name, `YYYYMMDD-HHMMSS-<6 hex>`."""
        return self.root.name

    @property
    def job(self) -> Path:
        """The resolved job."""
        return self.root / "job.toml"

    @property
    def profile(self) -> Path:
        """The resolved profile, where the run was submitted."""
        return self.root / "profile.toml"

    @property
    def status(self) -> Path:
        """State, progress and attempts."""
        return self.root / "status.json"

    @property
    def submission(self) -> Path:
        """What `submit` left: executor, job id, command."""
        return self.root / "submission.json"

    @property
    def cancel(self) -> Path:
        """The wish to stop, written by `cancel` alone."""
        return self.root / "cancel.json"

    @property
    def history(self) -> Path:
        """One row an epoch."""
        return self.root / "history.parquet"

    @property
    def predictions(self) -> Path:
        """One row a source row."""
        return self.root / "predictions.parquet"

    @property
    def report(self) -> Path:
        """The report for programs, written last."""
        return self.root / "report.json"

    @property
    def page(self) -> Path:
        """The report for people."""
        return self.root / "report.html"

    @property
    def plots(self) -> Path:
        """Folder of the plots."""
        return self.root / "plots"

    @property
    def model(self) -> Path:
        """The exported model."""
        return self.root / "model" / "model.keras"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints; gone once complete."""
        return self.root / "checkpoints"

    @property
    def predicted(self) -> Path:
        """Predictions on their way, among the checkpoints."""
        return self.checkpoints / "predicted.part"

    @property
    def attempts(self) -> Path:
        """Folder with one folder an attempt."""
        return self.root / "attempts"

    @property
    def logs(self) -> Path:
        """Folder of the logs of all tasks and attempts."""
        return self.root / "logs"

    def log(self, *, attempt: int, rank: int) -> Path:
        """What one task said in one attempt."""
        return self.logs / f"attempt-{attempt}-task-{rank}.log"

    @property
    def statistics(self) -> Path:
        """What passes over large tables found, for all runs of the root."""
        return statistics_folder(self.root.parents[1])

    @property
    def submission_folder(self) -> Path:
        """Batch script and submitit's files of a run that was submitted alone."""
        return self.root / "submission"


@dataclass(frozen=True)
class SweepPaths:
    """The files of one sweep, `ROOT/<name>/sweeps/<sweep id>/`."""

    root: Path

    @property
    def sweep_id(self) -> str:
        """The folder's own name, like that of a run."""
        return self.root.name

    @property
    def sweep(self) -> Path:
        """Its points and their run folders."""
        return self.root / "sweep.json"

    @property
    def profile(self) -> Path:
        """The resolved profile, where it was submitted."""
        return self.root / "profile.toml"

    @property
    def submission_folder(self) -> Path:
        """Batch script and submitit's files of all its points."""
        return self.root / "submission"

    def run(self, point: "SweepPoint") -> RunPaths:
        """The run folder of a point, also under a root that was moved."""
        return RunPaths(self.root.parents[2] / point.run)


class Record(BaseModel):
    """A JSON record; unknown keys of later versions are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


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


class Attempt(Record):
    """One start of a run."""

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
    started_at: datetime
    ended_at: datetime | None = None
    reason: Reason | None = None
    resumed_from: Position | None = None
    reached: Position | None = None
    """Where the last checkpoint that this attempt wrote goes on from."""
    cores: int | None = None
    """Cores that the chief was given."""
    peak_rss_mb: float | None = None
    """Largest resident memory of the chief at its last sign of life."""


class Status(Record):
    """What `status.json` says."""

    state: State = "CREATED"
    reason: Reason | None = None
    error: str | None = None
    progress: Progress = Progress()
    attempts: tuple[Attempt, ...] = ()
    updated_at: datetime = Field(default_factory=lambda: datetime.now(UTC))


class SweepPoint(Record):
    """A run of a sweep."""

    number: int
    """Its place, from 1."""
    values: dict[str, Any]
    """What sets it apart from the others."""
    run: str
    """Its run folder, relative to the root."""


class Sweep(Record):
    """What `sweep.json` says."""

    format_version: int = 1
    sweep_id: str
    name: str
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    points: tuple[SweepPoint, ...]


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
    """What the batch script of a Slurm job or array element leaves at its end, each time."""

    exit_code: int
    """Of srun; 128 and the signal's number where a task was killed."""
    requeue: Literal["none", "asked", "slurm", "refused", "cancelled"]
    """Whether the job goes on: not; on the script's request; by Slurm itself. Refused or cancelled,
    it should have gone on and does not."""
    reason: Reason | None = None
    """Why Slurm ended it, where the task was killed before it could say so."""
    restarts: int = 0
    """How often Slurm had requeued the job."""
    ended_at: datetime


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
    submitted_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
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

    requested_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    host: str = ""
    user: str = ""


def batch_end_file(folder: Path, job_id: str) -> Path:
    """Where the batch script of a job or array element leaves word of its end."""
    return folder / f"{job_id}_ended.json"


def read_batch_end(paths: RunPaths, submission: Submission) -> BatchEnd | None:
    """What the batch script of a run last said of its end; None while it has not."""
    try:
        content = batch_end_file(paths.root / submission.folder, submission.job_id).read_bytes()
        return BatchEnd.model_validate_json(content)
    except (OSError, ValueError):
        return None


def is_copy(paths: RunPaths, place: str | None) -> bool:
    """Whether a run folder is not the one that lay at `place`, which None leaves open."""
    try:
        return place is not None and not paths.root.samefile(place)
    except OSError:
        return True


def read_submission(paths: RunPaths) -> Submission | None:
    """Where a run was sent; None if it was not, or the file is damaged."""
    try:
        return Submission.model_validate_json(paths.submission.read_bytes())
    except (OSError, ValueError):
        return None


def write_submission(paths: RunPaths, submission: Submission) -> None:
    """Replaces `submission.json`."""
    write_text(paths.submission, submission.model_dump_json(indent=1) + "\n")


def read_cancel(paths: RunPaths) -> Cancel | None:
    """The wish that the run end, if there is one."""
    try:
        return Cancel.model_validate_json(paths.cancel.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return Cancel(requested_at=datetime.fromtimestamp(0, UTC))


def write_cancel(paths: RunPaths, cancel: Cancel) -> None:
    """Leaves the wish that the run end."""
    write_text(paths.cancel, cancel.model_dump_json(indent=1) + "\n")


def read_sweep(paths: SweepPaths) -> Sweep:
    """The points of a sweep.

    Raises:
        JobError: If there is no sweep at that place.
    """
    try:
        return Sweep.model_validate_json(paths.sweep.read_bytes())
    except (OSError, ValueError) as error:
        raise JobError(
            f"A sweep's folder holds a sweep.json, but {paths.root} has none that can be read. "
            "Give the folder that `dnnjob submit` printed, ROOT/<name>/sweeps/<sweep id>."
        ) from error


def write_sweep(paths: SweepPaths, sweep: Sweep) -> None:
    """Replaces `sweep.json`."""
    write_text(paths.sweep, sweep.model_dump_json(indent=1) + "\n")


def create_run(root: Path, job: JobConfig, *, token: str | None = None) -> RunPaths:
    """Makes a new run folder under `root` with the job and a CREATED status in it.

    Args:
        root: Folder that holds runs.
        job: The job.
        token: The 6 hex digits that end its name, by which others find it; default: random ones.

    Raises:
        MissingError: If the folder cannot be made or written; nothing of it is left.
    """
    paths = RunPaths(_make_folder(root.absolute() / job.name, token))
    try:
        write_text(paths.job, to_toml(job))
        write_status(paths, Status())
    except OSError as error:
        shutil.rmtree(paths.root, ignore_errors=True)
        raise _refuse_root(paths.root, error.strerror) from error
    return paths


def create_sweep(root: Path, name: str) -> SweepPaths:
    """Makes a new, empty sweep folder under `root`.

    Raises:
        MissingError: If it cannot be made.
    """
    return SweepPaths(_make_folder(root.absolute() / name / "sweeps"))


def _make_folder(parent: Path, token: str | None = None) -> Path:
    if is_lost(parent):
        raise _refuse_root(parent, "it is in the container alone, and would be gone with it")
    while True:
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        folder = parent / f"{stamp}-{token or secrets.token_hex(3)}"
        try:
            parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
        except FileExistsError as error:
            if folder.is_dir():
                continue
            raise _refuse_root(parent, error.strerror) from error
        except OSError as error:
            raise _refuse_root(parent, error.strerror) from error
        return folder


def _refuse_root(folder: Path, why: str | None) -> MissingError:
    return MissingError(
        f"A run needs a folder it can write, but {folder} cannot be made or written "
        f"({why}). Set --root to a folder you can write, with room on its disk."
        f"{mount_hint(folder, to='write')}"
    )


def open_run(path: Path) -> RunPaths:
    """The run folder at `path`.

    Raises:
        JobError: If there is none.
    """
    paths = RunPaths(path.absolute())
    # A job file may be called job.toml anywhere.
    if not (paths.job.is_file() and paths.status.is_file()):
        raise JobError(
            f"A run folder holds a job.toml and a status.json, but {path} does not. "
            "Give the folder that `dnnjob run` printed, ROOT/<name>/<run id>."
            f"{mount_hint(path, to='read')}"
        )
    return paths


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


def read_status(paths: RunPaths) -> Status:
    """The status as last written.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is not a status.
    """
    return Status.model_validate_json(paths.status.read_bytes())


def write_status(paths: RunPaths, status: Status) -> None:
    """Replaces `status.json`, stamped with the present time; on a full disk too."""
    stamped = status.model_copy(update={"updated_at": datetime.now(UTC)})
    text = stamped.model_dump_json(indent=1) + "\n"
    try:
        write_text(paths.status, text)
    except OSError as error:
        if error.errno not in DISK_FULL or not paths.status.exists():
            raise
        _overwrite(paths.status, text)


def _overwrite(path: Path, text: str) -> None:
    """Writes over a file within the room it has, which a full disk does not refuse."""
    with path.open("r+b", buffering=0) as file:
        # Blanks instead of a shorter file: one writing shows readers the old or the new.
        file.write(text.encode().ljust(path.stat().st_size))


def write_text(path: Path, text: str) -> None:
    """Replaces `path` by `text` in one step, as UTF-8."""
    write_file(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: Any) -> None:
    """Replaces `path` by `value` as JSON in one step; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def write_file(path: Path, fill: Callable[[BinaryIO], Any]) -> None:
    """Replaces `path` in one step by what `fill` writes, or leaves it as it was.

    The new content is written beside its place, flushed to the disk and renamed; its permissions
    follow the umask, as shared storage needs.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(3)}.tmp")
    try:
        with beside.open("xb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def clear_folder(folder: Path) -> None:
    """Removes a folder of plain files; nothing happens where there is none."""
    if folder.is_dir():
        for path in folder.iterdir():
            path.unlink(missing_ok=True)
        folder.rmdir()


def clear_leftovers(paths: RunPaths) -> None:
    """Removes what attempts that were killed left half written."""
    for path in paths.root.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


class Journal:
    """The chief's writer of `status.json`, from the claim of an attempt to its end.

    Several threads may use it.

    Every write is rechecked against the highest attempt claimed: one that finds itself superseded
    raises, and so stops writing.
    """

    def __init__(
        self,
        paths: RunPaths,
        *,
        after: int | None = None,
        process: str | None = None,
        lost: Reason = "vanished",
    ) -> None:
        """Claims the next attempt of the run and marks it RUNNING.

        Args:
            paths: The run.
            after: As in `claim_attempt`.
            process: What tells this process from a later one with its pid.
            lost: Why the attempt before ended, if it left no word.

        Raises:
            JobError: If there is a later attempt than `after`.
        """
        self.paths = paths
        self.number = claim_attempt(paths, after=after)
        self.status = self._continue_status(process, lost)
        self._written_at = 0.0
        self._lock = threading.RLock()
        self._write()

    @contextmanager
    def living(self, look: Callable[[], object] = lambda: None) -> Iterator[None]:
        """Writes a sign of life, and looks around, every ten seconds inside."""
        over = threading.Event()

        def live() -> None:
            while not over.wait(SECONDS_BETWEEN_SIGNS):
                look()
                # What goes wrong meets the main thread in its next writing.
                with suppress(OSError, SupersededError), self._lock:
                    if not over.is_set():
                        self._write()

        threading.Thread(target=live, daemon=True).start()
        try:
            yield
        finally:
            over.set()

    def recheck(self) -> None:
        """Makes sure that this is still the run's newest attempt.

        Raises:
            SupersededError: If a later one has been claimed.
        """
        if (latest := latest_attempt(self.paths)) != self.number:
            raise SupersededError(
                f"Only the newest attempt of a run writes: this is attempt {self.number} of "
                f"{self.paths.root}, and attempt {latest} has begun. This one ends here."
            )

    def show_progress(self, progress: Progress, *_: float) -> None:
        """Notes how far training has come; on disk at most every ten seconds."""
        with self._lock:
            self.status = self.status.model_copy(update={"progress": progress})
            if time.monotonic() - self._written_at >= SECONDS_BETWEEN_SIGNS:
                self._try_to_write()

    def mark_resumed(self, position: Position) -> None:
        """Notes where this attempt goes on from."""
        with self._lock:
            self._change_attempt(resumed_from=position)
            self._try_to_write()

    def mark_reached(self, position: Position) -> None:
        """Notes where the newest checkpoint goes on from; on disk with the next sign of life."""
        with self._lock:
            self._change_attempt(reached=position)

    @property
    def cores_before(self) -> int | None:
        """Cores that the chief was given in the newest earlier attempt that knew."""
        earlier = reversed(self.status.attempts[:-1])
        return next((attempt.cores for attempt in earlier if attempt.cores is not None), None)

    def mark_cores(self, cores: int) -> None:
        """Notes what this attempt was given; on disk with the next sign of life."""
        with self._lock:
            self._change_attempt(cores=cores)

    def mark_memory(self, peak_rss_mb: float) -> None:
        """Notes the largest memory so far; on disk with the next sign of life."""
        with self._lock:
            self._change_attempt(peak_rss_mb=round(peak_rss_mb, 1))

    def finish(
        self, state: State, *, reason: Reason | None = None, error: str | None = None
    ) -> None:
        """Ends the attempt and leaves the run in `state`."""
        update = {"state": state, "reason": reason, "error": error}
        with self._lock:
            self._change_attempt(ended_at=datetime.now(UTC), reason=reason)
            self.status = self.status.model_copy(update=update)
            self._write()

    def _continue_status(self, process: str | None, lost: Reason) -> Status:
        try:
            before = read_status(self.paths)
        except (OSError, ValueError):
            before = Status()
        attempts = before.attempts
        if attempts and attempts[-1].ended_at is None:
            # Killed without a word: its last sign of life is what is known of its end.
            ended = {"ended_at": before.updated_at, "reason": lost}
            attempts = (*attempts[:-1], attempts[-1].model_copy(update=ended))
        attempt = Attempt(
            host=socket.gethostname(),
            pid=os.getpid(),
            process=process,
            place=str(self.paths.root),
            slurm_cluster=os.environ.get("SLURM_CLUSTER_NAME"),
            slurm_job_id=own_job_id(os.environ),
            slurm_restarts=count_restarts(os.environ),
            started_at=datetime.now(UTC),
        )
        return Status(state="RUNNING", progress=before.progress, attempts=(*attempts, attempt))

    def _change_attempt(self, **update: Any) -> None:
        *earlier, last = self.status.attempts
        attempts = (*earlier, last.model_copy(update=update))
        self.status = self.status.model_copy(update={"attempts": attempts})

    def _try_to_write(self) -> None:
        """Writes a sign of life; storage that refuses it for once ends no training."""
        try:
            self._write()
        except OSError as error:
            logger.warning("The run's status could not be written, it goes on: %s.", error)
            self._written_at = time.monotonic()

    def _write(self) -> None:
        self.recheck()
        write_status(self.paths, self.status)
        self._written_at = time.monotonic()


class FollowerJournal(Journal):
    """What another task than the chief has in the journal's place: it writes nothing."""

    def __init__(self, paths: RunPaths, number: int) -> None:
        self.paths, self.number = paths, number
        self.status = read_status(paths)
        self._written_at = 0.0
        self._lock = threading.RLock()

    def recheck(self) -> None:
        """Leaves it to the chief."""

    def _write(self) -> None:
        pass


def close_for_chief(
    paths: RunPaths, attempt: int, *, state: State = "FAILED", reason: Reason, error: str
) -> None:
    """Ends a run whose chief has ended without a word, unless another attempt has begun.

    Several tasks may do so at once, in the same words.
    """
    status = read_status(paths)
    if status.state not in ("CREATED", "RUNNING") or latest_attempt(paths) != attempt:
        return
    ended = {"ended_at": datetime.now(UTC), "reason": reason}
    # None yet, where a task was lost before the chief began one.
    attempts = (
        *status.attempts[:-1],
        *(one.model_copy(update=ended) for one in status.attempts[-1:]),
    )
    update = {"state": state, "reason": reason, "error": error, "attempts": attempts}
    write_status(paths, status.model_copy(update=update))
