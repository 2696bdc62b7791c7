"""Columns of several files that become one."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dnnjob.config import DataConfig
from tests.data.opened import open_table

LARGE = 1582218195625938901


@pytest.mark.parametrize(
    ("other", "dtype", "ids"),
    [
        (pa.nulls(1), pa.int64(), [LARGE, None]),
        (pa.array([7], pa.int32()), pa.int64(), [LARGE, 7]),
        (pa.array(["7"]), pa.string(), [str(LARGE), "7"]),
    ],
)
def test_ids_of_several_types_keep_their_digits(
    tmp_path: Path, other: pa.Array, dtype: pa.DataType, ids: list[object]
) -> None:
    for name, column in {"a": pa.array([LARGE]), "b": other}.items():
        rows = {"id": column, "x": [float(len(name))], "y": [1.0 if name == "a" else 2.0]}
        pq.write_table(pa.table(rows), tmp_path / f"{name}.parquet")

    found = open_table(DataConfig(source=str(tmp_path), target="y", id_columns=("id",))).ids["id"]

    assert found.type == dtype
    assert found.to_pylist() == ids
