"""Columns of plain numbers among others, read together, are what each is by itself."""

import pyarrow as pa
import pytest

from dnnjob.config.data_section import MISSING_MARKERS
from dnnjob.data.kinds import parse_written
from dnnjob.data.plain_numbers import find_plain
from dnnjob.data.text_format import Marks

COLUMNS = {
    "whole": ["1", "22", "-3"],
    "gaps": ["", " 4", "NA"],
    "points": ["1.5", "2", "1e3"],
    "point zero": ["1.0", "2.0", "3.0"],
    "zeros": ["10", "007", "08"],
    "huge": ["9223372036854775808", "1", "2"],
    "words later": ["1", "2", "three"],
    "words": ["one", "two", "three"],
    "hexadecimal": ["0x10", "0x11", "0x12"],
    "empty": ["", "", "NA"],
}


@pytest.mark.parametrize("num_chunks", [1, 2])
def test_columns_read_together_are_what_each_is_alone(num_chunks: int) -> None:
    columns = [
        pa.chunked_array([texts] if num_chunks == 1 else [texts[:1], texts[1:]])
        for texts in COLUMNS.values()
    ]

    found = dict(zip(COLUMNS, find_plain(columns, MISSING_MARKERS), strict=True))

    numbers = {name: one.numbers.to_pylist() for name, one in found.items() if one is not None}
    assert numbers == {
        "whole": [1.0, 22.0, -3.0],
        "gaps": [None, 4.0, None],
        "points": [1.5, 2.0, 1000.0],
        "point zero": [1.0, 2.0, 3.0],
        "zeros": [10.0, 7.0, 8.0],
        "huge": [2.0**63, 1.0, 2.0],
        "empty": [None, None, None],
    }
    wholes = {
        name: one.wholes.to_pylist()
        for name, one in found.items()
        if one and one.wholes is not None
    }
    assert wholes == {"whole": [1, 22, -3], "gaps": [None, 4, None], "zeros": [10, 7, 8]}
    assert {name: one.zeros for name, one in found.items() if one and one.zeros} == {"zeros": "007"}


@pytest.mark.parametrize("blank", ["\u00a0", "\u2003", "\t"])
def test_whole_numbers_keep_their_digits_behind_any_blank(blank: str) -> None:
    texts = [f"{blank}1582218195625938901", f"{blank}1582218195625938902"]

    (found,) = find_plain([pa.chunked_array([texts])], MISSING_MARKERS)

    assert found is not None
    assert found.wholes is not None
    assert found.wholes.to_pylist() == [1582218195625938901, 1582218195625938902]


def test_a_number_that_stands_for_a_gap_is_none() -> None:
    (found,) = find_plain([pa.chunked_array([["1", "-999"]])], ["-999"])

    assert found is not None
    assert found.numbers.to_pylist() == [1.0, None]


@pytest.mark.parametrize(
    ("text", "mark"), [("1 200.5", " "), ("1\u00a0200.5", " "), ("1'200.5", "'")]
)
def test_texts_of_parquet_may_part_thousands_with_blanks_and_apostrophes(
    text: str, mark: str
) -> None:
    assert parse_written(text, marks=Marks(".", mark), unit="") == 1200.5
