"""The rules by which `dnnjob init` writes a start."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dnnjob.config import JobConfig, make_points
from dnnjob.data.draft import draft_job
from dnnjob.data.recipe import TableShape, choose_members, choose_search, choose_start
from dnnjob.launch.job_check import check_job
from tests.data.test_draft import load

ROWS = (2, 20, 200, 1000, 8000, 50_000, 1_000_000)


def make_job(start: dict[str, Any]) -> JobConfig:
    data = {"source": "/t.csv", "target": "y"} | start.pop("data")
    return JobConfig.model_validate({"name": "t", "data": data, **start})


def count_steps(num_rows: int) -> int:
    """Steps of all networks that a start trains."""
    start = choose_start(TableShape(num_rows, num_columns=9, num_numbers=8))
    train, members = start["train"], start["model"].get("members", 1)
    batches = -(-int(0.7 * num_rows) // train["global_batch_size"])
    return members * train["epochs"] * batches


@pytest.mark.parametrize("num_rows", ROWS)
@pytest.mark.parametrize("num_numbers", [0, 8, 500])
def test_every_start_is_a_valid_job_whose_members_have_rows(
    num_rows: int, num_numbers: int
) -> None:
    shape = TableShape(num_rows, num_columns=num_numbers + 2, num_numbers=num_numbers)

    job = make_job(choose_start(shape))

    assert (job.model.numeric_embedding == "piecewise") == (num_numbers == 8)
    assert job.model.members * 3 <= max(3, int(0.7 * num_rows))
    assert (job.model.bagging == "folds") == (job.model.members > 1)
    assert job.may_validate == (num_rows > 2)
    if num_numbers < 500:
        assert (job.train.patience is None) == (num_rows >= 50_000 or num_rows == 2)
        assert (job.calibration == "split") == (num_rows >= 8000)


@pytest.mark.parametrize("num_rows", [2, 3, 5, 16, 17, 40])
def test_what_is_written_for_few_rows_can_be_run(tmp_path: Path, num_rows: int) -> None:
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(num_rows, 2)), columns=["x", "y"])
    frame.to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "job.toml").write_text(draft_job(tmp_path / "t.csv", folder=tmp_path))

    (point,) = check_job(tmp_path / "job.toml").points

    assert point.num_train_rows >= 1
    assert point.num_members == choose_members(TableShape(num_rows, 2, 1))


def test_a_table_that_may_be_trained_window_by_window_has_no_folds() -> None:
    assert choose_members(TableShape(20_000, num_columns=20, num_numbers=19)) == 4
    assert choose_members(TableShape(20_000, num_columns=500, num_numbers=499)) == 1


def test_the_work_is_bounded_however_many_rows() -> None:
    steps = [count_steps(num_rows) for num_rows in ROWS]

    # A step of a million rows has 32 times the rows of one of a thousand.
    assert max(steps) <= 80_000
    assert steps[-1] <= 10_000
    assert steps[1] >= 100


@pytest.mark.parametrize("num_rows", [*ROWS, 5_000_000])
def test_a_search_compares_points_early_where_rows_tell(num_rows: int) -> None:
    shape = TableShape(num_rows, num_columns=9, num_numbers=8)
    job = make_job(choose_start(shape) | choose_search(shape))

    assert len(make_points(job)) == 20
    assert (job.search.halving == 3) == (num_rows > 2)


def test_a_search_is_drawn_around_the_start() -> None:
    shape = TableShape(1000, num_columns=9, num_numbers=8)
    start = make_job(choose_start(shape))

    points = make_points(make_job(choose_start(shape) | choose_search(shape)))

    assert len(points) == 20
    rates = [point.job.train.learning_rate for point in points]
    assert min(rates) < start.train.learning_rate < max(rates)
    assert {point.job.model.numeric_embedding for point in points} > {"piecewise"}
    assert all(point.job.may_validate for point in points)


def test_a_search_among_categories_leaves_numbers_alone(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": list("xyz") * 10, "b": list("uv") * 15, "y": np.arange(30.0)})
    frame.to_csv(tmp_path / "t.csv", index=False)

    text = draft_job(tmp_path / "t.csv", search=True)

    job = load(text)
    assert (job.data.standardize, job.model.numeric_embedding) == ("train", "none")
    assert not [key for key in job.sweep if "embedding" in key]
    assert '"train.learning_rate" = { low = 0.001, high = 0.01, log = true }' in text
    assert len(make_points(job)) == 20
