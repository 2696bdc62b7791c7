"""The `dnnjob` command: verbs, exit codes, and nothing that they do."""

import errno
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import _completion_shared

import dnnjob
from dnnjob.cli_arguments import (
    AsJson,
    JobFile,
    KeyedCommand,
    OtherRun,
    Overrides,
    Root,
    RunFolder,
    RunOrSweep,
    SubmitOverrides,
)
from dnnjob.cli_watch import cancel, clean, logs, status, wait
from dnnjob.completion import BASH_SCRIPT, complete_places, complete_profiles
from dnnjob.errors import DnnJobError, ExitCode, JobError, explain_os_error
from dnnjob.streams import UnfailingFile, excuse_stdout, guarded_streams, leave

app = typer.Typer(
    name="dnnjob",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Brackets stand for themselves, as in [train]; and rich takes a third of the start-up.
    rich_markup_mode=None,
    context_settings={"max_content_width": 100, "help_option_names": ["-h", "--help"]},
)

_completion_shared._completion_scripts["bash"] = BASH_SCRIPT


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dnnjob {dnnjob.__version__}")
        raise typer.Exit


@app.callback()
def dnnjob_command(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """DNN regression on tables as one job: train, predict and report.

    \b
      dnnjob init houses.csv > houses.toml      a job file from the table's columns
      dnnjob validate houses.toml               what the job would do
      dnnjob run houses.toml                    do it; prints the run folder

    stdout carries the product, stderr the talk. Exit codes: 0 done, 1 the run failed, 2 wrong
    usage or job file, 3 bad data, 4 missing environment, 75 to be continued, 130 interrupted, 143
    terminated.
    """


@app.command(cls=KeyedCommand)
def run(job: JobFile, overrides: Overrides = None, root: Root = Path("runs")) -> None:
    """Run a job here and now, and print its run folder.

    The points of a [sweep] run side by side, as many as cores and memory allow; a table of their
    results ends the talk.

    \b
      dnnjob run jobs/diabetes.toml
      dnnjob run jobs/diabetes.toml train.learning_rate=0.003 seed=7 --root /scratch/runs
      dnnjob run jobs/diabetes.toml 'model.hidden_units=[64, 64]' data.source=mine.csv
    """
    from dnnjob.launch.foreground import run_foreground

    code = run_foreground(job, overrides or [], root=root)
    excuse_stdout()
    raise typer.Exit(code)


@app.command(cls=KeyedCommand)
def submit(
    job: JobFile,
    overrides: SubmitOverrides = None,
    *,
    profile: Annotated[
        str,
        typer.Option(
            metavar="PROFILE",
            help="A TOML profile, or the name of one in slurm/.",
            autocompletion=complete_profiles,
        ),
    ],
    root: Root = Path("runs"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the batch script; queue nothing.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Submit although something looks wrong.")
    ] = False,
) -> None:
    """Send a job to Slurm, or into the background of this machine, and return at once.

    Prints the run folder; the points of a [sweep] become one array, whose folder is printed.
    profile.KEY=VALUE gives keys of the profile other values.

    \b
      dnnjob submit jobs/housing.toml --profile slurm/gpu.toml
      dnnjob submit jobs/housing.toml seed=7 profile.time_limit_min=60 --profile cpu
      dnnjob submit jobs/sweep.toml --profile local
    """
    from dnnjob.launch.submit import submit_job

    raise typer.Exit(
        submit_job(job, overrides or [], profile=profile, root=root, dry_run=dry_run, force=force)
    )


@app.command(cls=KeyedCommand)
def resume(
    run: RunOrSweep,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Other keys of [devices], as TOML: devices.tasks=2 devices.threads=1.",
            show_default=False,
        ),
    ] = None,
    *,
    here: Annotated[
        bool, typer.Option("--here", help="In the foreground, wherever it ran before.")
    ] = False,
) -> None:
    """Go on with a run that has ended, from its newest checkpoint.

    A run that was submitted is submitted again with the profile it had; profile.KEY=VALUE gives
    that other values. On other devices the weights may differ in their last bits. A run that is
    alive is refused, a completed one left alone, unless train.epochs gives it more epochs. Of a
    sweep all points go on that have not completed.

    \b
      dnnjob resume runs/houses/20261123-101500-3f9a1c
      dnnjob resume runs/houses/20261123-101500-3f9a1c --here devices.tasks=2
      dnnjob resume runs/houses/20261123-101500-3f9a1c profile.time_limit_min=60
      dnnjob resume runs/houses/20261123-101500-3f9a1c train.epochs=1000
      dnnjob resume runs/houses/sweeps/20261123-101500-3f9a1c
    """
    from dnnjob.launch.watch.resume_verb import resume_command

    code = resume_command(run, overrides or [], here=here)
    excuse_stdout()
    raise typer.Exit(code)


