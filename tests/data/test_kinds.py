"""Kinds of columns: what values show, and what a job says."""

import datetime
import decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dnnjob.data.dates import parse_date
from dnnjob.data.encoding import FeatureKind
from dnnjob.data.kinds import ReadAs, arrow_kind, as_kind, infer_arrow
from dnnjob.data.raw_columns import Texts
from dnnjob.data.schema import Column, ColumnData, make_column, make_text_column
from dnnjob.data.schema_merge import read_column
from dnnjob.data.sources import read_all
from dnnjob.errors import DataError


def write(folder: Path, text: str) -> str:
    path = folder / "table.csv"
    path.write_text(text)
    return str(path)


def seconds(text: str) -> float:
    return pd.Timestamp(text).timestamp()


def columns_of(source: str) -> dict[str, Column]:
    return {name: data.column for name, data in read_all(source).items()}


def test_a_csv_column_is_what_its_values_are(tmp_path: Path) -> None:
    columns = columns_of(
        write(
            tmp_path,
            "i,f,b,gaps,t,d,e,big\n"
            "1,1.5,True,,x,2024-01-31,,99999999999999999999999\n"
            "-2,inf,False,2,?,2024-02-01 10:30,,1\n"
            "3,-7,True,NA,3,2024-02-02T10:30:00Z,,2\n",
        )
    )
    assert columns["i"] == Column("i", "numeric", minimum=-2.0, maximum=3.0)
    assert columns["f"] == Column("f", "numeric", num_infinite=1, minimum=-7.0, maximum=1.5)
    assert columns["b"] == Column("b", "boolean", minimum=0.0, maximum=1.0)
    assert columns["gaps"] == Column("gaps", "numeric", num_missing=2, minimum=2.0, maximum=2.0)
    assert columns["t"] == Column("t", "text", num_missing=1, num_text=1, num_values=2, example="x")
    assert columns["d"] == Column(
        "d",
        "datetime",
        minimum=seconds("2024-01-31"),
        maximum=seconds("2024-02-02 10:30"),
        num_text=3,
        example="2024-01-31",
    )
    assert columns["e"] == Column("e", "numeric", num_missing=3)
    assert columns["big"] == Column("big", "numeric", minimum=1.0, maximum=1e23)


def test_booleans_become_zero_and_one_and_keep_their_gaps(tmp_path: Path) -> None:
    found = read_all(write(tmp_path, "b,g\nTrue,TRUE\nFalse,\ntrue,false\n"))
    np.testing.assert_array_equal(found["b"].numbers, [1.0, 0.0, 1.0])
    np.testing.assert_array_equal(found["g"].numbers, [1.0, np.nan, 0.0])
    assert {found[name].column.kind for name in "bg"} == {"boolean"}


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pa.array([1, 2], pa.uint8()), "numeric"),
        (pa.array([1, None], pa.int64()), "numeric"),
        (pa.array([1.5, 2.5], pa.float16()), "numeric"),
        (pa.array([decimal.Decimal("1.25"), None]), "numeric"),
        (pa.array([None, None]), "numeric"),
        (pa.array([True, None]), "boolean"),
        (pa.array(["a", "b"]), "text"),
        (pa.array(["a", "b"], pa.large_string()), "text"),
        (pa.array(["a", "b"], pa.string_view()), "text"),
        (pa.array([b"a", None]), "text"),
        (pa.array(["a", "b"]).dictionary_encode(), "text"),
        (pa.array([3, 4]).dictionary_encode(), "numeric"),
        (pa.array([datetime.datetime(2024, 1, 1)]), "datetime"),
        (pa.array([datetime.date(2024, 1, 1)]), "datetime"),
        (pa.array([[1], [2]]), "other"),
        (pa.array([{"a": 1}]), "other"),
    ],
)
def test_a_parquet_column_is_what_its_type_says(values: pa.Array, kind: str) -> None:
    data = infer_arrow("c", pa.chunked_array([values]))
    assert data.column.kind == kind
    assert data.column.num_missing == values.null_count
    assert data.num_rows == len(values)
    if kind in ("numeric", "boolean"):
        expected = pd.to_numeric(values.to_pandas().astype(object), errors="raise")
        np.testing.assert_array_equal(data.numbers, np.asarray(expected, dtype=float))
        assert data.numbers.dtype == np.float64


