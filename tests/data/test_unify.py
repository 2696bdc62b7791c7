"""Columns whose types differ between files: the same streamed as in memory, or refused alike."""

import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dnnjob.config import DataConfig, JobConfig
from dnnjob.data.raw_columns import Texts
from dnnjob.data.split import TRAIN
from dnnjob.data.spool import Scratch
from dnnjob.data.table import Piece, Table
from dnnjob.errors import DataError
from tests.data.opened import OpenedTable, open_files, open_table

NUM_ROWS = 60
DAY = datetime.datetime(2024, 5, 6, 7, 8, 9)
ZONE = datetime.timezone(datetime.timedelta(hours=2))
Columns = dict[str, pa.Array]


def write_files(folder: Path, *files: Columns) -> DataConfig:
    """A job's table of files; `x`, `y` and `id` are filled where they are not given."""
    for number, columns in enumerate(files):
        rows = np.arange(NUM_ROWS) + number * NUM_ROWS
        whole = {"x": pa.array(rows * 0.5), "y": pa.array(rows * 1.0), "id": pa.array(rows)}
        pq.write_table(pa.table(whole | columns), folder / f"{number}.parquet", row_group_size=32)
    return DataConfig(source=str(folder), target="y", features=("x",), id_columns=("id",))


def stream(data: DataConfig, folder: Path, *, block_rows: int = 1000) -> Table:
    scratch = folder.parent / f"scratch-{block_rows}"
    scratch.mkdir()
    job = JobConfig(name="t", data=data)
    return open_files(job, block_rows=block_rows, get_scratch=lambda: Scratch(scratch))


def whole(table: Table) -> Piece:
    (piece,) = table.pieces(size=10**6)
    return piece


def assert_alike(piece: Piece, table: OpenedTable) -> None:
    np.testing.assert_array_equal(piece.y, table.y)
    ours, theirs = piece.block["x"], table.block["x"]
    if isinstance(theirs, Texts):
        assert isinstance(ours, Texts)
        ours, theirs = (np.array([*one.values, None])[one.codes] for one in (ours, theirs))
    np.testing.assert_array_equal(ours, theirs)
    assert piece.ids["id"].to_pylist() == table.ids["id"].to_pylist()


def repeated(*values: object, dtype: pa.DataType | None = None) -> pa.Array:
    return pa.array((list(values) * NUM_ROWS)[:NUM_ROWS], dtype)


MIXED: dict[str, list[Columns]] = {
    "int then float": [{"x": repeated(1, 2)}, {"x": repeated(0.5, None)}],
    "int32 then int64": [
        {"x": repeated(1, 2, dtype=pa.int32())},
        {"x": repeated(2**40, 3)},
    ],
    "bool then int": [{"x": repeated(True, False, None)}, {"x": repeated(7, 8)}],
    "null then text": [{"x": pa.nulls(NUM_ROWS)}, {"x": repeated("a", "b", None)}],
    "empty texts then numbers": [
        {"x": pa.nulls(NUM_ROWS, pa.string())},
        {"x": repeated(1.5, 2.5)},
    ],
    "date then time": [
        {"x": repeated(DAY.date(), None, dtype=pa.date32())},
        {"x": repeated(DAY, dtype=pa.timestamp("us"))},
    ],
    "naive then zoned": [
        {"x": repeated(DAY, dtype=pa.timestamp("us"))},
        {"x": repeated(DAY.replace(tzinfo=ZONE), dtype=pa.timestamp("ns", tz="+02:00"))},
    ],
    "dictionary then text": [
        {"x": repeated("a", "b").dictionary_encode()},
        {"x": repeated("b", "c", None)},
    ],
    "bytes then text": [
        {"x": repeated(b"a", b"b", dtype=pa.binary())},
        {"x": repeated("b", "c")},
    ],
    "ids of numbers then texts": [{"id": repeated(7, 8)}, {"id": repeated("a", "b")}],
    "targets of ints then floats": [{"y": repeated(1, 2)}, {"y": repeated(0.25, 0.75)}],
    "targets of int32 then int64": [
        {"y": repeated(1, 2, dtype=pa.int32())},
        {"y": repeated(2**40, 3)},
    ],
}


