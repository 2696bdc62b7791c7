"""How dnnjob talks in Python: warnings for what it warns of, stderr for how the work goes.

with speaking_python(aloud=True) as talk:
    talk.warn("...")
"""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dnnjob.errors import DnnJobError, DnnJobWarning, MissingError, explain_os_error
from dnnjob.python_words import in_python
from dnnjob.runs import Progress
from dnnjob.training.progress import Show, open_progress

_PACKAGE = str(Path(__file__).parent)


@dataclass
class Talk:
    """Tells a person at Python what is said, and shows progress below the cell or on the screen."""

    aloud: bool
    """Whether it is told how the work goes."""
    stack: ExitStack = field(default_factory=ExitStack)
    _show: Show | None = None
    _last: str = ""

    def say(self, message: str) -> None:
        """Prints it to stderr, below the progress that was shown."""
        self.stack.close()
        self._show = None
        # A job that is checked here and begun elsewhere says some things twice.
        if self.aloud and message != self._last:
            print(in_python(message), file=sys.stderr)
        self._last = message

    def warn(self, message: str) -> None:
        """Gives a Python warning, as from where dnnjob was called."""
        warnings.warn(in_python(message), DnnJobWarning, stacklevel=_depth_of_caller())

    def show(self, progress: Progress, steps_per_s: float, seconds_left: float) -> None:
        """Shows it, the first time on a bar of its own."""
        if self._show is None:
            self._show = self.stack.enter_context(open_progress(epochs=progress.epochs))
        self._show(progress, steps_per_s, seconds_left)

    def without_info(self) -> "Talk":
        """One that only warns."""
        return Talk(aloud=False, stack=self.stack)


class _Relay(logging.Handler):
    """Passes on what dnnjob logs in this process."""

    def __init__(self, talk: Talk) -> None:
        super().__init__()
        self._talk = talk

    def emit(self, record: logging.LogRecord) -> None:
        """Passes one record on."""
        if record.levelno >= logging.WARNING:
            self._talk.warn(record.getMessage())
        elif record.levelno >= logging.INFO:
            self._talk.say(record.getMessage())


@contextmanager
def speaking_python(*, aloud: bool = False) -> Iterator[Talk]:
    """Inside, what is logged becomes warnings and talk, and errors speak of Python.

    Args:
        aloud: Whether how the work goes is told, too.

    Raises:
        DnnJobError: As raised inside, in the words of Python.
        MissingError: For an error of the operating system.
    """
    logger, talk = logging.getLogger("dnnjob"), Talk(aloud)
    before = logger.level, logger.propagate, list(logger.handlers)
    logger.propagate, logger.handlers = False, [_Relay(talk)]
    logger.setLevel(logging.INFO if aloud else logging.WARNING)
    try:
        with talk.stack:
            yield talk
    except DnnJobError as error:
        error.args = (in_python(str(error)),)
        raise
    except OSError as error:
        raise MissingError(in_python(explain_os_error(error))) from error
    finally:
        level, logger.propagate, logger.handlers = before
        logger.setLevel(level)


def _depth_of_caller() -> int:
    """How many frames above the caller of this the package is left."""
    frame, depth = sys._getframe(1), 1
    while frame.f_back is not None and _is_own(frame.f_code.co_filename):
        frame, depth = frame.f_back, depth + 1
    return depth


def _is_own(file: str) -> bool:
    # Its context managers pass through contextlib, and logging lies between.
    return (
        file.startswith(_PACKAGE)
        or Path(file).parent.name == "logging"
        or file.endswith("contextlib.py")
    )
