"""The table as files, read back by others."""

import json
from datetime import datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dnnjob.collect.collected_runs import read_runs
from dnnjob.collect.collected_table import make_table
from dnnjob.collect.write import check_suffix, publish, to_json, write_table
from dnnjob.errors import JobError, MissingError
from tests.collect.make_runs import Wish, write_run


@pytest.fixture
def table(root: Path) -> pa.Table:
    """A complete run, and one whose name wants quoting."""
    write_run(root)
    write_run(root, Wish(number=1, name='a "name", <b>é'), "FAILED")
    return make_table(read_runs(root))


def test_parquet_keeps_every_value_and_type(table: pa.Table, tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", table)
    assert pq.read_table(tmp_path / "t.parquet").equals(table)


def test_csv_reads_back_with_its_numbers_and_names(table: pa.Table, tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", table)
    frame = pd.read_csv(tmp_path / "t.csv", parse_dates=["started_at"])
    assert frame.columns.tolist() == table.column_names
    assert frame["test_mse"].dropna().tolist() == [12.5]
    assert 'a "name", <b>é' in frame["name"].tolist()


def test_json_is_a_list_of_lines_with_iso_times(table: pa.Table, tmp_path: Path) -> None:
    write_table(tmp_path / "t.JSON", table)
    lines = json.loads((tmp_path / "t.JSON").read_text())
    assert [list(line) for line in lines] == [table.column_names] * 2
    complete = next(line for line in lines if line["state"] == "COMPLETED")
    assert complete["test_mse"] == 12.5
    assert datetime.fromisoformat(complete["started_at"]).year == 2026


def test_no_lines_are_an_empty_list(table: pa.Table) -> None:
    assert json.loads(to_json(table.slice(0, 0))) == []


def test_what_is_no_plain_value_is_refused_in_json() -> None:
    with pytest.raises(TypeError, match="plain values and times, but got bytes"):
        to_json(pa.table({"a": [b"x"]}))


@pytest.mark.parametrize("name", ["table", "table.xlsx", ".csv"])
def test_a_file_of_another_kind_is_refused(name: str) -> None:
    with pytest.raises(JobError, match=r"ends in .parquet, .csv, .json, .html, but got"):
        check_suffix(Path(name))


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MissingError, match="cannot be written"):
        publish(tmp_path / "file" / "t.csv", b"")
