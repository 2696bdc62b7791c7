"""Rows to predict, piece by piece."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from dnnjob.config import DataConfig
from dnnjob.data import inference_rows
from dnnjob.data.encoding import FeatureKind
from dnnjob.data.inference_rows import read_rows
from dnnjob.data.raw_columns import RawColumn, Texts
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
    monkeypatch.setattr(inference_rows, "PIECE_ROWS", 100)
    pd.DataFrame({"x": np.arange(10_000.0)}).to_parquet(tmp_path / "a.parquet", row_group_size=100)
    pieces = read_rows(str(tmp_path), {"x": "numeric"}, DATA)

    first = next(pieces)

    rest = [np.asarray(rows.block["x"]) for rows in pieces]
    assert first.num_rows == 100
    np.testing.assert_array_equal(
        np.concatenate([np.asarray(first.block["x"]), *rest]), np.arange(10_000.0)
    )


def write_text(folder: Path) -> dict[str, pd.DataFrame]:
    """Two files that need all their rows to be read alike."""
    folder.mkdir()
    rows = np.arange(500)
    first = pd.DataFrame(
        {
            # Booleans, dates and codes as written, gaps late, a comma once.
            "price": np.where(rows == 450, "1.234,5", "1234"),
            "zip": [f"{row % 7:03d}" for row in rows],
            "when": np.where(rows < 400, "2024-01-05", None),
            "is_new": np.where(rows % 2, "yes", "no"),
            "y": np.where(rows < 300, rows, np.nan),
            "key": np.where(rows < 490, rows.astype(str), "last"),
        }
    )
    second = first.assign(price="17", y=rows / 4)
    for name, frame in {"a": first, "b": second}.items():
        frame.to_csv(folder / f"{name}.csv", sep=";", decimal=",", index=False)
    return {"a": first, "b": second}


def test_long_text_is_read_in_pieces_as_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path / "t")
    kinds: dict[str, FeatureKind] = {
        "is_new": "boolean",
        "price": "numeric",
        "when": "datetime",
        "zip": "codes",
    }
    (whole,) = read_rows(str(tmp_path / "t"), kinds, DATA)
    monkeypatch.setattr(inference_rows, "PIECE_ROWS", 64)
    monkeypatch.setattr("dnnjob.data.csv_reader._BLOCK_BYTES", 2**12)

    pieces = list(read_rows(str(tmp_path / "t"), kinds, DATA))

    assert [piece.num_rows for piece in pieces] == [64] * 15 + [40]
    for name in kinds:
        parts = [piece.block[name] for piece in pieces]
        assert list(values_of(whole.block[name])) == [
            value for part in parts for value in values_of(part)
        ]
    found = [np.nan_to_num(piece.y_true, nan=-1) for piece in pieces if piece.y_true is not None]
    assert whole.y_true is not None
    np.testing.assert_array_equal(np.concatenate(found), np.nan_to_num(whole.y_true, nan=-1))
    keys = pa.chunked_array([chunk for piece in pieces for chunk in piece.ids["key"].chunks])
    assert keys.to_pylist() == whole.ids["key"].to_pylist()


def values_of(column: RawColumn) -> list[str | float | None]:
    if isinstance(column, Texts):
        return [None if code < 0 else column.values[code] for code in column.codes]
    return [None if np.isnan(value) else float(value) for value in column]


def test_a_bad_text_late_in_a_long_file_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference_rows, "PIECE_ROWS", 64)
    monkeypatch.setattr("dnnjob.data.csv_reader._BLOCK_BYTES", 2**12)
    pd.DataFrame({"x": [*range(300), "high"]}).to_csv(tmp_path / "t.csv", index=False)

    with pytest.raises(DataError, match=r"t\.csv.*'high'"):
        list(read_rows(str(tmp_path / "t.csv"), {"x": "numeric"}, DATA))
