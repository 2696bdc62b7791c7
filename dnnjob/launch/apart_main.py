"""The other side of `apart`: `python -m dnnjob.launch.apart_main REQUEST`, a JSON object.

stdout has a line for each thing said, as JSON, and the folders that the verb prints.
"""

import json
import logging
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from dnnjob.errors import DnnJobError, ExitCode, explain_os_error
from dnnjob.launch.own_process import die_with, leave
from dnnjob.streams import guarded_streams
from dnnjob.training.progress import PROGRESS


class _Records(logging.Handler):
    """Writes what dnnjob logs to stdout, a JSON object a line."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record."""
        if not record.name.startswith("dnnjob"):
            return
        if record.levelno == PROGRESS:
            progress, *pace = record.__dict__["progress"]
            tell(progress=[progress.model_dump(mode="json"), *pace])
        elif record.name != "dnnjob.training.progress":
            # Its lines say what the records of progress do.
            tell(level=record.levelname, message=record.getMessage())


def tell(**values: Any) -> None:
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
    tell(ended=code, kind=kind, error=told)
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
