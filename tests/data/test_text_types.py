"""Marks of numbers, dates and units: found over a whole table, followed by what reads later."""

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dnnjob.config import DataConfig, JobConfig
from dnnjob.data import csv_reader, inference_rows, text_types
from dnnjob.data.dates import parse_date
from dnnjob.data.inference_rows import read_rows
from dnnjob.data.spool import Scratch
from dnnjob.data.table_loading import open_table as open_job_table
from dnnjob.errors import DataError
from dnnjob.run import resolve_columns
from dnnjob.tasks import Crew, StopFlag
from tests.data.opened import OpenedTable, open_files, open_table

NUM_ROWS = 80
READINGS = ("in memory", "streamed")


def write(path: Path, columns: Mapping[str, Sequence[str]], *, delimiter: str = ";") -> str:
    lines = [delimiter.join(columns)]
    for row in range(NUM_ROWS):
        lines.append(delimiter.join(values[row % len(values)] for values in columns.values()))
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def read(data: DataConfig, reading: str, folder: Path) -> OpenedTable:
    if reading == "in memory":
        return open_table(data)
    (folder / "scratch").mkdir()
    table = open_job_table(
        JobConfig(name="t", data=data.model_copy(update={"window_rows": 20})),
        make_scratch=lambda: folder / "scratch",
        threads=1,
        crew=Crew(StopFlag()),
        kept=None,
    )
    return OpenedTable(table)


def numbers_of(table: OpenedTable, name: str) -> np.ndarray:
    return np.asarray(table.block[name])


def ids_of(table: OpenedTable, name: str) -> pa.ChunkedArray:
    return table.ids[name]


def resolved(data: DataConfig, table: OpenedTable) -> DataConfig:
    """As the job.toml of the run has it."""
    assert table.text_format is not None
    columns = resolve_columns(data, table.kinds, table.text_format)
    return DataConfig.model_validate(
        data.model_dump()
        | table.text_format.keys
        | {"features": table.features, "columns": columns}
    )


@pytest.mark.parametrize("reading", READINGS)
def test_new_files_are_read_with_the_marks_of_the_table_that_trained(
    tmp_path: Path, reading: str
) -> None:
    source = write(tmp_path / "t.csv", {"p": ["7.804,5", "12,25"], "y": ["15608", "24"]})
    data = DataConfig(source=source, target="y")
    table = read(data, reading, tmp_path)
    job = resolved(data, table)
    new = write(tmp_path / "new.csv", {"p": ["7.804"], "y": ["15608"]})

    (rows,) = read_rows(new, {"p": "numeric"}, job)

    assert (job.decimal, job.thousands, job.date_format, job.encoding) == (",", ".", (), "utf-8")
    np.testing.assert_array_equal(rows.block["p"], 7804.0)
    np.testing.assert_array_equal(numbers_of(table, "p")[:2], [7804.5, 12.25])