@pytest.mark.parametrize("block_rows", [1000, 20], ids=["as it is", "copied"])
@pytest.mark.parametrize("name", MIXED)
def test_files_of_other_types_are_one_table_as_in_memory(
    tmp_path: Path, name: str, block_rows: int
) -> None:
    (tmp_path / "t").mkdir()
    data = write_files(tmp_path / "t", *MIXED[name])
    table = stream(data, tmp_path / "t", block_rows=block_rows)

    assert_alike(whole(table), open_table(data))
    piece = table.read_split(TRAIN, 0, table.num_split_rows(TRAIN))
    np.testing.assert_array_equal(piece.y, open_table(data).y[piece.row_ids])


@pytest.mark.parametrize("kind", ["text", "codes"])
def test_a_named_kind_joins_numbers_and_texts(tmp_path: Path, kind: str) -> None:
    (tmp_path / "t").mkdir()
    files = [{"x": repeated(2.0, None)}, {"x": repeated("2", "7")}, {"x": repeated(2**53 + 1)}]
    data = write_files(tmp_path / "t", *files)
    data = DataConfig.model_validate(data.model_dump() | {"columns": {"x": {"kind": kind}}})

    assert_alike(whole(stream(data, tmp_path / "t")), open_table(data))


def test_weights_of_ints_then_floats_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    files = [{"w": repeated(1, 2)}, {"w": repeated(0.25, 0.75)}]
    data = write_files(tmp_path / "t", *files)
    data = DataConfig.model_validate(data.model_dump() | {"weight_column": "w"})

    found = whole(stream(data, tmp_path / "t", block_rows=20)).weights

    np.testing.assert_array_equal(found, open_table(data).weights)


def test_numbers_beside_texts_are_refused_as_in_memory(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    data = write_files(tmp_path / "t", {"x": repeated(1)}, {"x": repeated("a")})

    told = []
    for read in (lambda: open_table(data), lambda: stream(data, tmp_path / "t")):
        with pytest.raises(DataError) as error:
            read()
        told.append(str(error.value))
    assert told[0] == told[1]


def test_bytes_that_are_no_text_are_told_with_file_and_column(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    files = [{"x": repeated(b"a", dtype=pa.binary())}, {"x": repeated(b"\xff", dtype=pa.binary())}]
    data = write_files(tmp_path / "t", *files)

    with pytest.raises(DataError, match=r"'x' in .*1\.parquet cannot be read"):
        stream(data, tmp_path / "t")


def test_categories_of_pandas_agree_with_texts(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    data = write_files(tmp_path / "t", {"x": repeated("a", "b")}, {"x": repeated("b")})
    frame = pd.read_parquet(tmp_path / "t" / "0.parquet").astype({"x": "category"})
    frame.to_parquet(tmp_path / "t" / "0.parquet", index=False)

    assert_alike(whole(stream(data, tmp_path / "t")), open_table(data))


@pytest.mark.parametrize("read", ["in memory", "streamed"])
def test_dates_of_96_bits_are_those_of_64(tmp_path: Path, read: str) -> None:
    days = [datetime.datetime(9999, 12, 31), *[datetime.datetime(2020, 1, 2)] * 2]
    columns = {
        "x": pa.array(days * 20, pa.timestamp("us")),
        "y": pa.array(np.arange(60.0)),
        "id": pa.array(np.arange(60)),
    }
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table(columns), path, use_deprecated_int96_timestamps=True)
    data = DataConfig(source=str(path), target="y", features=("x",), id_columns=("id",))

    found = (
        open_table(data).block["x"]
        if read == "in memory"
        else whole(stream(data, tmp_path)).block["x"]
    )

    np.testing.assert_array_equal(found, np.array(days * 20, "M8[s]").astype(float))
