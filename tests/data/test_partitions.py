"""Columns that the names of folders hold."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pytest

from dnnjob.config import DataConfig, resolve_job
from dnnjob.data import inference_rows, order
from dnnjob.data.draft import draft_job
from dnnjob.data.inference_rows import read_rows
from dnnjob.data.raw_columns import Texts
from dnnjob.data.sources import peek_columns
from dnnjob.data.table import Table
from dnnjob.data.table_loading import open_table
from dnnjob.errors import DataError
from dnnjob.tasks import Crew, StopFlag

YEARS = (2021, 2022, 2023)
Write = Callable[[pd.DataFrame, Path], None]


def write_parquet(frame: pd.DataFrame, path: Path) -> None:
    frame.to_parquet(path.with_suffix(".parquet"), row_group_size=64)


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    frame.to_csv(path.with_suffix(".csv"), index=False)


@pytest.fixture(params=[write_parquet, write_csv], ids=["parquet", "csv"])
def write(request: pytest.FixtureRequest) -> Write:
    return request.param  # type: ignore[no-any-return]


def make_rows(year: int, num_rows: int = 200) -> pd.DataFrame:
    x = np.random.default_rng(year).normal(size=num_rows).round(3)
    return pd.DataFrame({"x": x, "y": x + 1000 * (year - 2020)})


def write_years(folder: Path, write: Write) -> Path:
    # The order of writing is not that of reading.
    for year in reversed(YEARS):
        (folder / f"year={year}").mkdir(parents=True)
        write(make_rows(year), folder / f"year={year}" / "part-0")
    return folder


def open_whole(tmp_path: Path, source: Path, **data: Any) -> Table:
    values = {"source": str(source), "target": "y", **data}
    job = resolve_job({"name": "t", "data": values}, origin="test")
    crew = Crew(StopFlag())
    scratch = tmp_path / "scratch"
    return open_table(
        job, make_scratch=partial(make_folder, scratch), threads=1, crew=crew, kept=None
    )


def make_folder(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.fixture(params=["memory", "streamed"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "streamed":
        monkeypatch.setattr(order, "_MIN_WINDOW_ROWS", 1)
        monkeypatch.setattr(order, "_WINDOW_BYTES", 2**9)
        monkeypatch.setattr(inference_rows, "PIECE_ROWS", 64)
    return str(request.param)


@pytest.mark.parametrize("glob", ["", "*/part-0.*", "year=202?/*", "**/part*"])
def test_a_column_of_folders_is_a_feature_as_arrow_gives_it(
    tmp_path: Path, write: Write, way: str, glob: str
) -> None:
    folder = write_years(tmp_path / "t", write)

    table = open_whole(tmp_path, folder / glob if glob else folder)

    kind = "csv" if write is write_csv else "parquet"
    truth = ds.dataset(folder, format=kind, partitioning="hive").to_table().to_pandas()
    assert table.features == ("x", "year")
    assert table.kinds["year"] == "numeric"
    pieces = list(table.pieces(size=table.num_rows))
    years = np.concatenate([np.asarray(piece.block["year"]) for piece in pieces])
    np.testing.assert_array_equal(years, truth["year"])
    np.testing.assert_array_equal(np.concatenate([piece.y for piece in pieces]), truth["y"])


def test_predict_finds_it_in_the_path_of_a_single_file(
    tmp_path: Path, write: Write, way: str
) -> None:
    folder = write_years(tmp_path / "t", write)
    (file,) = (folder / "year=2022").iterdir()
    data = DataConfig(source=str(folder), target="y")

    found = list(read_rows(str(file), {"x": "numeric", "year": "numeric"}, data))

    assert len(found) == (4 if way == "streamed" else 1)
    assert {year for rows in found for year in np.asarray(rows.block["year"])} == {2022.0}


@pytest.mark.parametrize(
    ("names", "kind", "values"),
    [
        (("month=01", "month=12"), "numeric", [1.0, 12.0]),
        (("rate=0.5", "rate=2"), "numeric", [0.5, 2.0]),
        (("day=2024-01-31", "day=2024-02-01"), "datetime", [1706659200.0, 1706745600.0]),
        (("city=New%20York", "city=Bern"), "text", ["New York", "Bern"]),
        (("year=2021", "year=__HIVE_DEFAULT_PARTITION__"), "numeric", [2021.0, np.nan]),
    ],
)
def test_what_folders_hold_is_typed_alike_beside_text_and_parquet(
    tmp_path: Path,
    write: Write,
    way: str,
    names: tuple[str, str],
    kind: str,
    values: list[Any],
) -> None:
    for name in names:
        (tmp_path / "t" / name).mkdir(parents=True)
        write(make_rows(2021), tmp_path / "t" / name / "a")

    table = open_whole(tmp_path, tmp_path / "t")

    (name,) = set(table.features) - {"x"}
    assert table.kinds[name] == kind
    found: list[Any] = []
    for piece in table.pieces(size=table.num_rows):
        column = piece.block[name]
        found += (
            [column.values[code] for code in column.codes]
            if isinstance(column, Texts)
            else column.tolist()
        )
    in_order = [values[names.index(one)] for one in sorted(names)]
    assert list(pd.unique(pd.Series(found))) == pytest.approx(in_order, nan_ok=True)


def test_folders_above_what_is_named_are_none_of_the_table(tmp_path: Path, write: Write) -> None:
    folder = write_years(tmp_path / "t", write)

    assert peek_columns(DataConfig(source=str(folder / "year=2021"), target="y")) == ("x", "y")


def test_a_column_that_the_files_have_too_is_refused(tmp_path: Path, write: Write) -> None:
    for year in YEARS:
        (tmp_path / f"year={year}").mkdir()
        write(make_rows(year).assign(year=7), tmp_path / f"year={year}" / "a")

    with pytest.raises(DataError, match=r"stands in one place, but .*year=2021.* has year both"):
        peek_columns(DataConfig(source=str(tmp_path), target="y"))


def test_tables_beside_partitions_are_refused(tmp_path: Path, write: Write) -> None:
    folder = write_years(tmp_path / "t", write)
    write(make_rows(2024), folder / "more")

    with pytest.raises(DataError, match=r"tables or partitions in it, but .* has more\."):
        peek_columns(DataConfig(source=str(folder), target="y"))


def test_partitions_of_other_columns_are_refused(tmp_path: Path, write: Write) -> None:
    folder = write_years(tmp_path / "t", write)
    (folder / "month=3").mkdir()
    write(make_rows(2024), folder / "month=3" / "a")

    with pytest.raises(DataError, match="same columns"):
        peek_columns(DataConfig(source=str(folder), target="y"))


def test_init_lists_the_column(tmp_path: Path, write: Write) -> None:
    folder = write_years(tmp_path / "t", write)

    assert "#   year  numeric, 2021 to 2023" in draft_job(str(folder), target="y")


def test_text_beside_parquet_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_csv(make_rows(1), tmp_path / "a")
    write_parquet(make_rows(1), tmp_path / "b")

    with caplog.at_level(logging.WARNING):
        peek_columns(DataConfig(source=str(tmp_path), target="y"))

    assert "a.csv) and of Parquet" in caplog.text
    assert "these train and test" in caplog.text


@pytest.mark.parametrize("inside", ["", "year=2021"])
def test_one_file_of_a_table_with_a_log_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, inside: str
) -> None:
    folder = tmp_path / "t" / inside
    folder.mkdir(parents=True)
    (tmp_path / "t" / "_delta_log").mkdir()
    write_parquet(make_rows(1), folder / "a")

    with caplog.at_level(logging.WARNING):
        peek_columns(DataConfig(source=str(folder / "a.parquet"), target="y"))

    assert "a table of Delta: its log, which is not read" in caplog.text
