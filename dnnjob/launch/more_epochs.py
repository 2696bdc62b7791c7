"""More epochs for a run that is complete, from the state its training ended in.

add_epochs(paths, "train.epochs=1000")       # from here on it is a run that was broken off
"""

import shutil

from dnnjob.config import load_job, to_toml
from dnnjob.errors import JobError
from dnnjob.results.report import read_report
from dnnjob.runs import RunPaths, write_file, write_text
from dnnjob.text import quote_command

KEY = "train.epochs"


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
