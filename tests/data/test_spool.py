"""The copy of a table in small row groups, and where it lies."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dnnjob.data.spool import Copy, CopyPlan
from dnnjob.errors import DataError, JobError

NUM_ROWS = 1000


def make_table() -> pa.Table:
    texts = [f"row {number} of many" for number in range(NUM_ROWS)]
    return pa.table({"x": np.arange(NUM_ROWS) * 0.5, "t": texts})


def make_plan(folder: Path, *, width: float = 20.0, num_rows: int = NUM_ROWS) -> CopyPlan:
    schema = make_table().schema
    return CopyPlan.make(schema, folder, num_rows=num_rows, block_rows=400, widths={"t": width})


def test_row_groups_are_where_the_copy_said_they_would_be(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    copy = Copy(plan)
    for first in range(0, NUM_ROWS, 130):
        copy.write(make_table().slice(first, 130))
    copy.close()

    rows = plan.open()

    np.testing.assert_array_equal(rows.starts, plan.starts)
    assert rows.num_rows == NUM_ROWS


def test_long_texts_make_small_row_groups_and_need_their_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(make_plan(tmp_path, width=20_000.0).starts) > len(make_plan(tmp_path).starts)

    usage = type("Usage", (), {"free": 2**30})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    Copy(make_plan(tmp_path, num_rows=10**7))
    with pytest.raises(JobError, match=r"needs .* GiB, but .* has 1\.0 GiB left"):
        Copy(make_plan(tmp_path, num_rows=10**7, width=2000.0))


def test_a_disk_that_fills_up_is_told_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "part-000000.parquet").symlink_to("/dev/full")
    copy = Copy(make_plan(tmp_path))

    table = pa.concat_tables([make_table()] * 200)
    with pytest.raises(JobError, match=rf"{tmp_path}: the disk is full\. Set data\.scratch"):
        copy.write(table)


def test_a_bit_that_flips_in_the_copy_is_refused(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    copy = Copy(plan)
    copy.write(make_table())
    copy.close()
    content = bytearray(plan.paths[0].read_bytes())
    # The lowest bit of 250.0, the number in row 500: nothing but a checksum can tell.
    content[content.index(np.float64(250.0).tobytes())] ^= 1
    plan.paths[0].write_bytes(content)

    rows = plan.open()

    told = (
        rf"of {plan.paths[0]} row group \d+ at byte \d+ is not: .*\. It is a copy .*`dnnjob resume`"
    )
    with pytest.raises(DataError, match=told):
        rows.read(range(len(rows.groups)))
