"""The run folder: every file name once, atomic writes, attempts, status.

paths = create_run(Path("runs"), job)
journal = Journal(paths)             # claims an attempt
journal.finish("COMPLETED")
"""

import errno
import json
import os
import re
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field

from dnnjob.config import JobConfig, to_toml
from dnnjob.errors import JobError, MissingError, SupersededError
from dnnjob.image import is_lost, mount_hint

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


class Record(BaseModel):
    """A JSON record; unknown keys of later versions are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Position(Record):
    """A place in the order of training: the next batch to train is `batch` of `window`."""

    epoch: int = 0
    window: int = 0
    batch: int = 0


class Progress(Record):
    """How far training has come; `loss` is that of the last whole epoch."""

    epoch: int = 0
    epochs: int = 0
    loss: float | None = None


class Attempt(Record):
    """One start of a run."""

    host: str
    pid: int
    process: str | None = None
    """Boot, container and start of the process: what tells it from a later one with its pid."""
    slurm_cluster: str | None = None
    slurm_job_id: str | None = None
    started_at: datetime
    ended_at: datetime | None = None
    reason: Reason | None = None
    resumed_from: Position | None = None


class Status(Record):
    """What `status.json` says."""

    state: State = "CREATED"
    reason: Reason | None = None
    error: str | None = None
    progress: Progress = Progress()
    attempts: tuple[Attempt, ...] = ()
    updated_at: datetime = Field(default_factory=lambda: datetime.now(UTC))


def create_run(root: Path, job: JobConfig, *, token: str | None = None) -> RunPaths:
    """Makes a new run folder under `root` with the job and a CREATED status in it.

    Args:
        root: Folder that holds runs.
        job: The job.
        token: The 6 hex digits that end its name, by which others find it; default: random ones.

    Raises:
        MissingError: If the folder cannot be made or written; nothing of it is left.
    """
    paths = _make_folder(root.absolute() / job.name, token)
    try:
        write_text(paths.job, to_toml(job))
        write_status(paths, Status())
    except OSError as error:
        shutil.rmtree(paths.root, ignore_errors=True)
        raise _refuse_root(paths.root, error.strerror) from error
    return paths


def _make_folder(parent: Path, token: str | None) -> RunPaths:
    if is_lost(parent):
        raise _refuse_root(parent, "it is in the image, and would be gone with the container")
    while True:
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        paths = RunPaths(parent / f"{stamp}-{token or secrets.token_hex(3)}")
        try:
            parent.mkdir(parents=True, exist_ok=True)
            paths.root.mkdir()
        except FileExistsError as error:
            if paths.root.is_dir():
                continue
            raise _refuse_root(parent, error.strerror) from error
        except OSError as error:
            raise _refuse_root(parent, error.strerror) from error
        return paths


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
        self, paths: RunPaths, *, after: int | None = None, process: str | None = None
    ) -> None:
        """Claims the next attempt of the run and marks it RUNNING.

        Args:
            paths: The run.
            after: As in `claim_attempt`.
            process: What tells this process from a later one with its pid.

        Raises:
            JobError: If there is a later attempt than `after`.
        """
        self.paths = paths
        self.number = claim_attempt(paths, after=after)
        self.status = self._continue_status(process)
        self._written_at = 0.0
        self._lock = threading.RLock()
        self._write()

    @contextmanager
    def living(self) -> Iterator[None]:
        """Writes a sign of life every ten seconds inside, whatever this thread does."""
        over = threading.Event()

        def live() -> None:
            while not over.wait(SECONDS_BETWEEN_SIGNS):
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
                self._write()

    def mark_resumed(self, position: Position) -> None:
        """Notes where this attempt goes on from."""
        with self._lock:
            self._change_attempt(resumed_from=position)
            self._write()

    def finish(
        self, state: State, *, reason: Reason | None = None, error: str | None = None
    ) -> None:
        """Ends the attempt and leaves the run in `state`."""
        update = {"state": state, "reason": reason, "error": error}
        with self._lock:
            self._change_attempt(ended_at=datetime.now(UTC), reason=reason)
            self.status = self.status.model_copy(update=update)
            self._write()

    def _continue_status(self, process: str | None) -> Status:
        try:
            before = read_status(self.paths)
        except (OSError, ValueError):
            before = Status()
        attempts = before.attempts
        if attempts and attempts[-1].ended_at is None:
            # Killed without a word: its last sign of life is what is known of its end.
            lost = {"ended_at": before.updated_at, "reason": "vanished"}
            attempts = (*attempts[:-1], attempts[-1].model_copy(update=lost))
        attempt = Attempt(
            host=socket.gethostname(),
            pid=os.getpid(),
            process=process,
            slurm_cluster=os.environ.get("SLURM_CLUSTER_NAME"),
            slurm_job_id=os.environ.get("SLURM_JOB_ID"),
            started_at=datetime.now(UTC),
        )
        return Status(state="RUNNING", progress=before.progress, attempts=(*attempts, attempt))

    def _change_attempt(self, **update: Any) -> None:
        *earlier, last = self.status.attempts
        attempts = (*earlier, last.model_copy(update=update))
        self.status = self.status.model_copy(update={"attempts": attempts})

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


def close_for_chief(paths: RunPaths, attempt: int, *, reason: Reason, error: str) -> None:
    """Leaves a run FAILED whose chief has ended without a word, unless another attempt has begun.

    Several tasks may do so at once, in the same words.
    """
    status = read_status(paths)
    if status.state != "RUNNING" or latest_attempt(paths) != attempt:
        return
    *earlier, last = status.attempts
    ended = last.model_copy(update={"ended_at": datetime.now(UTC), "reason": reason})
    update = {"state": "FAILED", "reason": reason, "error": error}
    write_status(paths, status.model_copy(update={**update, "attempts": (*earlier, ended)}))
