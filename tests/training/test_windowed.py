"""Rows of a table that is read in pieces, against the same table in memory."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dnnjob.config import DevicesConfig, JobConfig
from dnnjob.data.order import StepPlan
from dnnjob.data.scratch import Scratch
from dnnjob.data.sources import open_table, peek_job
from dnnjob.data.split import Split, split_labelled
from dnnjob.data.statistics import fit_encoding
from dnnjob.data.stream import open_stream, piece_rows
from dnnjob.tasks import Crew, StopFlag
from dnnjob.training.fit import encode_rows
from dnnjob.training.strategy import make_devices
from dnnjob.training.windowed import WindowedRows

NUM_ROWS = 3000


@pytest.fixture
def job(tmp_path: Path) -> JobConfig:
    rng = np.random.default_rng(5)
    frame = pd.DataFrame(rng.normal(size=(NUM_ROWS, 3)), columns=list("abc"))
    frame["t"] = rng.choice(["x", "y", None], NUM_ROWS)
    frame["w"] = rng.random(NUM_ROWS) + 0.5
    frame["y"] = frame["a"] + rng.normal(size=NUM_ROWS)
    frame.loc[::50, "y"] = np.nan
    frame.to_parquet(tmp_path / "t.parquet", index=False)
    data = {"source": str(tmp_path / "t.parquet"), "target": "y", "weight_column": "w"}
    return JobConfig.model_validate(
        {"name": "t", "data": data | {"validation_fraction": 0.2, "test_fraction": 0.4}}
    )


def split_of(job: JobConfig, y: np.ndarray) -> Split:
    data = job.data
    return split_labelled(
        y,
        test_fraction=data.test_fraction,
        validation_fraction=data.validation_fraction,
        seed=job.split_seed,
    )


def test_a_table_without_windows_trains_on_the_rows_of_one_in_memory(
    job: JobConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dnnjob.data.stream._PIECE_ROWS", 700)
    table = open_table(job.data)
    split = split_of(job, table.y)
    expected = encode_rows(table, split, fit_encoding(table, split, job.data))
    streamed = open_stream(
        job,
        peek_job(job.data),
        block_rows=None,
        get_scratch=lambda: Scratch(tmp_path / "unused"),
        threads=1,
    )
    rows = WindowedRows.of(streamed, streamed.fit_encoding(), budget_bytes=0, threads=1)

    devices = make_devices(DevicesConfig(kind="cpu"), Crew(StopFlag()))
    prepared = rows.prepare(job, devices, first_replica=0)

    assert isinstance(prepared.plan, StepPlan)
    assert prepared.plan.num_rows == len(split.train)
    data = prepared.data
    assert data.num_validation_rows == len(split.validation)
    for found, values, kept in (
        (data.x, expected.x, split.train),
        (data.y, expected.y, split.train),
        (data.x_validation, expected.x, split.validation),
        (data.y_validation, expected.y, split.validation),
    ):
        np.testing.assert_allclose(np.asarray(found), values[kept], rtol=1e-5, atol=1e-6)


def test_rows_of_many_inputs_are_read_fewer_at_a_time() -> None:
    assert piece_rows(20) == piece_rows(256) == 2**16
    assert piece_rows(2560) == 2**26 // (4 * 2560)
    assert piece_rows(10**9) == 1
