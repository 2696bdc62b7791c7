"""The verb `dnnjob resume`: a run goes on where it was sent before or here, or to more epochs.

code = resume_command(Path("runs/tiny/20261124-101500-3f9a1c"), ["devices.tasks=2"], here=False)
"""

import logging
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from dnnjob.config import list_keys, load_job, load_job_again, split_words, to_toml
from dnnjob.errors import ExitCode, JobError
from dnnjob.launch.submit import resubmit, resubmit_sweep, say_where
from dnnjob.launch.watch.run_selection import open_runs
from dnnjob.launch.watch.run_views import RunView, look
from dnnjob.launch.watch.status import describe_view
from dnnjob.results.report import read_report
from dnnjob.runs import (
    FRESH,
    RunPaths,
    SweepPaths,
    latest_attempt,
    open_run,
    read_cancel,
    read_state,
    write_file,
    write_text,
)
from dnnjob.tasks import find_task
from dnnjob.text import counted, describe_time, quote_command

logger = logging.getLogger(__name__)

_EPOCHS = "train.epochs"


def resume_command(folder: Path, words: Sequence[str] = (), *, here: bool) -> ExitCode:
    """Goes on with a run that has ended, from its newest checkpoint; prints its folder.

    Of a sweep all points go on that have not completed, together as they were.

    A run that was submitted is submitted again with the profile it had; a complete one is left
    alone, unless it is given more epochs.

    Args:
        folder: The run, or the sweep.
        words: `KEY=VALUE` for its devices, `profile.KEY=VALUE` for the profile; for a complete one
            `train.epochs=NUMBER`.
        here: Whether to go on in the foreground, wherever it ran before.

    Raises:
        JobError: If there is no such run, it is alive, a word would make it another job, or Slurm
            refuses it.
        SlurmError: If Slurm does not answer.
    """
    # A second of imports, which a run that is sent again does not need.
    from dnnjob.launch.foreground import resume_foreground

    sweep = SweepPaths(folder.absolute())
    if sweep.sweep.is_file():
        return _resume_sweep(sweep, words, here=here)
    paths = open_run(folder)
    task = find_task()
    for_job, for_profile = split_words(words)
    more = [word for word, key in zip(for_job, list_keys(for_job), strict=True) if key == _EPOCHS]
    is_longer = bool(more) and paths.report.is_file()
    for_job = [word for word in for_job if not (is_longer and word in more)]
    load_job_again(paths.job, for_job)
    # As `srun dnnjob resume`, this is a task of the run already.
    here = here or task.num_tasks > 1 or not paths.profile.is_file()
    if here and for_profile:
        raise JobError(
            f"A profile says where runs are submitted, but {paths.root} goes on in the foreground: "
            f"{', '.join(for_profile)}. Leave it out, or give devices.KEY=VALUE."
        )
    if not task.is_chief:
        return resume_foreground(folder, for_job)
    # Before the look: what begins after it is another's, which has gone first.
    after = latest_attempt(paths)
    (view,) = look([paths])
    if is_longer and not here:
        raise JobError(
            f"A completed run goes on to more epochs in the foreground, but {paths.root} was "
            f"submitted. Add --here: {quote_command('resume', paths.root, more[-1], '--here')}."
        )
    if is_longer and view.state == "COMPLETED":
        add_epochs(paths, more[-1])
    if view.state != "COMPLETED":
        _refuse_live(view, is_cancelled=read_cancel(paths) is not None)
    if view.state == "COMPLETED" or here:
        paths.cancel.unlink(missing_ok=True)
        return resume_foreground(folder, for_job, after=after)
    submission = resubmit(folder, words)
    print(paths.root, flush=True)
    say_where(paths.root, submission.job_id, executor=submission.executor)
    return ExitCode.DONE