@pytest.mark.parametrize("pieces", [False, True])
def test_values_with_other_marks_are_refused_with_pattern_and_keys(
    tmp_path: Path, pieces: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pieces:
        monkeypatch.setattr(inference_rows, "PIECE_ROWS", 16)
        monkeypatch.setattr(csv_reader, "_BLOCK_BYTES", 100)
    source = write(tmp_path / "t.csv", {"p": ["7804,5", "12,25"], "y": ["15608", "24"]})
    data = DataConfig(source=source, target="y")
    job = resolved(data, open_table(data))
    new = write(tmp_path / "new.csv", {"p": ["7804,5", "7.804"], "y": ["15608"]})

    pattern = (
        r"'p' must be numeric, that is numbers with ',' before their fraction and nothing between "
        r"thousands, but in .*new\.csv it holds '7\.804'\. Change .*data\.thousands"
    )
    with pytest.raises(DataError, match=pattern):
        list(read_rows(new, {"p": "numeric"}, job))


def test_units_of_training_are_those_of_new_files(tmp_path: Path) -> None:
    source = write(tmp_path / "t.tsv", {"x": ["34 %", "7 %"], "y": ["1", "2"]}, delimiter="\t")
    data = DataConfig(source=source, target="y")
    job = resolved(data, open_table(data))
    assert job.columns["x"].unit == "%"
    new = write(tmp_path / "new.tsv", {"x": ["0.34"], "y": ["1"]}, delimiter="\t")

    with pytest.raises(DataError, match=r"and the unit '%', but .* it holds '0\.34'"):
        list(read_rows(new, {"x": "numeric"}, job))


@pytest.mark.parametrize("is_long", [False, True])
@pytest.mark.parametrize("ending", ["tsv", "parquet"])
@pytest.mark.parametrize(
    ("pay", "values"),
    [
        (["1200", "1,300.5"], [1200.0, 1300.5]),
        (["1200", "900"], [1200.0, 900.0]),
        (["1200", "", "$1,300"], [1200.0, np.nan, 1300.0]),
    ],
)
def test_a_plain_number_is_one_of_the_unit_of_training(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pay: list[str],
    values: list[float],
    ending: str,
    is_long: bool,
) -> None:
    monkeypatch.setattr(inference_rows, "PIECE_ROWS", 1 if is_long else 2**16)
    columns = {"pay": ["$1,200", "$3,100.5"], "y": ["1", "2"]}
    data = DataConfig(source=write(tmp_path / "t.tsv", columns, delimiter="\t"), target="y")
    job = resolved(data, open_table(data))
    assert job.columns["pay"].unit == "$"
    new = tmp_path / f"new.{ending}"
    if ending == "parquet":
        pd.DataFrame({"pay": pay}).to_parquet(new)
    else:
        write(new, {"pay": pay, "y": ["1"]}, delimiter="\t")

    found = [rows.block["pay"] for rows in read_rows(str(new), {"pay": "numeric"}, job)]

    told = np.concatenate([np.asarray(one) for one in found])
    np.testing.assert_array_equal(told[: len(pay)], values)


@pytest.mark.parametrize("other", ["€1,200", "1200 kg"])
def test_another_unit_than_that_of_training_is_refused(tmp_path: Path, other: str) -> None:
    columns = {"pay": ["$1,200", "$3,100"], "y": ["1", "2"]}
    data = DataConfig(source=write(tmp_path / "t.tsv", columns, delimiter="\t"), target="y")
    job = resolved(data, open_table(data))
    new = write(tmp_path / "new.tsv", {"pay": ["1300", other], "y": ["1"]}, delimiter="\t")

    with pytest.raises(DataError, match=rf"and the unit '\$', but .* it holds '{other}'"):
        list(read_rows(new, {"pay": "numeric"}, job))


@pytest.mark.parametrize("reading", READINGS)
def test_one_column_tells_the_marks_of_another(tmp_path: Path, reading: str) -> None:
    columns = {"lot": ["1,202", "939"], "pay": ["1.5", "2.25"], "y": ["1", "2", "3"]}
    data = DataConfig(source=write(tmp_path / "t.tsv", columns, delimiter="\t"), target="y")

    table = read(data, reading, tmp_path)

    np.testing.assert_array_equal(numbers_of(table, "lot")[:2], [1202, 939])
    assert not [warning for warning in table.warnings if "lot" in warning]


WARNINGS = {
    "two ways": (["1.234", "12.343"], r'x holds numbers such as \'1\.234\', .*data\.decimal = ","'),
    "thousands or fractions": (["1,234", "939"], r"x holds numbers such as '1,234', which may be"),
    "a unit": (["78.3 m2", "9 m2"], r'x is taken for text, such as \'78\.3 m2\'.*unit = "m2"'),
    "dates": (["01/02/2024", "03/04/2024"], r"%d/%m/%Y or as %m/%d/%Y\. Set data\.date_format"),
    "dates of other formats": (
        ["5-Jan-2024", "31-Dec-2023"],
        r"such as '5-Jan-2024'\. If these are dates, name \"%d-%b-%Y\" in data\.date_format\.",
    ),
    "dates of two orders": (
        ["01/02/24", "03/04/24"],
        r'If these are dates, name "%m/%d/%y" or "%d/%m/%y" in data\.date_format\.',
    ),
    "dates of two formats": (
        ["2024-01-31", "31.01.2024"],
        r'name "%d\.%m\.%Y" in data\.date_format and set data\.columns\.x\.kind = "datetime"',
    ),
    "days as numbers": (["20240131", "20231201"], r'dates, name "%Y%m%d" .*kind = "datetime"'),
    "zeros": (["01234", "20095"], r'zeros\. If they are codes, set .*kind = "text"'),
}


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("case", WARNINGS)
def test_doubts_name_column_example_and_key(tmp_path: Path, case: str, reading: str) -> None:
    values, pattern = WARNINGS[case]
    source = write(tmp_path / "t.csv", {"x": values, "y": ["1", "2", "3"]})
    table = read(DataConfig(source=source, target="y"), reading, tmp_path)
    (warning,) = [warning for warning in table.warnings if warning.startswith("x ")][:1]
    assert re.search(pattern, warning), warning


def test_numbers_that_are_no_days_are_not_taken_for_dates(tmp_path: Path) -> None:
    source = write(tmp_path / "t.csv", {"x": ["20241301", "20231232"], "y": ["1", "2", "3"]})

    table = open_table(DataConfig(source=source, target="y"))

    assert not [warning for warning in table.warnings if "date_format" in warning]


def test_a_text_that_may_be_a_number_is_not_called_an_id_as_well(tmp_path: Path) -> None:
    values = [f"{place}.5 m2" for place in range(40)]
    source = write(tmp_path / "t.csv", {"x": values, "y": [str(n * n) for n in range(40)]})

    table = open_table(DataConfig(source=source, target="y"))

    assert [warning for warning in table.warnings if "x" in warning.split()] == [
        "x is taken for text, such as '0.5 m2'. If these are numbers, set "
        'data.columns.x.unit = "m2".'
    ]


def test_a_target_that_carries_a_unit_names_the_key(tmp_path: Path) -> None:
    source = write(tmp_path / "t.csv", {"x": ["1", "2", "3"], "y": ["1 km", "2 km", "7 km"]})

    with pytest.raises(DataError, match=r'set data\.columns\.y\.unit = "km"\.$'):
        open_table(DataConfig(source=source, target="y"))


def test_a_column_that_the_others_contradict_is_text_with_a_warning(tmp_path: Path) -> None:
    columns = {"a": ["1.5"], "b": ["2.25"], "odd": ["1,5", "2,5"], "y": ["1", "2"]}
    table = open_table(DataConfig(source=write(tmp_path / "t.csv", columns), target="y"))
    assert table.kinds["odd"] == "text"
    (warning,) = [one for one in table.warnings if one.startswith("odd is taken for text: '1,5'")]
    assert 'set data.decimal = ","' in warning


def test_two_orders_of_day_and_month_are_neither(tmp_path: Path) -> None:
    columns = {
        "a": ["31/12/2020", "01/02/2020"],
        "b": ["12/31/2020", "01/02/2020"],
        "y": ["1", "2"],
    }
    table = open_table(DataConfig(source=write(tmp_path / "t.csv", columns), target="y"))
    assert table.kinds == {"a": "text", "b": "text"}


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("gap", ["", "NaN"])
def test_large_ids_with_a_gap_stay_apart(tmp_path: Path, reading: str, gap: str) -> None:
    first = 1582218195625938901
    ids = [str(first + row) for row in range(NUM_ROWS - 1)] + [gap]
    columns = {"id": ids, "x": ["1", "2", "3"], "y": ["1", "2"]}
    data = DataConfig(source=write(tmp_path / "t.csv", columns), target="y", id_columns=("id",))

    found = ids_of(read(data, reading, tmp_path), "id")

    assert found.type == pa.int64()
    assert found.to_pylist() == [*(first + row for row in range(NUM_ROWS - 1)), None]


def test_ids_with_zeros_before_them_stay_as_they_are_written(tmp_path: Path) -> None:
    columns = {"id": ["007", "12"], "x": ["1", "2", "3"], "y": ["1", "2"]}
    data = DataConfig(source=write(tmp_path / "t.csv", columns), target="y", id_columns=("id",))
    assert open_table(data).ids["id"].to_pylist()[:2] == ["007", "12"]


@pytest.mark.long
def test_time_to_read_grows_as_the_columns_do(tmp_path: Path) -> None:
    def seconds(num_columns: int) -> float:
        columns = {f"c{number}": ["101", "202", "303"] for number in range(num_columns)}
        data = DataConfig(source=write(tmp_path / f"{num_columns}.csv", columns), target="c0")
        began = time.process_time()
        open_table(data)
        return time.process_time() - began

    times = [(seconds(400), seconds(1600)) for _ in range(3)]
    few, many = (min(each) for each in zip(*times, strict=True))
    # In proportion four times; by the square of them sixteen.
    assert many < 8 * few


def write_parquet(path: Path, **columns: list[str]) -> str:
    rows = range(40)
    values = {name: [texts[row % len(texts)] for row in rows] for name, texts in columns.items()}
    pq.write_table(pa.table({"y": list(rows), **values}), path)
    return str(path)


def test_texts_of_parquet_that_are_all_numbers_are_told_with_the_key(tmp_path: Path) -> None:
    data = DataConfig(source=write_parquet(tmp_path / "t.parquet", x=["1", "2", "7"]), target="y")
    (warning,) = open_table(data).warnings
    assert "x is taken for text, as the file has it, but all of its texts are numbers" in warning
    assert 'data.columns.x.kind = "numeric"' in warning
    said = DataConfig.model_validate(data.model_dump() | {"columns": {"x": "text"}})
    assert open_table(said).warnings == ()


@pytest.mark.parametrize("way", ["memory", "streamed"])
def test_texts_of_parquet_are_numbers_and_dates_as_the_job_says(tmp_path: Path, way: str) -> None:
    texts, days = ["1.234,5 m2", " 7 m2", "-0,25m2"], ["31.12.2020", "1.2.2021", "29.2.2024"]
    source = write_parquet(tmp_path / "t.parquet", x=texts, y=["1,5", "2", "3"], day=days)
    marks = {"decimal": ",", "thousands": ".", "date_format": "%d.%m.%Y"}
    columns = {"x": {"kind": "numeric", "unit": "m2"}, "y": "numeric", "day": "datetime"}
    values = {"source": source, "target": "y", "columns": columns, **marks}
    data = DataConfig.model_validate(values)

    if way == "memory":
        table = open_table(data)
    else:
        job = JobConfig(name="t", data=data)
        table = OpenedTable(open_files(job, block_rows=None, get_scratch=lambda: Scratch(tmp_path)))

    np.testing.assert_array_equal(table.number("x")[:3], [1234.5, 7, -0.25])
    np.testing.assert_array_equal(table.y[:3], [1.5, 2, 3])
    first = np.array(["2020-12-31", "2021-02-01", "2024-02-29"], "M8[s]").astype(float)
    np.testing.assert_array_equal(table.number("day")[:3], first)


def test_texts_of_parquet_in_other_marks_name_the_keys(tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "t.parquet", x=["1,5", "2"])
    data = DataConfig.model_validate({"source": source, "target": "y", "columns": {"x": "numeric"}})
    with pytest.raises(DataError, match=r"holds '1,5'.*data\.decimal, data\.thousands"):
        open_table(data)


def test_a_target_of_numbers_as_texts_names_its_cure(tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "t.parquet", x=["1", "a"], y=["3", "4"])
    with pytest.raises(DataError, match=r'set data\.columns\.y\.kind = "numeric"'):
        open_table(DataConfig(source=source, target="y"))
    cured = DataConfig.model_validate(
        {"source": source, "target": "y", "columns": {"y": "numeric"}}
    )
    np.testing.assert_array_equal(open_table(cured).y[:2], [3.0, 4.0])


def test_a_word_for_a_gap_is_told_however_frequent(tmp_path: Path) -> None:
    source = write(tmp_path / "t.csv", {"x": ["1", "2", "3", r"\N"], "y": ["1", "2", "3"]})
    told = [one for one in open_table(DataConfig(source=source, target="y")).warnings if "x" in one]
    assert r"x is taken for text, since 20 of 80 rows hold no number, such as '\\N'" in told[0]
    assert "name it in data.missing" in told[0]


@pytest.mark.parametrize("pattern", ["2024-01-{:02}", "{:02}.01.2024"])
def test_dates_that_are_guessed_are_parsed_once_whatever_other_formats_are_told(
    pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[str]()

    def count(text: str, formats: Sequence[str] = (), *, also_iso: bool = True) -> float:
        asked.append(text)
        return parse_date(text, formats, also_iso=also_iso)

    monkeypatch.setattr(text_types, "parse_date", count)
    days = [pattern.format(day) for day in range(1, 29)]

    text_types.Evidence().add(pa.array(days))

    # The first days rule formats out.
    assert all(asked.count(day) == 1 for day in days[13:])


@pytest.mark.parametrize(
    ("value", "kind"),
    [("01234", "text"), ("Jan 2010", "text"), ("34 kg", "text"), ("20240131", "numeric")],
)
@pytest.mark.parametrize("reading", READINGS)
def test_a_column_whose_kind_the_job_says_is_in_no_doubt(
    tmp_path: Path, value: str, kind: str, reading: str
) -> None:
    source = write(tmp_path / "t.csv", {"x": [value], "a": ["1.5", "2.5"], "y": ["1", "2"]})
    columns = {"x": {"kind": kind}}
    data = DataConfig.model_validate({"source": source, "target": "y", "columns": columns})

    found = read(data, reading, tmp_path).text_format

    assert found is not None
    assert found.warnings == ()
