"""What is told of columns of text that a person means otherwise than they are read."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from dnnjob.config import DataConfig
from dnnjob.run import keep_doubts
from tests.data.test_text_types import READINGS, read, resolved, write


def told(folder: Path, values: Sequence[str], reading: str = "in memory") -> list[str]:
    """The warnings about a column `x` of a table of 80 rows."""
    columns = {"x": values, "z": ["1.5", "2.5", "4.5"], "y": [str(row) for row in range(80)]}
    data = DataConfig(source=write(folder / "t.csv", columns), target="y")
    return [one for one in read(data, reading, folder).warnings if "x " in one or ": x" in one]


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("values", [["(1,200)", "1,300", "7"], ["\u22125", "3", "4", "6"], ["(1)"]])
def test_negative_numbers_of_other_signs_are_told_once(
    tmp_path: Path, values: list[str], reading: str
) -> None:
    expected = [
        f"x is taken for text, such as {values[0]!r}. If these are negative numbers, write them "
        "with '-' before them in the file; data.columns.x.kind = \"text\" keeps them as they are."
    ]
    if len(values) == 1:
        # Of a constant column this is all there is to know.
        expected = ["constant features tell nothing: x."]
    assert told(tmp_path, values, reading) == expected


@pytest.mark.parametrize(
    "values",
    [["(see note)", "5"], ["(1)", "two"], ["\u2212five", "5", "6"], ["(1)", "2", "(12)", "3"]],
)
def test_texts_in_brackets_are_no_negative_numbers(tmp_path: Path, values: list[str]) -> None:
    assert not [one for one in told(tmp_path, values) if "negative" in one]


@pytest.mark.parametrize(
    ("values", "pattern"),
    [
        (["3:15 PM", "11:02 AM"], '"%I:%M %p"'),
        (["3:15:20 pm", "11:02:01 am"], '"%I:%M:%S %p"'),
        (["3:15PM", "11:02AM"], '"%I:%M%p"'),
    ],
)
def test_times_of_half_days_are_told_with_their_format(
    tmp_path: Path, values: list[str], pattern: str
) -> None:
    assert told(tmp_path, values) == [
        f"x is taken for text, such as {values[0]!r}. If these are dates, name {pattern} in "
        "data.date_format."
    ]


def test_a_constant_day_is_told_to_be_constant_alone(tmp_path: Path) -> None:
    assert told(tmp_path, ["20200101"]) == ["constant features tell nothing: x."]


@pytest.mark.parametrize("reading", READINGS)
def test_a_number_that_may_stand_for_a_gap_is_told_with_its_count(
    tmp_path: Path, reading: str
) -> None:
    assert told(tmp_path, ["-999", *"1234567"], reading) == [
        "x holds -999 in 10 of 80 rows, far outside its other values (1 to 7). If that stands for "
        "a gap, leave these cells empty in the file, or name it, as the file writes it, in "
        "data.missing (a list replaces ? NA N/A n/a #N/A NaN nan null NULL None - . there: name "
        "those in use as well)."
    ]


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("amounts", [["(5)", "1200", "3"], ["(5)", "3.5", "4"], ["(105)", "1"]])
def test_small_numbers_in_brackets_beside_amounts_are_told(
    tmp_path: Path, amounts: list[str], reading: str
) -> None:
    assert "If these are negative numbers" in told(tmp_path, amounts, reading)[0]


@pytest.mark.parametrize("half", ["38 1/2", "38\u00bd", "-1/4"])
def test_fractions_among_numbers_are_no_gaps(tmp_path: Path, half: str) -> None:
    assert told(tmp_path, [half, "38", "39", "40"]) == [
        f"x is taken for text, since 20 of 80 rows hold no number, such as {half!r}. If these are "
        "numbers, write them with a decimal mark in the file."
    ]


def test_the_cap_of_a_column_with_a_long_tail_is_no_gap(tmp_path: Path) -> None:
    """Most gain nothing, few much, and some more than is written down."""
    zeros, caps = ["0"] * 69, ["99999"] * 4
    gains = [*zeros, "114", "594", "2174", "3103", "5013", "7298", "14084", *caps]
    rain = [*zeros, "1", "2", "3", "5", "8", "13", "40", *caps]
    assert not told(tmp_path, gains)
    assert "far outside its other values (0 to 40)" in told(tmp_path, rain)[0]


@pytest.mark.parametrize(
    "values",
    [
        # Near the others, not nines, seldom, or most of all.
        ["99", "90", "50", "1"],
        ["-998", "1", "2", "3"],
        ["-999", *(str(row) for row in range(1, 40))],
        ["-999", "-999", "-999", "4"],
        ["9", "9", "1", "2"],
    ],
    ids=["near", "no nines", "seldom", "most", "one digit"],
)
def test_other_numbers_stand_for_themselves(tmp_path: Path, values: list[str]) -> None:
    assert not [one for one in told(tmp_path, values) if "far outside" in one]


def test_a_later_attempt_tells_what_the_first_doubted(tmp_path: Path) -> None:
    columns = {"x": ["20240131", "20201231"], "z": ["007", "12"], "y": ["1.5", "2"]}
    data = DataConfig(source=write(tmp_path / "t.csv", columns), target="y")
    first, kept = read(data, "in memory", tmp_path), tmp_path / "run" / "doubts.json"
    later = read(resolved(data, first), "in memory", tmp_path)
    days, zeros = (told for _, told in first.table.typed.doubts)
    assert [told for _, told in later.table.typed.doubts] == [zeros]

    warnings = [keep_doubts(one.table, kept).warnings for one in (first, later, later)]

    assert warnings[0] == first.table.warnings
    assert warnings[1] == warnings[2]
    assert [*warnings[1]].count(days) == [*warnings[1]].count(zeros) == 1
