"""Rows of a table as training takes them, against pandas and scikit-learn."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.preprocessing import StandardScaler

from dnnjob.config import DevicesConfig, JobConfig
from dnnjob.data.order import StepPlan
from dnnjob.data.split import TRAIN, VALIDATION, split_rows
from dnnjob.tasks import Crew, StopFlag
from dnnjob.training.strategy import make_devices
from dnnjob.training.windowed import WindowedRows
from tests.data.opened import open_files, split_table

NUM_ROWS = 3000


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    frame = pd.DataFrame(rng.normal(size=(NUM_ROWS, 3)), columns=list("abc"))
    frame["w"] = rng.random(NUM_ROWS) + 0.5
    frame["y"] = frame["a"] + rng.normal(size=NUM_ROWS)
    frame.loc[::50, "y"] = np.nan
    return frame


@pytest.fixture
def job(frame: pd.DataFrame, tmp_path: Path) -> JobConfig:
    frame.to_parquet(tmp_path / "t.parquet", index=False)
    data = {"source": str(tmp_path / "t.parquet"), "target": "y", "weight_column": "w"}
    return JobConfig.model_validate(
        {"name": "t", "data": data | {"validation_fraction": 0.2, "test_fraction": 0.4}}
    )


@pytest.mark.parametrize("is_held", [True, False], ids=["in memory", "from its file"])
def test_a_table_without_windows_trains_on_standardized_rows_and_roots_of_weights(
    frame: pd.DataFrame, job: JobConfig, is_held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dnnjob.data.table._PIECE_ROWS", 700)
    labelled = np.flatnonzero(frame["y"].notna())
    split = split_rows(len(labelled), test_fraction=0.4, validation_fraction=0.2, seed=0)
    train, validation = labelled[split.train], labelled[split.validation]
    if is_held:
        table = split_table(job).table
    else:
        table = open_files(job, block_rows=None, get_scratch=lambda: 1 / 0)
    encoding = table.fit_encoding(job.data)
    rows = WindowedRows.of(table, encoding, budget_bytes=0, threads=1)

    devices = make_devices(DevicesConfig(kind="cpu"), Crew(StopFlag()))
    prepared = rows.prepare(job, devices, first_replica=0)

    assert isinstance(prepared.plan, StepPlan)
    assert prepared.plan.num_rows == len(train)
    data = prepared.data
    assert data.num_validation_rows == len(validation)
    values = frame[["a", "b", "c", "y"]]
    scaler = StandardScaler().fit(values.iloc[train])
    for x, y, part in (
        (data.x, data.y, train),
        (data.x_validation, data.y_validation, validation),
    ):
        expected = scaler.transform(values.iloc[part])
        np.testing.assert_allclose(np.asarray(x), expected[:, :3], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(np.asarray(y)[:, 0], expected[:, 3], rtol=1e-4, atol=1e-5)
        weights = frame["w"].iloc[part]
        roots = np.sqrt(weights / weights.mean())
        np.testing.assert_allclose(np.asarray(y)[:, 1], roots, rtol=1e-5)


def test_rows_that_a_device_holds_are_not_read_again(
    job: JobConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = split_table(job).table
    made = WindowedRows.of(table, table.fit_encoding(job.data), budget_bytes=0, threads=1)
    rows = replace(made, resident={})
    devices = make_devices(DevicesConfig(kind="cpu"), Crew(StopFlag()))
    first = rows.prepare(job, devices, first_replica=0)
    monkeypatch.setattr(WindowedRows, "_read_splits", lambda *_: 1 / 0)

    train = job.train.model_copy(update={"epochs": 3, "global_batch_size": 9})
    following = replace(rows, threads=2)
    again = following.prepare(job.model_copy(update={"train": train}), devices, first_replica=0)

    assert again.data.x is first.data.x
    assert (again.plan.epochs, again.plan.global_batch_size) == (3, 9)


@pytest.mark.parametrize("patience", [None, 3])
def test_with_folds_and_patience_validation_rows_stop_nothing(
    job: JobConfig, patience: int | None
) -> None:
    table = split_table(job).table
    folds = np.arange(table.num_split_rows(TRAIN), dtype=np.int32) % 3
    encoding = table.fit_encoding(job.data)
    rows = WindowedRows.of(table, encoding, budget_bytes=0, threads=1, folds=folds)
    train = job.train.model_copy(update={"patience": patience})
    devices = make_devices(DevicesConfig(kind="cpu"), Crew(StopFlag()))

    prepared = rows.prepare(job.model_copy(update={"train": train}), devices, first_replica=0)

    num_fold_rows = int(np.bincount(folds).max())
    assert prepared.stops_on_folds == (patience is not None)
    found = prepared.data.num_validation_rows
    assert found == (table.num_split_rows(VALIDATION) if patience is None else num_fold_rows)
