"""Rows to predict, piece by piece."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from dnnjob.config import DataConfig
from dnnjob.data import incoming
from dnnjob.data.incoming import read_rows
from dnnjob.errors import DataError

DATA = DataConfig(source="t.parquet", target="y", id_columns=("key",))


def test_ids_of_other_types_in_other_files_are_texts(tmp_path: Path) -> None:
    pd.DataFrame({"x": [1.0], "key": [7]}).to_parquet(tmp_path / "a.parquet")
    pd.DataFrame({"x": [2.0], "key": ["b"]}).to_parquet(tmp_path / "b.parquet")

    found = list(read_rows(str(tmp_path), {"x": "numeric"}, DATA))

    assert {rows.ids["key"].type for rows in found} == {pa.string()}
    assert [key for rows in found for key in rows.ids["key"].to_pylist()] == ["7", "b"]


def test_a_target_of_texts_is_no_target(tmp_path: Path) -> None:
    pd.DataFrame({"x": [1.0], "y": ["high"]}).to_parquet(tmp_path / "a.parquet")

    (rows,) = read_rows(str(tmp_path), {"x": "numeric"}, DATA)

    assert rows.y_true is None


def test_a_table_without_rows_is_refused_before_it_is_read(tmp_path: Path) -> None:
    pd.DataFrame({"x": np.zeros(0)}).to_parquet(tmp_path / "a.parquet")

    with pytest.raises(DataError, match="only a header"):
        read_rows(str(tmp_path), {"x": "numeric"}, DATA)


def test_pieces_follow_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "PIECE_ROWS", 100)
    pd.DataFrame({"x": np.arange(10_000.0)}).to_parquet(tmp_path / "a.parquet", row_group_size=100)
    pieces = read_rows(str(tmp_path), {"x": "numeric"}, DATA)

    first = next(pieces)

    rest = [np.asarray(rows.block["x"]) for rows in pieces]
    assert first.num_rows == 100
    np.testing.assert_array_equal(
        np.concatenate([np.asarray(first.block["x"]), *rest]), np.arange(10_000.0)
    )
