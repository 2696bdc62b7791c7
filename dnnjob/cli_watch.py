"""Verbs that look after runs: their arguments and help; `launch/watch` does what they say.

app.command()(status)
"""

from pathlib import Path
from typing import Annotated

import typer

from dnnjob.cli_arguments import AsJson, RunFolder, RunOrSweep
from dnnjob.completion import complete_places


def status(
    places: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="ROOT|RUN|SWEEP",
            help="Where to look; default: runs.",
            show_default=False,
            autocompletion=complete_places,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what runs are doing: state, epoch, loss, time left, and why they wait or ended.

    Files, processes and Slurm are asked together, Slurm once for all runs. What nobody can tell
    any more is `vanished`; what cannot be asked from here has the age of its last sign of life.

    \b
      dnnjob status
      dnnjob status /scratch/runs --json
    """
    from dnnjob.launch.watch.status import status_command

    raise typer.Exit(status_command(places or [Path("runs")], as_json=as_json))


def logs(
    run: RunFolder,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")
    ] = False,
    task: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Task; default: 0, the chief.", show_default=False),
    ] = None,
) -> None:
    """Print what a task of a run said, in all its attempts.

    \b
      dnnjob logs runs/houses/20261123-101500-3f9a1c --follow
    """
    from dnnjob.launch.watch.logs import logs_command

    raise typer.Exit(logs_command(run, task=task, follow=follow))


def cancel(place: RunOrSweep) -> None:
    """End a run, or all runs of a sweep, waiting or at work.

    One at work writes a checkpoint first; `dnnjob resume` goes on from there.

    \b
      dnnjob cancel runs/houses/20261123-101500-3f9a1c
    """
    from dnnjob.launch.watch.cancel import cancel_command

    raise typer.Exit(cancel_command(place))


def wait(place: RunOrSweep) -> None:
    """Wait until a run or a whole sweep has ended; the exit code is the worst.

    0: all completed, 1: one failed, 143: one was cancelled.

    \b
      dnnjob wait runs/houses/sweeps/20261123-101500-3f9a1c && dnnjob collect runs
    """
    from dnnjob.launch.watch.wait import wait_command

    raise typer.Exit(wait_command(place))


def clean(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder that holds the runs.")],
    older: Annotated[
        str, typer.Option(metavar="AGE", help="How long ago they ended: 12h, 30d, 8w.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Remove the folders of runs that ended long ago, and print them.

    A run that may be alive stays, and so do those of other users and whatever is no run folder.

    \b
      dnnjob clean /scratch/runs --older 30d --dry-run
    """
    from dnnjob.launch.watch.clean import clean_command

    raise typer.Exit(clean_command(root, older=older, dry_run=dry_run))
