"""The `dnnjob` command: verbs, exit codes, and nothing that they do."""

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from dnnjob.errors import DnnJobError, ExitCode

app = typer.Typer(
    name="dnnjob",
    help="Tabular DNN regression as one job: train, predict and report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="A TOML job file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Overrides, as in train.epochs=100 seed=7."),
]
Root = Annotated[Path, typer.Option(help="Folder that holds the runs.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]


@app.command()
def run(job: JobFile, overrides: Overrides = None, root: Root = Path("runs")) -> None:
    """Run a job here and now; the points of a sweep in turn."""
    from dnnjob.launch.foreground import run_foreground

    _exit(run_foreground(job, overrides or [], root=root))


@app.command()
def resume(run: RunFolder) -> None:
    """Go on with a run from its newest checkpoint."""
    from dnnjob.launch.foreground import resume_foreground

    _exit(resume_foreground(run))


@app.command()
def predict(
    run: RunFolder,
    data: Annotated[str, typer.Argument(metavar="DATA", help="A table: file, folder or glob.")],
    out: Annotated[Path, typer.Option(help="Parquet file to write.")],
) -> None:
    """Predict the rows of another table with the model of a run."""
    from dnnjob.predict import predict_table

    predict_table(run, data, out=out)
    typer.echo(out)


@app.command()
def validate(job: JobFile, overrides: Overrides = None) -> None:
    """Check a job file and its table, and say what the run would be."""
    from dnnjob.launch.checks import describe_job

    typer.echo(describe_job(job, overrides or []))


@app.command()
def doctor(root: Root = Path("runs")) -> None:
    """Say what this machine offers, and what is missing."""
    from dnnjob.doctor import examine

    _exit(examine(root))


@app.command()
def init(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="A CSV or Parquet table.")],
) -> None:
    """Write a commented job file for a table to stdout."""
    from dnnjob.data.draft import draft_job

    typer.echo(draft_job(table), nl=False)


def main() -> None:
    """Runs the command line and ends the process with its exit code."""
    logging.basicConfig(stream=sys.stderr, format="%(message)s")
    logging.getLogger("dnnjob").setLevel(logging.INFO)
    try:
        app()
    except DnnJobError as error:
        typer.echo(f"dnnjob: {error}", err=True)
        _exit(error.exit_code)
    except KeyboardInterrupt:
        _exit(ExitCode.INTERRUPTED)


def _exit(code: ExitCode) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    logging.shutdown()
    # Everything is on the disk; TensorFlow's shutdown takes a second and frees what the
    # end of the process frees.
    os._exit(code)
