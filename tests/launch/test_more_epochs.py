"""Which complete runs can go on to more epochs, and what becomes of their folder."""

import json
from pathlib import Path
from typing import Any

import pytest

from dnnjob.config import load_job
from dnnjob.errors import JobError
from dnnjob.launch.watch.resume_verb import add_epochs
from dnnjob.runs import RunPaths
from tests.collect.make_runs import Wish, write_run


def make_complete(
    root: Path, *, keeps_state: bool = True, stop_reason: str = "epochs", **train: Any
) -> RunPaths:
    """A complete run of 500 epochs, made up."""
    paths = RunPaths(write_run(root, Wish()))
    report = json.loads(paths.report.read_bytes())
    report["training"]["stop_reason"] = stop_reason
    paths.report.write_text(json.dumps(report))
    text = paths.job.read_text()
    for key, value in train.items():
        before = next(line for line in text.splitlines() if line.startswith(f"{key} = "))
        text = text.replace(before, f"{key} = {json.dumps(value)}")
    paths.job.write_text(text)
    if keeps_state:
        paths.training_state.parent.mkdir()
        paths.training_state.write_bytes(b"state")
    return paths


def test_a_complete_run_with_more_epochs_is_one_that_was_broken_off(tmp_path: Path) -> None:
    paths = make_complete(tmp_path)

    add_epochs(paths, "train.epochs=1000")

    assert load_job(paths.job).train.epochs == 1000
    assert [path.read_bytes() for path in paths.checkpoints.iterdir()] == [b"state"]
    assert paths.training_state.read_bytes() == b"state"
    assert not paths.report.exists()


@pytest.mark.parametrize(
    ("how", "word", "told"),
    [
        ({}, "train.epochs=500", "Give more than 500"),
        ({}, "train.epochs=-1", "greater than or equal to 1"),
        ({"schedule": "cosine"}, "train.epochs=1000", 'train.schedule = "cosine"'),
        ({"stop_reason": "patience"}, "train.epochs=1000", "Early stopping ended"),
        ({"keeps_state": False}, "train.epochs=1000", "output.model"),
    ],
)
def test_what_would_not_end_as_from_the_start_is_refused_and_left_as_it_is(
    tmp_path: Path, how: dict[str, Any], word: str, told: str
) -> None:
    paths = make_complete(tmp_path, **how)
    job = paths.job.read_bytes()

    with pytest.raises(JobError, match=told):
        add_epochs(paths, word)

    assert paths.job.read_bytes() == job
    assert paths.report.exists()
    assert not paths.checkpoints.exists()
