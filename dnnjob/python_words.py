"""Messages that speak of the command line, in the words of Python.

in_python("Set --root to a folder; `dnnjob resume runs/a/1` goes on.")
    == "Set `root` to a folder; `dnnjob.open_run('runs/a/1').resume()` goes on."
"""

import re
import shlex
from collections.abc import Sequence

# Of options that a function takes under the same name.
_OPTIONS = ("root", "where", "by", "sort", "metric", "profile", "keep", "task", "out")
_SWITCHES = ("force", "here")
_OF_A_RUN = ("status", "logs", "cancel", "wait", "resume", "predict", "export")
_FUNCTIONS = ("run", "submit", "collect", "compare", "best")

_COMMAND = re.compile(r"`dnnjob (?P<verb>[a-z]+)(?P<rest>(?: [^`]*)?)`")
_OPTION = re.compile(rf"(?<![^\s(])--(?P<name>{'|'.join((*_OPTIONS, *_SWITCHES))})\b")
_MARK = re.compile(r"(`[^`]*`)")


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
