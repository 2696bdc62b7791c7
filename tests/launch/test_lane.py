"""Points that a warm lane trains one after another, against single runs that begin anew."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dnnjob.clock import Stopwatch
from dnnjob.config import load_job, make_points
from dnnjob.errors import ExitCode
from dnnjob.launch.lane import run_point
from dnnjob.results.report import read_report
from dnnjob.runs import RunPaths, claim_attempt, create_run, read_status
from dnnjob.tasks import StopFlag, Task
from dnnjob.training.export import load_keras
from tests.conftest import WriteJob, begin_anew, make_frame

Begin = Callable[[], None]


def _run_all(job: Path, root: Path, begin: Begin = lambda: None) -> list[RunPaths]:
    runs = [create_run(root, point.job) for point in make_points(load_job(job))]
    for number, paths in enumerate(runs, start=1):
        begin()
        run_point(paths, task=Task(), number=number, stop=StopFlag(), watch=Stopwatch())
    return runs


def _write(
    write_job: WriteJob, train: Mapping[str, Any], *, saves_model: bool = False, **sweep: Any
) -> Path:
    """A sweep on a table as long as the housing one."""
    return write_job(
        make_frame(506),
        data={"test_fraction": 0.3, "validation_fraction": 0.2},
        model={"hidden_units": [40, 60]},
        train={"epochs": 20, "global_batch_size": 64, "learning_rate": 0.01, **train},
        devices={"threads": 1, "xla": "on"},
        output={"plots": False, "trees": False, "model": saves_model},
        sweep=sweep,
    )


def test_a_point_that_another_has_gone_on_with_is_left_to_it(
    write_job: WriteJob, tmp_path: Path
) -> None:
    """Two that resume a sweep in the same second have both seen it without a living process."""
    paths = create_run(tmp_path, load_job(write_job()))
    claim_attempt(paths, after=0)

    code = run_point(paths, task=Task(), number=1, stop=StopFlag(), watch=Stopwatch(), after=0)

    assert code == ExitCode.USAGE
    assert read_status(paths).state == "CREATED"


@pytest.mark.long
def test_points_of_a_lane_end_as_their_single_runs_whatever_befalls_one(
    write_job: WriteJob, tmp_path: Path
) -> None:
    """Other seeds, and with them other splits, at other rates; one of them diverges."""
    job = _write(write_job, {}, seed=[0, 1], **{"train.learning_rate": [0.01, 1e6]})
    together = _run_all(job, tmp_path / "together")
    alone = _run_all(job, tmp_path / "alone", begin_anew)

    endings = [(read_status(one).state, read_status(one).reason) for one in together]
    assert endings == [("COMPLETED", None), ("FAILED", "nan")] * 2
    completed = [one for one in range(4) if endings[one][0] == "COMPLETED"]
    for one in completed:
        losses, truth = (pd.read_parquet(runs[one].history) for runs in (together, alone))
        np.testing.assert_allclose(losses["loss"], truth["loss"], rtol=1e-5)
        assert together[one].predictions.read_bytes() == alone[one].predictions.read_bytes()
    # What is compared differs from point to point.
    assert len({together[one].predictions.read_bytes() for one in completed}) == len(completed)


def test_a_point_without_rows_that_it_needs_is_refused_after_one_that_needs_none(
    write_job: WriteJob, tmp_path: Path
) -> None:
    frame = make_frame().assign(part=["train", "train", "test"] * 40)
    job = write_job(
        frame,
        data={"split": "column", "split_column": "part", "validation_fraction": 0.0},
        model={"members": 2},
        train={"patience": 4},
        sweep={"model.bagging": ["folds", "none"]},
    )
    first, second = (read_status(one) for one in _run_all(job, tmp_path / "runs"))
    assert (first.state, second.state) == ("COMPLETED", "FAILED")
    assert "needs validation rows" in (second.error or "")


def test_files_that_changed_sides_between_two_points_are_dealt_anew(
    write_job: WriteJob, tmp_path: Path
) -> None:
    train, test = tmp_path / "train", tmp_path / "test"
    frame = make_frame(120)
    for number, side in enumerate((train, train, train, test)):
        side.mkdir(exist_ok=True)
        frame[number * 30 :][:30].to_csv(side / f"{number}.csv", index=False)
    job = write_job(
        data={"source": "train/*.csv", "split": "files", "test_source": "test/*.csv"},
        train={"epochs": 2},
        output={"plots": False, "trees": False, "model": False},
        sweep={"train.learning_rate": [0.01, 0.02]},
    )
    moves = iter([lambda: None, lambda: (train / "2.csv").rename(test / "2.csv")])

    runs = _run_all(job, tmp_path / "runs", begin=lambda: next(moves)())

    tested = [pd.read_parquet(one.predictions)["split"].eq("test").sum() for one in runs]
    assert tested == [30, 60]


@pytest.mark.long
def test_points_of_one_seed_that_differ_in_what_a_lane_keeps_end_in_the_bits_of_their_single_runs(
    write_job: WriteJob, tmp_path: Path
) -> None:
    sweep = {
        "data.standardize": ["train", "robust"],
        "model.numeric_embedding": ["none", "piecewise"],
        # Last, so that points of equal networks follow each other.
        "model.dropout_rate": [0.2, 0.5],
    }
    train = {"epochs": 3, "optimizer": "adam", "patience": 2}
    job = _write(write_job, train, saves_model=True, **sweep)
    together = _run_all(job, tmp_path / "together")
    alone = _run_all(job, tmp_path / "alone", begin_anew)

    for one, other in zip(together, alone, strict=True):
        assert one.predictions.read_bytes() == other.predictions.read_bytes()
        models = [load_keras(paths.model) for paths in (one, other)]
        for mine, weight in zip(*(model.get_weights() for model in models), strict=True):
            np.testing.assert_array_equal(mine, weight)
        rates = [re.findall('"rate": ([0-9.]+)', json.dumps(one.get_config())) for one in models]
        assert rates[0] == rates[1] != []
    assert len({one.predictions.read_bytes() for one in together}) == len(together)


@pytest.mark.slow
def test_each_of_16_points_with_patience_stops_and_keeps_what_its_single_run_does(
    write_job: WriteJob, tmp_path: Path
) -> None:
    rates = {"train.learning_rate": [0.02, 0.05]}
    train = {"epochs": 300, "patience": 5}
    job = _write(write_job, train, seed=list(range(8)), **rates)
    together = _run_all(job, tmp_path / "together")
    alone = _run_all(job, tmp_path / "alone", begin_anew)

    trained = [read_report(one.report).training for one in together]
    assert trained == [read_report(one.report).training for one in alone]
    assert len({one.best_epoch for one in trained}) > 4
    assert "patience" in {one.stop_reason for one in trained}
    for one, other in zip(together, alone, strict=True):
        assert one.predictions.read_bytes() == other.predictions.read_bytes()
