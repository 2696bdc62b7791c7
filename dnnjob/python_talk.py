"""How dnnjob talks in Python: warnings for what it warns of, stderr for how the work goes.

with speaking_python(aloud=True) as talk:
    talk.warn("...")
in_python("Set --root to a folder; `dnnjob resume runs/a/1` goes on.")
    == "Set `root` to a folder; `dnnjob.open_run('runs/a/1').resume()` goes on."
"""

import logging
import re
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dnnjob.errors import DnnJobError, DnnJobWarning, MissingError, explain_os_error
from dnnjob.runs import Progress, Show
from dnnjob.training.progress import open_progress

_PACKAGE = str(Path(__file__).parent)
# Of options that a function takes under the same name.
_OPTIONS = ("root", "where", "by", "sort", "metric", "profile", "keep", "task", "out")
_SWITCHES = ("force", "here")
_OF_A_RUN = ("status", "logs", "cancel", "wait", "resume", "predict", "export")
_FUNCTIONS = ("run", "submit", "collect", "compare", "best")
_COMMAND = re.compile(r"`dnnjob (?P<verb>[a-z]+)(?P<rest>(?: [^`]*)?)`")
_OPTION = re.compile(rf"(?<![^\s(])--(?P<name>{'|'.join((*_OPTIONS, *_SWITCHES))})\b")
_MARK = re.compile(r"(`[^`]*`)")


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


def in_python(message: str) -> str:
    """The message with functions for commands, and arguments for options."""
    told = _COMMAND.sub(_say_call, message)
    told = re.sub(r"(`dnnjob\.\w+`) printed", r"\1 made", told)
    parts = _MARK.split(told)
    # What stands in backticks is code already, and stays.
    parts[::2] = [_OPTION.sub(_say_argument, part) for part in parts[::2]]
    return "".join(parts).replace("the command line", "the call")


def _say_call(match: re.Match[str]) -> str:
    verb, words = match["verb"], shlex.split(match["rest"])
    if verb in _OF_A_RUN:
        if not words:
            return f"`{verb}` of a run"
        opened = "open_sweep" if "/sweeps/" in words[0] or words[0] == "SWEEP" else "open_run"
        return f"`dnnjob.{opened}({_quote(words[:1])}).{verb}({_quote(words[1:])})`"
    if verb in _FUNCTIONS:
        return f"`dnnjob.{verb}({_quote(words)})`" if words else f"`dnnjob.{verb}`"
    return f"`dnnjob {verb}{match['rest']}` in a shell"


def _quote(words: Sequence[str]) -> str:
    """Words of a command line as arguments; a name in capitals stands for a value."""
    arguments, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        name = word.removeprefix("--").replace("-", "_")
        if not word.startswith("--"):
            arguments.append(word if word.isupper() else repr(word))
        elif name in _SWITCHES:
            arguments.append(f"{name}=True")
        else:
            arguments.append(f"{name}={rest.pop(0)!r}" if rest else f"{name}=...")
    return ", ".join(arguments)


def _say_argument(match: re.Match[str]) -> str:
    name = match["name"]
    return f"`{name}=True`" if name in _SWITCHES else f"`{name}`"
