"""What starts runs, done by a process of its own: both sides.

A notebook's has threads, devices and perhaps a TensorFlow, which a run sets before it begins.

ended = do_apart("run", command=["run", "job.toml"], listener=listener, job="job.toml", root="runs")
"""

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from dnnjob import errors
from dnnjob.errors import DnnJobError, ExitCode, explain_os_error
from dnnjob.launch.own_process import die_with
from dnnjob.python_talk import Talk
from dnnjob.runs import Progress
from dnnjob.streams import guarded_streams, leave
from dnnjob.training.progress import PROGRESS

_LAST_WORDS = 2000


@dataclass
class Ended:
    """What came of the process."""

    code: ExitCode | None = None
    """None where it ended without a word."""
    folders: list[Path] = field(default_factory=list)
    """What it printed: run folders, or a sweep's."""
    error: str = ""
    """What it said last of what went wrong."""
    kind: str = ""
    """The class of the error that ended it; none where a run failed, which is logged."""

    def take(self, line: str, listener: Talk | None) -> None:
        """Takes a line of its stdout in: a record of what it says, or a folder."""
        if not line.startswith("{"):
            self.folders += [Path(line.rstrip("\n"))] if line.startswith("/") else []
            return
        match json.loads(line):
            case {"ended": int(code), "kind": str(kind), "error": str(error)}:
                self.code, self.kind = ExitCode(code), kind
                self.error = error or self.error
            case {"progress": [progress, *pace]} if listener:
                listener.show(Progress.model_validate(progress), *pace)
            case {"level": "ERROR" | "CRITICAL", "message": message}:
                self.error = message
            case {"level": "WARNING", "message": message} if listener:
                listener.warn(message)
            case {"level": "INFO", "message": message} if listener:
                listener.say(message)

    def make_error(self) -> DnnJobError:
        """The error that ended it."""
        kind = self.kind or {
            ExitCode.USAGE: "JobError",
            ExitCode.DATA: "DataError",
            ExitCode.ENVIRONMENT: "MissingError",
        }.get(self.code or ExitCode.FAILED, "DnnJobError")
        # A StoppedError is made from its signal.
        of_message = kind not in ("StoppedError", "")
        error = getattr(errors, kind)(self.error) if of_message else DnnJobError(self.error)
        error.exit_code = self.code or ExitCode.FAILED
        return error


def do_apart(verb: str, *, command: Sequence[str], listener: Talk, **arguments: Any) -> Ended:
    """Does a verb in a process of its own, and waits for its end.

    An interrupt of this process, as any other exception, stops it as Ctrl-C does, with a
    checkpoint; a second one kills it. It ends by itself, with a checkpoint, if this process does.

    Args:
        verb: `run`, `submit`, `resume`, `predict` or `export`.
        command: The equivalent words of a command line, which the run's report names.
        listener: Hears what is said meanwhile.
        arguments: Of the verb, as JSON takes them.

    Raises:
        DnnJobError: If the process ends without a word.
        KeyboardInterrupt: If this process was interrupted, once the other has ended.
    """
    request = {"verb": verb, "command": list(command), "parent": os.getpid(), **arguments}
    with tempfile.TemporaryFile() as stderr:
        # A group of its own, since Jupyter interrupts the kernel's whole group.
        process = subprocess.Popen(
            [sys.executable, "-m", "dnnjob.launch.apart", json.dumps(request)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            errors="replace",
            process_group=0,
        )
        ended = Ended()
        with process:
            _hear(process, ended, listener)
        if ended.code is None:
            raise DnnJobError(_describe_silence(process.returncode, stderr, ended))
    return ended


def _hear(process: "subprocess.Popen[str]", ended: Ended, listener: Talk) -> None:
    """Listens until the process has ended."""
    lines = process.stdout or ()
    try:
        for line in lines:
            ended.take(line, listener)
    except BaseException as error:
        process.send_signal(signal.SIGINT)
        try:
            for line in lines:
                ended.take(line, None)
            process.wait()
        except BaseException:
            process.kill()
            raise
        if ended.error:
            listener.say(ended.error)
        for folder in ended.folders[-1:]:
            error.add_note(f"Run folder: {folder}")
        raise


def _describe_silence(code: int, stderr: IO[bytes], ended: Ended) -> str:
    stderr.seek(0, os.SEEK_END)
    stderr.seek(max(0, stderr.tell() - _LAST_WORDS))
    words = stderr.read().decode(errors="replace").strip()
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    where = f" Its run folder: {ended.folders[-1]}." if ended.folders else ""
    last = f" Its last words:\n{words}" if words else ""
    return f"The process that did the work ended {how}, without a word.{where}{last}"


# The other side: `python -m dnnjob.launch.apart REQUEST`, a JSON object. Its stdout has a line for
# each thing said, as JSON, and the folders that the verb prints.


class _Records(logging.Handler):
    """Writes what dnnjob logs to stdout, a JSON object a line."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record."""
        if not record.name.startswith("dnnjob"):
            return
        if record.levelno == PROGRESS:
            progress, *pace = record.__dict__["progress"]
            _tell(progress=[progress.model_dump(mode="json"), *pace])
        elif record.name != "dnnjob.training.progress":
            # Its lines say what the records of progress do.
            _tell(level=record.levelname, message=record.getMessage())


def _tell(**values: Any) -> None:
    """Writes an object to stdout."""
    print(json.dumps(values), flush=True)


def main() -> None:
    """Does what the request on the command line says."""
    request = json.loads(sys.argv[1])
    with guarded_streams():
        die_with(request.pop("parent"), by=signal.SIGTERM)
        logging.basicConfig(handlers=[_Records()])
        logging.getLogger("dnnjob").setLevel(PROGRESS)
        # The report tells how a command line says it.
        sys.argv[:] = ["dnnjob", *request.pop("command")]
        leave(_do(request.pop("verb"), request))


def _do(verb: str, arguments: dict[str, Any]) -> ExitCode:
    kind = told = ""
    try:
        code = _VERBS[verb](**arguments)
    except DnnJobError as error:
        code, kind, told = error.exit_code, type(error).__name__, str(error)
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    except OSError as error:
        code, kind, told = ExitCode.ENVIRONMENT, "MissingError", explain_os_error(error)
    _tell(ended=code, kind=kind, error=told)
    return code


def _run(job: str, words: Sequence[str], root: str) -> ExitCode:
    from dnnjob.launch.foreground import run_foreground

    return run_foreground(Path(job), words, root=Path(root))


def _submit(job: str, words: Sequence[str], profile: str, root: str, force: bool) -> ExitCode:
    from dnnjob.launch.submit import submit_job

    return submit_job(Path(job), words, profile=profile, root=Path(root), force=force)


def _resume(run: str, words: Sequence[str], here: bool) -> ExitCode:
    from dnnjob.launch.watch.resume_verb import resume_command

    return resume_command(Path(run), words, here=here)


def _predict(run: str, data: str, out: str, keep: Sequence[str]) -> ExitCode:
    from dnnjob.predict import predict_table

    predict_table(Path(run), data, out=Path(out), keep=keep)
    return ExitCode.DONE


def _export(run: str, to: Literal["saved-model", "keras"], out: str) -> ExitCode:
    from dnnjob.export import export_model

    export_model(Path(run), to=to, out=Path(out))
    return ExitCode.DONE


_VERBS: Mapping[str, Callable[..., ExitCode]] = {
    "run": _run,
    "submit": _submit,
    "resume": _resume,
    "predict": _predict,
    "export": _export,
}

if __name__ == "__main__":
    main()