def test_a_parquet_nan_counts_as_missing() -> None:
    data = infer_arrow("c", pa.chunked_array([pa.array([1.0, float("nan"), None, float("inf")])]))
    assert (data.column.num_missing, data.column.num_infinite) == (2, 1)


def test_integers_beyond_float64_round_as_in_pandas() -> None:
    data = infer_arrow("c", pa.chunked_array([pa.array([2**53 + 1, 0])]))
    assert data.numbers[0] == float(2**53 + 1)


@pytest.mark.parametrize("kind", ["text", "codes"])
def test_huge_integers_that_name_things_stay_apart(tmp_path: Path, kind: FeatureKind) -> None:
    path = tmp_path / "t.parquet"
    table = pa.table({"id": pa.array([2**53, 2**53 + 1, None], pa.int64()), "y": [1, 2, 3]})
    pq.write_table(table, path)

    wanted = ReadAs(kinds={"id": kind})

    found = read_all(str(path), wanted=wanted)["id"]
    assert rows_of(found) == [str(2**53), str(2**53 + 1), None]
    streamed = read_column("id", table["id"], kind, missing=(), source="s")
    assert isinstance(streamed, Texts)
    assert streamed.values == found.raw.values


def test_integers_beside_gaps_are_codes_as_pandas_writes_them(tmp_path: Path) -> None:
    frame = pd.DataFrame({"zip": [2.0, None, 7.0], "y": [1.0, 2.0, 3.0]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.astype({"zip": "Int64"}).to_parquet(tmp_path / "t.parquet")

    wanted = ReadAs(kinds={"zip": "codes"})

    for name in ("t.csv", "t.parquet"):
        assert rows_of(read_all(str(tmp_path / name), wanted=wanted)["zip"]) == ["2", None, "7"]


def test_an_unknown_arrow_type_is_other() -> None:
    assert arrow_kind(pa.map_(pa.string(), pa.int8())) == "other"


# Gaps


def test_markers_of_missing_values_are_gaps_with_spaces_around_them_too(tmp_path: Path) -> None:
    source = write(tmp_path, "t,n,b\nx,1,True\n ?,NA,\nNA ,,False\nnull,-,True\n")
    columns = columns_of(source)
    assert [columns[name].num_missing for name in "tnb"] == [3, 3, 1]
    assert [columns[name].kind for name in "tnb"] == ["text", "numeric", "boolean"]


def test_parquet_texts_have_the_same_markers() -> None:
    values = pa.chunked_array([pa.array(["?", "a", "", None])])
    data = infer_arrow("c", values, missing=("?",))
    assert (data.column.num_missing, data.raw.values) == (3, ("a",))


def test_other_markers_than_those_named_are_values(tmp_path: Path) -> None:
    data = read_all(write(tmp_path, "c\n?\nx\ny\n"), wanted=ReadAs(missing=("x",)))["c"]
    assert (data.column.num_missing, data.raw.values) == (1, ("?", "y"))


# Dates


@pytest.mark.parametrize(
    "text", ["1969-12-31", "2024-02-29 23:59", "2024-02-29T23:59:58", "1582-10-15 00:00:01"]
)
def test_a_date_is_its_seconds_since_1970(text: str) -> None:
    assert parse_date(text) == np.datetime64(text, "s").astype(int)


@pytest.mark.parametrize("zone", ["Z", "+02:00", "-1130"])
def test_a_date_counts_as_its_clock_shows_it(zone: str) -> None:
    assert parse_date(f"2024-02-29T10:30:00.75{zone}") == parse_date("2024-02-29T10:30:00")


@pytest.mark.parametrize("text", ["2024-13-01", "2023-02-29", "24-01-01", "2024-01-01 x", "1/2/24"])
def test_what_is_no_iso_date_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"\d"):
        parse_date(text)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_parquet_times_are_whole_seconds_rounded_down(unit: str) -> None:
    stamps = pd.Series(["1960-01-01 00:00:00.75", "2024-05-05 12:34:56.999", None], dtype="M8[ns]")
    array = pa.chunked_array([pa.array(stamps).cast(pa.timestamp(unit), safe=False)])
    found = infer_arrow("t", array).numbers
    if unit == "s":
        array = pa.chunked_array([pa.array(stamps.dt.floor("s"))])
        found = infer_arrow("t", array).numbers
    expected = [seconds("1960-01-01"), seconds("2024-05-05 12:34:56"), np.nan]
    np.testing.assert_array_equal(found, expected)


def test_parquet_days_and_zones_count_as_their_clock_shows_them() -> None:
    days = pa.chunked_array([pa.array([datetime.date(2024, 1, 2), None])])
    np.testing.assert_array_equal(infer_arrow("d", days).numbers, [seconds("2024-01-02"), np.nan])
    stamp = pd.Series([pd.Timestamp("2024-07-01 09:00", tz="Europe/Berlin")])
    zoned = pa.chunked_array([pa.array(stamp)])
    np.testing.assert_array_equal(infer_arrow("z", zoned).numbers, [seconds("2024-07-01 09:00")])


# Kinds that a job names


def numbers(*values: float | None) -> ColumnData:
    return make_column("c", "numeric", np.array(values, dtype=float))


def texts(*values: str | None) -> ColumnData:
    return make_text_column("c", "text", Texts.of(values))


def rows_of(data: ColumnData) -> list[object]:
    if isinstance(data.raw, Texts):
        return [None if code < 0 else data.raw.values[code] for code in data.raw.codes]
    return [None if np.isnan(value) else float(value) for value in data.raw]


@pytest.mark.parametrize(
    ("data", "kind", "expected"),
    [
        (numbers(3, None, -1), "codes", ["3", None, "-1"]),
        (texts("03", None, "4"), "codes", ["3", None, "4"]),
        (
            texts("2.0", None, " -7. ", "9007199254740993"),
            "codes",
            ["2", None, "-7", str(2**53 + 1)],
        ),
        (numbers(3, 2.0**25), "codes", ["3", "33554432"]),
        (numbers(3, None, 2.5), "text", ["3", None, "2.5"]),
        (texts("3", None, "2.5e1"), "numeric", [3.0, None, 25.0]),
        (texts("yes", "N", None, " True"), "boolean", [1.0, 0.0, None, 1.0]),
        (numbers(1, 0, None), "boolean", [1.0, 0.0, None]),
        (texts("2024-01-02", None), "datetime", [seconds("2024-01-02"), None]),
        (numbers(None, None), "text", [None, None]),
        (numbers(None, None), "datetime", [None, None]),
        (make_column("c", "boolean", np.array([1.0, 0.0])), "numeric", [1.0, 0.0]),
    ],
)
def test_a_column_can_be_read_as_another_kind(
    data: ColumnData, kind: FeatureKind, expected: list[object]
) -> None:
    converted = as_kind(data, kind, source="s")
    assert converted.column.kind == kind
    assert rows_of(converted) == expected


@pytest.mark.parametrize(
    ("data", "kind", "example"),
    [
        (numbers(3, 2.5), "codes", "2.5"),
        (texts("3", "x"), "codes", "x"),
        (texts("3", "2.5"), "codes", "2.5"),
        (texts("3", "1_000"), "codes", "1_000"),
        (texts("3", "x"), "numeric", "x"),
        (texts("yes", "maybe"), "boolean", "maybe"),
        (numbers(1, 2), "boolean", "2"),
        (texts("2024-01-02", "1/2/24"), "datetime", "1/2/24"),
        (numbers(1, 2), "datetime", "1"),
    ],
)
def test_a_value_of_another_kind_is_shown(
    data: ColumnData, kind: FeatureKind, example: str
) -> None:
    with pytest.raises(DataError, match=rf"'c' must be {kind}, .* in s it holds '{example}'\."):
        as_kind(data, kind, source="s")