for _verb in (status, logs, cancel, wait, clean):
    app.command()(_verb)


@app.command()
def predict(
    run: RunFolder,
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="CSV or Parquet: a file, a folder or a glob.")
    ],
    out: Annotated[
        Path,
        typer.Option(metavar="FILE", help="File to write: .parquet or .csv; - prints CSV."),
    ],
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMNS", help="Pass these columns of the table through: id,region."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Predict every row of a table with the model of a finished run.

    The file has row_id (0-based row of the table), y_pred in target units, and y_true where the
    table has the target; y_std of several members, y_lower and y_upper of a run with intervals. A
    warning tells of values that training has not seen.

    \b
      dnnjob predict runs/houses/20261123-101500-3f9a1c new.parquet --out predictions.parquet
      dnnjob predict runs/houses/20261123-101500-3f9a1c new.csv --keep id,region --out -
    """
    from dnnjob.predict import predict_table

    to_stdout = str(out) == "-"
    if to_stdout and as_json:
        raise JobError("--json and --out - both print to stdout. Give --out a file.")
    kept = [name for word in keep or [] for name in word.split(",") if name]
    predicted = predict_table(run, data, out=out, keep=kept)
    if to_stdout:
        return
    if as_json:
        typer.echo(json.dumps(predicted.to_json(out), ensure_ascii=False, indent=1))
        return
    typer.echo(out)
    excuse_stdout()


@app.command()
def export(
    run: RunFolder,
    to: Annotated[
        Literal["saved-model", "keras"],
        typer.Option(metavar="FORMAT", help="saved-model (for TensorFlow's servers) or keras."),
    ],
    out: Annotated[
        Path, typer.Option(metavar="PLACE", help="A new folder, or a .keras file to write.")
    ],
) -> None:
    """Write the model of a finished run for programs that know nothing of dnnjob.

    A SavedModel takes raw columns by name and gives y_pred in target units, as `dnnjob predict`
    does; its columns.json has the signature's name of each column.

    \b
      dnnjob export runs/houses/20261123-101500-3f9a1c --to saved-model --out served/houses
    """
    from dnnjob.export import export_model

    export_model(run, to=to, out=out)
    typer.echo(out)
    excuse_stdout()


@app.command(cls=KeyedCommand)
def validate(job: JobFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Say what a job would do, without doing it.

    Checks the job file and its table: columns, splits, parameters, steps, memory, sweep.

    \b
      dnnjob validate houses.toml train.global_batch_size=256
    """
    from dnnjob.launch.job_check import check_job, render_check

    check = check_job(job, overrides or [])
    typer.echo(check.model_dump_json(indent=1) if as_json else render_check(check))


@app.command()
def doctor(
    root: Root = Path("runs"),
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="PROFILE",
            help="Look there, by a short job, instead of here.",
            autocompletion=complete_profiles,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what this machine, or the nodes of a profile, offer a run, and what they lack.

    \b
      dnnjob doctor --root /scratch/runs
      dnnjob doctor --root /scratch/runs --profile slurm/gpu.toml
    """
    from dnnjob.doctor import examine, is_fit, render_findings

    if profile is not None:
        from dnnjob.launch.remote_doctor import doctor_command

        raise typer.Exit(doctor_command(profile, root=root, as_json=as_json))
    findings = examine(root)
    if as_json:
        typer.echo(json.dumps([finding.model_dump() for finding in findings], indent=1))
    else:
        typer.echo(render_findings(findings))
    raise typer.Exit(ExitCode.DONE if is_fit(findings) else ExitCode.ENVIRONMENT)


@app.command()
def collect(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder that holds the runs.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the table: .parquet, .csv, .json or .html."),
    ] = None,
    sort: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Order; --sort=-COLUMN for descending.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=VALUE", help="Keep these lines; repeatable; < and > too."),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="KEYS", help="A line a setting: these keys, or auto for all that vary."
        ),
    ] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="COLUMNS", help="Show these, separated by commas.")
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Join the runs' predictions by row into a .parquet."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show every run under a folder in one table, least validation MSE first.

    Where no run has validation rows, the least test MSE is first.

    \b
      dnnjob collect runs
      dnnjob collect runs --where state=COMPLETED --by auto
      dnnjob collect runs --out runs.html
    """
    from dnnjob.collect.commands import collect_command

    code = collect_command(
        root,
        out=out,
        sort=sort,
        where=where or [],
        by="" if by == "auto" else by,
        columns=columns,
        predictions=predictions,
        as_json=as_json,
    )
    if out is not None:
        excuse_stdout()
    raise typer.Exit(code)


@app.command()
def best(
    place: Annotated[
        Path,
        typer.Argument(
            metavar="ROOT|SWEEP",
            help="Folder that holds the runs, or a sweep.",
            autocompletion=complete_places,
        ),
    ],
    metric: Annotated[
        str, typer.Option(metavar="COLUMN", help="Least of this column; --metric=-COLUMN: largest.")
    ] = "validation_mse",
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=VALUE", help="Keep these runs; repeatable; < and > too."),
    ] = None,
) -> None:
    """Print the folder of the run with the least validation MSE.

    Columns are those of `dnnjob collect`. Test rows that choose a run cannot judge it any more:
    they are asked by name alone, with --metric test_mse.

    \b
      dnnjob best runs/houses/sweeps/20261123-101500-3f9a1c
      dnnjob predict $(dnnjob best runs --where name=houses) new.parquet --out predictions.parquet
    """
    from dnnjob.collect.best import best_command

    raise typer.Exit(best_command(place, metric=metric, where=where or []))


