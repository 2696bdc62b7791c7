"""What `dnnjob validate` finds out."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dnnjob.config import DataConfig
from dnnjob.data import sources
from dnnjob.data.rows import TypedTable
from dnnjob.data.sources import JobFiles
from dnnjob.data.split import split_rows
from dnnjob.errors import DataError, JobError
from dnnjob.launch import job_check, point_tables
from dnnjob.launch.job_check import check_job, render_check
from dnnjob.results.report import read_report
from tests.conftest import FEATURES, Command, FinishedRun, WriteJob, make_frame


def test_a_check_says_what_the_run_then_is(finished: FinishedRun) -> None:
    check = check_job(finished.job_file)
    report = read_report(finished.paths.report)
    (point,) = check.points
    metrics = report.metrics
    assert metrics.train is not None
    assert metrics.validation is not None
    assert metrics.test is not None
    assert point.num_trainable_params == report.model.num_trainable_params
    assert point.steps == report.training.steps
    assert point.num_rows == report.data.num_rows
    assert (point.num_train_rows, point.num_validation_rows, point.num_test_rows) == (
        metrics.train.num_rows,
        metrics.validation.num_rows,
        metrics.test.num_rows,
    )


def test_the_reference_job_has_its_known_sizes(shared_data: Path) -> None:
    job_file = Path(__file__).parents[2] / "jobs" / "housing.toml"
    check = check_job(job_file, [f"data.source={shared_data / 'housing.csv'}"])
    (point,) = check.points
    assert point.layers == (12, 200, 1000, 1)
    assert point.num_trainable_params == 204_601
    assert (point.num_train_rows, point.num_test_rows) == (354, 152)
    assert (point.steps_per_epoch, point.steps) == (6, 3000)


def test_members_count_in_parameters_steps_and_memory(write_job: WriteJob) -> None:
    words = ["model.members=4", 'model.bagging="folds"', "data.validation_fraction=0"]
    one, several = (check_job(write_job(), more) for more in (words[2:], words))
    (single,), (point,) = one.points, several.points
    assert (single.num_members, point.num_members) == (1, 4)
    assert point.num_trainable_params == 4 * single.num_trainable_params
    # 84 training rows, of which a member leaves 21 out, in batches of 16.
    assert (single.steps_per_epoch, point.steps_per_epoch) == (6, 4)
    assert point.steps == 4 * 4 * point.epochs
    assert point.memory_mb > single.memory_mb
    assert "network   4 networks of 6 -> 8 -> 4 -> 1, 388 parameters together" in render_check(
        several
    )


def test_folds_without_rows_are_refused_before_a_run(write_job: WriteJob) -> None:
    words = ["model.members=100", 'model.bagging="folds"', "data.validation_fraction=0"]
    with pytest.raises(JobError, match="100 members, but there are 84 training rows"):
        check_job(write_job(), words)


@pytest.mark.parametrize(("level", "warns"), [(0.9, False), (0.99, True)])
def test_intervals_that_too_few_rows_would_calibrate_are_told_before_a_run(
    write_job: WriteJob, level: float, warns: bool
) -> None:
    check = check_job(write_job(), [f"output.interval_level={level}"])
    told = "those of level 0.99 need at least 99 rows that trained and stopped no network"
    assert any(told in warning for warning in check.warnings) == warns


def test_columns_have_their_roles(write_job: WriteJob) -> None:
    check = check_job(write_job(), ['data.features=["plain", "is_new"]'])
    roles = {column.name: column.role for column in check.columns}
    assert roles == {
        **dict.fromkeys(FEATURES, "unused"),
        "plain": "feature",
        "is_new": "feature",
        "y": "target",
    }


def test_a_sweeps_points_are_all_checked(write_job: WriteJob) -> None:
    job_file = write_job(
        sweep={"model.hidden_units": [[], [4]], "data.validation_fraction": [0, 0.5]}
    )
    check = check_job(job_file)
    half = split_rows(120, test_fraction=0.3, validation_fraction=0.5, seed=3)
    assert [point.num_trainable_params for point in check.points] == [7, 7, 33, 33]
    assert check.points[1].num_validation_rows == len(half.validation)
    assert check.points[1].values == {"model.hidden_units": [], "data.validation_fraction": 0.5}


def test_a_table_is_read_once_for_all_points(
    write_job: WriteJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def count(data: DataConfig) -> TypedTable:
        opened.append(data)
        return real(data)

    real = point_tables.hold_table
    monkeypatch.setattr(point_tables, "hold_table", count)
    check_job(write_job(sweep={"seed": [1, 2, 3]}))
    assert len(opened) == 1


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("data.target=z", DataError),
        ("data.test_fraction=0.999", DataError),
        ("sweep.data.test_fraction=[0.3, 0.999]", DataError),
        ("train.epochs=0", JobError),
        ("sweep.train.epochs=[1, 0]", JobError),
    ],
)
def test_what_a_run_would_refuse_is_refused(
    write_job: WriteJob, override: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        check_job(write_job(), [override])


def test_windows_shorter_than_a_table_that_must_be_in_memory_are_refused(tmp_path: Path) -> None:
    job_file = tmp_path / "job.toml"
    job_file.write_text(
        'name = "a"\n[data]\nsource = "builtin:diabetes"\ntarget = "progression"\nwindow_rows = 20'
    )
    with pytest.raises(JobError, match=r"data\.window_rows must hold the 309 training rows"):
        check_job(job_file)


@pytest.mark.long
@pytest.mark.parametrize(
    "overrides",
    [
        ["data.split=hash"],
        ["data.split=group", "data.split_column=plain"],
        ["data.split=time", "data.split_column=plain"],
        ["data.split=column", "data.split_column=part", "data.validation_fraction=0"],
    ],
)
def test_a_check_splits_as_the_run_then_does(
    write_job: WriteJob, dnnjob: Command, tmp_path: Path, overrides: list[str]
) -> None:
    frame = make_frame()
    frame["part"] = np.resize(["train", "train", "test", "validation"], len(frame))
    frame.loc[::9, "y"] = np.nan
    job_file = write_job(frame, train={"epochs": 1}, output={"model": False})

    (point,) = check_job(job_file, overrides).points
    done = dnnjob("run", job_file, *overrides, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    predictions = pd.read_parquet(Path(done.stdout.strip()) / "predictions.parquet")
    assert predictions["split"].value_counts().to_dict() == {
        "train": point.num_train_rows,
        "validation": point.num_validation_rows,
        "test": point.num_test_rows,
        "unlabelled": point.num_unlabelled_rows,
    }


def test_memory_covers_what_the_run_then_takes(finished: FinishedRun) -> None:
    (point,) = check_job(finished.job_file).points
    peak = read_report(finished.paths.report).resources.peak_rss_mb
    assert 0.8 * peak < point.memory_mb < 2 * peak


def write_streamed(write_job: WriteJob, folder: Path, **data: Any) -> Path:
    make_frame(4000).to_parquet(folder / "table.parquet", row_group_size=100)
    values = {"source": "table.parquet", "window_rows": 1000, "memory_budget_gb": 0.1}
    return write_job(data=values | data)


def test_a_table_that_is_read_in_pieces_is_looked_at_in_part(
    write_job: WriteJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dnnjob.data.sample._NUM_GROUPS", 7)
    job_file = write_streamed(write_job, tmp_path)

    check = check_job(job_file)

    (point,) = check.points
    assert (point.num_rows, point.num_sampled_rows) == (4000, 700)
    assert (point.num_train_rows, point.num_validation_rows, point.num_test_rows) == (
        2240,
        560,
        1200,
    )
    assert "4,000 rows, of which 700 were looked at, 7 columns" in render_check(check)


@pytest.mark.parametrize("fraction", [0.0, 0.3])
def test_folds_of_a_table_that_streams_are_refused_before_a_run(
    write_job: WriteJob, tmp_path: Path, fraction: float
) -> None:
    # Without test rows the sample has all training rows.
    held = {"test_fraction": fraction, "validation_fraction": 0.0}
    job_file = write_streamed(write_job, tmp_path, **held)
    words = ["model.members=3", 'model.bagging="folds"']

    with pytest.raises(JobError, match=r"table\.parquet is trained window by window"):
        check_job(job_file, words)
    assert check_job(job_file, [*words, "data.window_rows=4000"]).points[0].num_members == 3


@pytest.mark.parametrize("values", [{"window_rows": 1000}, {}])
def test_files_are_opened_once_for_all_points(
    write_job: WriteJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, int]
) -> None:
    opened = []

    def count(data: DataConfig) -> JobFiles:
        opened.append(data)
        return real(data)

    real = sources.peek_job
    monkeypatch.setattr(sources, "peek_job", count)
    make_frame(4000).to_parquet(tmp_path / "table.parquet", row_group_size=100)
    seeds = {"seed": [1, 2, 3], "data.split_seed": [1, 2]}

    check = check_job(write_job(data={"source": "table.parquet"} | values, sweep=seeds))

    assert len(check.points) == 6
    # To find out how it is read, and, of a table that is held in memory, to read it.
    assert len(opened) == (1 if values else 2)


def test_of_a_long_file_of_text_the_first_rows_are_looked_at(
    write_job: WriteJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dnnjob.data.heads._NUM_ROWS", 300)
    monkeypatch.setattr(point_tables, "hold_table", lambda data: 1 / 0)
    job_file = write_job(make_frame(4000), data={"window_rows": 1000})

    check = check_job(job_file)

    (point,) = check.points
    assert point.num_sampled_rows == 300
    assert point.num_rows_is_estimated
    assert point.num_rows == pytest.approx(4000, rel=0.05)
    assert f"about {point.num_rows:,} rows, of which 300 were looked at" in render_check(check)


def test_a_target_that_begins_late_does_not_refuse_a_job(
    write_job: WriteJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dnnjob.data.heads._NUM_ROWS", 300)
    frame = make_frame(4000)
    frame.loc[:1000, "y"] = np.nan

    check = check_job(write_job(frame, data={"window_rows": 1000}))

    assert "in the 300 rows looked at 0 of 300 rows have one" in check.warnings[0]
    assert check.points[0].num_unlabelled_rows == 0
    assert check.points[0].steps > 0


def test_memory_of_a_table_that_is_read_in_pieces_is_that_of_its_budget(
    write_job: WriteJob, tmp_path: Path
) -> None:
    job_file = write_streamed(write_job, tmp_path)
    small, large = (
        check_job(job_file, [f"data.memory_budget_gb={budget}"]).points[0].memory_mb
        for budget in (0.1, 5.1)
    )
    assert large - small == pytest.approx(5e9 / 2**20, rel=1e-6)


def test_memory_grows_with_rows_and_parameters(write_job: WriteJob) -> None:
    job_file = write_job()
    small = check_job(job_file).points[0].memory_mb
    wide = check_job(job_file, ["model.hidden_units=[4000, 4000]"]).points[0].memory_mb
    long = check_job(write_job(make_frame(12_000))).points[0].memory_mb
    # 16 million weights, their gradients and their momentum, 4 bytes each.
    assert wide - small > 3 * 4 * 16e6 / 2**20
    assert long > small


def test_too_little_memory_is_warned_about(
    write_job: WriteJob, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(job_check, "memory_limit_bytes", lambda: 2**28)
    check = check_job(write_job())
    assert "this machine gives 0.2 GiB" in check.warnings[0]
    assert check.warnings[0] in caplog.text


def test_weaknesses_of_the_table_are_told(write_job: WriteJob) -> None:
    frame = make_frame()
    frame["plain"] = 1.0
    (warning,) = check_job(write_job(frame)).warnings
    assert "constant features tell nothing: plain" in warning


def test_a_screen_shows_sizes_columns_and_points(write_job: WriteJob) -> None:
    text = render_check(check_job(write_job(sweep={"train.learning_rate": [0.1, 0.2]})))
    assert "split     67 train, 17 validation, 36 test" in text
    assert "network   6 -> 8 -> 4 -> 1, 97 parameters" in text
    assert "training  8 epochs of 5 steps, 40 steps in all" in text
    assert "sweep     2 runs" in text
    assert "per/cent    numeric  feature" in text
    assert "                0.2          67          97     40" in text


@pytest.mark.parametrize("fraction", [0.0, 0.3])
def test_a_screen_says_where_nothing_will_judge_a_run(write_job: WriteJob, fraction: float) -> None:
    text = render_check(check_job(write_job(data={"test_fraction": fraction})))
    assert ("0 test; without test rows nothing will judge the run" in text) == (fraction == 0)


def test_a_wide_table_is_shown_in_part(write_job: WriteJob) -> None:
    frame = make_frame(20)
    for number in range(60):
        frame[f"x{number}"] = frame["plain"] + number
    text = render_check(check_job(write_job(frame)))
    assert "and 27 more columns" in text
    assert len(text.splitlines()) < 60


def test_names_cannot_act_on_a_terminal(write_job: WriteJob) -> None:
    frame = make_frame().rename(columns={"plain": "\x1b[31mred"})
    assert "\x1b" not in render_check(check_job(write_job(frame)))