def _resume_sweep(sweep: SweepPaths, words: Sequence[str], *, here: bool) -> ExitCode:
    from dnnjob.launch.foreground import resume_sweep_here

    if words:
        raise JobError(
            f"A sweep goes on as it is, but got {' '.join(words)}. Leave it out, or give it to "
            f"{quote_command('resume')} with one of its runs."
        )
    is_followed = find_task().num_tasks > 1
    if not is_followed:
        for view, paths in zip(look(open_runs(sweep.root)), open_runs(sweep.root), strict=True):
            _refuse_live(view, is_cancelled=read_cancel(paths) is not None)
    if here or is_followed or not sweep.profile.is_file():
        return resume_sweep_here(sweep)
    if all(read_state(paths) == "COMPLETED" for paths in open_runs(sweep.root)):
        logger.info("%s is complete: nothing is left to do.", sweep.root)
        return ExitCode.DONE
    submission, runs = resubmit_sweep(sweep)
    print(sweep.root, flush=True)
    what = f"{submission.job_id.partition('_')[0]}, {counted(len(runs), 'run')}"
    say_where(sweep.root, what, executor=submission.executor)
    return ExitCode.DONE


def _refuse_live(view: RunView, *, is_cancelled: bool) -> None:
    now = datetime.now(UTC)
    if is_live(view, now=now, is_cancelled=is_cancelled):
        unseen = f" Nobody here can see it: {FRESH.seconds} s without a sign count as its end."
        raise JobError(
            f"Only a run that has ended can be resumed, but {view.path} is alive: "
            f"{describe_view(view)}{_describe_signs(view, now)}. Wait for its end, or end it "
            f"first: {quote_command('cancel', view.path)}."
            + (unseen if view.state == "RUNNING" and view.asked == "unknown" else "")
        )


def _describe_signs(view: RunView, now: datetime) -> str:
    """Where a run is at work, and when it last gave a sign of life."""
    if view.state != "RUNNING" or view.updated_at is None:
        return ""
    process = f", process {view.process}" if view.asked == "process" else ""
    where = f" on {view.nodes}" if view.nodes else ""
    return f"{process}{where}, last sign of life {describe_time(now - view.updated_at)} ago"


def is_live(view: RunView, *, now: datetime, is_cancelled: bool) -> bool:
    """Whether somebody is, or may be, at work on a run or about to begin.

    Args:
        view: The run.
        now: The present.
        is_cancelled: Whether its end was wished: of a run that nobody here can ask, that is all
            that can be done before it is resumed.
    """
    if view.is_over:
        return False
    if view.asked != "unknown":
        return True
    if view.is_copy:
        return False
    if view.state == "RUNNING":
        # A clock that has been set back since, or another host's, may be behind the sign.
        return view.updated_at is not None and abs(now - view.updated_at) < FRESH
    waits = view.job_id is not None or (view.state == "CREATED" and view.process is not None)
    return waits and not is_cancelled


def add_epochs(paths: RunPaths, word: str) -> None:
    """Makes a complete run one that goes on from its last epoch to a later one.

    Its report goes, whose presence means complete; what else it left stays until it is replaced.

    Args:
        paths: The run.
        word: `train.epochs=NUMBER`.

    Raises:
        JobError: If it would not end as a run of so many epochs from the start, or its last state
            was not kept.
    """
    job, longer = load_job(paths.job), load_job(paths.job, overrides=[word])
    planned, after = job.train.epochs, longer.train.epochs
    training = read_report(paths.report).training
    # One that its search left behind goes on to where it would have ended.
    before = training.epochs if training.stop_reason == "halved" else planned
    if after <= before:
        raise JobError(
            f"A completed run can go on to more epochs, but {paths.root} has {before} and got "
            f"{word!r}. Give more than {before}."
        )
    if job.train.schedule != "constant" and after != planned:
        raise JobError(
            f'With train.schedule = "{job.train.schedule}" the learning rate of every step depends '
            f"on the number of epochs, so {paths.root} cannot go on to {after} as if it had begun "
            f"with them. Begin anew: {quote_command('run', paths.job, word)}."
        )
    if training.stop_reason == "patience":
        patience = f"train.patience={2 * (job.train.patience or 1)}"
        raise JobError(
            f"Early stopping ended {paths.root} at epoch {training.epochs} of {before}, as it "
            f"would with {after}. Begin anew with more patience: "
            f"{quote_command('run', paths.job, patience)}."
        )
    if not paths.training_state.is_file():
        raise JobError(
            f"A run goes on from the last state of its training, which {paths.root} has not kept: "
            f"it is left beside the model, where output.model is true. Begin anew: `dnnjob run "
            f"{paths.job} {word}`."
        )
    with paths.training_state.open("rb") as state:
        write_file(paths.first_checkpoint, lambda file: shutil.copyfileobj(state, file))
    write_text(paths.job, to_toml(longer))
    paths.report.unlink()
