"""Arguments that several verbs of the command line share, and verbs that take keys of a job.

@app.command(cls=KeyedCommand)
def run(job: JobFile, overrides: Overrides = None, root: Root = Path("runs")) -> None: ...
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from dnnjob.completion import complete_keys, complete_places, complete_runs, complete_submit_keys
from dnnjob.errors import JobError

JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="A TOML job file.")]


def _keys_of_the_job(complete: Callable[[str], list[str]]) -> Any:
    return typer.Argument(
        metavar="KEY=VALUE",
        help="Keys of the job file with other values, as TOML: train.epochs=100 seed=7.",
        show_default=False,
        autocompletion=complete,
    )


Overrides = Annotated[list[str] | None, _keys_of_the_job(complete_keys)]
SubmitOverrides = Annotated[list[str] | None, _keys_of_the_job(complete_submit_keys)]
Root = Annotated[Path, typer.Option(metavar="FOLDER", help="Folder that holds the runs.")]
RunFolder = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        help="A run folder, as `dnnjob run` printed it.",
        autocompletion=complete_runs,
    ),
]
OtherRun = Annotated[
    Path | None,
    typer.Argument(
        metavar="RUN",
        help="Another run folder.",
        autocompletion=complete_runs,
        show_default=False,
    ),
]
RunOrSweep = Annotated[
    Path,
    typer.Argument(
        metavar="RUN|SWEEP",
        help="A run folder, or the folder of a sweep.",
        autocompletion=complete_places,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


class KeyedCommand(TyperCommand):
    """A verb that takes keys of the job: options of other tools are told how those are given."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As typer has it."""
        try:
            return list(super().parse_args(ctx, args))
        except Exception as error:
            # typer's own class for this is private.
            option = getattr(error, "option_name", None)
            if option is None:
                raise
            is_near = bool(getattr(error, "possibilities", None))
            if advice := _explain_keys(option, is_near=is_near):
                raise JobError(f"No such option: {option}. {advice}") from error
            raise


def _explain_keys(option: str, *, is_near: bool) -> str | None:
    """How a key is given that somebody took for an option; None if an option was meant."""
    from dnnjob.config import nearest_keys
    from dnnjob.config.profile import ProfileConfig

    name = option.lstrip("-").replace("-", "_")
    if name in ProfileConfig.model_fields:
        return f"Keys of the profile are given to `dnnjob submit`: profile.{name}=VALUE."
    if is_near:
        return None
    if keys := nearest_keys(name):
        return f"Keys of the job are given as KEY=VALUE: {keys[0]}=VALUE."
    return "Keys of the job are given as KEY=VALUE, as in train.epochs=100."
