"""How a table is read in pieces, told before a row of it is read."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dnnjob.config import DataConfig
from dnnjob.data import order
from dnnjob.data.sources import peek_job
from dnnjob.data.table_loading import plan_pieces


def plan(folder: Path, **changes: object) -> tuple[int, tuple[int, int, int]] | None:
    data = DataConfig.model_validate({"source": str(folder), "target": "y"} | changes)
    found = plan_pieces(data, peek_job(data))
    return None if found is None else (found.window_rows, found.part_rows)


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "_MIN_WINDOW_ROWS", 1)
    monkeypatch.setattr(order, "_WINDOW_BYTES", 2**12)


@pytest.mark.usefixtures("small_windows")
def test_a_column_that_is_empty_in_one_file_counts_as_what_the_others_hold(tmp_path: Path) -> None:
    words = pa.table({"x": ["a", "b"] * 100, "y": [1.0, 2.0] * 100})
    gaps = pa.table({"x": pa.nulls(200, pa.float64()), "y": [1.0, 2.0] * 100})
    pq.write_table(words, tmp_path / "a.parquet")
    pq.write_table(gaps, tmp_path / "b.parquet")

    found = plan(tmp_path)

    assert found is not None
    # As the resolved job says it, which is run again.
    assert found == plan(tmp_path, columns={"x": "text"}, window_rows=found[0])
    assert found == plan(tmp_path, columns={"x": "text"})


def test_a_small_table_is_read_whole_whatever_its_types(tmp_path: Path) -> None:
    pd.DataFrame({"x": ["a", "b"], "y": [1.0, 2.0]}).to_parquet(tmp_path / "a.parquet")
    pd.DataFrame({"x": [1.0, 2.0], "y": [1.0, 2.0]}).to_parquet(tmp_path / "b.parquet")

    assert plan(tmp_path) is None
