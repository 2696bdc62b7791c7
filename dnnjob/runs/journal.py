"""The chief's writer of `status.json`, which nobody else writes.

journal = Journal(paths)             # claims an attempt
journal.finish("COMPLETED")
own_job_id(os.environ), count_restarts(os.environ)    # what Slurm calls this process
"""

import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import copy_context
from datetime import UTC, datetime
from typing import Any, Protocol

from dnnjob.errors import JobError, SupersededError
from dnnjob.runs.records import Attempt, Position, Progress, Reason, Rung, State, Status
from dnnjob.runs.run_files import read_settled, read_status, write_status
from dnnjob.runs.run_paths import RunPaths
from dnnjob.runs.settle import attempt_number

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_SIGNS = 10.0


class Show(Protocol):
    """Shows how far training has come."""

    def __call__(self, progress: Progress, steps_per_s: float, seconds_left: float, /) -> None:
        """Shows it, or leaves it for later where that would be too often."""


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
        show: Show = lambda *_: None,
    ) -> None:
        """Claims the next attempt of the run and marks it RUNNING.

        Args:
            paths: The run.
            after: As in `claim_attempt`.
            process: What tells this process from a later one with its pid.
            lost: Why the attempt before ended, if it left no word.
            show: Told what `show_progress` is.

        Raises:
            JobError: If there is a later attempt than `after`.
        """
        self.paths, self._show = paths, show
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

        # What it says is said by this run.
        thread = threading.Thread(target=copy_context().run, args=(live,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            # What it finds late would be taken for a wish to stop the run that comes next.
            thread.join(SECONDS_BETWEEN_SIGNS)

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

    def show_progress(self, progress: Progress, steps_per_s: float, seconds_left: float) -> None:
        """Notes how far training has come; on disk at most every ten seconds."""
        self._show(progress, steps_per_s, seconds_left)
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

    def mark_rung(self, epoch: int, val_loss: float) -> None:
        """Notes by what this attempt is compared with others at a rung; on disk with its end."""
        # JSON has no sign for what is not finite.
        loss = val_loss if math.isfinite(val_loss) else None
        with self._lock:
            self._change_attempt(rung=Rung(epoch=epoch, val_loss=loss))

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
            before = read_settled(self.paths)
        except (OSError, ValueError):
            before = Status()
        attempts = before.attempts
        if attempts and attempts[-1].ended_at is None:
            # Killed without a word: its last sign of life is what is known of its end.
            ended = {"ended_at": before.updated_at, "reason": lost}
            attempts = (*attempts[:-1], attempts[-1].model_copy(update=ended))
        attempt = Attempt(
            number=self.number,
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
        self._show = lambda *_: None
        self.status = read_status(paths)
        self._written_at = 0.0
        self._lock = threading.RLock()

    def recheck(self) -> None:
        """Leaves it to the chief."""

    def _write(self) -> None:
        pass


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


def attempt_before(paths: RunPaths) -> int | None:
    """The latest attempt, for what sends a run again; None where the folders do not tell.

    They are empty, and some storage keeps none such: then an attempt gets an earlier one's number.
    """
    latest = latest_attempt(paths)
    try:
        return latest if attempt_number(read_status(paths)) <= latest else None
    except (OSError, ValueError):
        return latest
