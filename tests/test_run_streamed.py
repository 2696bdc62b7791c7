"""A table of several windows, from job file to report: by budget, layout, tasks and kills."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tomli_w

from dnnjob.config import load_job
from dnnjob.data.order import WindowPlan, member_seeds
from dnnjob.errors import ExitCode
from dnnjob.launch.foreground import resume_foreground, run_foreground
from dnnjob.runs import RunPaths, read_status
from tests.conftest import command_line, run_here, said_by

NUM_ROWS, NUM_FEATURES = 20_000, 4
JOB: dict[str, Any] = {
    "name": "streamed",
    "seed": 4,
    "data": {
        "source": "small.parquet",
        "target": "y",
        "validation_fraction": 0.1,
        "window_rows": 3200,
        "memory_budget_gb": 1e-9,
        "id_columns": ["name"],
    },
    "model": {"hidden_units": [16, 8], "dropout_rate": 0.1},
    "train": {
        "epochs": 3,
        "global_batch_size": 32,
        "optimizer": "adam",
        "learning_rate": 0.003,
        "patience": 3,
    },
    "devices": {"kind": "cpu", "threads": 1},
    "output": {"plots": False},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streamed")
    rng = np.random.default_rng(6)
    x = rng.normal(size=(NUM_ROWS, NUM_FEATURES))
    frame = pd.DataFrame(x.astype(np.float32), columns=[f"x{n}" for n in range(NUM_FEATURES)])
    frame["y"] = 20 + 3 * np.tanh(x[:, 0]) + x[:, 1] * x[:, 2] + 0.1 * rng.normal(size=NUM_ROWS)
    frame["name"] = [f"row {number}" for number in range(NUM_ROWS)]
    frame.to_parquet(folder / "small.parquet", row_group_size=20, index=False)
    frame.to_parquet(folder / "large.parquet", index=False)
    (folder / "many").mkdir()
    for number, rows in enumerate(np.array_split(np.arange(NUM_ROWS), 50)):
        frame.iloc[rows].to_parquet(folder / "many" / f"{number:02d}.parquet", index=False)
    (folder / "job.toml").write_text(tomli_w.dumps(JOB))
    return folder


def run(folder: Path, *overrides: str, job: str = "job.toml") -> RunPaths:
    """Runs the job inside this process."""
    return run_here(folder / job, *overrides, root=folder / "runs")


@pytest.fixture(scope="module")
def base(folder: Path) -> RunPaths:
    return run(folder)


@pytest.fixture(autouse=True)
def _in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def predictions(paths: RunPaths) -> pd.DataFrame:
    return pd.read_parquet(paths.predictions)


def losses(paths: RunPaths) -> np.ndarray:
    return pd.read_parquet(paths.history)[["loss", "val_loss"]].to_numpy()


def rows_read(said: str) -> list[int]:
    return [int(number) for number in re.findall(r"Read (\d+) training rows", said)]


def make_plan(paths: RunPaths) -> WindowPlan:
    num_rows = int((predictions(paths)["split"] == "train").sum())
    return WindowPlan(num_rows, 32, 1, epochs=3, window_rows=3200)


def test_the_report_is_that_of_its_predictions(base: RunPaths, folder: Path) -> None:
    report = json.loads(base.report.read_bytes())
    found, source = predictions(base), pd.read_parquet(folder / "small.parquet")

    assert found["row_id"].tolist() == list(range(NUM_ROWS))
    np.testing.assert_array_equal(found["y_true"], source["y"])
    assert found["name"].tolist() == source["name"].tolist()
    for split in ("train", "validation", "test"):
        rows = found[found["split"] == split]
        mse = np.square(rows["y_true"] - rows["y_pred"]).mean()
        assert report["metrics"][split]["num_rows"] == len(rows)
        assert report["metrics"][split]["mse"] == pytest.approx(mse, rel=1e-9)
    assert report["job"]["data"]["split"] == "shuffle"
    assert report["metrics"]["test"]["mse"] < 0.5 * report["baselines"]["test"]["linear"]["mse"]
    assert report["metrics"]["validation"]["mse_standardized"] == pytest.approx(
        losses(base)[-1, 1], rel=1e-4
    )
    assert not base.checkpoints.exists()


def test_the_linear_baseline_is_least_squares(base: RunPaths, folder: Path) -> None:
    report = json.loads(base.report.read_bytes())
    source = pd.read_parquet(folder / "small.parquet")
    x = np.c_[source.filter(like="x").to_numpy(np.float64), np.ones(NUM_ROWS)]
    y, split = source["y"].to_numpy(), predictions(base)["split"].to_numpy()
    train, test = split == "train", split == "test"

    weights = np.linalg.lstsq(x[train], y[train])[0]

    expected = np.square(x[test] @ weights - y[test]).mean()
    assert report["baselines"]["test"]["linear"]["mse"] == pytest.approx(expected, rel=1e-6)
    mean = np.square(y[test] - y[train].mean()).mean()
    assert report["baselines"]["test"]["mean"]["mse"] == pytest.approx(mean, rel=1e-9)


@pytest.mark.long
@pytest.mark.parametrize(
    "overrides",
    [["data.memory_budget_gb=1.0", "data.source=many"], ["data.source=large.parquet"]],
    ids=["resident, many files", "copied"],
)
def test_neither_memory_nor_files_change_a_bit(
    base: RunPaths, folder: Path, overrides: list[str]
) -> None:
    paths = run(folder, *overrides)
    said = said_by(paths)

    pd.testing.assert_frame_equal(predictions(paths), predictions(base))
    np.testing.assert_array_equal(losses(paths), losses(base))
    num_rows, resident = make_plan(paths).num_rows, "budget" in overrides[0]
    assert rows_read(said) == [num_rows if resident else 3 * num_rows]


def test_text_larger_than_a_window_is_rewritten_and_trains_alike(
    base: RunPaths, folder: Path, tmp_path: Path
) -> None:
    pd.read_parquet(folder / "small.parquet").to_csv(folder / "large.csv.gz", index=False)

    paths = run(folder, "data.source=large.csv.gz", f"data.scratch='{tmp_path}'")

    said = said_by(paths)

    found, expected = predictions(paths), predictions(base)
    for name in ("row_id", "split", "name"):
        assert found[name].tolist() == expected[name].tolist()
    np.testing.assert_allclose(losses(paths), losses(base), rtol=1e-3)
    assert rows_read(said) == [3 * make_plan(paths).num_rows]
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_a_table_of_one_window_read_in_pieces_trains_as_in_memory(folder: Path) -> None:
    overrides = [
        "data.window_rows=1000000",
        'data.features=["x0", "x1", "x2", "x3", "name"]',
        "data.id_columns=[]",
        "train.epochs=2",
    ]
    whole = run(folder, *overrides)
    # So many inputs may come of a text that a quarter of a window has fewer rows than the table.
    pieces = run(folder, *overrides, "data.max_one_hot=10000")

    np.testing.assert_allclose(losses(pieces), losses(whole), rtol=1e-5)
    found, expected = predictions(pieces), predictions(whole)
    assert found["split"].tolist() == expected["split"].tolist()
    np.testing.assert_allclose(found["y_pred"], expected["y_pred"], rtol=1e-4)
    assert load_job(pieces.job).data.window_rows == 1_000_000


@pytest.mark.long
def test_two_tasks_read_half_each_and_come_to_the_same_losses(base: RunPaths, folder: Path) -> None:
    paths = run(folder, "devices.tasks=2")

    np.testing.assert_allclose(losses(paths), losses(base), rtol=1e-5)
    assert "Statistics of the table are those kept in" in paths.log(attempt=1, rank=1).read_text()
    for log in (paths.log(attempt=1, rank=rank) for rank in (0, 1)):
        (read,) = rows_read(log.read_text())
        assert read <= 0.6 * 3 * make_plan(paths).num_rows


@pytest.mark.long
def test_two_tasks_share_one_copy_of_a_text(base: RunPaths, folder: Path, tmp_path: Path) -> None:
    pd.read_parquet(folder / "small.parquet").to_csv(folder / "shared.csv", index=False)
    words = ("data.source=shared.csv", f"data.scratch='{tmp_path}'", "devices.tasks=2")
    paths = run(folder, *words)

    np.testing.assert_allclose(losses(paths), losses(base), rtol=1e-5)
    chief, follower = (paths.log(attempt=1, rank=rank).read_text() for rank in (0, 1))
    assert "Copying the table" in chief
    assert "Copying the table" not in follower
    assert "Reading the copy of the table that task 0 makes." in follower
    assert not list(tmp_path.iterdir())


def test_a_killed_run_goes_on_within_its_epoch_to_the_same_bits(
    base: RunPaths, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    command = command_line("run", "job.toml", "train.checkpoint_every_s=0.001")
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    paths = RunPaths(Path(process.stdout.readline().strip()))
    while process.poll() is None and not _has_checkpoint(paths, number=8):
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)

    caplog.set_level("INFO", "dnnjob")
    assert resume_foreground(paths.root) == ExitCode.DONE

    said = caplog.text
    pd.testing.assert_frame_equal(predictions(paths), predictions(base))
    np.testing.assert_array_equal(losses(paths), losses(base))
    assert "Statistics of the table are those kept in" in said
    position = read_status(paths).attempts[-1].resumed_from
    assert position is not None
    assert position.window > 0 or position.epoch > 0
    plan = make_plan(paths)
    expected = sum(
        plan.window_size(window)
        for epoch in range(position.epoch, plan.epochs)
        for window in range(plan.windows_per_epoch)
        if (epoch, window) >= (position.epoch, position.window)
    )
    assert rows_read(said) == [expected]


@pytest.mark.long
def test_validation_rows_need_no_patience(base: RunPaths, folder: Path) -> None:
    train = {key: value for key, value in JOB["train"].items() if key != "patience"}
    (folder / "patient.toml").write_text(tomli_w.dumps(JOB | {"train": train}))

    paths = run(folder, job="patient.toml")

    np.testing.assert_array_equal(losses(paths), losses(base))


@pytest.mark.long
def test_few_test_rows_tell_what_columns_are_worth(folder: Path) -> None:
    paths = run(folder, "data.test_fraction=0.0002", "train.epochs=1", "output.plots=true")

    report = json.loads(paths.report.read_bytes())
    assert report["metrics"]["test"]["num_rows"] == 4
    assert len(report["importance"]) == NUM_FEATURES


def _has_checkpoint(paths: RunPaths, *, number: int) -> bool:
    files = paths.checkpoints.glob("*.ckpt") if paths.checkpoints.is_dir() else ()
    return any(int(path.name.partition("-")[0]) >= number for path in files)


@pytest.mark.long
def test_members_stream_one_after_the_other_as_they_would_alone(folder: Path) -> None:
    several = run(folder, "model.members=2", "data.split_seed=4")
    seeds = member_seeds(4, count=2)
    alone = [run(folder, f"seed={seed}", "data.split_seed=4") for seed in seeds]

    each = [pd.read_parquet(paths.predictions)["y_pred"] for paths in alone]
    found = pd.read_parquet(several.predictions)
    np.testing.assert_allclose(found["y_pred"], np.mean(each, axis=0), rtol=1e-12)


def test_folds_of_a_table_that_streams_are_refused_with_the_way_out(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    overrides = ["model.members=2", 'model.bagging="folds"', "train.epochs=1"]
    code = run_foreground(folder / "job.toml", overrides, root=folder / "refused")
    assert code == ExitCode.USAGE
    assert "set data.validation_fraction, or raise data.window_rows" in caplog.text
