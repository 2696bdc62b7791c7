"""Errors a user can act on, each with the exit code of the command that meets it.

A message gives the rule, what was received, and the way out:

    raise DataError(f"{source} has no column {target!r}. It has: {columns}. Set data.target.")
"""

import errno
from enum import IntEnum
from signal import Signals

NO_ROOM = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota is used up"}
"""What the operating system says where nothing more fits on a disk or into a quota, in words."""


class ExitCode(IntEnum):
    """What a dnnjob command ends with."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    DATA = 3
    ENVIRONMENT = 4
    CONTINUE = 75
    INTERRUPTED = 130
    TERMINATED = 143


class DnnJobError(Exception):
    """The run failed for a reason that its message explains."""

    exit_code: ExitCode = ExitCode.FAILED


class DnnJobWarning(UserWarning):
    """What a run, or a look at runs, can live with and a person should know."""


class JobError(DnnJobError):
    """The command line, a job file or a profile is wrong."""

    exit_code = ExitCode.USAGE


class DataError(DnnJobError):
    """The table cannot be used as the job asks."""

    exit_code = ExitCode.DATA


class MissingError(DnnJobError):
    """The machine lacks what the job needs: a GPU, a library, a writable folder."""

    exit_code = ExitCode.ENVIRONMENT


class SlurmError(DnnJobError):
    """Slurm is not there, does not answer, or refuses what is asked of a job."""

    exit_code = ExitCode.ENVIRONMENT


class StoppedError(DnnJobError):
    """A signal asked the run to stop, and it stopped in good order with a checkpoint."""

    def __init__(self, received: Signals) -> None:
        super().__init__(f"Stopped by {received.name}.")
        self.signal = received
        interrupted = received is Signals.SIGINT
        self.exit_code = ExitCode.INTERRUPTED if interrupted else ExitCode.TERMINATED


class PausedError(DnnJobError):
    """Training has come to where the run waits, and stopped there with a checkpoint."""

    exit_code = ExitCode.DONE

    def __init__(self, epoch: int, val_loss: float) -> None:
        super().__init__(f"Waits at epoch {epoch} for the other points of its search.")
        self.epoch, self.val_loss = epoch, val_loss


class NonFiniteError(DnnJobError):
    """A loss or gradient became NaN or infinite; the last finite weights were kept."""


class PeerLostError(DnnJobError):
    """Another task of the run ended, was cut off or fell silent."""


class SupersededError(DnnJobError):
    """A later attempt has taken the run over."""


def first_line(error: Exception) -> str:
    """The first line of what an error says; its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def explain_os_error(error: OSError) -> str:
    """An error of the operating system in the user's words; its exit code is `ENVIRONMENT`."""
    where = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or error
    if error.errno in NO_ROOM:
        return f"Files need room, but {NO_ROOM[error.errno]} ({where}). Make room, and try again."
    return f"A file could not be read or written ({where}). Make it accessible, and try again."
