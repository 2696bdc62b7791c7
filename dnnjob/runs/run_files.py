"""Run and sweep folders: made, opened, and their records read and written.

paths = create_run(Path("runs"), job)
status = read_status(paths)
"""

import os
import secrets
import shutil
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dnnjob.config import JobConfig, change_devices, load_job, to_toml
from dnnjob.errors import NO_ROOM, JobError, MissingError
from dnnjob.image import is_lost, mount_hint
from dnnjob.runs.atomic_files import write_text
from dnnjob.runs.events import read_events
from dnnjob.runs.records import (
    Cancel,
    Maker,
    Resumption,
    State,
    Status,
    Submission,
    Sweep,
    read_record,
    write_record,
)
from dnnjob.runs.run_paths import SWEEPS, RunPaths, SweepPaths
from dnnjob.runs.settle import settle


def create_run(
    root: Path, job: JobConfig, *, token: str | None = None, process: str | None = None
) -> RunPaths:
    """Makes a new run folder under `root` with the job and a CREATED status in it.

    Args:
        root: Folder that holds runs.
        job: The job.
        token: The 6 hex digits that end its name, by which others find it; default: random ones.
        process: What tells this process from a later one with its number: until an attempt begins,
            nobody else can be asked about the run.

    Raises:
        MissingError: If the folder cannot be made or written; nothing of it is left.
    """
    paths = RunPaths(_make_folder(root.absolute() / job.name, token))
    try:
        write_text(paths.job, to_toml(job))
        maker = Maker(host=socket.gethostname(), pid=os.getpid(), process=process)
        write_status(paths, Status(made_by=maker if process else None))
    except OSError as error:
        shutil.rmtree(paths.root, ignore_errors=True)
        raise _refuse_root(paths.root, error.strerror) from error
    return paths


def create_sweep(root: Path, name: str) -> SweepPaths:
    """Makes a new, empty sweep folder under `root`.

    Raises:
        MissingError: If it cannot be made.
    """
    return SweepPaths(_make_folder(root.absolute() / name / SWEEPS))


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


def is_copy(paths: RunPaths, place: str | None) -> bool:
    """Whether a run folder is not the one that lay at `place`, which None leaves open."""
    try:
        return place is not None and not paths.root.samefile(place)
    except OSError:
        return True


def read_status(paths: RunPaths) -> Status:
    """The status as last written.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is not a status.
    """
    return Status.model_validate_json(paths.status.read_bytes())


def read_settled(paths: RunPaths) -> Status:
    """The status with what others than the chief have left word of since.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is not a status.
    """
    submission = read_submission(paths)
    return settle(read_status(paths), read_events(paths, submission), submission)


def read_state(paths: RunPaths) -> State | None:
    """The state of a run, settled; None if it cannot be read."""
    try:
        return read_settled(paths).state
    except (OSError, ValueError):
        return None


def write_status(paths: RunPaths, status: Status) -> None:
    """Replaces `status.json`, stamped with the present time; on a full disk too."""
    stamped = status.model_copy(update={"updated_at": datetime.now(UTC)})
    text = stamped.model_dump_json(indent=1) + "\n"
    try:
        write_text(paths.status, text)
    except OSError as error:
        if error.errno not in NO_ROOM or not paths.status.exists():
            raise
        _overwrite(paths.status, text)


def _overwrite(path: Path, text: str) -> None:
    """Writes over a file within the room it has, which a full disk does not refuse."""
    with path.open("r+b", buffering=0) as file:
        # Blanks instead of a shorter file: one writing shows readers the old or the new.
        file.write(text.encode().ljust(path.stat().st_size))


def read_submission(paths: RunPaths) -> Submission | None:
    """Where a run was sent; None if it was not, or the file is damaged."""
    return read_record(paths.submission, Submission)


def read_cancel(paths: RunPaths) -> Cancel | None:
    """The wish that the run end, if there is one."""
    try:
        return Cancel.model_validate_json(paths.cancel.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return Cancel(requested_at=datetime.fromtimestamp(0, UTC))


def read_resumption(paths: RunPaths) -> Resumption:
    """What the last `resume` asked for; nothing where it left no word."""
    return read_record(paths.resumption, Resumption) or Resumption()


def write_resumption(paths: RunPaths, devices: Mapping[str, Any]) -> None:
    """Leaves what the attempts from here on change of the job, in place of what was asked before.

    Args:
        paths: The run.
        devices: Values for keys of `[devices]`.
    """
    if devices:
        write_record(paths.resumption, Resumption(devices=dict(devices)))
    else:
        paths.resumption.unlink(missing_ok=True)


def load_run_job(paths: RunPaths) -> JobConfig:
    """The job of a run's next attempt: the resolved one, with what the last `resume` asked for.

    Raises:
        JobError: If it cannot be read.
    """
    return change_devices(load_job(paths.job), read_resumption(paths).devices)


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


def clear_leftovers(paths: RunPaths) -> None:
    """Removes what attempts that were killed left half written."""
    secrets = paths.attempts.glob(f"*/{paths.secret(0).name}")
    for path in (*paths.root.rglob(".*.tmp"), *secrets):
        path.unlink(missing_ok=True)