@app.command()
def compare(
    run: RunOrSweep,
    other: OtherRun = None,
    as_json: AsJson = False,
) -> None:
    """Say what differs between two runs, and by how much; of a sweep, what it varied.

    Errors of two runs are compared on the test rows that both have. The runs of a sweep, or of a
    root, stand with the keys that vary beside their errors, the best first.

    \b
      dnnjob compare runs/houses/20261123-101500-3f9a1c runs/houses/20261123-102200-77b01d
      dnnjob compare runs/houses/sweeps/20261123-101500-3f9a1c
    """
    from dnnjob.collect.commands import compare_command

    raise typer.Exit(compare_command(run, other, as_json=as_json))


@app.command()
def init(
    table: Annotated[
        str, typer.Argument(metavar="TABLE", help="CSV or Parquet: a file, a folder or a glob.")
    ],
    target: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="What to predict; default: the last numbers."),
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of text, such as latin-1; default: UTF-8."),
    ] = None,
    search: Annotated[
        bool, typer.Option("--search", help="A search of 20 points around the start, with halving.")
    ] = False,
) -> None:
    """Write a commented job file for a table to stdout.

    It lists the columns, and every key with its meaning and default; stderr says what was guessed.

    \b
      dnnjob init houses.csv > houses.toml
      dnnjob init houses.csv --target price > houses.toml
      dnnjob init houses.csv --search > search.toml
    """
    from dnnjob.data.draft import draft_job

    text = draft_job(table, target=target, encoding=encoding, search=search)
    typer.echo(text, nl=False)


@app.command()
def schema(
    kind: Annotated[
        Literal["job", "profile"], typer.Argument(metavar="job|profile", help="Of which files.")
    ],
) -> None:
    """Print the JSON Schema of job files or profiles, by which editors complete and check them.

    What `dnnjob init` writes begins with a line that names it, for editors that read such lines.

    \b
      dnnjob schema job > job.schema.json
    """
    from dnnjob.config.schema import render_schema

    typer.echo(render_schema(kind), nl=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and ends the process with its exit code."""
    with guarded_streams() as stdout:
        logging.basicConfig(stream=sys.stderr, format="%(message)s")
        logging.getLogger("dnnjob").setLevel(logging.INFO)
        if os.getpid() == 1:
            # The kernel gives the first process of a container only the signals that it has taken.
            signal.signal(signal.SIGTERM, lambda *_: os._exit(ExitCode.TERMINATED))
        try:
            code = _run_verb(arguments)
        except DnnJobError as error:
            typer.echo(f"dnnjob: {error}", err=True)
            code = error.exit_code
        except KeyboardInterrupt:
            code = ExitCode.INTERRUPTED
        except OSError as error:
            typer.echo(f"dnnjob: {explain_os_error(error)}", err=True)
            code = ExitCode.ENVIRONMENT
        sys.stdout.flush()
        leave(_judge_product(code, stdout))


def _run_verb(arguments: Sequence[str] | None) -> int:
    try:
        app(arguments, prog_name="dnnjob")
    except SystemExit as ended:
        return int(ended.code or 0)
    return ExitCode.DONE


def _judge_product(code: int, file: UnfailingFile) -> int:
    """The exit code of a command, given what has become of its stdout."""
    fault = file.fault
    # A reader that has had enough is no fault.
    if fault is None or fault.errno == errno.EPIPE:
        return code
    typer.echo(
        f"dnnjob: What this command prints could not be written to stdout ({fault.strerror}).",
        err=True,
    )
    return code if code or file.is_excused else ExitCode.ENVIRONMENT
