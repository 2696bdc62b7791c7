"""What a run keeps outside its folder while it works, and finds again where it was killed.

with scratch_folder(data, run_id, attempt=1) as folder:     # for a copy of the table
    ...
with temporary_files(run_id, attempt=1):                    # of libraries that name their own
    model.save(path)
clear_scratch(data, run_id, attempt=1)                      # what killed attempts left
"""

import hashlib
import os
import re
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dnnjob.config.data_section import DataConfig
from dnnjob.errors import JobError
from dnnjob.machine import process_space

# The temporary folder is one for all of a process.
_REDIRECTING = threading.Lock()


@contextmanager
def scratch_folder(data: DataConfig, run_id: str, *, attempt: int) -> Iterator[Path]:
    """A folder for a copy of the table, gone at the end; what killed attempts left goes now.

    The folder may be on storage that tasks on other machines share: each leaves alone what may
    belong to a living one.

    Args:
        data: What the job says.
        run_id: Of the run.
        attempt: Its attempt: none goes on beside a later one.

    Raises:
        JobError: If `data.scratch` cannot be written.
    """
    parent = Path(data.scratch or tempfile.gettempdir())
    try:
        _clear(parent, run_id, attempt=attempt)
        folder = _make_folder(parent, run_id, attempt=attempt)
    except OSError as error:
        raise JobError(
            f"data.scratch must be a folder that can be written, but {parent} cannot "
            f"({error.strerror}). Make it, or set data.scratch to another."
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def temporary_files(run_id: str, *, attempt: int) -> Iterator[None]:
    """Has whatever makes a temporary file meanwhile make it in a folder that bears the run's name.

    Libraries name theirs at random, so that nobody would know whose they are once a run was
    killed. All are gone at the end; what killed attempts left goes now.

    Args:
        run_id: Of the run.
        attempt: Its attempt: none goes on beside a later one.

    Raises:
        OSError: If the temporary folder cannot be written.
    """
    with _REDIRECTING:
        usual = tempfile.tempdir
        parent = Path(tempfile.gettempdir())
        with suppress(OSError):
            _clear(parent, run_id, attempt=attempt)
        folder = _make_folder(parent, run_id, attempt=attempt)
        tempfile.tempdir = str(folder)
        try:
            yield
        finally:
            tempfile.tempdir = usual
            shutil.rmtree(folder, ignore_errors=True)


def clear_scratch(data: DataConfig, run_id: str, *, attempt: int) -> None:
    """Removes what attempts of a run have left that were killed, earlier or here.

    Raises:
        OSError: If a folder that it may be in cannot be listed.
    """
    for parent in {Path(data.scratch or tempfile.gettempdir()), Path(tempfile.gettempdir())}:
        _clear(parent, run_id, attempt=attempt)


def _make_folder(parent: Path, run_id: str, *, attempt: int) -> Path:
    name = f"{_prefix(run_id)}{attempt}-{_space()}-{os.getpid()}-"
    return Path(tempfile.mkdtemp(prefix=name, dir=parent))


def _clear(parent: Path, run_id: str, *, attempt: int) -> None:
    prefix, space = _prefix(run_id), _space()
    for left in parent.glob(f"{prefix}*"):
        if _is_over(left.name.removeprefix(prefix), attempt=attempt, space=space):
            shutil.rmtree(left, ignore_errors=True)


def _prefix(run_id: str) -> str:
    return f"dnnjob-{run_id}-"


def _space() -> str:
    """What tells the processes that can be seen from here from others of the same number."""
    return hashlib.sha256(f"{socket.gethostname()}/{process_space()}".encode()).hexdigest()[:12]


def _is_over(name: str, *, attempt: int, space: str) -> bool:
    """Whether nobody uses a folder: it is of an earlier attempt, or its process here has ended."""
    found = re.fullmatch(r"(\d+)-([0-9a-f]{12})-(\d+)-[^-]*", name)
    if found is None:
        return False
    of_attempt, of_space, pid = found.groups()
    if int(of_attempt) < attempt:
        return True
    return of_space == space and not Path(f"/proc/{pid}").exists()
