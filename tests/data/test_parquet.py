"""Row groups of several files, read as one table."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dnnjob.data.parquet import ParquetRows
from dnnjob.data.schema_merge import CommonColumns
from dnnjob.errors import DataError

NUM_ROWS = 1000


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    table = pa.table({"x": np.arange(NUM_ROWS), "y": np.arange(NUM_ROWS) * 0.5})
    paths = []
    for number, (first, stop) in enumerate([(0, 100), (100, 100), (100, 730), (730, NUM_ROWS)]):
        paths.append(tmp_path / f"{number}.parquet")
        pq.write_table(table.slice(first, stop - first), paths[-1], row_group_size=64)
    return paths


def open_rows(paths: list[Path], names: list[str]) -> ParquetRows:
    rows = ParquetRows.open(paths)
    kinds = dict.fromkeys(names, "numeric")
    return rows.wanting(CommonColumns.of(rows.schemas.values(), names, kinds, missing=()))


def test_row_groups_of_all_files_are_one_table(paths: list[Path]) -> None:
    rows = open_rows(paths, ["x"])

    assert rows.num_rows == NUM_ROWS
    assert rows.starts[0] == 0
    assert rows.starts[-1] == NUM_ROWS
    assert rows.read(range(len(rows.groups)))["x"].to_pylist() == list(range(NUM_ROWS))


@pytest.mark.parametrize("size", [1, 7, 64, 333, 5000])
@pytest.mark.parametrize("first", [0, 99, 100, 731, 999, 1000])
def test_pieces_hide_where_files_end(paths: list[Path], size: int, first: int) -> None:
    pieces = list(open_rows(paths, ["y", "x"]).batches(size=size, first=first))

    assert [start for start, _ in pieces] == list(range(first, NUM_ROWS, size))
    assert all(table.num_rows == size for _, table in pieces[:-1])
    found = [row for _, table in pieces for row in table["x"].to_pylist()]
    assert found == list(range(first, NUM_ROWS))
    assert all(table.column_names == ["y", "x"] for _, table in pieces)


def test_a_damaged_row_group_is_named_with_its_file_and_place(paths: list[Path]) -> None:
    rows = open_rows(paths, ["x", "y"])
    broken = next(group for group in rows.groups if group.path == paths[2] and group.number == 3)
    content = bytearray(paths[2].read_bytes())
    content[broken.offset : broken.offset + 64] = b"\xff" * 64
    paths[2].write_bytes(content)

    with pytest.raises(DataError, match=f"{paths[2]} row group 3 at byte {broken.offset} is not"):
        rows.read(range(len(rows.groups)))
    with pytest.raises(DataError, match=f"row group 3 at byte {broken.offset}"):
        list(rows.batches(size=100))


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_text("x,y\n1,2\n")

    with pytest.raises(DataError, match="its footer is not"):
        ParquetRows.open([path])
